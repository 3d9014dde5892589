/* rsa: the tenant's RSA keys and what is done with them. With pfx.c the one door to OpenSSL's public-key code.
 *
 * Wrapping is RSAES-OAEP with SHA-256 and MGF1-SHA-256 (RFC 8017 section 7.1). A fingerprint is the SHA-256 of the
 * public key's SubjectPublicKeyInfo (RFC 5280), hex: what `openssl pkey -pubin -outform DER | sha256sum` prints. */
#pragma once
#include "base/secret.h"

#define RSA_BLOB_MAX 512u /* a 4096-bit key's ciphertext */
#define RSA_PUBLIC_MAX 1024u

struct rsa_key; /* a key pair, or a public key alone */
void rsa_key_free(struct rsa_key *k);
DEFINE_CLEANUP(struct rsa_key *, rsa_key_free);

/* bits: 2048, 3072 or 4096 here and everywhere (rule K2). */
int rsa_generate(unsigned bits, struct rsa_key **ret) MUST_CHECK;
/* PKCS#8 PrivateKeyInfo (RFC 5208), DER, the whole of len. -EUCLEAN not that, -EPFNOSUPPORT not an RSA key, -ERANGE of
 * another size or with an exponent that no key should have, -EKEYREJECTED its halves do not belong together. */
int rsa_from_pkcs8(const void *der, size_t len, struct rsa_key **ret) MUST_CHECK;
int rsa_to_pkcs8(const struct rsa_key *k, struct secret *ret) MUST_CHECK;
/* SubjectPublicKeyInfo, DER. Errors as above. */
int rsa_from_public(const void *der, size_t len, struct rsa_key **ret) MUST_CHECK;
int rsa_public(const struct rsa_key *k, uint8_t ret[RSA_PUBLIC_MAX], size_t *ret_len) MUST_CHECK;

const char *rsa_fingerprint(const struct rsa_key *k);
unsigned rsa_bits(const struct rsa_key *k);

int rsa_wrap(const struct rsa_key *k, const void *in, size_t len, uint8_t ret[RSA_BLOB_MAX], size_t *ret_len) MUST_CHECK;
/* At most max bytes come out. -EKEYREJECTED wrapped to another key, or damaged. */
int rsa_unwrap(const struct rsa_key *k, const void *blob, size_t blob_len, void *ret, size_t max, size_t *ret_len) MUST_CHECK;
/* The same with SHA-1, which key-transfer blobs are made with (rule K3). */
int rsa_unwrap_sha1(const struct rsa_key *k, const void *blob, size_t blob_len, void *ret, size_t max, size_t *ret_len) MUST_CHECK;
/* Whether private_key is the private half of public_key, by a signature (RSASSA-PSS) over fresh random bytes.
 * -EKEYREJECTED. */
int rsa_prove(const struct rsa_key *private_key, const struct rsa_key *public_key) MUST_CHECK;

/* For pfx.c: the key inside, an EVP_PKEY. from: checks as rsa_from_pkcs8 does; takes pkey always. */
void *rsa_pkey(const struct rsa_key *k);
int rsa_from_pkey(void *pkey, struct rsa_key **ret) MUST_CHECK;
