/* powercut: cuts the power between any two lower writes, and asks whether what was promised holds.
 *
 * A workload runs on the store library while a hook in fs/base/io records every change below it. A crash state is built in
 * a new directory from the base store and a prefix of that record:
 *   - namespace changes and lengths happened in order, up to the cut at least as far as the last sync of any file (a journal
 *     commits in order), at most up to the cut;
 *   - data of a file is there as far as that file was synced; what was written since is there or not, page by page, by a coin,
 *     and now and then only some 512-byte sectors of a page.
 * Then the store is opened and every file read: each sector of a block that was synced must be what was synced or something
 * written later; of one that was not, anything written, or zeros; nothing may be refused; the whole must verify afterwards.
 * In the planted runs the recorder hides what a bug in the ordering would leave out, and the test passes only when that is found. */
#include "../unit/store.h"

#include <sys/stat.h>

#define FILES 4u
#define BLOCKS 48u
#define VERSIONS_MAX 40u
#define RECORDS_MAX 20000u
#define INODES_MAX 512u

/* ---- the record of lower changes ---- */

struct record {
	enum io_op op;
	uint64_t ino, ino2; /* of the file; of the directories of a name */
	char *path, *path2;
	uint8_t *data;
	uint64_t off, len, made; /* made: inode that came to be */
	unsigned flags;
	bool hidden;
};
static struct record records[RECORDS_MAX];
static size_t record_count;

/* Bugs that the recorder pretends there are. */
static enum plant {
	PLANT_NONE,
	PLANT_INTENT, /* a slot is not made durable before the blocks that it marks are overwritten */
	PLANT_SYNC,   /* now and then a sync of content does nothing */
	PLANT_HEADER, /* the environment's header is renamed into place without being synced */
} planted;
static unsigned violations; /* of the promise */

static void PRINTF(1, 2) violated(const char *format, ...)
{
	va_list ap;

	if (planted == PLANT_NONE && violations < 10) {
		va_start(ap, format);
		vfprintf(stderr, format, ap);
		va_end(ap);
		fputc('\n', stderr);
	}
	violations++;
}

static uint64_t ino_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static void record_after(void *ctx, const struct io_event *ev, int64_t result)
{
	(void)ctx;
	if (result < 0 || record_count == RECORDS_MAX)
		return;
	struct record r = {.op = ev->op, .off = ev->off, .len = ev->len, .flags = ev->flags};
	struct stat st;

	switch ((int)ev->op) { /* what changes nothing is not recorded */
	case IO_OPEN:
		if (!(ev->flags & (O_CREAT | O_TRUNC)))
			return;
		r.ino = ino_of(ev->fd);
		r.made = ino_of((int)result);
		break;
	case IO_MKDIR:
		if (fstatat(ev->fd, ev->path, &st, 0) < 0)
			return;
		r.ino = ino_of(ev->fd);
		r.made = st.st_ino;
		break;
	case IO_WRITE:
		r.ino = ino_of(ev->fd);
		r.len = (uint64_t)result;
		r.data = malloc(r.len);
		for (uint64_t k = 0, done = 0; k < (uint64_t)ev->iov_count && done < r.len; k++) {
			uint64_t n = MIN(ev->iov[k].iov_len, r.len - done);

			memcpy(r.data + done, ev->iov[k].iov_base, n);
			done += n;
		}
		break;
	case IO_FDATASYNC:
	case IO_FSYNC: {
		const struct record *last = record_count ? &records[record_count - 1] : &r;
		bool slot = last->op == IO_WRITE && last->len == SECTOR_SIZE;

		r.ino = ino_of(ev->fd);
		r.hidden = last->ino == r.ino && ((planted == PLANT_INTENT && slot) || (planted == PLANT_SYNC && !slot && record_count % 3 == 0) ||
							 (planted == PLANT_HEADER && last->op == IO_WRITE && last->off == 0 && !slot &&
								 last->len < 4096));
		break;
	}
	case IO_TRUNCATE:
	case IO_FALLOCATE:
		r.ino = ino_of(ev->fd);
		break;
	case IO_RENAME:
	case IO_LINK:
		r.ino = ino_of(ev->fd);
		r.ino2 = ino_of(ev->fd2);
		break;
	case IO_UNLINK:
		r.ino = ino_of(ev->fd);
		break;
	case IO_SYNCFS:
		break;
	default:
		return;
	}
	r.path = ev->path ? strdup(ev->path) : NULL;
	r.path2 = ev->path2 ? strdup(ev->path2) : NULL;
	records[record_count++] = r;
}

