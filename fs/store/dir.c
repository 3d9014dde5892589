/* dir: see dir.h. */
#include "store/dir_internal.h"

#include "base/io.h"
#include "store/crypto.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

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

int dir_id_encode(const struct mac_key *dir_mac, const struct dir_id *id, uint8_t copies[static ID_COPIES * SECTOR_SIZE])
{
	memset(copies, 0, ID_COPIES * SECTOR_SIZE);
	memcpy(copies, ID_MAGIC, 8);
	memcpy(copies + 8, id->b, sizeof(id->b));
	int rc = crypto_mac(dir_mac, copies, ID_MAC_OFF, NULL, 0, copies + ID_MAC_OFF);
	memcpy(copies + SECTOR_SIZE, copies, SECTOR_SIZE);
	return rc;
}

/* An id of dirfd's in a new file, synced, and in the attribute; whoever cannot have that has one copy fewer. */
static int id_write(const struct mac_key *dir_mac, const struct dir_id *id, int dirfd, int file_dirfd, const char *name)
{
	uint8_t copies[ID_COPIES * SECTOR_SIZE];
	int rc = dir_id_encode(dir_mac, id, copies);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = io_openat(file_dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fd;
	rc = io_pwrite_full(fd, copies, sizeof(copies), 0);
	if (rc == 0)
		rc = io_fsync(fd);
	if (rc == 0)
		(void)!io_setxattr(dirfd, ID_COPY_NAME, copies, ID_SIZE, 0);
	return rc;
}

int dir_id_create(const struct mac_key *dir_mac, int dirfd)
{
	struct dir_id id;
	int rc = secret_random(id.b, sizeof(id.b));

	return rc < 0 ? rc : id_write(dir_mac, &id, dirfd, dirfd, DIR_ID_NAME);
}

/* One copy of an id: 0, or -EBADMSG. */
int dir_id_decode(struct volume *v, const uint8_t copy[static ID_SIZE], struct dir_id *ret)
{
	uint8_t mac[MAC_SIZE];
	int rc = crypto_mac(v->dir_mac, copy, ID_MAC_OFF, NULL, 0, mac);

	if (rc == 0 && (memcmp(copy, ID_MAGIC, 8) != 0 || !crypto_equal(mac, copy + ID_MAC_OFF, MAC_SIZE)))
		rc = -EBADMSG;
	if (rc == 0)
		memcpy(ret->b, copy + 8, sizeof(ret->b));
	return rc;
}

int dir_id_read(struct volume *v, int dirfd, struct dir_id *ret, unsigned *ret_good)
{
	uint8_t copies[ID_COPIES * SECTOR_SIZE];
	CLEANUP_CLOSE int fd = io_openat(dirfd, DIR_ID_NAME, O_RDONLY | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_pread_full(fd, copies, sizeof(copies), 0, NULL);

	*ret_good = 0;
	for (unsigned i = 0; rc == 0 && i < ID_COPIES; i++)
		*ret_good += dir_id_decode(v, copies + i * SECTOR_SIZE, ret) == 0;
	if (rc == 0 || rc == -ENOENT || rc == -ELOOP)
		rc = *ret_good ? 0 : -EBADMSG;
	return rc;
}

int dir_id_read_copy(struct volume *v, int dirfd, struct dir_id *ret)
{
	uint8_t copy[ID_SIZE];
	ssize_t len = io_getxattr(dirfd, ID_COPY_NAME, copy, sizeof(copy));

	if (len == -ENODATA || len == -EOPNOTSUPP)
		return -ENODATA;
	if (len < 0 && len != -ERANGE)
		return (int)len;
	return len == sizeof(copy) ? dir_id_decode(v, copy, ret) : -EBADMSG;
}

bool dir_id_is_due(const struct volume *v, int dirfd)
{
	bool crashed = v->header.unclean_count || (v->options.read_only && !v->header.clean);

	return crashed && dir_each(dirfd, each_is_one_too_many, NULL) == 0;
}

/* Gives a directory an id that has none and is due one: its own again, where the copy is there. */
static int id_create_again(struct volume *v, int dirfd)
{
	struct dir_id id;
	char tmp[32];
	int rc = volume_writable(v);

	if (rc == 0 && !dir_id_is_due(v, dirfd))
		rc = -EBADMSG;
	if (rc == 0 && dir_id_read_copy(v, dirfd, &id) < 0)
		rc = secret_random(id.b, sizeof(id.b));
	if (rc < 0)
		return rc;
	volume_tmp_name(v, tmp);
	rc = id_write(v->dir_mac, &id, dirfd, v->tmp_fd, tmp);
	if (rc == 0)
		rc = io_renameat2(v->tmp_fd, tmp, dirfd, DIR_ID_NAME, RENAME_NOREPLACE);
	if (rc < 0)
		(void)!io_unlinkat(v->tmp_fd, tmp, 0);
	return rc == -EEXIST ? 0 : rc; /* another thread was here, too */
}

int dir_id_load(struct volume *v, int dirfd, struct dir_id *ret)
{
	struct stat st = {0};
	unsigned good;
	int rc = dir_id_read(v, dirfd, ret, &good);

	if (rc == -EBADMSG && id_create_again(v, dirfd) == 0)
		rc = dir_id_read(v, dirfd, ret, &good);
	if (rc == 0)
		return 0;
	if (io_fstatat(dirfd, "", &st, AT_EMPTY_PATH) == 0 && st.st_nlink == 0)
		return -ENOENT;
	if (dir_id_read_copy(v, dirfd, ret) == 0) {
		volume_report(v, "the id of the directory with inode %llu is missing or damaged: its copy serves, until a scrub repairs it",
			(unsigned long long)st.st_ino);
		return 0;
	}
	if (rc != -EBADMSG)
		return rc;
	atomic_fetch_add(&v->stats.refused, 1);
	volume_report(v, "refused: the id of the directory with inode %llu is missing or damaged", (unsigned long long)st.st_ino);
	return -EBADMSG;
}

/* ---- names ---- */

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

int name_seal(struct volume *v, const struct dir_id *id, const char *name, struct lower_name *ret)
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

static const char *name_copy_attribute(mode_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) ? "user.tdefs.name" : "trusted.tdefs.name";
}

/* What is sealed in a long name; -EBADMSG where it is not the one of lower. */
static int name_check_long(const char *lower, const uint8_t *sealed, uint64_t len)
{
	struct lower_name again;

	return len <= SEALED_MAX && name_lower(sealed, len, &again) == 0 && strcmp(again.text, lower) == 0 ? 0 : -EBADMSG;
}

int name_read_side(int dirfd, const char *lower, struct lower_name *ret)
{
	uint8_t sealed[SEALED_MAX + 1];
	uint64_t len;

	strcpy(ret->text, lower);
	strcpy(ret->side, lower);
	ret->side[0] = 'n';
	CLEANUP_CLOSE int fd = io_openat(dirfd, ret->side, O_RDONLY | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_pread_full(fd, sealed, sizeof(sealed), 0, &len);
	if (rc == 0)
		rc = name_check_long(lower, sealed, len);
	if (rc == 0) {
		memcpy(ret->sealed, sealed, len);
		ret->len = len;
	}
	return rc == -ENOENT || rc == -ELOOP ? -EBADMSG : rc;
}

int name_read_copy(int dirfd, const char *lower, struct lower_name *ret)
{
	struct stat st;
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower, O_PATH | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	ssize_t len = rc < 0 ? rc : io_getxattr(fd, name_copy_attribute(st.st_mode), ret->sealed, sizeof(ret->sealed));

	strcpy(ret->text, lower);
	strcpy(ret->side, lower);
	ret->side[0] = 'n';
	ret->len = len < 0 ? 0 : (size_t)len;
	return len < 0 ? (int)len : name_check_long(lower, ret->sealed, ret->len);
}

/* The plain name of a lower one. */
int name_plain(struct volume *v, int dirfd, const struct dir_id *id, const char *lower, char ret[DIR_NAME_MAX + 1])
{
	struct lower_name name;
	uint8_t sealed[SEALED_MAX];
	size_t len;

	if (strncmp(lower, "l.", 2) == 0) {
		int rc = name_read_side(dirfd, lower, &name);

		if (rc < 0 && name_read_copy(dirfd, lower, &name) < 0)
			return rc;
		return name_open(v, id, name.sealed, name.len, ret);
	}
	int rc = base64url_decode(lower, strlen(lower), sealed, sizeof(sealed), &len);
	return rc < 0 ? -EBADMSG : name_open(v, id, sealed, len, ret);
}

/* The object of a long name keeps it too; the one that it was given last, where it has several. Whoever cannot have it has one
 * copy fewer. */
static void name_keep_copy(int dirfd, const struct lower_name *lower)
{
	struct stat st;

	if (strncmp(lower->text, "l.", 2) != 0)
		return;
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower->text, O_PATH | O_NOFOLLOW, 0);
	if (fd >= 0 && io_fstatat(fd, "", &st, AT_EMPTY_PATH) == 0)
		(void)!io_setxattr(fd, name_copy_attribute(st.st_mode), lower->sealed, lower->len, 0);
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
int name_side_create(struct volume *v, int dirfd, const struct lower_name *lower)
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
	if (rc < 0)
		return name_undo(v, dirfd, &lower, rc);
	name_keep_copy(dirfd, &lower);
	return TAKE_FD(fd);
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
	if (rc < 0)
		return name_undo(v, dirfd, &lower, rc);
	name_keep_copy(dirfd, &lower);
	return 0;
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
	else
		name_keep_copy(dirfd, &lower);
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
	else
		name_keep_copy(dirfd, &lower);
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
	name_keep_copy(dirfd2, &to);
	if (flags & RENAME_EXCHANGE)
		name_keep_copy(dirfd, &from);
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
	else
		name_keep_copy(dirfd, &lower);
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

int dir_stream_next_raw(struct dir_stream *s, struct dir_entry *ret)
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
		return rc < 0 ? rc : 1;
	}
}

int dir_stream_next(struct dir_stream *s, struct dir_entry *ret)
{
	for (;;) {
		int rc = dir_stream_next_raw(s, ret);

		if (rc != -EBADMSG)
			return rc;
		atomic_fetch_add(&s->v->stats.refused, 1);
		volume_report(s->v, "refused: the name %s does not verify in its directory", ret->lower);
	}
}

void dir_stream_close(struct dir_stream *s)
{
	if (s)
		closedir(s->dp);
	free(s);
}
