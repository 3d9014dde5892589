/* confine: what a process gives up. Each measure that the kernel refuses is gone without, and why is logged by who asked.
 * In builds for sanitizers, which trace their own process, confine_calls does nothing. */
#pragma once
#include "base/util.h"

#define CAPABILITY(name) (UINT64_C(1) << (name))
/* Keeps those of keep (capabilities(7), a bit each) that there are, for this thread and all that come; also over exec. */
int confine_capabilities(uint64_t keep) MUST_CHECK;

/* seccomp(2), and no new privileges. Of allowed (libseccomp's numbers) every call passes, others fail with ENOSYS, as if the kernel
 * did not know them; NULL: every call passes. Those of forbidden kill the process, or fail with EPERM where allowed is NULL. */
int confine_calls(const int *allowed, size_t n_allowed, const int *forbidden, size_t n_forbidden) MUST_CHECK;
