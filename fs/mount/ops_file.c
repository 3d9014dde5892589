/* ops_file: the bytes of regular files. Nothing is held across a reply.
 *
 * The kernel is told that open is not needed (ENOSYS, once), nor a create that opens (ENOSYS, once), and then sends neither OPEN nor
 * RELEASE: both cost more than all that a small file takes otherwise. There is no state of an open file here: the kernel checks permissions, O_DIRECT comes with each
 * request, and a content is opened when it is first needed (inode.h). So a damaged file can be opened, and not read.
 *
 * The kernel's write-back cache does the caching, and with it O_APPEND: writes arrive at their offset. O_DIRECT is the
 * kernel's too: such requests pass its page cache by and stay coherent with it and with mappings. */
#include "mount/session.h"

#include "base/io.h"
#include "store/extent.h"

#include <fcntl.h>
#include <string.h>

/* A thread's read buffer, kept: a request reads up to 1 MiB. */
static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

struct buffer {
	size_t size;
	char b[];
};

static void buffer_make_key(void)
{
	pthread_key_create(&buffer_key, free);
}

static char *buffer_get(size_t size)
{
	pthread_once(&buffer_once, buffer_make_key);
	struct buffer *b = pthread_getspecific(buffer_key);

	if (!b || b->size < size) {
		free(b);
		b = malloc(sizeof(*b) + size);
		pthread_setspecific(buffer_key, b);
		if (!b)
			return NULL;
		b->size = size;
	}
	return b->b;
}

/* A request is served well within this time, so pages that it found stale were read since. */
#define CACHED_LATELY_NS (UINT64_C(60) * 1000000000)

/* What an O_DIRECT open reads does not stay in the kernel; unless it is mapped, which then counts as cached from elsewhere only. */
static void file_note_cached(struct inode *i, const struct fuse_file_info *fi)
{
	if (!(fi->flags & O_DIRECT))
		atomic_store_explicit(&i->cached_ns, clock_monotonic_ns(), memory_order_relaxed);
}

static bool file_cached_lately(struct inode *i)
{
	uint64_t then = atomic_load_explicit(&i->cached_ns, memory_order_relaxed);

	return then && clock_monotonic_ns() - then < CACHED_LATELY_NS;
}

/* After a change to the bytes of i: mtime, and how many blocks there are. */
static void file_changed(struct session *s, fuse_ino_t ino, struct inode *i)
{
	inode_touch(i);
	if (atomic_load_explicit(&i->told_long, memory_order_relaxed) && atomic_exchange(&i->told_long, false))
		(void)fuse_lowlevel_notify_inval_inode(s->se, ino, -1, 0); /* attributes only: waits for nothing */
}

static void file_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	fuse_reply_err(req, ENOSYS);
}

/* Makes the file, and opens its content with the descriptor that there is. */
static int file_make(struct session *s, struct inode *dir, const char *name, const struct dir_owner *owner, struct fuse_entry_param *ret)
{
	struct dir_id id;
	struct content *c;
	struct stat st;
	int rc = inode_dir_id(&s->inodes, dir, &id);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = name ? dir_create(s->v, dir->fd, &id, name, owner) : dir_tmpfile(s->v, dir->fd, owner);
	CLEANUP_CLOSE int content_fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	if (rc == 0)
		rc = ops_entry(s, TAKE_FD(fd), &st, ret);
	if (rc < 0)
		return rc;
	struct inode *i = ops_inode(s, ret->ino);
	inode_made(i, dir);
	rc = inode_open_with(&s->inodes, i, TAKE_FD(content_fd), &c);
	if (rc < 0) {
		inode_put(&s->inodes, i, 1);
		return rc;
	}
	inode_release(i);
	/* It is about to be written. */
	ret->attr_timeout = BUSY_TIMEOUT;
	atomic_store(&i->told_long, false);
	return 0;
}

int ops_make_file(fuse_req_t req, struct inode *dir, const char *name, mode_t mode, struct fuse_entry_param *ret)
{
	struct session *s = ops_session(req);
	struct dir_owner owner;
	int rc = ops_gate(s);

	if (rc == 0)
		rc = ops_owner(s, req, dir, S_IFREG | mode, &owner);
	return rc < 0 ? rc : file_make(s, dir, name, &owner, ret);
}

/* Only of one without a name. The others are made by MKNOD, once the kernel is told that there is no CREATE: what that opens has a
 * RELEASE. */
static void file_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct fuse_entry_param e;
	int rc = device_tmpfile() ? ops_make_file(req, ops_inode(s, parent), NULL, mode, &e) : -ENOSYS;

	(void)name;
	if (rc < 0) {
		ops_reply_error(req, rc);
		return;
	}
	fi->keep_cache = 1;
	/* Less than 0: the caller was interrupted, and no forget will come. */
	if (fuse_reply_create(req, &e, fi) < 0)
		inode_put(&s->inodes, ops_inode(s, e.ino), 1);
}

static void file_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	char *buf = ring_reply_memory(size);
	struct content *c;

	if (!buf)
		buf = buffer_get(size);
	ssize_t n = buf ? ops_gate(s) : -ENOMEM;
	file_note_cached(i, fi);
	if (n == 0)
		n = inode_open(&s->inodes, i, &c);
	if (n == 0) {
		n = content_read(c, buf, size, (uint64_t)off);
		inode_release(i);
	}
	if (n >= 0)
		n = ops_gate(s) < 0 ? -EIO : n;
	if (n < 0)
		ops_reply_error(req, (int)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void file_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	struct content *c;
	int rc = inode_open(&s->inodes, i, &c);

	if (rc == 0) {
		rc = content_write(c, buf, size, (uint64_t)off);
		file_changed(s, ino, i);
		inode_release(i);
	}
	if (rc < 0) {
		ops_reply_error(req, rc);
		return;
	}
	if (device_kill_privileges())
		ops_kill_privileges(req, i);
	if ((fi->flags & O_DIRECT) && file_cached_lately(i))
		deferred_written(s, req, ino, (uint64_t)off, size);
	else
		fuse_reply_write(req, size);
}

static void file_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	struct content *c;
	int rc = inode_open(&s->inodes, i, &c);

	(void)fi;
	if (rc == 0) {
		rc = inode_sync(&s->inodes, i, c, datasync);
		inode_release(i);
	}
	ops_reply_error(req, rc);
}

static void file_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	struct session *s = ops_session(req);
	struct inode *i = ops_inode(s, ino);
	struct content *c;
	int rc = inode_open(&s->inodes, i, &c);

	(void)fi;
	/* The kernel cleared suid and sgid with a SETATTR where the caller may not keep them. */
	if (rc == 0) {
		rc = content_allocate(c, mode, (uint64_t)off, (uint64_t)len);
		file_changed(s, ino, i);
		inode_release(i);
	}
	ops_reply_error(req, rc);
}

static void file_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	(void)fi;
	deferred_seek(ops_session(req), req, ino, (uint64_t)off, whence);
}

void ops_file(struct fuse_lowlevel_ops *ops)
{
	ops->open = file_open;
	ops->create = file_create;
	ops->read = file_read;
	ops->write = file_write;
	ops->fsync = file_fsync;
	ops->fallocate = file_fallocate;
	ops->lseek = file_lseek;
}
