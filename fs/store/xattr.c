/* xattr: see xattr.h. A sealed value starts with one zero byte, so that an empty value has something to seal. */
#include "store/xattr.h"

#include "base/io.h"
#include "store/crypto.h"

#include <string.h>
#include <sys/xattr.h>

#define NAME_AD "xattr name"

static const char *xattr_prefix(mode_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) ? "user.t." : "trusted.t.";
}

static bool xattr_is_raw(const char *name)
{
	return strcmp(name, "system.posix_acl_access") == 0 || strcmp(name, "system.posix_acl_default") == 0;
}

static int xattr_lower_name(struct volume *v, mode_t mode, const char *name, char ret[256])
{
	uint8_t sealed[XATTR_PLAIN_MAX + SIV_SIZE];
	size_t len = strlen(name);

	if (strncmp(name, "user.", 5) != 0 && strncmp(name, "trusted.", 8) != 0 && strncmp(name, "security.", 9) != 0)
		return -EOPNOTSUPP;
	if (strchr(name, '.') == name + len - 1)
		return -EINVAL; /* a prefix alone */
	if (len > XATTR_PLAIN_MAX)
		return -ERANGE;
	strcpy(ret, xattr_prefix(mode));
	int rc = crypto_siv_seal(v->names, NAME_AD, sizeof(NAME_AD), name, len, sealed);
	if (rc == 0)
		base64url_encode(sealed, len + SIV_SIZE, ret + strlen(ret));
	return rc;
}

static int xattr_refused(struct volume *v)
{
	atomic_fetch_add(&v->stats.refused, 1);
	volume_report(v, "refused: an extended attribute does not verify");
	return -EBADMSG;
}

ssize_t xattr_get(struct volume *v, int fd, mode_t mode, const char *name, void *ret, size_t size)
{
	char lower[256];

	if (xattr_is_raw(name))
		return io_getxattr(fd, name, ret, size);
	int rc = xattr_lower_name(v, mode, name, lower);
	if (rc < 0)
		return rc == -ERANGE ? -ENODATA : rc;
	ssize_t len = io_getxattr(fd, lower, NULL, 0);
	if (len < 0)
		return len;
	if (len <= (ssize_t)SIV_SIZE)
		return xattr_refused(v);
	if (size == 0)
		return len - (ssize_t)SIV_SIZE - 1;
	CLEANUP_FREE uint8_t *sealed = malloc(2 * (size_t)len);
	if (!sealed)
		return -ENOMEM;
	uint8_t *plain = sealed + len;
	len = io_getxattr(fd, lower, sealed, (size_t)len);
	if (len < 0)
		return len;
	rc = crypto_siv_open(v->names, name, strlen(name), sealed, (size_t)len, plain);
	if (rc < 0)
		return rc == -EBADMSG ? xattr_refused(v) : rc;
	len -= (ssize_t)SIV_SIZE + 1;
	if ((size_t)len > size)
		return -ERANGE;
	memcpy(ret, plain + 1, (size_t)len);
	return len;
}

int xattr_set(struct volume *v, int fd, mode_t mode, const char *name, const void *value, size_t len, int flags)
{
	char lower[256];
	int rc = volume_writable(v);

	if (rc < 0)
		return rc;
	if (xattr_is_raw(name))
		return io_setxattr(fd, name, value, len, flags);
	rc = xattr_lower_name(v, mode, name, lower);
	if (rc < 0)
		return rc;
	if (len > XATTR_SIZE_MAX)
		return -E2BIG;
	CLEANUP_FREE uint8_t *plain = malloc(2 * (len + 1) + SIV_SIZE);
	if (!plain)
		return -ENOMEM;
	uint8_t *sealed = plain + len + 1;
	plain[0] = 0;
	memcpy(plain + 1, value, len);
	rc = crypto_siv_seal(v->names, name, strlen(name), plain, len + 1, sealed);
	if (rc == 0)
		rc = io_setxattr(fd, lower, sealed, len + 1 + SIV_SIZE, flags);
	return rc == -E2BIG ? -ENOSPC : rc;
}

ssize_t xattr_list(struct volume *v, int fd, mode_t mode, char *ret, size_t size)
{
	const char *prefix = xattr_prefix(mode);
	size_t prefix_len = strlen(prefix), used = 0, n;
	ssize_t len = io_listxattr(fd, NULL, 0);

	if (len <= 0)
		return len;
	CLEANUP_FREE char *lower = malloc((size_t)len);
	if (!lower)
		return -ENOMEM;
	len = io_listxattr(fd, lower, (size_t)len);
	if (len < 0)
		return len;
	for (const char *p = lower; p < lower + len; p += strlen(p) + 1) {
		uint8_t sealed[XATTR_PLAIN_MAX + SIV_SIZE];
		char name[XATTR_PLAIN_MAX + 1];

		if (xattr_is_raw(p)) {
			n = strlen(p);
			memcpy(name, p, n);
		} else if (strncmp(p, prefix, prefix_len) == 0 && strcmp(p, "trusted.t.target") != 0) {
			int rc = base64url_decode(p + prefix_len, strlen(p + prefix_len), sealed, sizeof(sealed), &n);

			if (rc == 0)
				rc = crypto_siv_open(v->names, NAME_AD, sizeof(NAME_AD), sealed, n, (uint8_t *)name);
			if (rc < 0) {
				(void)xattr_refused(v);
				continue;
			}
			n -= SIV_SIZE;
		} else {
			continue;
		}
		name[n] = '\0';
		if (size && used + n + 1 > size)
			return -ERANGE;
		if (size)
			memcpy(ret + used, name, n + 1);
		used += n + 1;
	}
	return (ssize_t)used;
}

int xattr_remove(struct volume *v, int fd, mode_t mode, const char *name)
{
	char lower[256];
	int rc = volume_writable(v);

	if (rc < 0)
		return rc;
	if (xattr_is_raw(name))
		return io_removexattr(fd, name);
	rc = xattr_lower_name(v, mode, name, lower);
	return rc < 0 ? rc : io_removexattr(fd, lower);
}
