/* ops_tree: names, links, directories, and the session's start. */
#include "mount/session.h"

#include "base/io.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

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

static void tree_reply(fuse_req_t req, int rc, const struct fuse_entry_param *e)
{
	if (rc < 0)
		ops_reply_error(req, rc);
	/* Less than 0: the caller was interrupted, and no forget will come. */
	else if (fuse_reply_entry(req, e) < 0 && e->ino)
		inode_put(&ops_session(req)->inodes, (struct inode *)(uintptr_t)e->ino, 1);
}

static void tree_reply_entry(fuse_req_t req, struct session *s, struct inode *dir, const char *name, int rc)
{
	struct fuse_entry_param e;

	if (rc == 0)
		rc = tree_entry(s, dir, name, &e);
	tree_reply(req, rc, &e);
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
		rc = 0;
	}
	tree_reply(req, rc, &e);
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
	struct fuse_entry_param e;
	struct dir_owner owner;
	struct dir_id id;

	if (S_ISREG(mode)) {
		tree_reply(req, ops_make_file(req, dir, name, mode, &e), &e);
		return;
	}
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

void ops_tree(struct fuse_lowlevel_ops *ops)
{
	ops->init = tree_init;
	ops->lookup = tree_lookup;
	ops->forget = tree_forget;
	ops->forget_multi = tree_forget_multi;
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
}
