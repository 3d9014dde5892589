/* pfx: see pfx.h. PKCS12_parse(3) would do most of it, but looks at no iteration count, and does not say what was wrong. */
#include "vault/pfx.h"

#include <openssl/err.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <pthread.h>
#include <string.h>

#define BAGS_MAX 32

DEFINE_CLEANUP(PKCS12 *, PKCS12_free);
DEFINE_CLEANUP(PKCS8_PRIV_KEY_INFO *, PKCS8_PRIV_KEY_INFO_free);
DEFINE_CLEANUP(X509 *, X509_free);

/* ---- the library context with the legacy provider: made once, kept for ever ---- */

static OSSL_LIB_CTX *legacy_ctx;

static void legacy_init(void)
{
	OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();

	if (!ctx)
		return;
	if (!OSSL_PROVIDER_load(ctx, "default")) {
		OSSL_LIB_CTX_free(ctx);
		return;
	}
	/* Without the legacy module, modern files can still be read. */
	(void)!OSSL_PROVIDER_load(ctx, "legacy");
	legacy_ctx = ctx;
}

static OSSL_LIB_CTX *pfx_ctx(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, legacy_init);
	return legacy_ctx;
}

/* ---- reading ---- */

struct pfx {
	const char *password;
	int password_len;
	long iterations; /* left to spend */
	int bags;
	EVP_PKEY *key;
	X509 *certificates[BAGS_MAX];
	int certificate_count;
	const char *why;
};

static int pfx_fail(struct pfx *x, int error, const char *why)
{
	x->why = why;
	return error;
}

static int pfx_spend(struct pfx *x, const ASN1_INTEGER *count)
{
	long n = count ? ASN1_INTEGER_get(count) : 1;

	if (n < 1 || n > x->iterations)
		return pfx_fail(x, -EDOM, "it asks for more key-derivation iterations than tdefs does; export it with fewer");
	x->iterations -= n;
	return 0;
}

/* What decrypting under alg will cost (RFC 8018 PBES2 with PBKDF2, RFC 7292 appendix C). */
static int pfx_spend_algorithm(struct pfx *x, const X509_ALGOR *alg)
{
	const ASN1_OBJECT *oid;
	const void *value;
	int type, rc;

	X509_ALGOR_get0(&oid, &type, &value, alg);
	if (type != V_ASN1_SEQUENCE)
		return pfx_fail(x, -ENOTSUP, "it is encrypted in a way that tdefs does not know");
	if (OBJ_obj2nid(oid) != NID_pbes2) {
		PBEPARAM *p = ASN1_TYPE_unpack_sequence(ASN1_ITEM_rptr(PBEPARAM), alg->parameter);

		if (!p)
			return pfx_fail(x, -ENOTSUP, "it is encrypted in a way that tdefs does not know");
		rc = pfx_spend(x, p->iter);
		PBEPARAM_free(p);
		return rc;
	}
	PBE2PARAM *p = ASN1_TYPE_unpack_sequence(ASN1_ITEM_rptr(PBE2PARAM), alg->parameter);
	PBKDF2PARAM *kdf = NULL;
	if (p && OBJ_obj2nid(p->keyfunc->algorithm) == NID_id_pbkdf2 && p->keyfunc->parameter)
		kdf = ASN1_TYPE_unpack_sequence(ASN1_ITEM_rptr(PBKDF2PARAM), p->keyfunc->parameter);
	rc = kdf ? pfx_spend(x, kdf->iter) : pfx_fail(x, -ENOTSUP, "it is encrypted in a way that tdefs does not know");
	PBKDF2PARAM_free(kdf);
	PBE2PARAM_free(p);
	return rc;
}

static int pfx_key(struct pfx *x, const PKCS8_PRIV_KEY_INFO *info)
{
	if (x->key)
		return pfx_fail(x, -E2BIG, "it holds several private keys; export the one");
	x->key = EVP_PKCS82PKEY(info);
	return x->key ? 0 : pfx_fail(x, -EPFNOSUPPORT, "its private key is of a kind that tdefs does not know; an RSA key is wanted");
}

static int pfx_bag(struct pfx *x, const PKCS12_SAFEBAG *bag, bool encrypted, int depth);

static int pfx_bags(struct pfx *x, const STACK_OF(PKCS12_SAFEBAG) *bags, bool encrypted, int depth)
{
	int rc = 0;

	for (int k = 0; rc == 0 && k < sk_PKCS12_SAFEBAG_num(bags); k++)
		rc = pfx_bag(x, sk_PKCS12_SAFEBAG_value(bags, k), encrypted, depth);
	return rc;
}

