/* sandbox: what a worker and its mounter keep from themselves. Each measure that the kernel refuses is logged once and gone
 * without. In builds for sanitizers, which trace their own process and open what they like, only capabilities go. */
#pragma once
#include <stdbool.h>

/* Before any key exists: no core, not dumpable or traceable, memory locked as it is touched, limits, umask. */
void sandbox_prepare(void);
bool sandbox_memory_locked(void);

/* The worker, before it has a key or a thread. Capabilities: those that ownership of files, special files and trusted.* attributes
 * need (capabilities(7)). Landlock (landlock(7)): files of the store, of /proc and /dev/fuse, listing of directories, nothing of the
 * network, no signals and sockets to others, no mounts. seccomp(2): a list of the calls that it makes; executing, tracing and what else
 * no fault could explain kills it, other calls fail with ENOSYS. */
void sandbox_enter(const char *store);
/* The mounter: CAP_SYS_ADMIN, and CAP_DAC_READ_SEARCH for the way to the mount point; a list of calls. */
void sandbox_mounter(void);
