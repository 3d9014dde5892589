/* gaps: against a bitmap. */
#include "test.h"

#include "store/gaps.h"

#define BLOCKS 100u

static void gaps_random_changes_match_a_bitmap(void **state)
{
	unsigned refused = 0;

	(void)state;
	srandom(5);
	for (unsigned round = 0; round < 200; round++) {
		struct gaps g = {0};
		bool model[BLOCKS + 1] = {false};

		for (unsigned op = 0; op < 200; op++) {
			uint64_t first = (uint64_t)random() % BLOCKS, end = first + (uint64_t)random() % (round % 2 ? 3 : 30);
			bool add = random() % 2;

			end = MIN(end, BLOCKS);
			if (add ? gaps_add(&g, first, end) : gaps_remove(&g, first, end))
				for (uint64_t b = first; b < end; b++)
					model[b] = add;
			else
				refused++;
			bool all = true;
			for (uint64_t b = 0; b < BLOCKS; b++) {
				assert_int_equal(gaps_has(&g, b), model[b]);
				all &= b < first || b >= end || model[b];
			}
			assert_int_equal(gaps_cover(&g, first, end), all);
			for (unsigned i = 0; i + 1 < g.count; i++)
				assert_true(g.at[i].end < g.at[i + 1].first);
		}
	}
	assert_true(refused > 0); /* a full list was among them */
}

static void gaps_meet_where_a_block_is_in_both(void **state)
{
	struct gaps a = {0}, b = {0};

	(void)state;
	assert_true(gaps_add(&a, 10, 20) && gaps_add(&b, 20, 30));
	assert_false(gaps_meet(&a, &b));
	assert_true(gaps_add(&b, 15, 16));
	assert_true(gaps_meet(&a, &b) && gaps_meet(&b, &a));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gaps_random_changes_match_a_bitmap), cmocka_unit_test(gaps_meet_where_a_block_is_in_both)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
