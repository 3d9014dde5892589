/* environment: see environment.h. */
#include "tenant/environment.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int registry_refusal(int rc, struct refusal *ret)
{
	return refuse(ret, rc, "", "the registry: %s", strerror(-rc));
}

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

/* ---- keys ---- */

static int wrap_by_platform_key(struct tenant *t, const struct env_key *ek, struct env_wrap *ret)
{
	*ret = (struct env_wrap){.source = "platform", .key_name = "platform", .algorithm = "AES-256-KWP", .ek_version = 1,
		.blob_len = PLATFORM_WRAP_SIZE};
	strcpy(ret->fingerprint, platform_key_fingerprint(t->platform_key));
	return platform_key_wrap(t->platform_key, ek, ret->blob);
}

/* The environment key from whichever wrap a key that we hold opens. */
static int environment_unwrap(struct tenant *t, const struct registry_env *env, struct env_key *ek, struct refusal *ret)
{
	struct envheader h = {0};
	int rc = envheader_read_path(env->store, &h), unwrapped = -ENOKEY;

	if (rc == -ENOENT)
		return refuse(ret, rc, "", "there is no store at %s: was it moved, or is its disk not mounted?", env->store);
	if (rc == -EUCLEAN)
		return refuse(ret, rc, "", "%s is not a tdefs store, or its header is damaged: restore tdefs.env from a copy", env->store);
	if (rc == -ENOTSUP)
		return refuse(ret, rc, "", "the store %s was made by a newer version of tdefs", env->store);
	if (rc < 0)
		return refuse(ret, rc, "", "the store %s: %s", env->store, strerror(-rc));
	for (size_t k = 0; unwrapped < 0 && k < h.wrap_count; k++)
		if (strcmp(h.wraps[k].source, "platform") == 0)
			unwrapped = platform_key_unwrap(t->platform_key, h.wraps[k].blob, h.wraps[k].blob_len, ek);
	envheader_done(&h);
	if (unwrapped < 0)
		return refuse(ret, -EKEYREJECTED, "", "no key that this tdefsd holds opens the store %s", env->store);
	return 0;
}

/* ---- life ---- */

