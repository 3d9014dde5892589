/* request: see request.h. */
#include "control/request_internal.h"

#include "base/log.h"
#include "tenant/audit.h"
#include "tenant/claim.h"
#include "tenant/guard.h"

#include <stdio.h>
#include <string.h>

#define STATUS_LIMIT_MS 5000
#define USERS_LIMIT_MS 4000
#define ROTATE_PAUSE_LIMIT_MS 60000 /* the step under way comes to its end */
#define AUDIT_PAGE 200 /* entries a reply */
#define STRANGER_NS UINT64_C(60000000000)

/* ---- parameters ---- */

int parameter_text(struct request *rq, const char *name, bool required, const char **ret)
{
	const json_t *value = json_object_get(rq->parameters, name);

	*ret = NULL;
	if ((!value || json_is_null(value)) && !required)
		return 0;
	if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value)) {
		snprintf(rq->bad_parameter, sizeof(rq->bad_parameter), "%s", name);
		return -EINVAL;
	}
	*ret = json_string_value(value);
	return 0;
}

int parameter_bool(struct request *rq, const char *name, bool *ret)
{
	const json_t *value = json_object_get(rq->parameters, name);

	*ret = json_is_true(value);
	if (!value || json_is_null(value) || json_is_boolean(value))
		return 0;
	snprintf(rq->bad_parameter, sizeof(rq->bad_parameter), "%s", name);
	return -EINVAL;
}

int parameter_count(struct request *rq, const char *name, uint64_t *ret)
{
	const json_t *value = json_object_get(rq->parameters, name);

	*ret = (uint64_t)MAX(json_integer_value(value), 0);
	if (!value || json_is_null(value) || (json_is_integer(value) && json_integer_value(value) >= 0))
		return 0;
	snprintf(rq->bad_parameter, sizeof(rq->bad_parameter), "%s", name);
	return -EINVAL;
}

int parameter_secret(struct request *rq, const char *name, bool required, size_t max, struct secret *ret)
{
	const json_t *value = json_object_get(rq->parameters, name);
	json_int_t k = json_integer_value(value);

	if ((!value || json_is_null(value)) && !required)
		return 0;
	if (!json_is_integer(value) || k < 0 || k >= (json_int_t)rq->wire->fd_count) {
		snprintf(rq->bad_parameter, sizeof(rq->bad_parameter), "%s", name);
		return -EINVAL;
	}
	int rc = wire_read_memfd(rq->wire->fds[k], max, ret);
	if (rc == -EINVAL)
		return refuse(&rq->refusal, rc, "", "the %s must come as a memfd that is sealed against every change", name);
	return rc < 0 ? refuse(&rq->refusal, rc, "", "the %s: %s", name, rc == -EFBIG ? "it is longer than any" : strerror(-rc)) : 0;
}

/* ---- handlers ---- */

static json_t *users_json(const struct users *u)
{
	json_t *users = json_array();

	for (uint32_t i = 0; i < MIN(u->count, USERS_MAX); i++)
		json_array_append_new(users, json_pack("{si ss}", "pid", (int)u->list[i].pid, "name", u->list[i].name));
	return users;
}

static bool kernel_has_init_on_free(void)
{
	char line[4096] = "";
	FILE *f = fopen("/proc/cmdline", "re");

	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		fclose(f);
	}
	return strstr(line, "init_on_free=1") != NULL;
}

