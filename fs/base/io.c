/* io: see io.h. */
#include "base/io.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#ifndef O_TMPFILE
#error "O_TMPFILE is needed"
#endif

static const struct io_hook *hook;

void io_set_hook(const struct io_hook *h)
{
	hook = h;
}

static int io_before(struct io_event *ev)
{
	return hook && hook->before ? hook->before(hook->ctx, ev) : 0;
}

static void io_after(const struct io_event *ev, int64_t result)
{
	if (hook && hook->after)
		hook->after(hook->ctx, ev, result);
}

/* Runs one system call expression between the hook's two looks at it; a value of -errno or the call's result. */
#define IO_CALL(call, ...)                                                                                   \
	__extension__({                                                                                      \
		struct io_event ev = {__VA_ARGS__};                                                          \
		int64_t rc_;                                                                                 \
		do {                                                                                         \
			rc_ = io_before(&ev);                                                                \
			if (rc_ == 0 && (rc_ = (call)) < 0)                                                  \
				rc_ = -errno;                                                                \
		} while (rc_ == -EINTR);                                                                     \
		io_after(&ev, rc_);                                                                          \
		rc_;                                                                                         \
	})

/* EPERM: neither owner nor CAP_FOWNER. */
static int open_quietly(int dirfd, const char *path, int flags, mode_t mode)
{
	int fd = openat(dirfd, path, flags | O_NOATIME, mode);

	return fd < 0 && errno == EPERM ? openat(dirfd, path, flags, mode) : fd;
}

int io_openat(int dirfd, const char *path, int flags, mode_t mode)
{
	return (int)IO_CALL(open_quietly(dirfd, path, flags | O_CLOEXEC, mode), .op = IO_OPEN, .fd = dirfd, .path = path,
		.flags = (unsigned)flags, .mode = mode);
}