/* ---- building a crash state ---- */

static struct {
	uint64_t ino;
	int fd;
} inodes[INODES_MAX];
static size_t inode_count;

static int state_fd(uint64_t ino)
{
	for (size_t k = 0; k < inode_count; k++)
		if (inodes[k].ino == ino)
			return inodes[k].fd;
	return -1;
}

static void state_add(uint64_t ino, int fd)
{
	assert_true(fd >= 0 && inode_count < INODES_MAX);
	inodes[inode_count].ino = ino;
	inodes[inode_count++].fd = fd;
}

/* The store before the workload: what every state begins with. */
#define BASE_MAX 16u
static struct {
	const char *path;
	uint64_t ino;
	uint8_t data[4096];
	ssize_t len; /* -1: a directory */
} base[BASE_MAX] = {{.path = "."}, {.path = "root"}, {.path = "tmp"}, {.path = "lock"}, {.path = "tdefs.env"}, {.path = "root/tdefs.dir"}};

static void base_read(const char *store)
{
	int dir = open(store, O_RDONLY | O_DIRECTORY);

	for (size_t k = 0; base[k].path; k++) {
		int fd = openat(dir, base[k].path, O_RDONLY);
		struct stat st;

		assert_int_equal(fstat(fd, &st), 0);
		base[k].ino = st.st_ino;
		base[k].len = S_ISDIR(st.st_mode) ? -1 : pread(fd, base[k].data, sizeof(base[k].data), 0);
		close(fd);
	}
	close(dir);
}

static void base_write(const char *to)
{
	int dir = open(to, O_RDONLY | O_DIRECTORY);

	inode_count = 0;
	for (size_t k = 0; base[k].path; k++) {
		if (base[k].len < 0 && k > 0)
			assert_int_equal(mkdirat(dir, base[k].path, 0700), 0);
		int fd = openat(dir, base[k].path, base[k].len < 0 ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT, 0600);

		if (base[k].len > 0)
			assert_int_equal(pwrite(fd, base[k].data, (size_t)base[k].len, 0), base[k].len);
		state_add(base[k].ino, fd);
	}
	close(dir);
}

static void state_namespace(const struct record *r)
{
	int fd = state_fd(r->ino), fd2 = state_fd(r->ino2), made;

	switch ((int)r->op) {
	case IO_OPEN:
		if (fd < 0)
			return;
		made = openat(fd, r->path, O_RDWR | (int)(r->flags & (O_CREAT | O_TRUNC)), 0600);
		assert_true(made >= 0);
		if (state_fd(r->made) < 0)
			state_add(r->made, made);
		else
			close(made);
		break;
	case IO_MKDIR:
		assert_int_equal(mkdirat(fd, r->path, 0700), 0);
		state_add(r->made, openat(fd, r->path, O_RDONLY | O_DIRECTORY));
		break;
	case IO_RENAME:
		assert_int_equal(renameat2(fd, r->path, fd2, r->path2, r->flags), 0);
		break;
	case IO_LINK:
		fail_msg("no workload makes links");
		break;
	case IO_UNLINK:
		assert_int_equal(unlinkat(fd, r->path, (int)r->flags), 0);
		break;
	case IO_TRUNCATE:
		assert_int_equal(ftruncate(fd, (off_t)r->len), 0);
		break;
	case IO_FALLOCATE:
		assert_int_equal(fallocate(fd, (int)r->flags, (off_t)r->off, (off_t)r->len), 0);
		break;
	default:
		break;
	}
}

