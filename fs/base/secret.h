/* secret: memory for key material, and one type per kind of key, so that mixing them up does not compile.
 *
 * Secret bytes live only in memory from secret_alloc (OpenSSL's secure heap: locked, not dumped, guard pages,
 * CRYPTO_secure_malloc(3)). Every free wipes. Nothing here prints. */
#pragma once
#include "base/util.h"

/* Sets the secure heap up; call once, after daemonising, before any key exists. len: bytes, a power of two.
 * From then on what OpenSSL frees elsewhere is wiped as well; -EBUSY when OpenSSL was used before. OpenSSL's configuration
 * (openssl.cnf, config(5ssl)) is read here: -EIO when it is wrong.
 * -ENOMEM when the memory cannot be had. Where locking it is not permitted (RLIMIT_MEMLOCK) it is used unlocked and
 * secret_locked() says false. */
int secret_init(size_t len) MUST_CHECK;
bool secret_locked(void);

/* Zeroed secret memory, NULL when the heap is used up; falls back to the ordinary heap only before secret_init
 * (tests, one-shot tools). secret_free takes NULL, wipes len bytes. */
void *secret_alloc(size_t len);
void secret_free(void *p, size_t len);
void secret_wipe(void *p, size_t len);

/* Random bytes from OpenSSL's private DRBG. -EIO when it fails. */
int secret_random(void *ret, size_t len) MUST_CHECK;

/* Keys. Hold them in secret memory: KEY_NEW(type) / KEY_FREE(p). */
struct env_key {
	uint8_t b[32]; /* environment key EK_n */
};
struct names_key {
	uint8_t b[64]; /* AES-256-SIV names key, the two halves of RFC 5297 */
};
struct file_key {
	uint8_t b[32]; /* file key FK */
};
struct wrap_key {
	uint8_t b[32]; /* file-wrap key FW_n, AES-256-KW */
};
struct mac_key {
	uint8_t b[32]; /* header-MAC and file-header-MAC keys, HMAC-SHA256 */
};
#define KEY_NEW(type) ((type *)secret_alloc(sizeof(type)))
#define KEY_FREE(p) secret_free((p), sizeof(*(p)))

/* A run of secret bytes of a length known only at run time (a PFX's DER, a password). Owns b. */
struct secret {
	uint8_t *b;
	size_t len;
};
void secret_done(struct secret *s); /* wipes, frees, zeroes; for CLEANUP(secret_done) */
int secret_dup(const void *data, size_t len, struct secret *ret) MUST_CHECK;
/* Reads fd to its end with read(2), at most max bytes. -EFBIG above max. */
int secret_read_fd(int fd, size_t max, struct secret *ret) MUST_CHECK;
