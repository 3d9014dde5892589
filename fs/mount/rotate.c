/* rotate: see rotate.h. */
#include "mount/session.h"

#include "base/io.h"
#include "base/log.h"
#include "store/filehead.h"
#include "store/journal.h"
#include "store/recrypt.h"

#include <fcntl.h>
#include <string.h>

/* Beside other work re-encryption takes one part in so many of the time: after a step it rests for as many times as long. */
#define REST_SHARE 20u
#define REST_MAX_NS UINT64_C(1000000000)
#define REST_SLICE_NS UINT64_C(20000000)

/* Small files that go together in a step. */
struct batch {
	unsigned count;
	uint64_t blocks;
	struct inode *inodes[RECRYPT_FILES_MAX];
	struct recrypt_file files[RECRYPT_FILES_MAX];
	char *names[RECRYPT_FILES_MAX]; /* for messages */
};

void rotate_init(struct rotate *r, struct session *s)
{
	*r = (struct rotate){.session = s};
	pthread_mutex_init(&r->lock, NULL);
	walk_init(&r->walk);
}

void rotate_done(struct rotate *r)
{
	walk_done(&r->walk);
	pthread_mutex_destroy(&r->lock);
}

static bool rotate_under_way(struct volume *v)
{
	return volume_rotating(v) || volume_data_rotating(v);
}

static bool rotate_crashed(struct volume *v)
{
	return journal_pending(v) > 0 || volume_last_unclean(v) > 0;
}

/* ---- how far it is ---- */

/* What a file counts for in the data phase: holes take no time. */
static uint64_t rotate_weight(const struct stat *st)
{
	return MIN((uint64_t)st->st_size, (uint64_t)st->st_blocks * 512);
}

/* The passes after the first find little, and are short. */
static void rotate_passed(struct rotate *r, uint64_t amount)
{
	if (r->first_pass)
		atomic_fetch_add(&r->done, amount);
}

static void rotate_worked(struct rotate *r, uint64_t amount, uint64_t since_ns)
{
	atomic_fetch_add(&r->worked, amount);
	atomic_fetch_add(&r->work_ns, clock_monotonic_ns() - since_ns);
}

uint64_t rotate_left_ns(const struct rotate *r)
{
	uint64_t done = atomic_load(&r->done), total = atomic_load(&r->total);
	bool data = atomic_load(&r->phase) == ROTATE_DATA;
	uint64_t worked = data ? atomic_load(&r->worked) : done;
	uint64_t ns = data ? atomic_load(&r->work_ns) : clock_monotonic_ns() - atomic_load(&r->begun_ns);

	return worked && total > done && atomic_load(&r->running) ? (uint64_t)((double)(total - done) / (double)worked * (double)ns) : 0;
}

/* ---- one object ---- */

/* The first sector of a file, as it lies there; no magic where it holds nothing. */
static int rotate_peek(int fd, const struct stat *st, uint8_t ret[SECTOR_SIZE])
{
	memset(ret, 0, SECTOR_SIZE);
	if (st->st_size == 0)
		return 0;
	int rc = io_pread_full(fd, ret, SECTOR_SIZE, 0, NULL);
	if (rc != -EBADF)
		return rc;
	CLEANUP_CLOSE int copy = io_reopen(fd, O_RDONLY); /* it is O_PATH */
	return copy < 0 ? copy : io_pread_full(copy, ret, SECTOR_SIZE, 0, NULL);
}

static int rotate_inode(struct rotate *r, int fd, const struct stat *st, struct inode **ret)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	return copy < 0 ? -errno : inode_get(&r->session->inodes, copy, st, ret);
}

/* 1 when it was moved to the environment's key. */
static int rotate_key_of(struct rotate *r, int fd, const struct stat *st)
{
	struct inode_table *inodes = &r->session->inodes;
	uint8_t sector[SECTOR_SIZE];
	struct inode *i;
	int rc = rotate_peek(fd, st, sector);

	if (rc < 0 || st->st_size == 0 || filehead_says(sector).ek_version == volume_key_version(r->session->v))
		return rc;
	rc = rotate_inode(r, fd, st, &i);
	if (rc < 0)
		return rc;
	rc = inode_rotate(inodes, i, fd);
	inode_put(inodes, i, 1);
	return rc;
}

static int rotate_open(struct rotate *r, int fd, const struct stat *st, struct inode **ret, struct content **ret_content)
{
	struct inode_table *inodes = &r->session->inodes;
	int rc = rotate_inode(r, fd, st, ret);

	if (rc < 0)
		return rc;
	rc = inode_open(inodes, *ret, ret_content);
	if (rc < 0)
		inode_put(inodes, *ret, 1);
	return rc;
}

