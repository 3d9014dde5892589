/* worker_internal: shared by worker.c (orders) and ending.c (the ways in which a mount ends). */
#pragma once
#include "mount/link.h"
#include "mount/mounter.h"
#include "mount/scrubber.h"
#include "mount/worker.h"

#define END_LIMIT_MS 30000u /* of an end for which nobody gave a limit */

struct worker {
	const struct worker_arguments *arguments;
	struct mounter mounter;
	struct session session;
	int device;         /* /dev/fuse, until the session has it */
	struct ring *ring;
	pthread_t loop, sealer;
	int loop_ended;     /* eventfd */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* of what lock protects; CLOCK_MONOTONIC */
	struct volume *v;   /* taken away under lock */
	bool serving;       /* lock: v is there and mounted, the threads run */
	bool stopping;      /* lock: the sealer ends */
	bool order_running; /* lock */
	enum ending {
		ENDING_NOT,
		ENDING_DRAINING, /* what was acknowledged is written out */
		ENDING_DRAINED,  /* waits for the connection's end */
		ENDING_ABORTED,  /* the kernel lets everybody who uses it go */
		ENDING_CLOSED,
	} ending;           /* lock */
	bool store_clean;   /* lock: what ENDING_CLOSED found */
	bool left_clean;    /* lock: the store was mounted, and its header says clean now */
	struct link_status ended; /* lock: of the mount that is over, what it came to */
	uint64_t drain_until_ns;
	atomic_bool cancel; /* an order that waits for an unmount gives up: a lock has come */

	/* The order under way; the order thread's, then the main thread's. */
	struct link_message order;
	pthread_t order_thread;
	int order_fd, order_done; /* where its answer goes; eventfd */
	bool order_ends;

	struct scrubber scrubber;
};

/* ending.c. Order thread: refused with -EBUSY while somebody uses the mount. */
int worker_unmount(struct worker *w, struct link_message *m) MUST_CHECK;
/* Main thread. Returns within limit_ms, whatever hangs; m->text says what could not be done. The process has to end then. */
void worker_end(struct worker *w, uint64_t limit_ms, struct link_message *m);
