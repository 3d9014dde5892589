/* ring: requests and replies over io_uring instead of read and write of /dev/fuse: one queue a CPU, so that who asks and who answers
 * share it, and one system call for a reply and the next request. The kernel's Documentation/filesystems/fuse/fuse-io-uring.rst.
 *
 * A request is handed over as a read of /dev/fuse gives it, on the queue's own thread; one that may take long, on a helper's. Until
 * it is answered it holds an entry of its queue, and when none is left the kernel's next requests wait. So what waits for other
 * requests must hold few of them (deferred.c). */
#pragma once
#include "base/util.h"

#include <sys/uio.h>

#define RING_QUEUE_DEPTH 8u
#define RING_PARAMETER "/sys/module/fuse/parameters/enable_uring"

struct ring;

/* Whether the kernel has it and the administrator allows it. */
bool ring_offered(void);
/* Rings over device (borrowed), which take no other command any more. To be made before the sandbox; the threads come with
 * ring_start, once the kernel has agreed. serve is called with each request, from several threads. */
int ring_new(int device, size_t request_max, unsigned helpers, void (*serve)(void *ctx, void *request, size_t len), void *ctx,
	struct ring **ret) MUST_CHECK;
int ring_start(struct ring *r) MUST_CHECK;
/* How many there are that requests come through: none before the start, or for NULL. */
unsigned ring_queues(struct ring *r);
/* From any thread: takes the reply to a request that came through r; false: it came another way. */
bool ring_reply(struct ring *r, const struct iovec *iov, int count);
/* Where the reply to the request that this thread serves will lie: what is put there need not be copied. NULL: there is none. */
void *ring_reply_memory(size_t size);
/* After the connection's end: waits until every request was answered and the threads have ended. free: nobody may call any more what is
 * above. NULL is nothing. */
void ring_end(struct ring *r);
void ring_free(struct ring *r);
