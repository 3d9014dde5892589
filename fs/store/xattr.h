/* xattr: extended attributes. Names and values are sealed with AES-256-SIV under the names key, a value bound to its
 * name; ACLs (system.posix_acl_*) are stored as they are, because the lower file system enforces inheritance by them,
 * and owners and modes are not hidden either. Names up to XATTR_PLAIN_MAX bytes (ext4: 255).
 *
 * On regular files and directories the lower name is user.t.<base64url>, on others (which take no user attributes)
 * trusted.t.<base64url>. fd may be O_PATH; mode is the object's. Errors as getxattr(2) and setxattr(2), and -EBADMSG. */
#pragma once
#include "store/volume.h"

#include <sys/stat.h>

#define XATTR_PLAIN_MAX 170u

ssize_t xattr_get(struct volume *v, int fd, mode_t mode, const char *name, void *ret, size_t size) MUST_CHECK;
int xattr_set(struct volume *v, int fd, mode_t mode, const char *name, const void *value, size_t len, int flags) MUST_CHECK;
/* Names one after another, each with its NUL; the length needed when size is 0. */
ssize_t xattr_list(struct volume *v, int fd, mode_t mode, char *ret, size_t size) MUST_CHECK;
int xattr_remove(struct volume *v, int fd, mode_t mode, const char *name) MUST_CHECK;
