/* fuzz: what comes from a disk, a socket or a person's file, changed at random: no decoder may crash, hang, or take what it did not
 * make. Deterministic; TDEFS_LONG does more. Run with the sanitizers, as all unit tests are. */
#include "store.h"

#include "control/config.h"
#include "control/wire.h"
#include "store/filehead.h"
#include "vault/byok.h"
#include "vault/pfx.h"

#include <sys/socket.h>

/* libconfig 1.5 forgets the text of a string that does not end. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:strbuf_append\n";
}

static unsigned rounds(unsigned n)
{
	return getenv("TDEFS_LONG") ? n * 100 : n;
}

/* One to four small changes: a flipped bit, a byte set, a piece cut out, doubled, or zeroed. len may shrink or grow to max. */
static size_t mutate(uint8_t *b, size_t len, size_t max, uint64_t *seed)
{
	for (unsigned k = (unsigned)(store_random(seed) >> 20) % 4 + 1; k > 0 && len > 0; k--) {
		size_t at = (size_t)(store_random(seed) >> 9) % len, n = (size_t)(store_random(seed) >> 9) % 16 + 1;

		n = MIN(n, len - at);
		switch (store_random(seed) >> 30 & 7) {
		case 0:
			memmove(b + at, b + at + n, len - at - n);
			len -= n;
			break;
		case 1:
			if (len + n <= max) {
				memmove(b + at + n, b + at, len - at);
				len += n;
			}
			break;
		case 2:
			memset(b + at, 0, n);
			break;
		case 3:
			b[at] = (uint8_t)(store_random(seed) >> 11);
			break;
		case 4:
			len = at;
			break;
		default:
			b[at] ^= (uint8_t)(1u << (store_random(seed) >> 11 & 7));
		}
	}
	return len;
}

static void fuzz_environment_header(void **state)
{
	char dir[64], store[80], path[100], *text = calloc(1, 8192);
	uint8_t buf[8192];
	uint64_t seed = 1;

	(void)state;
	test_dir(dir);
	snprintf(store, sizeof(store), "%s/store", dir);
	snprintf(path, sizeof(path), "%s/" ENVHEADER_NAME, store);
	store_create(store);
	int fd = open(path, O_RDONLY);
	ssize_t got_len = read(fd, text, 4096);
	close(fd);
	test_remove(dir);
	assert_true(got_len > 0);
	size_t len = (size_t)got_len;
	for (unsigned k = 0; k < rounds(4000); k++) {
		struct envheader got = {0};

		memcpy(buf, text, len);
		size_t n = mutate(buf, len, sizeof(buf), &seed);
		bool same = n == len && memcmp(buf, text, len) == 0;
		/* With the key nothing changed passes; without it, nothing may crash. */
		int rc = envheader_decode((const char *)buf, n, &store_key, &got);
		assert_true(same == (rc == 0));
		envheader_done(&got);
		got = (struct envheader){0};
		if (envheader_decode((const char *)buf, n, NULL, &got) == 0)
			assert_true(got.wrap_count <= ENV_WRAPS_MAX && got.wraps[0].blob_len <= sizeof(got.wraps[0].blob));
		envheader_done(&got);
	}
	free(text);
}

static void fuzz_file_header(void **state)
{
	struct wrap_key fw = {.b = {9}};
	struct fileslot slot = {.sequence = 3, .epoch = 2, .sealed = 5, .dense = true, .shift = REGION_SHIFT_MIN, .generation = 1};
	uint8_t key_sector[SECTOR_SIZE], slot_sector[SECTOR_SIZE], buf[SECTOR_SIZE];
	struct filehead h = {0};
	uint64_t seed = 2;

	(void)state;
	assert_int_equal(filehead_new(&fw, 1, 2, 3, &h), 0);
	assert_int_equal(filehead_encode(&h, key_sector), 0);
	assert_int_equal(fileslot_encode(&h, &slot, slot_sector), 0);
	for (unsigned k = 0; k < rounds(4000); k++) {
		struct filehead got = {0};
		struct fileslot got_slot;

		memcpy(buf, key_sector, sizeof(buf));
		(void)mutate(buf, sizeof(buf), sizeof(buf), &seed);
		int rc = filehead_decode(buf, &fw, 1, &got);
		assert_true((memcmp(buf, key_sector, sizeof(buf)) == 0) == (rc == 0));
		filehead_done(&got);
		memcpy(buf, slot_sector, sizeof(buf));
		(void)mutate(buf, sizeof(buf), sizeof(buf), &seed);
		rc = fileslot_decode(&h, buf, &got_slot);
		assert_true((memcmp(buf, slot_sector, sizeof(buf)) == 0) == (rc == 0));
	}
	filehead_done(&h);
}

