/* scrubber: the verification of a mounted environment, in a thread of its own. Files are read through the inode table, as everybody
 * reads them. */
#pragma once
#include "mount/link.h"
#include "mount/session.h"
#include "store/scrub.h"

struct scrubber {
	struct session *session;
	struct scrub scrub;
	pthread_t thread;
	bool started; /* the order thread's */
	atomic_bool running;
	atomic_int error; /* of the last one */

	pthread_mutex_t lock;
	struct scrubber_finding *kept; /* lock: the first so many */
	unsigned kept_count;           /* lock */
};

void scrubber_init(struct scrubber *s, struct session *session);
/* After scrubber_end. */
void scrubber_done(struct scrubber *s);
/* -EALREADY: one is under way. repair: damaged copies are written again. */
int scrubber_start(struct scrubber *s, bool repair) MUST_CHECK;
void scrubber_end(struct scrubber *s);
void scrubber_status(struct scrubber *s, struct link_status *ret);
/* The finding with this number; false: there is none, or so many are not kept. */
bool scrubber_finding(struct scrubber *s, uint64_t number, struct link_finding *ret);