static bool all_zero(const uint8_t *b, size_t n)
{
	return b[0] == 0 && memcmp(b, b + 1, n - 1) == 0;
}

/* Pages of which a write was lost: what came after it to the same page is lost with it, for the disk gets a page as it was at
 * one time. */
static struct {
	uint64_t ino, page;
} lost_pages[RECORDS_MAX];
static size_t lost_count;

static bool page_lost(uint64_t ino, uint64_t page)
{
	for (size_t k = 0; k < lost_count; k++)
		if (lost_pages[k].ino == ino && lost_pages[k].page == page)
			return true;
	return false;
}

/* A write of which every page reached the disk or did not. */
static void state_write(const struct record *r, bool whole, uint64_t *seed)
{
	int fd = state_fd(r->ino);
	uint8_t page[4096];

	if (fd < 0)
		return;
	for (uint64_t at = r->off, end = r->off + r->len; at < end;) {
		uint64_t n = MIN(4096 - at % 4096, end - at), coin = store_random(seed) >> 11;

		bool before = page_lost(r->ino, at / 4096);
		if (!whole && !before && coin % 2) {
			lost_pages[lost_count].ino = r->ino;
			lost_pages[lost_count++].page = at / 4096;
		}
		if (whole || (coin % 2 == 0 && !before)) {
			assert_int_equal(pwrite(fd, r->data + (at - r->off), n, (off_t)at), n);
		} else if (!before && coin % 16 == 1 && pread(fd, page, n, (off_t)at) == (ssize_t)n && !all_zero(page, n)) {
			/* Torn, in place: a page that was not allocated before is there whole or not at all. */
			for (uint64_t s = at; s < at + n; s += 512)
				if (store_random(seed) >> 20 & 1) {
					uint64_t m = MIN(512, at + n - s);

					assert_int_equal(pwrite(fd, r->data + (s - r->off), m, (off_t)s), m);
				}
		}
		at += n;
	}
}

static bool record_syncs(const struct record *r)
{
	return !r->hidden && (r->op == IO_FSYNC || r->op == IO_FDATASYNC || r->op == IO_SYNCFS);
}

static void state_build(const char *to, size_t cut, uint64_t *seed)
{
	size_t committed = 0, namespace_end;

	assert_int_equal(mkdir(to, 0700), 0);
	base_write(to);
	for (size_t k = 0; k < cut; k++)
		if (record_syncs(&records[k]))
			committed = k;
	namespace_end = committed + store_random(seed) % (cut - committed + 1);
	lost_count = 0;
	uint64_t stopped[256] = {0};
	unsigned stopped_count = 0;
	for (size_t k = 0; k < cut; k++) {
		const struct record *r = &records[k];

		if (r->op != IO_WRITE) {
			if (k < namespace_end || k <= committed)
				state_namespace(r);
			else if ((r->op == IO_TRUNCATE || r->op == IO_FALLOCATE) && stopped_count < ARRAY_LEN(stopped))
				stopped[stopped_count++] = r->ino;
			continue;
		}
		/* What was written after a change of length that is lost went to blocks that nobody will find. */
		bool lost = false;
		for (unsigned i = 0; i < stopped_count; i++)
			lost |= stopped[i] == r->ino;
		if (lost)
			continue;
		bool synced = false;
		for (size_t s = k + 1; !synced && s < cut; s++)
			synced = record_syncs(&records[s]) && (records[s].op == IO_SYNCFS || records[s].ino == r->ino);
		/* Without its namespace change a write has nowhere to go: state_fd fails. */
		state_write(r, synced, seed);
	}
	for (size_t k = 0; k < inode_count; k++)
		close(inodes[k].fd);
}

/* ---- what was promised ---- */

struct version {
	size_t from;    /* the record count when its write began */
	size_t synced;  /* the record count when a sync after it had ended; SIZE_MAX: none */
	uint8_t b[4096];
};
static struct {
	char name[200];
	bool made;
	size_t made_synced; /* record count when its name was promised */
	uint64_t size;
	size_t truncations[VERSIONS_MAX * 4]; /* record counts when they began */
	unsigned truncation_count;
	struct {
		struct version *v[VERSIONS_MAX];
		unsigned count;
	} blocks[BLOCKS];
} files[FILES];

