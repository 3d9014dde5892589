/* ops_meta: attributes, extended attributes, statfs. */
#include "mount/session.h"

#include "base/io.h"
#include "store/xattr.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* ---- attributes ---- */

static void meta_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	struct stat st, attr;
	double timeout;
	int rc = io_fstatat(i->fd, "", &st, AT_EMPTY_PATH);

	(void)fi;
	if (rc == 0)
		rc = ops_attr(s, i, &st, &attr, &timeout);
	if (rc < 0)
		ops_reply_error(req, rc);
	else
		fuse_reply_attr(req, &attr, timeout);
}

static int setattr_size(struct session *s, struct inode *i, uint64_t size)
{
	struct content *c;
	int rc = inode_open(&s->inodes, i, &c);

	if (rc < 0)
		return rc;
	rc = content_truncate(c, size);
	inode_release(i);
	return rc;
}

static int setattr_times(struct inode *i, const struct stat *attr, int to_set)
{
	struct timespec ts[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		ts[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		ts[0] = attr->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		clock_gettime(CLOCK_REALTIME, &ts[1]);
	else if (to_set & FUSE_SET_ATTR_MTIME)
		ts[1] = attr->st_mtim;
	return inode_set_times(i, ts);
}

/* Everything but mtime and ctime of the lower file: asking it for those makes it stamp its next change more finely, and the
 * kernel then sees a change, and sends a SETATTR, at every fsync. */
static int setattr_stat_without_times(const struct inode *i, const struct stat *set, struct stat *ret)
{
	struct statx x;

	if (statx(i->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS & ~(unsigned)(STATX_MTIME | STATX_CTIME), &x) < 0)
		return -errno;
	*ret = (struct stat){.st_ino = x.stx_ino, .st_mode = x.stx_mode, .st_nlink = x.stx_nlink, .st_uid = x.stx_uid,
		.st_gid = x.stx_gid, .st_size = (off_t)x.stx_size, .st_blocks = (blkcnt_t)x.stx_blocks,
		.st_atim = {x.stx_atime.tv_sec, x.stx_atime.tv_nsec}, .st_mtim = set->st_mtim, .st_ctim = set->st_ctim};
	return 0;
}

/* chown(-1, -1), which the kernel sends without a check and with nothing to set, or ctime where it keeps that itself: it takes suid
 * and sgid, if only the owner's (or root's) does. */
static bool setattr_is_nothing(const struct inode *i, int to_set)
{
	return to_set == (S_ISREG(i->type) ? FUSE_SET_ATTR_CTIME : 0);
}

static int setattr_nothing(fuse_req_t req, struct inode *i)
{
	uid_t caller = fuse_req_ctx(req)->uid;
	struct stat st;
	int rc = io_fstatat(i->fd, "", &st, AT_EMPTY_PATH);

	if (rc == 0 && (caller == 0 || caller == st.st_uid))
		rc = io_fchownat(i->fd, "", (uid_t)-1, (gid_t)-1, AT_EMPTY_PATH);
	else if (rc == 0 && !S_ISDIR(i->type) && ((st.st_mode & S_ISUID) || (~st.st_mode & (S_ISGID | S_IXGRP)) == 0))
		rc = -EPERM;
	return rc;
}

static void meta_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	struct stat st, out;
	double timeout;
	/* Of a fallocate that takes suid and sgid nothing arrives but this. */
	bool kills = device_kill_privileges() || (to_set == 0 && S_ISREG(i->type));
	int rc = volume_writable(s->v);

	(void)fi;
	if (rc == 0)
		rc = ops_gate(s);
	if (rc == 0 && kills)
		ops_kill_privileges(req, i);
	if (rc == 0 && (to_set & FUSE_SET_ATTR_MODE)) {
		rc = S_ISLNK(i->type) ? -EOPNOTSUPP : io_chmod(i->fd, attr->st_mode & 07777);
	}
	if (rc == 0 && setattr_is_nothing(i, to_set))
		rc = setattr_nothing(req, i);
	if (rc == 0 && (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))) {
		rc = io_fchownat(i->fd, "", to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1,
			to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1, AT_EMPTY_PATH);
		if (rc == 0 && S_ISREG(i->type))
			(void)!xattr_remove(s->v, i->fd, i->type, "security.capability");
	}
	if (rc == 0 && (to_set & FUSE_SET_ATTR_SIZE))
		rc = setattr_size(s, i, (uint64_t)attr->st_size);
	if (rc == 0 && (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)))
		rc = setattr_times(i, attr, to_set);
	if (rc == 0 && to_set == (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_CTIME))
		rc = setattr_stat_without_times(i, attr, &st);
	else if (rc == 0)
		rc = io_fstatat(i->fd, "", &st, AT_EMPTY_PATH);
	if (rc == 0)
		rc = ops_attr(s, i, &st, &out, &timeout);
	inode_changed(&s->inodes, i);
	if (rc < 0)
		ops_reply_error(req, rc);
	else
		fuse_reply_attr(req, &out, timeout);
}