static void rotate_close(struct rotate *r, struct inode *i)
{
	inode_release(i);
	inode_put(&r->session->inodes, i, 1);
}

/* Opening a file applies what the journal has for it, and seals what is in flux. */
static int rotate_recover(struct rotate *r, int fd, const struct stat *st)
{
	struct content *c;
	struct inode *i;
	int rc = rotate_open(r, fd, st, &i, &c);

	if (rc == 0)
		rotate_close(r, i);
	return rc;
}

/* Whether its content was encrypted before this rotation. */
static int rotate_is_old(struct rotate *r, int fd, const struct stat *st)
{
	struct filehead_says says;
	uint8_t sector[SECTOR_SIZE];
	int rc = rotate_peek(fd, st, sector);

	if (rc < 0 || st->st_size == 0)
		return rc;
	says = filehead_says(sector);
	return says.two_keys || says.data_version != volume_data_version(r->session->v);
}

/* ---- what moves ---- */

void rotate_move_begin(struct rotate *r)
{
	pthread_rwlock_rdlock(&r->walk.moves);
}

void rotate_move_end(struct rotate *r)
{
	pthread_rwlock_unlock(&r->walk.moves);
}

bool rotate_wants_moves(const struct rotate *r)
{
	return atomic_load(&r->running);
}

/* Who moves it is not to suffer: the pass fails instead. */
static int rotate_recover_moving(struct rotate *r, int fd, const struct stat *st)
{
	int rc = rotate_recover(r, fd, st);

	if (rc < 0 && rc != -EBADMSG)
		atomic_store(&r->error, rc);
	return 0;
}

int rotate_before_move(struct rotate *r, int fd, const struct stat *st)
{
	int rc = 0, phase = atomic_load(&r->phase);

	if (S_ISDIR(st->st_mode))
		rc = walk_keep(&r->walk, fd, st->st_ino);
	else if (!S_ISREG(st->st_mode))
		return 0;
	else if (phase == ROTATE_RECOVER)
		return rotate_recover_moving(r, fd, st);
	else if (phase == ROTATE_KEY)
		rc = rotate_key_of(r, fd, st);
	else if (phase == ROTATE_DATA && (rc = rotate_is_old(r, fd, st)) > 0)
		rc = walk_keep(&r->walk, fd, st->st_ino);
	/* What verifies with neither key loses nothing. */
	return rc < 0 && rc != -EBADMSG ? rc : 0;
}

/* ---- rest ---- */

static void rotate_sleep(struct rotate *r, uint64_t ns)
{
	while (ns > 0 && !atomic_load(&r->stop)) {
		uint64_t slice = MIN(ns, REST_SLICE_NS);

		nanosleep(&(struct timespec){0, (long)slice}, NULL);
		ns -= slice;
	}
}

/* After a step that took so long: others first, then the limit that was set. */
static void rotate_rest(struct rotate *r, uint64_t took_ns)
{
	uint64_t requests = atomic_load(&r->session->requests), max_rate = r->session->options.rotate_max_rate;
	bool busy = requests != r->requests;

	if (busy)
		rotate_sleep(r, MIN((REST_SHARE - 1) * took_ns, REST_MAX_NS));
	r->requests = atomic_load(&r->session->requests);
	if (max_rate) {
		double due = (double)atomic_load(&r->encrypted) / (double)max_rate * 1e9;
		double spent = (double)(clock_monotonic_ns() - atomic_load(&r->begun_ns));

		if (due > spent)
			rotate_sleep(r, (uint64_t)(due - spent));
	}
}

/* ---- content ---- */

static void rotate_refused(struct rotate *r, const char *plain, int rc)
{
	atomic_fetch_add(&r->left, 1);
	log_warn("%s: rotation: %s %s and keeps its key", r->session->name, plain ? plain : "a file",
		rc == -EBADMSG ? "does not verify" : strerror(-rc));
}

/* One step for files[0..n]; results are theirs. */
static int rotate_step(struct rotate *r, struct recrypt_file *files, unsigned n, uint64_t *ret_bytes)
{
	uint64_t begun = clock_monotonic_ns();
	int rc = atomic_load(&r->stop) ? -ECANCELED : recrypt_step(r->recrypt, files, n, ret_bytes);

	if (rc < 0)
		return rc;
	atomic_fetch_add(&r->encrypted, *ret_bytes);
	if (recrypt_held_ns(r->recrypt) > atomic_load(&r->held_ns))
		atomic_store(&r->held_ns, recrypt_held_ns(r->recrypt));
	rotate_rest(r, clock_monotonic_ns() - begun);
	return 0;
}