static int pfx_bag(struct pfx *x, const PKCS12_SAFEBAG *bag, bool encrypted, int depth)
{
	if (++x->bags > BAGS_MAX || depth > 3)
		return pfx_fail(x, -E2BIG, "it holds more than a key and its certificates");
	switch (PKCS12_SAFEBAG_get_nid(bag)) {
	case NID_keyBag:
		if (!encrypted)
			return pfx_fail(x, -ENOKEY, "its private key is not protected by a password");
		return pfx_key(x, PKCS12_SAFEBAG_get0_p8inf(bag));
	case NID_pkcs8ShroudedKeyBag: {
		const X509_ALGOR *alg;
		CLEANUP(PKCS8_PRIV_KEY_INFO_freep) PKCS8_PRIV_KEY_INFO *info = NULL;

		X509_SIG_get0(PKCS12_SAFEBAG_get0_pkcs8(bag), &alg, NULL);
		int rc = pfx_spend_algorithm(x, alg);
		if (rc < 0)
			return rc;
		info = PKCS12_decrypt_skey_ex(bag, x->password, x->password_len, pfx_ctx(), NULL);
		return info ? pfx_key(x, info) : pfx_fail(x, -EKEYREJECTED, "its private key does not open with this password");
	}
	case NID_certBag:
		x->certificates[x->certificate_count] = PKCS12_SAFEBAG_get1_cert(bag);
		x->certificate_count += x->certificates[x->certificate_count] != NULL;
		return 0;
	case NID_safeContentsBag:
		return pfx_bags(x, PKCS12_SAFEBAG_get0_safes(bag), encrypted, depth + 1);
	default:
		return 0; /* revocation lists and secrets say nothing about the key */
	}
}

static int pfx_contents(struct pfx *x, PKCS12 *p12)
{
	STACK_OF(PKCS7) *parts = PKCS12_unpack_authsafes(p12);
	int rc = parts ? 0 : pfx_fail(x, -EUCLEAN, "its contents are damaged");

	for (int k = 0; rc == 0 && k < sk_PKCS7_num(parts); k++) {
		PKCS7 *part = sk_PKCS7_value(parts, k);
		STACK_OF(PKCS12_SAFEBAG) *bags = NULL;
		bool encrypted = PKCS7_type_is_encrypted(part);

		if (encrypted) {
			rc = part->d.encrypted && part->d.encrypted->enc_data
				     ? pfx_spend_algorithm(x, part->d.encrypted->enc_data->algorithm)
				     : pfx_fail(x, -EUCLEAN, "its contents are damaged");
			if (rc == 0)
				bags = PKCS12_unpack_p7encdata(part, x->password, x->password_len);
		} else if (PKCS7_type_is_data(part)) {
			bags = PKCS12_unpack_p7data(part);
		} else {
			continue;
		}
		if (rc == 0)
			rc = bags ? pfx_bags(x, bags, encrypted, 0)
				  : pfx_fail(x, -ENOTSUP, "a part of it does not open: damaged, or encrypted in a way that this OpenSSL lacks");
		sk_PKCS12_SAFEBAG_pop_free(bags, PKCS12_SAFEBAG_free);
	}
	sk_PKCS7_pop_free(parts, PKCS7_free);
	return rc;
}

static int pfx_check_password(struct pfx *x, PKCS12 *p12)
{
	const ASN1_INTEGER *count;

	if (!PKCS12_mac_present(p12))
		return pfx_fail(x, -ENOKEY, "it is not protected by a password");
	PKCS12_get0_mac(NULL, NULL, NULL, &count, p12);
	int rc = pfx_spend(x, count);
	if (rc < 0)
		return rc;
	if (x->password_len > 0 && PKCS12_verify_mac(p12, x->password, x->password_len))
		return 0;
	rc = pfx_spend(x, count);
	if (rc == 0)
		rc = pfx_spend(x, count);
	if (rc < 0)
		return rc;
	if (PKCS12_verify_mac(p12, NULL, 0) || PKCS12_verify_mac(p12, "", 0))
		return pfx_fail(x, -ENOKEY, "it is not protected by a password; export it with one");
	return x->password_len > 0 ? pfx_fail(x, -EKEYREJECTED, "the password is wrong")
				   : pfx_fail(x, -ENOKEY, "no password was given, and it has one");
}

/* The certificates of a chain may be in it too: one must be the key's. */
static int pfx_check_certificates(struct pfx *x)
{
	bool ours = x->certificate_count == 0;

	for (int k = 0; k < x->certificate_count; k++)
		ours = ours || X509_check_private_key(x->certificates[k], x->key) == 1;
	return ours ? 0 : pfx_fail(x, -EINVAL, "its certificate belongs to another key");
}

