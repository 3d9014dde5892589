/* hook: the lock.on_lock command. */
#pragma once
#include "base/util.h"

struct hook {
	const char *command; /* for /bin/sh -c; empty: there is none */
	const char *user;    /* whose uid, gid and groups it runs with */
	uint64_t timeout_ns; /* then it is killed, with all of its process group */
};
/* Runs it and waits. environment, mountpoint: TDEFS_ENVIRONMENT and TDEFS_MOUNTPOINT of its environment, which has PATH besides and
 * nothing else; its output goes where our standard error goes. ret_text (160 bytes): what went wrong, empty when it ended with 0.
 * Hold no lock. */
void hook_run(const struct hook *hook, const char *environment, const char *mountpoint, char *ret_text);