static int do_status(struct request *rq)
{
	json_t *attention = json_array();
	int64_t off;

	json_object_set_new(rq->reply, "tenant", json_string(rq->k->config.tenant));
	json_object_set_new(rq->reply, "version", json_string(TDEFS_VERSION));
	json_object_set_new(rq->reply, "pid", json_integer(getpid()));
	json_object_set_new(rq->reply, "uptime", json_integer(clock_realtime_s() - rq->k->started));
	json_object_set_new(rq->reply, "platform_fingerprint", json_string(platform_key_fingerprint(rq->k->tenant.platform_key)));
	json_object_set_new(rq->reply, "memory_locked", json_boolean(secret_locked()));
	json_object_set_new(rq->reply, "init_on_free", json_boolean(kernel_has_init_on_free()));
	int rc = guard_off(&rq->k->tenant, &off);
	if (off > 0)
		json_array_append_new(attention, json_sprintf("the clock is %lld s behind the latest time that tdefsd saw: what has a guard time is "
							 "refused (rule A3)", (long long)off));
	if (off < 0)
		json_array_append_new(attention, json_sprintf("the clock jumped %lld s ahead of the time that passed: what has a guard time is refused, "
							 "and nothing deleted (rule A3)", (long long)-off));
	int tended = registry_tend(rq->k->tenant.registry);
	if (tended < 0)
		json_array_append_new(attention, json_sprintf("the registry under %s: %s: what is locked now may not outlive tdefsd, other changes "
							      "may be refused", rq->k->config.state_dir, strerror(-tended)));
	if (rc == 0)
		rc = reply_environments(rq, attention);
	if (rc == 0)
		rc = reply_keys(rq, attention);
	json_object_set_new(rq->reply, "attention", attention);
	return rc;
}

static int do_env_create(struct request *rq)
{
	struct environment_request er;
	int rc = parameter_text(rq, "name", true, &er.name);

	if (rc == 0)
		rc = parameter_text(rq, "mountpoint", true, &er.mountpoint);
	if (rc == 0)
		rc = parameter_text(rq, "store", false, &er.store);
	if (rc == 0)
		rc = parameter_text(rq, "type", false, &er.type);
	if (rc == 0)
		rc = parameter_text(rq, "region", false, &er.region);
	if (rc == 0)
		rc = environment_create(&rq->k->tenant, &er, &rq->refusal);
	return rc < 0 ? rc : reply_environment(rq, er.name);
}

static int do_env_list(struct request *rq)
{
	return reply_environments(rq, NULL);
}

static int do_env_show(struct request *rq)
{
	const char *name;
	int rc = parameter_text(rq, "name", true, &name);

	return rc < 0 ? rc : reply_environment(rq, name);
}

static int do_env_mount(struct request *rq)
{
	const char *name, *accept_older = NULL;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_text(rq, "accept_older", false, &accept_older);
	if (rc == 0)
		rc = environment_mount(&rq->k->tenant, name, accept_older, &rq->refusal);
	return rc < 0 ? rc : reply_mounted(rq, name);
}

static int do_env_unmount(struct request *rq)
{
	const char *name;
	bool force;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_bool(rq, "force", &force);
	return rc < 0 ? rc : environment_unmount(&rq->k->tenant, name, force, &rq->refusal);
}

static int do_env_delete(struct request *rq)
{
	const char *name, *confirm;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_text(rq, "confirm", true, &confirm);
	return rc < 0 ? rc : environment_delete(&rq->k->tenant, name, confirm, &rq->refusal);
}

static int do_env_lock(struct request *rq)
{
	struct registry_env env;
	struct users users;
	const char *name;
	bool dry_run;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_bool(rq, "dry_run", &dry_run);
	if (rc == 0)
		rc = environment_get(&rq->k->tenant, name, &env, &rq->refusal);
	if (rc < 0)
		return rc;
	if (dry_run) {
		tenant_let_go(&rq->k->tenant);
		users_find(env.mountpoint, USERS_LIMIT_MS, &users);
		tenant_take_again(&rq->k->tenant);
	} else {
		rc = environment_lock(&rq->k->tenant, name, &users, &rq->refusal);
	}
	if (rc < 0)
		return rc;
	json_object_set_new(rq->reply, "users", users_json(&users));
	json_object_set_new(rq->reply, "users_unknown", json_boolean(users.unknown));
	json_object_set_new(rq->reply, "message", json_string(rq->refusal.text));
	/* The audit entry says both. */
	if (users.count || users.unknown) {
		char message[160], names[300];

		snprintf(message, sizeof(message), "%.159s", rq->refusal.text);
		users_text(&users, names, sizeof(names));
		snprintf(rq->refusal.text, sizeof(rq->refusal.text), "had files open: %s%s%s", names, message[0] ? "; " : "", message);
	}
	return 0;
}

