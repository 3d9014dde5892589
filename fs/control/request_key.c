/* request_key: the requests on keys, and on which key an environment is under. */
#include "control/request_internal.h"

#include "base/log.h"
#include "tenant/claim.h"
#include "tenant/guard.h"
#include "tenant/key.h"
#include "vault/byok.h"
#include "vault/pfx.h"

#include <stdio.h>
#include <string.h>

/* Reading a key file costs a second of CPU and secret memory by design: one at a time. */
static pthread_mutex_t key_file_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- key files ---- */

static int read_byok(struct request *rq, const struct secret *file)
{
	char kid[160], why[200];
	struct registry_key exchange;

	pthread_mutex_lock(&rq->k->lock);
	int rc = key_exchange(&rq->k->tenant, &exchange, kid, &rq->refusal);
	pthread_mutex_unlock(&rq->k->lock);
	if (rc < 0)
		return rc;
	rc = vault_read_byok(rq->k->tenant.vault, exchange.fingerprint, kid, file->b, file->len, &rq->key, why);
	return rc < 0 ? refuse(&rq->refusal, rc, "K3", "the .byok file: %s", why) : 0;
}

static int read_key_file(struct request *rq, const struct secret *file, const struct secret *password)
{
	const char *why;
	int rc;

	if (platform_key_is_file(file->b, file->len))
		return platform_key_from_bytes(file->b, file->len, &rq->platform);
	if (file->len && file->b[0] == '{') {
		rq->key_origin = "byok";
		return read_byok(rq, file);
	}
	rq->key_origin = "pfx";
	rc = pfx_read(file->b, file->len, password, &rq->key, &why);
	return rc < 0 ? refuse(&rq->refusal, rc == -ENOKEY ? -EKEYREJECTED : rc, "K2", "the key file: %s", why) : 0;
}

int prepare_optional_key_file(struct request *rq)
{
	CLEANUP(secret_done) struct secret file = {0}, password = {0};

	pthread_mutex_lock(&key_file_lock);
	int rc = parameter_secret(rq, "key", false, MAX(PFX_MAX, BYOK_MAX), &file);
	if (rc == 0)
		rc = parameter_secret(rq, "password", false, PFX_PASSWORD_MAX, &password);
	if (rc == 0 && file.b)
		rc = read_key_file(rq, &file, &password);
	pthread_mutex_unlock(&key_file_lock);
	return rc;
}

int prepare_key_file(struct request *rq)
{
	int rc = prepare_optional_key_file(rq);

	if (rc == 0 && !rq->key && !rq->platform) {
		snprintf(rq->bad_parameter, sizeof(rq->bad_parameter), "key");
		return -EINVAL;
	}
	if (rc == 0 && rq->platform)
		return refuse(&rq->refusal, -EINVAL, "K2", "the key file: it is a platform key, not a PFX or .byok file");
	return rc;
}

int prepare_password(struct request *rq)
{
	int rc = parameter_secret(rq, "password", true, PFX_PASSWORD_MAX, &rq->password);

	if (rc == 0 && (rq->password.len == 0 || memchr(rq->password.b, '\0', rq->password.len)))
		return refuse(&rq->refusal, -EINVAL, "K1", "the password is empty, or has a NUL byte");
	return rc;
}

/* A2: who asks for this knows what it means; keyctl has asked. */
static int confirmed(struct request *rq, const char *what)
{
	bool yes;
	int rc = parameter_bool(rq, "confirmed", &yes);

	return rc < 0 || yes ? rc : refuse(&rq->refusal, -EPERM, "A2", "%s: say that it is meant, with confirmed (keyctl: --yes)", what);
}

/* ---- keys ---- */

static int key_name_and_region(struct request *rq, const char **name, const char **region)
{
	int rc = parameter_text(rq, "name", true, name);

	if (rc == 0)
		rc = parameter_text(rq, "region", false, region);
	if (!*region)
		*region = "default";
	return rc;
}

/* Makes a PFX and hands it back; nothing is kept. Whoever has saved it uploads it: so no key is ever active whose file
 * nobody has. What was made lately is remembered by fingerprint, so that the upload is recorded as generated. */
int do_key_generate(struct request *rq)
{
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	CLEANUP(secret_done) struct secret pfx = {0};
	const char *name, *region;
	int rc = key_name_and_region(rq, &name, &region);

	if (rc == 0)
		rc = key_check_new(&rq->k->tenant, name, region, &rq->refusal);
	if (rc < 0)
		return rc;
	/* The big lock is not held over what takes a second. */
	pthread_mutex_unlock(&rq->k->lock);
	pthread_mutex_lock(&key_file_lock);
	rc = rsa_generate(2048, &k);
	if (rc == 0)
		rc = pfx_write(k, &rq->password, name, &pfx);
	pthread_mutex_unlock(&key_file_lock);
	pthread_mutex_lock(&rq->k->lock);
	if (rc == 0)
		rq->reply_fd = wire_memfd(pfx.b, pfx.len);
	if (rc == 0 && rq->reply_fd < 0)
		rc = rq->reply_fd;
	if (rc < 0)
		return refuse(&rq->refusal, rc, "", "no key could be made: %s", strerror(-rc));
	strcpy(rq->k->generated[rq->k->generated_next++ % GENERATED_MAX], rsa_fingerprint(k));
	json_object_set_new(rq->reply, "pfx", json_integer(0));
	json_object_set_new(rq->reply, "fingerprint", json_string(rsa_fingerprint(k)));
	return 0;
}

