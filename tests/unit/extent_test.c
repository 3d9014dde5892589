#include "test.h"

#include "store/extent.h"

static void extent_size_roundtrips_at_every_edge(void **state)
{
	static const uint64_t bases[] = {0, 4096, 127 * 4096ull, 128 * 4096ull, 129 * 4096ull, 256 * 4096ull, 1ull << 30, FILE_SIZE_MAX - 8192};
	(void)state;
	for (size_t b = 0; b < ARRAY_LEN(bases); b++)
		for (uint64_t d = 0; d <= 8192; d++) {
			uint64_t size = bases[b] + d, cipher = extent_cipher_len(size);

			assert_int_equal(extent_plain_size(cipher), size);
		}
	assert_true(extent_cipher_len(FILE_SIZE_MAX) < 1ull << 44);
}

static void extent_known_layout(void **state)
{
	(void)state;
	assert_int_equal(extent_tag_off(0), 4096);
	assert_int_equal(extent_data_off(0), 8192);
	assert_int_equal(extent_data_off(127), 8192 + 127 * 4096);
	assert_int_equal(extent_tag_off(128), 4096 + 129 * 4096);
	assert_int_equal(extent_data_off(128), 4096 + 130 * 4096);
	assert_int_equal(extent_entry_off(129), 4096 + 129 * 4096 + 32);
	assert_int_equal(extent_cipher_len(1), 8192 + 4096 + 1);
	assert_int_equal(extent_cipher_len(4096), 8192 + 4096);
}

static void extent_lower_offsets_map_back(void **state)
{
	uint64_t blk;

	(void)state;
	for (uint64_t b = 0; b < 1000; b++) {
		assert_int_equal(extent_at(extent_data_off(b), &blk), EXTENT_DATA);
		assert_int_equal(blk, b);
		assert_int_equal(extent_at(extent_data_off(b) + 4095, &blk), EXTENT_DATA);
		assert_int_equal(blk, b);
		assert_int_equal(extent_at(extent_tag_off(b), &blk), EXTENT_TAG);
		assert_int_equal(blk, b / 128 * 128);
	}
	assert_int_equal(extent_at(4095, &blk), EXTENT_HEADER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(extent_size_roundtrips_at_every_edge), cmocka_unit_test(extent_known_layout),
		cmocka_unit_test(extent_lower_offsets_map_back)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
