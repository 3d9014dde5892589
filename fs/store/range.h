/* range: locks on ranges of one file's blocks, first come first served, so that nobody starves. */
#pragma once
#include "base/util.h"

#include <pthread.h>

#define RANGE_END UINT64_MAX

/* Lives on the caller's stack while held. */
struct range {
	uint64_t first, last; /* inclusive */
	bool exclusive;
	bool watching, met; /* set's lock: see range_watch */
	struct range *next; /* set's lock */
};
struct range_set {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct range *head, **tail; /* in order of arrival; lock */
};
void range_set_init(struct range_set *s);
void range_set_done(struct range_set *s);
void range_lock(struct range_set *s, struct range *r, uint64_t first, uint64_t last, bool exclusive);
/* Lets go of what lies outside first..last, which must be within what is held. */
void range_narrow(struct range_set *s, struct range *r, uint64_t first, uint64_t last);
/* Lets go of an exclusive range, but keeps an eye on it: retake has it again, unless another exclusive one has met it meanwhile (false;
 * it is watched still). unlock ends both. */
void range_watch(struct range_set *s, struct range *r);
bool range_retake(struct range_set *s, struct range *r) MUST_CHECK;
void range_unlock(struct range_set *s, struct range *r);