int pfx_read(const void *der, size_t len, const struct secret *password, struct rsa_key **ret, const char **ret_why)
{
	struct pfx x = {.password = (const char *)password->b, .password_len = (int)password->len, .iterations = PFX_ITERATIONS_MAX};
	const unsigned char *p = der;
	OSSL_LIB_CTX *ctx = pfx_ctx();
	CLEANUP(PKCS12_freep) PKCS12 *p12 = ctx ? PKCS12_init_ex(NID_pkcs7_data, ctx, NULL) : NULL;
	int rc = p12 ? 0 : -ENOMEM;

	if (rc == 0 && (len > PFX_MAX || password->len > PFX_PASSWORD_MAX))
		rc = pfx_fail(&x, -EUCLEAN, "it, or its password, is longer than any");
	if (rc == 0 && !d2i_PKCS12(&p12, &p, (long)len))
		rc = pfx_fail(&x, -EUCLEAN, "it is not a PFX (PKCS#12) file");
	if (rc == 0 && p != (const unsigned char *)der + len)
		rc = pfx_fail(&x, -EUCLEAN, "there are bytes behind the PFX's end: is it damaged?");
	if (rc == 0)
		rc = pfx_check_password(&x, p12);
	if (rc == 0)
		rc = pfx_contents(&x, p12);
	if (rc == 0 && !x.key)
		rc = pfx_fail(&x, -ENOENT, "there is no private key in it; export it together with the key");
	if (rc == 0)
		rc = pfx_check_certificates(&x);
	if (rc == 0) {
		rc = rsa_from_pkey(TAKE_PTR(x.key), ret);
		if (rc == -EPFNOSUPPORT)
			x.why = "its key is not an RSA key";
		else if (rc == -ERANGE)
			x.why = "its key is not RSA of 2048, 3072 or 4096 bits with a usual exponent";
		else if (rc == -EKEYREJECTED)
			rc = pfx_fail(&x, -EUCLEAN, "its key is damaged: the halves do not belong together");
	}
	EVP_PKEY_free(x.key);
	for (int k = 0; k < x.certificate_count; k++)
		X509_free(x.certificates[k]);
	ERR_clear_error();
	if (rc < 0)
		*ret_why = x.why ? x.why : strerror(-rc);
	return rc;
}

/* ---- writing ---- */

/* Random serial, a hundred years, signed by itself: it says nothing, but some programs want one. */
static X509 *pfx_certificate(EVP_PKEY *pkey, const char *name)
{
	CLEANUP(X509_freep) X509 *x = X509_new();
	uint8_t serial[15];
	BIGNUM *number = NULL;

	if (!x || secret_random(serial, sizeof(serial)) < 0)
		return NULL;
	serial[0] |= 1;
	number = BN_bin2bn(serial, sizeof(serial), NULL);
	X509_NAME *subject = X509_get_subject_name(x);
	bool ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x)) && X509_set_version(x, 2) == 1 &&
		  X509_gmtime_adj(X509_getm_notBefore(x), 0) && X509_time_adj_ex(X509_getm_notAfter(x), 36500, 0, NULL) &&
		  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0) == 1 &&
		  X509_set_issuer_name(x, subject) == 1 && X509_set_pubkey(x, pkey) == 1 && X509_sign(x, pkey, EVP_sha256()) > 0;
	BN_free(number);
	return ok ? TAKE_PTR(x) : NULL;
}

int pfx_write(const struct rsa_key *k, const struct secret *password, const char *name, struct secret *ret)
{
	CLEANUP(X509_freep) X509 *certificate = pfx_certificate(rsa_pkey(k), name);
	CLEANUP(secret_done) struct secret text = {secret_alloc(password->len + 1), password->len + 1};
	CLEANUP(PKCS12_freep) PKCS12 *p12 = NULL;

	if (password->len == 0 || password->len > PFX_PASSWORD_MAX || memchr(password->b, '\0', password->len))
		return -EINVAL;
	if (!certificate || !text.b)
		return -ENOMEM;
	memcpy(text.b, password->b, password->len);
	p12 = PKCS12_create((const char *)text.b, name, rsa_pkey(k), certificate, NULL, NID_aes_256_cbc, NID_aes_256_cbc,
		PFX_ITERATIONS, PFX_ITERATIONS, 0);
	int len = p12 ? i2d_PKCS12(p12, NULL) : -1;
	CLEANUP(secret_done) struct secret s = {len > 0 ? secret_alloc((size_t)len) : NULL, len > 0 ? (size_t)len : 0};
	unsigned char *p = s.b;
	if (!s.b || i2d_PKCS12(p12, &p) != len)
		return -EIO;
	*ret = s;
	s = (struct secret){0};
	return 0;
}