static void shadow_set(unsigned f, unsigned blk, size_t from, const uint8_t *b)
{
	struct version *v = malloc(sizeof(*v));

	if (files[f].blocks[blk].count == VERSIONS_MAX) {
		free(files[f].blocks[blk].v[0]);
		memmove(&files[f].blocks[blk].v[0], &files[f].blocks[blk].v[1], (VERSIONS_MAX - 1) * sizeof(v));
		files[f].blocks[blk].count--;
	}
	v->from = from;
	v->synced = SIZE_MAX;
	memcpy(v->b, b, 4096);
	files[f].blocks[blk].v[files[f].blocks[blk].count++] = v;
}

static const uint8_t *shadow_now(unsigned f, unsigned blk)
{
	static const uint8_t zeros[4096];
	unsigned n = files[f].blocks[blk].count;

	return n ? files[f].blocks[blk].v[n - 1]->b : zeros;
}

static void shadow_sync(unsigned f)
{
	for (unsigned blk = 0; blk < BLOCKS; blk++) {
		unsigned n = files[f].blocks[blk].count;

		if (n && files[f].blocks[blk].v[n - 1]->synced == SIZE_MAX)
			files[f].blocks[blk].v[n - 1]->synced = record_count;
	}
	if (files[f].made_synced == SIZE_MAX)
		files[f].made_synced = record_count;
}

/* Whether the file may have been cut shorter, or its length not been synced, at this time. */
static bool shadow_may_end(unsigned f, size_t cut)
{
	for (unsigned k = 0; k < files[f].truncation_count; k++)
		if (files[f].truncations[k] < cut)
			return true;
	return false;
}

/* got: the block as read; len of its bytes lie within the file, which says nothing of those beyond. */
static void shadow_check_block(unsigned f, unsigned blk, size_t cut, const uint8_t *got, size_t len, uint64_t seed)
{
	static const uint8_t zeros[512];
	int first = 0;
	bool zeros_fit = true;

	for (unsigned k = 0; k < files[f].blocks[blk].count; k++)
		if (files[f].blocks[blk].v[k]->synced <= cut) {
			first = (int)k;
			zeros_fit = false;
		}
	for (unsigned s = 0; s < 8 && 512 * s < len; s++) {
		size_t n = MIN(len - 512 * s, 512u);
		bool fits = zeros_fit && memcmp(got + 512 * s, zeros, n) == 0;

		for (unsigned k = (unsigned)first; !fits && k < files[f].blocks[blk].count; k++)
			fits = files[f].blocks[blk].v[k]->from < cut && memcmp(got + 512 * s, files[f].blocks[blk].v[k]->b + 512 * s, n) == 0;
		if (!fits)
			violated("seed %llx, cut %zu: file %u block %u sector %u is nothing that was written there", (unsigned long long)seed,
				cut, f, blk, s);
	}
}

/* ---- the workload ---- */

static const struct env_key next_key = {.b = "the environment key after that"};

/* What the worker does, in two halves with other work between: a new key; then every file moved, and the old one gone. */
static void workload_rotate(struct volume *v, struct content **c, bool begin)
{
	struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .blob = {2}, .blob_len = 1};

	if (begin) {
		assert_int_equal(volume_rotate_begin(v, &next_key, &wrap, 1), 0);
		return;
	}
	for (unsigned f = 0; f < FILES; f++)
		if (c[f])
			assert_true(content_rotate(c[f]) >= 0);
	assert_int_equal(volume_rotate_end(v), 0);
}

