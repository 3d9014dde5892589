/* recrypt: content under new keys while it is used, and the journal that makes that safe. */
#include "store.h"

#include "store/journal.h"
#include "store/recrypt.h"

#include "store/content_internal.h"

#define MODEL_MAX (3u << 20)

static const struct env_key next_key = {.b = "the environment key after that"};
static uint8_t model[MODEL_MAX], got[MODEL_MAX];

static void begin(struct volume *v)
{
	struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .blob = {2}, .blob_len = 1};

	assert_int_equal(volume_rotate_begin(v, &next_key, &wrap, 1, true), 0);
	assert_true(volume_data_rotating(v));
}

/* Ends the environment key's part for these files. */
static void begin_for(struct volume *v, struct content **c, unsigned n)
{
	begin(v);
	for (unsigned k = 0; k < n; k++)
		assert_true(content_rotate(c[k]) >= 0);
	assert_int_equal(volume_rotate_end(v), 0);
}

static struct volume *open_next(const char *path)
{
	struct volume *v = NULL;

	assert_int_equal(volume_open(path, &next_key, &(struct volume_options){.report = store_report}, &v), 0);
	return v;
}

static int step(struct recrypt *r, struct content *c)
{
	struct recrypt_file f = {.content = c};
	uint64_t bytes;
	int rc = recrypt_step(r, &f, 1, &bytes);

	return rc < 0 ? rc : f.result;
}

static void expect_content(struct content *c, size_t size)
{
	assert_int_equal(content_size(c), size);
	memset(got, 0xee, sizeof(got));
	assert_int_equal(content_read(c, got, sizeof(got), 0), (ssize_t)size);
	assert_memory_equal(got, model, size);
}

/* Blocks of the lower file that the old key opens. */
static unsigned opened_by(struct content *c, const struct file_key *fk)
{
	uint8_t entry[ENTRY_SIZE], data[BLOCK_SIZE];
	unsigned opened = 0;

	for (unsigned bit = 0; bit < 2; bit++) {
		const struct file_key *keys[2] = {bit ? NULL : fk, bit ? fk : NULL};
		struct block_crypto *bc = NULL;

		assert_int_equal(block_crypto_new(keys, c->head.file_id, &bc), 0);
		for (uint64_t blk = 0; blk < extent_blocks(content_size(c)); blk++) {
			assert_int_equal(io_pread_full(c->fd, entry, sizeof(entry), extent_entry_off(blk), NULL), 0);
			assert_int_equal(io_pread_full(c->fd, data, sizeof(data), extent_data_off(blk), NULL), 0);
			opened += block_open(bc, blk, entry, data, data) == 0 || block_zero_verify(bc, blk, entry) == 0;
		}
		block_crypto_free(bc);
	}
	return opened;
}

static void recrypt_keeps_what_random_operations_make(void **state)
{
	char dir[64], path[80];

	(void)state;
	test_dir(dir);
	for (unsigned round = 0; round < 12; round++) {
		uint64_t seed = 77 + round;
		struct content *c = NULL;
		struct recrypt *r = NULL;
		size_t size = 0;
		int done = 0;

		snprintf(path, sizeof(path), "%s/%u", dir, round);
		store_create(path);
		struct volume *v = store_open(path);
		memset(model, 0, sizeof(model));
		assert_int_equal(store_file(v, "file", true, &c), 0);
		for (unsigned op = 0; op < 120; op++) {
			size_t off = (size_t)(store_random(&seed) >> 9) % (MODEL_MAX - 300000), len = (size_t)(store_random(&seed) >> 9) % 300000 + 1;
			unsigned what = (unsigned)(store_random(&seed) >> 9) % 8;

			if (op == 40) {
				begin_for(v, &c, 1);
				assert_int_equal(recrypt_new(v, &r), 0);
			}
			if (op > 40 && !done) {
				assert_int_equal(recrypt_is_done(c), 0);
				done = step(r, c);
				assert_true(done >= 0);
			}
			if (what < 4) {
				for (size_t k = 0; k < len; k++)
					model[off + k] = (uint8_t)(op + k / 100);
				assert_int_equal(content_write(c, model + off, len, off), 0);
				size = MAX(size, off + len);
			} else if (what == 4) {
				assert_int_equal(content_truncate(c, off), 0);
				if (off < size)
					memset(model + off, 0, size - off);
				size = off;
			} else if (what == 5 && size) {
				assert_int_equal(content_allocate(c, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len), 0);
				memset(model + off, 0, MIN(len, MODEL_MAX - off));
			} else if (what == 6) {
				if (content_seal_begin(c))
					content_seal_finish(c, content_sync(c, true));
			} else {
				content_close(c);
				assert_int_equal(store_file(v, "file", false, &c), 0);
			}
			expect_content(c, size);
		}
		while (!done)
			done = step(r, c);
		assert_int_equal(done, 1);
		assert_true(recrypt_is_done(c));
		recrypt_free(r);
		content_close(c);
		assert_int_equal(volume_data_end(v), 0);
		assert_int_equal(volume_close(v), 0);
		v = open_next(path);
		assert_false(volume_data_rotating(v));
		assert_int_equal(store_file(v, "file", false, &c), 0);
		expect_content(c, size);
		content_close(c);
		assert_int_equal(volume_close(v), 0);
	}
	test_remove(dir);
}

