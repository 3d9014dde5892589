/* reply: what answers say of environments and keys. */
#include "control/request_internal.h"

#include "tenant/guard.h"
#include "tenant/key.h"
#include "tenant/operation.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define STATUS_LIMIT_MS 5000
#define HEADER_LIMIT_MS 1000

json_t *json_number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static int64_t duration_s(uint64_t ns)
{
	return (int64_t)((ns + 999999999u) / 1000000000u);
}

static void environment_key(struct keeper *k, const struct registry_env *env, json_t *o)
{
	struct env_key_source source = {.source = "unknown"};
	struct refusal refusal;

	(void)!environment_source_within(&k->tenant, env, HEADER_LIMIT_MS, &source, &refusal);
	json_object_set_new(o, "key_source", json_string(source.source));
	json_object_set_new(o, "key", json_string(source.key_name));
	json_object_set_new(o, "fingerprint", json_string(source.fingerprint));
}

static void rotation_json(const struct link_status *st, json_t *o)
{
	static const char *const phases[] = {"", "recovering", "key", "counting", "data"};
	uint64_t percent = st->rotate_total ? MIN(st->rotate_done * 100 / st->rotate_total, 100u) : 0;
	bool data = st->rotate_phase == ARRAY_LEN(phases) - 1;
	uint64_t files = data ? st->rotate_files : st->rotate_done;
	double s = (double)st->rotate_ns / 1e9, rate = s > 0.1 ? (double)st->rotate_encrypted / s : 0;

	json_object_set_new(o, "rotating_data", json_boolean(st->rotating_data));
	json_object_set_new(o, "rotate_paused", json_boolean(st->rotate_paused));
	json_object_set_new(o, "rotate_phase", json_string(st->rotate_phase < ARRAY_LEN(phases) ? phases[st->rotate_phase] : ""));
	json_object_set_new(o, "rotate_percent", json_number(percent));
	json_object_set_new(o, "rotate_bytes", json_number(data ? st->rotate_done : 0));
	json_object_set_new(o, "rotate_total", json_number(data ? st->rotate_total : 0));
	json_object_set_new(o, "rotate_rate", json_number((uint64_t)rate));
	json_object_set_new(o, "rotate_files_rate", json_number((uint64_t)(s > 0.1 ? (double)files / s : 0)));
	json_object_set_new(o, "rotate_seconds_left", json_number((st->rotate_left_ns + 999999999u) / 1000000000u));
	json_object_set_new(o, "rotate_left", json_number(st->rotate_left));
	json_object_set_new(o, "rotate_held_us", json_number(st->rotate_held_ns / 1000));
}

/* What a worker of an earlier version cannot do, in words; empty where it can do everything. */
static void lacks_text(uint32_t version, char ret[64])
{
	static const struct {
		enum link_type order;
		const char *words;
	} all[] = {{LINK_REWRAP, "take another key"}, {LINK_ROTATE, "rotate"}, {LINK_SCRUB, "scrub"}};

	ret[0] = '\0';
	for (size_t k = 0; k < ARRAY_LEN(all); k++)
		if (!link_knows(version, all[k].order))
			snprintf(ret + strlen(ret), 64 - strlen(ret), "%s%s", ret[0] ? " or " : "", all[k].words);
}

