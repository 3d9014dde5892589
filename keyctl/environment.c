/* environment: the commands on environments. */
#include "keyctl/keyctl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static void print_environment(const struct options *o, const json_t *answer)
{
	static const struct {
		const char *label, *key;
	} lines[] = {{"Name", "name"}, {"Type", "type"}, {"Region", "region"}, {"State", "state"}, {"Mount point", "mountpoint"},
		{"Store", "store"}, {"Key source", "key_source"}, {"Key", "key"}, {"Fingerprint", "fingerprint"},
		{"Key version", "key_version"}, {"Epoch", "epoch"}, {"Worker", "pid"}, {"Worker's version", "worker_version"},
		{"Uptime (s)", "uptime"}, {"Restarts", "restarts"}, {"Last failure", "reason"}, {"Files in use", "open_files"}, {"Requests by", "transport"},
		{"Syncs", "syncs"}, {"Intent writes", "intents"}, {"Refused as damaged", "refused"}, {"Re-sealed after crash", "resealed"}};
	const json_t *env = json_object_get(answer, "environment");

	if (o->json) {
		client_print_json(env);
		return;
	}
	for (size_t k = 0; k < ARRAY_LEN(lines); k++) {
		const json_t *value = json_object_get(env, lines[k].key);

		if (json_is_integer(value))
			printf("%-22s %lld\n", lines[k].label, (long long)json_integer_value(value));
		else if (json_string_length(value))
			printf("%-22s %s\n", lines[k].label, json_string_value(value));
	}
}

/* A call on one environment that answers with it; says what was done. */
enum status env_create(const struct options *o, char **arguments)
{
	json_t *answer;

	if (!o->mountpoint)
		return client_error(STATUS_USAGE, "env create takes --mountpoint DIR, an empty directory to mount on");
	CLEANUP_FREE char *mountpoint = client_path(o->mountpoint), *store = o->store ? client_path(o->store) : NULL;
	enum status status = client_call(o, "EnvCreate", json_pack("{ss ss ss* ss* ss*}", "name", arguments[0], "mountpoint", mountpoint,
							 "store", store, "type", o->type, "region", o->region), &answer);
	const json_t *env = json_object_get(answer, "environment");
	if (status == STATUS_DONE && o->json)
		client_print_json(env);
	else if (status == STATUS_DONE)
		printf("%s is mounted on %s, its store is %s, under the platform key\n", arguments[0], text_of(env, "mountpoint"),
			text_of(env, "store"));
	json_decref(answer);
	return status;
}

enum status env_list(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status = client_call(o, "EnvList", json_object(), &answer);

	(void)arguments;
	if (status == STATUS_DONE && o->json)
		client_print_json(json_object_get(answer, "environments"));
	else if (status == STATUS_DONE)
		report_environments(json_object_get(answer, "environments"));
	json_decref(answer);
	return status;
}

enum status env_show(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status = client_call(o, "EnvShow", json_pack("{ss}", "name", arguments[0]), &answer);

	if (status == STATUS_DONE)
		print_environment(o, answer);
	json_decref(answer);
	return status;
}

enum status env_mount(const struct options *o, char **arguments)
{
	json_t *parameters = json_pack("{ss}", "name", arguments[0]), *answer;

	if (o->accept_older)
		json_object_set_new(parameters, "accept_older", json_string(o->accept_older));
	enum status status = client_call(o, "EnvMount", parameters, &answer);
	if (status == STATUS_DONE && o->json)
		client_print_json(json_object_get(answer, "environment"));
	else if (status == STATUS_DONE)
		printf("%s is mounted on %s\n%s%s", arguments[0], text_of(json_object_get(answer, "environment"), "mountpoint"),
			text_of(answer, "message"), text_of(answer, "message")[0] ? "\n" : "");
	json_decref(answer);
	return status;
}

static enum status unlock_call(const struct options *o, const char *name, bool confirmed)
{
	json_t *answer;
	enum status status = client_call(o, "EnvUnlock", json_pack("{ss sb}", "name", name, "confirmed", confirmed), &answer);

	if (status == STATUS_DONE && o->json)
		client_print_json(json_object_get(answer, "environment"));
	else if (status == STATUS_DONE)
		printf("%s is unlocked and mounted on %s\n", name, text_of(json_object_get(answer, "environment"), "mountpoint"));
	json_decref(answer);
	return status;
}

enum status env_unlock(const struct options *o, char **arguments)
{
	return unlock_call(o, arguments[0], o->yes);
}

enum status env_unlock_confirmed(const struct options *o, char **arguments)
{
	enum status status = client_confirm(o, "Unlocking makes its data readable again.");

	return status == STATUS_DONE ? unlock_call(o, arguments[0], true) : status;
}

enum status env_apply(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status = client_confirm(o, "From now on the data is lost if your key is lost; nobody can bring it back.");

	if (status != STATUS_DONE)
		return status;
	status = client_call(o, "EnvApply", json_pack("{ss sb}", "name", arguments[0], "confirmed", 1), &answer);
	const json_t *env = json_object_get(answer, "environment");
	if (status == STATUS_DONE && o->json)
		client_print_json(env);
	else if (status == STATUS_DONE)
		printf("%s is under the key %s (%.16s)\n", arguments[0], text_of(env, "key"), text_of(env, "fingerprint"));
	json_decref(answer);
	return status;
}

