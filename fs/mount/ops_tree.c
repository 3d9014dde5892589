/* ops_tree: names, attributes, directories, extended attributes. */
#include "mount/session.h"

#include "base/io.h"
#include "store/extent.h"
#include "store/xattr.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>


/* ---- what all handlers use ---- */

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

int ops_attr(struct session *s, struct inode *i, const struct stat *lower, struct stat *ret, double *ret_timeout)
{
	*ret = *lower;
	ret->st_blksize = BLOCK_SIZE;
	*ret_timeout = CACHE_TIMEOUT;
	if (S_ISREG(lower->st_mode)) {
		pthread_mutex_lock(&i->lock);
		if (i->opens)
			*ret_timeout = BUSY_TIMEOUT;
		atomic_store(&i->told_long, i->opens == 0);
		ret->st_size = (off_t)(i->content ? content_size(i->content) : extent_plain_size((uint64_t)lower->st_size));
		pthread_mutex_unlock(&i->lock);
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

/* name in dir as the kernel gets to know it. */
static int tree_entry(struct session *s, struct inode *dir, const char *name, struct fuse_entry_param *ret)
{
	struct dir_id id;
	struct stat st;
	int rc = inode_dir_id(&s->inodes, dir, &id);

	if (rc < 0)
		return rc;
	int fd = dir_lookup(s->v, dir->fd, &id, name, &st);
	return fd < 0 ? fd : ops_entry(s, fd, &st, ret);
}

static void tree_reply_entry(fuse_req_t req, struct session *s, struct inode *dir, const char *name, int rc)
{
	struct fuse_entry_param e;

	if (rc == 0)
		rc = tree_entry(s, dir, name, &e);
	if (rc < 0) {
		ops_reply_error(req, rc);
		return;
	}
	if (fuse_reply_entry(req, &e) < 0)
		inode_put(&s->inodes, (struct inode *)(uintptr_t)e.ino, 1);
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

/* Of root it does not matter: with CAP_FSETID the kernel asks after a chown alone, and then root keeps sgid. */
static bool caller_in_group(fuse_req_t req, gid_t gid)
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
		if ((mode & S_ISGID) && ((mode & S_IXGRP) || !caller_in_group(req, st.st_gid)))
			less &= ~(mode_t)S_ISGID;
		if (less != mode)
			(void)!io_chmod(i->fd, less);
	}
	(void)!xattr_remove(ops_session(req)->v, i->fd, i->type, "security.capability");
	inode_changed(&ops_session(req)->inodes, i);
}

/* ---- session ---- */

static void tree_init(void *userdata, struct fuse_conn_info *conn)
{
	/* Not FUSE_CAP_EXPORT_SUPPORT: a file handle may name an inode that has been forgotten, and our node ids are pointers. */
	static const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_DONT_MASK | FUSE_CAP_ASYNC_DIO |
				       FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_POSIX_ACL |
				       FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
				       FUSE_CAP_EXPLICIT_INVAL_DATA;

	(void)userdata;
	conn->want = conn->capable & wanted;
	conn->max_write = DEVICE_REQUEST_MAX;
	conn->max_readahead = DEVICE_REQUEST_MAX;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->time_gran = 1;
}

static void tree_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct session *s = ops_session(req);
	struct fuse_entry_param e;
	int rc = ops_gate(s);

	if (rc == 0)
		rc = tree_entry(s, ops_inode(s, parent), name, &e);
	if (rc == -ENOENT) {
		/* The absence may be believed for as long. */
		e = (struct fuse_entry_param){.entry_timeout = CACHE_TIMEOUT};
		fuse_reply_entry(req, &e);
	} else if (rc < 0) {
		ops_reply_error(req, rc);
	} else if (fuse_reply_entry(req, &e) < 0) {
		inode_put(&s->inodes, (struct inode *)(uintptr_t)e.ino, 1);
	}
}

static void tree_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	struct session *s = ops_session(req);

	if (ino != FUSE_ROOT_ID)
		inode_put(&s->inodes, ops_inode(s, ino), n);
	fuse_reply_none(req);
}

static void tree_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct session *s = ops_session(req);

	for (size_t k = 0; k < count; k++)
		if (forgets[k].ino != FUSE_ROOT_ID)
			inode_put(&s->inodes, ops_inode(s, forgets[k].ino), forgets[k].nlookup);
	fuse_reply_none(req);
}

/* ---- attributes ---- */

static void tree_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
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
	inode_release(&s->inodes, i);
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

static void tree_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
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

static void tree_statfs(fuse_req_t req, fuse_ino_t ino)
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

/* ---- changes to the tree ---- */

static void tree_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct session *s = ops_session(req);
	char target[DIR_TARGET_MAX + 1];
	int rc = ops_gate(s);

	if (rc == 0)
		rc = dir_readlink(s->v, ops_inode(s, ino)->fd, target);
	if (rc < 0)
		ops_reply_error(req, rc);
	else
		fuse_reply_readlink(req, target);
}

