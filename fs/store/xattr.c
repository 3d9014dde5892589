/* xattr: see xattr.h. */
#include "store/xattr.h"

#include "base/io.h"
#include "store/crypto.h"

#include <linux/limits.h>
#include <string.h>
#include <sys/xattr.h>

#define NAME_AD "xattr name"

/* An attribute as the lower file system has it. */
struct lower_xattr {
	char name[XATTR_NAME_MAX + 1];
	const char *ad; /* what the value is bound to */
	size_t ad_len;
	size_t kept; /* length of the name that stands before the value: 0 for a short one */
};

static const char *xattr_prefix(mode_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) ? "user.t." : "trusted.t.";
}

static bool xattr_is_raw(const char *name)
{
	return strcmp(name, "system.posix_acl_access") == 0 || strcmp(name, "system.posix_acl_default") == 0;
}

/* name is borrowed by ret. */
static int xattr_lower(struct volume *v, mode_t mode, const char *name, struct lower_xattr *ret)
{
	uint8_t sealed[XATTR_NAME_MAX + SIV_SIZE], hash[32];
	size_t len = strlen(name);

	if (strncmp(name, "user.", 5) != 0 && strncmp(name, "trusted.", 8) != 0 && strncmp(name, "security.", 9) != 0)
		return -EOPNOTSUPP;
	if (strchr(name, '.') == name + len - 1)
		return -EINVAL; /* a prefix alone */
	if (len > XATTR_NAME_MAX)
		return -ERANGE;
	strcpy(ret->name, xattr_prefix(mode));
	char *rest = ret->name + strlen(ret->name);
	int rc = crypto_siv_seal(v->names, NAME_AD, sizeof(NAME_AD), name, len, sealed);
	if (rc < 0)
		return rc;
	if (strlen(ret->name) + BASE64URL_LEN(len + SIV_SIZE) <= XATTR_NAME_MAX) {
		base64url_encode(sealed, len + SIV_SIZE, rest);
		ret->ad = name;
		ret->ad_len = len;
		ret->kept = 0;
		return 0;
	}
	rc = crypto_sha256(sealed, len + SIV_SIZE, hash);
	rest[0] = '+';
	base64url_encode(hash, sizeof(hash), rest + 1);
	ret->ad = rest;
	ret->ad_len = strlen(rest);
	ret->kept = len;
	return rc;
}

static int xattr_refused(struct volume *v)
{
	atomic_fetch_add(&v->stats.refused, 1);
	volume_report(v, "refused: an extended attribute does not verify");
	return -EBADMSG;
}

/* What is sealed under the lower name, length byte first; its length. The caller frees. */
static ssize_t xattr_open(struct volume *v, int fd, const char *lower, const char *ad, size_t ad_len, uint8_t **ret)
{
	size_t room = 4096; /* ext4's largest, so one call is enough */
	ssize_t len;

	for (;;) {
		CLEANUP_FREE uint8_t *sealed = malloc(room), *plain = malloc(room);

		if (!sealed || !plain)
			return -ENOMEM;
		len = io_getxattr(fd, lower, sealed, room);
		if (len == -ERANGE && room < XATTR_SIZE_MAX) {
			room = XATTR_SIZE_MAX;
			continue;
		}
		if (len < 0)
			return len;
		if (len <= (ssize_t)SIV_SIZE)
			return xattr_refused(v);
		int rc = crypto_siv_open(v->names, ad, ad_len, sealed, (size_t)len, plain);
		if (rc < 0)
			return rc == -EBADMSG ? xattr_refused(v) : rc;
		*ret = TAKE_PTR(plain);
		return len - (ssize_t)SIV_SIZE;
	}
}

ssize_t xattr_get(struct volume *v, int fd, mode_t mode, const char *name, void *ret, size_t size)
{
	CLEANUP_FREE uint8_t *plain = NULL;
	struct lower_xattr lower;

	if (xattr_is_raw(name))
		return io_getxattr(fd, name, ret, size);
	int rc = xattr_lower(v, mode, name, &lower);
	if (rc < 0)
		return rc;
	ssize_t len = xattr_open(v, fd, lower.name, lower.ad, lower.ad_len, &plain), skip = 1 + (ssize_t)lower.kept;
	if (len < 0)
		return len;
	if (plain[0] != lower.kept || len < skip || memcmp(plain + 1, name, lower.kept) != 0)
		return xattr_refused(v);
	len -= skip;
	if (size == 0)
		return len;
	if ((size_t)len > size)
		return -ERANGE;
	memcpy(ret, plain + skip, (size_t)len);
	return len;
}

