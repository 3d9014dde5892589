/* report: what people look at: status, scrub, audit. */
#include "keyctl/keyctl.h"

#include "base/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* What is to be said of an environment's health, in few words. */
static void health_text(const json_t *env, char ret[160])
{
	static const struct {
		const char *key, *words;
	} counts[] = {{"refused", "REFUSED"}, {"restarts", "restarted"}, {"resealed", "re-sealed"}};
	bool mounted = strcmp(text_of(env, "state"), "mounted") == 0;
	char when[32];
	size_t n = 0;

	strcpy(ret, mounted ? "ok" : "-");
	if (number_of(env, "deleted_at")) {
		when_text(number_of(env, "deleted_at"), when);
		snprintf(ret, 160, "deletion %.16s", when);
	} else if (text_of(env, "locked_by")[0]) {
		snprintf(ret, 160, "by keyctl lock");
	} else if (json_is_true(json_object_get(env, "silent"))) {
		snprintf(ret, 160, "NO ANSWER");
	} else if (json_is_true(json_object_get(env, "foreign"))) {
		snprintf(ret, 160, "OTHER VERSION");
	} else {
		if (json_is_true(json_object_get(env, "poisoned")))
			n += (size_t)snprintf(ret + n, 160 - n, "READ-ONLY");
		for (size_t k = 0; k < ARRAY_LEN(counts); k++)
			if (number_of(env, counts[k].key))
				n += (size_t)snprintf(ret + n, 160 - n, "%s%s %lld", n ? ", " : "", counts[k].words,
					number_of(env, counts[k].key));
		if (json_is_true(json_object_get(env, "rotate_paused")))
			snprintf(ret + n, 160 - n, "%srotation paused", n ? ", " : "");
		else if (json_is_true(json_object_get(env, "rotating")))
			snprintf(ret + n, 160 - n, "%srotating (%lld %%)", n ? ", " : "", number_of(env, "rotate_percent"));
		else if (json_is_true(json_object_get(env, "rotating_data")))
			snprintf(ret + n, 160 - n, "%srotating data (%lld %%)", n ? ", " : "", number_of(env, "rotate_percent"));
	}
}

/* Whether all of them have the same text there. */
static bool one_for_all(const json_t *list, const char *key)
{
	json_t *o;
	size_t k;

	json_array_foreach((json_t *)list, k, o)
		if (strcmp(text_of(o, key), text_of(json_array_get(list, 0), key)) != 0)
			return false;
	return true;
}

void report_environments(const json_t *environments)
{
	json_t *env, *rows = json_pack("[[ssssssss]]", "ENVIRONMENT", "REGION", "TYPE", "STATE", "HEALTH", "KEY", "FINGERPRINT", "MOUNT POINT");
	bool regions = !one_for_all(environments, "region");
	char health[160];
	size_t k;

	json_array_foreach((json_t *)environments, k, env)
	{
		bool tenant = strcmp(text_of(env, "key_source"), "tenant") == 0;

		health_text(env, health);
		json_array_append_new(rows, json_pack("[sssssss%s]", text_of(env, "name"), text_of(env, "region"), text_of(env, "type"),
						  text_of(env, "state"), health, text_of(env, tenant ? "key" : "key_source"),
						  text_of(env, "fingerprint"), (size_t)MIN(strlen(text_of(env, "fingerprint")), 16u),
						  text_of(env, "mountpoint")));
	}
	/* With one region nobody asks which. */
	for (k = 0; !regions && k < json_array_size(rows); k++)
		json_array_remove(json_array_get(rows, k), 1);
	table_print(rows);
}

/* "3 environments: 2 mounted, 1 locked" */
static void report_count(const json_t *environments)
{
	static const char *const states[] = {"mounted", "unmounted", "locked", "failed"};
	bool said = false;
	json_t *env;
	size_t k;

	printf("%zu environment%s", json_array_size(environments), json_array_size(environments) == 1 ? "" : "s");
	for (size_t s = 0; s < ARRAY_LEN(states); s++) {
		size_t n = 0;

		json_array_foreach((json_t *)environments, k, env) n += strcmp(text_of(env, "state"), states[s]) == 0;
		if (n)
			printf("%s %zu %s", said ? "," : ":", n, states[s]);
		said = said || n;
	}
	putchar('\n');
}

enum status report_status(const struct options *o, char **arguments)
{
	json_t *answer, *line;
	char up[32];
	size_t k;
	enum status status = client_call(o, "Status", json_object(), &answer);