/* What making an object begins with. */
static int tree_make(fuse_req_t req, struct inode *dir, mode_t mode, struct dir_id *ret_id, struct dir_owner *ret_owner)
{
	struct session *s = ops_session(req);
	int rc = ops_gate(s);

	if (rc == 0)
		rc = inode_dir_id(&s->inodes, dir, ret_id);
	return rc < 0 ? rc : ops_owner(s, req, dir, mode, ret_owner);
}

static void tree_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, parent);
	struct dir_owner owner;
	struct dir_id id;
	int rc = tree_make(req, dir, mode, &id, &owner);

	if (rc == 0)
		rc = dir_mknod(s->v, dir->fd, &id, name, &owner, rdev);
	tree_reply_entry(req, s, dir, name, rc);
}

static void tree_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, parent);
	struct dir_owner owner;
	struct dir_id id;
	int rc = tree_make(req, dir, S_IFDIR | mode, &id, &owner);

	if (rc == 0)
		rc = dir_mkdir(s->v, dir->fd, &id, name, &owner);
	tree_reply_entry(req, s, dir, name, rc);
}

static void tree_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, parent);
	struct dir_owner owner;
	struct dir_id id;
	int rc = tree_make(req, dir, S_IFLNK | 0777, &id, &owner);

	if (rc == 0)
		rc = dir_symlink(s->v, dir->fd, &id, name, &owner, target);
	tree_reply_entry(req, s, dir, name, rc);
}

static void tree_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, parent);
	struct dir_id id;
	int rc = inode_dir_id(&s->inodes, dir, &id);

	rotate_move_begin(&s->rotate);
	if (rc == 0 && rotate_wants_moves(&s->rotate)) {
		struct stat st;

		rc = io_fstatat(ops_inode(s, ino)->fd, "", &st, AT_EMPTY_PATH);
		if (rc == 0)
			rc = rotate_before_move(&s->rotate, ops_inode(s, ino)->fd, &st);
	}
	if (rc == 0)
		rc = dir_link(s->v, ops_inode(s, ino)->fd, dir->fd, &id, name);
	rotate_move_end(&s->rotate);
	inode_changed(&s->inodes, NULL);
	tree_reply_entry(req, s, dir, name, rc);
}

static void tree_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, parent);
	struct dir_id id;
	int rc = inode_dir_id(&s->inodes, dir, &id);

	if (rc == 0)
		rc = dir_unlink(s->v, dir->fd, &id, name);
	inode_changed(&s->inodes, NULL);
	ops_reply_error(req, rc);
}

static void tree_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, parent);
	struct dir_id id;
	int rc = inode_dir_id(&s->inodes, dir, &id);

	ops_reply_error(req, rc < 0 ? rc : dir_rmdir(s->v, dir->fd, &id, name));
}

static int tree_before_move(struct session *s, struct inode *dir, const struct dir_id *id, const char *name)
{
	struct stat st;

	if (!rotate_wants_moves(&s->rotate))
		return 0;
	CLEANUP_CLOSE int fd = dir_lookup(s->v, dir->fd, id, name, &st);
	/* The rename itself says what is wrong. */
	return fd < 0 ? 0 : rotate_before_move(&s->rotate, fd, &st);
}

static void tree_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t parent2, const char *name2, unsigned flags)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, parent), *dir2 = ops_inode(s, parent2);
	struct dir_id id, id2;
	int rc = inode_dir_id(&s->inodes, dir, &id);

	if (rc == 0)
		rc = inode_dir_id(&s->inodes, dir2, &id2);
	rotate_move_begin(&s->rotate);
	if (rc == 0)
		rc = tree_before_move(s, dir, &id, name);
	if (rc == 0 && (flags & RENAME_EXCHANGE))
		rc = tree_before_move(s, dir2, &id2, name2);
	if (rc == 0)
		rc = dir_rename(s->v, dir->fd, &id, name, dir2->fd, &id2, name2, flags);
	rotate_move_end(&s->rotate);
	inode_changed(&s->inodes, NULL);
	ops_reply_error(req, rc);
}

/* ---- reading directories ---- */

struct dir_handle {
	pthread_mutex_t lock;
	struct dir_stream *stream; /* lock */
	uint64_t at;               /* where the stream stands; lock */
};

static void tree_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	CLEANUP_FREE struct dir_handle *h = calloc(1, sizeof(*h));
	struct dir_id id = {0};
	int rc = ops_gate(s);

	if (rc == 0)
		rc = h ? inode_dir_id(&s->inodes, i, &id) : -ENOMEM;
	/* A removed directory can be opened (by its "."); nothing is in it. */
	if (rc == 0 || rc == -ENOENT)
		rc = dir_stream_open(s->v, i->fd, &id, &h->stream);
	if (rc < 0) {
		ops_reply_error(req, rc);
		return;
	}
	pthread_mutex_init(&h->lock, NULL);
	struct dir_handle *handle = TAKE_PTR(h);
	fi->fh = (uintptr_t)handle;
	if (fuse_reply_open(req, fi) < 0) {
		dir_stream_close(handle->stream);
		free(handle);
	}
}

static void tree_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct dir_handle *h = (struct dir_handle *)(uintptr_t)fi->fh;

	(void)ino;
	dir_stream_close(h->stream);
	pthread_mutex_destroy(&h->lock);
	free(h);
	fuse_reply_err(req, 0);
}