static int do_env_unlock(struct request *rq)
{
	const char *name;
	bool confirmed;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_bool(rq, "confirmed", &confirmed);
	if (rc == 0)
		rc = environment_unlock(&rq->k->tenant, name, confirmed, &rq->refusal);
	return rc < 0 ? rc : reply_environment(rq, name);
}

static int do_env_rotate(struct request *rq)
{
	const char *name;
	bool data;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_bool(rq, "data", &data);
	if (rc == 0)
		rc = environment_rotate(&rq->k->tenant, name, data, &rq->refusal);
	return rc < 0 ? rc : reply_environment(rq, name);
}

static int do_env_rotate_pause(struct request *rq)
{
	struct link_message m = {.type = LINK_ROTATE_PAUSE};
	struct registry_env env;
	const char *name;
	bool paused;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_bool(rq, "paused", &paused);
	if (rc == 0)
		rc = environment_get(&rq->k->tenant, name, &env, &rq->refusal);
	if (rc < 0)
		return rc;
	if (env.state == ENV_LOCKED || env.state == ENV_TENANT_LOCKED)
		return refuse(&rq->refusal, -ENOKEY, "L7", "%s is locked: nothing in it moves", name);
	if (!rq->k->tenant.workers.alive(rq->k->tenant.workers.ctx, name))
		return refuse(&rq->refusal, -ENOTCONN, "", "%s is not mounted: its rotation goes on, or waits, when it is", name);
	m.flag = paused;
	rc = supervisor_call(&rq->k->supervisor, name, ROTATE_PAUSE_LIMIT_MS, &m);
	if (rc < 0)
		return refuse(&rq->refusal, rc, "", "%s: %s", name,
			m.text[0]	? m.text
			: rc == -ENOENT ? "no rotation is under way"
					: strerror(-rc));
	return reply_environment(rq, name);
}

#define SCRUB_PAGE 50u
#define SCRUB_POLL_NS 200000000

/* One look at a scrub: how far it is, and its findings from *from on, which is counted up. */
static int scrub_look(struct request *rq, const char *name, uint32_t flag, uint64_t *from, struct link_status *ret, json_t *reply)
{
	struct link_message m = {.type = LINK_SCRUB, .flag = flag};
	json_t *findings = json_array();
	int rc = rq->k->tenant.workers.alive(rq->k->tenant.workers.ctx, name)
			 ? supervisor_call(&rq->k->supervisor, name, STATUS_LIMIT_MS, &m)
			 : refuse(&rq->refusal, -ENOTCONN, "", "%s is not mounted: mount it, or use tdefs-fsck", name);

	if (rc < 0 && m.text[0])
		(void)refuse(&rq->refusal, rc, "", "%s: %s", name, m.text);
	*ret = m.status;
	for (unsigned n = 0; rc == 0 && n < SCRUB_PAGE; n++, ++*from) {
		m = (struct link_message){.type = LINK_FINDING, .arg = *from};
		rc = supervisor_call(&rq->k->supervisor, name, STATUS_LIMIT_MS, &m);
		if (rc < 0 || !m.flag)
			break;
		CLEANUP_FREE char *path = str_printable(m.finding.plain);
		json_array_append_new(findings, json_pack("{ss ss ss ss sI sI}", "kind", m.finding.kind, "text", m.finding.text, "path",
							path ? path : "", "store_path", m.finding.lower, "block",
							(json_int_t)m.finding.block, "count", (json_int_t)m.finding.count));
	}
	json_object_set_new(reply, "running", json_boolean(ret->scrub_running));
	json_object_set_new(reply, "files", json_number(ret->scrub_files));
	json_object_set_new(reply, "total_files", json_number(ret->scrub_total_files));
	json_object_set_new(reply, "bytes", json_number(ret->scrub_bytes));
	json_object_set_new(reply, "total_bytes", json_number(ret->scrub_total_bytes));
	json_object_set_new(reply, "blocks", json_number(ret->scrub_blocks));
	json_object_set_new(reply, "bad", json_number(ret->scrub_bad));
	json_object_set_new(reply, "error", json_string(ret->scrub_error ? strerror(-ret->scrub_error) : ""));
	json_object_set_new(reply, "findings", findings);
	return rc;
}

