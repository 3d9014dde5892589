/* patience: calls that may never come back, because a disk does not answer (uninterruptible sleep knows no signal). */
#pragma once
#include "base/util.h"

/* Runs fn(work) in a thread of its own and waits timeout_ms for it. Its result, and work is the caller's again; or -ETIMEDOUT, and
 * the thread ends work with done whenever it comes back. -EAGAIN when too many such calls hang already. Hold no lock. */
int patience(int (*fn)(void *work), void *work, void (*done)(void *work), unsigned timeout_ms) MUST_CHECK;
