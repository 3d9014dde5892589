/* dir: see dir.h. */
#include "store/dir.h"

#include "base/io.h"
#include "store/crypto.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define ID_MAGIC "TDEFSD1"
#define ID_COPIES 2u
#define ID_MAC_OFF 24u
#define SEALED_MAX (DIR_NAME_MAX + SIV_SIZE)
#define HASH_TEXT_LEN BASE64URL_LEN(32)

DEFINE_CLEANUP(DIR *, closedir);

/* Calls fn with each name in a directory but "." and "..", until it returns other than 0, which is the result. */
static int dir_each(int dirfd, int (*fn)(void *ctx, int dirfd, const char *lower), void *ctx)
{
	CLEANUP(closedirp) DIR *dp = NULL;
	const struct dirent *de;
	int rc = io_opendir(dirfd, &dp);

	while (rc == 0 && (rc = io_readdir(dp, &de)) > 0)
		rc = strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ? 0 : fn(ctx, dirfd, de->d_name);
	return rc;
}

static int each_is_one_too_many(void *ctx, int dirfd, const char *lower)
{
	(void)ctx;
	(void)dirfd;
	(void)lower;
	return -ENOTEMPTY;
}

/* ---- directory ids ---- */

static int id_write(const struct mac_key *dir_mac, int dirfd, const char *name)
{
	uint8_t copies[ID_COPIES * SECTOR_SIZE] = {0};
	CLEANUP_CLOSE int fd = -1;
	int rc = secret_random(copies + 8, sizeof(struct dir_id));

	memcpy(copies, ID_MAGIC, 8);
	if (rc == 0)
		rc = crypto_mac(dir_mac, copies, ID_MAC_OFF, NULL, 0, copies + ID_MAC_OFF);
	if (rc < 0)
		return rc;
	memcpy(copies + SECTOR_SIZE, copies, SECTOR_SIZE);
	fd = io_openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fd;
	rc = io_pwrite_full(fd, copies, sizeof(copies), 0);
	return rc < 0 ? rc : io_fsync(fd);
}

int dir_id_create(const struct mac_key *dir_mac, int dirfd)
{
	return id_write(dir_mac, dirfd, DIR_ID_NAME);
}

/* An id for a directory that lost its own, and has nothing else in it: dir_rename_over_empty was cut off. Who empties
 * a directory gains nothing by taking the id as well, for removing names is what he did already. */
static int id_create_again(struct volume *v, int dirfd)
{
	char tmp[32];
	int rc = v->header.unclean_count && volume_writable(v) == 0 ? dir_each(dirfd, each_is_one_too_many, NULL) : -EBADMSG;

	if (rc < 0)
		return rc;
	volume_tmp_name(v, tmp);
	rc = id_write(v->dir_mac, v->tmp_fd, tmp);
	if (rc == 0)
		rc = io_renameat2(v->tmp_fd, tmp, dirfd, DIR_ID_NAME, RENAME_NOREPLACE);
	if (rc < 0)
		(void)!io_unlinkat(v->tmp_fd, tmp, 0);
	return rc == -EEXIST ? 0 : rc; /* another thread was here, too */
}

