/* witness: the thread that notes in the audit log what nobody asked for: blocks that a worker accepted as they stood after an unclean
 * end, and data that it refused. Every worker is asked now and then, and when it ends: one entry for each recovery, one for the first
 * refusal of each mount. What was noted is remembered in the registry, by epoch. */
#pragma once
#include "control/supervisor.h"

struct witness {
	struct supervisor *supervisor;
	pthread_mutex_t *lock; /* the keeper's big lock, for stopping too */
	pthread_cond_t wake;
	bool stopping;
};
void witness_init(struct witness *w, struct supervisor *s, pthread_mutex_t *lock);
/* The thread's function; ends when stopping is set and wake signalled. */
void *witness_run(void *witness);
/* What a worker says of itself. Big lock held. */
void witness_note(struct tenant *t, const char *name, const struct link_status *st);