json_t *environment_json(struct keeper *k, const struct registry_env *env)
{
	const struct supervised *found = supervisor_find(&k->supervisor, env->name);
	/* A copy: the big lock is let go below. One that is being locked answers when that is done. */
	const struct supervised copy = found ? *found : (struct supervised){0}, *e = found ? &copy : NULL;
	bool ends = e && (e->locking || e->left);
	struct link_message m = {.type = LINK_STATUS};
	const struct link_status *st = &m.status;
	int rc = e && e->pid > 0 && !ends ? supervisor_call(&k->supervisor, env->name, STATUS_LIMIT_MS, &m) : -ENOTCONN;
	bool answers = rc == 0;
	char lacks[64] = "";
	static const char *const in_flux[] = {"", "looked at", "kept"};
	const char *state = env->state == ENV_MOUNTED && !(e && e->pid > 0) ? "failed" : env_state_name(env->state);

	if (answers)
		lacks_text(m.version, lacks);
	else
		m.status = (struct link_status){0};
	json_t *o = json_pack("{ss ss ss ss ss ss}", "name", env->name, "type", env->type, "region", env->region, "state", state,
		"store", env->store, "mountpoint", env->mountpoint);
	environment_key(k, env, o);
	json_object_set_new(o, "epoch", json_number(answers ? st->epoch : env->epoch));
	json_object_set_new(o, "left", json_boolean(e && e->left));
	json_object_set_new(o, "silent", json_boolean(e && e->pid > 0 && !answers && !ends && !link_foreign(rc)));
	json_object_set_new(o, "foreign", json_boolean(link_foreign(rc)));
	json_object_set_new(o, "worker_version", json_string(st->program));
	json_object_set_new(o, "worker_lacks", json_string(lacks));
	json_object_set_new(o, "pid", json_number(e && e->pid > 0 ? (uint64_t)e->pid : 0));
	json_object_set_new(o, "uptime", json_number(e && e->pid > 0 ? (uint64_t)(clock_realtime_s() - e->started) : 0));
	json_object_set_new(o, "restarts", json_number(e ? (uint64_t)e->restarts : 0));
	json_object_set_new(o, "reason", json_string(e ? e->reason : ""));
	json_object_set_new(o, "refused", json_number(st->refused));
	json_object_set_new(o, "resealed", json_number(st->resealed));
	json_object_set_new(o, "intents", json_number(st->intents));
	json_object_set_new(o, "syncs", json_number(st->syncs));
	json_object_set_new(o, "read_bytes", json_number(st->read_bytes));
	json_object_set_new(o, "written_bytes", json_number(st->written_bytes));
	json_object_set_new(o, "open_files", json_number(st->open_files));
	json_object_set_new(o, "transport", json_string(!answers ? "" : st->rings ? "io_uring" : "device"));
	json_object_set_new(o, "in_flux", json_string(st->in_flux < ARRAY_LEN(in_flux) ? in_flux[st->in_flux] : ""));
	json_object_set_new(o, "poisoned", json_boolean(st->poisoned));
	json_object_set_new(o, "key_version", json_number(st->key_version));
	json_object_set_new(o, "rotating", json_boolean(st->rotating));
	json_object_set_new(o, "rotated_files", json_number(st->rotate_files));
	rotation_json(st, o);
	json_object_set_new(o, "rotate_error", json_string(st->rotate_error ? strerror(-st->rotate_error) : ""));
	json_object_set_new(o, "memory_locked", json_boolean(st->memory_locked));
	int64_t deleted = env->state == ENV_TENANT_LOCKED ? operation_deletes_at(&k->tenant, env) : 0;
	json_object_set_new(o, "locked_by", json_string(env->state == ENV_TENANT_LOCKED ? "tenant" : env->state == ENV_LOCKED ? "keyctl" : ""));
	json_object_set_new(o, "deleted_at", json_number((uint64_t)deleted));
	json_object_set_new(o, "changed", json_number((uint64_t)env->changed));
	json_object_set_new(o, "created", json_number((uint64_t)env->created));
	return o;
}

int reply_environment(struct request *rq, const char *name)
{
	struct registry_env env;
	int rc = environment_get(&rq->k->tenant, name, &env, &rq->refusal);

	if (rc == 0)
		json_object_set_new(rq->reply, "environment", environment_json(rq->k, &env));
	return rc;
}

int reply_mounted(struct request *rq, const char *name)
{
	json_object_set_new(rq->reply, "message", json_string(rq->refusal.text));
	return reply_environment(rq, name);
}