static void fuzz_wire(void **state)
{
	static const char message[] = "{\"method\":\"io.tdefs.Keeper.EnvCreate\",\"parameters\":{\"name\":\"x\",\"list\":[1,2,{\"a\":null}],"
				      "\"text\":\"\\u00e9\\n\"},\"more\":true}";
	uint64_t seed = 3;
	uint8_t buf[1024];

	(void)state;
	for (unsigned k = 0; k < rounds(4000); k++) {
		int fds[2];
		json_t *got = NULL;

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		memcpy(buf, message, sizeof(message));
		size_t n = mutate(buf, sizeof(message), sizeof(buf) - 1, &seed);
		buf[n] = '\0';
		assert_int_equal(send(fds[0], buf, n + 1, 0), n + 1);
		close(fds[0]);
		struct wire w = {.fd = fds[1]};
		int rc = wire_receive(&w, 1000, &got);
		if (rc == 0)
			assert_true(json_is_object(got));
		else
			assert_true(rc == -EPROTO && w.error[0]);
		json_decref(got);
		wire_done(&w);
		close(fds[1]);
	}
}

static void fuzz_configuration(void **state)
{
	static const char text[] = "tenant = \"t\"; state_dir = \"/s\"; runtime_dir = \"/r\";\n# a remark\nroles: { auditor = \"x\"; "
				   "root_is_all = false; };\nmount: { threads = 8; seal_interval = \"200ms\"; };\n";
	char dir[64], path[80], error[512];
	uint64_t seed = 5;
	uint8_t buf[1024];

	(void)state;
	test_dir(dir);
	snprintf(path, sizeof(path), "%s/conf", dir);
	for (unsigned k = 0; k < rounds(2000); k++) {
		struct config c = {0};

		memcpy(buf, text, sizeof(text) - 1);
		size_t n = mutate(buf, sizeof(text) - 1, sizeof(buf), &seed);
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		assert_int_equal(write(fd, buf, n), n);
		close(fd);
		error[0] = '\0';
		int rc = config_load(path, &c, error);
		/* Right, or told what is wrong; what is taken is whole. */
		if (rc == 0) {
			assert_true(c.tenant && c.state_dir && c.state_dir[0] == '/' && c.threads >= 1 && c.seal_interval_ns > 0);
			config_done(&c);
		} else {
			assert_true(error[0]);
		}
	}
	test_remove(dir);
}

static void fuzz_key_files(void **state)
{
	CLEANUP(secret_done) struct secret password = {0}, pfx = {0};
	CLEANUP(rsa_key_freep) struct rsa_key *key = NULL;
	uint8_t buf[16384];
	uint64_t seed = 4;
	char why[200];

	(void)state;
	static const char blob[] = "{\"schema_version\":\"1.0.0\",\"header\":{\"kid\":\"k\",\"alg\":\"dir\",\"enc\":\"CKM_RSA_AES_KEY_WRAP\"},"
				   "\"ciphertext\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"generator\":\"x\"}";
	assert_int_equal(rsa_generate(2048, &key), 0);
	for (unsigned k = 0; k < rounds(2000); k++) {
		CLEANUP(rsa_key_freep) struct rsa_key *got = NULL;

		memcpy(buf, blob, sizeof(blob));
		size_t n = mutate(buf, sizeof(blob) - 1, sizeof(buf), &seed);
		assert_true(byok_read(buf, n, "k", key, &got, why) < 0 && why[0]);
	}
	assert_int_equal(secret_dup("pw", 2, &password), 0);
	/* Little of a PFX can be changed before its MAC fails; each try costs half a second of key derivation, by design. */
	assert_int_equal(pfx_write(key, &password, "fuzz", &pfx), 0);
	assert_true(pfx.len < sizeof(buf) / 2);
	for (unsigned k = 0; k < rounds(4); k++) {
		CLEANUP(rsa_key_freep) struct rsa_key *got = NULL;
		const char *text = NULL;

		memcpy(buf, pfx.b, pfx.len);
		size_t n = mutate(buf, pfx.len, sizeof(buf), &seed);
		if (pfx_read(buf, n, &password, &got, &text) == 0)
			assert_string_equal(rsa_fingerprint(got), rsa_fingerprint(key));
		else
			assert_non_null(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(fuzz_environment_header), cmocka_unit_test(fuzz_file_header),
		cmocka_unit_test(fuzz_wire), cmocka_unit_test(fuzz_configuration), cmocka_unit_test(fuzz_key_files)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