static int do_env_scrub(struct request *rq)
{
	struct registry_env env;
	struct link_status st;
	const char *name;
	uint64_t from;
	bool start, repair;
	int rc = parameter_text(rq, "name", true, &name);

	if (rc == 0)
		rc = parameter_bool(rq, "start", &start);
	if (rc == 0)
		rc = parameter_bool(rq, "repair", &repair);
	if (rc == 0)
		rc = parameter_count(rq, "from", &from);
	if (rc == 0)
		rc = environment_get(&rq->k->tenant, name, &env, &rq->refusal);
	if (rc < 0)
		return rc;
	if (env.state == ENV_LOCKED || env.state == ENV_TENANT_LOCKED)
		return refuse(&rq->refusal, -ENOKEY, "L7", "%s is locked: nothing in it can be verified", name);
	uint32_t flag = start ? LINK_SCRUB_START | (repair ? LINK_SCRUB_REPAIR : 0) : 0;
	rc = scrub_look(rq, name, flag, &from, &st, rq->reply);
	/* Others have their turn between two looks. A peer that went away ends this, and not the scrub. */
	while (rc == 0 && rq->more && (st.scrub_running || json_array_size(json_object_get(rq->reply, "findings")) == SCRUB_PAGE)) {
		if (wire_send(rq->wire->fd, json_pack("{sb sO}", "continues", 1, "parameters", rq->reply)) < 0)
			rq->more = false;
		pthread_mutex_unlock(&rq->k->lock);
		nanosleep(&(struct timespec){0, SCRUB_POLL_NS}, NULL);
		pthread_mutex_lock(&rq->k->lock);
		json_object_clear(rq->reply);
		rc = scrub_look(rq, name, 0, &from, &st, rq->reply);
	}
	if (rc < 0 && !rq->refusal.text[0])
		return refuse(&rq->refusal, rc, "", "%s: %s", name, rc == -EALREADY ? "a scrub is under way" : strerror(-rc));
	return rc;
}

/* Ends the walk when the page is full. */
static int audit_entry(void *ctx, const struct audit_row *row)
{
	if (json_array_size(ctx) == AUDIT_PAGE)
		return 1;
	json_array_append_new(ctx, json_pack("{sI sI sI ss ss ss ss ss ss ss}", "seq", (json_int_t)row->seq, "time",
					   (json_int_t)row->time, "uid", (json_int_t)row->uid, "role", row->role, "request",
					   row->request, "object", row->object, "rule", row->rule, "outcome", row->outcome, "detail",
					   row->detail, "hash", row->hash));
	return 0;
}

static int do_audit(struct request *rq)
{
	struct registry *registry = rq->k->tenant.registry;
	json_t *entries = json_array();
	uint64_t seq = 0, after;
	bool verify;
	int rc = parameter_bool(rq, "verify", &verify);

	if (rc == 0)
		rc = parameter_count(rq, "after", &after);

	if (rc == 0 && verify) {
		rc = audit_verify(registry, &seq);
		if (rc == -EBADMSG)
			rc = refuse(&rq->refusal, -EUCLEAN, "A1", "the audit log was changed: entry %llu does not fit the chain",
				(unsigned long long)seq);
	} else if (rc == 0) {
		rc = registry_audit_each(registry, after, audit_entry, entries);
		json_object_set_new(rq->reply, "more", json_boolean(rc > 0));
		rc = MIN(rc, 0);
	}
	json_object_set_new(rq->reply, "entries", entries);
	json_object_set_new(rq->reply, "verified", json_number(seq));
	return rc;
}

