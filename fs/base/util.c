/* util: see util.h. */
#include "base/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

uint16_t le16_load(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] | b[1] << 8);
}

uint32_t le32_load(const void *p)
{
	const uint8_t *b = p;
	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

uint64_t le64_load(const void *p)
{
	return le32_load(p) | (uint64_t)le32_load((const uint8_t *)p + 4) << 32;
}

void le16_store(void *p, uint16_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

void le32_store(void *p, uint32_t v)
{
	le16_store(p, (uint16_t)v);
	le16_store((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

void le64_store(void *p, uint64_t v)
{
	le32_store(p, (uint32_t)v);
	le32_store((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

void hex_encode(const void *data, size_t len, char *ret_hex)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = data;

	for (size_t i = 0; i < len; i++) {
		*ret_hex++ = digits[b[i] >> 4];
		*ret_hex++ = digits[b[i] & 15];
	}
	*ret_hex = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int hex_decode(const char *hex, void *ret_data, size_t len)
{
	uint8_t *b = ret_data;

	if (strlen(hex) != 2 * len)
		return -EUCLEAN;
	for (size_t i = 0; i < 2 * len; i++)
		if (hex_digit(hex[i]) < 0)
			return -EUCLEAN;
	for (size_t i = 0; i < len; i++)
		b[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
	return 0;
}

void base64url_encode(const void *data, size_t len, char *ret_text)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const uint8_t *b = data;
	uint32_t acc = 0;
	unsigned bits = 0;

	for (size_t i = 0; i < len; i++) {
		acc = acc << 8 | b[i];
		bits += 8;
		while (bits >= 6) {
			bits -= 6;
			*ret_text++ = digits[acc >> bits & 63];
		}
	}
	if (bits)
		*ret_text++ = digits[acc << (6 - bits) & 63];
	*ret_text = '\0';
}

static int base64url_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int base64url_decode(const char *text, size_t text_len, void *ret_data, size_t max, size_t *ret_len)
{
	uint8_t *b = ret_data;
	size_t len = text_len / 4 * 3 + (text_len % 4 ? text_len % 4 - 1 : 0), n = 0;
	uint32_t acc = 0;
	unsigned bits = 0;

	if (text_len % 4 == 1)
		return -EUCLEAN;
	if (len > max)
		return -ENOBUFS;
	for (size_t i = 0; i < text_len; i++) {
		int digit = base64url_digit(text[i]);

		if (digit < 0)
			return -EUCLEAN;
		acc = acc << 6 | (uint32_t)digit;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			b[n++] = (uint8_t)(acc >> bits);
			acc &= (1u << bits) - 1;
		}
	}
	if (acc)
		return -EUCLEAN;
	*ret_len = n;
	return 0;
}

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S (1000 * NS_PER_MS)

static const struct {
	const char *unit;
	uint64_t ns;
} durations[] = {
	{"d", 86400 * NS_PER_S}, {"h", 3600 * NS_PER_S}, {"m", 60 * NS_PER_S}, {"s", NS_PER_S}, {"ms", NS_PER_MS}};

int duration_parse(const char *text, uint64_t *ret_ns)
{
	uint64_t n = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		if (n > UINT64_C(1000000000000000))
			return -ERANGE;
		n = n * 10 + (uint64_t)(*p - '0');
	}
	if (p == text)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
		if (strcmp(p, durations[i].unit) != 0)
			continue;
		if (n > UINT64_C(36525) * 86400 * NS_PER_S / durations[i].ns)
			return -ERANGE;
		*ret_ns = n * durations[i].ns;
		return 0;
	}
	return -EINVAL;
}

void duration_format(uint64_t ns, char *ret, size_t size)
{
	size_t i = 0;

	while (i + 1 < ARRAY_LEN(durations) && (ns == 0 || ns % durations[i].ns != 0))
		i++;
	if (ns == 0)
		i = 3;
	snprintf(ret, size, "%llu%s", (unsigned long long)(ns / durations[i].ns), durations[i].unit);
}

uint64_t clock_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

int64_t clock_realtime_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec;
}

int64_t clock_boottime_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return ts.tv_sec;
}

char *str_format(const char *format, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&text, format, ap) < 0)
		text = NULL;
	va_end(ap);
	return text;
}

/* Bytes of the UTF-8 sequence (RFC 3629) that text begins with; 0: none. */
static size_t utf8_length(const unsigned char *text)
{
	size_t n = text[0] < 0x80 ? 1 : text[0] >= 0xc2 && text[0] < 0xe0 ? 2 : text[0] >= 0xe0 && text[0] < 0xf0 ? 3 : text[0] >= 0xf0 && text[0] < 0xf5 ? 4 : 0;

	for (size_t k = 1; k < n; k++)
		if ((text[k] & 0xc0) != 0x80)
			return 0;
	/* Longer than it need be, a surrogate, or past U+10FFFF. */
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] >= 0xa0) || (text[0] == 0xf0 && text[1] < 0x90) ||
		(text[0] == 0xf4 && text[1] >= 0x90))
		return 0;
	return n;
}

char *str_printable(const char *text)
{
	const unsigned char *p = (const unsigned char *)text;
	char *ret = malloc(4 * strlen(text) + 1), *out = ret;

	while (ret && *p) {
		size_t n = utf8_length(p);

		if (n == 0 || *p < 0x20 || *p == 0x7f) {
			out += sprintf(out, "\\x%02x", *p++);
		} else {
			memcpy(out, p, n);
			out += n;
			p += n;
		}
	}
	if (ret)
		*out = '\0';
	return ret;
}
