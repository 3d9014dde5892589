#include "test.h"

#include "base/util.h"

static void base64url_every_length_roundtrips(void **state)
{
	uint8_t data[64], back[64];
	char text[100];
	size_t len;

	(void)state;
	for (size_t n = 0; n <= sizeof(data); n++) {
		for (size_t k = 0; k < n; k++)
			data[k] = (uint8_t)(k * 37 + n);
		base64url_encode(data, n, text);
		assert_int_equal(strlen(text), BASE64URL_LEN(n));
		assert_int_equal(base64url_decode(text, strlen(text), back, sizeof(back), &len), 0);
		assert_int_equal(len, n);
		assert_memory_equal(data, back, n);
	}
	base64url_encode("\xfb\xff", 2, text);
	assert_string_equal(text, "-_8"); /* RFC 4648 section 5 alphabet */
}

static void base64url_other_encodings_are_refused(void **state)
{
	static const char *const bad[] = {"A", "AAAAA", "AB", "AA=", "A+", "A/", "AA ", "\xc3\xa9"};
	uint8_t back[8];
	size_t len;

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(bad); k++)
		assert_int_equal(base64url_decode(bad[k], strlen(bad[k]), back, sizeof(back), &len), -EUCLEAN);
	assert_int_equal(base64url_decode("AAAAAAAAAAAAAAAA", 16, back, sizeof(back), &len), -ENOBUFS);
}

static void duration_units_and_refusals(void **state)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} good[] = {{"30s", 30000000000}, {"72h", 259200000000000}, {"28d", 2419200000000000}, {"200ms", 200000000}, {"0s", 0}};
	static const char *const bad[] = {"", "30", "s", "-1s", "1.5h", "1w", "1 s", "30sx"};
	uint64_t ns;
	char text[32];

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(good); k++) {
		assert_int_equal(duration_parse(good[k].text, &ns), 0);
		assert_int_equal(ns, good[k].ns);
		duration_format(ns, text, sizeof(text));
		uint64_t again;
		assert_int_equal(duration_parse(text, &again), 0);
		assert_int_equal(again, ns);
	}
	for (size_t k = 0; k < ARRAY_LEN(bad); k++)
		assert_int_equal(duration_parse(bad[k], &ns), -EINVAL);
	assert_int_equal(duration_parse("99999999d", &ns), -ERANGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(base64url_every_length_roundtrips),
		cmocka_unit_test(base64url_other_encodings_are_refused), cmocka_unit_test(duration_units_and_refusals)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
