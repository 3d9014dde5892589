/* slow: preloaded into a worker, it holds each utimensat and each fdatasync up for as many microseconds as the file TDEFS_TEST_SLOW
 * holds (two uint32), also while it runs. A rotation of the key makes one of the former a file, one of the data some of the latter a
 * step: so it lasts until something has met it. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLICE_US 1000u

static const volatile struct {
	uint32_t utimensat_us, fdatasync_us;
} *wanted;

/* Before the sandbox. */
__attribute__((constructor)) static void slow_init(void)
{
	const char *path = getenv("TDEFS_TEST_SLOW");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*wanted), PROT_READ, MAP_SHARED, fd, 0);

	if (p != MAP_FAILED)
		wanted = p;
	if (fd >= 0)
		close(fd);
}

static void slow_wait(const volatile uint32_t *us)
{
	for (uint32_t waited = 0; waited < *us; waited += SLICE_US)
		nanosleep(&(struct timespec){0, SLICE_US * 1000}, NULL);
}

int utimensat(int dirfd, const char *path, const struct timespec ts[2], int flags)
{
	if (wanted)
		slow_wait(&wanted->utimensat_us);
	return (int)syscall(SYS_utimensat, dirfd, path, ts, flags);
}

int fdatasync(int fd)
{
	if (wanted)
		slow_wait(&wanted->fdatasync_us);
	return (int)syscall(SYS_fdatasync, fd);
}