	(void)arguments;
	if (status == STATUS_DONE && o->json) {
		client_print_json(answer);
	} else if (status == STATUS_DONE && o->metrics) {
		metrics_print(answer);
	} else if (status == STATUS_DONE) {
		const json_t *environments = json_object_get(answer, "environments"), *attention = json_object_get(answer, "attention");

		span_text(number_of(answer, "uptime"), up);
		printf("Tenant %s, tdefsd %s (pid %lld, up %s), ", text_of(answer, "tenant"), text_of(answer, "version"),
			number_of(answer, "pid"), up);
		report_count(environments);
		printf("Platform key %.16s; key memory %s; freed pages are %s by this kernel\n\n", text_of(answer, "platform_fingerprint"),
			json_is_true(json_object_get(answer, "memory_locked")) ? "locked" : "NOT locked",
			json_is_true(json_object_get(answer, "init_on_free")) ? "zeroed" : "not zeroed (init_on_free=1 is not set)");
		if (json_array_size(environments))
			report_environments(environments);
		else
			printf("No environments yet: keyctl env create NAME --mountpoint DIR makes one\n");
		if (json_array_size(json_object_get(answer, "keys"))) {
			putchar('\n');
			key_print_list(json_object_get(answer, "keys"), json_object_get(answer, "regions"), false);
		}
		printf("\n%s\n", json_array_size(attention) ? "Needs attention:" : "Nothing needs attention.");
		json_array_foreach(attention, k, line) printf("  %s\n", json_string_value(line));
	}
	json_decref(answer);
	return status;
}

static json_t *scrub_findings; /* so far */

static void scrub_progress(const json_t *answer)
{
	struct progress p = {.done = (uint64_t)number_of(answer, "bytes"), .total = (uint64_t)number_of(answer, "total_bytes"),
		.files = (uint64_t)number_of(answer, "files"), .total_files = (uint64_t)number_of(answer, "total_files"),
		.bad = (uint64_t)number_of(answer, "bad")};

	json_array_extend(scrub_findings, json_object_get(answer, "findings"));
	progress_show(&p, !json_is_true(json_object_get(answer, "running")));
}

static void scrub_print(const char *name, const json_t *answer)
{
	const json_t *finding;
	size_t k;

	json_array_foreach(scrub_findings, k, finding) printf("%s (%s): %s\n", text_of(finding, "path"), text_of(finding, "store_path"),
		text_of(finding, "text"));
	printf("%s: %lld files, %lld blocks verified, %lld damaged\n", name, number_of(answer, "files"), number_of(answer, "blocks"),
		number_of(answer, "bad"));
}

/* Follows the scrub to its end; ending keyctl does not end it. */
enum status report_scrub(const struct options *o, char **arguments)
{
	json_t *answer = NULL, *parameters = json_pack("{ss sb sb}", "name", arguments[0], "start", 1, "repair", o->repair);
	struct client_call call = {.method = "EnvScrub", .parameters = parameters, .progress = scrub_progress};

	scrub_findings = json_array();
	enum status status = client_call_with(o, &call, &answer);
	if (status == STATUS_DONE) {
		scrub_progress(answer);
		json_object_set(answer, "findings", scrub_findings);
		if (o->json)
			client_print_json(answer);
		else
			scrub_print(arguments[0], answer);
		if (text_of(answer, "error")[0])
			status = client_error(STATUS_FAILED, "the scrub ended early: %s", text_of(answer, "error"));
		else if (number_of(answer, "bad"))
			status = client_error(STATUS_FAILED, "damage was found: %s",
				o->repair ? "what is not repaired above is for tdefs-fsck --repair, unmounted"
					  : "keyctl scrub --repair writes copies again; tdefs-fsck --repair, unmounted, does more");
	}
	json_decref(scrub_findings);
	json_decref(answer);
	return status;
}

static void print_entry(const json_t *entry)
{
	time_t at = (time_t)number_of(entry, "time");
	char when[32];

	strftime(when, sizeof(when), "%F %T", localtime(&at));
	printf("%4lld  %s  uid %-5lld %-17s  %-10s  %-16s  %s%s%s%s%s\n", number_of(entry, "seq"), when, number_of(entry, "uid"),
		text_of(entry, "role"), text_of(entry, "request"), text_of(entry, "object"), text_of(entry, "outcome"),
		text_of(entry, "rule")[0] ? " by " : "", text_of(entry, "rule"), text_of(entry, "detail")[0] ? ": " : "",
		text_of(entry, "detail"));
}

/* Page by page; --json collects them. */
static enum status audit_list(const struct options *o)
{
	json_t *all = json_array(), *answer, *entry;
	enum status status = STATUS_DONE;
	long long after = 0;
	bool more = true;
	size_t k;

	while (status == STATUS_DONE && more) {
		status = client_call(o, "Audit", json_pack("{sI}", "after", (json_int_t)after), &answer);
		more = json_is_true(json_object_get(answer, "more"));
		json_array_foreach(json_object_get(answer, "entries"), k, entry)
		{
			after = number_of(entry, "seq");
			if (o->json)
				json_array_append(all, entry);
			else
				print_entry(entry);
		}
		json_decref(answer);
	}
	if (status == STATUS_DONE && o->json) {
		json_t *list = json_pack("{sO}", "entries", all);

		client_print_json(list);
		json_decref(list);
	}
	json_decref(all);
	return status;
}

enum status report_audit(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status;

	(void)arguments;
	if (!o->verify)
		return audit_list(o);
	status = client_call(o, "Audit", json_pack("{sb}", "verify", 1), &answer);
	if (status == STATUS_DONE && o->json)
		client_print_json(answer);
	else if (status == STATUS_DONE)
		printf("%lld entries, the chain is whole\n", number_of(answer, "verified"));
	json_decref(answer);
	return status;
}
