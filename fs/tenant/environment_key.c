/* environment_key: which keys an environment's key is wrapped by; its wraps lie in the store's header. */
#include "tenant/environment_internal.h"

#include "base/patience.h"
#include "tenant/claim.h"
#include "tenant/operation.h"

#include <stdio.h>
#include <string.h>

#define STORE_LIMIT_MS 15000 /* for a store's disk to answer */

/* ---- wraps ---- */

int environment_wrap_by_platform(struct tenant *t, const struct env_key *ek, struct env_wrap *ret)
{
	*ret = (struct env_wrap){.source = "platform", .key_name = "platform", .algorithm = "AES-256-KWP", .ek_version = 1,
		.blob_len = PLATFORM_WRAP_SIZE};
	strcpy(ret->fingerprint, platform_key_fingerprint(t->platform_key));
	return platform_key_wrap(t->platform_key, ek, ret->blob);
}

static int wrap_by_tenant_key(const struct registry_key *key, const struct env_key *ek, struct env_wrap *ret)
{
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	uint8_t public[RSA_PUBLIC_MAX];
	size_t len = strlen(key->public_hex) / 2;
	int rc = len <= sizeof(public) ? hex_decode(key->public_hex, public, len) : -EUCLEAN;

	*ret = (struct env_wrap){.source = "tenant", .algorithm = "RSA-OAEP-SHA256", .ek_version = 1};
	strcpy(ret->fingerprint, key->fingerprint);
	strcpy(ret->key_name, key->name);
	if (rc == 0)
		rc = rsa_from_public(public, len, &k);
	if (rc == 0 && strcmp(rsa_fingerprint(k), key->fingerprint) != 0)
		rc = -EUCLEAN;
	return rc < 0 ? rc : rsa_wrap(k, ek->b, sizeof(ek->b), ret->blob, &ret->blob_len);
}

struct header_work {
	char store[sizeof(((struct registry_env *)0)->store)];
	struct envheader h;
};

static int header_work_run(void *work)
{
	struct header_work *w = work;

	return envheader_read_path(w->store, &w->h);
}

static void header_work_done(void *work)
{
	struct header_work *w = work;

	envheader_done(&w->h);
	free(w);
}

static int header_read(struct tenant *t, const struct registry_env *env, unsigned limit_ms, struct envheader *ret_h, struct refusal *ret)
{
	struct header_work *w = calloc(1, sizeof(*w));

	if (!w)
		return refuse(ret, -ENOMEM, "", "out of memory");
	strcpy(w->store, env->store);
	tenant_let_go(t);
	int rc = patience(header_work_run, w, header_work_done, limit_ms);
	tenant_take_again(t);
	if (rc == 0)
		*ret_h = w->h;
	if (rc != -ETIMEDOUT)
		free(w);
	if (rc == -ENOENT)
		return refuse(ret, rc, "", "there is no store at %s: was it moved, or is its disk not mounted?", env->store);
	if (rc == -EUCLEAN)
		return refuse(ret, rc, "", "%s is not a tdefs store, or its header is damaged: restore tdefs.env from a copy", env->store);
	if (rc == -ENOTSUP)
		return refuse(ret, rc, "", "the store %s was made by a newer version of tdefs", env->store);
	if (rc == -ETIMEDOUT)
		return refuse(ret, rc, "", "the store %s: its disk does not answer", env->store);
	return rc < 0 ? refuse(ret, rc, "", "the store %s: %s", env->store, strerror(-rc)) : 0;
}

int environment_source_within(struct tenant *t, const struct registry_env *env, unsigned limit_ms, struct env_key_source *ret_source,
	struct refusal *ret)
{
	struct envheader h = {0};
	int rc = header_read(t, env, limit_ms, &h, ret);

	if (rc < 0)
		return rc;
	*ret_source = (struct env_key_source){0};
	strcpy(ret_source->source, h.wraps[0].source);
	strcpy(ret_source->fingerprint, h.wraps[0].fingerprint);
	strcpy(ret_source->key_name, h.wraps[0].key_name);
	envheader_done(&h);
	return 0;
}

int environment_source(struct tenant *t, const struct registry_env *env, struct env_key_source *ret_source, struct refusal *ret)
{
	return environment_source_within(t, env, STORE_LIMIT_MS, ret_source, ret);
}

/* One wrap, by a key that is given, or by the one of ours that it names. */
static int wrap_open(struct tenant *t, const struct env_wrap *w, const struct rsa_key *key, const struct platform_key *platform,
	struct env_key *ek)
{
	size_t n = sizeof(ek->b);
	int rc;