static void workload(const char *store, unsigned operations, uint64_t seed)
{
	struct content *c[FILES] = {NULL};
	struct volume *v = store_open(store);
	uint8_t data[8 * 4096];

	for (unsigned f = 0; f < FILES; f++) {
		memset(files[f].name, 'a' + (int)f, f == 3 ? 190 : 5); /* one long name */
		files[f].made_synced = SIZE_MAX;
	}
	for (unsigned op = 0; op < operations; op++) {
		unsigned f = (unsigned)(store_random(&seed) >> 9) % FILES, what = (unsigned)(store_random(&seed) >> 9) % 16;
		size_t from = record_count;

		if (op == operations / 3 || op == 2 * operations / 3)
			workload_rotate(v, c, op == operations / 3);
		if (!c[f]) {
			assert_int_equal(store_file(v, files[f].name, true, &c[f]), 0);
			files[f].made = true;
		}
		if (what < 9) {
			/* f 0 appends, the others overwrite */
			uint64_t off = f == 0 ? files[f].size : (store_random(&seed) >> 9) % (BLOCKS * 4096 - sizeof(data));
			size_t len = (size_t)(store_random(&seed) >> 9) % 20000 + 1;

			if (what < 5) {
				off &= ~4095ull;
				len = (len + 4095) & ~4095ull;
			}
			if (off + len > BLOCKS * 4096)
				continue;
			for (size_t k = 0; k < len; k++)
				data[k] = (uint8_t)(op * 7 + k / 512 + 1);
			assert_int_equal(content_write(c[f], data, len, off), 0);
			for (uint64_t blk = off / 4096; blk <= (off + len - 1) / 4096; blk++) {
				uint8_t merged[4096];
				uint64_t a = MAX(off, blk * 4096), b = MIN(off + len, (blk + 1) * 4096);

				memcpy(merged, shadow_now(f, (unsigned)blk), 4096);
				memcpy(merged + (a - blk * 4096), data + (a - off), b - a);
				shadow_set(f, (unsigned)blk, from, merged);
			}
			files[f].size = MAX(files[f].size, off + len);
		} else if (what < 13) {
			assert_int_equal(content_sync(c[f], what % 2), 0);
			shadow_sync(f);
		} else if (what == 13) {
			if (content_seal_begin(c[f])) {
				int rc = content_sync(c[f], true);

				shadow_sync(f);
				content_seal_finish(c[f], rc);
			}
		} else if (what == 14) {
			content_close(c[f]);
			assert_int_equal(store_file(v, files[f].name, false, &c[f]), 0);
		} else {
			uint64_t size = (store_random(&seed) >> 9) % (files[f].size + 1);
			static const uint8_t zeros[4096];

			files[f].truncations[files[f].truncation_count++] = from;
			assert_int_equal(content_truncate(c[f], size), 0);
			for (uint64_t blk = size / 4096; blk < BLOCKS; blk++) {
				uint8_t merged[4096];

				memcpy(merged, shadow_now(f, (unsigned)blk), 4096);
				if (blk == size / 4096)
					memset(merged + size % 4096, 0, 4096 - size % 4096);
				shadow_set(f, (unsigned)blk, from, blk == size / 4096 ? merged : zeros);
			}
			files[f].size = size;
		}
	}
	for (unsigned f = 0; f < FILES; f++)
		content_close(c[f]);
	io_set_hook(NULL);
	v->options.read_only = true; /* the power went: no clean end */
	assert_int_equal(volume_close(v), 0);
}

