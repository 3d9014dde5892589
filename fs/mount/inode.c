/* inode: see inode.h. */
#include "mount/inode.h"

#include "base/io.h"

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

#define BUCKETS_MIN 1024u
/* Some 6 KiB each. */
#define CONTENTS_MAX 4096u

static size_t inode_bucket(const struct inode_table *t, uint64_t ino)
{
	return (size_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (t->bucket_count - 1);
}

static void inode_restore_mtime_locked(struct inode *i)
{
	if (i->has_mtime && atomic_exchange(&i->touched, false))
		(void)!io_utimensat(i->fd, "", (struct timespec[2]){{0, UTIME_OMIT}, i->mtime}, AT_EMPTY_PATH);
}

static void inode_free(struct inode *i)
{
	inode_restore_mtime_locked(i);
	content_close(i->content);
	util_closep(&i->fd);
	pthread_mutex_destroy(&i->lock);
	free(i);
}

int inode_table_init(struct inode_table *t, struct volume *v)
{
	struct rlimit files;
	struct stat st;

	*t = (struct inode_table){.name_changes = 1, .v = v, .bucket_count = BUCKETS_MIN};
	t->crowd = SIZE_MAX;
	t->contents_max = getrlimit(RLIMIT_NOFILE, &files) == 0 ? (unsigned)MIN(files.rlim_cur / 8, CONTENTS_MAX) : CONTENTS_MAX;
	pthread_mutex_init(&t->lock, NULL);
	pthread_mutex_init(&t->seal_lock, NULL);
	pthread_cond_init(&t->crowded, NULL);
	t->buckets = calloc(t->bucket_count, sizeof(*t->buckets));
	if (!t->buckets)
		return -ENOMEM;
	CLEANUP_CLOSE int fd = io_openat(v->root_fd, ".", O_PATH | O_DIRECTORY, 0);
	int rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	return rc < 0 ? rc : inode_get(t, TAKE_FD(fd), &st, &t->root);
}

void inode_table_done(struct inode_table *t)
{
	for (size_t b = 0; t->buckets && b < t->bucket_count; b++)
		while (t->buckets[b]) {
			struct inode *i = t->buckets[b];

			t->buckets[b] = i->next;
			inode_free(i);
		}
	free(t->buckets);
	t->buckets = NULL;
	pthread_cond_destroy(&t->crowded);
	pthread_mutex_destroy(&t->lock);
	pthread_mutex_destroy(&t->seal_lock);
}

static void table_grow_locked(struct inode_table *t)
{
	size_t old = t->bucket_count;
	struct inode **buckets = calloc(old * 4, sizeof(*buckets)), **from = t->buckets;

	if (!buckets)
		return; /* longer chains, nothing worse */
	t->buckets = buckets;
	t->bucket_count = old * 4;
	for (size_t b = 0; b < old; b++)
		while (from[b]) {
			struct inode *i = from[b];

			from[b] = i->next;
			size_t to = inode_bucket(t, i->ino);
			i->next = buckets[to];
			buckets[to] = i;
		}
	free(from);
}

/* Whoever adds inodes faster than the kernel forgets them waits a little: relief.c needs time, descriptors end where they end. */
static void inode_slow_down(size_t count, size_t crowd)
{
	if (count / 5 * 4 > crowd)
		nanosleep(&(struct timespec){0, count / 7 * 5 > crowd ? 20000000 : 1000000}, NULL);
}

int inode_get(struct inode_table *t, int fd_arg, const struct stat *st, struct inode **ret)
{
	CLEANUP_CLOSE int fd = fd_arg;
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	size_t b = inode_bucket(t, st->st_ino);
	struct inode *i = t->buckets[b];
	while (i && i->ino != st->st_ino)
		i = i->next;
	if (i) {
		i->refs++;
	} else if ((i = calloc(1, sizeof(*i)))) {
		*i = (struct inode){.next = t->buckets[b], .refs = 1, .ino = st->st_ino, .fd = TAKE_FD(fd),
			.type = st->st_mode & S_IFMT, .default_acl = -1};
		pthread_mutex_init(&i->lock, NULL);
		t->buckets[b] = i;
		if (++t->count > 2 * t->bucket_count)
			table_grow_locked(t);
		if (t->count > t->crowd)
			pthread_cond_signal(&t->crowded);
	} else {
		rc = -ENOMEM;
	}
	size_t count = t->count, crowd = t->crowd;
	pthread_mutex_unlock(&t->lock);
	if (rc == 0)
		*ret = i;
	inode_slow_down(count, crowd);
	return rc;
}

/* ---- contents ----
 *
 * Requests take no lock where there is a content: they count themselves in and then look. Who closes takes the pointer away and
 * then looks at the count, so one of the two sees the other. */

struct content *inode_hold(struct inode *i)
{
	atomic_fetch_add(&i->users, 1);
	struct content *c = atomic_load(&i->content);

	if (!c)
		atomic_fetch_sub(&i->users, 1);
	return c;
}

void inode_release(struct inode *i)
{
	if (!atomic_load_explicit(&i->used, memory_order_relaxed))
		atomic_store_explicit(&i->used, true, memory_order_relaxed);
	atomic_fetch_sub(&i->users, 1);
}

/* Unless somebody uses it. */
static bool inode_close_content_locked(struct inode_table *t, struct inode *i)
{
	struct content *c = atomic_exchange(&i->content, NULL);

	if (!c)
		return true;
	if (atomic_load(&i->users) > 0) {
		atomic_store(&i->content, c);
		return false;
	}
	inode_restore_mtime_locked(i);
	content_close(c);
	atomic_fetch_sub(&t->contents, 1);
	return true;
}

/* Closes one that is sealed. One without a name is left, for nobody could write its state (content_close). */
static void inode_close_sealed(struct inode_table *t, struct inode *i)
{
	pthread_mutex_lock(&i->lock);
	struct content *c = i->content;
	if (c && !content_is_changed(c) && content_has_name(c))
		(void)inode_close_content_locked(t, i);
	pthread_mutex_unlock(&i->lock);
}

void inode_put(struct inode_table *t, struct inode *i, uint64_t refs)
{
	pthread_mutex_lock(&t->lock);
	i->refs -= MIN(refs, i->refs);
	/* While its content closes a lookup finds the object still: there must never be two contents of one file. */
	while (i->refs == 0 && i->content) {
		i->refs = 1;
		pthread_mutex_unlock(&t->lock);
		pthread_mutex_lock(&i->lock);
		(void)inode_close_content_locked(t, i);
		pthread_mutex_unlock(&i->lock);
		pthread_mutex_lock(&t->lock);
		i->refs--;
	}
	bool last = i->refs == 0;
	if (last) {
		struct inode **p = &t->buckets[inode_bucket(t, i->ino)];

		while (*p != i)
			p = &(*p)->next;
		*p = i->next;
		t->count--;
	}
	pthread_mutex_unlock(&t->lock);
	if (last)
		inode_free(i);
}

int inode_dir_id(struct inode_table *t, struct inode *i, struct dir_id *ret)
{
	int rc = 0;

	if (!S_ISDIR(i->type))
		return -ENOTDIR;
	pthread_mutex_lock(&i->lock);
	if (!i->has_id) {
		rc = dir_id_load(t->v, i->fd, &i->id);
		i->has_id = rc == 0;
	}
	*ret = i->id;
	pthread_mutex_unlock(&i->lock);
	return rc;
}

static int inode_try_open(struct inode_table *t, struct inode *i, int fd_arg, struct content **ret)
{
	CLEANUP_CLOSE int fd = fd_arg;
	struct content *c = NULL;
	int rc = 0;

	pthread_mutex_lock(&i->lock);
	*ret = inode_hold(i);
	if (!*ret) {
		if (fd < 0)
			fd = io_reopen(i->fd, t->v->options.read_only ? O_RDONLY : O_RDWR);
		rc = fd < 0 ? fd : content_open(t->v, TAKE_FD(fd), &c);
	}
	if (c) {
		atomic_fetch_add(&t->contents, 1);
		atomic_store(&i->content, c);
		*ret = inode_hold(i);
	}
	pthread_mutex_unlock(&i->lock);
	return rc;
}

void inode_made(struct inode *i, struct inode *dir)
{
	pthread_mutex_lock(&dir->lock);
	bool bare = dir->default_acl == 0;
	pthread_mutex_unlock(&dir->lock);
	pthread_mutex_lock(&i->lock);
	i->bare = bare;
	pthread_mutex_unlock(&i->lock);
}

void inode_mtime(struct inode *i, struct timespec *mtime)
{
	struct stat st;

	pthread_mutex_lock(&i->lock);
	/* Who recovers, rotates or seals the file moves it below for a moment, under the lock. */
	if (!i->has_mtime)
		i->mtime = io_fstatat(i->fd, "", &st, AT_EMPTY_PATH) == 0 ? st.st_mtim : *mtime;
	i->has_mtime = true;
	*mtime = i->mtime;
	pthread_mutex_unlock(&i->lock);
}

int inode_set_times(struct inode *i, const struct timespec ts[2])
{
	bool mtime = S_ISREG(i->type) && ts[1].tv_nsec != UTIME_OMIT;

	pthread_mutex_lock(&i->lock);
	/* First: a write that comes between has it put back. */
	if (mtime)
		atomic_store(&i->touched, false);
	int rc = io_utimensat(i->fd, "", ts, AT_EMPTY_PATH);
	if (rc == 0 && mtime) {
		i->mtime = ts[1];
		i->has_mtime = true;
		i->mtime_told_ns = clock_monotonic_ns();
	} else if (mtime) {
		inode_touch(i);
	}
	pthread_mutex_unlock(&i->lock);
	return rc;
}

void inode_touch(struct inode *i)
{
	atomic_store_explicit(&i->touched, true, memory_order_relaxed);
}

/* More than a tick of the kernel's clock: then what it said does not change with every write. */
#define MTIME_LATELY_NS UINT64_C(20000000)

void inode_changed(struct inode_table *t, struct inode *i)
{
	atomic_fetch_add(i ? &i->changes : &t->name_changes, 1);
}

int inode_sync(struct inode_table *t, struct inode *i, struct content *c, bool data_only)
{
	uint64_t changes = atomic_load(&i->changes), names = atomic_load(&t->name_changes);

	pthread_mutex_lock(&i->lock);
	bool whole = !data_only && (i->synced != changes || i->synced_names != names);
	/* What moved by the kernel's clock it has said before. To put back less than a tick, each time, would cost as much as the write. */
	if (whole || clock_monotonic_ns() - i->mtime_told_ns > MTIME_LATELY_NS)
		inode_restore_mtime_locked(i);
	pthread_mutex_unlock(&i->lock);
	int rc = content_sync(c, !whole);
	if (rc < 0 || !whole)
		return rc;
	pthread_mutex_lock(&i->lock);
	i->synced = changes;
	i->synced_names = names;
	pthread_mutex_unlock(&i->lock);
	return 0;
}

/* Of a file whose content nobody has. */
static int inode_rotate_file(struct inode_table *t, const struct inode *i, int fd)
{
	struct content *c = NULL;
	int rc = content_rotate_file(t->v, fd);

	if (rc != -EBADF && rc != -EUCLEAN)
		return rc;
	CLEANUP_CLOSE int own = io_reopen(i->fd, O_RDWR);
	if (own < 0)
		return own;
	if (rc == -EBADF)
		rc = content_rotate_file(t->v, own);
	if (rc != -EUCLEAN)
		return rc;
	rc = content_open(t->v, TAKE_FD(own), &c);
	if (rc == 0)
		rc = content_rotate(c);
	content_close(c);
	return rc;
}

int inode_rotate(struct inode_table *t, struct inode *i, int fd)
{
	pthread_mutex_lock(&i->lock);
	int rc = i->content ? content_rotate(i->content) : inode_rotate_file(t, i, fd);
	/* The sector's write keeps mtime, but not one that was set meanwhile. */
	inode_touch(i);
	inode_restore_mtime_locked(i);
	pthread_mutex_unlock(&i->lock);
	return rc;
}

/* The inodes there are, each with a reference of ours. */
static struct inode **inode_collect(struct inode_table *t, size_t *ret_n)
{
	pthread_mutex_lock(&t->lock);
	struct inode **list = calloc(t->count + 1, sizeof(*list));
	size_t n = 0;
	for (size_t b = 0; list && b < t->bucket_count; b++)
		for (struct inode *i = t->buckets[b]; i; i = i->next) {
			i->refs++;
			list[n++] = i;
		}
	pthread_mutex_unlock(&t->lock);
	*ret_n = n;
	return list;
}

void inode_each(struct inode_table *t, void (*fn)(void *ctx, struct inode *i), void *ctx)
{
	size_t n;
	CLEANUP_FREE struct inode **list = inode_collect(t, &n);

	for (size_t k = 0; k < n; k++) {
		fn(ctx, list[k]);
		inode_put(t, list[k], 1);
	}
}

#define SYNC_ONE_BY_ONE 4u /* more files than this are synced by one syncfs */

static void inode_seal_all_locked(struct inode_table *t, bool close_all)
{
	size_t n, wanted = 0;
	CLEANUP_FREE struct inode **list = inode_collect(t, &n);
	CLEANUP_FREE bool *begun = calloc(n + 1, sizeof(*begun));
	int synced = 0;

	for (size_t k = 0; begun && k < n; k++) {
		struct content *c = inode_hold(list[k]);

		if (!c)
			continue;
		begun[k] = content_seal_begin(c);
		wanted += begun[k];
		if (begun[k])
			continue; /* held until it is sealed */
		atomic_fetch_sub(&list[k]->users, 1);
		if (!atomic_exchange(&list[k]->used, false) || close_all)
			inode_close_sealed(t, list[k]);
	}
	if (wanted > SYNC_ONE_BY_ONE)
		synced = volume_synced(t->v, io_syncfs(t->v->fd));
	for (size_t k = 0; k < n; k++) {
		struct inode *i = list[k];

		if (begun && begun[k]) {
			struct content *c = i->content;
			int rc = wanted > SYNC_ONE_BY_ONE ? synced : content_sync(c, true);

			pthread_mutex_lock(&i->lock);
			content_seal_finish(c, rc);
			/* The slot's write keeps mtime, but not one that was set meanwhile. */
			inode_touch(i);
			inode_restore_mtime_locked(i);
			pthread_mutex_unlock(&i->lock);
			atomic_fetch_sub(&i->users, 1);
			if (close_all)
				inode_close_sealed(t, i);
		}
		inode_put(t, i, 1);
	}
}

/* One at a time: a seal that is begun is ended with its own sync's result, not with another's. */
void inode_seal_all(struct inode_table *t)
{
	pthread_mutex_lock(&t->seal_lock);
	inode_seal_all_locked(t, false);
	pthread_mutex_unlock(&t->seal_lock);
}

/* Makes room for another content. Whoever comes first does it; the others wait only when they get far ahead, or must. */
static void inode_make_room(struct inode_table *t, bool must)
{
	if (pthread_mutex_trylock(&t->seal_lock) != 0) {
		if (!must && atomic_load(&t->contents) <= 2 * t->contents_max)
			return;
		pthread_mutex_lock(&t->seal_lock);
	}
	if (must || atomic_load(&t->contents) >= t->contents_max)
		inode_seal_all_locked(t, true);
	pthread_mutex_unlock(&t->seal_lock);
}

int inode_open_with(struct inode_table *t, struct inode *i, int fd, struct content **ret)
{
	if (atomic_load_explicit(&t->contents, memory_order_relaxed) >= t->contents_max)
		inode_make_room(t, false);
	int rc = inode_try_open(t, i, fd, ret);
	/* Descriptors or key memory are used up. */
	if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM) {
		inode_make_room(t, true);
		rc = inode_try_open(t, i, -1, ret);
	}
	return rc;
}

