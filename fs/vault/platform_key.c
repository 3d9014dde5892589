/* platform_key: see platform_key.h. The file is "tdefs platform key 1\n" and the key's 32 bytes. */
#include "vault/platform_key.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAGIC "tdefs platform key 1\n"
#define FILE_SIZE (sizeof(FILE_MAGIC) - 1 + sizeof(struct wrap_key))

struct platform_key {
	struct wrap_key *key;     /* wraps environment keys */
	struct wrap_key *sealing; /* seals the vault's files; derived from key */
	char fingerprint[65];
};

void platform_key_free(struct platform_key *pk)
{
	if (pk) {
		KEY_FREE(pk->key);
		KEY_FREE(pk->sealing);
	}
	free(pk);
}
DEFINE_CLEANUP(struct platform_key *, platform_key_free);

static int platform_key_make(const char *path)
{
	CLEANUP_FREE char *tmp = str_format("%s.new", path);
	CLEANUP_FREE char *dir = strdup(path);
	struct secret s __attribute__((cleanup(secret_done))) = {secret_alloc(FILE_SIZE), FILE_SIZE};

	if (!tmp || !dir || !s.b)
		return -ENOMEM;
	memcpy(s.b, FILE_MAGIC, sizeof(FILE_MAGIC) - 1);
	int rc = secret_random(s.b + sizeof(FILE_MAGIC) - 1, sizeof(struct wrap_key));
	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, s.b, s.len) != (ssize_t)s.len || fsync(fd) < 0)
		return errno ? -errno : -EIO;
	/* link, not rename: two first starts at once must not replace each other's key. */
	rc = link(tmp, path) < 0 ? -errno : 0;
	unlink(tmp);
	CLEANUP_CLOSE int dir_fd = open(dirname(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (rc == 0 && (dir_fd < 0 || fsync(dir_fd) < 0))
		rc = -errno;
	return rc;
}

bool platform_key_is_file(const void *bytes, size_t len)
{
	return len == FILE_SIZE && memcmp(bytes, FILE_MAGIC, sizeof(FILE_MAGIC) - 1) == 0;
}

static int platform_key_derive(const struct platform_key *pk, const char *label, size_t label_len, uint8_t ret[32])
{
	return EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, pk->key->b, sizeof(pk->key->b), (const unsigned char *)label, label_len, ret,
		       32, &(size_t){0})
		       ? 0
		       : -EIO;
}

static int platform_key_decode(const void *bytes, size_t len, struct platform_key *pk)
{
	static const char fingerprint[] = "tdefs platform key fingerprint", sealing[] = "tdefs platform key sealing";
	uint8_t digest[32];

	if (!platform_key_is_file(bytes, len))
		return -EUCLEAN;
	pk->key = KEY_NEW(struct wrap_key);
	pk->sealing = KEY_NEW(struct wrap_key);
	if (!pk->key || !pk->sealing)
		return -ENOMEM;
	memcpy(pk->key->b, (const uint8_t *)bytes + sizeof(FILE_MAGIC) - 1, sizeof(pk->key->b));
	int rc = platform_key_derive(pk, sealing, sizeof(sealing), pk->sealing->b);
	if (rc == 0)
		rc = platform_key_derive(pk, fingerprint, sizeof(fingerprint), digest);
	hex_encode(digest, sizeof(digest), pk->fingerprint);
	return rc;
}

static int platform_key_read(const char *path, struct platform_key *pk)
{
	struct secret s __attribute__((cleanup(secret_done))) = {0};
	struct stat st;

	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_mode & 077)
		return -EPERM;
	int rc = secret_read_fd(fd, FILE_SIZE, &s);
	if (rc < 0)
		return rc == -EFBIG ? -EUCLEAN : rc;
	return platform_key_decode(s.b, s.len, pk);
}

