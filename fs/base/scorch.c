/* scorch: see scorch.h. From the first zeroed byte on nothing of libc may be used but syscall(2)'s wrapper: locks, thread
 * storage and the stack's canary are gone. */
#include "base/scorch.h"

#include "base/io.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static int maps_fd = -1, tasks_fd = -1;

void scorch_prepare(void)
{
	maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	tasks_fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

#ifdef TDEFS_TRACEABLE

void scorch(int fd, const void *message, size_t len, int status)
{
	if (fd >= 0)
		(void)!send(fd, message, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	_exit(status);
}

#else

/* ---- the other threads ---- */

static atomic_uint parked;

static void park(int sig)
{
	(void)sig;
	atomic_fetch_add(&parked, 1);
	for (;;)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}

/* Signals every thread but this one; no allocation, since a parked thread may hold the heap's lock. Returns their number. */
static unsigned park_signal(void)
{
	_Alignas(struct dirent64) char buf[4096];
	unsigned n = 0;
	ssize_t len;

	if (lseek(tasks_fd, 0, SEEK_SET) < 0)
		return 0;
	while ((len = getdents64(tasks_fd, buf, sizeof(buf))) > 0)
		for (ssize_t at = 0; at < len;) {
			const struct dirent64 *de = (const struct dirent64 *)(buf + at);
			int tid = atoi(de->d_name);

			at += de->d_reclen;
			if (tid > 0 && tid != gettid() && syscall(SYS_tgkill, getpid(), tid, SIGUSR2) == 0)
				n++;
		}
	return n;
}

static void park_others(void)
{
	struct sigaction action = {.sa_handler = park};
	uint64_t end = clock_monotonic_ns() + SCORCH_LIMIT_MS * UINT64_C(1000000);

	sigfillset(&action.sa_mask);
	sigaction(SIGUSR2, &action, NULL);
	unsigned others = park_signal();
	while (atomic_load(&parked) < others && clock_monotonic_ns() < end)
		poll(NULL, 0, 1);
}

/* ---- the memory ---- */

#define RANGES_MAX 4096u
#define PAGES 4096u /* looked at at a time */
#define FRAME 1024u /* what scorch_end's own frame needs */

struct span {
	uintptr_t from, to;
};

/* All that the end needs, in one piece that is left out. */
static struct {
	struct span ranges[RANGES_MAX], kept[IO_FLIGHTS * IO_IOV_MAX + 2];
	size_t range_count, kept_count;
	unsigned char resident[PAGES];
	char text[65536];
	char message[SCORCH_MESSAGE_MAX];
} last;

static uintptr_t hex_take(const char **p)
{
	uintptr_t v = 0;

	for (; (**p >= '0' && **p <= '9') || (**p >= 'a' && **p <= 'f'); ++*p)
		v = v << 4 | (uintptr_t)(**p <= '9' ? **p - '0' : **p - 'a' + 10);
	return v;
}

/* "from-to rw-p ...": private and writable, or not to be counted. */
static void ranges_add(const char *line)
{
	struct span s = {.from = hex_take(&line)};

	line++;
	s.to = hex_take(&line);
	if (strncmp(line, " rw-p", 5) == 0 || strncmp(line, " rwxp", 5) == 0)
		if (last.range_count < RANGES_MAX)
			last.ranges[last.range_count++] = s;
}

static void ranges_read(void)
{
	size_t used = 0;
	ssize_t n;

	if (lseek(maps_fd, 0, SEEK_SET) < 0)
		return;
	while ((n = read(maps_fd, last.text + used, sizeof(last.text) - 1 - used)) > 0) {
		char *line = last.text, *end;

		used += (size_t)n;
		last.text[used] = '\0';
		while ((end = strchr(line, '\n'))) {
			ranges_add(line);
			line = end + 1;
		}
		used -= (size_t)(line - last.text);
		memmove(last.text, line, used);
	}
}

static void kept_add(void *ctx, const void *p, size_t len)
{
	(void)ctx;
	if (last.kept_count < ARRAY_LEN(last.kept))
		last.kept[last.kept_count++] = (struct span){(uintptr_t)p, (uintptr_t)p + len};
}

/* One page of a range; words that lie in what is kept stay. */
__attribute__((always_inline)) static inline void page_zero(uintptr_t page)
{
	bool touched = false;

	for (size_t k = 0; k < last.kept_count; k++)
		touched |= last.kept[k].from < page + 4096 && last.kept[k].to > page;
	for (uintptr_t p = page; p < page + 4096; p += sizeof(uint64_t)) {
		bool keep = false;

		for (size_t k = 0; touched && k < last.kept_count; k++)
			keep |= last.kept[k].from < p + sizeof(uint64_t) && last.kept[k].to > p;
		if (!keep)
			*(volatile uint64_t *)p = 0;
	}
}

/* What calls before this one left below scorch_end's frame. */
__attribute__((noinline)) static void stack_clean(void)
{
	volatile char below[4 * FRAME];

	for (size_t k = 0; k < sizeof(below); k++)
		below[k] = 0;
}

__attribute__((noinline, no_stack_protector)) _Noreturn static void scorch_end(int fd, size_t len, int status)
{
	uintptr_t frame = (uintptr_t)__builtin_frame_address(0);

	kept_add(NULL, (const void *)(frame - FRAME), FRAME + 16);
	kept_add(NULL, &last, sizeof(last));
	for (size_t k = 0; k < last.range_count; k++)
		for (uintptr_t from = last.ranges[k].from; from < last.ranges[k].to; from += PAGES * 4096u) {
			uintptr_t to = MIN(last.ranges[k].to, from + PAGES * 4096u);

			/* What was never touched needs no zeros. */
			bool all = syscall(SYS_mincore, from, to - from, last.resident) != 0;
			for (uintptr_t page = from; page < to; page += 4096)
				if (all || last.resident[(page - from) / 4096] & 1)
					page_zero(page);
		}
	if (fd >= 0)
		syscall(SYS_sendto, fd, last.message, len, MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);
	for (;;)
		syscall(SYS_exit_group, status);
}

void scorch(int fd, const void *message, size_t len, int status)
{
	park_others();
	len = MIN(len, sizeof(last.message));
	if (len)
		memcpy(last.message, message, len);
	ranges_read();
	io_flights(kept_add, NULL);
	stack_clean();
	scorch_end(fd, len, status);
}

#endif