	if (strcmp(w->source, "platform") == 0)
		return platform_key_unwrap(platform ? platform : t->platform_key, w->blob, w->blob_len, ek);
	rc = key ? rsa_unwrap(key, w->blob, w->blob_len, ek->b, sizeof(ek->b), &n)
		 : vault_unwrap(t->vault, w->fingerprint, w->blob, w->blob_len, ek->b, sizeof(ek->b), &n);
	return rc == 0 && n != sizeof(ek->b) ? -EKEYREJECTED : rc;
}

int environment_unwrap_with(struct tenant *t, const struct registry_env *env, const struct rsa_key *key,
	const struct platform_key *platform, struct env_key *ek, struct refusal *ret)
{
	struct envheader h = {0};
	char by[120] = "";
	int rc = header_read(t, env, STORE_LIMIT_MS, &h, ret), unwrapped = -ENOKEY;

	if (rc < 0)
		return rc;
	for (size_t k = 0; unwrapped < 0 && k < h.wrap_count; k++)
		unwrapped = wrap_open(t, &h.wraps[k], key, platform, ek);
	/* An attach that was cut off may have moved it to a key of ours already. */
	for (size_t k = 0; unwrapped < 0 && (key || platform) && k < h.wrap_count; k++)
		unwrapped = wrap_open(t, &h.wraps[k], NULL, NULL, ek);
	snprintf(by, sizeof(by), "%s key %.60s (%.16s)", h.wraps[0].source, h.wraps[0].key_name, h.wraps[0].fingerprint);
	envheader_done(&h);
	return unwrapped < 0 ? refuse(ret, -EKEYREJECTED, "", "the store %s opens with the %s, and %s", env->store, by,
				       key || platform ? "not with the one given" : "this tdefsd does not hold that")
			     : 0;
}

int environment_unwrap(struct tenant *t, const struct registry_env *env, struct env_key *ek, struct refusal *ret)
{
	return environment_unwrap_with(t, env, NULL, NULL, ek, ret);
}

/* The header of a store that no worker holds. */
struct rewrap_work {
	char store[sizeof(((struct registry_env *)0)->store)];
	struct env_key *ek;
	struct env_wrap wrap;
};

static int rewrap_work_run(void *work)
{
	const struct rewrap_work *w = work;

	return envheader_rewrap(w->store, w->ek, &w->wrap, 1);
}

static void rewrap_work_done(void *work)
{
	struct rewrap_work *w = work;

	KEY_FREE(w->ek);
	free(w);
}

static int environment_rewrap_store(struct tenant *t, const struct registry_env *env, const struct env_key *ek, const struct env_wrap *wrap)
{
	struct rewrap_work *w = calloc(1, sizeof(*w));
	int rc = w && (w->ek = KEY_NEW(struct env_key)) ? 0 : -ENOMEM;

	if (rc == 0) {
		strcpy(w->store, env->store);
		*w->ek = *ek;
		w->wrap = *wrap;
		tenant_let_go(t);
		rc = patience(rewrap_work_run, w, rewrap_work_done, STORE_LIMIT_MS);
		tenant_take_again(t);
	}
	if (w && rc != -ETIMEDOUT)
		rewrap_work_done(w);
	return rc;
}

int environment_replace_wrap(struct tenant *t, const struct registry_env *env, const struct registry_key *key,
	const struct env_key *ek, struct refusal *ret)
{
	struct env_wrap wrap;
	char text[480] = "";
	int rc = key ? wrap_by_tenant_key(key, ek, &wrap) : environment_wrap_by_platform(t, ek, &wrap);

	if (rc < 0)
		return refuse(ret, rc, "", "%s could not be wrapped to %s: %s", env->name, key ? key->name : "the platform key", strerror(-rc));
	rc = t->workers.alive(t->workers.ctx, env->name) ? t->workers.rewrap(t->workers.ctx, env->name, &wrap, 1, text)
							 : environment_rewrap_store(t, env, ek, &wrap);
	return rc < 0 ? refuse(ret, rc, "", "the header of %s could not be replaced: %s", env->name, text[0] ? text : strerror(-rc)) : 0;
}

int environment_rewrap(struct tenant *t, const struct registry_env *env, const struct registry_key *key, struct refusal *ret)
{
	struct env_key *ek = KEY_NEW(struct env_key);
	int rc = ek ? environment_unwrap(t, env, ek, ret) : refuse(ret, -ENOMEM, "", "out of secure memory");

	if (rc == 0)
		rc = environment_replace_wrap(t, env, key, ek, ret);
	KEY_FREE(ek);
	return rc;
}

