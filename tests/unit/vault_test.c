/* vault: key files (rules K1, K2, K3) and the file vault, also against what hostile files ask for. */
#include "test.h"

#include "vault/byok.h"
#include "vault/pfx.h"
#include "vault/vault.h"

#include <fcntl.h>
#include <openssl/param_build.h>
#include <openssl/pkcs12.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* One key for all tests: making one costs. */
static struct rsa_key *key;
static char folder[64];

static struct secret password_of(const char *text)
{
	struct secret s = {0};

	assert_int_equal(secret_dup(text, strlen(text), &s), 0);
	return s;
}

static int __attribute__((format(printf, 1, 2))) shell(const char *format, ...)
{
	char command[1200];
	va_list ap;

	va_start(ap, format);
	int n = snprintf(command, sizeof(command), "cd %s && { ", folder);
	n += vsnprintf(command + n, sizeof(command) - (size_t)n, format, ap);
	va_end(ap);
	snprintf(command + n, sizeof(command) - (size_t)n, "; } >openssl.out 2>&1");
	int rc = system(command);
	if (rc != 0)
		fprintf(stderr, "failed: %s\n", command);
	return rc;
}

static struct secret file_of(const char *name)
{
	char path[200];
	struct secret s = {0};

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(secret_read_fd(fd, PFX_MAX, &s), 0);
	close(fd);
	return s;
}

static void file_put(const char *name, const void *data, size_t len)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

/* Reads the PFX file and returns the error; 0 must be our key. */
static int read_file(const char *name, const char *password_text, const char **ret_why)
{
	CLEANUP(secret_done) struct secret file = file_of(name), password = password_of(password_text);
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	int rc = pfx_read(file.b, file.len, &password, &k, ret_why);

	if (rc == 0)
		assert_string_equal(rsa_fingerprint(k), rsa_fingerprint(key));
	return rc;
}

static int setup(void **state)
{
	CLEANUP(secret_done) struct secret der = {0};

	(void)state;
	snprintf(folder, sizeof(folder), "/tmp/tdefs-vault.XXXXXX");
	if (!mkdtemp(folder) || rsa_generate(2048, &key) < 0 || rsa_to_pkcs8(key, &der) < 0)
		return -1;
	file_put("key.der", der.b, der.len);
	return shell("openssl pkcs8 -inform DER -nocrypt -in key.der -out key.pem && "
		     "openssl req -x509 -new -key key.pem -subj /CN=a -days 9 -out cert.pem");
}

static int teardown(void **state)
{
	(void)state;
	rsa_key_free(key);
	return shell("rm -rf %s", folder);
}

static void rsa_fingerprint_is_what_openssl_prints(void **state)
{
	(void)state;
	assert_int_equal(shell("openssl pkey -in key.pem -pubout -outform DER | sha256sum | cut -c1-64 | tr -d '\\n' >fingerprint"), 0);
	CLEANUP(secret_done) struct secret s = file_of("fingerprint");
	assert_int_equal(s.len, 64);
	assert_memory_equal(s.b, rsa_fingerprint(key), 64);
}

static void rsa_wrap_opens_with_its_key_alone(void **state)
{
	CLEANUP(rsa_key_freep) struct rsa_key *other = NULL, *public = NULL;
	uint8_t blob[RSA_BLOB_MAX], der[RSA_PUBLIC_MAX], out[64];
	size_t len, der_len, n;

	(void)state;
	assert_int_equal(rsa_public(key, der, &der_len), 0);
	assert_int_equal(rsa_from_public(der, der_len, &public), 0);
	assert_int_equal(rsa_from_public(der, der_len - 1, &other), -EUCLEAN);
	assert_int_equal(rsa_wrap(public, "secret", 6, blob, &len), 0);
	assert_int_equal(rsa_unwrap(key, blob, len, out, sizeof(out), &n), 0);
	assert_int_equal(n, 6);
	assert_memory_equal(out, "secret", 6);
	assert_int_equal(rsa_unwrap(key, blob, len, out, 5, &n), -EKEYREJECTED);
	assert_int_equal(rsa_unwrap(key, blob, len - 1, out, sizeof(out), &n), -EKEYREJECTED);
	blob[7] ^= 1;
	assert_int_equal(rsa_unwrap(key, blob, len, out, sizeof(out), &n), -EKEYREJECTED);
	assert_int_equal(rsa_generate(2048, &other), 0);
	assert_int_equal(rsa_wrap(other, "secret", 6, blob, &len), 0);
	assert_int_equal(rsa_unwrap(key, blob, len, out, sizeof(out), &n), -EKEYREJECTED);
	assert_int_equal(rsa_prove(key, public), 0);
	assert_int_equal(rsa_prove(other, public), -EKEYREJECTED);
	assert_int_equal(rsa_generate(1024, &other), -ERANGE);
}

