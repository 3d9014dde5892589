/* operation: what takes several steps over registry and stores (rules K7, L4, L5, U1), resumable after any crash.
 *
 * O1. An operation is a row in the registry from its first change to its last; every step can be done again.
 * O2. A store's header always has a wrap that a held key, or the locking key, opens: it is replaced as a whole, and the
 *     new wrap is made before the old one goes.
 * O3. The private key that old wraps need is given up only after the last of them is gone. */
#pragma once
#include "tenant/environment.h"

struct operation_progress {
	size_t done, total;
	char environment[64];
};
/* Runs the region's operation to its end. Between two environments between is called, which may let the big lock go and
 * take it again. An environment that fails does not keep the others; then the operation stays, the refusal says why, and
 * it is to be run again. -ENOENT: there is none. */
int operation_run(struct tenant *t, const char *region, void (*between)(void *ctx, const struct operation_progress *p), void *ctx,
	struct refusal *ret) MUST_CHECK;
/* When rule L8 deletes a locked environment, seconds since 1970: at its time, but delete_warning after a warning began at the earliest,
 * even where the machine was off when it should have. */
int64_t operation_deletes_at(struct tenant *t, const struct registry_env *env);
/* Deletes what has been locked for longer than rule L8 allows; calls deleted for each. ret_next: when the next is due,
 * seconds since 1970; INT64_MAX for none. */
int operation_expire(struct tenant *t, void (*deleted)(void *ctx, const struct registry_env *env, const struct refusal *failed), void *ctx,
	int64_t *ret_next) MUST_CHECK;
/* -EBUSY with the rule when an operation is under way in the region. */
int operation_none(struct tenant *t, const char *region, struct refusal *ret) MUST_CHECK;
