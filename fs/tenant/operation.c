/* operation: see operation.h. */
#include "tenant/operation.h"

#include "tenant/guard.h"
#include "tenant/key.h"

#include <stdio.h>
#include <string.h>

int operation_none(struct tenant *t, const char *region, struct refusal *ret)
{
	static const char *const rules[] = {"K7", "L6", "U1"};
	static const char *const what[] = {"a key is being activated", "the region is being locked", "its key is being unlocked"};
	struct registry_operation o;
	int rc = registry_operation_get(t->registry, region, &o);

	if (rc == -ENOENT)
		return 0;
	return rc < 0 ? registry_refusal(rc, ret)
		      : refuse(ret, -EBUSY, rules[o.kind], "in region %s %s: wait until that is done (keyctl status shows it)", region, what[o.kind]);
}

/* ---- one environment of each kind of operation ---- */

struct run {
	struct tenant *t;
	struct registry_operation o;
	struct registry_key key, former;
};

/* K7: from the former key to the new one. */
static int activate_one(struct run *run, struct registry_env *env, struct refusal *ret)
{
	struct env_key_source source;
	int rc = environment_source(run->t, env, &source, ret);

	if (rc < 0 || run->o.former_id == 0 || strcmp(source.fingerprint, run->former.fingerprint) != 0)
		return rc;
	return environment_rewrap(run->t, env, &run->key, ret);
}

/* L4: taken down first, then under the locking key alone. */
static int lock_one(struct run *run, struct registry_env *env, struct refusal *ret)
{
	struct env_key_source source;
	struct users users;
	char text[480] = "";
	int rc = 0;

	if (env->state != ENV_TENANT_LOCKED) {
		rc = registry_env_set_state(run->t->registry, env->name, ENV_TENANT_LOCKED);
		if (rc < 0)
			return registry_refusal(rc, ret);
		env->state = ENV_TENANT_LOCKED;
	}
	if (run->t->workers.alive(run->t->workers.ctx, env->name))
		rc = run->t->workers.stop(run->t->workers.ctx, env, true, true, &users, text);
	if (rc < 0)
		return refuse(ret, rc, "", "%s: its worker: %s", env->name, text[0] ? text : strerror(-rc));
	rc = environment_source(run->t, env, &source, ret);
	if (rc < 0 || strcmp(source.fingerprint, run->key.fingerprint) == 0)
		return rc;
	return environment_rewrap(run->t, env, &run->key, ret);
}

/* U1: what the region's environments are wrapped to opens again. */
static int unlock_one(struct run *run, struct registry_env *env, struct refusal *ret)
{
	struct env_key *ek = NULL;
	int rc = 0;

	if (env->state == ENV_TENANT_LOCKED) {
		ek = KEY_NEW(struct env_key);
		rc = ek ? environment_unwrap(run->t, env, ek, ret) : refuse(ret, -ENOMEM, "", "out of secure memory");
	}
	KEY_FREE(ek);
	return rc;
}

/* ---- beginnings and ends ---- */

static int operation_load(struct tenant *t, const char *region, struct run *run)
{
	*run = (struct run){.t = t};
	int rc = registry_operation_get(t->registry, region, &run->o);
	if (rc == 0)
		rc = registry_key_by_id(t->registry, run->o.key_id, &run->key);
	if (rc == 0 && run->o.former_id)
		rc = registry_key_by_id(t->registry, run->o.former_id, &run->former);
	return rc;
}

/* The last step, one transaction. */
static int operation_end(struct run *run, struct refusal *ret)
{
	struct registry *r = run->t->registry;
	struct registry_region times;
	struct registry_key active;
	int64_t now = clock_realtime_s();
	int rc = registry_region_get(r, run->o.region, &times);

	if (rc == 0)
		rc = registry_begin(r);
	if (rc < 0)
		return registry_refusal(rc, ret);
	if (run->o.kind == OPERATION_LOCK) {
		times.locked = now;
	} else {
		if (run->o.former_id)
			rc = registry_key_set_state(r, run->o.former_id, KEY_AVAILABLE, run->o.uid);
		/* Where every locked environment was deleted and another key came, an unlocked key is a further one (K5). */
		bool taken = rc == 0 && registry_key_of_region(r, run->o.region, KEY_ACTIVE, &active) == 0;
		if (rc == 0)
			rc = registry_key_set_state(r, run->o.key_id, taken ? KEY_AVAILABLE : KEY_ACTIVE, run->o.uid);
		times.activated = times.changed = now;
	}
	if (rc == 0)
		rc = registry_region_set(r, &times);
	if (rc == 0)
		rc = registry_operation_remove(r, run->o.region);
	rc = registry_end(r, rc);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

int operation_run(struct tenant *t, const char *region, void (*between)(void *ctx, const struct operation_progress *p), void *ctx,
	struct refusal *ret)
{
	static int (*const steps[])(struct run *run, struct registry_env *env, struct refusal *ret) = {activate_one, lock_one, unlock_one};
	CLEANUP_FREE struct registry_env *list = NULL;
	struct operation_progress progress = {0};
	struct run run;
	size_t n = 0;
	int rc = operation_load(t, region, &run), failed = 0;

	if (rc == 0 && run.o.kind == OPERATION_LOCK)
		rc = key_sweep(t); /* L5 */
	if (rc == 0)
		rc = registry_env_list(t->registry, &list, &n);
	if (rc < 0)
		return rc == -ENOENT ? rc : registry_refusal(rc, ret);
	for (size_t k = 0; k < n; k++)
		progress.total += strcmp(list[k].region, region) == 0;
	for (size_t k = 0; k < n; k++) {
		struct refusal why = {0};
		struct registry_env env;

		if (strcmp(list[k].region, region) != 0)
			continue;
		/* It may have changed, or gone, while the lock was let go. */
		rc = registry_env_get(t->registry, list[k].name, &env);
		if (rc == 0)
			rc = steps[run.o.kind](&run, &env, &why);
		if (rc < 0 && rc != -ENOENT && failed == 0) {
			failed = rc;
			*ret = why;
		} else if (rc == -ENOENT && why.text[0] && failed == 0) {
			/* A store that is not there: its disk may come back. Deleting the environment ends the wait. */
			failed = rc = -ENOTCONN;
			*ret = why;
		}
		progress.done++;
		snprintf(progress.environment, sizeof(progress.environment), "%s", list[k].name);
		between(ctx, &progress);
	}
	return failed < 0 ? failed : operation_end(&run, ret);
}

/* ---- L8 ---- */

int operation_expire(struct tenant *t, void (*deleted)(void *ctx, const struct registry_env *env, const struct refusal *failed), void *ctx,
	int64_t *ret_next)
{
	CLEANUP_FREE struct registry_env *list = NULL;
	struct refusal refusal = {0};
	int64_t now;
	size_t n = 0;
	int rc = guard_clock(t, &now, &refusal);

	*ret_next = INT64_MAX;
	if (rc == 0)
		rc = registry_env_list(t->registry, &list, &n);
	for (size_t k = 0; rc == 0 && k < n; k++) {
		int64_t end = list[k].state == ENV_TENANT_LOCKED ? guard_end(list[k].changed, t->guards.delete_locked_after_ns) : INT64_MAX;

		if (end != 0) {
			*ret_next = MIN(*ret_next, end);
			continue;
		}
		refusal = (struct refusal){0};
		bool failed = environment_delete(t, list[k].name, list[k].name, &refusal) < 0;
		deleted(ctx, &list[k], failed ? &refusal : NULL);
	}
	return rc;
}
