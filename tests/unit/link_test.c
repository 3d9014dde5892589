/* link: the messages between tdefsd and workers, of one version and of different ones. */
#include "test.h"

#include "mount/link.h"

static struct link_message full(void)
{
	struct link_message m;

	memset(&m, 0x5a, sizeof(m));
	m.type = LINK_REPLY;
	m.unknown = false;
	m.wrap_count = ENV_WRAPS_MAX;
	for (size_t k = 0; k < ENV_WRAPS_MAX; k++)
		m.wraps[k].blob_len = sizeof(m.wraps[k].blob);
	m.text[sizeof(m.text) - 1] = m.status.program[sizeof(m.status.program) - 1] = '\0';
	m.finding.kind[sizeof(m.finding.kind) - 1] = m.finding.text[sizeof(m.finding.text) - 1] = '\0';
	m.finding.lower[sizeof(m.finding.lower) - 1] = m.finding.plain[sizeof(m.finding.plain) - 1] = '\0';
	for (size_t k = 0; k < ENV_WRAPS_MAX; k++) {
		struct env_wrap *w = &m.wraps[k];

		w->source[sizeof(w->source) - 1] = w->fingerprint[sizeof(w->fingerprint) - 1] = '\0';
		w->key_name[sizeof(w->key_name) - 1] = w->algorithm[sizeof(w->algorithm) - 1] = '\0';
	}
	return m;
}

/* Fails for a member without a number, and for padding, which could hide one. */
static void link_carries_every_member(void **state)
{
	uint8_t bytes[LINK_SIZE_MAX];
	struct link_message m = full(), got;
	size_t len = link_encode(&m, bytes);

	(void)state;
	assert_int_equal(link_decode(bytes, len, &got), 0);
	assert_false(got.unknown);
	assert_int_equal(got.version, link_version);
	assert_int_equal(got.type, LINK_REPLY);
	assert_memory_equal(&got.status, &m.status, sizeof(m.status));
	assert_memory_equal(&got.finding, &m.finding, sizeof(m.finding));
	assert_memory_equal(&got.key, &m.key, sizeof(m.key));
	assert_string_equal(got.text, m.text);
	assert_int_equal(got.error, m.error);
	assert_int_equal(got.flag, m.flag);
	assert_int_equal(got.arg, m.arg);
	assert_int_equal(got.min_epoch, m.min_epoch);
	assert_int_equal(got.min_clean, m.min_clean);
	assert_int_equal(got.wrap_count, m.wrap_count);
	for (size_t k = 0; k < ENV_WRAPS_MAX; k++) {
		assert_string_equal(got.wraps[k].source, m.wraps[k].source);
		assert_string_equal(got.wraps[k].fingerprint, m.wraps[k].fingerprint);
		assert_string_equal(got.wraps[k].key_name, m.wraps[k].key_name);
		assert_string_equal(got.wraps[k].algorithm, m.wraps[k].algorithm);
		assert_int_equal(got.wraps[k].ek_version, m.wraps[k].ek_version);
		assert_int_equal(got.wraps[k].blob_len, m.wraps[k].blob_len);
		assert_memory_equal(got.wraps[k].blob, m.wraps[k].blob, sizeof(m.wraps[k].blob));
	}
}

static void link_sends_nothing_for_zero(void **state)
{
	static const uint8_t status[] = {'T', 'D', 'L', 'K', 6, 0, 0, 0, 2, 0, 0, 0};
	static const uint8_t lock[] = {'T', 'D', 'L', 'K', 6, 0, 0, 0, 4, 0, 0, 0, 3, 0, 2, 0, 0x10, 0x27};
	uint8_t bytes[LINK_SIZE_MAX];

	(void)state;
	assert_int_equal(link_encode(&(struct link_message){.type = LINK_STATUS}, bytes), sizeof(status));
	assert_memory_equal(bytes, status, sizeof(status));
	assert_int_equal(link_encode(&(struct link_message){.type = LINK_LOCK, .arg = 10000}, bytes), sizeof(lock));
	assert_memory_equal(bytes, lock, sizeof(lock));
}

static void link_notes_what_it_does_not_know(void **state)
{
	static const uint8_t field[] = {'T', 'D', 'L', 'K', 7, 0, 0, 0, 2, 0, 0, 0, 0xff, 0x7f, 1, 0, 1, 3, 0, 1, 0, 9};
	static const uint8_t wide[] = {'T', 'D', 'L', 'K', 7, 0, 0, 0, 2, 0, 0, 0, 2, 0, 5, 0, 1, 0, 0, 0, 1};
	static const uint8_t order[] = {'T', 'D', 'L', 'K', 7, 0, 0, 0, 99, 0, 0, 0};
	struct link_message m;

	(void)state;
	assert_int_equal(link_decode(field, sizeof(field), &m), 0);
	assert_true(m.unknown);
	assert_int_equal(m.version, 7);
	assert_int_equal(m.arg, 9);
	assert_int_equal(link_decode(wide, sizeof(wide), &m), 0);
	assert_true(m.unknown);
	assert_int_equal(link_decode(order, sizeof(order), &m), 0);
	assert_true(m.unknown);
	assert_true(link_knows(5, LINK_LOCK));
	assert_false(link_knows(5, LINK_SCRUB));
	assert_false(link_knows(link_version, 0));
	assert_false(link_knows(link_version, 99));
}

/* Every length of a good message, and every byte of it changed: a message or -EPROTO, within bounds, with texts that end. */
static void link_takes_no_damage(void **state)
{
	uint8_t bytes[LINK_SIZE_MAX], copy[LINK_SIZE_MAX];
	struct link_message m = full(), got;
	size_t len = link_encode(&m, bytes), refused = 0;

	(void)state;
	for (size_t n = 0; n < len; n++)
		refused += link_decode(bytes, n, &got) == -EPROTO;
	assert_true(refused > len / 2);
	for (size_t at = 0; at < len; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			memcpy(copy, bytes, len);
			copy[at] ^= (uint8_t)(1u << bit);
			if (link_decode(copy, len, &got) < 0)
				continue;
			assert_true(got.wrap_count <= ENV_WRAPS_MAX);
			assert_int_equal(got.text[sizeof(got.text) - 1], 0);
			for (size_t k = 0; k < ENV_WRAPS_MAX; k++) {
				assert_true(got.wraps[k].blob_len <= sizeof(got.wraps[k].blob));
				assert_int_equal(got.wraps[k].source[sizeof(got.wraps[k].source) - 1], 0);
			}
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(link_carries_every_member),
		cmocka_unit_test(link_sends_nothing_for_zero),
		cmocka_unit_test(link_notes_what_it_does_not_know),
		cmocka_unit_test(link_takes_no_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
