/* io: the one door for system calls on lower files, so that tests can fail any of them or cut the power between two.
 *
 * Every function is its namesake of section 2, with three differences: it returns -errno, it retries EINTR, and the
 * hook (tests only) sees it. Directory file descriptors stay the caller's; a returned descriptor is the caller's too
 * and is always O_CLOEXEC, and O_NOATIME where we may: what we read is not what users read. */
#pragma once
#include "base/util.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>

enum io_op {
	IO_OPEN, IO_READ, IO_WRITE, IO_FSYNC, IO_FDATASYNC, IO_SYNCFS, IO_TRUNCATE, IO_FALLOCATE, IO_RENAME, IO_LINK,
	IO_UNLINK, IO_MKDIR, IO_SYMLINK, IO_READLINK, IO_MKNOD, IO_STAT, IO_CHOWN, IO_CHMOD, IO_UTIMENS, IO_SEEK,
	IO_GETXATTR, IO_SETXATTR, IO_LISTXATTR, IO_REMOVEXATTR, IO_STATFS, IO_LOCK, IO_READDIR, IO_OP_COUNT,
};

/* One call as the hook sees it; what a call has no use for is zero. */
struct io_event {
	enum io_op op;
	int fd, fd2;              /* the file, or the directory that path is relative to */
	const char *path, *path2; /* names under fd and fd2; the xattr's name */
	const struct iovec *iov;  /* IO_WRITE, IO_SETXATTR: the data */
	int iov_count;
	uint64_t off, len; /* IO_WRITE, IO_READ, IO_FALLOCATE; IO_TRUNCATE: len is the new length */
	unsigned flags;    /* open, rename, unlink, fallocate, xattr flags; IO_WRITE: RWF_DSYNC of a durable one */
	mode_t mode;
};

/* before: 0 lets the call through, -errno fails it instead (-EINTR: as a signal would, so it is asked again); it may lower
 * ev->len of a write to make it short.
 * after: told the result. Both may be NULL. Set while no other thread does I/O; NULL removes. */
struct io_hook {
	int (*before)(void *ctx, struct io_event *ev);
	void (*after)(void *ctx, const struct io_event *ev, int64_t result);
	void *ctx;
};
void io_set_hook(const struct io_hook *hook);

/* Calls fn for every piece of memory that a write under way reads from, of whichever thread. */
#define IO_FLIGHTS 320
#define IO_IOV_MAX 64
void io_flights(void (*fn)(void *ctx, const void *p, size_t len), void *ctx);

int io_openat(int dirfd, const char *path, int flags, mode_t mode) MUST_CHECK;
/* The whole range or an error: short reads at the end of the file are zero-filled and counted in ret_len (may be
 * NULL); a short write goes on where it stopped and ends with the error that explains it, and ret_len says what was
 * written before it. iov is not changed. */
int io_preadv_full(int fd, const struct iovec *iov, int n, uint64_t off, uint64_t *ret_len) MUST_CHECK;
int io_pwritev_full(int fd, const struct iovec *iov, int n, uint64_t off, uint64_t *ret_len) MUST_CHECK;
int io_pread_full(int fd, void *buf, size_t len, uint64_t off, uint64_t *ret_len) MUST_CHECK;
int io_pwrite_full(int fd, const void *buf, size_t len, uint64_t off) MUST_CHECK;
/* As with O_DSYNC: when it returns, these bytes are on the disk. Waits for no others of the file, which fdatasync does. */
int io_pwrite_durable(int fd, const void *buf, size_t len, uint64_t off) MUST_CHECK;
/* Begins to read what will be wanted soon; promises nothing. */
void io_read_ahead(int fd, size_t len, uint64_t off);
int io_fsync(int fd) MUST_CHECK;
int io_fdatasync(int fd) MUST_CHECK;
int io_syncfs(int fd) MUST_CHECK;
int io_ftruncate(int fd, uint64_t len) MUST_CHECK;
int io_fallocate(int fd, int mode, uint64_t off, uint64_t len) MUST_CHECK;
int io_renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags) MUST_CHECK;
int io_linkat(int fd, const char *from, int fd2, const char *to, int flags) MUST_CHECK;
int io_unlinkat(int dirfd, const char *path, int flags) MUST_CHECK;
int io_mkdirat(int dirfd, const char *path, mode_t mode) MUST_CHECK;
int io_symlinkat(const char *target, int dirfd, const char *path) MUST_CHECK;
ssize_t io_readlinkat(int dirfd, const char *path, char *ret, size_t size) MUST_CHECK;
int io_mknodat(int dirfd, const char *path, mode_t mode, dev_t dev) MUST_CHECK;
int io_fstatat(int dirfd, const char *path, struct stat *ret, int flags) MUST_CHECK;
/* When what fd names was made; zeros where the file system does not tell. */
void io_birth(int fd, struct timespec *ret);
int io_fchownat(int dirfd, const char *path, uid_t uid, gid_t gid, int flags) MUST_CHECK;
/* On O_PATH descriptors too (through /proc/self/fd); not on symbolic links. */
int io_chmod(int fd, mode_t mode) MUST_CHECK;
int io_utimensat(int dirfd, const char *path, const struct timespec ts[2], int flags) MUST_CHECK;
int64_t io_lseek(int fd, uint64_t off, int whence) MUST_CHECK;
/* The directory behind dirfd (O_PATH will do), opened again for reading from its start; closedir(3) ends it. */
int io_opendir(int dirfd, DIR **ret) MUST_CHECK;
/* 1 with an entry, which lives until the next call; 0 at the end; -errno. */
int io_readdir(DIR *dp, const struct dirent **ret) MUST_CHECK;
int io_fstatfs(int fd, struct statfs *ret) MUST_CHECK;

/* Extended attributes of whatever fd names, O_PATH and symbolic links included (dirfd/name form: link itself). */
ssize_t io_getxattr(int fd, const char *name, void *ret, size_t size) MUST_CHECK;
int io_setxattr(int fd, const char *name, const void *value, size_t len, int flags) MUST_CHECK;
ssize_t io_listxattr(int fd, char *ret, size_t size) MUST_CHECK;
int io_removexattr(int fd, const char *name) MUST_CHECK;

/* A non-blocking exclusive lock on the whole file (OFD, fcntl(2)); -EAGAIN when another holds it. */
int io_lock(int fd) MUST_CHECK;
/* Opens the object behind an O_PATH descriptor again, with flags. */
int io_reopen(int fd, int flags) MUST_CHECK;
