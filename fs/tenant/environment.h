/* environment: the life of a tenant's environments: create, mount, unmount, lock, unlock, delete.
 *
 * Each function either does what it says or refuses and leaves things as they were; the refusal says what is wrong and
 * what to do. One caller at a time (the keeper's big lock). */
#pragma once
#include "mount/link.h"
#include "tenant/registry.h"
#include "vault/platform_key.h"

struct refusal {
	char rule[8]; /* of RULES, where one refuses; else empty */
	char text[512];
};
/* Fills ret and returns error (negative). */
int refuse(struct refusal *ret, int error, const char *rule, const char *format, ...) PRINTF(4, 5);

/* How the rules reach the workers; given by the keeper. Texts come back in text (480 bytes) when something fails. */
struct worker_ops {
	int (*start)(void *ctx, const struct registry_env *env, const struct env_key *ek, uint64_t *ret_epoch, char *text);
	int (*stop)(void *ctx, const struct registry_env *env, bool lock, bool force, struct link_status *ret_status, char *text);
	bool (*alive)(void *ctx, const char *name);
	void *ctx;
};

struct tenant {
	struct registry *registry;
	struct platform_key *platform_key;
	const char *state_dir;
	struct worker_ops workers;
};

struct environment_request {
	const char *name, *mountpoint, *store, *type, *region; /* store, type, region may be NULL */
};
int environment_create(struct tenant *t, const struct environment_request *request, struct refusal *ret) MUST_CHECK;
int environment_get(struct tenant *t, const char *name, struct registry_env *ret_env, struct refusal *ret) MUST_CHECK;
int environment_mount(struct tenant *t, const char *name, struct refusal *ret) MUST_CHECK;
/* Mounts what the registry says is mounted and no worker serves: after a start of tdefsd or the death of a worker. */
int environment_resume(struct tenant *t, const char *name, struct refusal *ret) MUST_CHECK;
int environment_unmount(struct tenant *t, const char *name, bool force, struct refusal *ret) MUST_CHECK;
/* ret_status lists who had files open. */
int environment_lock(struct tenant *t, const char *name, struct link_status *ret_status, struct refusal *ret) MUST_CHECK;
int environment_unlock(struct tenant *t, const char *name, struct refusal *ret) MUST_CHECK;
/* confirm must be the name. The environment key is destroyed first (its header is unlinked and that synced). */
int environment_delete(struct tenant *t, const char *name, const char *confirm, struct refusal *ret) MUST_CHECK;

/* check.c. Paths come back canonical, in memory the caller frees. */
int check_name(const char *what, const char *name, struct refusal *ret) MUST_CHECK;
int check_mountpoint(const char *path, const char *store, char **ret_path, struct refusal *ret) MUST_CHECK;
int check_store(const char *path, char **ret_path, struct refusal *ret) MUST_CHECK;
/* The empty directory under a mount takes no files while nothing is mounted (FS_IMMUTABLE_FL, best effort). */
void mountpoint_guard(const char *path, bool on);
int store_remove(const char *path) MUST_CHECK;
