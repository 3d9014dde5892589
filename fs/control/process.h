/* process: a worker's process as tdefsd sees it: begun, found, ended. It knows neither the registry nor the supervisor's list.
 * Everything here may wait for long: hold no lock. Texts (480 bytes) say what went wrong or was lost; empty where nothing was. */
#pragma once
#include "control/config.h"
#include "mount/link.h"
#include "tenant/registry.h"
#include "tenant/users.h"

#define PROCESS_SOCKET_MAX 1100
void process_socket(const struct config *c, const char *name, char ret[PROCESS_SOCKET_MAX]);
/* Forks it; program is tdefs-mount. bare: without the settings, of which an earlier one may not know all. The pid, or -errno. */
pid_t process_spawn(const struct config *c, const char *program, const struct registry_env *env, const char *socket, bool bare);
/* Until it listens: a connection, which the caller owns. -ECHILD when it ended before, -ETIMEDOUT after limit_ms. */
int process_wait(const char *socket, int pidfd, unsigned limit_ms) MUST_CHECK;
/* One that runs already: its pidfd, which the caller owns. -ENOENT, -ECONNREFUSED, -ESRCH: none does. */
int process_find(const char *socket, pid_t *ret_pid) MUST_CHECK;
/* Whether it ended before limit_ms were over. */
bool process_ended(int pidfd, int limit_ms);
/* Takes a child that has ended, and says how it did. Whether it did not know its options. */
bool process_reap(int pidfd, char *ret_reason, size_t size);

struct process {
	const char *name, *mountpoint, *socket;
	int pidfd;
};
/* lock.on_lock, the lock order, and the worker's end one way or the other: by SIGTERM, which wipes as well, where it does not
 * understand the order; by SIGKILL where it does not answer. Whether it has ended: else it hangs in the kernel. ret_status: what it
 * said of itself at last; zeros where it said nothing. */
bool process_lock(const struct config *c, const struct process *p, struct users *ret_users, struct link_status *ret_status, char *text);
/* -EBUSY while somebody uses the mount, and ret_users; or while it is mounted elsewhere, too, and text says where. */
int process_unmount(const struct config *c, const struct process *p, struct users *ret_users, struct link_status *ret_status,
	char *text) MUST_CHECK;
/* Takes away the mount that a dead worker left. */
void process_detach(const char *mountpoint);