static void pfx_k1_written_is_read_by_us_and_by_openssl(void **state)
{
	CLEANUP(secret_done) struct secret password = password_of("correct horse"), file = {0}, none = {0};
	const char *why = NULL;

	(void)state;
	assert_int_equal(pfx_write(key, &none, "key", &file), -EINVAL);
	assert_int_equal(pfx_write(key, &password, "my key", &file), 0);
	file_put("made.pfx", file.b, file.len);
	assert_int_equal(read_file("made.pfx", "correct horse", &why), 0);
	assert_int_equal(read_file("made.pfx", "correct horsf", &why), -EKEYREJECTED);
	assert_int_equal(shell("openssl pkcs12 -in made.pfx -passin 'pass:correct horse' -nodes -out made.pem && "
			       "openssl pkcs12 -in made.pfx -passin 'pass:correct horse' -info -noout 2>&1 | "
			       "grep -q 'PBES2, PBKDF2, AES-256-CBC, Iteration 600000'"), 0);
}

static void pfx_k2_each_fault_has_its_own_refusal(void **state)
{
	static const struct {
		const char *command, *file, *password;
		int error;
		const char *why;
	} cases[] = {
		{"openssl pkcs12 -export -inkey key.pem -in cert.pem -passout pass:pw -out good.pfx", "good.pfx", "pw", 0, ""},
		{"openssl pkcs12 -export -inkey key.pem -nocerts -passout pass:pw -out bare.pfx", "bare.pfx", "pw", 0, ""},
		{"openssl pkcs12 -export -legacy -inkey key.pem -in cert.pem -passout pass:pw -out legacy.pfx", "legacy.pfx", "pw", 0, ""},
		{":", "good.pfx", "", -ENOKEY, "no password was given"},
		{":", "good.pfx", "Pw", -EKEYREJECTED, "password is wrong"},
		{"openssl pkcs12 -export -inkey key.pem -in cert.pem -passout pass: -out open.pfx", "open.pfx", "pw", -ENOKEY, "not protected"},
		{":", "open.pfx", "", -ENOKEY, "not protected"},
		{"openssl pkcs12 -export -inkey key.pem -in cert.pem -nomac -passout pass:pw -out nomac.pfx", "nomac.pfx", "pw", -ENOKEY,
			"not protected"},
		{"openssl pkcs12 -export -inkey key.pem -in cert.pem -keypbe NONE -certpbe NONE -passout pass:pw -out clear.pfx", "clear.pfx",
			"pw", -ENOKEY, "not protected"},
		{"openssl pkcs12 -export -nokeys -in cert.pem -passout pass:pw -out cert.pfx", "cert.pfx", "pw", -ENOENT, "no private key"},
		{"openssl ecparam -name prime256v1 -genkey -noout -out ec.pem && openssl pkcs12 -export -inkey ec.pem -nocerts "
		 "-passout pass:pw -out ec.pfx", "ec.pfx", "pw", -EPFNOSUPPORT, "not an RSA key"},
		{"openssl genrsa -out small.pem 1024 && openssl pkcs12 -export -inkey small.pem -nocerts -passout pass:pw -out small.pfx",
			"small.pfx", "pw", -ERANGE, "2048"},
		{"cp key.pem text.pfx", "text.pfx", "pw", -EUCLEAN, "not a PFX"},
		{"{ cat good.pfx; printf x; } >long.pfx", "long.pfx", "pw", -EUCLEAN, "behind the PFX's end"},
	};

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
		const char *why = "";

		assert_int_equal(shell("%s", cases[k].command), 0);
		int rc = read_file(cases[k].file, cases[k].password, &why);
		if (rc != cases[k].error || !strstr(why, cases[k].why))
			fail_msg("%s with '%s': %d (%s), not %d (%s)", cases[k].file, cases[k].password, rc, why, cases[k].error, cases[k].why);
	}
}

