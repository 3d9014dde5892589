/* workloads: what the store is asked to do before the power goes. See crash.h. */
#include "crash.h"
#include "programs.h"

#include "store/recrypt.h"

#include <linux/falloc.h>

#define SIZE_ANY (40u * BLOCK_SIZE)

static uint64_t below(struct crash *h, uint64_t n)
{
	return crash_below(&h->seed, n);
}

/* A write as engines and applications make it: whole blocks or bytes, small or large. */
static void write_somewhere(struct crash *h, uint32_t obj)
{
	uint64_t off = below(h, SIZE_ANY), len = 1 + below(h, below(h, 4) ? 3 * BLOCK_SIZE : 24 * BLOCK_SIZE);

	if (below(h, 2)) {
		off = off / BLOCK_SIZE * BLOCK_SIZE;
		len = (len + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
	}
	crash_write(h, obj, off, len);
}

/* Data files under load: overwritten, synced and sealed all over, now and then closed. */
static void run_overwrite(struct crash *h)
{
	uint32_t files[3];

	for (unsigned f = 0; f < 3; f++) {
		files[f] = crash_create(h, CRASH_ROOT, (const char *[]){"data", "index", "wal"}[f]);
		crash_write(h, files[f], 0, SIZE_ANY);
		if (below(h, 2))
			crash_sync(h, files[f], false);
	}
	for (unsigned op = 0; op < 60; op++) {
		uint32_t f = files[below(h, 3)];
		uint64_t what = below(h, 12);

		if (what < 6)
			write_somewhere(h, f);
		else if (what < 9)
			crash_sync(h, f, below(h, 2));
		else if (what < 11)
			crash_seal(h, f);
		else
			crash_close(h, f);
	}
}

/* Logs that only grow, beyond a group of blocks. */
static void run_append(struct crash *h)
{
	uint32_t log = crash_create(h, CRASH_ROOT, "log"), whole = crash_create(h, CRASH_ROOT, "blocks");

	if (below(h, 2))
		crash_write(h, whole, 0, 120 * BLOCK_SIZE);
	for (unsigned op = 0; op < 50; op++) {
		if (below(h, 2))
			crash_write(h, log, h->objects[log].size, 1 + below(h, 7000));
		else
			crash_write(h, whole, h->objects[whole].size, (1 + below(h, 4)) * BLOCK_SIZE);
		if (below(h, 2))
			crash_sync(h, below(h, 2) ? log : whole, true);
		if (below(h, 8) == 0)
			crash_seal(h, below(h, 2) ? log : whole);
	}
}

/* Configuration and the like: write a new one, sync, rename it over, sync the directory. */
static void run_rename_over(struct crash *h)
{
	const char *const names[] = {"settings", "state", ("a name of a hundred and ninety bytes "
		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")};
	uint32_t dir = crash_mkdir(h, CRASH_ROOT, "etc");

	for (unsigned op = 0; op < 16; op++) {
		const char *name = names[below(h, 3)];
		uint32_t f = crash_create(h, dir, "new");

		crash_write(h, f, 0, 1 + below(h, 9000));
		if (below(h, 4))
			crash_sync(h, f, false);
		crash_rename(h, dir, "new", dir, name, 0);
		if (below(h, 4))
			crash_sync_dir(h, dir);
		crash_close(h, f);
		if (below(h, 5) == 0 && crash_lookup(h, dir, name) != CRASH_NONE)
			crash_unlink(h, dir, name);
	}
}

/* A spool of small files. */
static void run_small_files(struct crash *h)
{
	uint32_t dirs[2] = {crash_mkdir(h, CRASH_ROOT, "in"), crash_mkdir(h, CRASH_ROOT, "out")};
	char name[20];

	for (unsigned op = 0; op < 40; op++) {
		uint32_t dir = dirs[below(h, 2)];

		snprintf(name, sizeof(name), "mail %llu", (unsigned long long)below(h, 8));
		uint32_t there = crash_lookup(h, dir, name);
		if (there == CRASH_NONE) {
			uint32_t f = crash_create(h, dir, name);

			if (below(h, 6))
				crash_write(h, f, 0, 1 + below(h, 6000));
			if (below(h, 2))
				crash_sync(h, f, false);
			crash_close(h, f);
		} else if (below(h, 2)) {
			crash_unlink(h, dir, name);
		} else {
			crash_rename(h, dir, name, dirs[0] == dir ? dirs[1] : dirs[0], name, 0);
		}
		if (below(h, 5) == 0)
			crash_sync_dir(h, dir);
	}
}

/* Lengths and allocation. */
static void run_truncate(struct crash *h)
{
	static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
	uint32_t files[2] = {crash_create(h, CRASH_ROOT, "one"), crash_create(h, CRASH_ROOT, "two")};

	for (unsigned op = 0; op < 60; op++) {
		uint32_t f = files[below(h, 2)];
		uint64_t what = below(h, 14), size = h->objects[f].size;

		if (what < 4) {
			write_somewhere(h, f);
		} else if (what < 6) {
			uint64_t to = below(h, 3) ? below(h, size + 1) : below(h, CRASH_BLOCKS * BLOCK_SIZE);

			crash_truncate(h, f, below(h, 3) ? to : to / BLOCK_SIZE * BLOCK_SIZE);
		} else if (what < 7) {
			crash_truncate(h, f, 0);
		} else if (what < 10) {
			crash_allocate(h, f, modes[below(h, ARRAY_LEN(modes))], below(h, CRASH_BLOCKS * BLOCK_SIZE), 1 + below(h, SIZE_ANY));
		} else if (what < 12) {
			crash_sync(h, f, below(h, 2));
		} else if (what < 13) {
			crash_seal(h, f);
		} else {
			crash_close(h, f);
		}
	}
}

/* Directories, links, attributes, long names, and every kind of rename. */
static void run_tree(struct crash *h)
{
	char name[3][200];
	uint32_t dirs[8] = {CRASH_ROOT}, n = 1;

	for (unsigned op = 0; op < 40 && h->object_count < CRASH_OBJECTS - 2; op++) {
		uint32_t dir = dirs[below(h, n)], dir2 = dirs[below(h, n)];
		uint64_t what = below(h, 18);

		for (unsigned k = 0; k < 3; k++) {
			snprintf(name[k], sizeof(name[k]), "%c", (char)('a' + below(h, 6)));
			if (below(h, 4) == 0)
				memset(name[k], name[k][0], 190), name[k][190] = '\0';
		}
		uint32_t there = crash_lookup(h, dir, name[0]), there2 = crash_lookup(h, dir2, name[1]);
		mode_t type = there == CRASH_NONE ? 0 : h->objects[there].type;

		if (what < 4 && there == CRASH_NONE) {
			uint32_t f = crash_create(h, dir, name[0]);

			crash_write(h, f, 0, 1 + below(h, 5000));
			if (below(h, 2))
				crash_sync(h, f, false);
			crash_close(h, f);
		} else if (what < 7 && there == CRASH_NONE && n < ARRAY_LEN(dirs)) {
			dirs[n++] = crash_mkdir(h, dir, name[0]);
		} else if (what < 8 && there == CRASH_NONE) {
			crash_symlink(h, dir, name[0], name[2]);
		} else if (what < 9 && S_ISREG(type) && there2 == CRASH_NONE) {
			crash_link(h, there, dir2, name[1]);
		} else if (what < 10 && type && !S_ISLNK(type)) {
			crash_setxattr(h, there, crash_random(&h->seed));
		} else if (what < 11 && type && !S_ISDIR(type)) {
			crash_unlink(h, dir, name[0]);
		} else if (what < 12 && S_ISDIR(type) && crash_is_empty(h, there)) {
			crash_rmdir(h, dir, name[0]);
			for (uint32_t k = 0; k < n; k++)
				if (dirs[k] == there)
					dirs[k] = dirs[--n];
		} else if (what < 16 && type) {
			mode_t type2 = there2 == CRASH_NONE ? 0 : h->objects[there2].type;
			bool exchange = type2 && below(h, 3) == 0;

			/* Only what rename(2) allows. */
			if ((S_ISDIR(type) && crash_is_below(h, dir2, there)) || (exchange && S_ISDIR(type2) && crash_is_below(h, dir, there2)))
				continue;
			if (!exchange && type2 && (S_ISDIR(type) != S_ISDIR(type2) || (S_ISDIR(type2) && !crash_is_empty(h, there2))))
				continue;
			if (there == there2 && exchange)
				continue;
			crash_rename(h, dir, name[0], dir2, name[1], exchange ? RENAME_EXCHANGE : 0);
			for (uint32_t k = 0; k < n && !exchange && there != there2; k++)
				if (dirs[k] == there2)
					dirs[k] = dirs[--n];
		} else if (what < 17) {
			crash_sync_dir(h, dir);
		}
	}
}

/* A new environment key while files are in use. */
static void run_rotate(struct crash *h)
{
	struct env_wrap wrap;
	uint32_t files[4], n = 0;

	for (unsigned op = 0; op < 45; op++) {
		uint64_t what = below(h, 8);

		if (op == 15) {
			programs_wrap(&crash_next_key, &wrap);
			assert_int_equal(volume_rotate_begin(h->v, &crash_next_key, &wrap, 1, false), 0);
			h->rotated = true;
		}
		if (op == 30) {
			for (uint32_t f = 0; f < n; f++)
				assert_true(content_rotate(crash_content(h, files[f])) >= 0);
			assert_int_equal(volume_rotate_end(h->v), 0);
		}
		if (n < 4 && (n == 0 || below(h, 8) == 0)) {
			char name[8];

			snprintf(name, sizeof(name), "f%u", n);
			files[n++] = crash_create(h, CRASH_ROOT, name);
		}
		uint32_t f = files[below(h, n)];
		if (what < 4)
			write_somewhere(h, f);
		else if (what < 6)
			crash_sync(h, f, true);
		else if (what < 7)
			crash_seal(h, f);
		else
			crash_close(h, f);
	}
}

/* Content under new keys while files are in use: small ones in one step, a large one in several. */
static void run_recrypt(struct crash *h)
{
	struct env_wrap wrap;
	struct recrypt *r = NULL;
	uint32_t files[4];
	bool ended = false;

	for (unsigned f = 0; f < 4; f++) {
		files[f] = crash_create(h, CRASH_ROOT, (const char *[]){"one", "two", "three", "four"}[f]);
		crash_write(h, files[f], f ? 0 : 20 * BLOCK_SIZE, f ? SIZE_ANY : (CRASH_BLOCKS - 25) * BLOCK_SIZE);
		if (below(h, 2))
			crash_sync(h, files[f], true);
		if (below(h, 2))
			crash_seal(h, files[f]);
	}
	for (unsigned op = 0; op < 50; op++) {
		uint32_t f = files[below(h, 4)];
		uint64_t what = below(h, 15), bytes;

		if (op == 5) {
			programs_wrap(&crash_next_key, &wrap);
			assert_int_equal(volume_rotate_begin(h->v, &crash_next_key, &wrap, 1, true), 0);
			h->rotated = true;
			for (unsigned k = 0; k < 4; k++)
				assert_true(content_rotate(crash_content(h, files[k])) >= 0);
			assert_int_equal(volume_rotate_end(h->v), 0);
		}
		if (what < 5 && op > 5 && !ended) {
			struct recrypt_file step[4] = {{.content = crash_content(h, f)}};
			unsigned n = 1;

			if (!r)
				assert_int_equal(recrypt_new(h->v, &r), 0);
			for (unsigned k = 1; what < 2 && k < 4; k++)
				step[n++].content = crash_content(h, files[k]);
			assert_int_equal(recrypt_step(r, what < 2 && f != files[0] ? step + 1 : step, what < 2 && f != files[0] ? 3 : 1, &bytes), 0);
			ended = true;
			for (unsigned k = 0; k < 4; k++)
				ended = ended && recrypt_is_done(crash_content(h, files[k]));
			if (ended)
				assert_int_equal(volume_data_end(h->v), 0);
			if (ended || below(h, 4) == 0) {
				recrypt_free(r);
				r = NULL;
			}
		} else if (what < 9) {
			write_somewhere(h, f);
		} else if (what < 10) {
			crash_allocate(h, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, below(h, CRASH_BLOCKS * BLOCK_SIZE), 1 + below(h, SIZE_ANY));
		} else if (what < 11) {
			crash_truncate(h, f, below(h, 4) ? below(h, h->objects[f].size + 1) : 0);
		} else if (what < 13) {
			crash_sync(h, f, true);
		} else if (what < 14) {
			crash_seal(h, f);
		} else {
			crash_close(h, f);
		}
	}
	recrypt_free(r);
}

/* Workers that die, mounts that end well, and unclean ends that are forgotten, before the power goes. */
static void run_remount(struct crash *h)
{
	uint32_t dir = crash_mkdir(h, CRASH_ROOT, "dir"), files[2];

	files[0] = crash_create(h, CRASH_ROOT, "one");
	files[1] = crash_create(h, dir, "two");
	for (unsigned op = 0; op < 40; op++) {
		uint32_t f = files[below(h, 2)];
		uint64_t what = below(h, 15);

		if (what < 6)
			write_somewhere(h, f);
		else if (what == 14)
			crash_forget(h);
		else if (what < 8)
			crash_truncate(h, f, below(h, SIZE_ANY) / (below(h, 2) ? 1 : BLOCK_SIZE) * (below(h, 2) ? 1 : 7));
		else if (what < 10)
			crash_sync(h, f, false);
		else if (what < 12)
			crash_seal(h, f);
		else
			crash_remount(h, what == 12);
	}
}

const struct crash_workload crash_workloads[] = {
	{"overwrite", run_overwrite, false},
	{"append", run_append, false},
	{"rename over", run_rename_over, false},
	{"small files", run_small_files, false},
	{"truncate", run_truncate, false},
	{"tree", run_tree, false},
	{"rotate", run_rotate, true},
	{"recrypt", run_recrypt, true},
	{"remount", run_remount, false},
};
const size_t crash_workload_count = ARRAY_LEN(crash_workloads);
