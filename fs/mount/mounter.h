/* mounter: the process that mounts and unmounts for a worker.
 *
 * Landlock forbids a process every change of mounts. So the worker forks a child, before its sandbox, its threads and its keys,
 * that does those few things and nothing else. What may hang runs in a child of its own, so that it keeps nothing else waiting.
 * The mounter ends with the worker; what a worker that died left mounted is the keeper's to detach. */
#pragma once
#include "base/util.h"

#include <stdatomic.h>

enum mounter_order {
	MOUNTER_MOUNT = 1,
	MOUNTER_TUNE,       /* tells the kernel how to read ahead, and how much to let be dirty; best effort */
	MOUNTER_UNMOUNT,    /* -EBUSY while somebody uses it */
	MOUNTER_ABORT,      /* detaches, and every descriptor and mapping gets an error from then on */
	MOUNTER_LEAVE,      /* takes the worker's socket away */
};

struct mounter_place {
	const char *name, *mountpoint, *socket;
	bool read_only;
};
/* Two ends to one mounter, so that two threads can ask at a time; each is used by one thread. */
struct mounter {
	int orders, end;
};
/* device: /dev/fuse, which it mounts; the caller keeps its own. */
int mounter_start(const struct mounter_place *place, int device, struct mounter *ret) MUST_CHECK;
/* The call's result; -ETIMEDOUT after timeout_ms, -ECANCELED once *cancel (may be NULL) is set, -EPIPE when it is gone. */
int mounter_ask(int fd, enum mounter_order order, int timeout_ms, const atomic_bool *cancel) MUST_CHECK;
