/* powercut: cuts the power between any two lower writes, and asks whether what was promised holds.
 *
 *     powercut [STATES [SEED]]           this many states (4000), the planted bugs before
 *     powercut --round WORKLOAD SEED     one round again, as a failure names it
 *
 * Each round runs one workload on a new store, records what it does below, and builds crash states of it (record.h), half of them
 * journal, half loose. One in eight is cut again while it recovers. Each is checked against the model (crash.h). */
#include "crash.h"
#include "plant.h"

#include <sys/stat.h>

static char scratch_dir[64];
static uint64_t first_seed = UINT64_C(0x9e3779b97f4a7c15);

struct tally {
	unsigned states, twice, violations, refused;
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
		if (k % 8 == 7) {
			check_twice(&h, plant, dir, &s);
			t->twice++;
		} else {
			crash_check(&h, dir, &s, CHECK_USE | (k % 4 == 0 ? CHECK_AGAIN : 0));
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

static void planted_bugs_are_found(void **state)
{
	(void)state;
	for (const struct plant *plant = plants; plant->name; plant++) {
		struct tally t = {0};

		for (unsigned round = 0; round < 40 && t.violations + t.refused == 0; round++)
			for (size_t w = 0; w < crash_workload_count && t.violations + t.refused == 0; w++)
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
		print_message("%-12s %6u crash states, %u of them cut twice: %u violations, %u refusals\n", crash_workloads[w].name, t.states,
			t.twice, t.violations, t.refused);
		all.states += t.states;
		all.violations += t.violations;
		all.refused += t.refused;
	}
	print_message("%-12s %6u crash states: %u violations, %u refusals\n", "all", all.states, all.violations, all.refused);
	assert_int_equal(all.violations, 0);
	assert_int_equal(all.refused, 0);
}

static int one_round(const char *workload, uint64_t seed)
{
	struct tally t = {0};

	test_dir(scratch_dir);
	for (size_t w = 0; w < crash_workload_count; w++)
		if (strcmp(crash_workloads[w].name, workload) == 0)
			run_round(&crash_workloads[w], NULL, seed, STATES_A_ROUND, &t);
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
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	test_remove(scratch_dir);
	return failed;
}
