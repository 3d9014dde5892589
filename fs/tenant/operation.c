/* operation: see operation.h. */
#include "tenant/operation.h"

#include "base/log.h"
#include "tenant/audit.h"
#include "tenant/claim.h"
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

/* L4: taken down first (lock_all), then under the locking key alone. */
static int lock_one(struct run *run, struct registry_env *env, struct refusal *ret)
{
	struct env_key_source source;
	struct users users;
	char text[480] = "";
	int rc = run->t->workers.stop(run->t->workers.ctx, env, true, &users, text);

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

/* ---- L4, before anything else: no worker has a key any more ---- */

#define TAKE_DOWN_AT_ONCE 32

struct take_down {
	struct tenant *t;
	struct registry_env env;
	pthread_t thread;
	bool begun;
};

static void *take_down_run(void *arg)
{
	struct take_down *d = arg;
	struct audit_row row = {.role = "tdefsd", .request = "TenantLock", .outcome = "done"};
	struct refusal why = {0};
	struct users users;
	char names[380];

	pthread_mutex_lock(d->t->lock);
	/* One that fails is tried again by lock_one. */
	int rc = environment_take_down(d->t, &d->env, &users, &why);
	users_text(&users, names, sizeof(names));
	snprintf(row.object, sizeof(row.object), "%s", d->env.name);
	snprintf(row.detail, sizeof(row.detail), "%s%s%s%.90s", names[0] ? "had files open: " : "", names,
		names[0] && why.text[0] ? "; " : "", why.text);
	if (rc < 0)
		strcpy(row.outcome, "failed");
	if (audit_add(d->t->registry, &row) < 0)
		log_error("the audit log takes no entry");
	pthread_mutex_unlock(d->t->lock);
	return NULL;
}

/* All at once: each may take as long as lock.timeout. */
static int lock_all(struct run *run, const struct registry_env *list, size_t n)
{
	CLEANUP_FREE struct take_down *all = calloc(TAKE_DOWN_AT_ONCE, sizeof(*all));
	struct tenant *t = run->t;
	int rc = all ? 0 : -ENOMEM;

	for (size_t k = 0; rc == 0 && k < n; k++)
		if (strcmp(list[k].region, run->o.region) == 0 && list[k].state != ENV_TENANT_LOCKED)
			rc = registry_env_set_state(t->registry, list[k].name, ENV_TENANT_LOCKED);
	for (size_t k = 0; rc == 0 && k < n;) {
		size_t count = 0;

		for (; k < n && count < TAKE_DOWN_AT_ONCE; k++) {
			if (strcmp(list[k].region, run->o.region) != 0 || !t->workers.alive(t->workers.ctx, list[k].name))
				continue;
			struct take_down *d = &all[count++];
			*d = (struct take_down){.t = t, .env = list[k]};
			d->env.state = ENV_TENANT_LOCKED;
			d->begun = pthread_create(&d->thread, NULL, take_down_run, d) == 0;
		}
		tenant_let_go(t);
		for (size_t i = 0; i < count; i++)
			if (all[i].begun)
				pthread_join(all[i].thread, NULL);
		tenant_take_again(t);
	}
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
	if (run.o.kind == OPERATION_LOCK)
		rc = lock_all(&run, list, n);
	if (rc < 0)
		return registry_refusal(rc, ret);
	for (size_t k = 0; k < n; k++)
		progress.total += strcmp(list[k].region, region) == 0;
	for (size_t k = 0; k < n; k++) {
		struct refusal why = {0};
		struct registry_env env;

		if (strcmp(list[k].region, region) != 0)
			continue;
		CLEANUP(claim_done) struct claim claim = {0};
		rc = claim_take(t, list[k].name, "is getting another key", &claim, &why);
		/* It may have changed, or gone, while the lock was let go. */
		if (rc == 0)
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

static uint64_t warning_ns(const struct tenant *t)
{
	return MIN(t->guards.delete_warning_ns, t->guards.delete_locked_after_ns);
}

/* When its warning began; now where it is not noted. The name may have been another environment's, or unlocked meanwhile. */
static int64_t warned_at(struct tenant *t, const struct registry_env *env, int64_t now, bool note)
{
	long long changed = 0, at = 0;
	char key[80], text[64];

	snprintf(key, sizeof(key), "warned.%s", env->name);
	if (registry_meta_get(t->registry, key, text, sizeof(text)) == 0 && sscanf(text, "%lld %lld", &changed, &at) == 2 &&
		changed == env->changed && at <= now)
		return at;
	snprintf(text, sizeof(text), "%lld %lld", (long long)env->changed, (long long)now);
	if (note && registry_meta_set(t->registry, key, text) < 0)
		log_error("%s: the registry does not remember that its deletion was warned of", env->name);
	return now;
}

static int64_t deletes_at(struct tenant *t, const struct registry_env *env, bool note)
{
	int64_t now = clock_realtime_s(), due = guard_due(t, env->changed, t->guards.delete_locked_after_ns);
	int64_t length = (int64_t)((warning_ns(t) + 999999999) / 1000000000);

	return now < due - length ? due : MAX(due, warned_at(t, env, now, note) + length);
}

int64_t operation_deletes_at(struct tenant *t, const struct registry_env *env)
{
	return deletes_at(t, env, false);
}

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
		if (list[k].state != ENV_TENANT_LOCKED)
			continue;
		int64_t end = deletes_at(t, &list[k], true);
		if (now < end) {
			*ret_next = MIN(*ret_next, end);
			continue;
		}
		refusal = (struct refusal){0};
		CLEANUP(claim_done) struct claim claim = {0};
		struct registry_env env;
		if (claim_take(t, list[k].name, "is being deleted", &claim, &refusal) < 0 || registry_env_get(t->registry, list[k].name, &env) < 0)
			continue;
		/* It may have been unlocked while somebody else had it. */
		if (env.state != ENV_TENANT_LOCKED || now < deletes_at(t, &env, true))
			continue;
		bool failed = environment_remove(t, &env, &refusal) < 0;
		deleted(ctx, &list[k], failed ? &refusal : NULL);
	}
	return rc;
}