/* ---- the table ---- */

#define ADMINS (ROLE_TENANT_ADMIN | ROLE_PLATFORM_OPERATOR)

enum {
	CHANGES = 1,    /* goes into the audit log also when it succeeds */
	UNDETERRED = 2, /* is done even where the audit log takes no entry */
	ON_STORE = 4,   /* its object is no name, but this parameter */
	ON_REGION = 8,
	DRY_RUN = 16,   /* changes nothing with dry_run */
};

static const struct request_entry {
	const char *method;
	unsigned roles;
	unsigned flags;
	int (*handler)(struct request *rq);
	int (*prepare)(struct request *rq); /* before it, without the big lock; may be NULL */
} requests[] = {
	{"Status", ROLE_ANY, 0, do_status, NULL},
	{"EnvCreate", ADMINS, CHANGES, do_env_create, NULL},
	{"EnvList", ROLE_ANY, 0, do_env_list, NULL},
	{"EnvShow", ROLE_ANY, 0, do_env_show, NULL},
	{"EnvMount", ADMINS, CHANGES, do_env_mount, NULL},
	{"EnvUnmount", ADMINS, CHANGES, do_env_unmount, NULL},
	{"EnvDelete", ROLE_TENANT_ADMIN, CHANGES, do_env_delete, NULL},
	{"EnvLock", ADMINS, CHANGES | UNDETERRED | DRY_RUN, do_env_lock, NULL},
	{"EnvUnlock", ROLE_TENANT_ADMIN, CHANGES, do_env_unlock, NULL},
	{"EnvRotate", ADMINS, CHANGES, do_env_rotate, NULL},
	{"EnvRotatePause", ADMINS, CHANGES, do_env_rotate_pause, NULL},
	{"EnvScrub", ADMINS, 0, do_env_scrub, NULL},
	{"EnvApply", ROLE_TENANT_ADMIN, CHANGES, do_env_apply, NULL},
	{"EnvReturn", ROLE_TENANT_ADMIN, CHANGES, do_env_return, NULL},
	{"EnvAttach", ROLE_TENANT_ADMIN, CHANGES, do_env_attach, prepare_optional_key_file},
	{"EnvKey", ADMINS, CHANGES | ON_STORE, do_env_key, NULL},
	{"KeyGenerate", ROLE_TENANT_ADMIN, CHANGES, do_key_generate, prepare_password},
	{"KeyUpload", ROLE_TENANT_ADMIN, CHANGES, do_key_upload, prepare_key_file},
	{"KeyList", ROLE_ANY, 0, do_key_list, NULL},
	{"KeyShow", ROLE_ANY, 0, do_key_show, NULL},
	{"KeyActivate", ROLE_TENANT_ADMIN, CHANGES, do_key_activate, NULL},
	{"KeyUnlock", ROLE_TENANT_ADMIN, CHANGES, do_key_unlock, prepare_key_file},
	{"KekShow", ROLE_TENANT_ADMIN | ROLE_VAULT_ADMIN, CHANGES, do_kek_show, NULL},
	{"TenantLock", ROLE_TENANT_ADMIN, CHANGES | ON_REGION, do_tenant_lock, prepare_key_file},
	{"ClockAccept", ROLE_PLATFORM_OPERATOR, CHANGES, do_clock_accept, NULL},
	{"Audit", ROLE_TENANT_ADMIN | ROLE_PLATFORM_OPERATOR | ROLE_AUDITOR, 0, do_audit, NULL},
};

/* ---- answers ---- */

static json_t *error_json(const char *name, json_t *parameters)
{
	return json_pack("{ss so}", "error", name, "parameters", parameters);
}

