/* mounts: where a mount is mounted, as mountinfo says (proc(5)): here and in other mount namespaces. */
#pragma once
#include "base/util.h"

/* The device number of what is mounted there; 0 where nothing of ours is. */
dev_t mounts_device(const char *mountpoint);
/* Where else it is mounted, so that unmounting it there leaves it alive: a bind mount, or another mount namespace that ours does not
 * propagate to. In words, with what to do; empty where it is not, or where that could not be found out before timeout_ms were over. */
void mounts_elsewhere(const char *mountpoint, unsigned timeout_ms, char *text, size_t size);