/* ---- which key it is under ---- */

/* Claims an environment whose key can be changed now. */
static int environment_claim_changeable(struct tenant *t, const char *name, struct claim *claim, struct registry_env *env,
	struct env_key_source *source, struct refusal *ret)
{
	int rc = claim_take(t, name, "is getting another key", claim, ret);

	if (rc == 0)
		rc = environment_get(t, name, env, ret);
	if (rc < 0)
		return rc;
	if (environment_is_locked(env))
		return refuse(ret, -ENOKEY, "L7", "%s is locked: its key cannot be changed", name);
	rc = operation_none(t, env->region, ret);
	return rc < 0 ? rc : environment_source(t, env, source, ret);
}

int environment_apply(struct tenant *t, const char *name, struct refusal *ret)
{
	struct env_key_source source;
	struct registry_key active;
	struct registry_env env;
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = environment_claim_changeable(t, name, &claim, &env, &source, ret);

	if (rc < 0)
		return rc;
	rc = registry_key_of_region(t->registry, env.region, KEY_ACTIVE, &active);
	if (rc == -ENOENT)
		return refuse(ret, -EPERM, "E2", "region %s has no active key: generate, upload or activate one first", env.region);
	if (rc < 0)
		return registry_refusal(rc, ret);
	if (strcmp(source.fingerprint, active.fingerprint) == 0)
		return refuse(ret, -EALREADY, "E2", "%s is under the active key %s already", name, active.name);
	return environment_rewrap(t, &env, &active, ret);
}

int environment_return(struct tenant *t, const char *name, const char *confirm, bool confirmed, struct refusal *ret)
{
	struct env_key_source source;
	struct registry_env env;
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = environment_claim_changeable(t, name, &claim, &env, &source, ret);

	if (rc < 0)
		return rc;
	if (strcmp(source.source, "platform") == 0)
		return refuse(ret, -EALREADY, "E3", "%s is under the platform key already", name);
	if (confirm && strcmp(confirm, name) != 0)
		return refuse(ret, -EPERM, "E3", "that is not the name of %s: to return it, type its name (--confirm %s)", name, name);
	if (!confirm && strcmp(env.type, "production") == 0)
		return refuse(ret, -EPERM, "E3", "%s is a production environment: to return it, type its name (--confirm %s)", name, name);
	if (!confirm && !confirmed)
		return refuse(ret, -EPERM, "A2", "the operator's platform key will open the data of %s again: confirm with --yes", name);
	return environment_rewrap(t, &env, NULL, ret);
}

int environment_rotate(struct tenant *t, const char *name, bool data, struct refusal *ret)
{
	struct env_key_source source;
	struct registry_env env;
	struct registry_key key;
	struct env_wrap wrap;
	char text[480] = "";
	CLEANUP(claim_done) struct claim claim = {0};
	int rc = environment_claim_changeable(t, name, &claim, &env, &source, ret);

	if (rc < 0)
		return rc;
	if (!t->workers.alive(t->workers.ctx, name))
		return refuse(ret, -ENOTCONN, "", "%s is not mounted: mount it, its worker rotates the key", name);
	bool platform = strcmp(source.source, "platform") == 0;
	if (!platform && registry_key_by_fingerprint(t->registry, source.fingerprint, &key) < 0)
		return refuse(ret, -EPERM, "", "%s is under the key %s, which this tenant does not know", name, source.key_name);
	struct env_key *ek = KEY_NEW(struct env_key);
	rc = ek ? secret_random(ek->b, sizeof(ek->b)) : -ENOMEM;
	if (rc == 0)
		rc = platform ? environment_wrap_by_platform(t, ek, &wrap) : wrap_by_tenant_key(&key, ek, &wrap);
	if (rc < 0)
		(void)refuse(ret, rc, "", "no key could be made: %s", strerror(-rc));
	else
		rc = t->workers.rotate(t->workers.ctx, name, ek, &wrap, 1, data, text);
	KEY_FREE(ek);
	if (rc == -EALREADY)
		return refuse(ret, rc, "", "a rotation of %s is under way: keyctl rotate %s --status shows how far it is", name, name);
	return rc < 0 && !ret->text[0] ? refuse(ret, rc, "", "%s: %s", name, text[0] ? text : strerror(-rc)) : rc;
}