static int readdir_plus_entry(struct session *s, struct inode *dir, const struct dir_entry *de, struct fuse_entry_param *ret)
{
	struct stat st;

	if (strcmp(de->name, ".") == 0 || strcmp(de->name, "..") == 0) {
		*ret = (struct fuse_entry_param){.attr = {.st_ino = de->ino, .st_mode = S_IFDIR}};
		return 0;
	}
	CLEANUP_CLOSE int fd = io_openat(dir->fd, de->lower, O_PATH | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	return rc < 0 ? rc : ops_entry(s, TAKE_FD(fd), &st, ret);
}

static void tree_read_entries(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi, bool plus)
{
	struct session *s = ops_session(req);
	struct inode *dir = ops_inode(s, ino);
	struct dir_handle *h = (struct dir_handle *)(uintptr_t)fi->fh;
	CLEANUP_FREE char *buf = malloc(size);
	struct dir_entry de;
	size_t used = 0;
	int rc = buf ? ops_gate(s) : -ENOMEM;

	pthread_mutex_lock(&h->lock);
	if (rc == 0 && h->at != (uint64_t)off) {
		dir_stream_seek(h->stream, (uint64_t)off);
		h->at = (uint64_t)off;
	}
	while (rc == 0) {
		rc = dir_stream_next(h->stream, &de);
		if (rc <= 0)
			break;
		if (dir == s->inodes.root && strcmp(de.name, "..") == 0)
			de.ino = dir->ino;
		struct fuse_entry_param e = {.attr = {.st_ino = de.ino, .st_mode = (mode_t)de.type << 12}};
		rc = plus ? readdir_plus_entry(s, dir, &de, &e) : 0;
		if (rc == -ENOENT) { /* gone since */
			rc = 0;
			h->at = de.next;
			continue;
		}
		if (rc < 0)
			break;
		size_t n = plus ? fuse_add_direntry_plus(req, buf + used, size - used, de.name, &e, (off_t)de.next)
				: fuse_add_direntry(req, buf + used, size - used, de.name, &e.attr, (off_t)de.next);
		if (n > size - used) {
			if (e.ino)
				inode_put(&s->inodes, (struct inode *)(uintptr_t)e.ino, 1);
			dir_stream_seek(h->stream, h->at);
			break;
		}
		used += n;
		h->at = de.next;
	}
	pthread_mutex_unlock(&h->lock);
	/* What is there goes out first; an error comes again at the next call. */
	if (rc < 0 && used == 0)
		ops_reply_error(req, rc);
	else
		fuse_reply_buf(req, buf, used);
}

static void tree_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	tree_read_entries(req, ino, size, off, fi, false);
}

static void tree_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	tree_read_entries(req, ino, size, off, fi, true);
}

static void tree_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	CLEANUP_CLOSE int fd = io_reopen(ops_inode(s, ino)->fd, O_RDONLY | O_DIRECTORY);

	(void)datasync;
	(void)fi;
	ops_reply_error(req, fd < 0 ? fd : volume_synced(s->v, io_fsync(fd)));
}

/* ---- extended attributes ---- */

/* An access ACL set by who is not in the owning group clears sgid, as chmod(2) does. */
static int acl_clear_sgid(fuse_req_t req, const struct inode *i)
{
	struct stat st;
	int rc = io_fstatat(i->fd, "", &st, AT_EMPTY_PATH);

	return rc < 0 || !(st.st_mode & S_ISGID) || caller_in_group(req, st.st_gid) ? rc : io_chmod(i->fd, st.st_mode & 05777);
}

static void tree_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
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

static void tree_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
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

static void tree_reply_xattr(fuse_req_t req, size_t size, const char *buf, ssize_t n)
{
	if (n < 0)
		ops_reply_error(req, (int)n);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void tree_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
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
	tree_reply_xattr(req, size, buf, n);
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

static void tree_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
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
	tree_reply_xattr(req, size, buf, n);
}

void ops_tree(struct fuse_lowlevel_ops *ops)
{
	ops->init = tree_init;
	ops->lookup = tree_lookup;
	ops->forget = tree_forget;
	ops->forget_multi = tree_forget_multi;
	ops->getattr = tree_getattr;
	ops->setattr = tree_setattr;
	ops->statfs = tree_statfs;
	ops->readlink = tree_readlink;
	ops->mknod = tree_mknod;
	ops->mkdir = tree_mkdir;
	ops->symlink = tree_symlink;
	ops->link = tree_link;
	ops->unlink = tree_unlink;
	ops->rmdir = tree_rmdir;
	ops->rename = tree_rename;
	ops->opendir = tree_opendir;
	ops->releasedir = tree_releasedir;
	ops->readdir = tree_readdir;
	ops->readdirplus = tree_readdirplus;
	ops->fsyncdir = tree_fsyncdir;
	ops->setxattr = tree_setxattr;
	ops->getxattr = tree_getxattr;
	ops->listxattr = tree_listxattr;
	ops->removexattr = tree_removexattr;
}
