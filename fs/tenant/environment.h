/* environment: the life of a tenant's environments: create, mount, unmount, lock, unlock, delete.
 *
 * Each function either does what it says or refuses and leaves things as they were; the refusal says what is wrong and
 * what to do. Called with the keeper's big lock held, which they let go while they wait for a disk or a worker; claim.h. */
#pragma once
#include "mount/link.h"
#include "tenant/registry.h"
#include "tenant/users.h"
#include "vault/vault.h"

#include <pthread.h>

struct refusal {
	char rule[8]; /* of RULES, where one refuses; else empty */
	char text[512];
};
/* Fills ret and returns error (negative). */
int refuse(struct refusal *ret, int error, const char *rule, const char *format, ...) PRINTF(4, 5);

/* The same for what the registry answered. */
int registry_refusal(int error, struct refusal *ret);

/* How the rules reach the workers; given by the keeper. Texts come back in text (480 bytes) when something fails. Each lets the
 * big lock go while it waits, and but for lock and alive wants the environment's claim. */
struct worker_ops {
	/* text may have something to say of a mount that is live, too. */
	int (*start)(void *ctx, const struct registry_env *env, const struct env_key *ek, uint64_t *ret_epoch, char *text);
	/* Ends the worker by the lock order, within the time limits, whatever else goes on; text says what was lost. ret_users: who
	 * had files open. 0 also when none runs. */
	int (*lock)(void *ctx, const struct registry_env *env, struct users *ret_users, char *text);
	/* Unmounts; -EBUSY while somebody uses it, and ret_users or text, unless force: then as lock. Takes away what a dead worker left. */
	int (*stop)(void *ctx, const struct registry_env *env, bool force, struct users *ret_users, char *text);
	bool (*alive)(void *ctx, const char *name);
	/* Replaces the wraps of a mounted environment's header. */
	int (*rewrap)(void *ctx, const char *name, const struct env_wrap *wraps, size_t n, char *text);
	/* Makes ek its key, and moves its files to it meanwhile. */
	int (*rotate)(void *ctx, const char *name, const struct env_key *ek, const struct env_wrap *wraps, size_t n, bool data, char *text);
	/* A claim was given back. */
	void (*released)(void *ctx);
	void *ctx;
};

/* Durations of the rules, nanoseconds. */
struct guards {
	uint64_t activation_interval_ns;   /* K8 */
	uint64_t lock_after_key_change_ns; /* L3 */
	uint64_t unlock_after_lock_ns;     /* L6 */
	uint64_t delete_locked_after_ns;   /* L8 */
	uint64_t delete_warning_ns;        /* L8 */
	uint64_t confirm_text_ns;          /* L2 */
};

struct tenant {
	const char *name;
	struct registry *registry;
	struct platform_key *platform_key;
	struct vault *vault;
	struct guards guards;
	struct lock_text {
		char text[128], region[64];
		uint32_t uid;
		uint64_t until_ns; /* monotonic */
	} lock_text; /* L2: the one that was issued last; empty when used up */
	const char *state_dir;
	struct worker_ops workers;
	pthread_mutex_t *lock; /* the keeper's big lock; does not change */
	pthread_cond_t unclaimed; /* CLOCK_MONOTONIC */
	struct claim *claims;  /* lock */
};

struct environment_request {
	const char *name, *mountpoint, *store, *type, *region; /* store, type, region may be NULL */
};
int environment_create(struct tenant *t, const struct environment_request *request, struct refusal *ret) MUST_CHECK;
int environment_get(struct tenant *t, const char *name, struct registry_env *ret_env, struct refusal *ret) MUST_CHECK;
/* accept_older: why a store may be older than what was last mounted (a restored backup), for the audit log; NULL: it may not. */
int environment_mount(struct tenant *t, const char *name, const char *accept_older, struct refusal *ret) MUST_CHECK;
/* Mounts what the registry says is mounted and no worker serves: after a start of tdefsd or the death of a worker. */
int environment_resume(struct tenant *t, const char *name, struct refusal *ret) MUST_CHECK;
int environment_unmount(struct tenant *t, const char *name, bool force, struct refusal *ret) MUST_CHECK;
/* Ends the worker by the lock order (DESIGN section 6), also while another request works on the environment. The registry must
 * say already that it is locked. ret_users: who had files open; ret->text: what could not be saved. */
int environment_take_down(struct tenant *t, const struct registry_env *env, struct users *ret_users, struct refusal *ret) MUST_CHECK;
/* ret_users as above. */
int environment_lock(struct tenant *t, const char *name, struct users *ret_users, struct refusal *ret) MUST_CHECK;
/* U3: one that the tenant's lock took wants confirmed, and its key Active. */
int environment_unlock(struct tenant *t, const char *name, bool confirmed, struct refusal *ret) MUST_CHECK;
/* E2, E3: to the region's active key; back to the platform key. Mounted or not. confirm: the name, as typed; NULL will do, with
 * confirmed, for a sandbox. */
int environment_apply(struct tenant *t, const char *name, struct refusal *ret) MUST_CHECK;
int environment_return(struct tenant *t, const char *name, const char *confirm, bool confirmed, struct refusal *ret) MUST_CHECK;
/* Gives a mounted environment a new key, wrapped as the present one is; the worker goes on by itself. */
int environment_rotate(struct tenant *t, const char *name, bool data, struct refusal *ret) MUST_CHECK;
/* Takes a store that another tdefsd made, with the key that its header names: one of the two, or neither where this
 * tdefsd holds it. It is wrapped to the platform key, unless it is under the region's active key already. */
int environment_attach(struct tenant *t, const struct environment_request *request, const struct rsa_key *key,
	const struct platform_key *platform, struct refusal *ret) MUST_CHECK;

/* What its header says it is wrapped by. */
struct env_key_source {
	char source[16], fingerprint[65], key_name[128];
};
int environment_source(struct tenant *t, const struct registry_env *env, struct env_key_source *ret_source, struct refusal *ret) MUST_CHECK;
/* The same, for who does not want to wait long for a disk. */
int environment_source_within(struct tenant *t, const struct registry_env *env, unsigned limit_ms, struct env_key_source *ret_source,
	struct refusal *ret) MUST_CHECK;
/* The environment key, with whichever key that we hold opens a wrap. */
int environment_unwrap(struct tenant *t, const struct registry_env *env, struct env_key *ek, struct refusal *ret) MUST_CHECK;
/* Replaces its wraps with one by key; NULL: by the platform key. */
int environment_rewrap(struct tenant *t, const struct registry_env *env, const struct registry_key *key, struct refusal *ret) MUST_CHECK;
/* confirm must be the name. The environment key is destroyed first (its header is unlinked and that synced). */
int environment_delete(struct tenant *t, const char *name, const char *confirm, struct refusal *ret) MUST_CHECK;
/* The same without a question, for who has its claim. */
int environment_remove(struct tenant *t, const struct registry_env *env, struct refusal *ret) MUST_CHECK;

/* check.c. Paths come back canonical, in memory the caller frees. */
int check_name(const char *what, const char *name, struct refusal *ret) MUST_CHECK;
int check_mountpoint(const char *path, const char *store, char **ret_path, struct refusal *ret) MUST_CHECK;
int check_store(const char *path, char **ret_path, struct refusal *ret) MUST_CHECK;
/* The empty directory under a mount takes no files while nothing is mounted: FS_IMMUTABLE_FL, or no bit for writing in its mode
 * where the file system has no such flag. Best effort. */
void mountpoint_guard(const char *path, bool on);
int store_remove(const char *path) MUST_CHECK;
