/* vault: where private keys live. A key is known by its fingerprint (rsa.h), and never leaves: what is done with it is
 * done here, as it would be in a token.
 *
 * This is the embedded file vault: one file a key, mode 0600, the key's PKCS#8 sealed under the platform key. Losing the
 * platform key loses the vault, not the keys: the tenant has its key files. Destroying overwrites the file in place
 * before it unlinks it; what a copy-on-write file system, a flash translation layer or a backup still holds of it,
 * remains sealed under the platform key.
 *
 * Thread safe: every call stands on its own. Errors: -ENOENT no such key here, -EUCLEAN its file is damaged or sealed by
 * another platform key, else of the file system. */
#pragma once
#include "vault/platform_key.h"
#include "vault/rsa.h"

struct vault;

/* Opens dir, or makes it (mode 0700). pk is borrowed for the vault's life. */
int vault_open(const char *dir, const struct platform_key *pk, struct vault **ret) MUST_CHECK;
void vault_close(struct vault *v);

/* Durable when it returns. Importing what is there already changes nothing. */
int vault_import(struct vault *v, const struct rsa_key *k) MUST_CHECK;
bool vault_holds(const struct vault *v, const char *fingerprint);
/* As rsa_unwrap. */
int vault_unwrap(const struct vault *v, const char *fingerprint, const void *blob, size_t len, void *ret, size_t max, size_t *ret_len) MUST_CHECK;
/* As byok_read, with the key-exchange key named. */
int vault_read_byok(const struct vault *v, const char *fingerprint, const char *kid, const void *text, size_t len,
	struct rsa_key **ret, char ret_why[200]) MUST_CHECK;
/* 0 also when it is not there. */
int vault_destroy(struct vault *v, const char *fingerprint) MUST_CHECK;
/* Destroys every key that keep says no to: what a crash left between the vault and the registry. */
int vault_sweep(struct vault *v, bool (*keep)(void *ctx, const char *fingerprint), void *ctx) MUST_CHECK;
