/* content: against a model in memory, under flips, faults and threads. */
#include "store.h"
#include "store/content_internal.h"

#include <linux/falloc.h>
#include <pthread.h>

#define MODEL_MAX (700u * 4096)

struct model {
	uint8_t *b;
	uint64_t size;
};

static void model_compare(struct content *c, const struct model *m, uint64_t seed, int op)
{
	uint8_t *buf = malloc(MODEL_MAX + 1);
	ssize_t n = content_read(c, buf, MODEL_MAX + 1, 0);

	if (n != (ssize_t)m->size || memcmp(buf, m->b, m->size) != 0)
		fail_msg("seed %llx, operation %d: %zd bytes read, %llu expected, or others", (unsigned long long)seed, op, n,
			(unsigned long long)m->size);
	free(buf);
}

static void model_zero(struct model *m, uint64_t off, uint64_t len)
{
	if (off < m->size)
		memset(m->b + off, 0, MIN(len, m->size - off));
}

/* One random change on both. */
static void model_step(struct content *c, struct model *m, uint64_t *seed)
{
	uint64_t off = store_random(seed) % (store_random(seed) % 3 ? m->size + 1 : MODEL_MAX), len = store_random(seed) % 300000 + 1;
	static uint8_t data[300001];

	if (store_random(seed) % 4 == 0) {
		off &= ~4095ull;
		len = (len + 4095) & ~4095ull;
	}
	len = MIN(len, MODEL_MAX - MIN(off, MODEL_MAX - 1));
	len = MIN(len, sizeof(data));
	switch (store_random(seed) % 8) {
	case 0: {
		uint64_t size = store_random(seed) % 5 ? off : 0;

		assert_int_equal(content_truncate(c, size), 0);
		if (size > m->size)
			memset(m->b + m->size, 0, size - m->size);
		m->size = size;
		break;
	}
	case 1:
		assert_int_equal(content_allocate(c, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len), 0);
		model_zero(m, off, len);
		break;
	case 2:
		assert_int_equal(content_allocate(c, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off, len), 0);
		model_zero(m, off, len);
		break;
	case 3:
		assert_int_equal(content_allocate(c, 0, off, len), 0);
		if (off + len > m->size) {
			memset(m->b + m->size, 0, off + len - m->size);
			m->size = off + len;
		}
		break;
	case 4:
		if (content_seal_begin(c))
			content_seal_finish(c, content_sync(c, true));
		break;
	default:
		for (uint64_t k = 0; k < len; k++)
			data[k] = (uint8_t)(store_random(seed) >> 20);
		assert_int_equal(content_write(c, data, len, off), 0);
		if (off > m->size)
			memset(m->b + m->size, 0, off - m->size);
		memcpy(m->b + off, data, len);
		m->size = MAX(m->size, off + len);
	}
}

static void content_random_operations_match_a_model(void **state)
{
	unsigned rounds = getenv("TDEFS_LONG") ? 400 : 12;
	char dir[64];

	(void)state;
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t seed = 0x9e3779b97f4a7c15 * (round + 1), first = seed;
		struct model m = {calloc(1, MODEL_MAX + 1), 0};
		struct content *c;

		test_dir(dir);
		store_create(dir);
		struct volume *v = store_open(dir);
		assert_int_equal(store_file(v, "f", true, &c), 0);
		for (int op = 0; op < 150; op++) {
			model_step(c, &m, &seed);
			if (op % 5 == 0)
				model_compare(c, &m, first, op);
			/* Closed and opened: within an epoch, over a clean end, over a crash. */
			if (op % 17 == 0) {
				content_close(c);
				assert_int_equal(store_file(v, "f", false, &c), 0);
			} else if (op % 41 == 0) {
				content_close(c);
				assert_int_equal(volume_close(v), 0);
				v = store_open(dir);
				assert_int_equal(store_file(v, "f", false, &c), 0);
			} else if (op % 53 == 0) {
				assert_int_equal(content_sync(c, false), 0);
				content_close(c);
				v->options.read_only = true; /* closes without the clean flag, as a crash would */
				assert_int_equal(volume_close(v), 0);
				v = store_open(dir);
				assert_int_equal(store_file(v, "f", false, &c), 0);
			}
		}
		model_compare(c, &m, first, 150);
		struct content_check check;
		assert_int_equal(content_verify(c, &check), 0);
		assert_int_equal(check.bad, 0);
		content_close(c);
		assert_int_equal(volume_close(v), 0);
		free(m.b);
		test_remove(dir);
	}
}