int dir_id_load(struct volume *v, int dirfd, struct dir_id *ret)
{
	uint8_t copies[ID_COPIES * SECTOR_SIZE], mac[MAC_SIZE];
	CLEANUP_CLOSE int fd = io_openat(dirfd, DIR_ID_NAME, O_RDONLY | O_NOFOLLOW, 0);

	if (fd == -ENOENT && id_create_again(v, dirfd) == 0)
		fd = io_openat(dirfd, DIR_ID_NAME, O_RDONLY | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_pread_full(fd, copies, sizeof(copies), 0, NULL);

	if (rc < 0 && rc != -ENOENT && rc != -ELOOP)
		return rc;
	for (unsigned i = 0; rc == 0 && i < ID_COPIES; i++) {
		const uint8_t *copy = copies + i * SECTOR_SIZE;

		rc = crypto_mac(v->dir_mac, copy, ID_MAC_OFF, NULL, 0, mac);
		if (rc == 0 && memcmp(copy, ID_MAGIC, 8) == 0 && crypto_equal(mac, copy + ID_MAC_OFF, MAC_SIZE)) {
			memcpy(ret->b, copy + 8, sizeof(ret->b));
			return 0;
		}
	}
	struct stat st = {0};
	if (io_fstatat(dirfd, "", &st, AT_EMPTY_PATH) == 0 && st.st_nlink == 0)
		return -ENOENT;
	atomic_fetch_add(&v->stats.refused, 1);
	volume_report(v, "refused: the id of the directory with inode %llu is missing or damaged", (unsigned long long)st.st_ino);
	return -EBADMSG;
}

/* ---- names ---- */

struct lower_name {
	char text[256]; /* of the object */
	char side[256]; /* of the side file; empty for a short name */
	uint8_t sealed[SEALED_MAX];
	size_t len;
};

static int name_lower(const uint8_t *sealed, size_t len, struct lower_name *ret)
{
	uint8_t hash[32];

	ret->side[0] = '\0';
	if (BASE64URL_LEN(len) <= 255) {
		base64url_encode(sealed, len, ret->text);
		return 0;
	}
	int rc = crypto_sha256(sealed, len, hash);
	memcpy(ret->text, "l.", 2);
	base64url_encode(hash, sizeof(hash), ret->text + 2);
	strcpy(ret->side, ret->text);
	ret->side[0] = 'n';
	return rc;
}

static int name_seal(struct volume *v, const struct dir_id *id, const char *name, struct lower_name *ret)
{
	size_t len = strlen(name);

	if (len > DIR_NAME_MAX)
		return -ENAMETOOLONG;
	if (len == 0)
		return -ENOENT;
	ret->len = len + SIV_SIZE;
	int rc = crypto_siv_seal(v->names, id->b, sizeof(id->b), name, len, ret->sealed);
	return rc < 0 ? rc : name_lower(ret->sealed, ret->len, ret);
}

static int name_open(struct volume *v, const struct dir_id *id, const uint8_t *sealed, size_t len, char ret[DIR_NAME_MAX + 1])
{
	if (len <= SIV_SIZE || len > SEALED_MAX)
		return -EBADMSG;
	int rc = crypto_siv_open(v->names, id->b, sizeof(id->b), sealed, len, (uint8_t *)ret);

	if (rc < 0)
		return rc;
	ret[len - SIV_SIZE] = '\0';
	return 0;
}

/* The plain name of a lower one. */
static int name_plain(struct volume *v, int dirfd, const struct dir_id *id, const char *lower, char ret[DIR_NAME_MAX + 1])
{
	uint8_t sealed[SEALED_MAX + 1];
	struct lower_name again;
	char side[256];
	uint64_t read_len;
	size_t len;
	int rc;

	if (strncmp(lower, "l.", 2) != 0) {
		rc = base64url_decode(lower, strlen(lower), sealed, sizeof(sealed), &len);
		return rc < 0 ? -EBADMSG : name_open(v, id, sealed, len, ret);
	}
	strcpy(side, lower);
	side[0] = 'n';
	CLEANUP_CLOSE int fd = io_openat(dirfd, side, O_RDONLY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd == -ENOENT ? -EBADMSG : fd;
	rc = io_pread_full(fd, sealed, sizeof(sealed), 0, &read_len);
	if (rc < 0)
		return rc;
	if (read_len > SEALED_MAX || name_lower(sealed, read_len, &again) < 0 || strcmp(again.text, lower) != 0)
		return -EBADMSG;
	return name_open(v, id, sealed, read_len, ret);
}

int dir_lower_name(struct volume *v, const struct dir_id *id, const char *name, char ret[256])
{
	struct lower_name lower;
	int rc = name_seal(v, id, name, &lower);

	if (rc == 0)
		strcpy(ret, lower.text);
	return rc;
}

static int dir_sync(struct volume *v, int dirfd)
{
	CLEANUP_CLOSE int fd = io_openat(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);

	return fd < 0 ? fd : volume_synced(v, io_fsync(fd));
}

/* D1: the side file of a long name, synced, in its directory before the name is used. Its own name there too: a lower file system
 * may keep a synced object's name and lose what came before it in the directory. */
static int name_side_create(struct volume *v, int dirfd, const struct lower_name *lower)
{
	char tmp[32];

	if (!lower->side[0])
		return 0;
	volume_tmp_name(v, tmp);
	CLEANUP_CLOSE int fd = io_openat(v->tmp_fd, tmp, O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return fd;
	int rc = io_pwrite_full(fd, lower->sealed, lower->len, 0);
	if (rc == 0)
		rc = io_fsync(fd);
	if (rc == 0)
		rc = io_renameat2(v->tmp_fd, tmp, dirfd, lower->side, 0);
	if (rc < 0)
		(void)!io_unlinkat(v->tmp_fd, tmp, 0);
	return rc < 0 ? rc : dir_sync(v, dirfd);
}

/* After a long name's object was not made; a failure leaves a file that everybody ignores. */
static void name_side_remove(int dirfd, const struct lower_name *lower)
{
	if (lower->side[0])
		(void)!io_unlinkat(dirfd, lower->side, 0);
}

/* After the last use of a long name, which must not outlive its side file: once the name's end is on the disk. Where that cannot
 * be had the side file stays: everybody ignores it. */
static void name_side_retire(struct volume *v, int dirfd, const struct lower_name *lower)
{
	if (lower->side[0] && dir_sync(v, dirfd) == 0)
		name_side_remove(dirfd, lower);
}

/* What every change that makes a name begins with: may we, what is it called, and its side file. An existing name
 * keeps its side file, so a failing call must not remove it: ret->side is emptied when the name is there already. */
static int name_prepare(struct volume *v, int dirfd, const struct dir_id *id, const char *name, struct lower_name *ret)
{
	struct stat st;
	int rc = volume_writable(v);

	if (rc == 0)
		rc = name_seal(v, id, name, ret);
	if (rc < 0 || !ret->side[0])
		return rc;
	if (io_fstatat(dirfd, ret->text, &st, AT_SYMLINK_NOFOLLOW) == 0)
		ret->side[0] = '\0';
	return name_side_create(v, dirfd, ret);
}

/* Removes what a change that failed with rc has made. Where that fails too the kernel above would go on without a name that
 * is there: in doubt. */
static int name_undo(struct volume *v, int dirfd, const struct lower_name *lower, int rc)
{
	int undone = io_unlinkat(dirfd, lower->text, 0);

	if (undone < 0 && undone != -ENOENT)
		(void)volume_poison(v, "what a failed change left cannot be removed", undone);
	else
		name_side_remove(dirfd, lower);
	return rc;
}

/* ---- objects ---- */

int dir_lookup(struct volume *v, int dirfd, const struct dir_id *id, const char *name, struct stat *ret_st)
{
	struct lower_name lower;
	int rc = name_seal(v, id, name, &lower);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower.text, O_PATH | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd;
	rc = io_fstatat(fd, "", ret_st, AT_EMPTY_PATH);
	return rc < 0 ? rc : TAKE_FD(fd);
}

/* D2. chown clears suid and sgid, so those bits come last; the others are as a default ACL left them. */
static int dir_give(int fd, const struct dir_owner *owner)
{
	struct stat st;
	int rc = 0;

	if (owner->uid != 0 || owner->gid != 0)
		rc = io_fchownat(fd, "", owner->uid, owner->gid, AT_EMPTY_PATH);
	if (rc < 0 || !(owner->mode & 07000) || S_ISLNK(owner->mode))
		return rc;
	rc = io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	return rc < 0 ? rc : io_chmod(fd, (st.st_mode & 0777) | (owner->mode & 07000));
}

static int dir_give_at(int dirfd, const char *lower, const struct dir_owner *owner)
{
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower, O_PATH | O_NOFOLLOW, 0);

	return fd < 0 ? fd : dir_give(fd, owner);
}

int dir_create(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner)
{
	struct lower_name lower;
	int rc = name_prepare(v, dirfd, id, name, &lower);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower.text, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, owner->mode & 07777);
	if (fd < 0) {
		name_side_remove(dirfd, &lower);
		return fd;
	}
	rc = dir_give(fd, owner);
	return rc < 0 ? name_undo(v, dirfd, &lower, rc) : TAKE_FD(fd);
}

int dir_tmpfile(struct volume *v, int dirfd, const struct dir_owner *owner)
{
	int rc = volume_writable(v);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = io_openat(dirfd, ".", O_RDWR | O_TMPFILE, owner->mode & 07777);
	if (fd < 0)
		return fd;
	rc = dir_give(fd, owner);
	return rc < 0 ? rc : TAKE_FD(fd);
}

int dir_mknod(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner, dev_t dev)
{
	struct lower_name lower;
	int rc = name_prepare(v, dirfd, id, name, &lower);

	if (rc < 0)
		return rc;
	rc = io_mknodat(dirfd, lower.text, owner->mode, dev);
	if (rc < 0) {
		name_side_remove(dirfd, &lower);
		return rc;
	}
	rc = dir_give_at(dirfd, lower.text, owner);
	return rc < 0 ? name_undo(v, dirfd, &lower, rc) : 0;
}

/* A default ACL passes to what is made in a directory (acl(5), "object creation and default ACLs"). The lower file system
 * does that for what is made in place; a directory is made in tmp/, so here it is done by hand. */
static int dir_inherit_acl(int parent, int fd, mode_t mode)
{
	enum { USER_OBJ = 0x01, GROUP_OBJ = 0x04, MASK = 0x10, OTHER = 0x20, ACL_MAX = 4096 };
	uint8_t acl[ACL_MAX];
	bool has_mask = false;
	ssize_t len = io_getxattr(parent, "system.posix_acl_default", acl, sizeof(acl));

	if (len == -ENODATA || len == -EOPNOTSUPP)
		return 0;
	if (len < 4)
		return len < 0 ? (int)len : -EUCLEAN;
	int rc = io_setxattr(fd, "system.posix_acl_default", acl, (size_t)len, 0);
	for (ssize_t i = 4; i + 8 <= len; i += 8)
		has_mask |= le16_load(acl + i) == MASK;
	for (ssize_t i = 4; i + 8 <= len; i += 8) {
		unsigned tag = le16_load(acl + i), keep = 7;

		if (tag == USER_OBJ)
			keep = mode >> 6 & 7;
		else if (tag == MASK || (tag == GROUP_OBJ && !has_mask))
			keep = mode >> 3 & 7;
		else if (tag == OTHER)
			keep = mode & 7;
		le16_store(acl + i + 2, (uint16_t)(le16_load(acl + i + 2) & keep));
	}
	return rc < 0 ? rc : io_setxattr(fd, "system.posix_acl_access", acl, (size_t)len, 0);
}

static int dir_remove_tree(int dirfd, const char *lower);

int dir_mkdir(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner)
{
	struct lower_name lower;
	char tmp[32];
	int rc = name_prepare(v, dirfd, id, name, &lower);

	if (rc < 0)
		return rc;
	volume_tmp_name(v, tmp);
	rc = io_mkdirat(v->tmp_fd, tmp, owner->mode & 0777);
	if (rc == 0) {
		CLEANUP_CLOSE int fd = io_openat(v->tmp_fd, tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);

		rc = fd < 0 ? fd : dir_id_create(v->dir_mac, fd);
		if (rc == 0)
			rc = dir_inherit_acl(dirfd, fd, owner->mode);
		if (rc == 0)
			rc = dir_give(fd, owner);
		if (rc == 0)
			rc = io_fsync(fd);
		if (rc == 0)
			rc = io_renameat2(v->tmp_fd, tmp, dirfd, lower.text, RENAME_NOREPLACE);
		if (rc < 0)
			(void)!dir_remove_tree(v->tmp_fd, tmp);
	}
	if (rc < 0)
		name_side_remove(dirfd, &lower);
	return rc;
}

int dir_link(struct volume *v, int fd, int dirfd, const struct dir_id *id, const char *name)
{
	struct lower_name lower;
	int rc = name_prepare(v, dirfd, id, name, &lower);

	if (rc < 0)
		return rc;
	rc = io_linkat(fd, "", dirfd, lower.text, AT_EMPTY_PATH);
	if (rc < 0)
		name_side_remove(dirfd, &lower);
	return rc;
}

int dir_unlink(struct volume *v, int dirfd, const struct dir_id *id, const char *name)
{
	struct lower_name lower;
	int rc = volume_writable(v);

	if (rc == 0)
		rc = name_seal(v, id, name, &lower);
	if (rc == 0)
		rc = io_unlinkat(dirfd, lower.text, 0);
	if (rc == 0)
		name_side_retire(v, dirfd, &lower);
	return rc;
}

/* ---- removing directories ---- */

static bool is_side_file(const char *lower)
{
	return strncmp(lower, "n.", 2) == 0;
}

static bool is_own_name(const char *lower)
{
	return strcmp(lower, DIR_ID_NAME) == 0 || is_side_file(lower);
}

static int each_is_own(void *ignore, int dirfd, const char *lower)
{
	(void)dirfd;
	return is_own_name(lower) || (ignore && strcmp(lower, ignore) == 0) ? 0 : -ENOTEMPTY;
}

int dir_is_empty(int dirfd, const char *ignore)
{
	return dir_each(dirfd, each_is_own, (void *)(uintptr_t)ignore);
}

static int each_remove(void *ctx, int dirfd, const char *lower)
{
	(void)ctx;
	return dir_remove_tree(dirfd, lower);
}

static int dir_remove_tree(int dirfd, const char *lower)
{
	int rc = io_unlinkat(dirfd, lower, 0);

	if (rc != -EISDIR)
		return rc;
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	rc = fd < 0 ? fd : dir_each(fd, each_remove, NULL);
	return rc < 0 ? rc : io_unlinkat(dirfd, lower, AT_REMOVEDIR);
}

int dir_empty_tmp(struct volume *v)
{
	return dir_each(v->tmp_fd, each_remove, NULL);
}

/* Takes an empty directory out of the tree in one step, then apart in tmp/. */
static int dir_take_away(struct volume *v, int dirfd, const char *lower)
{
	char tmp[32];

	volume_tmp_name(v, tmp);
	int rc = io_renameat2(dirfd, lower, v->tmp_fd, tmp, RENAME_NOREPLACE);
	if (rc == 0)
		(void)!dir_remove_tree(v->tmp_fd, tmp); /* what stays is removed at the next mount */
	return rc;
}

static int dir_check_empty_at(int dirfd, const char *lower)
{
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);

	if (fd < 0)
		return fd == -ELOOP ? -ENOTDIR : fd;
	return dir_is_empty(fd, NULL);
}