/* The iteration count of the MAC is the file's last number: 02 02 08 00 becomes 02 04 7f ff ff ff in its four wrappers. */
static void pfx_huge_iteration_counts_are_refused_at_once(void **state)
{
	CLEANUP(secret_done) struct secret file = file_of("good.pfx"), password = password_of("pw");
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	uint8_t longer[8192];
	const char *why = "";

	(void)state;
	assert_int_equal(shell("openssl asn1parse -inform DER -in good.pfx"), 0);
	assert_memory_equal(file.b + file.len - 4, "\x02\x02\x08\x00", 4);
	memcpy(longer, file.b, file.len - 4);
	memcpy(longer + file.len - 4, "\x02\x04\x7f\xff\xff\xff", 6);
	le16_store(longer + 2, 0);
	size_t inner = file.len + 2 - 4;
	longer[2] = (uint8_t)(inner >> 8);
	longer[3] = (uint8_t)inner;
	/* The MacData sequence: 30 41 30 31 30 0d 06 09 ... */
	for (size_t at = file.len - 80; at < file.len - 4; at++)
		if (longer[at] == 0x30 && longer[at + 2] == 0x30 && longer[at + 4] == 0x30 && longer[at + 5] == 0x0d) {
			longer[at + 1] += 2;
			break;
		}
	assert_int_equal(pfx_read(longer, file.len + 2, &password, &k, &why), -EDOM);
	assert_non_null(strstr(why, "iterations"));
	/* And PBES2's own, inside: 02 02 08 00 before the PRF. */
	for (size_t at = 0; at + 8 < file.len; at++)
		if (memcmp(file.b + at, "\x02\x02\x08\x00\x30\x0c", 6) == 0) {
			uint8_t saved[4];

			memcpy(saved, file.b + at, 4);
			file.b[at + 2] = 0xff; /* negative */
			assert_true(pfx_read(file.b, file.len, &password, &k, &why) < 0);
			memcpy(file.b + at, saved, 4);
		}
}

static void pfx_every_truncation_is_refused(void **state)
{
	CLEANUP(secret_done) struct secret file = file_of("good.pfx"), password = password_of("pw");
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	const char *why;

	(void)state;
	for (size_t len = 0; len < file.len; len++)
		assert_int_equal(pfx_read(file.b, len, &password, &k, &why), -EUCLEAN);
}

static void pfx_no_bit_flip_gives_another_key(void **state)
{
	CLEANUP(secret_done) struct secret file = file_of("good.pfx"), password = password_of("pw");
	const char *why;
	unsigned seed = 7;

	(void)state;
	/* A flip outside what the MAC covers may be harmless (a friendly name's length is not); none gives another key. */
	for (int k = 0; k < 400; k++) {
		CLEANUP(rsa_key_freep) struct rsa_key *found = NULL;
		size_t at = (size_t)rand_r(&seed) % file.len;
		uint8_t bit = (uint8_t)(1u << (rand_r(&seed) % 8));

		file.b[at] ^= bit;
		if (pfx_read(file.b, file.len, &password, &found, &why) == 0)
			assert_string_equal(rsa_fingerprint(found), rsa_fingerprint(key));
		file.b[at] ^= bit;
	}
}

/* What openssl's command does not make: a PFX of any bags. */
static struct secret pfx_of(PKCS8_PRIV_KEY_INFO *const *keys, size_t n)
{
	STACK_OF(PKCS12_SAFEBAG) *bags = sk_PKCS12_SAFEBAG_new_null();
	STACK_OF(PKCS7) *parts = NULL;
	unsigned char *der = NULL;
	struct secret s = {0};

	for (size_t k = 0; k < n; k++) {
		PKCS12_SAFEBAG *bag = PKCS12_SAFEBAG_create_pkcs8_encrypt(NID_aes_256_cbc, "pw", 2, NULL, 0, 1, keys[k]);

		assert_non_null(bag);
		assert_true(sk_PKCS12_SAFEBAG_push(bags, bag) > 0);
	}
	assert_true(PKCS12_add_safe(&parts, bags, -1, 0, NULL));
	PKCS12 *p12 = PKCS12_add_safes(parts, 0);
	assert_true(PKCS12_set_mac(p12, "pw", 2, NULL, 0, 1, NULL));
	int len = i2d_PKCS12(p12, &der);
	assert_true(len > 0);
	assert_int_equal(secret_dup(der, (size_t)len, &s), 0);
	OPENSSL_free(der);
	PKCS12_free(p12);
	sk_PKCS7_pop_free(parts, PKCS7_free);
	sk_PKCS12_SAFEBAG_pop_free(bags, PKCS12_SAFEBAG_free);
	return s;
}

