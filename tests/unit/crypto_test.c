/* crypto: what we put together ourselves from OpenSSL's parts, beside its published answers. */
#include "test.h"

#include "store/crypto.h"

static void from_hex(const char *hex, uint8_t *ret)
{
	for (unsigned byte; sscanf(hex, "%2x", &byte) == 1; hex += 2)
		*ret++ = (uint8_t)byte;
}

/* RFC 3394, 4.6. */
static void wrap_is_that_of_rfc_3394(void **state)
{
	uint8_t kek[32], key[32], want[40], wrapped[40], back[32];

	(void)state;
	from_hex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", kek);
	from_hex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F", key);
	from_hex("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21", want);
	assert_int_equal(crypto_wrap(kek, key, sizeof(key), wrapped), 0);
	assert_memory_equal(wrapped, want, sizeof(want));
	assert_int_equal(crypto_unwrap(kek, wrapped, sizeof(wrapped), back), 0);
	assert_memory_equal(back, key, sizeof(key));
}

static void unwrap_every_bit_flip_is_refused_and_wiped(void **state)
{
	static const uint8_t zeros[64];
	uint8_t kek[32] = {1}, key[64] = {2}, wrapped[72], back[64];

	(void)state;
	assert_int_equal(crypto_wrap(kek, key, sizeof(key), wrapped), 0);
	assert_int_equal(crypto_unwrap(kek, wrapped, sizeof(wrapped), back), 0);
	assert_memory_equal(back, key, sizeof(key));
	for (unsigned bit = 0; bit < 8 * (sizeof(wrapped) + sizeof(kek)); bit++) {
		uint8_t *at = bit < 8 * sizeof(wrapped) ? &wrapped[bit / 8] : &kek[bit / 8 - sizeof(wrapped)];

		*at ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(crypto_unwrap(kek, wrapped, sizeof(wrapped), back), -EKEYREJECTED);
		assert_memory_equal(back, zeros, sizeof(back));
		*at ^= (uint8_t)(1u << bit % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(wrap_is_that_of_rfc_3394), cmocka_unit_test(unwrap_every_bit_flip_is_refused_and_wiped)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
