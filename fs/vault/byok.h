/* byok: the JSON key-transfer blob of rule K3: an RSA key, wrapped to a key-exchange key that tdefsd made.
 *
 *   {"schema_version": "1.0.0", "header": {"kid": "...", "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
 *    "ciphertext": "base64url", "generator": "..."}
 *
 * ciphertext is RSAES-OAEP(SHA-1, MGF1-SHA-1) of an AES key of 128, 192 or 256 bits, followed by AES-KWP (RFC 5649) of
 * the key's PKCS#8: PKCS#11's CKM_RSA_AES_KEY_WRAP (PKCS #11 v2.40 Mechanisms, section 2.1.21). */
#pragma once
#include "vault/rsa.h"

#define BYOK_MAX (64u << 10)

/* kid: what the blob's must be; kek: its private key. ret_why says in words what is wrong, in 200 bytes that the caller
 * gives: -EUCLEAN not such a blob; -EXDEV made for another kid; -EKEYREJECTED does not open with this key-exchange key; of
 * the key inside as rsa_from_pkcs8. */
int byok_read(const void *text, size_t len, const char *kid, const struct rsa_key *kek, struct rsa_key **ret, char ret_why[200]) MUST_CHECK;