static void pfx_k2_several_keys_and_halves_that_do_not_fit_are_refused(void **state)
{
	CLEANUP(rsa_key_freep) struct rsa_key *other = NULL, *found = NULL;
	CLEANUP(secret_done) struct secret password = password_of("pw");
	EVP_PKEY *mixed = NULL;
	const char *why = "";

	(void)state;
	assert_int_equal(rsa_generate(2048, &other), 0);
	PKCS8_PRIV_KEY_INFO *two[] = {EVP_PKEY2PKCS8(rsa_pkey(key)), EVP_PKEY2PKCS8(rsa_pkey(other))};
	CLEANUP(secret_done) struct secret single = pfx_of(two, 1), both = pfx_of(two, 2);
	assert_int_equal(pfx_read(single.b, single.len, &password, &found, &why), 0);
	rsa_key_free(TAKE_PTR(found));
	assert_int_equal(pfx_read(both.b, both.len, &password, &found, &why), -E2BIG);
	assert_non_null(strstr(why, "several private keys"));

	/* The public half of one, all that is private of the other. */
	static const char *const names[] = {"n", "e", "d", "rsa-factor1", "rsa-factor2", "rsa-exponent1", "rsa-exponent2", "rsa-coefficient1"};
	BIGNUM *numbers[ARRAY_LEN(names)] = {NULL};
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	for (size_t k = 0; k < ARRAY_LEN(names); k++) {
		assert_int_equal(EVP_PKEY_get_bn_param(rsa_pkey(k < 2 ? key : other), names[k], &numbers[k]), 1);
		assert_true(OSSL_PARAM_BLD_push_BN(build, names[k], numbers[k]));
	}
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	assert_true(EVP_PKEY_fromdata_init(ctx) == 1 && EVP_PKEY_fromdata(ctx, &mixed, EVP_PKEY_KEYPAIR, params) == 1);
	PKCS8_PRIV_KEY_INFO *halves[] = {EVP_PKEY2PKCS8(mixed)};
	CLEANUP(secret_done) struct secret wrong = pfx_of(halves, 1);
	assert_int_equal(pfx_read(wrong.b, wrong.len, &password, &found, &why), -EUCLEAN);
	assert_non_null(strstr(why, "halves do not belong together"));
	PKCS8_PRIV_KEY_INFO_free(two[0]);
	PKCS8_PRIV_KEY_INFO_free(two[1]);
	PKCS8_PRIV_KEY_INFO_free(halves[0]);
	EVP_PKEY_free(mixed);
	EVP_PKEY_CTX_free(ctx);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(build);
	for (size_t k = 0; k < ARRAY_LEN(names); k++)
		BN_free(numbers[k]);
}

static long peak_kib(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss;
}

/* A PFX as long as one may be, of things that want much: lengths that promise more than is there, nesting, thousands of parts. */
static void pfx_hostile_files_cost_little_memory(void **state)
{
	CLEANUP(secret_done) struct secret password = password_of("pw");
	CLEANUP(rsa_key_freep) struct rsa_key *found = NULL;
	CLEANUP_FREE uint8_t *b = calloc(1, PFX_MAX + 1);
	long before = peak_kib();
	const char *why = "";

	(void)state;
	for (unsigned kind = 0; kind < 4; kind++)
		for (unsigned k = 0; k < 40; k++) {
			for (size_t at = 0; at + 8 <= PFX_MAX; at += kind == 0 ? 4 : 2)
				memcpy(b + at, kind == 0   ? (const uint8_t[]){0x30, 0x82, 0xff, 0xff}
					       : kind == 1 ? (const uint8_t[]){0x30, 0x80, 0, 0}
					       : kind == 2 ? (const uint8_t[]){0x24, 0x80, 0, 0}
							   : (const uint8_t[]){0xa0, 0x84, 0x7f, 0xff}, kind == 0 ? 4 : 2);
			memcpy(b, (const uint8_t[]){0x30, 0x83, 0x00, 0xff, (uint8_t)(0xfb - k), 0x02, 0x01, 0x03}, 8);
			assert_true(pfx_read(b, PFX_MAX, &password, &found, &why) < 0);
		}
	assert_int_equal(pfx_read(b, PFX_MAX + 1, &password, &found, &why), -EUCLEAN);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_true(peak_kib() - before < 65536);
#else
	(void)before;
#endif
}