static void recrypt_old_key_opens_nothing_and_holes_stay(void **state)
{
	struct content *c[3] = {NULL};
	struct recrypt *r = NULL;
	struct file_key *old[3];
	struct stat before[3], after;
	char dir[64], path[80], name[8];
	uint64_t hole, bytes;

	(void)state;
	test_dir(dir);
	snprintf(path, sizeof(path), "%s/store", dir);
	store_create(path);
	struct volume *v = store_open(path);
	memset(model, 'x', sizeof(model));
	for (unsigned k = 0; k < 3; k++) {
		snprintf(name, sizeof(name), "%u", k);
		assert_int_equal(store_file(v, name, true, &c[k]), 0);
	}
	assert_int_equal(content_write(c[0], model, 20000, 0), 0);
	assert_int_equal(content_write(c[1], model, MODEL_MAX, 0), 0);
	assert_int_equal(content_truncate(c[2], UINT64_C(1) << 40), 0);
	assert_int_equal(content_write(c[2], model, 5000, UINT64_C(700) << 30), 0);
	assert_int_equal(content_allocate(c[2], FALLOC_FL_KEEP_SIZE, UINT64_C(800) << 30, 40000), 0);
	for (unsigned k = 0; k < 3; k++) {
		old[k] = KEY_NEW(struct file_key);
		*old[k] = *c[k]->head.key[0].fk;
		assert_int_equal(fstat(c[k]->fd, &before[k]), 0);
	}
	assert_int_equal(opened_by(c[0], old[0]), 5);
	begin_for(v, c, 3);
	assert_int_equal(recrypt_new(v, &r), 0);
	for (unsigned k = 0; k < 3; k++) {
		unsigned steps = 1;
		int done;

		while ((done = step(r, c[k])) == 0)
			steps++;
		assert_int_equal(done, 1);
		assert_int_equal(step(r, c[k]), 1);
		assert_true(k == 1 ? steps > 1 : steps < 8);
		assert_int_equal(fstat(c[k]->fd, &after), 0);
		assert_int_equal(after.st_mtim.tv_nsec, before[k].st_mtim.tv_nsec);
		assert_int_equal(after.st_blocks, before[k].st_blocks);
		if (k < 2)
			assert_int_equal(opened_by(c[k], old[k]), 0);
		assert_memory_not_equal(old[k]->b, c[k]->head.key[0].fk->b, 32);
		assert_null(c[k]->head.key[1].fk);
		KEY_FREE(old[k]);
	}
	assert_int_equal(content_seek(c[2], 0, SEEK_DATA, &hole), 0);
	assert_int_equal(hole, UINT64_C(700) << 30);
	assert_int_equal(content_read(c[2], got, 5000, UINT64_C(700) << 30), 5000);
	assert_memory_equal(got, model, 5000);
	(void)bytes;
	recrypt_free(r);
	for (unsigned k = 0; k < 3; k++)
		content_close(c[k]);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void recrypt_many_small_files_in_one_step(void **state)
{
	struct recrypt_file files[RECRYPT_FILES_MAX];
	struct content *c[RECRYPT_FILES_MAX];
	struct recrypt *r = NULL;
	char dir[64], path[80], name[8];
	uint64_t bytes;

	(void)state;
	test_dir(dir);
	snprintf(path, sizeof(path), "%s/store", dir);
	store_create(path);
	struct volume *v = store_open(path);
	memset(model, 'x', sizeof(model));
	for (unsigned k = 0; k < RECRYPT_FILES_MAX; k++) {
		snprintf(name, sizeof(name), "%u", k);
		assert_int_equal(store_file(v, name, true, &c[k]), 0);
		assert_int_equal(content_write(c[k], model, k * 900 + 1, 0), 0);
		files[k].content = c[k];
	}
	/* One of them is damaged: it stays as it is, and the others do not mind. */
	uint8_t byte;
	assert_int_equal(pread(c[7]->fd, &byte, 1, (off_t)extent_data_off(0)), 1);
	byte ^= 1;
	assert_int_equal(pwrite(c[7]->fd, &byte, 1, (off_t)extent_data_off(0)), 1);
	begin_for(v, c, RECRYPT_FILES_MAX);
	assert_int_equal(recrypt_new(v, &r), 0);
	assert_int_equal(recrypt_step(r, files, RECRYPT_FILES_MAX, &bytes), 0);
	for (unsigned k = 0; k < RECRYPT_FILES_MAX; k++) {
		assert_int_equal(files[k].result, k == 7 ? -EBADMSG : 1);
		assert_int_equal(recrypt_is_done(c[k]), k != 7);
		assert_int_equal(content_read(c[k], got, sizeof(got), 0), k == 7 ? -EBADMSG : (ssize_t)k * 900 + 1);
		/* What is whole on the disk needs no seal. */
		assert_int_equal(content_is_changed(c[k]), k == 7);
		content_close(c[k]);
	}
	recrypt_free(r);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void recrypt_files_that_grew_come_with_another_step(void **state)
{
	struct recrypt_file files[RECRYPT_FILES_MAX];
	struct recrypt *r = NULL;
	struct content *c[20];
	char dir[64], path[80], name[8];
	uint64_t bytes;
	unsigned left = ARRAY_LEN(c), steps = 0;

	(void)state;
	test_dir(dir);
	snprintf(path, sizeof(path), "%s/store", dir);
	store_create(path);
	struct volume *v = store_open(path);
	memset(model, 'x', sizeof(model));
	for (unsigned k = 0; k < ARRAY_LEN(c); k++) {
		snprintf(name, sizeof(name), "%u", k);
		assert_int_equal(store_file(v, name, true, &c[k]), 0);
		assert_int_equal(content_write(c[k], model, RECRYPT_SMALL * BLOCK_SIZE, 0), 0);
		files[k].content = c[k];
	}
	begin_for(v, c, ARRAY_LEN(c));
	assert_int_equal(recrypt_new(v, &r), 0);
	for (; left > 0; steps++) {
		unsigned n = left;

		assert_int_equal(recrypt_step(r, files, n, &bytes), 0);
		for (unsigned k = left = 0; k < n; k++) {
			assert_true(files[k].result >= 0);
			if (files[k].result == 0)
				files[left++] = files[k];
		}
		assert_true(left < n);
	}
	assert_true(steps > 1);
	for (unsigned k = 0; k < ARRAY_LEN(c); k++) {
		assert_true(recrypt_is_done(c[k]));
		expect_content(c[k], RECRYPT_SMALL * BLOCK_SIZE);
		content_close(c[k]);
	}
	recrypt_free(r);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* ---- others, while the record is written ---- */

static struct {
	struct volume *v;
	struct content *c;
	unsigned what, times;
	size_t size;
} other;

enum { OTHER_WRITES, OTHER_WRITES_ELSEWHERE, OTHER_CUTS, OTHER_EMPTIES, OTHER_SEALS, OTHER_IS_SEALING, OTHER_READS, OTHER_COUNT };

/* The record is written, but for its first sector: nothing is held. */
static int other_works(void *ctx, struct io_event *ev)
{
	(void)ctx;
	if (ev->op != IO_WRITE || ev->fd == other.c->fd || ev->off != SECTOR_SIZE || other.times == 0)
		return 0;
	other.times--;
	switch (other.what) {
	case OTHER_WRITES:
	case OTHER_WRITES_ELSEWHERE:;
		size_t off = other.what == OTHER_WRITES ? 8192 : (2u << 20) + 4096;

		memset(model + off, 'o', 5000);
		assert_int_equal(content_write(other.c, model + off, 5000, off), 0);
		break;
	case OTHER_CUTS:
		other.size = 9000;
		assert_int_equal(content_truncate(other.c, other.size), 0);
		break;
	case OTHER_EMPTIES:
		assert_int_equal(content_truncate(other.c, 0), 0);
		other.size = 6000;
		assert_int_equal(content_write(other.c, model, other.size, 0), 0);
		break;
	case OTHER_SEALS:
		if (content_seal_begin(other.c))
			content_seal_finish(other.c, 0);
		break;
	case OTHER_IS_SEALING:
		assert_true(other.size > 100000); /* the step that ends a file says what the slots are */
		break;
	case OTHER_READS:
	default:
		expect_content(other.c, other.size);
	}
	return 0;
}

static void recrypt_others_change_it_while_the_record_is_written(void **state)
{
	const struct io_hook hook = {.before = other_works};
	char dir[64], path[80];

	(void)state;
	test_dir(dir);
	snprintf(path, sizeof(path), "%s/store", dir);
	for (unsigned k = 0; k < 2 * OTHER_COUNT; k++) {
		struct recrypt *r = NULL;
		int done = 0;

		store_create(path);
		other.v = store_open(path);
		other.what = k / 2;
		other.size = k % 2 ? MODEL_MAX : 100000;
		memset(model, 'x', sizeof(model));
		assert_int_equal(store_file(other.v, "file", true, &other.c), 0);
		assert_int_equal(content_write(other.c, model, other.size, 0), 0);
		if (other.what == OTHER_WRITES_ELSEWHERE)
			other.size = MAX(other.size, (2u << 20) + 4096 + 5000);
		begin_for(other.v, &other.c, 1);
		assert_int_equal(recrypt_new(other.v, &r), 0);
		if (other.size > 100000 && k % 2 == 0) /* it will be: zeros until then */
			memset(model + 100000, 0, MODEL_MAX - 100000);
		other.times = 3;
		if (other.what == OTHER_IS_SEALING)
			assert_true(content_seal_begin(other.c));
		io_set_hook(&hook);
		while (done == 0)
			done = step(r, other.c);
		io_set_hook(NULL);
		assert_int_equal(done, 1);
		assert_int_equal(other.times < 3, other.what != OTHER_IS_SEALING || k % 2);
		if (other.what == OTHER_IS_SEALING)
			content_seal_finish(other.c, content_sync(other.c, true));
		expect_content(other.c, other.size);
		content_close(other.c);
		recrypt_free(r);
		assert_int_equal(volume_close(other.v), 0);
		other.v = open_next(path);
		assert_int_equal(store_file(other.v, "file", false, &other.c), 0);
		expect_content(other.c, other.size);
		assert_int_equal(atomic_load(&other.v->stats.refused), 0);
		content_close(other.c);
		assert_int_equal(volume_close(other.v), 0);
		test_remove(path);
	}
	test_remove(dir);
}

/* ---- failing calls, and a crash after each ---- */

static struct {
	unsigned calls, fail_at;
	enum io_op op;
} injected;

static int fail_before(void *ctx, struct io_event *ev)
{
	(void)ctx;
	if (ev->op != IO_WRITE && ev->op != IO_FDATASYNC)
		return 0;
	return ++injected.calls == injected.fail_at ? -EIO : 0;
}

static int fail_for_ever(void *ctx, struct io_event *ev)
{
	(void)ctx;
	if (ev->op != IO_WRITE && ev->op != IO_FDATASYNC && ev->op != IO_TRUNCATE)
		return 0;
	return ++injected.calls >= injected.fail_at ? -EIO : 0;
}

/* The N-th write or sync fails, once or from then on: the next mount reads everything, and the rotation ends. */
static void recrypt_failing_call_loses_nothing(void **state)
{
	const struct io_hook hooks[] = {{.before = fail_before}, {.before = fail_for_ever}};
	unsigned failures = 0;
	char dir[64], path[80];

	(void)state;
	test_dir(dir);
	for (unsigned which = 0; which < ARRAY_LEN(hooks); which++)
		for (unsigned n = 1;; n++) {
			struct content *c[3] = {NULL};
			struct recrypt *r = NULL;
			char name[8];

			snprintf(path, sizeof(path), "%s/store", dir);
			store_create(path);
			struct volume *v = store_open(path);
			for (size_t k = 0; k < sizeof(model); k++)
				model[k] = (uint8_t)(k / 4096 + k % 17);
			for (unsigned k = 0; k < 3; k++) {
				snprintf(name, sizeof(name), "%u", k);
				assert_int_equal(store_file(v, name, true, &c[k]), 0);
				assert_int_equal(content_write(c[k], model, k ? 30000 : sizeof(model), 0), 0);
				if (content_seal_begin(c[k]))
					content_seal_finish(c[k], content_sync(c[k], true));
			}
			begin_for(v, c, 3);
			assert_int_equal(recrypt_new(v, &r), 0);
			injected.calls = 0;
			injected.fail_at = n;
			io_set_hook(&hooks[which]);
			int rc = 0;
			while (rc == 0)
				rc = step(r, c[0]);
			struct recrypt_file two[] = {{.content = c[1]}, {.content = c[2]}};
			uint64_t bytes;
			if (rc > 0)
				rc = recrypt_step(r, two, 2, &bytes);
			rc = MIN(rc, MIN(two[0].result, two[1].result));
			/* A crash: nothing more is written. */
			v->options.read_only = true;
			for (unsigned k = 0; k < 3; k++)
				content_close(c[k]);
			recrypt_free(r);
			assert_int_equal(volume_close(v), 0);
			io_set_hook(NULL);
			bool hit = injected.calls >= n;
			assert_true(!hit || rc < 0);
			failures += hit;

			/* As a reader that changes nothing sees it, then mounted. */
			for (unsigned round = 0; round < 3; round++) {
				v = NULL;
				assert_int_equal(volume_open(path, &next_key, &(struct volume_options){.report = store_report, .read_only = round == 0}, &v), 0);
				for (unsigned k = 0; k < 3; k++) {
					struct content_check check;

					snprintf(name, sizeof(name), "%u", k);
					assert_int_equal(store_file(v, name, false, &c[k]), 0);
					expect_content(c[k], k ? 30000 : sizeof(model));
					assert_int_equal(content_verify(c[k], &check), 0);
					assert_int_equal(check.bad, 0);
				}
				assert_int_equal(atomic_load(&v->stats.refused), 0);
				if (round == 1) {
					assert_int_equal(journal_pending(v), 0);
					assert_int_equal(recrypt_new(v, &r), 0);
					for (unsigned k = 0; k < 3; k++) {
						while ((rc = step(r, c[k])) == 0)
							;
						assert_int_equal(rc, 1);
					}
					recrypt_free(r);
				}
				for (unsigned k = 0; k < 3; k++)
					content_close(c[k]);
				assert_int_equal(volume_close(v), 0);
			}
			test_remove(path);
			if (!hit)
				break;
		}
	print_message("%u failures\n", failures);
	assert_true(failures > 20);
	test_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(recrypt_keeps_what_random_operations_make),
		cmocka_unit_test(recrypt_old_key_opens_nothing_and_holes_stay), cmocka_unit_test(recrypt_many_small_files_in_one_step),
		cmocka_unit_test(recrypt_files_that_grew_come_with_another_step),
		cmocka_unit_test(recrypt_others_change_it_while_the_record_is_written), cmocka_unit_test(recrypt_failing_call_loses_nothing)};

	/* Thousands of syncs: in memory they cost nothing, and nothing here depends on a real one. */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
