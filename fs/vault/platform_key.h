/* platform_key: the operator's own key, which new environments are encrypted under (rule E1).
 *
 * 32 random bytes in a file of mode 0600, made at tdefsd's first start. It wraps environment keys with AES-256-KWP
 * (RFC 5649, NIST SP 800-38F). Whoever has this file and a store has the store's plaintext: keep them apart, and back
 * the key up, because without it environments under it are lost. */
#pragma once
#include "base/secret.h"

struct platform_key;

/* Opens path, or makes it (written, synced, renamed) when it is not there. -EUCLEAN not such a file, -EPERM others may
 * read it. ret_made (may be NULL): it was made now. */
int platform_key_open(const char *path, struct platform_key **ret, bool *ret_made) MUST_CHECK;
void platform_key_free(struct platform_key *pk);
/* SHA-256 of a value derived from the key, hex; says nothing about the key. */
const char *platform_key_fingerprint(const struct platform_key *pk);
#define PLATFORM_WRAP_SIZE 40u
int platform_key_wrap(const struct platform_key *pk, const struct env_key *ek, uint8_t ret[PLATFORM_WRAP_SIZE]) MUST_CHECK;
/* Any bytes, under a key derived from this one: AES-256-KWP, so len and up to 15 more come out. */
int platform_key_seal(const struct platform_key *pk, const void *in, size_t len, uint8_t *ret, size_t max, size_t *ret_len) MUST_CHECK;
/* -EKEYREJECTED: sealed by another key, or damaged. */
int platform_key_open_sealed(const struct platform_key *pk, const void *sealed, size_t len, struct secret *ret) MUST_CHECK;
/* The key in a file's bytes, to open what another tdefsd left. -EUCLEAN. */
bool platform_key_is_file(const void *bytes, size_t len);
int platform_key_from_bytes(const void *bytes, size_t len, struct platform_key **ret) MUST_CHECK;
/* -EKEYREJECTED: wrapped by another key, or damaged. */
int platform_key_unwrap(const struct platform_key *pk, const uint8_t *blob, size_t len, struct env_key *ret) MUST_CHECK;