/* ---- byok ---- */

#define KID "tdefs/acme/kek/1"

static void byok_k3_made_by_openssl_is_read(void **state)
{
	static const struct {
		const char *edit; /* a sed command on the good blob */
		int error;
		const char *why;
	} cases[] = {
		{"", 0, ""},
		{"s/acme/other/", -EXDEV, "tdefs/other"},
		{"s/1\\.0\\.0/2.0.0/", -EUCLEAN, "schema_version"},
		{"s/dir/RSA/", -EUCLEAN, "alg"},
		{"s/CKM_RSA_AES_KEY_WRAP/CKM_RSA_PKCS/", -EUCLEAN, "enc"},
		{"s/\"ciphertext\": \"..../\"ciphertext\": \"AAAA/", -EKEYREJECTED, "does not open"},
		{"s/\"ciphertext\": \"/\"ciphertext\": \"*/", -EUCLEAN, "base64url"},
		{"s/\"header\"/\"headers\"/", -EUCLEAN, "header"},
		{"s/^{/[/", -EUCLEAN, "key-transfer blob"},
		{"s/\"kid\"/\"kidd\"/", -EXDEV, "nobody"},
	};
	CLEANUP(secret_done) struct secret whole = {0};
	uint8_t der[RSA_PUBLIC_MAX];
	char why[200];
	size_t len;

	(void)state;
	/* The exchange key is our key here too: one is enough. */
	assert_int_equal(rsa_public(key, der, &len), 0);
	file_put("kek.der", der, len);
	assert_int_equal(shell("openssl rand -out aes.bin 32 && "
			       "openssl pkeyutl -encrypt -pubin -keyform DER -inkey kek.der -pkeyopt rsa_padding_mode:oaep -pkeyopt "
			       "rsa_oaep_md:sha1 -in aes.bin -out blob.bin && "
			       "openssl enc -id-aes256-wrap-pad -iv A65959A6 -K $(od -An -vtx1 aes.bin | tr -d ' \\n') -in key.der >>blob.bin && "
			       "printf '{\"schema_version\": \"1.0.0\", \"header\": {\"kid\": \"%s\", \"alg\": \"dir\", \"enc\": "
			       "\"CKM_RSA_AES_KEY_WRAP\"}, \"ciphertext\": \"%%s\", \"generator\": \"openssl\"}' "
			       "$(openssl base64 -A -in blob.bin | tr '+/' '-_' | tr -d =) >good.byok", KID), 0);
	for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
		CLEANUP(rsa_key_freep) struct rsa_key *found = NULL;

		assert_int_equal(shell("sed '%s' good.byok >try.byok", cases[k].edit), 0);
		CLEANUP(secret_done) struct secret text = file_of("try.byok");
		int rc = byok_read(text.b, text.len, KID, key, &found, why);
		if (rc != cases[k].error || !strstr(why, cases[k].why))
			fail_msg("sed '%s': %d (%s)", cases[k].edit, rc, why);
		if (rc == 0)
			assert_string_equal(rsa_fingerprint(found), rsa_fingerprint(key));
	}
	whole = file_of("good.byok");
	for (size_t n = 0; n < whole.len; n++) {
		CLEANUP(rsa_key_freep) struct rsa_key *found = NULL;

		assert_true(byok_read(whole.b, n, KID, key, &found, why) < 0);
	}
	CLEANUP(rsa_key_freep) struct rsa_key *other = NULL, *found = NULL;
	assert_int_equal(rsa_generate(2048, &other), 0);
	assert_int_equal(byok_read(whole.b, whole.len, KID, other, &found, why), -EKEYREJECTED);
}

/* ---- the file vault ---- */

static bool keep_none(void *ctx, const char *fingerprint)
{
	(void)ctx;
	(void)fingerprint;
	return false;
}

