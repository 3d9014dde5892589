/* worker: the life of one worker process, from its socket to its end. */
#pragma once
#include "mount/session.h"

struct worker_arguments {
	const char *name, *store, *mountpoint, *socket;
	struct mount_options mount;
};
/* Serves until unmounted, locked or told to end; returns the process's exit status. */
int worker_run(const struct worker_arguments *arguments);
