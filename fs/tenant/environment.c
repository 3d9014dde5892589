/* environment: see environment.h. */
#include "tenant/environment_internal.h"

#include "store/dir.h"
#include "tenant/claim.h"
#include "tenant/operation.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int environment_get(struct tenant *t, const char *name, struct registry_env *ret_env, struct refusal *ret)
{
	int rc = check_name("environment's name", name, ret);

	if (rc < 0)
		return rc;
	rc = registry_env_get(t->registry, name, ret_env);
	if (rc == -ENOENT)
		return refuse(ret, rc, "", "there is no environment %s: keyctl env list shows those that there are", name);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

/* ---- coming to life ---- */

/* What the registry does not take is not left mounted. Returns rc. */
static int environment_down_again(struct tenant *t, const struct registry_env *env, int rc)
{
	char text[480] = "";
	struct users users;

	(void)!t->workers.stop(t->workers.ctx, env, true, &users, text);
	return rc;
}

static int environment_start(struct tenant *t, const struct registry_env *env, const struct env_key *ek, struct refusal *ret)
{
	char text[480] = "";
	uint64_t epoch = 0;

	tenant_let_go(t);
	mountpoint_guard(env->mountpoint, true);
	tenant_take_again(t);
	int rc = t->workers.start(t->workers.ctx, env, ek, &epoch, text);
	if (rc == -ESTALE)
		return refuse(ret, rc, "", "%s: %s. Where that was on purpose, as from a backup: keyctl env mount %s --accept-older REASON",
			env->name, text, env->name);
	if (rc < 0)
		return refuse(ret, rc, "", "%s: %s", env->name, text[0] ? text : strerror(-rc));
	rc = registry_env_set_epoch(t->registry, env->name, epoch);
	if (rc < 0)
		return environment_down_again(t, env, registry_refusal(rc, ret));
	/* What its worker has to say all the same. */
	snprintf(ret->text, sizeof(ret->text), "%s", text);
	return 0;
}

static int environment_check_request(struct tenant *t, const struct environment_request *request, struct registry_env *env,
	struct refusal *ret)
{
	CLEANUP_FREE char *store = NULL, *mountpoint = NULL, *given = NULL;
	const char *type = request->type ? request->type : "production", *region = request->region ? request->region : "default";
	int rc = check_name("environment's name", request->name, ret);

	if (rc == 0)
		rc = check_name("region's name", region, ret);
	if (rc < 0)
		return rc;
	if (strcmp(type, "production") != 0 && strcmp(type, "sandbox") != 0)
		return refuse(ret, -EINVAL, "", "the type %s is neither production nor sandbox", type);
	if (registry_env_get(t->registry, request->name, env) == 0)
		return refuse(ret, -EEXIST, "", "there is an environment %s already", request->name);
	given = request->store ? strdup(request->store) : str_format("%s/stores/%s", t->state_dir, request->name);
	if (!given)
		return refuse(ret, -ENOMEM, "", "out of memory");
	tenant_let_go(t);
	rc = check_store(given, &store, ret);
	if (rc == 0)
		rc = check_mountpoint(request->mountpoint, store, &mountpoint, ret);
	tenant_take_again(t);
	if (rc < 0)
		return rc;
	*env = (struct registry_env){.state = ENV_MOUNTED};
	strcpy(env->name, request->name);
	strcpy(env->type, type);
	strcpy(env->region, region);
	strcpy(env->store, store);
	strcpy(env->mountpoint, mountpoint);
	return 0;
}

/* L6: nothing comes up while the region goes down. */
static int region_not_locking(struct tenant *t, const char *region, struct refusal *ret)
{
	struct registry_operation o;
	int rc = registry_operation_get(t->registry, region, &o);

	return rc == 0 && o.kind == OPERATION_LOCK ? operation_none(t, region, ret) : 0;
}

/* Before the registry names it: what it names, env delete removes. */
static int store_must_be_new(const char *store, struct refusal *ret)
{
	CLEANUP_CLOSE int fd = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd >= 0 ? dir_is_empty(fd, NULL) : errno == ENOENT ? 0 : -errno;

	return rc < 0 ? refuse(ret, rc, "", "the store %s: %s", store, rc == -ENOTEMPTY ? "the directory is not empty" : strerror(-rc)) : 0;
}

int environment_create(struct tenant *t, const struct environment_request *request, struct refusal *ret)
{
	struct registry_env env;
	struct env_wrap wrap;
	struct env_key *ek = NULL;
	bool stored = false, registered = false;
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = claim_take(t, request->name, "is being made", &claim, ret);
	if (rc == 0)
		rc = environment_check_request(t, request, &env, ret);

	if (rc == 0)
		rc = region_not_locking(t, env.region, ret);
	if (rc == 0)
		rc = store_must_be_new(env.store, ret);
	if (rc < 0)
		return rc;
	ek = KEY_NEW(struct env_key);
	rc = ek ? secret_random(ek->b, sizeof(ek->b)) : -ENOMEM;
	if (rc == 0)
		rc = environment_wrap_by_platform(t, ek, &wrap);
	if (rc < 0)
		(void)refuse(ret, rc, "", "no key could be made: %s", strerror(-rc));
	/* The row first: of what a crash leaves, env delete can make an end. */
	if (rc == 0) {
		rc = registry_env_add(t->registry, &env);
		registered = rc == 0;
		if (rc == -EEXIST)
			(void)refuse(ret, rc, "", "another environment uses the mount point %s or the store %s", env.mountpoint, env.store);
		else if (rc < 0)
			(void)registry_refusal(rc, ret);
	}
	if (rc == 0) {
		tenant_let_go(t);
		rc = envheader_create(env.store, ek, &wrap, 1);
		tenant_take_again(t);
		stored = rc == 0;
		if (rc < 0)
			(void)refuse(ret, rc, "", "the store %s: %s", env.store, strerror(-rc));
	}
	if (rc == 0)
		rc = region_not_locking(t, env.region, ret);
	if (rc == 0)
		rc = environment_start(t, &env, ek, ret);
	KEY_FREE(ek);
	if (rc < 0) {
		if (stored)
			(void)!store_remove(env.store);
		if (registered)
			(void)!registry_env_remove(t->registry, env.name);
		if (registered)
			mountpoint_guard(env.mountpoint, false);
	}
	return rc;
}

/* Whether a lock came since the request began; then that stays. */
static int environment_not_locked_since(struct tenant *t, const struct registry_env *env, struct refusal *ret)
{
	struct registry_env now;
	int rc = registry_env_get(t->registry, env->name, &now);

	if (rc == 0 && now.state != env->state)
		return refuse(ret, -ENOKEY, "L7", "%s was locked meanwhile", env->name);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

static int environment_set_state(struct tenant *t, const struct registry_env *env, enum env_state state, struct refusal *ret)
{
	int rc = environment_not_locked_since(t, env, ret);

	if (rc < 0)
		return rc;
	rc = registry_env_set_state(t->registry, env->name, state);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

static int environment_bring_up(struct tenant *t, const struct registry_env *env, struct refusal *ret)
{
	struct env_key *ek = KEY_NEW(struct env_key);
	int rc = ek ? environment_unwrap(t, env, ek, ret) : refuse(ret, -ENOMEM, "", "out of secure memory");

	if (rc == 0)
		rc = region_not_locking(t, env->region, ret);
	if (rc == 0)
		rc = environment_not_locked_since(t, env, ret);
	if (rc == 0)
		rc = environment_start(t, env, ek, ret);
	KEY_FREE(ek);
	if (rc < 0)
		return rc;
	rc = environment_set_state(t, env, ENV_MOUNTED, ret);
	return rc < 0 ? environment_down_again(t, env, rc) : 0;
}

int environment_mount(struct tenant *t, const char *name, const char *accept_older, struct refusal *ret)
{
	struct registry_env env;
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = claim_take(t, name, "is being mounted", &claim, ret);

	if (rc == 0)
		rc = environment_get(t, name, &env, ret);

	if (rc < 0)
		return rc;
	if (env.state == ENV_TENANT_LOCKED)
		return refuse(ret, -ENOKEY, "L7", "%s is locked with its region: unlock the key (keyctl key unlock), then it (keyctl env unlock %s)",
			name, name);
	if (env.state == ENV_LOCKED)
		return refuse(ret, -ENOKEY, "L7", "%s is locked: keyctl unlock %s opens it", name, name);
	if (t->workers.alive(t->workers.ctx, name))
		return refuse(ret, -EALREADY, "", "%s is mounted already on %s", name, env.mountpoint);
	if (accept_older && !accept_older[0])
		return refuse(ret, -EINVAL, "", "the reason for accepting an older store is empty");
	if (accept_older) {
		rc = registry_env_forget_epoch(t->registry, name);
		if (rc < 0)
			return registry_refusal(rc, ret);
		env.epoch = 0;
		env.clean = false;
	}
	rc = environment_bring_up(t, &env, ret);
	if (rc == 0 && accept_older) {
		char said[200];

		snprintf(said, sizeof(said), "%.190s", ret->text);
		snprintf(ret->text, sizeof(ret->text), "an older store is accepted: %.250s%s%s", accept_older, said[0] ? "; " : "", said);
	}
	return rc;
}

int environment_resume(struct tenant *t, const char *name, struct refusal *ret)
{
	struct registry_env env;
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = claim_take(t, name, "is being mounted", &claim, ret);

	if (rc == 0)
		rc = environment_get(t, name, &env, ret);

	if (rc < 0 || env.state != ENV_MOUNTED || t->workers.alive(t->workers.ctx, name))
		return rc;
	return environment_bring_up(t, &env, ret);
}

/* ---- down and up ---- */

int environment_unmount(struct tenant *t, const char *name, bool force, struct refusal *ret)
{
	struct registry_env env;
	struct users users = {0};
	char text[480] = "";
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = claim_take(t, name, "is being unmounted", &claim, ret);

	if (rc == 0)
		rc = environment_get(t, name, &env, ret);

	if (rc < 0)
		return rc;
	if (environment_is_locked(&env))
		return refuse(ret, -ENOKEY, "L7", "%s is locked, and so not mounted", name);
	if (env.state == ENV_UNMOUNTED && !t->workers.alive(t->workers.ctx, name))
		return refuse(ret, -EALREADY, "", "%s is not mounted", name);
	rc = t->workers.stop(t->workers.ctx, &env, force, &users, text);
	if (rc == -EBUSY && !text[0]) {
		char names[200];

		users_text(&users, names, sizeof(names));
		return refuse(ret, rc, "", "%s is in use by %s: stop them first, or use --force", name, users.count ? names : "processes");
	}
	if (rc < 0)
		return refuse(ret, rc, "", "%s: %s", name, text[0] ? text : strerror(-rc));
	return environment_set_state(t, &env, ENV_UNMOUNTED, ret);
}

int environment_take_down(struct tenant *t, const struct registry_env *env, struct users *ret_users, struct refusal *ret)
{
	const struct claim *other = claim_find(t, env->name);
	CLEANUP(claim_done) struct claim claim = {0};
	char text[480] = "";
	int rc = 0;

	*ret_users = (struct users){0};
	/* Whoever works on it waits for its worker or its disk, perhaps for ever: the worker's end ends that. */
	if (other && !other->ends)
		rc = t->workers.lock(t->workers.ctx, env, ret_users, text);
	if (rc == 0)
		rc = claim_take(t, env->name, "is being locked", &claim, ret);
	if (rc < 0)
		return ret->text[0] ? rc : refuse(ret, rc, "", "%s: its worker: %s", env->name, text[0] ? text : strerror(-rc));
	claim.ends = true;
	/* What that one did last may have been to call it mounted. */
	struct registry_env now;
	rc = registry_env_get(t->registry, env->name, &now);
	if (rc == 0 && now.state != env->state)
		rc = registry_env_set_state(t->registry, env->name, env->state);
	if (rc < 0)
		return registry_refusal(rc, ret);
	struct users none;
	rc = t->workers.stop(t->workers.ctx, env, true, ret_users->count || ret_users->unknown ? &none : ret_users, text);
	snprintf(ret->text, sizeof(ret->text), "%s", text);
	return rc < 0 ? refuse(ret, rc, "", "%s is locked, but its worker: %s", env->name, text[0] ? text : strerror(-rc)) : 0;
}

int environment_lock(struct tenant *t, const char *name, struct users *ret_users, struct refusal *ret)
{
	struct registry_env env;
	int rc = environment_get(t, name, &env, ret);

	*ret_users = (struct users){0};
	if (rc < 0)
		return rc;
	/* Two at once: the second waits for the first, and says so. */
	const struct claim *other = claim_find(t, name);
	if (environment_is_locked(&env) && other && other->ends) {
		CLEANUP(claim_done) struct claim claim = {0};

		rc = claim_take(t, name, "is being locked", &claim, ret);
		if (rc < 0)
			return rc;
		rc = environment_get(t, name, &env, ret);
		if (rc < 0)
			return rc;
	}
	if (environment_is_locked(&env) && !claim_find(t, name) && !t->workers.alive(t->workers.ctx, name))
		return refuse(ret, -ENOKEY, "L7", "%s is locked already", name);
	/* Locked in the registry first: whatever happens now, nobody mounts it again. Where that cannot be written it goes on: what its
	 * owner wants now is that nobody reads it. */
	int recorded = 0;
	if (!environment_is_locked(&env)) {
		env.state = ENV_LOCKED;
		recorded = registry_env_lock(t->registry, name);
	}
	rc = environment_take_down(t, &env, ret_users, ret);
	return rc == 0 && recorded < 0
		       ? refuse(ret, recorded, "", "%s is locked, its keys wiped, but the registry under %s cannot be written (%s): until it can, "
						   "do not restart tdefsd, which would mount it again", name, t->state_dir, strerror(-recorded))
		       : rc;
}

int environment_unlock(struct tenant *t, const char *name, bool confirmed, struct refusal *ret)
{
	struct env_key_source source;
	struct registry_key key;
	struct registry_env env;
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = claim_take(t, name, "is being unlocked", &claim, ret);

	if (rc == 0)
		rc = environment_get(t, name, &env, ret);

	if (rc < 0)
		return rc;
	if (!environment_is_locked(&env))
		return refuse(ret, -EALREADY, "", "%s is not locked", name);
	rc = operation_none(t, env.region, ret);
	if (rc < 0 || env.state == ENV_LOCKED)
		return rc < 0 ? rc : environment_bring_up(t, &env, ret);
	rc = environment_source(t, &env, &source, ret);
	if (rc < 0)
		return rc;
	rc = registry_key_by_fingerprint(t->registry, source.fingerprint, &key);
	if (rc < 0)
		return refuse(ret, -EPERM, "U3", "%s is wrapped to the key %s (%.16s), which this tenant does not know", name, source.key_name,
			source.fingerprint);
	if (key.state == KEY_LOCKED || key.state == KEY_INSTALLING || key.state == KEY_DELETED)
		return refuse(ret, -EPERM, "U3", "the key %s of %s is %s: unlock it first with keyctl key unlock %s FILE", key.name, name,
			key_state_name(key.state), key.name);
	if (!confirmed)
		return refuse(ret, -EPERM, "U3", "unlocking %s makes its data readable again: confirm with --yes", name);
	return environment_bring_up(t, &env, ret);
}

/* ---- of another tdefsd ---- */

/* The header's MAC says whether the wrap's key is really this store's. */
static int attach_check(struct tenant *t, const struct registry_env *env, const struct env_key *ek, struct refusal *ret)
{
	struct envheader h = {0};

	tenant_let_go(t);
	CLEANUP_CLOSE int fd = open(env->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 ? -errno : envheader_read(fd, ek, &h);

	tenant_take_again(t);
	envheader_done(&h);
	return rc < 0 ? refuse(ret, rc, "", "the header of %s was changed, or its wraps are another store's: restore tdefs.env from a copy",
				env->store)
		      : 0;
}

int environment_attach(struct tenant *t, const struct environment_request *request, const struct rsa_key *key,
	const struct platform_key *platform, struct refusal *ret)
{
	struct env_key_source source;
	struct registry_key active;
	struct registry_env env;
	struct env_key *ek = NULL;
	bool registered = false;
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = claim_take(t, request->name, "is being attached", &claim, ret);

	if (rc == 0)
		rc = request->store ? environment_check_request(t, request, &env, ret)
				    : refuse(ret, -EINVAL, "", "attach takes --store DIR, the store to bring back");

	if (rc == 0)
		rc = operation_none(t, env.region, ret);
	if (rc < 0)
		return rc;
	ek = KEY_NEW(struct env_key);
	rc = ek ? environment_unwrap_with(t, &env, key, platform, ek, ret) : refuse(ret, -ENOMEM, "", "out of secure memory");
	if (rc == 0)
		rc = attach_check(t, &env, ek, ret);
	if (rc == 0)
		rc = environment_source(t, &env, &source, ret);
	/* What the rules on locks and activations take for granted: it is under one of these two, and no activation has passed it by. */
	bool ours = rc == 0 && (strcmp(source.fingerprint, platform_key_fingerprint(t->platform_key)) == 0 ||
				       (registry_key_of_region(t->registry, env.region, KEY_ACTIVE, &active) == 0 &&
					       strcmp(active.fingerprint, source.fingerprint) == 0));
	if (rc == 0 && !ours) {
		rc = environment_replace_wrap(t, &env, NULL, ek, ret);
		if (rc == -EBUSY)
			(void)refuse(ret, rc, "", "the store %s is mounted by another tdefsd", env.store);
	}
	if (rc == 0)
		rc = operation_none(t, env.region, ret);
	if (rc == 0) {
		rc = registry_env_add(t->registry, &env);
		registered = rc == 0;
		if (rc < 0)
			(void)(rc == -EEXIST ? refuse(ret, rc, "", "another environment has this store or mount point")
					     : registry_refusal(rc, ret));
	}
	if (rc == 0)
		rc = environment_start(t, &env, ek, ret);
	KEY_FREE(ek);
	if (rc < 0 && registered) {
		(void)!registry_env_remove(t->registry, env.name);
		mountpoint_guard(env.mountpoint, false);
	}
	return rc;
}

/* ---- the end ---- */

int environment_remove(struct tenant *t, const struct registry_env *env, struct refusal *ret)
{
	struct users users = {0};
	char text[480] = "";
	int rc = t->workers.stop(t->workers.ctx, env, false, &users, text);

	if (rc < 0)
		return refuse(ret, rc, "", "%s: %s: unmount it first", env->name, text[0] ? text : strerror(-rc));
	tenant_let_go(t);
	rc = store_remove(env->store);
	mountpoint_guard(env->mountpoint, rc < 0);
	tenant_take_again(t);
	if (rc < 0)
		return refuse(ret, rc, "", "the store %s could not be removed whole: %s", env->store, strerror(-rc));
	rc = registry_env_remove(t->registry, env->name);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

int environment_delete(struct tenant *t, const char *name, const char *confirm, struct refusal *ret)
{
	CLEANUP(claim_done) struct claim claim = {0};
	struct registry_env env;
	int rc = claim_take(t, name, "is being deleted", &claim, ret);

	if (rc == 0)
		rc = environment_get(t, name, &env, ret);
	if (rc < 0)
		return rc;
	if (strcmp(confirm, name) != 0)
		return refuse(ret, -EINVAL, "A2", "deleting %s destroys its data: confirm with --confirm %s", name, name);
	return environment_remove(t, &env, ret);
}