static void vault_holds_a_key_until_it_is_destroyed(void **state)
{
	struct platform_key *pk = NULL, *other_pk = NULL;
	struct vault *v = NULL, *stolen = NULL;
	uint8_t blob[RSA_BLOB_MAX], out[32];
	char path[200], other_path[200], dir[200], file[300];
	struct stat st;
	size_t len, n;

	(void)state;
	snprintf(path, sizeof(path), "%s/platform.key", folder);
	snprintf(other_path, sizeof(other_path), "%s/other.key", folder);
	snprintf(dir, sizeof(dir), "%s/vault", folder);
	assert_int_equal(platform_key_open(path, &pk, NULL), 0);
	assert_int_equal(platform_key_open(other_path, &other_pk, NULL), 0);
	assert_int_equal(vault_open(dir, pk, &v), 0);
	assert_int_equal(rsa_wrap(key, "environment key", 15, blob, &len), 0);
	assert_int_equal(vault_unwrap(v, rsa_fingerprint(key), blob, len, out, sizeof(out), &n), -ENOENT);
	assert_int_equal(vault_unwrap(v, "../platform", blob, len, out, sizeof(out), &n), -ENOENT);
	assert_int_equal(vault_import(v, key), 0);
	assert_int_equal(vault_import(v, key), 0);
	assert_true(vault_holds(v, rsa_fingerprint(key)));
	assert_int_equal(vault_unwrap(v, rsa_fingerprint(key), blob, len, out, sizeof(out), &n), 0);
	assert_int_equal(n, 15);
	assert_memory_equal(out, "environment key", 15);
	snprintf(file, sizeof(file), "%s/%s.key", dir, rsa_fingerprint(key));
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);

	/* Another platform key opens nothing, nor does a changed file. */
	assert_int_equal(vault_open(dir, other_pk, &stolen), 0);
	assert_int_equal(vault_unwrap(stolen, rsa_fingerprint(key), blob, len, out, sizeof(out), &n), -EUCLEAN);
	vault_close(stolen);
	assert_int_equal(shell("cp %s saved; printf ABCDEFGH | dd of=%s bs=1 seek=100 conv=notrunc", file, file), 0);
	assert_int_equal(vault_unwrap(v, rsa_fingerprint(key), blob, len, out, sizeof(out), &n), -EUCLEAN);
	assert_int_equal(shell("cp saved %s", file), 0);
	assert_int_equal(vault_unwrap(v, rsa_fingerprint(key), blob, len, out, sizeof(out), &n), 0);

	/* Destroyed is overwritten, not only unlinked: a second name shows what is left. */
	assert_int_equal(shell("ln %s left", file), 0);
	assert_int_equal(vault_destroy(v, rsa_fingerprint(key)), 0);
	assert_int_equal(vault_destroy(v, rsa_fingerprint(key)), 0);
	assert_false(vault_holds(v, rsa_fingerprint(key)));
	assert_int_equal(shell("! tr -d '\\0' <left | grep -q ."), 0);

	assert_int_equal(vault_import(v, key), 0);
	assert_int_equal(shell("touch %s.new", file), 0);
	assert_int_equal(vault_sweep(v, keep_none, NULL), 0);
	assert_int_equal(shell("test -z \"$(ls -A %s)\"", dir), 0);
	vault_close(v);
	platform_key_free(pk);
	platform_key_free(other_pk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rsa_fingerprint_is_what_openssl_prints),
		cmocka_unit_test(rsa_wrap_opens_with_its_key_alone),
		cmocka_unit_test(pfx_k1_written_is_read_by_us_and_by_openssl),
		cmocka_unit_test(pfx_k2_each_fault_has_its_own_refusal),
		cmocka_unit_test(pfx_huge_iteration_counts_are_refused_at_once),
		cmocka_unit_test(pfx_every_truncation_is_refused),
		cmocka_unit_test(pfx_no_bit_flip_gives_another_key),
		cmocka_unit_test(pfx_k2_several_keys_and_halves_that_do_not_fit_are_refused),
		cmocka_unit_test(pfx_hostile_files_cost_little_memory),
		cmocka_unit_test(byok_k3_made_by_openssl_is_read),
		cmocka_unit_test(vault_holds_a_key_until_it_is_destroyed),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