int do_key_upload(struct request *rq)
{
	const char *name, *region;
	int rc = key_name_and_region(rq, &name, &region);

	for (size_t k = 0; k < GENERATED_MAX; k++)
		if (strcmp(rq->k->generated[k], rsa_fingerprint(rq->key)) == 0)
			rq->key_origin = "generated";
	if (rc == 0)
		rc = key_add(&rq->k->tenant, name, region, rq->key, rq->key_origin, rq->peer->uid, &rq->refusal);
	return rc < 0 ? rc : reply_key(rq, name);
}

int do_key_list(struct request *rq)
{
	return reply_keys(rq, NULL);
}

int do_key_show(struct request *rq)
{
	const char *name;
	int rc = parameter_text(rq, "name", true, &name);

	return rc < 0 ? rc : reply_key(rq, name);
}

static void request_progress(void *ctx, const struct operation_progress *p)
{
	struct request *rq = ctx;

	if (!rq->more)
		return;
	/* A peer that went away or does not read is not waited for. */
	if (wire_send(rq->wire->fd, json_pack("{sb s{sI sI ss}}", "continues", 1, "parameters", "done", (json_int_t)p->done, "total",
					    (json_int_t)p->total, "environment", p->environment)) < 0)
		rq->more = false;
}

int do_key_activate(struct request *rq)
{
	struct registry_key key;
	const char *name;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = confirmed(rq, "activating a key moves the region's environments to it");
	if (rc == 0)
		rc = key_activate(&rq->k->tenant, name, rq->peer->uid, &rq->refusal);
	if (rc == 0)
		rc = registry_key_by_name(rq->k->tenant.registry, name, &key);
	if (rc == 0)
		rc = steward_wait(&rq->k->steward, key.region, request_progress, rq, &rq->refusal);
	return rc < 0 ? rc : reply_key(rq, name);
}

int do_key_unlock(struct request *rq)
{
	struct registry_key key;
	const char *name;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = key_unlock(&rq->k->tenant, name, rq->key, rq->peer->uid, &rq->refusal);
	if (rc == 0)
		rc = registry_key_by_name(rq->k->tenant.registry, name, &key);
	if (rc == 0)
		rc = steward_wait(&rq->k->steward, key.region, request_progress, rq, &rq->refusal);
	return rc < 0 ? rc : reply_key(rq, name);
}

int do_kek_show(struct request *rq)
{
	struct registry_key exchange;
	char kid[160];
	int rc = key_exchange(&rq->k->tenant, &exchange, kid, &rq->refusal);

	if (rc < 0)
		return rc;
	json_object_set_new(rq->reply, "kid", json_string(kid));
	json_object_set_new(rq->reply, "fingerprint", json_string(exchange.fingerprint));
	json_object_set_new(rq->reply, "bits", json_integer(exchange.bits));
	json_object_set_new(rq->reply, "public", json_string(exchange.public_hex));
	return 0;
}

int do_clock_accept(struct request *rq)
{
	const char *reason;
	bool confirmed;
	int rc = parameter_text(rq, "reason", true, &reason);
	char text[sizeof(rq->refusal.text)];

	if (rc == 0)
		rc = parameter_bool(rq, "confirmed", &confirmed);
	if (rc < 0)
		return rc;
	if (!reason[0])
		return refuse(&rq->refusal, -EINVAL, "", "the reason for accepting the clock is empty");
	if (!confirmed)
		return refuse(&rq->refusal, -EPERM, "A2", "guard times will count by the clock as it is now: confirm with --yes");
	rc = guard_accept(&rq->k->tenant, &rq->refusal);
	if (rc < 0)
		return rc;
	/* For the audit entry. */
	snprintf(text, sizeof(text), "%.60s; reason: %.400s", rq->refusal.text, reason);
	strcpy(rq->refusal.text, text);
	return 0;
}