static int batch_flush(struct rotate *r)
{
	struct batch *b = r->batch;
	uint64_t bytes = 0;
	int rc = b->count ? rotate_step(r, b->files, b->count, &bytes) : 0;

	for (unsigned k = 0; k < b->count; k++) {
		int one = b->files[k].result;

		if (rc == 0 && one < 0 && one != -EBADMSG)
			rc = one;
		else if (rc == 0 && one < 0)
			rotate_refused(r, b->names[k], one);
		else if (rc == 0 && one > 0)
			atomic_fetch_add(&r->files, 1);
		/* Also what has more to be done: it grew since it was found to be small. */
		r->found += rc == 0 && one >= 0;
		inode_touch(b->inodes[k]);
		rotate_close(r, b->inodes[k]);
		free(b->names[k]);
	}
	b->count = 0;
	b->blocks = 0;
	return rc;
}

static int rotate_large(struct rotate *r, struct inode *i, struct content *c, const struct walk_at *at, uint64_t weight)
{
	struct recrypt_file file = {.content = c};
	uint64_t before = atomic_load(&r->done), behind = recrypt_bytes_behind(c);
	struct stat st;
	int rc = 0;

	rotate_passed(r, MIN(behind, weight));
	while (rc == 0 && file.result == 0) {
		uint64_t begun = clock_monotonic_ns(), bytes = 0;

		/* What loses its name meanwhile needs no new key. */
		if (io_fstatat(i->fd, "", &st, AT_EMPTY_PATH) == 0 && st.st_nlink == 0)
			break;
		rc = rotate_step(r, &file, 1, &bytes);
		inode_touch(i);
		rotate_worked(r, bytes, begun);
		behind += bytes;
		if (r->first_pass)
			atomic_store(&r->done, before + MIN(behind, weight));
	}
	if (rc < 0)
		return rc;
	if (file.result < 0 && file.result != -EBADMSG)
		return file.result;
	if (file.result < 0) {
		CLEANUP_FREE char *plain = walk_path(r->session->v, at);

		rotate_refused(r, plain, file.result);
	} else if (file.result > 0) {
		atomic_fetch_add(&r->files, 1);
	}
	r->found += file.result > 0;
	if (r->first_pass)
		atomic_store(&r->done, before + weight);
	return 0;
}

/* Takes i over. */
static int rotate_small(struct rotate *r, struct inode *i, struct content *c, const struct walk_at *at, uint64_t blocks)
{
	struct batch *b = r->batch;
	int rc = 0;

	if (b->count >= recrypt_files(r->recrypt) || b->blocks + blocks > recrypt_room(r->recrypt))
		rc = batch_flush(r);
	b->inodes[b->count] = i;
	b->names[b->count] = walk_path(r->session->v, at);
	b->files[b->count++] = (struct recrypt_file){.content = c};
	b->blocks += blocks;
	return rc;
}

/* Of a file whose content was encrypted before. */
static int rotate_old(struct rotate *r, int fd, const struct stat *st, const struct walk_at *at)
{
	struct batch *b = r->batch;
	struct content *c;
	struct inode *i;
	uint64_t begun = clock_monotonic_ns(), weight = rotate_weight(st);
	int rc = rotate_open(r, fd, st, &i, &c);

	if (rc == -EBADMSG) {
		CLEANUP_FREE char *plain = walk_path(r->session->v, at);

		rotate_refused(r, plain, rc);
		rotate_passed(r, weight);
		return 0;
	}
	if (rc < 0)
		return rc;
	/* By another name it is there already. */
	for (unsigned k = 0; k < b->count; k++)
		if (b->inodes[k] == i) {
			rotate_close(r, i);
			rotate_passed(r, weight);
			return 0;
		}
	uint64_t left = recrypt_blocks_left(c);
	if (left > RECRYPT_SMALL) {
		rc = batch_flush(r);
		if (rc == 0)
			rc = rotate_large(r, i, c, at, weight);
		rotate_close(r, i);
		return rc;
	}
	rc = rotate_small(r, i, c, at, left);
	rotate_passed(r, weight);
	rotate_worked(r, weight, begun);
	return rc;
}

