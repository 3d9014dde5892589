/* rsa: see rsa.h. */
#include "vault/rsa.h"

#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

#define EXPONENT_BITS_MAX 64

struct rsa_key {
	EVP_PKEY *pkey;
	unsigned bits;
	char fingerprint[65];
};

DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);
DEFINE_CLEANUP(EVP_PKEY_CTX *, EVP_PKEY_CTX_free);
DEFINE_CLEANUP(EVP_MD_CTX *, EVP_MD_CTX_free);
DEFINE_CLEANUP(PKCS8_PRIV_KEY_INFO *, PKCS8_PRIV_KEY_INFO_free);

void rsa_key_free(struct rsa_key *k)
{
	if (k)
		EVP_PKEY_free(k->pkey);
	free(k);
}

const char *rsa_fingerprint(const struct rsa_key *k)
{
	return k->fingerprint;
}

unsigned rsa_bits(const struct rsa_key *k)
{
	return k->bits;
}

void *rsa_pkey(const struct rsa_key *k)
{
	return k->pkey;
}

static bool bits_are_taken(unsigned bits)
{
	return bits == 2048 || bits == 3072 || bits == 4096;
}

/* What costs time with a hostile key is asked for only after its sizes are known. Takes pkey. */
static int rsa_from_any(EVP_PKEY *pkey_arg, struct rsa_key **ret)
{
	CLEANUP(EVP_PKEY_freep) EVP_PKEY *pkey = pkey_arg;
	uint8_t public[RSA_PUBLIC_MAX], digest[32];
	BIGNUM *e = NULL;
	size_t len;

	if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_RSA)
		return -EPFNOSUPPORT;
	unsigned bits = (unsigned)EVP_PKEY_get_bits(pkey);
	if (!bits_are_taken(bits) || EVP_PKEY_get_bn_param(pkey, "e", &e) != 1)
		return -ERANGE;
	bool usual = BN_num_bits(e) <= EXPONENT_BITS_MAX && BN_num_bits(e) >= 2 && BN_is_odd(e);
	BN_free(e);
	if (!usual)
		return -ERANGE;
	CLEANUP(rsa_key_freep) struct rsa_key *k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	k->pkey = TAKE_PTR(pkey);
	k->bits = bits;
	int rc = rsa_public(k, public, &len);
	if (rc < 0)
		return rc;
	if (EVP_Digest(public, len, digest, NULL, EVP_sha256(), NULL) != 1)
		return -EIO;
	hex_encode(digest, sizeof(digest), k->fingerprint);
	*ret = TAKE_PTR(k);
	return 0;
}

int rsa_from_pkey(void *pkey, struct rsa_key **ret)
{
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	int rc = rsa_from_any(pkey, &k);

	if (rc == 0)
		rc = rsa_prove(k, k);
	if (rc == 0)
		*ret = TAKE_PTR(k);
	return rc;
}

int rsa_generate(unsigned bits, struct rsa_key **ret)
{
	if (!bits_are_taken(bits))
		return -ERANGE;
	EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)bits);
	return pkey ? rsa_from_any(pkey, ret) : -EIO;
}

int rsa_from_pkcs8(const void *der, size_t len, struct rsa_key **ret)
{
	const unsigned char *p = der;
	CLEANUP(PKCS8_PRIV_KEY_INFO_freep) PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &p, (long)len);

	if (!info || p != (const unsigned char *)der + len)
		return -EUCLEAN;
	EVP_PKEY *pkey = EVP_PKCS82PKEY(info);
	return pkey ? rsa_from_pkey(pkey, ret) : -EUCLEAN;
}

int rsa_to_pkcs8(const struct rsa_key *k, struct secret *ret)
{
	CLEANUP(PKCS8_PRIV_KEY_INFO_freep) PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(k->pkey);
	int len = info ? i2d_PKCS8_PRIV_KEY_INFO(info, NULL) : -1;

	if (len <= 0)
		return -EIO;
	CLEANUP(secret_done) struct secret s = {secret_alloc((size_t)len), (size_t)len};
	unsigned char *p = s.b;
	if (!s.b)
		return -ENOMEM;
	if (i2d_PKCS8_PRIV_KEY_INFO(info, &p) != len)
		return -EIO;
	*ret = s;
	s = (struct secret){0};
	return 0;
}

int rsa_from_public(const void *der, size_t len, struct rsa_key **ret)
{
	const unsigned char *p = der;
	EVP_PKEY *pkey = d2i_PUBKEY(NULL, &p, (long)len);

	if (!pkey || p != (const unsigned char *)der + len) {
		EVP_PKEY_free(pkey);
		return -EUCLEAN;
	}
	return rsa_from_any(pkey, ret);
}

