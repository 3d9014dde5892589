/* ops: what the operations share; see session.h. */
#include "mount/session.h"

#include "base/io.h"
#include "store/extent.h"
#include "store/xattr.h"

#include <sys/stat.h>

void ops_reply_error(fuse_req_t req, int rc)
{
	bool damage = rc == -EBADMSG || rc == -EUCLEAN || rc == -EKEYREJECTED || rc == -ENOKEY;

	fuse_reply_err(req, damage ? EIO : -rc);
}

struct session *ops_session(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

struct inode *ops_inode(struct session *s, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? s->inodes.root : (struct inode *)(uintptr_t)ino;
}

int ops_gate(const struct session *s)
{
	return atomic_load_explicit(&s->closed, memory_order_relaxed) ? -EIO : 0;
}

/* Of a regular file: its size, and whether it is being written, or is empty still and about to be. Then its next write may not have to
 * tell the kernel, which would ask again before each. */
static bool attr_of_content(struct inode *i, struct stat *st)
{
	/* First: whoever changes it from here on will tell. */
	atomic_store(&i->told_long, true);
	struct content *c = inode_hold(i);
	bool busy = c && (content_is_changed(c) || content_size(c) == 0);
	st->st_size = (off_t)(c ? content_size(c) : extent_plain_size((uint64_t)st->st_size));
	if (c)
		inode_release(i);
	if (busy)
		atomic_store(&i->told_long, false);
	return busy;
}

int ops_attr(struct session *s, struct inode *i, const struct stat *lower, struct stat *ret, double *ret_timeout)
{
	*ret = *lower;
	ret->st_blksize = BLOCK_SIZE;
	*ret_timeout = CACHE_TIMEOUT;
	if (S_ISREG(lower->st_mode)) {
		if (attr_of_content(i, ret))
			*ret_timeout = BUSY_TIMEOUT;
		inode_mtime(i, &ret->st_mtim);
	} else if (S_ISLNK(lower->st_mode)) {
		int64_t len = dir_target_len(s->v, i->fd, lower->st_size);

		if (len < 0)
			return (int)len;
		ret->st_size = len;
	}
	return 0;
}

int ops_entry(struct session *s, int fd, const struct stat *lower, struct fuse_entry_param *ret)
{
	struct inode *i;
	int rc = inode_get(&s->inodes, fd, lower, &i);

	if (rc < 0)
		return rc;
	*ret = (struct fuse_entry_param){.ino = (uintptr_t)i, .entry_timeout = CACHE_TIMEOUT};
	rc = ops_attr(s, i, lower, &ret->attr, &ret->attr_timeout);
	if (rc < 0)
		inode_put(&s->inodes, i, 1);
	return rc;
}

int ops_owner(struct session *s, fuse_req_t req, struct inode *dir, mode_t mode, struct dir_owner *ret)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct stat st;
	int rc = io_fstatat(dir->fd, "", &st, AT_EMPTY_PATH);

	(void)s;
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&dir->lock);
	if (dir->default_acl < 0)
		dir->default_acl = io_getxattr(dir->fd, "system.posix_acl_default", NULL, 0) > 0;
	bool default_acl = dir->default_acl > 0;
	pthread_mutex_unlock(&dir->lock);
	if (!default_acl && !S_ISLNK(mode))
		mode &= ~ctx->umask;
	if (S_ISDIR(mode) && (st.st_mode & S_ISGID))
		mode |= S_ISGID;
	*ret = (struct dir_owner){ctx->uid, st.st_mode & S_ISGID ? st.st_gid : ctx->gid, mode};
	return 0;
}

bool ops_caller_in_group(fuse_req_t req, gid_t gid)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	bool found = ctx->uid == 0 || ctx->gid == gid;
	int n = found ? 0 : fuse_req_getgroups(req, 0, NULL);
	CLEANUP_FREE gid_t *groups = n > 0 ? calloc((size_t)n, sizeof(*groups)) : NULL;

	n = groups ? MIN(fuse_req_getgroups(req, n, groups), n) : 0;
	for (int k = 0; k < n; k++)
		found |= groups[k] == gid;
	return found;
}

void ops_kill_privileges(fuse_req_t req, struct inode *i)
{
	struct stat st;

	if (io_fstatat(i->fd, "", &st, AT_EMPTY_PATH) == 0 && S_ISREG(st.st_mode)) {
		mode_t mode = st.st_mode & 07777, less = mode & ~(mode_t)S_ISUID;

		/* The kernel's rule, setattr_should_drop_sgid(): without group execution members keep it. */
		if ((mode & S_ISGID) && ((mode & S_IXGRP) || !ops_caller_in_group(req, st.st_gid)))
			less &= ~(mode_t)S_ISGID;
		if (less != mode)
			(void)!io_chmod(i->fd, less);
	}
	(void)!xattr_remove(ops_session(req)->v, i->fd, i->type, "security.capability");
	inode_changed(&ops_session(req)->inodes, i);
}