int dir_rmdir(struct volume *v, int dirfd, const struct dir_id *id, const char *name)
{
	struct lower_name lower;
	int rc = volume_writable(v);

	if (rc == 0)
		rc = name_seal(v, id, name, &lower);
	if (rc == 0)
		rc = dir_check_empty_at(dirfd, lower.text);
	if (rc == 0)
		rc = dir_take_away(v, dirfd, lower.text);
	if (rc == 0)
		name_side_retire(v, dirfd, &lower);
	return rc;
}

static int each_remove_side_file(void *ctx, int dirfd, const char *lower)
{
	(void)ctx;
	return is_side_file(lower) ? io_unlinkat(dirfd, lower, 0) : 0;
}

/* Takes the side files that nothing needs any more, and then the id, out of an empty directory: it becomes one that a rename
 * replaces in one step. When the power goes before that step, dir_id_load gives it an id again. */
static int dir_rename_over_empty(struct volume *v, int dirfd, const char *from, int dirfd2, const char *to)
{
	CLEANUP_CLOSE int fd = io_openat(dirfd2, to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	char tmp[32];
	int rc = fd < 0 ? fd : dir_is_empty(fd, NULL);

	if (rc == 0)
		rc = dir_each(fd, each_remove_side_file, NULL);
	volume_tmp_name(v, tmp);
	if (rc == 0)
		rc = io_renameat2(fd, DIR_ID_NAME, v->tmp_fd, tmp, RENAME_NOREPLACE);
	if (rc < 0)
		return rc;
	rc = io_renameat2(dirfd, from, dirfd2, to, 0);
	if (rc == 0)
		(void)!io_unlinkat(v->tmp_fd, tmp, 0); /* what stays is removed at the next mount */
	else if (io_renameat2(v->tmp_fd, tmp, fd, DIR_ID_NAME, RENAME_NOREPLACE) < 0)
		(void)volume_poison(v, "a failed rename cannot be taken back", rc);
	return rc;
}

int dir_rename(struct volume *v, int dirfd, const struct dir_id *id, const char *name, int dirfd2, const struct dir_id *id2,
	const char *name2, unsigned flags)
{
	struct lower_name from, to;
	int rc = volume_writable(v);

	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	if (rc == 0)
		rc = name_seal(v, id, name, &from);
	if (rc == 0)
		rc = name_prepare(v, dirfd2, id2, name2, &to);
	if (rc < 0)
		return rc;
	rc = io_renameat2(dirfd, from.text, dirfd2, to.text, flags);
	/* To the lower file system no directory is empty, for the id in it. */
	if ((rc == -ENOTEMPTY || rc == -EEXIST) && flags == 0)
		rc = dir_rename_over_empty(v, dirfd, from.text, dirfd2, to.text);
	if (rc < 0) {
		name_side_remove(dirfd2, &to);
		return rc;
	}
	struct stat st;
	if (!(flags & RENAME_EXCHANGE) && from.side[0] && io_fstatat(dirfd, from.text, &st, AT_SYMLINK_NOFOLLOW) == -ENOENT)
		name_side_retire(v, dirfd, &from);
	return 0;
}

/* ---- symbolic links ---- */

#define TARGET_AD "symlink"
#define TARGET_OVERFLOW "trusted.t.target"
#define TARGET_INLINE 3000u /* sealed bytes in the link itself when the rest overflows */

int dir_symlink(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner, const char *target)
{
	uint8_t sealed[DIR_TARGET_MAX + SIV_SIZE];
	char text[BASE64URL_LEN(sizeof(sealed)) + 2], tmp[32];
	struct lower_name lower;
	size_t len = strlen(target);

	if (len > DIR_TARGET_MAX)
		return -ENAMETOOLONG;
	if (len == 0)
		return -ENOENT;
	int rc = crypto_siv_seal(v->names, TARGET_AD, sizeof(TARGET_AD), target, len, sealed);
	if (rc == 0)
		rc = name_prepare(v, dirfd, id, name, &lower);
	if (rc < 0)
		return rc;
	len += SIV_SIZE;
	bool overflows = BASE64URL_LEN(len) > DIR_TARGET_MAX;
	if (overflows)
		text[0] = '+';
	base64url_encode(sealed, overflows ? TARGET_INLINE : len, text + overflows);
	volume_tmp_name(v, tmp);
	rc = io_symlinkat(text, v->tmp_fd, tmp);
	if (rc == 0) {
		CLEANUP_CLOSE int fd = io_openat(v->tmp_fd, tmp, O_PATH | O_NOFOLLOW, 0);

		rc = fd < 0 ? fd : dir_give(fd, owner);
		if (rc == 0 && overflows) {
			rc = io_setxattr(fd, TARGET_OVERFLOW, sealed + TARGET_INLINE, len - TARGET_INLINE, 0);
			if (rc == -EOPNOTSUPP || rc == -EPERM)
				rc = -ENAMETOOLONG;
		}
		if (rc == 0)
			rc = io_renameat2(v->tmp_fd, tmp, dirfd, lower.text, RENAME_NOREPLACE);
		if (rc < 0)
			(void)!io_unlinkat(v->tmp_fd, tmp, 0);
	}
	if (rc < 0)
		name_side_remove(dirfd, &lower);
	return rc;
}

int dir_readlink(struct volume *v, int fd, char *ret)
{
	uint8_t sealed[DIR_TARGET_MAX + SIV_SIZE];
	char text[DIR_TARGET_MAX + 2];
	size_t n;
	ssize_t len = io_readlinkat(fd, "", text, sizeof(text) - 1);

	if (len < 0)
		return (int)len;
	text[len] = '\0';
	bool overflows = text[0] == '+';
	int rc = base64url_decode(text + overflows, strlen(text + overflows), sealed, sizeof(sealed), &n);
	if (rc == 0 && overflows) {
		len = io_getxattr(fd, TARGET_OVERFLOW, sealed + n, sizeof(sealed) - n);
		if (len < 0)
			rc = -EBADMSG;
		else
			n += (size_t)len;
	}
	if (rc == 0)
		rc = crypto_siv_open(v->names, TARGET_AD, sizeof(TARGET_AD), sealed, n, (uint8_t *)ret);
	if (rc < 0) {
		atomic_fetch_add(&v->stats.refused, 1);
		volume_report(v, "refused: the target of a symbolic link does not verify");
		return -EBADMSG;
	}
	ret[n - SIV_SIZE] = '\0';
	return 0;
}

int64_t dir_target_len(struct volume *v, int fd, int64_t lower_len)
{
	/* Base64url of an overflowing target has a fixed length that no other has, and its "+". */
	if (lower_len != (int64_t)BASE64URL_LEN(TARGET_INLINE) + 1)
		return MAX(lower_len * 3 / 4 - (int64_t)SIV_SIZE, 0);
	char target[DIR_TARGET_MAX + 1];
	int rc = dir_readlink(v, fd, target);

	return rc < 0 ? rc : (int64_t)strlen(target);
}

/* ---- reading ---- */

struct dir_stream {
	struct volume *v;
	struct dir_id id;
	DIR *dp;
};

int dir_stream_open(struct volume *v, int dirfd, const struct dir_id *id, struct dir_stream **ret)
{
	struct dir_stream *s = calloc(1, sizeof(*s));
	int rc = s ? io_opendir(dirfd, &s->dp) : -ENOMEM;

	if (rc < 0) {
		free(s);
		return rc;
	}
	s->v = v;
	s->id = *id;
	*ret = s;
	return 0;
}

void dir_stream_seek(struct dir_stream *s, uint64_t off)
{
	seekdir(s->dp, (long)off);
}

int dir_stream_next(struct dir_stream *s, struct dir_entry *ret)
{
	const struct dirent *de;

	for (;;) {
		int rc = io_readdir(s->dp, &de);

		if (rc <= 0)
			return rc;
		ret->ino = de->d_ino;
		ret->next = (uint64_t)de->d_off;
		ret->type = de->d_type;
		strcpy(ret->lower, de->d_name);
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) {
			strcpy(ret->name, de->d_name);
			return 1;
		}
		if (is_own_name(de->d_name))
			continue;
		rc = name_plain(s->v, dirfd(s->dp), &s->id, de->d_name, ret->name);

		if (rc == 0)
			return 1;
		if (rc != -EBADMSG)
			return rc;
		atomic_fetch_add(&s->v->stats.refused, 1);
		volume_report(s->v, "refused: the name %s does not verify in its directory", de->d_name);
	}
}

void dir_stream_close(struct dir_stream *s)
{
	if (s)
		closedir(s->dp);
	free(s);
}