static uint64_t iov_len(const struct iovec *iov, int n)
{
	uint64_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

/* The part of iov after skip bytes and within len bytes, at most IO_IOV_MAX pieces; returns their number. */
static int iov_window(const struct iovec *iov, int n, uint64_t skip, uint64_t len, struct iovec *ret)
{
	int k = 0;

	for (int i = 0; i < n && k < IO_IOV_MAX && len > 0; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		size_t take = MIN(iov[i].iov_len - skip, len);

		ret[k++] = (struct iovec){(char *)iov[i].iov_base + skip, take};
		skip = 0;
		len -= take;
	}
	return k;
}

int io_preadv_full(int fd, const struct iovec *iov, int n, uint64_t off, uint64_t *ret_len)
{
	struct iovec part[IO_IOV_MAX];
	uint64_t len = iov_len(iov, n), done = 0;

	while (done < len) {
		int k = iov_window(iov, n, done, len - done, part);
		int64_t rc = IO_CALL(preadv(fd, part, k, (off_t)(off + done)), .op = IO_READ, .fd = fd, .iov = part,
			.iov_count = k, .off = off + done, .len = len - done);

		if (rc < 0)
			return (int)rc;
		if (rc == 0)
			break;
		done += (uint64_t)rc;
	}
	if (ret_len)
		*ret_len = done;
	while (done < len) {
		int k = iov_window(iov, n, done, len - done, part);

		for (int i = 0; i < k; i++) {
			memset(part[i].iov_base, 0, part[i].iov_len);
			done += part[i].iov_len;
		}
	}
	return 0;
}

/* ---- writes under way ---- */

/* A thread takes a free place, beginning where its own number points. Without one it writes all the same: there are more
 * places than a worker has threads. */
static struct flight {
	_Atomic(const struct iovec *) iov;
	int count;
} flights[IO_FLIGHTS];

static struct flight *flight_begin(const struct iovec *iov, int count)
{
	size_t start = (size_t)((uintptr_t)&errno >> 12) % IO_FLIGHTS;

	for (size_t k = 0; k < IO_FLIGHTS; k++) {
		struct flight *f = &flights[(start + k) % IO_FLIGHTS];
		const struct iovec *none = NULL;

		if (atomic_compare_exchange_strong(&f->iov, &none, iov)) {
			f->count = count;
			return f;
		}
	}
	return NULL;
}

void io_flights(void (*fn)(void *ctx, const void *p, size_t len), void *ctx)
{
	for (size_t k = 0; k < IO_FLIGHTS; k++) {
		const struct iovec *iov = atomic_load(&flights[k].iov);

		for (int i = 0; iov && i < flights[k].count; i++)
			fn(ctx, iov[i].iov_base, iov[i].iov_len);
	}
}

static int io_pwritev_flags(int fd, const struct iovec *iov, int n, uint64_t off, int flags, uint64_t *ret_len)
{
	struct iovec part[IO_IOV_MAX];
	uint64_t len = iov_len(iov, n), done = 0;

	if (ret_len)
		*ret_len = 0;
	while (done < len) {
		int k = iov_window(iov, n, done, len - done, part);
		struct io_event ev = {.op = IO_WRITE, .fd = fd, .iov = part, .iov_count = k, .off = off + done,
			.len = iov_len(part, k), .flags = (unsigned)flags};
		uint64_t want = ev.len;
		int64_t rc;

		do {
			rc = io_before(&ev);
			if (rc == 0 && ev.len < want)
				k = iov_window(iov, n, done, ev.len, part);
			if (rc == 0) {
				struct flight *flight = flight_begin(part, k);

				rc = pwritev2(fd, part, k, (off_t)(off + done), flags);
				if (rc < 0)
					rc = -errno;
				if (flight)
					atomic_store(&flight->iov, NULL);
			}
		} while (rc == -EINTR);
		ev.iov_count = k;
		io_after(&ev, rc);
		if (rc < 0)
			return (int)rc;
		if (rc == 0)
			return -EIO;
		done += (uint64_t)rc;
		if (ret_len)
			*ret_len = done;
	}
	return 0;
}

int io_pwritev_full(int fd, const struct iovec *iov, int n, uint64_t off, uint64_t *ret_len)
{
	return io_pwritev_flags(fd, iov, n, off, 0, ret_len);
}

int io_pread_full(int fd, void *buf, size_t len, uint64_t off, uint64_t *ret_len)
{
	return io_preadv_full(fd, &(struct iovec){buf, len}, 1, off, ret_len);
}

int io_pwrite_full(int fd, const void *buf, size_t len, uint64_t off)
{
	return io_pwritev_full(fd, &(struct iovec){(void *)(uintptr_t)buf, len}, 1, off, NULL);
}

int io_pwrite_durable(int fd, const void *buf, size_t len, uint64_t off)
{
	return io_pwritev_flags(fd, &(struct iovec){(void *)(uintptr_t)buf, len}, 1, off, RWF_DSYNC, NULL);
}

void io_read_ahead(int fd, size_t len, uint64_t off)
{
	(void)!posix_fadvise(fd, (off_t)off, (off_t)len, POSIX_FADV_WILLNEED);
}

int io_fsync(int fd)
{
	return (int)IO_CALL(fsync(fd), .op = IO_FSYNC, .fd = fd);
}

int io_fdatasync(int fd)
{
	return (int)IO_CALL(fdatasync(fd), .op = IO_FDATASYNC, .fd = fd);
}

int io_syncfs(int fd)
{
	return (int)IO_CALL(syncfs(fd), .op = IO_SYNCFS, .fd = fd);
}

int io_ftruncate(int fd, uint64_t len)
{
	return (int)IO_CALL(ftruncate(fd, (off_t)len), .op = IO_TRUNCATE, .fd = fd, .len = len);
}

int io_fallocate(int fd, int mode, uint64_t off, uint64_t len)
{
	return (int)IO_CALL(fallocate(fd, mode, (off_t)off, (off_t)len), .op = IO_FALLOCATE, .fd = fd,
		.flags = (unsigned)mode, .off = off, .len = len);
}

int io_renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags)
{
	return (int)IO_CALL(renameat2(fd, from, fd2, to, flags), .op = IO_RENAME, .fd = fd, .fd2 = fd2, .path = from,
		.path2 = to, .flags = flags);
}

int io_linkat(int fd, const char *from, int fd2, const char *to, int flags)
{
	char proc[40];
	int at = fd;

	/* AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH; the /proc name needs nothing. */
	if (flags & AT_EMPTY_PATH) {
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
		from = proc;
		at = AT_FDCWD;
		flags = AT_SYMLINK_FOLLOW;
	}
	return (int)IO_CALL(linkat(at, from, fd2, to, flags), .op = IO_LINK, .fd = fd, .fd2 = fd2, .path = from,
		.path2 = to, .flags = (unsigned)flags);
}

int io_unlinkat(int dirfd, const char *path, int flags)
{
	return (int)IO_CALL(unlinkat(dirfd, path, flags), .op = IO_UNLINK, .fd = dirfd, .path = path,
		.flags = (unsigned)flags);
}

int io_mkdirat(int dirfd, const char *path, mode_t mode)
{
	return (int)IO_CALL(mkdirat(dirfd, path, mode), .op = IO_MKDIR, .fd = dirfd, .path = path, .mode = mode);
}

int io_symlinkat(const char *target, int dirfd, const char *path)
{
	return (int)IO_CALL(symlinkat(target, dirfd, path), .op = IO_SYMLINK, .fd = dirfd, .path = path,
		.path2 = target);
}

ssize_t io_readlinkat(int dirfd, const char *path, char *ret, size_t size)
{
	return IO_CALL(readlinkat(dirfd, path, ret, size), .op = IO_READLINK, .fd = dirfd, .path = path);
}

int io_mknodat(int dirfd, const char *path, mode_t mode, dev_t dev)
{
	return (int)IO_CALL(mknodat(dirfd, path, mode, dev), .op = IO_MKNOD, .fd = dirfd, .path = path, .mode = mode);
}

