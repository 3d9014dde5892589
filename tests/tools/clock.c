/* clock: preloaded into tdefsd, it moves CLOCK_REALTIME by the seconds written in the file TDEFS_TEST_CLOCK, also while it runs, and
 * CLOCK_BOOTTIME by the second number there: what a test needs for the guard times of days, and to set a clock. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *ts)
{
	const char *path = id == CLOCK_REALTIME || id == CLOCK_BOOTTIME ? getenv("TDEFS_TEST_CLOCK") : NULL;
	int rc = (int)syscall(SYS_clock_gettime, id, ts), fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	char text[64] = "", *second;

	if (fd >= 0) {
		if (rc == 0 && read(fd, text, sizeof(text) - 1) > 0) {
			long first = strtol(text, &second, 10);

			ts->tv_sec += id == CLOCK_REALTIME ? first : strtol(second, NULL, 10);
		}
		close(fd);
	}
	return rc;
}

time_t time(time_t *ret)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (ret)
		*ret = ts.tv_sec;
	return ts.tv_sec;
}
