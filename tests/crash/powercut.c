/* powercut: cuts the power between any two lower writes, and asks whether what was promised holds.
 *
 *     powercut [STATES [SEED]]           this many states (4000), the planted bugs before
 *     powercut --round WORKLOAD SEED     one round again, as a failure names it
 *
 * Each round runs one workload on a new store, records what it does below, and builds crash states of it (record.h), half of them
 * journal, half loose. One in eight is cut again while it recovers. Each is checked against the model (crash.h). To some the real
 * tdefs-fsck is put before, half of these with --repair, and after; some are then read by the independent reader. */
#include "crash.h"
#include "plant.h"
#include "programs.h"

#include <sys/stat.h>

static char scratch_dir[64];
static uint64_t first_seed = UINT64_C(0x9e3779b97f4a7c15);

struct tally {
	unsigned states, twice, fscked, read, violations, refused;
};

/* The power goes a second time, while the state recovers: what holds for the first cut has to hold still. */
static void check_twice(struct crash *h, const struct plant *plant, const char *dir, struct crash_state *s)
{
	char base[100], twice[100];
	struct recording recovery;
	unsigned before = h->violations;
	uint64_t seed = s->seed;

	snprintf(base, sizeof(base), "%s/base2", scratch_dir);
	snprintf(twice, sizeof(twice), "%s/twice", scratch_dir);
	record_begin(&recovery, dir, base, NULL);
	uint32_t *serials = calloc(h->record.objects + 1, sizeof(*serials));
	assert_non_null(serials);
	for (uint32_t o = 1; o <= h->record.objects; o++)
		serials[o] = s->inos[o] ? record_of_ino(&recovery, s->inos[o]) : 0;
	crash_check(h, dir, s, 0);
	record_end();
	if (plant)
		plant->recovery(&recovery);
	struct crash_state second = {.cut = crash_below(&seed, recovery.count + 1), .loose = s->loose, .small_blocks = s->small_blocks,
		.seed = seed};
	state_build(&recovery, twice, &second);
	struct crash_state both = {.cut = s->cut, .loose = s->loose, .inos = calloc(h->record.objects + 1, sizeof(*both.inos))};
	for (uint32_t o = 1; o <= h->record.objects; o++)
		both.inos[o] = serials[o] ? second.inos[serials[o]] : 0;
	crash_check(h, twice, &both, CHECK_USE);
	if (h->violations > before && !h->quiet)
		fprintf(stderr, "cut again at %zu of %zu\n", second.cut, recovery.count);
	state_done(&second);
	state_done(&both);
	free(serials);
	record_free(&recovery);
	test_remove(base);
	test_remove(twice);
}

/* Every so many states. */
#define FSCK_EACH 15u /* odd: journal and loose ones in turn */
#define READ_EACH 60u

static void fsck(struct crash *h, const char *dir, bool repair, const char *when)
{
	if (programs_fsck(dir, repair))
		return;
	fprintf(stderr, "tdefs-fsck%s %s\n", repair ? " --repair" : "", when);
	h->violations++;
}

struct listing {
	struct volume *v;
	char *said; /* by the reader */
	unsigned files, missing;
};

static int list_file(void *ctx, int path_fd, const struct stat *st, const char *lower, const char *plain)
{
	static uint8_t data[4 * CRASH_BLOCKS * BLOCK_SIZE];
	struct listing *l = ctx;
	struct content *c = NULL;
	uint8_t digest[32];
	char hex[65];
	int fd = io_reopen(path_fd, O_RDONLY);

	(void)lower;
	assert_true(fd >= 0);
	assert_int_equal(content_open(l->v, fd, &c), 0);
	assert_true(content_size(c) <= sizeof(data));
	ssize_t n = content_read(c, data, sizeof(data), 0);
	content_close(c);
	assert_true(n >= 0);
	assert_int_equal(crypto_sha256(data, (size_t)n, digest), 0);
	hex_encode(digest, sizeof(digest), hex);
	CLEANUP_FREE char *line = str_format("f %04o %zd %s %s\n", (unsigned)st->st_mode & 07777, n, hex, plain);
	/* The reader has every line of ours, and so many. */
	l->missing += !l->said || !strstr(l->said, line);
	l->files++;
	return 0;
}

static void list_found(void *ctx, const struct scrub_finding *f)
{
	((struct listing *)ctx)->missing += f != NULL;
}