int do_tenant_lock(struct request *rq)
{
	const char *region, *confirm;
	struct registry_key key;
	char text[128];
	int rc = parameter_text(rq, "region", false, &region);

	if (rc == 0)
		rc = parameter_text(rq, "confirm", false, &confirm);
	if (!region)
		region = "default";
	if (rc < 0)
		return rc;
	if (!confirm) {
		rc = key_check_lock(&rq->k->tenant, region, rq->key, &key, &rq->refusal);
		if (rc == 0)
			rc = key_lock_text(&rq->k->tenant, region, rq->peer->uid, text, &rq->refusal);
		if (rc == 0)
			json_object_set_new(rq->reply, "confirm", json_string(text));
		if (rc == 0)
			snprintf(rq->refusal.text, sizeof(rq->refusal.text), "the text to type was issued, nothing is locked yet");
		return rc;
	}
	rc = key_lock(&rq->k->tenant, region, rq->key, confirm, rq->peer->uid, &rq->refusal);
	return rc < 0 ? rc : steward_wait(&rq->k->steward, region, request_progress, rq, &rq->refusal);
}

/* ---- environments ---- */

int do_env_apply(struct request *rq)
{
	const char *name;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = confirmed(rq, "with the tenant's key lost, the data is lost");
	if (rc == 0)
		rc = environment_apply(&rq->k->tenant, name, &rq->refusal);
	return rc < 0 ? rc : reply_environment(rq, name);
}

int do_env_return(struct request *rq)
{
	const char *name, *confirm;
	bool yes;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_text(rq, "confirm", false, &confirm);
	if (rc == 0)
		rc = parameter_bool(rq, "confirmed", &yes);
	if (rc == 0)
		rc = environment_return(&rq->k->tenant, name, confirm, yes, &rq->refusal);
	return rc < 0 ? rc : reply_environment(rq, name);
}

int do_env_attach(struct request *rq)
{
	struct environment_request er;
	int rc = parameter_text(rq, "name", true, &er.name);

	if (rc == 0)
		rc = parameter_text(rq, "mountpoint", true, &er.mountpoint);
	if (rc == 0)
		rc = parameter_text(rq, "store", true, &er.store);
	if (rc == 0)
		rc = parameter_text(rq, "type", false, &er.type);
	if (rc == 0)
		rc = parameter_text(rq, "region", false, &er.region);
	if (rc == 0)
		rc = environment_attach(&rq->k->tenant, &er, rq->key, rq->platform, &rq->refusal);
	return rc < 0 ? rc : reply_mounted(rq, er.name);
}

/* For tdefs-fsck: root could read the key from the worker's start or the vault's files anyway, so it gives root nothing
 * new; nobody else gets it, and of a locked environment nobody. */
int do_env_key(struct request *rq)
{
	CLEANUP_FREE struct registry_env *list = NULL;
	const struct registry_env *env = NULL;
	struct env_key *ek = NULL;
	const char *store;
	size_t n = 0;
	int rc = parameter_text(rq, "store", true, &store);

	if (rc == 0)
		rc = registry_env_list(rq->k->tenant.registry, &list, &n);
	if (rc < 0)
		return rc;
	for (size_t k = 0; k < n; k++)
		if (strcmp(list[k].store, store) == 0)
			env = &list[k];
	if (!env)
		return refuse(&rq->refusal, -ENOENT, "", "no environment of this tenant has the store %.300s", store);
	CLEANUP(claim_done) struct claim claim = {0};
	struct registry_env now;
	rc = claim_take(&rq->k->tenant, env->name, "is being verified", &claim, &rq->refusal);
	if (rc == 0)
		rc = environment_get(&rq->k->tenant, env->name, &now, &rq->refusal);
	if (rc < 0)
		return rc;
	env = &now;
	if (rq->peer->uid != 0)
		return refuse(&rq->refusal, -EPERM, "", "the key of %s is handed to root alone, for tdefs-fsck", env->name);
	if (env->state == ENV_LOCKED || env->state == ENV_TENANT_LOCKED)
		return refuse(&rq->refusal, -ENOKEY, "L7", "%s is locked", env->name);
	if (rq->k->tenant.workers.alive(rq->k->tenant.workers.ctx, env->name))
		return refuse(&rq->refusal, -EBUSY, "", "%s is mounted: use keyctl scrub %s", env->name, env->name);
	ek = KEY_NEW(struct env_key);
	rc = ek ? environment_unwrap(&rq->k->tenant, env, ek, &rq->refusal) : -ENOMEM;
	/* A lock may have come while the header was read. */
	if (rc == 0)
		rc = environment_get(&rq->k->tenant, now.name, &now, &rq->refusal);
	if (rc == 0 && (now.state == ENV_LOCKED || now.state == ENV_TENANT_LOCKED))
		rc = refuse(&rq->refusal, -ENOKEY, "L7", "%s is locked", now.name);
	if (rc == 0) {
		rq->reply_fd = wire_memfd(ek->b, sizeof(ek->b));
		rc = MIN(rq->reply_fd, 0);
	}
	KEY_FREE(ek);
	json_object_set_new(rq->reply, "key", json_integer(0));
	return rc;
}
