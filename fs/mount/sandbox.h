/* sandbox: what a worker keeps from itself. Each measure that the kernel refuses is logged once and gone without. */
#pragma once
#include <stdbool.h>

/* Before any key exists: no core, not dumpable or traceable, memory locked as it is touched, limits, umask. */
void sandbox_prepare(void);
/* After the mount is live: no new privileges, and a seccomp filter under which executing, tracing, new sockets, mounting
 * and loading code into the kernel fail with EPERM (seccomp(2)). */
void sandbox_enter(void);
bool sandbox_memory_locked(void);