/* The lower length shrinks when the tail disappears: a fixed bug. */
static void content_last_block_filled_up_keeps_its_size(void **state)
{
	uint8_t data[4096] = {1};
	struct content *c;
	char dir[64];

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	assert_int_equal(store_file(v, "f", true, &c), 0);
	assert_int_equal(content_write(c, data, 100, 0), 0);
	assert_int_equal(content_write(c, data, 3996, 100), 0);
	content_close(c);
	assert_int_equal(store_file(v, "f", false, &c), 0);
	assert_int_equal(content_size(c), 4096);
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* ---- damage below ---- */

#define DAMAGED_BLOCKS 3u

/* A store with one file "f" of some blocks, both slots in use, left clean. */
static void damaged_begin(char dir[64], char path[400], uint8_t data[DAMAGED_BLOCKS * 4096])
{
	char lower[256];
	struct content *c;

	memset(data, 0x5a, DAMAGED_BLOCKS * 4096);
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	struct dir_id id = store_root_id(v);
	assert_int_equal(store_file(v, "f", true, &c), 0);
	assert_int_equal(content_write(c, data, DAMAGED_BLOCKS * 4096, 0), 0);
	assert_true(content_seal_begin(c));
	content_seal_finish(c, content_sync(c, true));
	content_close(c);
	assert_int_equal(dir_lower_name(v, &id, "f", lower), 0);
	assert_int_equal(volume_close(v), 0);
	snprintf(path, 400, "%s/root/%s", dir, lower);
}

/* 0 when all of "f" can be read. */
static int damaged_read(struct volume *v, uint8_t *buf, size_t len, ssize_t *ret_len)
{
	struct content *c;
	int rc = store_file(v, "f", false, &c);

	if (rc < 0)
		return rc;
	*ret_len = content_read(c, buf, len, 0);
	content_close(c);
	return *ret_len < 0 ? (int)*ret_len : 0;
}

/* Every bit of the header's sectors, of the entries, and (every 211th byte) of the blocks. */
static void content_flipped_bit_is_refused(void **state)
{
	static const struct {
		uint64_t from, to, step;
	} areas[] = {{0, 512, 1}, {1024, 2048, 1}, {4096, 4096 + DAMAGED_BLOCKS * 32, 1}, {8192, 8192 + DAMAGED_BLOCKS * 4096, 211}};
	uint8_t data[DAMAGED_BLOCKS * 4096], buf[sizeof(data)], byte;
	char dir[64], path[400];
	unsigned flips = 0;
	ssize_t n;

	(void)state;
	damaged_begin(dir, path, data);
	struct volume *v = store_open(dir);
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	for (size_t a = 0; a < ARRAY_LEN(areas); a++)
		for (uint64_t off = areas[a].from; off < areas[a].to; off += areas[a].step)
			for (unsigned bit = 0; bit < 8; bit++) {
				assert_int_equal(pread(fd, &byte, 1, (off_t)off), 1);
				byte ^= (uint8_t)(1u << bit);
				assert_int_equal(pwrite(fd, &byte, 1, (off_t)off), 1);
				/* Version and flags say "newer", which has a report of its own. */
				int rc = damaged_read(v, buf, sizeof(buf), &n);
				if (rc != -EBADMSG)
					fail_msg("bit %u at %llu: %d", bit, (unsigned long long)off, rc);
				byte ^= (uint8_t)(1u << bit);
				assert_int_equal(pwrite(fd, &byte, 1, (off_t)off), 1);
				flips++;
			}
	assert_true(flips > 12000 && store_reports >= flips);
	assert_int_equal(damaged_read(v, buf, sizeof(buf), &n), 0);
	assert_int_equal(n, sizeof(data));
	assert_memory_equal(buf, data, sizeof(data));
	close(fd);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* Every length but 0 and the right one; and longer ones, by zeros. */
static void content_changed_length_is_refused(void **state)
{
	uint8_t data[DAMAGED_BLOCKS * 4096], buf[4 * sizeof(data)], lower[8192 + sizeof(data)];
	char dir[64], path[400];
	unsigned refused = 0;
	ssize_t n;

	(void)state;
	damaged_begin(dir, path, data);
	struct volume *v = store_open(dir);
	int fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, lower, sizeof(lower), 0), sizeof(lower));
	for (off_t len = sizeof(lower) - 1; len > 0; len -= len > 600 && len < 8192 ? 13 : 1) {
		assert_int_equal(ftruncate(fd, len), 0);
		int rc = damaged_read(v, buf, sizeof(buf), &n);
		/* Where the cut takes the newer slot alone (what it takes of the older one may be zeros), the file is as an emptied one:
		 * README, "a file emptied". */
		bool emptied = rc == 0 && n == 0 && len >= (off_t)SLOT_OFF(1) - 1 && len < (off_t)SLOT_OFF(2);
		if (rc != -EBADMSG && !emptied)
			fail_msg("cut to %lld: %d", (long long)len, rc);
		refused++;
	}
	assert_true(refused > sizeof(data));
	assert_int_equal(pwrite(fd, lower, sizeof(lower), 0), sizeof(lower));
	for (off_t len = sizeof(lower) + 1; len < (off_t)(sizeof(lower) + sizeof(data)); len += 29) {
		assert_int_equal(ftruncate(fd, len), 0);
		int rc = damaged_read(v, buf, sizeof(buf), &n);
		/* As long a tail as the last block may have is a size of its own: README, "within its last block". */
		if (rc != -EBADMSG && !(rc == 0 && len - (off_t)sizeof(lower) < 4096 && n < (ssize_t)sizeof(data) && n > (ssize_t)sizeof(data) - 4096))
			fail_msg("grown to %lld: %d, %zd bytes", (long long)len, rc, n);
	}
	close(fd);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* ---- faults ---- */

struct fault {
	int countdown, error;
	bool hit;
};

static int fault_before(void *ctx, struct io_event *ev)
{
	struct fault *f = ctx;

	if (ev->op == IO_STAT || ev->op == IO_UTIMENS || f->countdown-- != 0)
		return 0;
	f->hit = true;
	return f->error;
}

static void content_failed_sync_poisons(void **state)
{
	struct fault fault = {0, -EIO, false};
	struct io_hook hook = {.before = fault_before, .ctx = &fault};
	struct content *c;
	char dir[64];

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	assert_int_equal(store_file(v, "f", true, &c), 0);
	assert_int_equal(content_write(c, "abc", 3, 0), 0);
	io_set_hook(&hook);
	assert_int_equal(content_sync(c, true), -EIO);
	io_set_hook(NULL);
	assert_int_equal(content_sync(c, true), -EROFS); /* never believed again */
	assert_int_equal(content_write(c, "abc", 3, 0), -EROFS);
	content_close(c);
	assert_int_equal(volume_close(v), -EROFS);
	test_remove(dir);
}

/* ---- parts of a stream in another order ---- */

/* Zeroes a block's entry and data below, as somebody who wants it to read as a hole would. */
static void zero_below(struct content *c, uint64_t blk)
{
	static const uint8_t zeros[4096];

	assert_int_equal(pwrite(content_fd(c), zeros, ENTRY_SIZE, (off_t)extent_entry_off(blk)), ENTRY_SIZE);
	assert_int_equal(pwrite(content_fd(c), zeros, 4096, (off_t)extent_data_off(blk)), 4096);
}

static bool reads_as(struct content *c, uint64_t blk, int byte)
{
	uint8_t buf[4096];
	ssize_t n = content_read(c, buf, sizeof(buf), blk * 4096);

	for (unsigned k = 0; n == 4096 && k < 4096; k++)
		if (buf[k] != byte)
			return false;
	return n == 4096;
}

static void content_later_part_first_stays_dense(void **state)
{
	static uint8_t data[200 * 4096];
	uint8_t buf[4096];
	struct content *c;
	char dir[64];

	(void)state;
	memset(data, 3, sizeof(data));
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	assert_int_equal(store_file(v, "f", true, &c), 0);
	assert_int_equal(content_write(c, data, sizeof(data), 200 * 4096), 0);
	assert_true(reads_as(c, 100, 0));
	/* A seal in between takes nothing from the gap on for granted, and does not make it a hole. */
	assert_true(content_seal_begin(c));
	content_seal_finish(c, content_sync(c, true));
	assert_true(content_is_changed(c));
	assert_int_equal(content_write(c, data, sizeof(data), 0), 0);
	assert_true(content_seal_begin(c));
	content_seal_finish(c, content_sync(c, true));
	assert_false(content_is_changed(c));
	content_close(c);
	assert_int_equal(store_file(v, "f", false, &c), 0);
	assert_true(reads_as(c, 100, 3) && reads_as(c, 300, 3));
	zero_below(c, 100);
	assert_int_equal(content_read(c, buf, sizeof(buf), 100 * 4096), -EBADMSG);
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void content_gap_that_stays_is_a_hole(void **state)
{
	uint8_t data[4096] = {4};
	struct content *c;
	char dir[64];

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	assert_int_equal(store_file(v, "f", true, &c), 0);
	for (int how = 0; how < 3; how++) {
		/* Two seals, a close, a distance that no stream has. */
		uint64_t off = (content_size(c) / 4096 + (how == 2 ? 100000 : 50)) * 4096;

		assert_int_equal(content_write(c, data, sizeof(data), off), 0);
		assert_true(reads_as(c, off / 4096 - 7, 0));
		for (int k = 0; how == 0 && k < 2; k++) {
			assert_true(content_seal_begin(c));
			content_seal_finish(c, content_sync(c, true));
		}
		assert_int_equal(content_is_changed(c), how != 0);
		content_close(c);
		assert_int_equal(store_file(v, "f", false, &c), 0);
		assert_true(reads_as(c, off / 4096 - 7, 0));
	}
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* Fails the data writes of one region, once others have extended the file behind it. */
struct middle {
	struct content *c;
	bool done;
};

static int middle_before(void *ctx, struct io_event *ev)
{
	static uint8_t behind[4096] = {9};
	struct middle *m = ctx;

	if (ev->op != IO_WRITE || ev->off < extent_data_off(10) || m->done)
		return 0;
	m->done = true;
	assert_int_equal(content_write(m->c, behind, sizeof(behind), 60 * 4096), 0);
	return -ENOSPC;
}

static void content_failed_extension_leaves_what_others_wrote_behind_it(void **state)
{
	static uint8_t data[50 * 4096];
	struct content_check check;
	struct content *c;
	char dir[64];

	(void)state;
	memset(data, 8, sizeof(data));
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	assert_int_equal(store_file(v, "f", true, &c), 0);
	assert_int_equal(content_write(c, data, 10 * 4096, 0), 0);
	struct middle m = {c, false};
	struct io_hook hook = {.before = middle_before, .ctx = &m};
	io_set_hook(&hook);
	assert_int_equal(content_write(c, data, sizeof(data), 10 * 4096), -ENOSPC);
	io_set_hook(NULL);
	assert_true(m.done);
	assert_int_equal(content_size(c), 61 * 4096);
	for (int again = 0; again < 2; again++) {
		assert_true(reads_as(c, 9, 8) && reads_as(c, 10, 0) && reads_as(c, 59, 0));
		assert_int_equal(content_verify(c, &check), 0);
		assert_int_equal(check.bad, 0);
		content_close(c);
		assert_int_equal(store_file(v, "f", false, &c), 0);
	}
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* ---- threads ---- */

#define STREAM_PARTS 400u
#define STREAM_PART 9000u

struct stream {
	struct content *c;
	atomic_uint next;
};

static void *stream_run(void *arg)
{
	struct stream *s = arg;
	uint8_t buf[STREAM_PART];

	for (unsigned part; (part = atomic_fetch_add(&s->next, 1)) < STREAM_PARTS;) {
		memset(buf, (int)(part % 251 + 1), sizeof(buf));
		if (content_write(s->c, buf, sizeof(buf), (uint64_t)part * STREAM_PART) < 0)
			return (void *)"a write failed";
	}
	return NULL;
}

static void content_stream_of_many_threads_is_whole_and_dense(void **state)
{
	uint8_t buf[STREAM_PART];
	pthread_t threads[6];
	struct stream s = {0};
	char dir[64];

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	assert_int_equal(store_file(v, "f", true, &s.c), 0);
	for (unsigned k = 0; k < ARRAY_LEN(threads); k++)
		pthread_create(&threads[k], NULL, stream_run, &s);
	for (unsigned k = 0; k < ARRAY_LEN(threads); k++) {
		void *complaint;

		pthread_join(threads[k], &complaint);
		if (complaint)
			fail_msg("%s", (const char *)complaint);
	}
	content_close(s.c);
	assert_int_equal(store_file(v, "f", false, &s.c), 0);
	assert_int_equal(content_size(s.c), STREAM_PARTS * STREAM_PART);
	for (unsigned part = 0; part < STREAM_PARTS; part++) {
		assert_int_equal(content_read(s.c, buf, sizeof(buf), (uint64_t)part * STREAM_PART), STREAM_PART);
		for (unsigned k = 0; k < STREAM_PART; k++)
			assert_int_equal(buf[k], part % 251 + 1);
	}
	zero_below(s.c, 33);
	assert_int_equal(content_read(s.c, buf, 4096, 33 * 4096), -EBADMSG);
	content_close(s.c);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

#define THREAD_BLOCKS 64u

struct writer {
	struct content *c;
	unsigned number;
};

/* Each write fills whole blocks with one byte; a reader must never see two bytes in a block. */
static void *writer_run(void *arg)
{
	struct writer *w = arg;
	uint64_t seed = 77 + w->number;
	uint8_t buf[8 * 4096];

	for (unsigned k = 0; k < 400; k++) {
		uint64_t blk = store_random(&seed) % (THREAD_BLOCKS - 8), n = store_random(&seed) % 8 + 1;
		int rc = 0;

		switch (store_random(&seed) % 8) {
		case 0:
			if (content_seal_begin(w->c))
				content_seal_finish(w->c, content_sync(w->c, true));
			break;
		case 1:
			rc = content_allocate(w->c, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, blk * 4096, n * 4096);
			break;
		case 2:
			rc = content_truncate(w->c, (THREAD_BLOCKS / 2 + store_random(&seed) % (THREAD_BLOCKS / 2)) * 4096);
			break;
		case 3:
		case 4: {
			ssize_t got = content_read(w->c, buf, n * 4096, blk * 4096);

			if (got < 0)
				return (void *)"a read failed";
			for (ssize_t b = 0; b < got; b++)
				if (buf[b] != buf[b / 4096 * 4096])
					return (void *)"a torn block";
			break;
		}
		default:
			memset(buf, (int)(store_random(&seed) & 0xff), n * 4096);
			rc = content_write(w->c, buf, n * 4096, blk * 4096);
		}
		if (rc < 0)
			return (void *)"a change failed";
	}
	return NULL;
}

static void content_threads_tear_no_block(void **state)
{
	pthread_t threads[6];
	struct writer writers[6];
	struct content_check check;
	struct content *c;
	char dir[64];

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	assert_int_equal(store_file(v, "f", true, &c), 0);
	for (unsigned k = 0; k < ARRAY_LEN(threads); k++) {
		writers[k] = (struct writer){c, k};
		pthread_create(&threads[k], NULL, writer_run, &writers[k]);
	}
	for (unsigned k = 0; k < ARRAY_LEN(threads); k++) {
		void *complaint;

		pthread_join(threads[k], &complaint);
		if (complaint)
			fail_msg("%s", (const char *)complaint);
	}
	assert_int_equal(content_verify(c, &check), 0);
	assert_int_equal(check.bad, 0);
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* A file whose regions no longer suffice when it is sealed: what is overwritten while the seal's sync runs is in flux afterwards. */
static void content_blocks_sealed_meanwhile_can_be_marked(void **state)
{
	const uint64_t last = ((uint64_t)SLOT_REGIONS << REGION_SHIFT_MIN) + 1000;
	uint8_t data[BLOCK_SIZE] = {1};
	struct content *c = NULL;
	char dir[64];

	(void)state;
	test_dir(dir);
	char *store = str_format("%s/store", dir);
	store_create(store);
	struct volume *v = store_open(store);
	assert_int_equal(store_file(v, "large", true, &c), 0);
	assert_int_equal(content_write(c, data, sizeof(data), last * BLOCK_SIZE), 0);
	assert_true(content_seal_begin(c));
	assert_int_equal(content_sync(c, true), 0);
	data[0] = 2;
	assert_int_equal(content_write(c, data, sizeof(data), last * BLOCK_SIZE), 0);
	content_seal_finish(c, 0);
	assert_true(content_in_flux(c, last));
	assert_false(content_in_flux(c, 0));
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	/* And one that a clean end sealed. */
	v = store_open(store);
	assert_int_equal(store_file(v, "large", false, &c), 0);
	assert_false(content_in_flux(c, last));
	assert_int_equal(content_write(c, data, sizeof(data), last * BLOCK_SIZE), 0);
	assert_true(content_in_flux(c, last));
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	free(store);
	test_remove(dir);
}

/* Power fails after a file was made a terabyte long: that is not filled with entries. */
static void content_large_hole_recovers_as_a_hole(void **state)
{
	uint8_t data[BLOCK_SIZE], zeros[BLOCK_SIZE] = {0};
	struct content *c = NULL;
	struct stat st;
	char dir[64];

	(void)state;
	test_dir(dir);
	char *store = str_format("%s/store", dir);
	store_create(store);
	struct volume *v = store_open(store);
	assert_int_equal(store_file(v, "sparse", true, &c), 0);
	assert_int_equal(content_truncate(c, UINT64_C(1) << 40), 0);
	v->options.read_only = true; /* as a crash would end it: no slot, no clean flag */
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	v = store_open(store);
	assert_int_equal(store_file(v, "sparse", false, &c), 0);
	assert_int_equal(content_size(c), UINT64_C(1) << 40);
	assert_int_equal(fstat(content_fd(c), &st), 0);
	assert_true(st.st_blocks < 2048);
	assert_int_equal(content_read(c, data, sizeof(data), (UINT64_C(1) << 40) - BLOCK_SIZE), BLOCK_SIZE);
	assert_memory_equal(data, zeros, BLOCK_SIZE);
	content_close(c);
	assert_int_equal(volume_close(v), 0);
	free(store);
	test_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(content_blocks_sealed_meanwhile_can_be_marked),
		cmocka_unit_test(content_large_hole_recovers_as_a_hole), cmocka_unit_test(content_random_operations_match_a_model),
		cmocka_unit_test(content_last_block_filled_up_keeps_its_size), cmocka_unit_test(content_flipped_bit_is_refused), cmocka_unit_test(content_changed_length_is_refused), cmocka_unit_test(content_failed_sync_poisons),
		cmocka_unit_test(content_later_part_first_stays_dense), cmocka_unit_test(content_gap_that_stays_is_a_hole),
		cmocka_unit_test(content_failed_extension_leaves_what_others_wrote_behind_it),
		cmocka_unit_test(content_stream_of_many_threads_is_whole_and_dense), cmocka_unit_test(content_threads_tear_no_block)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
