/* secret: see secret.h. */
#include "base/secret.h"

#include <malloc.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

static bool heap_locked;

/* OpenSSL's ordinary allocations are wiped too when they are freed: its decoders leave the DER of private keys there. */
static void *wiping_malloc(size_t len, const char *file, int line)
{
	(void)file;
	(void)line;
	return malloc(len);
}

static void wiping_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	if (p)
		OPENSSL_cleanse(p, malloc_usable_size(p));
	free(p);
}

static void *wiping_realloc(void *p, size_t len, const char *file, int line)
{
	void *moved = len ? malloc(len) : NULL;

	if (len && !moved)
		return NULL;
	if (p && moved)
		memcpy(moved, p, MIN(malloc_usable_size(p), len));
	wiping_free(p, file, line);
	return moved;
}

int secret_init(size_t len)
{
	if (CRYPTO_secure_malloc_initialized())
		return 0;
	if (CRYPTO_set_mem_functions(wiping_malloc, wiping_realloc, wiping_free) != 1)
		return -EBUSY;
	int rc = CRYPTO_secure_malloc_init(len, 32);

	if (rc == 0)
		return -ENOMEM;
	heap_locked = rc == 1; /* 2: made, but mlock was refused */
	/* OpenSSL's configuration is read now: later no file may be there to be opened. */
	return OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL) == 1 ? 0 : -EIO;
}

bool secret_locked(void)
{
	return heap_locked;
}

void *secret_alloc(size_t len)
{
	void *p = CRYPTO_secure_zalloc(len, __FILE__, __LINE__);

	return p;
}

void secret_free(void *p, size_t len)
{
	CRYPTO_secure_clear_free(p, len, __FILE__, __LINE__);
}

void secret_wipe(void *p, size_t len)
{
	OPENSSL_cleanse(p, len);
}

int secret_random(void *ret, size_t len)
{
	return RAND_priv_bytes(ret, (int)len) == 1 ? 0 : -EIO;
}

void secret_done(struct secret *s)
{
	secret_free(s->b, s->len);
	*s = (struct secret){0};
}

int secret_dup(const void *data, size_t len, struct secret *ret)
{
	uint8_t *b = secret_alloc(len ? len : 1);

	if (!b)
		return -ENOMEM;
	memcpy(b, data, len);
	*ret = (struct secret){b, len};
	return 0;
}

int secret_read_fd(int fd, size_t max, struct secret *ret)
{
	CLEANUP(secret_done) struct secret s = {secret_alloc(max + 1), max + 1};
	size_t len = 0;

	if (!s.b)
		return -ENOMEM;
	while (len <= max) {
		ssize_t n = read(fd, s.b + len, max + 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return secret_dup(s.b, len, ret);
		len += (size_t)n;
	}
	return -EFBIG;
}
