/* scorch: how a process that held keys ends. Freed memory is wiped on the way, but stacks, buffers of libraries and threads that
 * hang in the kernel are nobody's to free: so before the last word every page that the process may write is zeroed. */
#pragma once
#include "base/util.h"

/* Opens what scorch reads under /proc; call before the process is kept from opening files. */
void scorch_prepare(void);

/* Parks the other threads (one that hangs in the kernel never comes back to user space), zeroes all private writable memory but
 * message and what lower writes under way read from (io.h: a lower file must not get zeros for its ciphertext), sends message on
 * fd (-1: none) without waiting, and ends the process with status. At most SCORCH_LIMIT_MS pass.
 * In builds for sanitizers it only sends and ends. */
#define SCORCH_LIMIT_MS 1000
#define SCORCH_MESSAGE_MAX 8192u
_Noreturn void scorch(int fd, const void *message, size_t len, int status);
