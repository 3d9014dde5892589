/* registry: what a tenant has, in SQLite (WAL, synchronous=FULL) under the state directory. The one door to SQLite.
 *
 * It holds no key material: wraps live with the stores. Used by one thread at a time (the keeper's big lock).
 * Errors: -ENOENT, -EEXIST, -EUCLEAN a damaged or newer database, -EIO, -ENOSPC. */
#pragma once
#include "base/util.h"

struct registry;

enum env_state {
	ENV_UNMOUNTED, /* nobody wants it mounted */
	ENV_MOUNTED,   /* it should be mounted; whether a worker serves it, the supervisor knows */
	ENV_LOCKED,    /* by keyctl lock: only unlock ends that */
};
struct registry_env {
	char name[64], type[16], region[64];
	char store[1024], mountpoint[1024];
	enum env_state state;
	uint64_t epoch; /* the highest that its header was seen with */
	int64_t created, changed; /* seconds since 1970 */
};
const char *env_state_name(enum env_state state);

int registry_open(const char *path, struct registry **ret) MUST_CHECK;
void registry_close(struct registry *r);

int registry_env_add(struct registry *r, const struct registry_env *env) MUST_CHECK;
int registry_env_get(struct registry *r, const char *name, struct registry_env *ret) MUST_CHECK;
/* All, by name, in an array the caller frees. */
int registry_env_list(struct registry *r, struct registry_env **ret, size_t *ret_n) MUST_CHECK;
int registry_env_set_state(struct registry *r, const char *name, enum env_state state) MUST_CHECK;
int registry_env_set_epoch(struct registry *r, const char *name, uint64_t epoch) MUST_CHECK;
int registry_env_remove(struct registry *r, const char *name) MUST_CHECK;

/* The audit log's rows; audit.h gives them meaning. Rows come back oldest first; fn's non-zero result ends the walk. */
struct audit_row {
	uint64_t seq;
	int64_t time;
	uint32_t uid;
	char role[32], request[48], object[128], rule[8], outcome[16];
	char detail[512];
	char previous[65], hash[65];
};
int registry_audit_add(struct registry *r, const struct audit_row *row) MUST_CHECK;
int registry_audit_last(struct registry *r, struct audit_row *ret) MUST_CHECK;
int registry_audit_each(struct registry *r, int (*fn)(void *ctx, const struct audit_row *row), void *ctx) MUST_CHECK;
/* The hash and number of the latest entry as kept beside the log, so that a cut-off end is seen. */
int registry_audit_head(struct registry *r, uint64_t *ret_seq, char ret_hash[65]) MUST_CHECK;
