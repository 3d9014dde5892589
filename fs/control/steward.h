/* steward: the thread that does what takes longer than a request: operations on keys, resumed after any crash, and the
 * deletion of what stayed locked too long. It holds the keeper's big lock while it works on one environment, and lets it
 * go between two. */
#pragma once
#include "tenant/operation.h"

#include <pthread.h>

struct steward {
	struct tenant *tenant;
	pthread_mutex_t *lock;
	pthread_cond_t wake, moved; /* something to do; something was done */
	bool stopping, asked; /* asked: since the last look at the operations */
	/* Of the operation that runs or ran last: */
	char region[64];
	struct operation_progress progress;
	uint64_t rounds;      /* ended runs, of any region */
	int result;
	struct refusal refusal; /* why the last run could not end, for `region`; text empty when it could */
};
void steward_init(struct steward *s, struct tenant *tenant, pthread_mutex_t *lock);
/* The thread's function; ends when stopping is set and wake signalled. */
void *steward_run(void *steward);
/* Waits, with the big lock held, until the region's operation has ended (0) or failed for now (ret says why; it goes on).
 * progress is called, with the lock held, whenever it moved. */
int steward_wait(struct steward *s, const char *region, void (*progress)(void *ctx, const struct operation_progress *p), void *ctx,
	struct refusal *ret) MUST_CHECK;
