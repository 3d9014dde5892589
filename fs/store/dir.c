/* dir: see dir.h. */
#include "store/dir_internal.h"

#include "base/io.h"
#include "store/crypto.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

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

/* D2. -EOPNOTSUPP: it has to be made under its name: somebody's without O_TMPFILE, or ours. */
static int create_for(int dirfd, const char *lower, const struct dir_owner *owner)
{
	if (owner->uid == 0 && owner->gid == 0 && !(owner->mode & 07000))
		return -EOPNOTSUPP;
	CLEANUP_CLOSE int fd = io_openat(dirfd, ".", O_RDWR | O_TMPFILE, owner->mode & 07777);
	if (fd == -EISDIR || fd == -ENOENT)
		return -EOPNOTSUPP; /* as open(2) says of old kernels; or the directory was removed */
	int rc = fd < 0 ? fd : dir_give(fd, owner);
	if (rc == 0)
		rc = io_linkat(fd, "", dirfd, lower, AT_EMPTY_PATH);
	return rc < 0 ? rc : TAKE_FD(fd);
}

int dir_create(struct volume *v, int dirfd, const struct dir_id *id, const char *name, const struct dir_owner *owner)
{
	struct lower_name lower;
	int rc = name_prepare(v, dirfd, id, name, &lower);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = create_for(dirfd, lower.text, owner);
	if (fd == -EOPNOTSUPP) {
		fd = io_openat(dirfd, lower.text, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, owner->mode & 07777);
		rc = fd < 0 ? 0 : dir_give(fd, owner);
	}
	if (rc < 0)
		return name_undo(v, dirfd, &lower, rc);
	if (fd < 0)
		name_side_remove(dirfd, &lower);
	else
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

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* The next one below that is not our own. */
static int dir_stream_read(struct dir_stream *s, struct dir_entry *ret)
{
	const struct dirent *de;
	int rc;

	do
		rc = io_readdir(s->dp, &de);
	while (rc > 0 && is_own_name(de->d_name));
	if (rc <= 0)
		return rc;
	ret->ino = de->d_ino;
	ret->next = (uint64_t)de->d_off;
	ret->type = de->d_type;
	strcpy(ret->lower, de->d_name);
	return 1;
}

int dir_stream_next_raw(struct dir_stream *s, struct dir_entry *ret)
{
	int rc = dir_stream_read(s, ret);

	if (rc <= 0)
		return rc;
	if (is_dots(ret->lower)) {
		strcpy(ret->name, ret->lower);
		return 1;
	}
	rc = dir_plain_name(s->v, dirfd(s->dp), &s->id, ret->lower, ret->name);
	return rc < 0 ? rc : 1;
}

int dir_stream_next_lower(struct dir_stream *s, struct dir_entry *ret)
{
	int rc;

	do
		rc = dir_stream_read(s, ret);
	while (rc > 0 && is_dots(ret->lower));
	return rc;
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