static void meta_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statfs lower;
	int rc = volume_statfs(ops_session(req)->v, &lower);

	(void)ino;
	if (rc < 0) {
		ops_reply_error(req, rc);
		return;
	}
	fuse_reply_statfs(req, &(struct statvfs){.f_bsize = (unsigned long)lower.f_bsize, .f_frsize = (unsigned long)lower.f_frsize,
				       .f_blocks = lower.f_blocks, .f_bfree = lower.f_bfree, .f_bavail = lower.f_bavail,
				       .f_files = lower.f_files, .f_ffree = lower.f_ffree, .f_favail = lower.f_ffree,
				       .f_namemax = DIR_NAME_MAX});
}

/* ---- extended attributes ---- */

/* An access ACL set by who is not in the owning group clears sgid, as chmod(2) does. */
static int acl_clear_sgid(fuse_req_t req, const struct inode *i)
{
	struct stat st;
	int rc = io_fstatat(i->fd, "", &st, AT_EMPTY_PATH);

	return rc < 0 || !(st.st_mode & S_ISGID) || ops_caller_in_group(req, st.st_gid) ? rc : io_chmod(i->fd, st.st_mode & 05777);
}

static void meta_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);

	pthread_mutex_lock(&i->lock);
	i->bare = false;
	pthread_mutex_unlock(&i->lock);
	int rc = xattr_set(s->v, i->fd, i->type, name, value, size, flags);
	if (rc == 0 && strcmp(name, "system.posix_acl_access") == 0)
		rc = acl_clear_sgid(req, i);
	pthread_mutex_lock(&i->lock);
	i->default_acl = -1;
	pthread_mutex_unlock(&i->lock);
	inode_changed(&s->inodes, i);
	ops_reply_error(req, rc);
}

static void meta_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	int rc = xattr_remove(s->v, i->fd, i->type, name);

	pthread_mutex_lock(&i->lock);
	i->default_acl = -1;
	pthread_mutex_unlock(&i->lock);
	inode_changed(&s->inodes, i);
	ops_reply_error(req, rc);
}

static void meta_reply_xattr(fuse_req_t req, size_t size, const char *buf, ssize_t n)
{
	if (n < 0)
		ops_reply_error(req, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void meta_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	CLEANUP_FREE char *buf = malloc(size + 1);
	ssize_t n = ops_gate(s);

	/* The kernel asks for security.capability when a file is first written. */
	pthread_mutex_lock(&i->lock);
	if (n == 0 && i->bare)
		n = -ENODATA;
	pthread_mutex_unlock(&i->lock);
	if (n == 0)
		n = buf ? xattr_get(s->v, i->fd, i->type, name, buf, size) : -ENOMEM;
	meta_reply_xattr(req, size, buf, n);
}

/* trusted.* is listed for root alone, as by every file system. */
static ssize_t xattr_hide_trusted(char *buf, ssize_t n)
{
	char *out = buf;

	for (char *p = buf; p < buf + n;) {
		size_t len = strlen(p) + 1;

		if (strncmp(p, "trusted.", 8) != 0) {
			memmove(out, p, len);
			out += len;
		}
		p += len;
	}
	return out - buf;
}

static void meta_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	size_t room = 65536;
	CLEANUP_FREE char *buf = malloc(room);
	ssize_t n = ops_gate(s);

	if (n == 0)
		n = buf ? xattr_list(s->v, i->fd, i->type, buf, room) : -ENOMEM;
	if (n > 0 && fuse_req_ctx(req)->uid != 0)
		n = xattr_hide_trusted(buf, n);
	if (size && n > (ssize_t)size)
		n = -ERANGE;
	meta_reply_xattr(req, size, buf, n);
}

void ops_meta(struct fuse_lowlevel_ops *ops)
{
	ops->getattr = meta_getattr;
	ops->setattr = meta_setattr;
	ops->statfs = meta_statfs;
	ops->setxattr = meta_setxattr;
	ops->getxattr = meta_getxattr;
	ops->listxattr = meta_listxattr;
	ops->removexattr = meta_removexattr;
}
