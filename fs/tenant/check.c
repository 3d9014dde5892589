/* check: names and places that a request gives; and the two things done to places. Contracts: environment.h. */
#include "tenant/environment.h"

#include "base/io.h"
#include "store/dir.h"

#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define NAME_MAX_LEN 63u

int refuse(struct refusal *ret, int error, const char *rule, const char *format, ...)
{
	va_list ap;

	snprintf(ret->rule, sizeof(ret->rule), "%s", rule);
	va_start(ap, format);
	vsnprintf(ret->text, sizeof(ret->text), format, ap);
	va_end(ap);
	return error;
}

int registry_refusal(int error, struct refusal *ret)
{
	return refuse(ret, error, "", "the registry: %s", strerror(-error));
}

int check_name(const char *what, const char *name, struct refusal *ret)
{
	size_t len = strlen(name);

	if (len == 0)
		return refuse(ret, -EINVAL, "", "the %s is empty: give it a name of letters, digits, '.', '_' or '-'", what);
	if (len > NAME_MAX_LEN)
		return refuse(ret, -EINVAL, "", "the %s has %zu bytes: at most %u are taken", what, len, NAME_MAX_LEN);
	for (const char *p = name; *p; p++) {
		unsigned char c = (unsigned char)*p;

		if (c < ' ' || c == 0x7f)
			return refuse(ret, -EINVAL, "", "the %s has a control character (0x%02x) at byte %zu", what, c,
				(size_t)(p - name) + 1);
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("._-", c)))
			return refuse(ret, -EINVAL, "", "the %s %s has a '%c': only letters, digits, '.', '_' and '-' are taken", what,
				name, c < 0x80 ? c : '?');
	}
	if (name[0] == '.' || name[0] == '-')
		return refuse(ret, -EINVAL, "", "the %s %s must begin with a letter, a digit or '_'", what, name);
	return 0;
}

static bool path_within(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

int check_mountpoint(const char *path, const char *store, char **ret_path, struct refusal *ret)
{
	CLEANUP_FREE char *real = NULL;

	if (path[0] != '/')
		return refuse(ret, -EINVAL, "", "the mount point %s is not an absolute path", path);
	real = realpath(path, NULL);
	if (!real)
		return refuse(ret, -errno, "", "the mount point %s: %s%s", path, strerror(errno),
			errno == ENOENT ? ": make the directory first" : "");
	if (strlen(real) >= sizeof(((struct registry_env *)0)->mountpoint))
		return refuse(ret, -ENAMETOOLONG, "", "the mount point's path is too long");
	CLEANUP_CLOSE int fd = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return refuse(ret, -errno, "", "the mount point %s: %s", real, strerror(errno));
	int rc = dir_is_empty(fd, NULL);
	if (rc < 0)
		return refuse(ret, rc, "", "the mount point %s: %s", real, rc == -ENOTEMPTY ? "the directory is not empty" : strerror(-rc));
	if (path_within(real, store))
		return refuse(ret, -EINVAL, "", "the mount point %s lies inside its own store %s", real, store);
	if (path_within(store, real))
		return refuse(ret, -EINVAL, "", "the store %s lies under its own mount point %s", store, real);
	*ret_path = TAKE_PTR(real);
	return 0;
}

int check_store(const char *path, char **ret_path, struct refusal *ret)
{
	CLEANUP_FREE char *dir_copy = strdup(path), *base_copy = strdup(path);

	if (path[0] != '/')
		return refuse(ret, -EINVAL, "", "the store %s is not an absolute path", path);
	if (!dir_copy || !base_copy)
		return refuse(ret, -ENOMEM, "", "out of memory");
	CLEANUP_FREE char *dir = realpath(dirname(dir_copy), NULL);
	if (!dir)
		return refuse(ret, -errno, "", "the store %s: its parent directory: %s", path, strerror(errno));
	const char *base = basename(base_copy);
	if (strcmp(base, "/") == 0 || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
		return refuse(ret, -EINVAL, "", "the store %s does not end in a directory's name", path);
	CLEANUP_FREE char *real = str_format("%s/%s", strcmp(dir, "/") == 0 ? "" : dir, base);
	if (!real)
		return refuse(ret, -ENOMEM, "", "out of memory");
	if (strlen(real) >= sizeof(((struct registry_env *)0)->store))
		return refuse(ret, -ENAMETOOLONG, "", "the store's path is too long");
	*ret_path = TAKE_PTR(real);
	return 0;
}

void mountpoint_guard(const char *path, bool on)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;
	int flags, rc = fd < 0 ? 0 : ioctl(fd, FS_IOC_GETFLAGS, &flags);

	if (fd < 0)
		return;
	if (rc == 0) {
		int wanted = on ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;

		rc = wanted == flags ? 0 : ioctl(fd, FS_IOC_SETFLAGS, &wanted);
	}
	/* NFS and FUSE, say, have no such flag; there nobody but root writes. */
	if (rc < 0 && fstat(fd, &st) == 0)
		(void)!fchmod(fd, on ? st.st_mode & 07555 : st.st_mode | 0200);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path) < 0 ? -errno : 0;
}

int store_remove(const char *path)
{
	static const char *const trees[] = {"root", "tmp", "quarantine"}, *const files[] = {(ENVHEADER_NAME ".new"), "lock", "rotate.journal"};
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	/* Without the header there is no key any more, whatever else stays. */
	int rc = io_unlinkat(fd, ENVHEADER_NAME, 0);
	if (rc == 0 || rc == -ENOENT)
		rc = io_fsync(fd);
	for (size_t k = 0; rc == 0 && k < ARRAY_LEN(trees); k++) {
		CLEANUP_FREE char *tree = str_format("%s/%s", path, trees[k]);

		rc = tree ? nftw(tree, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) : -ENOMEM;
		if (rc == -1)
			rc = errno == ENOENT ? 0 : -errno;
	}
	for (size_t k = 0; rc == 0 && k < ARRAY_LEN(files); k++) {
		rc = io_unlinkat(fd, files[k], 0);
		if (rc == -ENOENT)
			rc = 0;
	}
	if (rc < 0)
		return rc;
	/* What somebody else put there is not ours to remove. */
	return rmdir(path) < 0 && errno != ENOTEMPTY && errno != EBUSY ? -errno : 0;
}
