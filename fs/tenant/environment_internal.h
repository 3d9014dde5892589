/* environment_internal: shared by environment.c (its life) and environment_key.c (the keys it is under). */
#pragma once
#include "tenant/environment.h"

static inline bool environment_is_locked(const struct registry_env *env)
{
	return env->state == ENV_LOCKED || env->state == ENV_TENANT_LOCKED;
}

/* environment_key.c. */
int environment_wrap_by_platform(struct tenant *t, const struct env_key *ek, struct env_wrap *ret) MUST_CHECK;
/* environment_unwrap with a key that is given: one of the two, or neither; then with those that we hold. */
int environment_unwrap_with(struct tenant *t, const struct registry_env *env, const struct rsa_key *key,
	const struct platform_key *platform, struct env_key *ek, struct refusal *ret) MUST_CHECK;
/* environment_rewrap for who has its key. */
int environment_replace_wrap(struct tenant *t, const struct registry_env *env, const struct registry_key *key,
	const struct env_key *ek, struct refusal *ret) MUST_CHECK;