/* Number of blocks and names that were refused. */
static unsigned check_state(const char *dir, size_t cut, uint64_t seed)
{
	static uint8_t buf[BLOCKS * 4096];
	unsigned refused = 0;
	struct volume *v = NULL;
	int opened = volume_open(dir, &store_key, &(struct volume_options){.report = store_report}, &v);

	/* Rotated or not: one of the two keys opens it, whenever the power went. */
	if (opened == -EKEYREJECTED)
		opened = volume_open(dir, &next_key, &(struct volume_options){.report = store_report}, &v);

	if (opened < 0) {
		violated("seed %llx, cut %zu: the store does not open: %s", (unsigned long long)seed, cut, strerror(-opened));
		return 1;
	}
	for (unsigned f = 0; f < FILES; f++) {
		struct content_check check;
		struct content *c = NULL;
		int rc = files[f].made ? store_file(v, files[f].name, false, &c) : -ENOENT;

		if (rc == -ENOENT && !(files[f].made_synced <= cut))
			continue;
		if (rc == -ENOENT)
			violated("seed %llx, cut %zu: file %u was synced and is gone", (unsigned long long)seed, cut, f);
		if (rc == -ENOENT)
			continue;
		memset(buf, 0, sizeof(buf));
		ssize_t n = rc < 0 ? rc : content_read(c, buf, sizeof(buf), 0);
		if (n < 0) {
			refused++;
		} else {
			for (unsigned blk = 0; blk < BLOCKS; blk++) {
				size_t within = (size_t)MIN(MAX(n - (ssize_t)(blk * 4096), 0), 4096);

				/* Beyond the end everything reads as zeros: a synced block may be missing only where a truncation
				 * since may have taken it. */
				shadow_check_block(f, blk, cut, buf + blk * 4096, shadow_may_end(f, cut) ? within : 4096, seed);
			}
			assert_int_equal(content_verify(c, &check), 0);
			refused += (unsigned)check.bad;
		}
		content_close(c);
	}
	refused += (unsigned)atomic_load(&v->stats.refused);
	assert_int_equal(volume_close(v), 0);
	return refused;
}

static void shadow_reset(void)
{
	for (unsigned f = 0; f < FILES; f++)
		for (unsigned blk = 0; blk < BLOCKS; blk++)
			for (unsigned k = 0; k < files[f].blocks[blk].count; k++)
				free(files[f].blocks[blk].v[k]);
	memset(files, 0, sizeof(files));
	for (size_t k = 0; k < record_count; k++) {
		free(records[k].path);
		free(records[k].path2);
		free(records[k].data);
	}
	record_count = 0;
}

static unsigned run(unsigned rounds, unsigned states, unsigned *ret_states)
{
	static const struct io_hook hook = {.after = record_after};
	unsigned refused = 0;
	char dir[64], live[80], crash[80];

	*ret_states = 0;
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t seed = UINT64_C(0x2545f4914f6cdd1d) * (round + 1), first = seed;

		test_dir(dir);
		snprintf(live, sizeof(live), "%s/live", dir);
		store_create(live);
		base_read(live);
		io_set_hook(&hook);
		workload(live, 60, seed);
		for (unsigned s = 0; s < states; s++) {
			size_t cut = store_random(&seed) % record_count + 1;

			snprintf(crash, sizeof(crash), "%s/crash", dir);
			state_build(crash, cut, &seed);
			refused += check_state(crash, cut, first);
			test_remove(crash);
			++*ret_states;
		}
		test_remove(dir);
		shadow_reset();
	}
	return refused;
}

static void power_cuts_keep_the_promise(void **state)
{
	unsigned states, refused;

	(void)state;
	planted = PLANT_NONE;
	violations = 0;
	refused = run(getenv("TDEFS_LONG") ? 1000 : 40, 100, &states);
	print_message("%u crash states, %u refusals, %u violations\n", states, refused, violations);
	assert_int_equal(refused, 0);
	assert_int_equal(violations, 0);
}

static void planted_bugs_are_found(void **state)
{
	static const char *const names[] = {"", "intents that are not durable", "syncs that do nothing", "a header that is not synced"};
	unsigned states;

	(void)state;
	for (planted = PLANT_INTENT; planted <= PLANT_HEADER; planted++) {
		violations = 0;
		unsigned refused = run(4, 80, &states);
		print_message("%u crash states with %s: %u refusals, %u violations\n", states, names[planted], refused, violations);
		assert_true(refused + violations > 0);
	}
	planted = PLANT_NONE;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(power_cuts_keep_the_promise), cmocka_unit_test(planted_bugs_are_found)};

	/* Thousands of syncs: in memory they cost nothing, and nothing here depends on a real one. */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 1);

	return cmocka_run_group_tests(tests, NULL, NULL);
}
