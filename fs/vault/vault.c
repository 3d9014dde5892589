/* vault: see vault.h. A file is FINGERPRINT.key: the magic line, then AES-256-KWP of the PKCS#8 under a key that is
 * derived from the platform key. */
#include "vault/vault.h"

#include "vault/byok.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MAGIC "tdefs vault key 1\n"
#define MAGIC_LEN (sizeof(MAGIC) - 1)
#define SUFFIX ".key"
#define FINGERPRINT_LEN 64u
#define FILE_MAX 8192u

struct vault {
	int fd;
	const struct platform_key *pk;
};
typedef char vault_name[FINGERPRINT_LEN + sizeof(SUFFIX) + 1];

void vault_close(struct vault *v)
{
	if (v)
		util_closep(&v->fd);
	free(v);
}

int vault_open(const char *dir, const struct platform_key *pk, struct vault **ret)
{
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	struct vault *v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	*v = (struct vault){TAKE_FD(fd), pk};
	*ret = v;
	return 0;
}

/* Names come from files and registries: only fingerprints become paths. */
static int vault_file(const char *fingerprint, vault_name ret)
{
	if (strlen(fingerprint) != FINGERPRINT_LEN || strspn(fingerprint, "0123456789abcdef") != FINGERPRINT_LEN)
		return -ENOENT;
	snprintf(ret, sizeof(vault_name), "%s" SUFFIX, fingerprint);
	return 0;
}

static int vault_load(const struct vault *v, const char *fingerprint, struct rsa_key **ret)
{
	CLEANUP(secret_done) struct secret file = {0}, der = {0};
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	vault_name name;
	int rc = vault_file(fingerprint, name);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = openat(v->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = secret_read_fd(fd, FILE_MAX, &file);
	if (rc < 0)
		return rc == -EFBIG ? -EUCLEAN : rc;
	if (file.len <= MAGIC_LEN || memcmp(file.b, MAGIC, MAGIC_LEN) != 0)
		return -EUCLEAN;
	rc = platform_key_open_sealed(v->pk, file.b + MAGIC_LEN, file.len - MAGIC_LEN, &der);
	if (rc == 0)
		rc = rsa_from_pkcs8(der.b, der.len, &k);
	if (rc == 0 && strcmp(rsa_fingerprint(k), fingerprint) != 0)
		rc = -EUCLEAN;
	if (rc < 0)
		return rc == -ENOMEM ? rc : -EUCLEAN;
	*ret = TAKE_PTR(k);
	return 0;
}

bool vault_holds(const struct vault *v, const char *fingerprint)
{
	vault_name name;

	return vault_file(fingerprint, name) == 0 && faccessat(v->fd, name, F_OK, 0) == 0;
}

static int write_whole(int fd, const uint8_t *b, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, b, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		b += n;
		len -= (size_t)n;
	}
	return 0;
}

int vault_import(struct vault *v, const struct rsa_key *k)
{
	CLEANUP(secret_done) struct secret der = {0};
	CLEANUP(rsa_key_freep) struct rsa_key *there = NULL;
	uint8_t sealed[FILE_MAX];
	char tmp[sizeof(vault_name) + 8];
	vault_name name;
	size_t len = 0;
	int rc = vault_file(rsa_fingerprint(k), name);

	if (rc == 0 && vault_load(v, rsa_fingerprint(k), &there) == 0)
		return 0;
	if (rc == 0)
		rc = rsa_to_pkcs8(k, &der);
	if (rc == 0)
		rc = platform_key_seal(v->pk, der.b, der.len, sealed, sizeof(sealed), &len);
	if (rc < 0)
		return rc;
	snprintf(tmp, sizeof(tmp), "%s.new", name);
	CLEANUP_CLOSE int fd = openat(v->fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	rc = write_whole(fd, (const uint8_t *)MAGIC, MAGIC_LEN);
	if (rc == 0)
		rc = write_whole(fd, sealed, len);
	if (rc == 0 && (fsync(fd) < 0 || renameat(v->fd, tmp, v->fd, name) < 0 || fsync(v->fd) < 0))
		rc = -errno;
	if (rc < 0)
		unlinkat(v->fd, tmp, 0);
	return rc;
}

int vault_unwrap(const struct vault *v, const char *fingerprint, const void *blob, size_t len, void *ret, size_t max, size_t *ret_len)
{
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	int rc = vault_load(v, fingerprint, &k);

	return rc < 0 ? rc : rsa_unwrap(k, blob, len, ret, max, ret_len);
}

int vault_read_byok(const struct vault *v, const char *fingerprint, const char *kid, const void *text, size_t len,
	struct rsa_key **ret, char ret_why[200])
{
	CLEANUP(rsa_key_freep) struct rsa_key *kek = NULL;
	int rc = vault_load(v, fingerprint, &kek);

	if (rc < 0) {
		snprintf(ret_why, 200, "the key-exchange key cannot be read: %s", strerror(-rc));
		return rc;
	}
	return byok_read(text, len, kid, kek, ret, ret_why);
}

static int vault_remove(const struct vault *v, const char *name)
{
	static const uint8_t zeros[512];
	struct stat st;
	CLEANUP_CLOSE int fd = openat(v->fd, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	int rc = 0;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	for (off_t at = 0; rc == 0 && at < st.st_size; at += (off_t)sizeof(zeros))
		rc = write_whole(fd, zeros, sizeof(zeros));
	if (rc == 0 && (fsync(fd) < 0 || unlinkat(v->fd, name, 0) < 0 || fsync(v->fd) < 0))
		rc = -errno;
	return rc;
}

int vault_destroy(struct vault *v, const char *fingerprint)
{
	vault_name name;
	int rc = vault_file(fingerprint, name);

	return rc < 0 ? rc : vault_remove(v, name);
}

int vault_sweep(struct vault *v, bool (*keep)(void *ctx, const char *fingerprint), void *ctx)
{
	int copy = openat(v->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *e;
	int rc = 0;

	if (!dir) {
		rc = -errno;
		util_closep(&copy);
		return rc;
	}
	while (rc == 0 && (e = readdir(dir))) {
		char fingerprint[FINGERPRINT_LEN + 1] = "";

		if (e->d_name[0] == '.')
			continue;
		/* FINGERPRINT.key.new is an import that a crash cut off. */
		if (strlen(e->d_name) == FINGERPRINT_LEN + strlen(SUFFIX))
			memcpy(fingerprint, e->d_name, FINGERPRINT_LEN);
		if (!fingerprint[0] || !keep(ctx, fingerprint))
			rc = vault_remove(v, e->d_name);
	}
	closedir(dir);
	return rc;
}
