/* pfx: PKCS#12 files (RFC 7292) as key files: rules K1 and K2.
 *
 * Reading takes what OpenSSL, Windows and old vaults write, RC2 and 3DES included (OpenSSL's legacy provider, in a library
 * context of its own), and is bounded in memory by PFX_MAX and in time by PFX_ITERATIONS_MAX. Writing uses PBES2 with
 * AES-256-CBC and PBKDF2-HMAC-SHA-256 (RFC 8018), and adds a self-signed certificate, without which some programs do
 * not take a PFX. */
#pragma once
#include "vault/rsa.h"

#define PFX_MAX (64u << 10)
#define PFX_ITERATIONS 600000
#define PFX_ITERATIONS_MAX 10000000 /* of everything in one file together */
#define PFX_PASSWORD_MAX 1024u

/* ret_why says in words what is wrong: -EUCLEAN not a PFX, or with more behind it; -ENOKEY no password protects it, or none
 * was given; -EKEYREJECTED wrong password; -ENOENT no private key in it; -E2BIG several; -EPFNOSUPPORT not RSA; -ERANGE of
 * another size; -EDOM more iterations than are done; -ENOTSUP an unknown encryption; -EINVAL its certificate is of another
 * key. */
int pfx_read(const void *der, size_t len, const struct secret *password, struct rsa_key **ret, const char **ret_why) MUST_CHECK;
/* name: the friendly name inside. */
int pfx_write(const struct rsa_key *k, const struct secret *password, const char *name, struct secret *ret) MUST_CHECK;