static int environment_start(struct tenant *t, const struct registry_env *env, const struct env_key *ek, struct refusal *ret)
{
	char text[480] = "";
	uint64_t epoch = 0;

	mountpoint_guard(env->mountpoint, true);
	int rc = t->workers.start(t->workers.ctx, env, ek, &epoch, text);
	if (rc == -ESTALE)
		return refuse(ret, rc, "", "%s: %s. If it was restored from a backup on purpose, delete the environment and attach it",
			env->name, text);
	if (rc < 0)
		return refuse(ret, rc, "", "%s: %s", env->name, text[0] ? text : strerror(-rc));
	rc = registry_env_set_epoch(t->registry, env->name, epoch);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
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
	rc = check_store(given, &store, ret);
	if (rc == 0)
		rc = check_mountpoint(request->mountpoint, store, &mountpoint, ret);
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

int environment_create(struct tenant *t, const struct environment_request *request, struct refusal *ret)
{
	struct registry_env env;
	struct env_wrap wrap;
	struct env_key *ek = NULL;
	bool stored = false, registered = false;
	int rc = environment_check_request(t, request, &env, ret);

	if (rc < 0)
		return rc;
	ek = KEY_NEW(struct env_key);
	rc = ek ? secret_random(ek->b, sizeof(ek->b)) : -ENOMEM;
	if (rc == 0)
		rc = wrap_by_platform_key(t, ek, &wrap);
	if (rc < 0)
		(void)refuse(ret, rc, "", "no key could be made: %s", strerror(-rc));
	if (rc == 0) {
		rc = envheader_create(env.store, ek, &wrap, 1);
		stored = rc == 0;
		if (rc == -ENOTEMPTY)
			(void)refuse(ret, rc, "", "the store %s: the directory is not empty", env.store);
		else if (rc < 0)
			(void)refuse(ret, rc, "", "the store %s: %s", env.store, strerror(-rc));
	}
	if (rc == 0) {
		rc = registry_env_add(t->registry, &env);
		registered = rc == 0;
		if (rc == -EEXIST)
			(void)refuse(ret, rc, "", "another environment uses the mount point %s or the store %s", env.mountpoint, env.store);
		else if (rc < 0)
			(void)registry_refusal(rc, ret);
	}
	if (rc == 0)
		rc = environment_start(t, &env, ek, ret);
	KEY_FREE(ek);
	if (rc < 0) {
		if (registered)
			(void)!registry_env_remove(t->registry, env.name);
		if (registered)
			mountpoint_guard(env.mountpoint, false);
		if (stored)
			(void)!store_remove(env.store);
	}
	return rc;
}

static int environment_bring_up(struct tenant *t, const struct registry_env *env, struct refusal *ret)
{
	struct env_key *ek = KEY_NEW(struct env_key);
	int rc = ek ? environment_unwrap(t, env, ek, ret) : refuse(ret, -ENOMEM, "", "out of secure memory");

	if (rc == 0)
		rc = environment_start(t, env, ek, ret);
	KEY_FREE(ek);
	if (rc == 0) {
		rc = registry_env_set_state(t->registry, env->name, ENV_MOUNTED);
		if (rc < 0)
			return registry_refusal(rc, ret);
	}
	return rc;
}

int environment_mount(struct tenant *t, const char *name, struct refusal *ret)
{
	struct registry_env env;
	int rc = environment_get(t, name, &env, ret);

	if (rc < 0)
		return rc;
	if (env.state == ENV_LOCKED)
		return refuse(ret, -ENOKEY, "L7", "%s is locked: keyctl unlock %s opens it", name, name);
	if (t->workers.alive(t->workers.ctx, name))
		return refuse(ret, -EALREADY, "", "%s is mounted already on %s", name, env.mountpoint);
	return environment_bring_up(t, &env, ret);
}

int environment_resume(struct tenant *t, const char *name, struct refusal *ret)
{
	struct registry_env env;
	int rc = environment_get(t, name, &env, ret);

	if (rc < 0 || env.state != ENV_MOUNTED || t->workers.alive(t->workers.ctx, name))
		return rc;
	return environment_bring_up(t, &env, ret);
}

int environment_unmount(struct tenant *t, const char *name, bool force, struct refusal *ret)
{
	struct registry_env env;
	struct link_status status = {0};
	char text[480] = "";
	int rc = environment_get(t, name, &env, ret);

	if (rc < 0)
		return rc;
	if (env.state == ENV_LOCKED)
		return refuse(ret, -ENOKEY, "L7", "%s is locked, and so not mounted", name);
	if (env.state == ENV_UNMOUNTED && !t->workers.alive(t->workers.ctx, name))
		return refuse(ret, -EALREADY, "", "%s is not mounted", name);
	rc = t->workers.stop(t->workers.ctx, &env, false, force, &status, text);
	if (rc == -EBUSY) {
		char users[200] = "";

		for (uint32_t k = 0; k < MIN(status.user_count, 5u); k++)
			snprintf(users + strlen(users), sizeof(users) - strlen(users), " %s (%d)", status.users[k].name,
				status.users[k].pid);
		return refuse(ret, rc, "", "%s is in use by%s%s: stop them first, or use --force", name, users,
			status.user_count > 5 ? " and others" : "");
	}
	if (rc < 0)
		return refuse(ret, rc, "", "%s: %s", name, text[0] ? text : strerror(-rc));
	rc = registry_env_set_state(t->registry, name, ENV_UNMOUNTED);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

int environment_lock(struct tenant *t, const char *name, struct link_status *ret_status, struct refusal *ret)
{
	struct registry_env env;
	char text[480] = "";
	int rc = environment_get(t, name, &env, ret);

	*ret_status = (struct link_status){0};
	if (rc < 0)
		return rc;
	if (env.state == ENV_LOCKED)
		return refuse(ret, -ENOKEY, "L7", "%s is locked already", name);
	/* Locked in the registry first: whatever happens now, nobody mounts it again. */
	rc = registry_env_set_state(t->registry, name, ENV_LOCKED);
	if (rc < 0)
		return registry_refusal(rc, ret);
	if (env.state == ENV_MOUNTED || t->workers.alive(t->workers.ctx, name)) {
		rc = t->workers.stop(t->workers.ctx, &env, true, true, ret_status, text);
		if (rc < 0)
			return refuse(ret, rc, "", "%s is locked, but its worker: %s", name, text[0] ? text : strerror(-rc));
		snprintf(ret->text, sizeof(ret->text), "%s", text);
	}
	return 0;
}

int environment_unlock(struct tenant *t, const char *name, struct refusal *ret)
{
	struct registry_env env;
	int rc = environment_get(t, name, &env, ret);

	if (rc < 0)
		return rc;
	if (env.state != ENV_LOCKED)
		return refuse(ret, -EALREADY, "", "%s is not locked", name);
	return environment_bring_up(t, &env, ret);
}

int environment_delete(struct tenant *t, const char *name, const char *confirm, struct refusal *ret)
{
	struct registry_env env;
	struct link_status status = {0};
	char text[480] = "";
	int rc = environment_get(t, name, &env, ret);

	if (rc < 0)
		return rc;
	if (strcmp(confirm, name) != 0)
		return refuse(ret, -EINVAL, "A2", "deleting %s destroys its data: confirm with --confirm %s", name, name);
	if (t->workers.alive(t->workers.ctx, name)) {
		rc = t->workers.stop(t->workers.ctx, &env, false, false, &status, text);
		if (rc < 0)
			return refuse(ret, rc, "", "%s: %s: unmount it first", name, text[0] ? text : strerror(-rc));
	}
	rc = store_remove(env.store);
	if (rc < 0)
		return refuse(ret, rc, "", "the store %s could not be removed whole: %s", env.store, strerror(-rc));
	mountpoint_guard(env.mountpoint, false);
	rc = registry_env_remove(t->registry, name);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}