static json_t *refusal_json(struct request *rq, int rc)
{
	const char *text = rq->refusal.text[0] ? rq->refusal.text : strerror(-rc);

	if (rq->bad_parameter[0])
		return error_json("org.varlink.service.InvalidParameter", json_pack("{ss}", "parameter", rq->bad_parameter));
	if (rc == -ENOKEY)
		return error_json(WIRE_INTERFACE ".Locked", json_pack("{ss ss%}", "rule", rq->refusal.rule, "message", text, strlen(text)));
	if (rq->refusal.rule[0])
		return error_json(WIRE_INTERFACE ".Refused", json_pack("{ss ss%}", "rule", rq->refusal.rule, "message", text, strlen(text)));
	return error_json(WIRE_INTERFACE ".Failed", json_pack("{si ss%}", "errno", -rc, "message", text, strlen(text)));
}

/* Who asks for what; object as far as it fits: the log line has bounds, the peer's message had its own. */
static void request_row(const struct request *rq, const struct request_entry *entry, struct audit_row *ret)
{
	const char *what = entry->flags & ON_STORE ? "store" : entry->flags & ON_REGION ? "region" : "name";
	const json_t *object = json_object_get(rq->parameters, what);

	*ret = (struct audit_row){.uid = rq->peer->uid};
	snprintf(ret->role, sizeof(ret->role), "%s", role_name(rq->peer->roles & entry->roles));
	snprintf(ret->request, sizeof(ret->request), "%s", entry->method);
	snprintf(ret->object, sizeof(ret->object), "%.100s",
		json_is_string(object) ? json_string_value(object) : entry->flags & ON_REGION ? "default" : "");
}

static void request_audit(struct request *rq, struct audit_row *row, const char *outcome, const char *detail)
{
	snprintf(row->rule, sizeof(row->rule), "%s", rq->refusal.rule);
	snprintf(row->outcome, sizeof(row->outcome), "%s", outcome);
	snprintf(row->detail, sizeof(row->detail), "%.500s", detail);
	int rc = audit_add(rq->k->tenant.registry, row);
	if (rc < 0)
		log_error("the audit log takes no entry: %s", strerror(-rc));
}

static json_t *request_run(struct request *rq, const struct request_entry *entry)
{
	bool dry_run = entry->flags & DRY_RUN && json_is_true(json_object_get(rq->parameters, "dry_run"));
	bool changes = entry->flags & CHANGES && !dry_run;
	const struct peer *peer = rq->peer;
	struct keeper *k = rq->k;
	struct audit_row row;

	request_row(rq, entry, &row);
	if (!(peer->roles & entry->roles)) {
		char text[200];

		snprintf(text, sizeof(text), "%s is not for uid %u (role %s)", entry->method, peer->uid, role_name(peer->roles));
		pthread_mutex_lock(&k->lock);
		request_audit(rq, &row, "denied", text);
		pthread_mutex_unlock(&k->lock);
		return error_json(WIRE_INTERFACE ".PermissionDenied", json_pack("{ss}", "message", text));
	}
	rq->reply = json_object();
	int rc = entry->prepare ? entry->prepare(rq) : 0;
	pthread_mutex_lock(&k->lock);
	if (rc == 0 && changes) {
		rc = audit_begin(k->tenant.registry, &row);
		if (rc < 0 && entry->flags & UNDETERRED) {
			log_error("the audit log takes no entry (%s): %s goes on without", strerror(-rc), entry->method);
			rc = 0;
		} else if (rc < 0) {
			(void)refuse(&rq->refusal, rc, "A1", "the audit log takes no entry (%s), so nothing was done", strerror(-rc));
		}
	}
	if (rc == 0)
		rc = entry->handler(rq);
	if (changes || (rc < 0 && rq->refusal.rule[0]))
		request_audit(rq, &row, rc == 0 ? "done" : "refused", rq->refusal.text);
	if (changes)
		(void)!registry_tend(k->tenant.registry);
	pthread_mutex_unlock(&k->lock);
	rsa_key_free(rq->key);
	platform_key_free(rq->platform);
	secret_done(&rq->password);
	if (rc < 0) {
		json_decref(rq->reply);
		return refusal_json(rq, rc);
	}
	return json_pack("{so}", "parameters", rq->reply);
}