int platform_key_from_bytes(const void *bytes, size_t len, struct platform_key **ret)
{
	CLEANUP(platform_key_freep) struct platform_key *pk = calloc(1, sizeof(*pk));
	int rc = pk ? platform_key_decode(bytes, len, pk) : -ENOMEM;

	if (rc == 0)
		*ret = TAKE_PTR(pk);
	return rc;
}

int platform_key_open(const char *path, struct platform_key **ret, bool *ret_made)
{
	CLEANUP(platform_key_freep) struct platform_key *pk = calloc(1, sizeof(*pk));

	if (!pk)
		return -ENOMEM;
	int rc = platform_key_read(path, pk);
	bool made = rc == -ENOENT;
	if (made) {
		rc = platform_key_make(path);
		if (rc == 0 || rc == -EEXIST)
			rc = platform_key_read(path, pk);
	}
	if (rc < 0)
		return rc;
	if (ret_made)
		*ret_made = made;
	*ret = TAKE_PTR(pk);
	return 0;
}

const char *platform_key_fingerprint(const struct platform_key *pk)
{
	return pk->fingerprint;
}

/* KWP both ways; the context's output buffer is checked by the caller's sizes. */
static int key_wrap_pad(const struct wrap_key *key, bool wrap, const uint8_t *in, size_t in_len, uint8_t *out, int *ret_len)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

	if (!ctx)
		return -ENOMEM;
	EVP_CIPHER_CTX_set_flags(ctx, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
	int ok = EVP_CipherInit_ex(ctx, EVP_aes_256_wrap_pad(), NULL, key->b, NULL, wrap) == 1 &&
		 EVP_CipherUpdate(ctx, out, ret_len, in, (int)in_len) == 1;
	EVP_CIPHER_CTX_free(ctx);
	return ok ? 0 : -EKEYREJECTED;
}

int platform_key_wrap(const struct platform_key *pk, const struct env_key *ek, uint8_t ret[PLATFORM_WRAP_SIZE])
{
	int len = 0, rc = key_wrap_pad(pk->key, true, ek->b, sizeof(ek->b), ret, &len);

	return rc == 0 && len != PLATFORM_WRAP_SIZE ? -EIO : rc;
}

int platform_key_unwrap(const struct platform_key *pk, const uint8_t *blob, size_t len, struct env_key *ret)
{
	uint8_t *plain = secret_alloc(PLATFORM_WRAP_SIZE);
	int n = 0, rc = plain ? -EKEYREJECTED : -ENOMEM;

	if (plain && len == PLATFORM_WRAP_SIZE)
		rc = key_wrap_pad(pk->key, false, blob, len, plain, &n);
	if (rc == 0 && n != sizeof(ret->b))
		rc = -EKEYREJECTED;
	if (rc == 0)
		memcpy(ret->b, plain, sizeof(ret->b));
	secret_free(plain, PLATFORM_WRAP_SIZE);
	return rc;
}

int platform_key_seal(const struct platform_key *pk, const void *in, size_t len, uint8_t *ret, size_t max, size_t *ret_len)
{
	int n = 0;

	if (len == 0 || len > INT_MAX / 2 || len + 15 > max)
		return -EMSGSIZE;
	int rc = key_wrap_pad(pk->sealing, true, in, len, ret, &n);
	*ret_len = (size_t)n;
	return rc;
}

int platform_key_open_sealed(const struct platform_key *pk, const void *sealed, size_t len, struct secret *ret)
{
	CLEANUP(secret_done) struct secret plain = {secret_alloc(len + 8), len + 8};
	int n = 0, rc = plain.b ? 0 : -ENOMEM;

	if (rc == 0 && (len < 16 || len % 8 != 0 || len > INT_MAX / 2))
		rc = -EKEYREJECTED;
	if (rc == 0)
		rc = key_wrap_pad(pk->sealing, false, sealed, len, plain.b, &n);
	return rc == 0 ? secret_dup(plain.b, (size_t)n, ret) : rc;
}
