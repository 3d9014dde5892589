/* mounter: see mounter.h. */
#include "mount/mounter.h"

#include "mount/sandbox.h"
#include "mount/session.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct mounter_message {
	int32_t order, result;
};

/* ---- the mounter ---- */

static int mounter_mount(const struct mounter_place *place, int device)
{
	char data[160], source[160];

	snprintf(source, sizeof(source), "tdefs:%s", place->name);
	snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=%u", device,
		DEVICE_REQUEST_MAX);
	return mount(source, place->mountpoint, "fuse.tdefs", MS_NOATIME | (place->read_only ? MS_RDONLY : 0), data) < 0 ? -errno : 0;
}

/* One setting of the mount's backing device, as /sys/class/bdi has it. */
static void mounter_setting(const struct stat *st, const char *name, unsigned value)
{
	char path[80], text[16];

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/%s", major(st->st_dev), minor(st->st_dev), name);
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	snprintf(text, sizeof(text), "%u", value);
	if (fd >= 0)
		(void)!write(fd, text, strlen(text));
}

static int mounter_tune(const struct mounter_place *place)
{
	struct stat st;

	if (stat(place->mountpoint, &st) < 0)
		return -errno;
	mounter_setting(&st, "read_ahead_kb", DEVICE_REQUEST_MAX >> 10);
	/* The kernel lets an unknown FUSE server hold 1 % of what may be dirty, and stops writers there. This one is root's and
	 * takes no part in that throttling (PR_SET_IO_FLUSHER); half is left to the same bytes on their way to the disk below. */
	mounter_setting(&st, "strict_limit", 0);
	mounter_setting(&st, "max_ratio", 50);
	return 0;
}

static int mounter_do(const struct mounter_place *place, int device, int order)
{
	switch (order) {
	case MOUNTER_MOUNT:
		return mounter_mount(place, device);
	case MOUNTER_TUNE:
		return mounter_tune(place);
	case MOUNTER_UNMOUNT:
		return umount2(place->mountpoint, UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
	case MOUNTER_ABORT:
		/* MNT_FORCE makes the kernel abort the FUSE connection (a lazy unmount alone leaves it alive for whoever has a file
		 * open). It needs no fusectl file system, unlike the abort file there. */
		return umount2(place->mountpoint, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
	case MOUNTER_LEAVE:
		return unlink(place->socket) < 0 ? -errno : 0;
	default:
		return -EPROTO;
	}
}

/* One order from fd. Whether there is somebody left to take orders from. */
static bool mounter_serve(const struct mounter_place *place, int *device, int fd)
{
	struct mounter_message m;

	if (recv(fd, &m, sizeof(m), 0) != sizeof(m))
		return false;
	pid_t child = m.order == MOUNTER_MOUNT ? 0 : fork();
	if (child > 0)
		return true;
	m.result = child < 0 ? -errno : mounter_do(place, *device, m.order);
	(void)!send(fd, &m, sizeof(m), MSG_NOSIGNAL);
	if (m.order != MOUNTER_MOUNT && child == 0)
		_exit(0);
	/* Another open descriptor of the connection would keep it alive when the worker ends. */
	if (m.order == MOUNTER_MOUNT)
		util_closep(device);
	return true;
}

_Noreturn static void mounter_run(const struct mounter_place *place, int device, const int fds[2])
{
	struct pollfd p[] = {{.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLIN}};
	bool more = true;

	prctl(PR_SET_NAME, "tdefs-mounter");
	signal(SIGCHLD, SIG_IGN); /* nobody asks how a child ended */
	sandbox_mounter();
	while (more) {
		if (poll(p, 2, -1) < 0)
			continue;
		for (int k = 0; more && k < 2; k++)
			if (p[k].revents)
				more = mounter_serve(place, &device, p[k].fd);
	}
	_exit(0);
}

/* ---- the worker's side ---- */

int mounter_start(const struct mounter_place *place, int device, struct mounter *ret)
{
	int orders[2], end[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, orders) < 0)
		return -errno;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, end) < 0) {
		int rc = -errno;

		close(orders[0]);
		close(orders[1]);
		return rc;
	}
	pid_t pid = fork();
	if (pid == 0) {
		close(orders[0]);
		close(end[0]);
		mounter_run(place, device, (const int[]){orders[1], end[1]});
	}
	int rc = pid < 0 ? -errno : 0;
	close(orders[1]);
	close(end[1]);
	*ret = (struct mounter){orders[0], end[0]};
	return rc;
}

int mounter_ask(int fd, enum mounter_order order, int timeout_ms, const atomic_bool *cancel)
{
	struct mounter_message m = {.order = (int32_t)order};
	uint64_t end = clock_monotonic_ns() + (uint64_t)timeout_ms * 1000000;

	if (send(fd, &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m))
		return -EPIPE;
	while (!cancel || !atomic_load(cancel)) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 50) > 0) {
			if (recv(fd, &m, sizeof(m), 0) != sizeof(m))
				return -EPIPE;
			/* Not the late answer to what timed out before. */
			if (m.order == (int32_t)order)
				return m.result;
		}
		if (timeout_ms >= 0 && clock_monotonic_ns() >= end)
			return -ETIMEDOUT;
	}
	return -ECANCELED;
}