json_t *request_stranger(struct keeper *k, const struct peer *peer)
{
	static const char text[] = "you are in none of the groups that the configuration gives a role";
	struct audit_row row = {.uid = peer->uid, .role = "none", .request = "connect", .outcome = "denied"};
	uint64_t now = clock_monotonic_ns();

	pthread_mutex_lock(&k->lock);
	/* Nobody fills the disk by asking again and again. */
	if (k->stranger != peer->uid || now >= k->stranger_until_ns) {
		snprintf(row.detail, sizeof(row.detail), "%s", text);
		if (audit_add(k->tenant.registry, &row) < 0)
			log_error("the audit log takes no entry");
		k->stranger = peer->uid;
		k->stranger_until_ns = now + STRANGER_NS;
	}
	pthread_mutex_unlock(&k->lock);
	return error_json(WIRE_INTERFACE ".PermissionDenied", json_pack("{ss}", "message", text));
}

static json_t *request_service(const char *method, const json_t *parameters)
{
	if (strcmp(method, "GetInfo") == 0)
		return json_pack("{s{ss ss ss ss s[s s]}}", "parameters", "vendor", "tdefs", "product", "tdefsd", "version",
			TDEFS_VERSION, "url", "", "interfaces", "org.varlink.service", WIRE_INTERFACE);
	if (strcmp(method, "GetInterfaceDescription") == 0) {
		const char *name = json_string_value(json_object_get(parameters, "interface"));

		if (name && strcmp(name, WIRE_INTERFACE) == 0)
			return json_pack("{s{ss}}", "parameters", "description", request_interface);
		return error_json("org.varlink.service.InvalidParameter", json_pack("{ss}", "parameter", "interface"));
	}
	return error_json("org.varlink.service.MethodNotFound", json_pack("{ss}", "method", method));
}

int request_answer(struct keeper *k, const struct peer *peer, const json_t *message, struct wire *wire)
{
	static const char service[] = "org.varlink.service.";
	const json_t *method_json = json_object_get(message, "method"), *parameters = json_object_get(message, "parameters");
	const char *method = json_string_value(method_json);
	struct request rq = {.k = k, .peer = peer, .parameters = parameters, .wire = wire, .reply_fd = -1,
		.more = json_is_true(json_object_get(message, "more"))};
	json_t *answer = NULL;

	if (!method)
		answer = error_json("org.varlink.service.InvalidParameter", json_pack("{ss}", "parameter", "method"));
	else if (parameters && !json_is_object(parameters))
		answer = error_json("org.varlink.service.InvalidParameter", json_pack("{ss}", "parameter", "parameters"));
	else if (strncmp(method, service, strlen(service)) == 0)
		answer = request_service(method + strlen(service), parameters);
	else if (strncmp(method, WIRE_INTERFACE ".", strlen(WIRE_INTERFACE) + 1) == 0)
		for (size_t i = 0; !answer && i < ARRAY_LEN(requests); i++)
			if (strcmp(method + strlen(WIRE_INTERFACE) + 1, requests[i].method) == 0)
				answer = request_run(&rq, &requests[i]);
	if (!answer)
		answer = error_json("org.varlink.service.MethodNotFound", json_pack("{ss}", "method", method));
	CLEANUP_CLOSE int reply_fd = rq.reply_fd;
	if (json_is_true(json_object_get(message, "oneway"))) {
		json_decref(answer);
		return 0;
	}
	return wire_send_fds(wire->fd, answer, &reply_fd, reply_fd >= 0);
}
