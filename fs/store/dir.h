/* dir: directories of the store: names, ids, and every change to the tree.
 *
 * A plain name is sealed with AES-256-SIV under the names key with the directory's id as associated data, so a name
 * carried into another directory is refused. Lower names:
 *   base64url(sealed)        where that has at most 255 characters (plain names up to 175 bytes)
 *   l.base64url(SHA-256)     the object of a longer name, hash of sealed, beside
 *   n.base64url(SHA-256)     a side file that holds sealed
 *   tdefs.dir                the directory's id, twice, each copy in a 512-byte sector: "TDEFSD1\0", id (16), MAC (32)
 * A copy of each is kept where the lower file system has extended attributes, so that a damaged one takes nothing with it: the id in
 * the directory's user.tdefs.id, the sealed long name in its object's user.tdefs.name (trusted.tdefs.name where it is no file or
 * directory). Originals count, copies serve where those are damaged (D4).
 *
 * D1. A directory, and an object with a long name, is visible only with its id, or side file, in place and synced.
 * D2. An object is born with its owner: it gets a name after that. One of another owner that a cut leaves behind would be in its
 *     owner's way (PostgreSQL does not start then). Not so what dir_mknod makes, nor files on a lower file system without O_TMPFILE.
 * D3. A change to one name is one lower rename, link or unlink: after a cut it is done or not. Leftovers are side
 *     files without an object, which are ignored, and what lies in tmp/, which is emptied at mount. A directory with nothing
 *     in it, not even an id, is one that another was about to replace: it is empty, and gets a new id.
 *
 * D4. A copy that is missing, or old, harms nothing: an id's copy has its MAC, a long name's has the hash that the object is
 *     called by.
 *
 * Callers serialise changes to one directory (the kernel does, for a mount). dirfd may be O_PATH unless said.
 * Errors: -EBADMSG a name, target or id that is not ours; else the file system's. */
#pragma once
#include "store/volume.h"

#include <dirent.h>
#include <sys/stat.h>

#define DIR_ID_NAME "tdefs.dir"
#define DIR_NAME_MAX 255u
#define DIR_TARGET_MAX 4095u

struct dir_id {
	uint8_t b[16];
};

/* Who a new object belongs to. mode is final: umask and setgid inheritance are the caller's business. */
struct dir_owner {
	uid_t uid;
	gid_t gid;
	mode_t mode;
};

int dir_id_create(const struct mac_key *dir_mac, int dirfd) MUST_CHECK;
/* One good copy is enough; -EBADMSG where none is, reported. -ENOENT: the directory has been removed. */
int dir_id_load(struct volume *v, int dirfd, struct dir_id *ret) MUST_CHECK;

/* The lower name of name; -ENAMETOOLONG. */
int dir_lower_name(struct volume *v, const struct dir_id *id, const char *name, char ret[256]) MUST_CHECK;
/* And the other way. */
int dir_plain_name(struct volume *v, int dirfd, const struct dir_id *id, const char *lower, char ret[DIR_NAME_MAX + 1]) MUST_CHECK;

/* Opens name O_PATH and stats it. -ENOENT. */
int dir_lookup(struct volume *v, int dirfd, const struct dir_id *id, const char *name, struct stat *ret_st) MUST_CHECK;
/* New regular file, open for reading and writing. */
int dir_create(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner) MUST_CHECK;
/* The same without a name, which dir_link may give it; it is gone with its last descriptor otherwise. */
int dir_tmpfile(struct volume *v, int dirfd, const struct dir_owner *owner) MUST_CHECK;
int dir_mkdir(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner) MUST_CHECK;
int dir_mknod(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner, dev_t dev) MUST_CHECK;
int dir_symlink(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner, const char *target) MUST_CHECK;
int dir_link(struct volume *v, int fd, int dirfd, const struct dir_id *id, const char *name) MUST_CHECK;
int dir_unlink(struct volume *v, int dirfd, const struct dir_id *id, const char *name) MUST_CHECK;
int dir_rmdir(struct volume *v, int dirfd, const struct dir_id *id, const char *name) MUST_CHECK;
/* flags as renameat2(2): 0, RENAME_NOREPLACE, RENAME_EXCHANGE; -EINVAL for others. */
int dir_rename(struct volume *v, int dirfd, const struct dir_id *id, const char *name, int dirfd2, const struct dir_id *id2,
	const char *name2, unsigned flags) MUST_CHECK;
/* ret needs DIR_TARGET_MAX + 1 bytes; fd is O_PATH on the link. */
int dir_readlink(struct volume *v, int fd, char *ret) MUST_CHECK;
/* Length of the plain target of a link whose lower length is lower_len. */
int64_t dir_target_len(struct volume *v, int fd, int64_t lower_len) MUST_CHECK;

/* 0 when nothing but ids and side files is in it, -ENOTEMPTY. */
int dir_is_empty(int dirfd, const char *ignore) MUST_CHECK;
int dir_empty_tmp(struct volume *v) MUST_CHECK;

/* Reading a directory. Not thread safe by itself. Names that do not decrypt are reported and left out. */
struct dir_stream;
struct dir_entry {
	char name[DIR_NAME_MAX + 1];
	char lower[256];
	uint64_t ino, next; /* next: where reading goes on after this entry */
	unsigned char type; /* DT_* */
};
int dir_stream_open(struct volume *v, int dirfd, const struct dir_id *id, struct dir_stream **ret) MUST_CHECK;
void dir_stream_seek(struct dir_stream *s, uint64_t off);
/* 1 with an entry, 0 at the end, -errno. "." and ".." are given. */
int dir_stream_next(struct dir_stream *s, struct dir_entry *ret) MUST_CHECK;
/* The same by names below: ret->name is not set, names that do not decrypt are not left out, "." and ".." are. */
int dir_stream_next_lower(struct dir_stream *s, struct dir_entry *ret) MUST_CHECK;
void dir_stream_close(struct dir_stream *s);
