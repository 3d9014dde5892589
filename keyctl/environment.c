/* environment: the commands on environments. */
#include "keyctl/keyctl.h"

#include <stdio.h>
#include <string.h>

static void print_environment(const struct options *o, const json_t *answer)
{
	static const struct {
		const char *label, *key;
	} lines[] = {{"Name", "name"}, {"Type", "type"}, {"Region", "region"}, {"State", "state"}, {"Mount point", "mountpoint"},
		{"Store", "store"}, {"Key", "key_source"}, {"Fingerprint", "fingerprint"}, {"Epoch", "epoch"}, {"Worker", "pid"},
		{"Uptime (s)", "uptime"}, {"Restarts", "restarts"}, {"Last failure", "reason"}, {"Open files", "open_files"},
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
static enum status call_on(const struct options *o, const char *method, const char *name, const char *done)
{
	json_t *answer;
	enum status status = client_call(o, method, json_pack("{ss}", "name", name), &answer);

	if (status == STATUS_DONE && o->json)
		client_print_json(json_object_get(answer, "environment"));
	else if (status == STATUS_DONE)
		printf("%s %s on %s\n", name, done, text_of(json_object_get(answer, "environment"), "mountpoint"));
	json_decref(answer);
	return status;
}

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
	return call_on(o, "EnvMount", arguments[0], "is mounted");
}

enum status env_unlock(const struct options *o, char **arguments)
{
	return call_on(o, "EnvUnlock", arguments[0], "is unlocked and mounted");
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
		printf("Deleting %s destroys its data for ever. Type its name to go on: ", arguments[0]);
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			line[0] = '\0';
		line[strcspn(line, "\n")] = '\0';
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
		else if (o->dry_run)
			printf("No process has files open\n");
		json_array_foreach(users, k, user) printf("  %lld %s\n", number_of(user, "pid"), text_of(user, "name"));
	}
	json_decref(answer);
	return status;
}