static int visit_data(void *ctx, int fd, const struct stat *st, const struct walk_at *at)
{
	struct rotate *r = ctx;

	if (atomic_load(&r->stop))
		return -ECANCELED;
	int rc = rotate_is_old(r, fd, st);
	if (rc == 0)
		rotate_passed(r, rotate_weight(st));
	return rc > 0 ? rotate_old(r, fd, st, at) : rc;
}

static int visit_count(void *ctx, int fd, const struct stat *st, const struct walk_at *at)
{
	struct rotate *r = ctx;

	(void)fd;
	(void)at;
	atomic_fetch_add(&r->total, r->weighs ? rotate_weight(st) : 1);
	return atomic_load(&r->stop) ? -ECANCELED : 0;
}

static int visit_key(void *ctx, int fd, const struct stat *st, const struct walk_at *at)
{
	struct rotate *r = ctx;
	int rc = atomic_load(&r->stop) ? -ECANCELED : rotate_key_of(r, fd, st);

	rotate_passed(r, 1);
	if (rc == -EBADMSG) {
		CLEANUP_FREE char *plain = walk_path(r->session->v, at);

		log_warn("%s: rotation: %s does not verify and is left as it is", r->session->name, plain ? plain : "a file");
		return 0;
	}
	if (rc > 0) {
		r->found++;
		atomic_fetch_add(&r->files, 1);
	}
	return MIN(rc, 0);
}

static int visit_recover(void *ctx, int fd, const struct stat *st, const struct walk_at *at)
{
	struct rotate *r = ctx;
	uint64_t begun = clock_monotonic_ns();
	int rc = atomic_load(&r->stop) ? -ECANCELED : rotate_recover(r, fd, st);

	(void)at;
	rotate_rest(r, clock_monotonic_ns() - begun);
	rotate_passed(r, 1);
	/* What is refused is so whatever is in flux. */
	return rc == -EBADMSG ? 0 : rc;
}

static void rotate_unreadable(void *ctx, const struct walk_at *at, int error)
{
	struct rotate *r = ctx;

	if (atomic_load(&r->phase) == ROTATE_COUNT)
		return; /* said when it is to be gone through */
	CLEANUP_FREE char *plain = walk_path(r->session->v, at);
	/* What lies below cannot be seen: the old key must not go, nor what excuses a crash. */
	atomic_store(&r->error, error);
	log_warn("%s: %s: %s (%s below): %s", r->session->name,
		atomic_load(&r->phase) == ROTATE_RECOVER ? "after an unclean end" : "rotation", plain ? plain : "", at->lower,
		error == -EBADMSG ? "the directory's id is lost" : strerror(-error));
}

/* ---- the thread ---- */

static int rotate_pass(struct rotate *r, enum rotate_phase phase, int (*visit)(void *, int, const struct stat *, const struct walk_at *))
{
	struct walk_visitor visitor = {.wants = phase != ROTATE_COUNT ? WALK_FILES : r->weighs ? WALK_SIZES : WALK_NAMES, .file = visit,
		.unreadable = rotate_unreadable, .ctx = r};

	atomic_store(&r->phase, phase);
	atomic_store(&r->left, 0);
	r->found = 0;
	int rc = walk_pass(&r->walk, r->session->v, &visitor);
	r->first_pass = false;
	return rc < 0 ? rc : atomic_load(&r->error);
}

/* How much the phase that begins has to go through, in bytes or files. */
static int rotate_count(struct rotate *r, bool weighs)
{
	r->weighs = weighs;
	atomic_store(&r->done, 0);
	atomic_store(&r->total, 0);
	atomic_store(&r->worked, 0);
	atomic_store(&r->work_ns, 0);
	int rc = rotate_pass(r, ROTATE_COUNT, visit_count);
	r->first_pass = true;
	atomic_store(&r->begun_ns, clock_monotonic_ns());
	return rc;
}

/* R2: open, and without a name. */
static void rotate_nameless(void *ctx, struct inode *i)
{
	struct rotate *r = ctx;
	struct stat st;

	if (!S_ISREG(i->type) || io_fstatat(i->fd, "", &st, AT_EMPTY_PATH) < 0 || st.st_nlink > 0)
		return;
	int rc = rotate_key_of(r, i->fd, &st);
	if (rc < 0 && rc != -EBADMSG)
		atomic_store(&r->error, rc);
}