static const char *text_in(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

static long long number_in(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

/* What is wrong with one environment, in one line; nothing where nothing is. */
static void attention_of_environment(const json_t *o, char *line, size_t size)
{
	const char *name = text_in(o, "name");

	line[0] = '\0';
	if (strcmp(text_in(o, "state"), "failed") == 0)
		snprintf(line, size, "%s is not mounted: %.250s", name, text_in(o, "reason"));
	else if (json_is_true(json_object_get(o, "left")))
		snprintf(line, size, "%s: its last worker (pid %lld) hangs in the kernel: does the store's disk answer?", name, number_in(o, "pid"));
	else if (json_is_true(json_object_get(o, "silent")))
		snprintf(line, size, "%s: its worker (pid %lld) does not answer", name, number_in(o, "pid"));
	else if (json_is_true(json_object_get(o, "foreign")))
		snprintf(line, size, "%s: its worker (pid %lld) is of another version, whose language this tdefsd does not speak: it serves, "
			"and can be locked and unmounted; mounted again it is of this version", name, number_in(o, "pid"));
	else if (json_is_true(json_object_get(o, "poisoned")))
		snprintf(line, size, "%s is read-only: its store failed to sync; check the disk, then mount it again", name);
	else if (number_in(o, "refused"))
		snprintf(line, size, "%s has refused damaged data, %lld in number: run keyctl scrub %s", name, number_in(o, "refused"), name);
	else if (text_in(o, "rotate_error")[0])
		snprintf(line, size, "%s: its rotation waits: %.200s; keyctl rotate %s --resume tries again", name, text_in(o, "rotate_error"),
			name);
	else if (strcmp(text_in(o, "in_flux"), "kept") == 0)
		snprintf(line, size, "%s: not everything could be looked at after an unclean end: run keyctl scrub %s", name, name);
	else if (number_in(o, "restarts"))
		snprintf(line, size, "%s was started again, %lld time%s: %.250s", name, number_in(o, "restarts"),
			number_in(o, "restarts") == 1 ? "" : "s", text_in(o, "reason"));
	else if (text_in(o, "worker_lacks")[0])
		snprintf(line, size, "%s: its worker (pid %lld, tdefs %s) is of an earlier version, and cannot %s: unmounted and mounted again it is of "
			"this one", name, number_in(o, "pid"), text_in(o, "worker_version"), text_in(o, "worker_lacks"));
}

/* L8: one line for all of a region that are deleted soon; first is the first of them. */
static void attention_of_lock(const struct request *rq, const json_t *all, size_t first, json_t *attention)
{
	const json_t *o = json_array_get(all, first);
	int64_t near = clock_realtime_s() + duration_s(rq->k->config.delete_warning_ns);
	time_t at = (time_t)number_in(o, "deleted_at");
	char names[200] = "", day[40];
	size_t n = 0;

	if (at > near)
		return;
	for (size_t k = 0; k < json_array_size(all); k++) {
		const json_t *other = json_array_get(all, k);
		int64_t due = number_in(other, "deleted_at");

		if (due == 0 || due > near || strcmp(text_in(other, "region"), text_in(o, "region")) != 0)
			continue;
		if (k < first)
			return; /* told with that one */
		at = MIN(at, due);
		if (n++ < 3)
			snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", n > 1 ? ", " : "", text_in(other, "name"));
	}
	if (n > 3)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), " and %zu more", n - 3);
	strftime(day, sizeof(day), "%F %T", localtime(&at));
	json_array_append_new(attention, json_sprintf("region %s: %s %s deleted from %s on unless unlocked before (rule L8)", text_in(o, "region"),
						 names, n > 1 ? "are" : "is", day));
}

int reply_environments(struct request *rq, json_t *attention)
{
	CLEANUP_FREE struct registry_env *list = NULL;
	json_t *all = json_array();
	size_t n = 0;
	int rc = registry_env_list(rq->k->tenant.registry, &list, &n);

	for (size_t i = 0; i < n; i++)
		json_array_append_new(all, environment_json(rq->k, &list[i]));
	for (size_t i = 0; attention && i < n; i++) {
		char line[400];

		attention_of_environment(json_array_get(all, i), line, sizeof(line));
		if (line[0])
			json_array_append_new(attention, json_string(line));
		if (list[i].state == ENV_TENANT_LOCKED)
			attention_of_lock(rq, all, i, attention);
	}
	json_object_set_new(rq->reply, "environments", all);
	return rc;
}

/* ---- keys ---- */

/* The environments whose wrap names the key (K11). */
static json_t *key_environments(const json_t *environments, const char *fingerprint)
{
	json_t *names = json_array(), *env;
	size_t k;

	json_array_foreach((json_t *)environments, k, env)
		if (strcmp(json_string_value(json_object_get(env, "fingerprint")), fingerprint) == 0)
			json_array_append(names, json_object_get(env, "name"));
	return names;
}

