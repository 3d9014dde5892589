/* xattr: extended attributes. Names and values are sealed with AES-256-SIV under the names key, a value bound to its
 * name; ACLs (system.posix_acl_*) are stored as they are, because the lower file system enforces inheritance by them,
 * and owners and modes are not hidden either. Names up to 255 bytes, prefix included, as everywhere in Linux.
 *
 * On regular files and directories the lower name begins with user.t., on others (which take no user attributes) with
 * trusted.t. Then comes
 *   base64url(sealed name)                where the lower name then has at most 255 characters
 *   +base64url(SHA-256 of sealed name)    of longer names, which are kept with the value
 * What is sealed as value: the length of a long name (0 for a short one) in one byte, the long name, the value; bound to the
 * plain name, or for a long one to the "+..." above.
 *
 * fd may be O_PATH; mode is the object's. Errors as getxattr(2) and setxattr(2), and -EBADMSG. */
#pragma once
#include "store/volume.h"

#include <sys/stat.h>

ssize_t xattr_get(struct volume *v, int fd, mode_t mode, const char *name, void *ret, size_t size) MUST_CHECK;
int xattr_set(struct volume *v, int fd, mode_t mode, const char *name, const void *value, size_t len, int flags) MUST_CHECK;
/* Names one after another, each with its NUL; the length needed when size is 0. */
ssize_t xattr_list(struct volume *v, int fd, mode_t mode, char *ret, size_t size) MUST_CHECK;
/* Whether every attribute verifies: 0, -EBADMSG. */
int xattr_verify(struct volume *v, int fd, mode_t mode) MUST_CHECK;
int xattr_remove(struct volume *v, int fd, mode_t mode, const char *name) MUST_CHECK;
