/* byok: see byok.h. */
#include "vault/byok.h"

#include <jansson.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

static int byok_fail(char why[200], int error, const char *text)
{
	snprintf(why, 200, "%s", text);
	return error;
}

/* 0 when object[name] is the text wanted. */
static int byok_expect(const json_t *object, const char *name, const char *wanted, char why[200])
{
	const char *value = json_string_value(json_object_get(object, name));

	if (value && strcmp(value, wanted) == 0)
		return 0;
	snprintf(why, 200, "its %s is %s%.60s, and %s is wanted", name, value ? "" : "missing", value ? value : "", wanted);
	return -EUCLEAN;
}

static int byok_unwrap(const struct rsa_key *kek, const uint8_t *blob, size_t len, struct rsa_key **ret)
{
	size_t rsa_len = rsa_bits(kek) / 8, aes_len = 0;
	CLEANUP(secret_done) struct secret aes = {secret_alloc(32), 32}, der = {secret_alloc(len), len};
	int n = 0, rc = aes.b && der.b ? 0 : -ENOMEM;

	if (rc == 0 && (len <= rsa_len || len - rsa_len > BYOK_MAX || (len - rsa_len) % 8 != 0))
		rc = -EKEYREJECTED;
	if (rc == 0)
		rc = rsa_unwrap_sha1(kek, blob, rsa_len, aes.b, aes.len, &aes_len);
	if (rc < 0)
		return rc;
	const EVP_CIPHER *cipher = aes_len == 32   ? EVP_aes_256_wrap_pad()
				   : aes_len == 24 ? EVP_aes_192_wrap_pad()
				   : aes_len == 16 ? EVP_aes_128_wrap_pad()
						   : NULL;
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	if (ctx)
		EVP_CIPHER_CTX_set_flags(ctx, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
	if (!ctx || !cipher || EVP_DecryptInit_ex(ctx, cipher, NULL, aes.b, NULL) != 1 ||
		EVP_DecryptUpdate(ctx, der.b, &n, blob + rsa_len, (int)(len - rsa_len)) != 1)
		rc = -EKEYREJECTED;
	EVP_CIPHER_CTX_free(ctx);
	return rc == 0 ? rsa_from_pkcs8(der.b, (size_t)n, ret) : rc;
}

int byok_read(const void *text, size_t len, const char *kid, const struct rsa_key *kek, struct rsa_key **ret, char why[200])
{
	json_error_t error;
	json_t *blob = len <= BYOK_MAX ? json_loadb(text, len, JSON_REJECT_DUPLICATES, &error) : NULL;
	const json_t *header = json_object_get(blob, "header");
	const char *given = json_string_value(json_object_get(header, "kid"));
	const char *ciphertext = json_string_value(json_object_get(blob, "ciphertext"));
	CLEANUP_FREE uint8_t *bytes = malloc(BYOK_MAX);
	size_t n = 0;
	int rc = bytes ? 0 : -ENOMEM;

	why[0] = '\0';
	if (rc == 0 && !json_is_object(blob))
		rc = byok_fail(why, -EUCLEAN, "it is not a key-transfer blob (a JSON object)");
	if (rc == 0)
		rc = byok_expect(blob, "schema_version", "1.0.0", why);
	if (rc == 0 && !json_is_object(header))
		rc = byok_fail(why, -EUCLEAN, "its header is missing");
	if (rc == 0)
		rc = byok_expect(header, "alg", "dir", why);
	if (rc == 0)
		rc = byok_expect(header, "enc", "CKM_RSA_AES_KEY_WRAP", why);
	if (rc == 0 && (!given || strcmp(given, kid) != 0)) {
		snprintf(why, 200, "it was made for %.70s, and this is %.90s", given ? given : "nobody (no kid)", kid);
		rc = -EXDEV;
	}
	if (rc == 0 && (!ciphertext || base64url_decode(ciphertext, strlen(ciphertext), bytes, BYOK_MAX, &n) < 0))
		rc = byok_fail(why, -EUCLEAN, "its ciphertext is missing or not base64url");
	if (rc == 0) {
		rc = byok_unwrap(kek, bytes, n, ret);
		if (rc == -EKEYREJECTED)
			(void)byok_fail(why, rc, "it does not open with this tenant's key-exchange key");
		else if (rc == -EUCLEAN)
			(void)byok_fail(why, rc, "there is no PKCS#8 private key in it");
		else if (rc == -EPFNOSUPPORT)
			(void)byok_fail(why, rc, "its key is not an RSA key");
		else if (rc == -ERANGE)
			(void)byok_fail(why, rc, "its key is not RSA of 2048, 3072 or 4096 bits with a usual exponent");
	}
	if (rc < 0 && !why[0])
		(void)byok_fail(why, rc, strerror(-rc));
	ERR_clear_error();
	json_decref(blob);
	return rc;
}