enum status env_return(const struct options *o, char **arguments)
{
	char line[80] = "";
	json_t *answer, *shown;
	const char *confirm = o->confirm;
	enum status status = client_call(o, "EnvShow", json_pack("{ss}", "name", arguments[0]), &shown);

	if (status != STATUS_DONE)
		return status;
	bool production = strcmp(text_of(json_object_get(shown, "environment"), "type"), "production") == 0;
	json_decref(shown);
	if (!production) {
		if (!confirm)
			status = client_confirm(o, "The operator's platform key will open the data again.");
	} else if (!confirm && isatty(STDIN_FILENO)) {
		printf("The operator's platform key will open the data of %s again.\n", arguments[0]);
		status = client_type("It is a production environment. Type its name to go on: ", line, sizeof(line));
		confirm = line;
	}
	if (status != STATUS_DONE)
		return status;
	status = client_call(o, "EnvReturn", json_pack("{ss ss* sb}", "name", arguments[0], "confirm", confirm, "confirmed", !production),
		&answer);
	if (status == STATUS_DONE && o->json)
		client_print_json(json_object_get(answer, "environment"));
	else if (status == STATUS_DONE)
		printf("%s is under the platform key again\n", arguments[0]);
	json_decref(answer);
	return status;
}

enum status env_attach(const struct options *o, char **arguments)
{
	CLEANUP_CLOSE int key_fd = -1;
	CLEANUP_CLOSE int password_fd = -1;
	json_t *answer;
	enum status status = STATUS_DONE;

	if (!o->mountpoint || !o->store)
		return client_error(STATUS_USAGE, "env attach takes --store DIR, an existing store, and --mountpoint DIR, an empty directory");
	if (o->key)
		status = secret_file(o->key, &key_fd);
	if (o->key && status == STATUS_DONE)
		status = secret_password(o, o->key, false, &password_fd);
	if (status != STATUS_DONE)
		return status;
	CLEANUP_FREE char *mountpoint = client_path(o->mountpoint), *store = client_path(o->store);
	const int fds[] = {key_fd, password_fd};
	json_t *parameters = json_pack("{ss ss ss ss* ss*}", "name", arguments[0], "mountpoint", mountpoint, "store", store, "type", o->type,
		"region", o->region);
	if (key_fd >= 0)
		json_object_set_new(parameters, "key", json_integer(0));
	if (password_fd >= 0)
		json_object_set_new(parameters, "password", json_integer(1));
	status = client_call_with(o, &(struct client_call){.method = "EnvAttach", .parameters = parameters, .fds = fds,
					     .fd_count = (unsigned)(key_fd >= 0) + (password_fd >= 0)}, &answer);
	const json_t *env = json_object_get(answer, "environment");
	if (status == STATUS_DONE && o->json)
		client_print_json(env);
	else if (status == STATUS_DONE)
		printf("%s is attached and mounted on %s, under the %s key\n%s%s", arguments[0], text_of(env, "mountpoint"), text_of(env, "key_source"),
			text_of(answer, "message"), text_of(answer, "message")[0] ? "\n" : "");
	json_decref(answer);
	return status;
}

enum status env_unmount(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status = client_call(o, "EnvUnmount", json_pack("{ss sb}", "name", arguments[0], "force", o->force), &answer);

	if (status == STATUS_DONE && !o->json)
		printf("%s is unmounted\n", arguments[0]);
	json_decref(answer);
	return status;
}

enum status env_delete(const struct options *o, char **arguments)
{
	char line[80] = "";
	json_t *answer;
	const char *confirm = o->confirm;

	if (!confirm && !isatty(STDIN_FILENO))
		return client_error(STATUS_USAGE, "deleting %s destroys its data for ever. Say so with --confirm %s (rule A2)", arguments[0],
			arguments[0]);
	if (!confirm) {
		printf("Deleting %s destroys its data for ever. ", arguments[0]);
		if (client_type("Type its name to go on: ", line, sizeof(line)) != STATUS_DONE)
			return STATUS_FAILED;
		confirm = line;
	}
	enum status status = client_call(o, "EnvDelete", json_pack("{ss ss}", "name", arguments[0], "confirm", confirm), &answer);
	if (status == STATUS_DONE && !o->json)
		printf("%s is deleted\n", arguments[0]);
	json_decref(answer);
	return status;
}

enum status env_lock(const struct options *o, char **arguments)
{
	json_t *answer, *user;
	size_t k;
	enum status status = client_call(o, "EnvLock", json_pack("{ss sb}", "name", arguments[0], "dry_run", o->dry_run), &answer);

	if (status == STATUS_DONE && o->json) {
		client_print_json(answer);
	} else if (status == STATUS_DONE) {
		if (!o->dry_run)
			printf("%s is locked\n", arguments[0]);
		if (text_of(answer, "message")[0])
			printf("%s\n", text_of(answer, "message"));
		const json_t *users = json_object_get(answer, "users");
		if (json_array_size(users))
			printf(o->dry_run ? "These processes would lose their files:\n" : "These processes had files open:\n");
		else if (json_is_true(json_object_get(answer, "users_unknown")))
			printf("Which processes had files open could not be found out in time\n");
		else if (o->dry_run)
			printf("No process has files open\n");
		json_array_foreach(users, k, user) printf("  %lld %s\n", number_of(user, "pid"), text_of(user, "name"));
	}
	json_decref(answer);
	return status;
}
