/* supervisor: starts workers, watches them, takes running ones back, starts dead ones again.
 *
 * Workers are no part of tdefsd's life: they go on when it ends. A worker is known by its socket, runtime_dir/NAME.worker.
 * Everything here is called with the keeper's big lock held, but for supervisor_watch, which takes it. Where a worker is waited
 * for the lock is let go; an entry is then taken away only by who has the environment's claim. */
#pragma once
#include "control/config.h"
#include "tenant/environment.h"

#include <pthread.h>

struct supervised {
	struct supervised *next;
	char name[64], mountpoint[1024];
	pid_t pid;         /* 0: none runs */
	int pidfd;
	int64_t started;   /* seconds since 1970 */
	bool locking;      /* somebody gives it the lock order */
	bool left;         /* it hangs in the kernel, killed or wiped, and only has to end */
	int restarts;      /* since the last order from outside */
	uint64_t retry_at_ns; /* monotonic; 0: no retry is due */
	char reason[256];  /* why the last one ended unasked */
};

struct supervisor {
	const struct config *config;
	struct tenant *tenant;
	pthread_mutex_t *lock;
	struct supervised *list;
	int wake;          /* eventfd: the list changed, or stopping did */
	bool stopping;
	char worker[1024]; /* path of tdefs-mount */
};

int supervisor_init(struct supervisor *s, const struct config *config, struct tenant *tenant, pthread_mutex_t *lock) MUST_CHECK;
void supervisor_done(struct supervisor *s);
/* What tdefsd begins with: takes back what runs, mounts what should be mounted, locks what should be locked. */
void supervisor_take_back(struct supervisor *s);
/* The watching thread's function; ends when stopping is set and wake written. */
void *supervisor_watch(void *s);
/* Unmounts everything (mount.unmount_on_stop). */
void supervisor_stop_all(struct supervisor *s);
const struct supervised *supervisor_find(const struct supervisor *s, const char *name);
/* Lets the big lock go meanwhile. m->text says in words where the worker is of a version that cannot do it, -EOPNOTSUPP among others. */
int supervisor_call(struct supervisor *s, const char *name, int timeout_ms, struct link_message *m) MUST_CHECK;