int inode_open(struct inode_table *t, struct inode *i, struct content **ret)
{
	*ret = inode_hold(i);
	return *ret ? 0 : inode_open_with(t, i, -1, ret);
}

bool inode_await_crowd(struct inode_table *t, size_t crowd)
{
	pthread_mutex_lock(&t->lock);
	t->crowd = crowd;
	while (!t->ending && t->count <= crowd)
		pthread_cond_wait(&t->crowded, &t->lock);
	bool ending = t->ending;
	pthread_mutex_unlock(&t->lock);
	return !ending;
}

void inode_await_end(struct inode_table *t, unsigned limit_s)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)limit_s;
	pthread_mutex_lock(&t->lock);
	while (!t->ending && pthread_cond_clockwait(&t->crowded, &t->lock, CLOCK_MONOTONIC, &until) == 0)
		;
	pthread_mutex_unlock(&t->lock);
}

void inode_end_crowd(struct inode_table *t)
{
	pthread_mutex_lock(&t->lock);
	t->crowd = SIZE_MAX;
	t->ending = true;
	pthread_cond_broadcast(&t->crowded);
	pthread_mutex_unlock(&t->lock);
}

size_t inode_count(struct inode_table *t)
{
	pthread_mutex_lock(&t->lock);
	size_t count = t->count;
	pthread_mutex_unlock(&t->lock);
	return count;
}

size_t inode_nodes(struct inode_table *t, size_t *hand, uint64_t *ret, size_t max, bool *ret_round)
{
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	for (*ret_round = false; n < max && !*ret_round; *ret_round = ++*hand >= t->bucket_count)
		/* A bucket has few: what does not fit comes with the next round. */
		for (struct inode *i = *hand < t->bucket_count ? t->buckets[*hand] : NULL; i && n < max; i = i->next)
			if (i != t->root)
				ret[n++] = (uintptr_t)i;
	if (*ret_round)
		*hand = 0;
	pthread_mutex_unlock(&t->lock);
	return n;
}

uint64_t inode_open_files(const struct inode_table *t)
{
	return atomic_load(&t->contents);
}