static json_t *key_json(const struct registry_key *key, const json_t *environments)
{
	json_t *o = json_pack("{ss ss ss ss si ss ss}", "name", key->name, "region", key->region, "state", key_state_name(key->state),
		"algorithm", "RSA", "bits", (int)key->bits, "fingerprint", key->fingerprint, "origin", key->origin);

	json_object_set_new(o, "created", json_integer(key->created));
	json_object_set_new(o, "created_uid", json_number(key->uid));
	json_object_set_new(o, "activated", json_integer(key->activated));
	json_object_set_new(o, "activated_uid", json_number(key->activated_uid));
	json_object_set_new(o, "locked", json_integer(key->locked));
	json_object_set_new(o, "locked_uid", json_number(key->locked_uid));
	json_object_set_new(o, "deleted", json_integer(key->deleted));
	json_object_set_new(o, "environments", key_environments(environments, key->fingerprint));
	return o;
}

/* The guard times of one region that still run; the first it was seen with a key or an operation. */
static int region_json(struct request *rq, const char *name, json_t *regions, json_t *attention)
{
	static const char *const kinds[] = {"activating a key", "locking", "unlocking its key"};
	struct tenant *t = &rq->k->tenant;
	const struct guards *g = &t->guards;
	struct registry_region times;
	struct registry_operation o;
	int rc = registry_region_get(t->registry, name, &times);

	if (rc < 0)
		return rc;
	int under_way = registry_operation_get(t->registry, name, &o);
	json_array_append_new(regions,
		json_pack("{ss ss sI sI sI}", "name", name, "operation", under_way == 0 ? kinds[o.kind] : "", "activation_from",
			(json_int_t)guard_end(t, times.activated, g->activation_interval_ns), "lock_from",
			(json_int_t)guard_end(t, times.changed, g->lock_after_key_change_ns), "unlock_from",
			(json_int_t)guard_end(t, times.locked, g->unlock_after_lock_ns)));
	const struct steward *st = &rq->k->steward;
	bool ours = strcmp(st->region, name) == 0;
	if (under_way == 0 && attention && ours && st->refusal.text[0])
		json_array_append_new(attention, json_sprintf("region %s: %s waits: %.200s", name, kinds[o.kind], st->refusal.text));
	else if (under_way == 0 && attention)
		json_array_append_new(attention, json_sprintf("region %s: %s is under way, %zu of %zu environments", name, kinds[o.kind],
							 ours ? st->progress.done : 0, ours ? st->progress.total : 0));
	return 0;
}

int reply_keys(struct request *rq, json_t *attention)
{
	CLEANUP_FREE struct registry_key *list = NULL;
	json_t *keys = json_array(), *regions = json_array(), *environments = json_object_get(rq->reply, "environments");
	json_t *own = NULL, *region;
	size_t n = 0, i;
	int rc = registry_key_list(rq->k->tenant.registry, &list, &n);

	json_object_set_new(rq->reply, "keys", keys);
	json_object_set_new(rq->reply, "regions", regions);
	if (rc == 0 && !environments) {
		rc = reply_environments(rq, NULL);
		own = environments = json_incref(json_object_get(rq->reply, "environments"));
		json_object_del(rq->reply, "environments");
	}
	for (size_t k = 0; rc == 0 && k < n; k++) {
		bool seen = false;

		json_array_append_new(keys, key_json(&list[k], environments));
		json_array_foreach(regions, i, region)
			seen = seen || strcmp(json_string_value(json_object_get(region, "name")), list[k].region) == 0;
		if (!seen)
			rc = region_json(rq, list[k].region, regions, attention);
	}
	json_decref(own);
	return rc;
}

int reply_key(struct request *rq, const char *name)
{
	struct registry_key key;
	int rc = registry_key_by_name(rq->k->tenant.registry, name, &key);

	if (rc == -ENOENT)
		return refuse(&rq->refusal, rc, "", "there is no key %s: keyctl key list shows those that there are", name);
	if (rc == 0)
		rc = reply_environments(rq, NULL);
	if (rc < 0)
		return rc;
	json_object_set_new(rq->reply, "key", key_json(&key, json_object_get(rq->reply, "environments")));
	json_object_del(rq->reply, "environments");
	return 0;
}
