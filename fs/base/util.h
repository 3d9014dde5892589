/* util: small things that libc lacks. No allocation without saying so, no I/O. */
#pragma once
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define UNUSED __attribute__((unused))
#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Cleanup attributes: an owning local is declared with one and initialised in its declaration; ownership
 * leaves the function by TAKE_FD or TAKE_PTR alone. Define more with DEFINE_CLEANUP(type *, destructor). */
#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define DEFINE_CLEANUP(type, destructor)                                                                     \
	static inline void destructor##p(type *p)                                                            \
	{                                                                                                    \
		if (*p)                                                                                      \
			destructor(*p);                                                                      \
	}                                                                                                    \
	typedef int destructor##p##_needs_semicolon

static inline void util_closep(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
		*fd = -1; /* never closed twice: the number may be somebody else's by then */
	}
}
static inline void util_freep(void *p)
{
	free(*(void **)p);
}
#define CLEANUP_CLOSE CLEANUP(util_closep)
#define CLEANUP_FREE CLEANUP(util_freep)
#define TAKE_FD(fd) __extension__({ int taken_ = (fd); (fd) = -1; taken_; })
#define TAKE_PTR(p) __extension__({ __typeof__(p) taken_ = (p); (p) = NULL; taken_; })

/* Little-endian loads and stores at any alignment. */
uint16_t le16_load(const void *p);
uint32_t le32_load(const void *p);
uint64_t le64_load(const void *p);
void le16_store(void *p, uint16_t v);
void le32_store(void *p, uint32_t v);
void le64_store(void *p, uint64_t v);

/* Lower-case hex; ret_hex needs 2*len+1 bytes. hex_decode wants exactly 2*len such
 * digits, so that a text has one form: -EUCLEAN otherwise. */
void hex_encode(const void *data, size_t len, char *ret_hex);
int hex_decode(const char *hex, void *ret_data, size_t len) MUST_CHECK;

/* Base64url without padding (RFC 4648 section 5). Encoded length of n bytes: BASE64URL_LEN(n), plus a NUL.
 * Decoding refuses (-EUCLEAN) other characters, impossible lengths and non-zero trailing bits, so every
 * byte string has exactly one encoding; -ENOBUFS when it does not fit in max bytes. */
#define BASE64URL_LEN(n) (((n)*4 + 2) / 3)
void base64url_encode(const void *data, size_t len, char *ret_text);
int base64url_decode(const char *text, size_t text_len, void *ret_data, size_t max, size_t *ret_len) MUST_CHECK;

/* "72h", "28d", "30s", "5m", "200ms" to nanoseconds; a bare number, a sign or an unknown unit is -EINVAL, more than
 * 100 years -ERANGE. format writes the shortest exact form ("72h"), ret needs 32 bytes. */
int duration_parse(const char *text, uint64_t *ret_ns) MUST_CHECK;
void duration_format(uint64_t ns, char *ret, size_t size);

/* CLOCK_MONOTONIC in nanoseconds; CLOCK_REALTIME, and CLOCK_BOOTTIME, which nobody sets, in seconds. */
uint64_t clock_monotonic_ns(void);
int64_t clock_realtime_s(void);
int64_t clock_boottime_s(void);

/* printf into new memory; NULL only when out of memory. The caller frees. */
char *str_format(const char *format, ...) PRINTF(1, 2);
/* Names may be any bytes: those that are no part of valid UTF-8, and control characters, become \xNN. The caller frees; NULL only
 * when out of memory. */
char *str_printable(const char *text);
