/* rotate: keyctl rotate, which follows a rotation to its end; ending keyctl does not end the rotation. */
#include "keyctl/keyctl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static bool under_way(const json_t *env)
{
	return json_is_true(json_object_get(env, "rotating")) || json_is_true(json_object_get(env, "rotating_data"));
}

static bool paused(const json_t *env)
{
	return json_is_true(json_object_get(env, "rotate_paused"));
}

/* Why nobody knows how far a rotation is; NULL where its worker says it. */
static const char *unknown(const json_t *env)
{
	if (strcmp(text_of(env, "state"), "locked") == 0)
		return "it is locked: a rotation that had begun goes on once it is unlocked";
	if (strcmp(text_of(env, "state"), "mounted") != 0)
		return "it is not mounted: a rotation that had begun goes on at its next mount";
	return number_of(env, "key_version") ? NULL : "its worker does not say: keyctl status shows why; a rotation that had begun goes on by itself";
}

/* How far it is, in one line. */
static void progress_text(const json_t *env, char ret[200])
{
	const char *phase = text_of(env, "rotate_phase");
	long long left = number_of(env, "rotate_seconds_left");
	char when[40] = "";

	if (unknown(env)) {
		snprintf(ret, 200, "%s", unknown(env));
		return;
	}
	if (left > 0)
		snprintf(when, sizeof(when), left < 100 ? ", %lld s left" : ", %lld min left", left < 100 ? left : (left + 59) / 60);
	if (paused(env))
		snprintf(ret, 200, "paused, at key version %lld", number_of(env, "key_version"));
	else if (strcmp(phase, "data") == 0)
		snprintf(ret, 200, "%lld %% of %lld MiB are under new keys, %lld MiB/s%s", number_of(env, "rotate_percent"),
			number_of(env, "rotate_total") >> 20, number_of(env, "rotate_rate") >> 20, when);
	else if (strcmp(phase, "key") == 0)
		snprintf(ret, 200, "%lld %% of the files are under key version %lld, %lld files/s%s", number_of(env, "rotate_percent"),
			number_of(env, "key_version"), number_of(env, "rotate_files_rate"), when);
	else if (strcmp(phase, "counting") == 0)
		snprintf(ret, 200, "what there is to do is being counted");
	else if (strcmp(phase, "recovering") == 0)
		snprintf(ret, 200, "what a crash left half done is being ended, %lld %%%s", number_of(env, "rotate_percent"), when);
	else if (text_of(env, "rotate_error")[0])
		snprintf(ret, 200, "waits: %.150s", text_of(env, "rotate_error"));
	else
		snprintf(ret, 200, "%s", under_way(env) ? "begins" : "no rotation is under way");
}

static enum status rotate_result(const json_t *env, const char *name, bool data)
{
	if (unknown(env))
		return client_error(STATUS_FAILED, "%s: %s", name, unknown(env));
	if (under_way(env) && paused(env))
		return client_error(STATUS_FAILED, "the rotation of %s was paused: keyctl rotate %s --resume goes on", name, name);
	if (text_of(env, "rotate_error")[0] && number_of(env, "rotate_left"))
		return client_error(STATUS_FAILED, "the rotation waits: %lld files do not verify and keep their keys (the worker's log names them): "
			"bring them back from a backup or delete them, then keyctl rotate %s --resume", number_of(env, "rotate_left"), name);
	if (text_of(env, "rotate_error")[0])
		return client_error(STATUS_FAILED, "the rotation waits, both keys are held: %s", text_of(env, "rotate_error"));
	if (data)
		printf("%s has environment key version %lld, and all its data is under new keys: the old ones open nothing\n", name,
			number_of(env, "key_version"));
	else
		printf("%s has environment key version %lld; %lld files were moved to it, the old key is destroyed\n", name,
			number_of(env, "key_version"), number_of(env, "rotated_files"));
	return STATUS_DONE;
}

static enum status rotate_follow(const struct options *o, const char *name, json_t *answer)
{
	const struct timespec pause = {0, 100000000};
	bool terminal = isatty(STDERR_FILENO), data = false;
	const json_t *env = json_object_get(answer, "environment");
	enum status status = STATUS_DONE;
	char line[200];

	while (status == STATUS_DONE && under_way(env) && !paused(env) && !text_of(env, "rotate_error")[0]) {
		data = data || json_is_true(json_object_get(env, "rotating_data"));
		progress_text(env, line);
		if (terminal)
			fprintf(stderr, "\r\033[K%s", line);
		nanosleep(&pause, NULL);
		json_decref(answer);
		answer = NULL;
		status = client_call(o, "EnvShow", json_pack("{ss}", "name", name), &answer);
		env = json_object_get(answer, "environment");
	}
	if (terminal)
		fputs("\r\033[K", stderr);
	if (status == STATUS_NO_DAEMON)
		(void)client_error(status, "the rotation of %s goes on without: keyctl rotate %s --status shows how far it is", name, name);
	if (status == STATUS_DONE && o->json)
		client_print_json(env);
	else if (status == STATUS_DONE)
		status = rotate_result(env, name, data);
	json_decref(answer);
	return status;
}

enum status env_rotate(const struct options *o, char **arguments)
{
	const char *name = arguments[0];
	json_t *answer = NULL;
	enum status status;
	char line[200];

	if (o->data + o->pause + o->resume + o->status > 1)
		return client_error(STATUS_USAGE, "one of --data, --status, --pause and --resume at a time");
	if (o->status)
		status = client_call(o, "EnvShow", json_pack("{ss}", "name", name), &answer);
	else if (o->pause || o->resume)
		status = client_call(o, "EnvRotatePause", json_pack("{ss sb}", "name", name, "paused", o->pause), &answer);
	else
		status = client_call(o, "EnvRotate", json_pack("{ss sb}", "name", name, "data", o->data), &answer);
	if (status != STATUS_DONE)
		return status;
	if (!o->status && !o->pause)
		return rotate_follow(o, name, answer);
	progress_text(json_object_get(answer, "environment"), line);
	if (o->json)
		client_print_json(json_object_get(answer, "environment"));
	else
		printf("%s: %s\n", name, line);
	json_decref(answer);
	return STATUS_DONE;
}