static int rotate_key(struct rotate *r)
{
	int rc = rotate_count(r, false);

	do
		rc = rc < 0 ? rc : rotate_pass(r, ROTATE_KEY, visit_key);
	while (rc == 0 && r->found > 0);
	if (rc == 0) {
		inode_each(&r->session->inodes, rotate_nameless, r);
		rc = atomic_load(&r->error);
	}
	if (rc == 0)
		rc = volume_rotate_end(r->session->v);
	if (rc == 0)
		log_info("%s: the environment key is version %u; %llu files were moved to it", r->session->name, volume_key_version(r->session->v),
			(unsigned long long)atomic_load(&r->files));
	return rc;
}

static int rotate_data(struct rotate *r)
{
	struct batch batch = {0};
	int rc = rotate_count(r, true);

	if (rc == 0)
		rc = recrypt_new(r->session->v, &r->recrypt);
	r->batch = &batch;
	atomic_store(&r->files, 0);
	do {
		if (rc == 0)
			rc = rotate_pass(r, ROTATE_DATA, visit_data);
		int flushed = batch_flush(r);
		rc = rc < 0 ? rc : flushed;
	} while (rc == 0 && r->found > 0);
	recrypt_free(r->recrypt);
	r->recrypt = NULL;
	r->batch = NULL;
	if (rc == 0 && atomic_load(&r->left) > 0)
		rc = -EBADMSG;
	if (rc == 0)
		rc = volume_data_end(r->session->v);
	if (rc == 0)
		log_info("%s: all content is under new keys; %llu files were encrypted again", r->session->name,
			(unsigned long long)atomic_load(&r->files));
	return rc;
}

/* R4. */
static int rotate_after_crash(struct rotate *r)
{
	struct volume *v = r->session->v;
	int rc = rotate_count(r, false);

	if (rc == 0)
		rc = rotate_pass(r, ROTATE_RECOVER, visit_recover);

	if (rc == 0)
		rc = journal_drop_pending(v);
	if (rc == 0 && volume_last_unclean(v))
		rc = volume_forget_unclean(v);
	if (rc == 0)
		log_info("%s: everything was looked at after the unclean end: nothing is in flux", r->session->name);
	else if (rc != -ECANCELED)
		log_warn("%s: not everything could be looked at after the unclean end (%s): what is in flux is accepted until tdefs-fsck "
			 "--repair, or the next mount, can", r->session->name, strerror(-rc));
	return rc;
}

static int rotate_work(struct rotate *r)
{
	struct volume *v = r->session->v;

	atomic_store(&r->files, 0);
	atomic_store(&r->encrypted, 0);
	atomic_store(&r->held_ns, 0);
	atomic_store(&r->error, 0);
	int rc = rotate_crashed(v) ? rotate_after_crash(r) : 0;
	if (!rotate_under_way(v) || volume_paused(v))
		return 0;
	if (rc == 0 && volume_rotating(v))
		rc = rotate_key(r);
	if (rc == 0 && volume_data_rotating(v))
		rc = rotate_data(r);
	if (rc < 0 && rc != -ECANCELED)
		log_error("%s: the rotation waits: %s", r->session->name, strerror(-rc));
	return rc;
}

static void *rotate_run(void *arg)
{
	struct rotate *r = arg;
	bool more;

	do {
		int rc = rotate_work(r);

		atomic_store(&r->error, rc == -ECANCELED ? 0 : rc);
		atomic_store(&r->phase, ROTATE_NONE);
		pthread_mutex_lock(&r->lock);
		more = r->again && !atomic_load(&r->stop);
		r->again = false;
		atomic_store(&r->running, more);
		pthread_mutex_unlock(&r->lock);
	} while (more);
	return NULL;
}

void rotate_end(struct rotate *r)
{
	atomic_store(&r->stop, true);
	if (r->started)
		pthread_join(r->thread, NULL);
	r->started = false;
	atomic_store(&r->stop, false);
}

void rotate_continue(struct rotate *r)
{
	struct volume *v = r->session->v;

	if (!rotate_crashed(v) && (!rotate_under_way(v) || volume_paused(v)))
		return;
	pthread_mutex_lock(&r->lock);
	bool running = r->again = atomic_load(&r->running);
	pthread_mutex_unlock(&r->lock);
	if (running)
		return;
	rotate_end(r);
	atomic_store(&r->running, true);
	r->started = pthread_create(&r->thread, NULL, rotate_run, r) == 0;
	if (!r->started)
		atomic_store(&r->running, false);
}

int rotate_pause(struct rotate *r, bool paused)
{
	int rc = rotate_under_way(r->session->v) ? volume_rotate_pause(r->session->v, paused) : -ENOENT;

	if (rc == 0 && paused)
		rotate_end(r);
	if (rc == 0)
		rotate_continue(r);
	return rc;
}