int xattr_set(struct volume *v, int fd, mode_t mode, const char *name, const void *value, size_t len, int flags)
{
	struct lower_xattr lower;
	int rc = volume_writable(v);

	if (rc < 0)
		return rc;
	if (xattr_is_raw(name))
		return io_setxattr(fd, name, value, len, flags);
	rc = xattr_lower(v, mode, name, &lower);
	if (rc < 0)
		return rc;
	if (len > XATTR_SIZE_MAX)
		return -E2BIG;
	size_t plain_len = 1 + lower.kept + len;
	CLEANUP_FREE uint8_t *plain = malloc(plain_len), *sealed = malloc(plain_len + SIV_SIZE);
	if (!plain || !sealed)
		return -ENOMEM;
	plain[0] = (uint8_t)lower.kept;
	memcpy(plain + 1, name, lower.kept);
	memcpy(plain + 1 + lower.kept, value, len);
	rc = crypto_siv_seal(v->names, lower.ad, lower.ad_len, plain, plain_len, sealed);
	if (rc == 0)
		rc = io_setxattr(fd, lower.name, sealed, plain_len + SIV_SIZE, flags);
	return rc == -E2BIG ? -ENOSPC : rc;
}

/* The plain name of a lower one, without its NUL; its length. */
static ssize_t xattr_plain_name(struct volume *v, int fd, mode_t mode, const char *lower, char ret[XATTR_NAME_MAX + 1])
{
	const char *rest = lower + strlen(xattr_prefix(mode));
	uint8_t sealed[XATTR_NAME_MAX];
	CLEANUP_FREE uint8_t *plain = NULL;
	struct lower_xattr again;
	size_t n;

	if (rest[0] != '+') {
		int rc = base64url_decode(rest, strlen(rest), sealed, sizeof(sealed), &n);

		if (rc == 0 && n > SIV_SIZE)
			rc = crypto_siv_open(v->names, NAME_AD, sizeof(NAME_AD), sealed, n, (uint8_t *)ret);
		return rc < 0 || n <= SIV_SIZE ? xattr_refused(v) : (ssize_t)(n - SIV_SIZE);
	}
	ssize_t len = xattr_open(v, fd, lower, rest, strlen(rest), &plain);
	if (len < 0)
		return len;
	if (plain[0] == 0 || len < 1 + plain[0])
		return xattr_refused(v);
	memcpy(ret, plain + 1, plain[0]);
	ret[plain[0]] = '\0';
	return xattr_lower(v, mode, ret, &again) < 0 || strcmp(again.name, lower) != 0 ? xattr_refused(v) : plain[0];
}

static ssize_t xattr_lower_list(int fd, char **ret)
{
	ssize_t len = io_listxattr(fd, NULL, 0);

	if (len <= 0)
		return len;
	CLEANUP_FREE char *lower = malloc((size_t)len);
	if (!lower)
		return -ENOMEM;
	len = io_listxattr(fd, lower, (size_t)len);
	if (len > 0)
		*ret = TAKE_PTR(lower);
	return len;
}

static bool xattr_is_ours(const char *lower, mode_t mode)
{
	const char *prefix = xattr_prefix(mode);

	return strncmp(lower, prefix, strlen(prefix)) == 0 && strcmp(lower, "trusted.t.target") != 0;
}

ssize_t xattr_list(struct volume *v, int fd, mode_t mode, char *ret, size_t size)
{
	CLEANUP_FREE char *lower = NULL;
	ssize_t len = xattr_lower_list(fd, &lower), n;
	size_t used = 0;

	for (const char *p = lower; len > 0 && p < lower + len; p += strlen(p) + 1) {
		char name[XATTR_NAME_MAX + 1];

		if (xattr_is_raw(p)) {
			n = (ssize_t)strlen(p);
			memcpy(name, p, (size_t)n);
		} else if (xattr_is_ours(p, mode)) {
			n = xattr_plain_name(v, fd, mode, p, name);
			if (n == -ENOMEM)
				return n;
			if (n < 0) /* refused, or gone since */
				continue;
		} else {
			continue;
		}
		name[n] = '\0';
		if (size && used + (size_t)n + 1 > size)
			return -ERANGE;
		if (size)
			memcpy(ret + used, name, (size_t)n + 1);
		used += (size_t)n + 1;
	}
	return len < 0 ? len : (ssize_t)used;
}

int xattr_verify(struct volume *v, int fd, mode_t mode)
{
	CLEANUP_FREE char *lower = NULL;
	ssize_t len = xattr_lower_list(fd, &lower);
	int rc = 0;

	if (len == -EOPNOTSUPP)
		return 0;
	for (const char *p = lower; rc == 0 && len > 0 && p < lower + len; p += strlen(p) + 1) {
		char name[XATTR_NAME_MAX + 1];

		if (!xattr_is_ours(p, mode))
			continue;
		ssize_t n = xattr_plain_name(v, fd, mode, p, name);
		if (n >= 0) {
			name[n] = '\0';
			n = xattr_get(v, fd, mode, name, NULL, 0);
		}
		rc = n < 0 && n != -ENODATA ? (int)n : 0;
	}
	return len < 0 ? (int)len : rc;
}

int xattr_remove(struct volume *v, int fd, mode_t mode, const char *name)
{
	struct lower_xattr lower;
	int rc = volume_writable(v);

	if (rc < 0)
		return rc;
	if (xattr_is_raw(name))
		return io_removexattr(fd, name);
	rc = xattr_lower(v, mode, name, &lower);
	return rc < 0 ? rc : io_removexattr(fd, lower.name);
}