int rsa_public(const struct rsa_key *k, uint8_t ret[RSA_PUBLIC_MAX], size_t *ret_len)
{
	unsigned char *p = ret;
	int len = i2d_PUBKEY(k->pkey, NULL);

	if (len <= 0 || (size_t)len > RSA_PUBLIC_MAX || i2d_PUBKEY(k->pkey, &p) != len)
		return -EIO;
	*ret_len = (size_t)len;
	return 0;
}

static EVP_PKEY_CTX *oaep(const struct rsa_key *k, bool encrypt, const EVP_MD *md)
{
	CLEANUP(EVP_PKEY_CTX_freep) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(k->pkey, NULL);

	if (!ctx || (encrypt ? EVP_PKEY_encrypt_init(ctx) : EVP_PKEY_decrypt_init(ctx)) != 1 ||
		EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) != 1 || EVP_PKEY_CTX_set_rsa_oaep_md(ctx, md) != 1 ||
		EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, md) != 1)
		return NULL;
	return TAKE_PTR(ctx);
}

int rsa_wrap(const struct rsa_key *k, const void *in, size_t len, uint8_t ret[RSA_BLOB_MAX], size_t *ret_len)
{
	CLEANUP(EVP_PKEY_CTX_freep) EVP_PKEY_CTX *ctx = oaep(k, true, EVP_sha256());
	size_t n = RSA_BLOB_MAX;

	if (!ctx || EVP_PKEY_encrypt(ctx, ret, &n, in, len) != 1)
		return -EIO;
	*ret_len = n;
	return 0;
}

static int rsa_unwrap_md(const struct rsa_key *k, const EVP_MD *md, const void *blob, size_t blob_len, void *ret, size_t max,
	size_t *ret_len)
{
	CLEANUP(EVP_PKEY_CTX_freep) EVP_PKEY_CTX *ctx = oaep(k, false, md);
	uint8_t *plain = secret_alloc(RSA_BLOB_MAX);
	size_t n = RSA_BLOB_MAX;
	int rc = ctx && plain ? 0 : -ENOMEM;

	if (rc == 0 && (blob_len != k->bits / 8 || EVP_PKEY_decrypt(ctx, plain, &n, blob, blob_len) != 1 || n > max))
		rc = -EKEYREJECTED;
	if (rc == 0) {
		memcpy(ret, plain, n);
		*ret_len = n;
	}
	secret_free(plain, RSA_BLOB_MAX);
	return rc;
}

int rsa_unwrap(const struct rsa_key *k, const void *blob, size_t blob_len, void *ret, size_t max, size_t *ret_len)
{
	return rsa_unwrap_md(k, EVP_sha256(), blob, blob_len, ret, max, ret_len);
}

int rsa_unwrap_sha1(const struct rsa_key *k, const void *blob, size_t blob_len, void *ret, size_t max, size_t *ret_len)
{
	return rsa_unwrap_md(k, EVP_sha1(), blob, blob_len, ret, max, ret_len);
}

int rsa_prove(const struct rsa_key *private_key, const struct rsa_key *public_key)
{
	CLEANUP(EVP_MD_CTX_freep) EVP_MD_CTX *sign = EVP_MD_CTX_new(), *verify = EVP_MD_CTX_new();
	EVP_PKEY_CTX *sign_ctx = NULL, *verify_ctx = NULL; /* of the two above */
	uint8_t nonce[32], signature[RSA_BLOB_MAX];
	size_t len = sizeof(signature);

	if (!sign || !verify)
		return -ENOMEM;
	int rc = secret_random(nonce, sizeof(nonce));
	if (rc < 0)
		return rc;
	if (EVP_DigestSignInit(sign, &sign_ctx, EVP_sha256(), NULL, private_key->pkey) != 1 ||
		EVP_PKEY_CTX_set_rsa_padding(sign_ctx, RSA_PKCS1_PSS_PADDING) != 1 ||
		EVP_DigestSign(sign, signature, &len, nonce, sizeof(nonce)) != 1)
		return -EKEYREJECTED;
	if (EVP_DigestVerifyInit(verify, &verify_ctx, EVP_sha256(), NULL, public_key->pkey) != 1 ||
		EVP_PKEY_CTX_set_rsa_padding(verify_ctx, RSA_PKCS1_PSS_PADDING) != 1 ||
		EVP_DigestVerify(verify, signature, len, nonce, sizeof(nonce)) != 1)
		return -EKEYREJECTED;
	return 0;
}