/* The independent reader sees in each file what the library sees there. */
static void read_independently(struct crash *h, const char *dir)
{
	struct listing l = {.said = programs_read(dir, &store_key)};
	struct scrub_visitor visitor = {.file = list_file, .found = list_found, .ctx = &l};
	unsigned said = 0;

	assert_int_equal(volume_open(dir, &store_key, &(struct volume_options){.read_only = true}, &l.v), 0);
	assert_int_equal(scrub_walk(l.v, &visitor), 0);
	assert_int_equal(volume_close(l.v), 0);
	for (const char *line = l.said; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		said += strncmp(line, "f ", 2) == 0;
	if (l.missing || said != l.files) {
		fprintf(stderr, "the independent reader: %u files, %u of %u not as the library has them\n", said, l.missing, l.files);
		h->violations++;
	}
	free(l.said);
}

/* As the model counts records: those that were. */
static size_t cut_of_model(const struct recording *r, size_t cut)
{
	size_t planted = 0;

	for (size_t k = 0; k < cut; k++)
		planted += r->records[k].planted;
	return cut - planted;
}

static void run_round(const struct crash_workload *w, const struct plant *plant, uint64_t seed, unsigned states, struct tally *t)
{
	static struct crash h;
	char dir[100], base[sizeof(h.record.base)];

	crash_begin(&h, scratch_dir, seed);
	w->run(&h);
	crash_end(&h);
	h.quiet = plant != NULL;
	if (plant)
		plant->workload(&h.record);
	for (unsigned k = 0; k < states; k++) {
		struct crash_state s = {.cut = crash_below(&h.seed, h.record.count) + 1, .loose = k % 2, .small_blocks = h.small_blocks,
			.seed = crash_random(&h.seed)};
		unsigned before = h.violations + h.refused;

		snprintf(dir, sizeof(dir), "%s/state", scratch_dir);
		state_build(&h.record, dir, &s);
		s.cut = cut_of_model(&h.record, s.cut);
		unsigned serial = t->states;
		bool programs = !plant && serial % FSCK_EACH == 3 && k % 8 != 7;
		if (programs)
			fsck(&h, dir, serial / FSCK_EACH % 2, "as the crash left it");
		if (k % 8 == 7) {
			check_twice(&h, plant, dir, &s);
			t->twice++;
		} else {
			crash_check(&h, dir, &s, CHECK_USE | (k % 4 == 0 ? CHECK_AGAIN : 0));
		}
		if (programs) {
			fsck(&h, dir, false, "in the end");
			t->fscked++;
		}
		if (programs && !w->rotates && serial % READ_EACH == 3) {
			read_independently(&h, dir);
			t->read++;
		}
		if (!plant && h.violations + h.refused > before)
			fprintf(stderr, "%s: seed %llx, state %u: %u refused\n", w->name, (unsigned long long)seed, k, h.refused);
		state_done(&s);
		test_remove(dir);
		t->states++;
	}
	t->violations += h.violations;
	t->refused += h.refused;
	test_remove(h.store);
	strcpy(base, h.record.base);
	test_remove(base);
	crash_free(&h);
}

#define STATES_A_ROUND 50u
#define PLANT_STATES 8000u

static void planted_bugs_are_found(void **state)
{
	(void)state;
	for (const struct plant *plant = plants; plant->name; plant++) {
		struct tally t = {0};

		for (unsigned round = 0; t.states < PLANT_STATES && t.violations + t.refused == 0; round++)
			for (size_t w = 0; w < crash_workload_count && t.violations + t.refused == 0; w++)
				if (!plant->only || strcmp(plant->only, crash_workloads[w].name) == 0)
					run_round(&crash_workloads[w], plant, first_seed * (round + 1) + w, 16, &t);
		print_message("planted: %s: found in %u states\n", plant->name, t.states);
		if (t.violations + t.refused == 0)
			fail_msg("not found: %s", plant->name);
	}
}

static unsigned states_wanted = 4000;

static void power_cuts_keep_the_promise(void **state)
{
	struct tally all = {0};
	unsigned rounds = states_wanted / STATES_A_ROUND / (unsigned)crash_workload_count + 1;

	(void)state;
	for (size_t w = 0; w < crash_workload_count; w++) {
		struct tally t = {0};

		for (unsigned round = 0; round < rounds; round++)
			run_round(&crash_workloads[w], NULL, first_seed * (2 * round + 1) + w, STATES_A_ROUND, &t);
		print_message("%-12s %6u crash states, %u cut twice, %u with tdefs-fsck, %u read independently: %u violations, %u refusals\n",
			crash_workloads[w].name, t.states, t.twice, t.fscked, t.read, t.violations, t.refused);
		all.states += t.states;
		all.fscked += t.fscked;
		all.read += t.read;
		all.violations += t.violations;
		all.refused += t.refused;
	}
	print_message("%-12s %6u crash states, %u with tdefs-fsck, %u read independently: %u violations, %u refusals\n", "all", all.states,
		all.fscked, all.read, all.violations, all.refused);
	assert_int_equal(all.violations, 0);
	assert_int_equal(all.refused, 0);
}

static int one_round(const char *workload, uint64_t seed)
{
	struct tally t = {0};

	test_dir(scratch_dir);
	programs_begin(scratch_dir);
	for (size_t w = 0; w < crash_workload_count; w++)
		if (strcmp(crash_workloads[w].name, workload) == 0)
			run_round(&crash_workloads[w], NULL, seed, STATES_A_ROUND, &t);
	programs_end();
	test_remove(scratch_dir);
	printf("%u states, %u violations, %u refusals\n", t.states, t.violations, t.refused);
	return t.states == 0 || t.violations + t.refused > 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(planted_bugs_are_found), cmocka_unit_test(power_cuts_keep_the_promise)};

	/* Thousands of syncs: in memory they cost nothing, and nothing here depends on a real one. */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 1);
	if (argc == 4 && strcmp(argv[1], "--round") == 0)
		return one_round(argv[2], strtoull(argv[3], NULL, 16));
	if (getenv("TDEFS_LONG"))
		states_wanted = 100000;
	if (argc > 1)
		states_wanted = (unsigned)strtoul(argv[1], NULL, 0);
	if (argc > 2)
		first_seed = strtoull(argv[2], NULL, 0) | 1;
	test_dir(scratch_dir);
	programs_begin(scratch_dir);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	programs_end();
	test_remove(scratch_dir);
	return failed;
}