int io_fstatat(int dirfd, const char *path, struct stat *ret, int flags)
{
	return (int)IO_CALL(fstatat(dirfd, path, ret, flags), .op = IO_STAT, .fd = dirfd, .path = path);
}

void io_birth(int fd, struct timespec *ret)
{
	struct statx st;

	*ret = (struct timespec){0};
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) == 0 && st.stx_mask & STATX_BTIME)
		*ret = (struct timespec){st.stx_btime.tv_sec, st.stx_btime.tv_nsec};
}

int io_fchownat(int dirfd, const char *path, uid_t uid, gid_t gid, int flags)
{
	return (int)IO_CALL(fchownat(dirfd, path, uid, gid, flags), .op = IO_CHOWN, .fd = dirfd, .path = path);
}

/* The name under which the kernel reaches the very object behind fd, whatever fd was opened for. */
static const char *io_proc_path(int fd, char buf[static 40])
{
	snprintf(buf, 40, "/proc/self/fd/%d", fd);
	return buf;
}

int io_chmod(int fd, mode_t mode)
{
	char proc[40];

	return (int)IO_CALL(chmod(io_proc_path(fd, proc), mode), .op = IO_CHMOD, .fd = fd, .mode = mode);
}

int io_utimensat(int dirfd, const char *path, const struct timespec ts[2], int flags)
{
	char proc[40];

	if (flags & AT_EMPTY_PATH) {
		struct stat st;

		/* The kernel takes AT_EMPTY_PATH here from 5.8 on, on links as well. */
		int64_t rc = IO_CALL(utimensat(dirfd, "", ts, AT_EMPTY_PATH), .op = IO_UTIMENS, .fd = dirfd);
		if (rc != -EINVAL || fstatat(dirfd, "", &st, AT_EMPTY_PATH) < 0 || S_ISLNK(st.st_mode))
			return (int)rc;
		return (int)IO_CALL(utimensat(AT_FDCWD, io_proc_path(dirfd, proc), ts, 0), .op = IO_UTIMENS,
			.fd = dirfd);
	}
	return (int)IO_CALL(utimensat(dirfd, path, ts, flags), .op = IO_UTIMENS, .fd = dirfd, .path = path);
}

int64_t io_lseek(int fd, uint64_t off, int whence)
{
	return IO_CALL(lseek(fd, (off_t)off, whence), .op = IO_SEEK, .fd = fd, .off = off);
}

int io_fstatfs(int fd, struct statfs *ret)
{
	return (int)IO_CALL(fstatfs(fd, ret), .op = IO_STATFS, .fd = fd);
}

/* /proc/self/fd/N follows its magic link to the object itself, and an lxattr call on a link behind an O_PATH
 * descriptor reaches that link: the magic link is followed, what lies behind it is not. */
ssize_t io_getxattr(int fd, const char *name, void *ret, size_t size)
{
	char proc[40];

	return IO_CALL(getxattr(io_proc_path(fd, proc), name, ret, size), .op = IO_GETXATTR, .fd = fd, .path = name);
}

int io_setxattr(int fd, const char *name, const void *value, size_t len, int flags)
{
	char proc[40];
	struct iovec iov = {(void *)(uintptr_t)value, len};

	return (int)IO_CALL(setxattr(io_proc_path(fd, proc), name, value, len, flags), .op = IO_SETXATTR, .fd = fd,
		.path = name, .iov = &iov, .iov_count = 1, .len = len, .flags = (unsigned)flags);
}

ssize_t io_listxattr(int fd, char *ret, size_t size)
{
	char proc[40];

	return IO_CALL(listxattr(io_proc_path(fd, proc), ret, size), .op = IO_LISTXATTR, .fd = fd);
}

int io_removexattr(int fd, const char *name)
{
	char proc[40];

	return (int)IO_CALL(removexattr(io_proc_path(fd, proc), name), .op = IO_REMOVEXATTR, .fd = fd, .path = name);
}

int io_lock(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return (int)IO_CALL(fcntl(fd, F_OFD_SETLK, &lock), .op = IO_LOCK, .fd = fd);
}

int io_opendir(int dirfd, DIR **ret)
{
	CLEANUP_CLOSE int fd = io_openat(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);

	if (fd < 0)
		return fd;
	*ret = fdopendir(fd);
	if (!*ret)
		return -errno;
	(void)TAKE_FD(fd);
	return 0;
}

int io_readdir(DIR *dp, const struct dirent **ret)
{
	/* readdir(3) tells the end from an error by errno alone. */
	int64_t rc = IO_CALL((errno = 0, *ret = readdir(dp), *ret || errno == 0 ? 0 : -1), .op = IO_READDIR, .fd = dirfd(dp));

	return rc < 0 ? (int)rc : *ret != NULL;
}

int io_reopen(int fd, int flags)
{
	char proc[40];

	return io_openat(AT_FDCWD, io_proc_path(fd, proc), flags, 0);
}
