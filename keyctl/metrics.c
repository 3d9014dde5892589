/* metrics: keyctl status --metrics: status for a monitoring system, in the text exposition format of Prometheus
 * (prometheus.io/docs/instrumenting/exposition_formats), as node_exporter's textfile collector takes it from a file. Names are a contract
 * with dashboards: one that is given keeps its meaning. Counters begin anew with each worker. */
#include "keyctl/keyctl.h"

#include <stdio.h>
#include <string.h>

static const struct metric {
	const char *name, *type, *help;
	const char *key; /* of an environment in the answer of Status: a number, or true */
} metrics[] = {
	{"tdefs_restarts", "gauge", "Times that its worker died and was started again since the last order", "restarts"},
	{"tdefs_no_answer", "gauge", "1 while its worker does not answer", "silent"},
	{"tdefs_read_only", "gauge", "1 after its store failed to sync, until it is mounted again", "poisoned"},
	{"tdefs_refused_total", "counter", "Blocks, headers and names refused as damaged or forged", "refused"},
	{"tdefs_resealed_blocks_total", "counter", "Blocks accepted as they stood after an unclean end, and tagged again", "resealed"},
	{"tdefs_intent_writes_total", "counter", "Durable writes of a file's state ahead of its data", "intents"},
	{"tdefs_syncs_total", "counter", "Flushes below that an fsync or a seal asked for", "syncs"},
	{"tdefs_read_bytes_total", "counter", "Bytes decrypted for readers", "read_bytes"},
	{"tdefs_written_bytes_total", "counter", "Bytes encrypted for writers", "written_bytes"},
	{"tdefs_files_in_use", "gauge", "Files that were used lately", "open_files"},
	{"tdefs_epoch", "gauge", "Mounts of its store so far", "epoch"},
	{"tdefs_rotating", "gauge", "1 while files move to a new environment key", "rotating"},
	{"tdefs_rotating_data", "gauge", "1 while content is encrypted again", "rotating_data"},
};

static void metric_head(const char *name, const char *type, const char *help)
{
	printf("# HELP %s %s.\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: the format has its own escapes. */
static void metric_label(const char *label, const char *value)
{
	printf("%s=\"", label);
	for (; *value; value++)
		if (*value == '\n')
			fputs("\\n", stdout);
		else
			printf(*value == '"' || *value == '\\' ? "\\%c" : "%c", *value);
	putchar('"');
}

static void metric_environment(const char *name, const json_t *env, long long value)
{
	printf("%s{", name);
	metric_label("environment", text_of(env, "name"));
	printf("} %lld\n", value);
}

void metrics_print(const json_t *answer)
{
	const json_t *environments = json_object_get(answer, "environments"), *env;
	size_t k;

	metric_head("tdefs_info", "gauge", "The tenant, and the version of its tdefsd");
	printf("tdefs_info{");
	metric_label("tenant", text_of(answer, "tenant"));
	putchar(',');
	metric_label("version", text_of(answer, "version"));
	puts("} 1");
	metric_head("tdefs_attention", "gauge", "Lines under \"Needs attention\" of keyctl status");
	printf("tdefs_attention %zu\n", json_array_size(json_object_get(answer, "attention")));
	metric_head("tdefs_in_flux", "gauge", "1 while not everything was looked at after an unclean end");
	json_array_foreach((json_t *)environments, k, env) metric_environment("tdefs_in_flux", env, text_of(env, "in_flux")[0] != '\0');
	metric_head("tdefs_mounted", "gauge", "1 while it is mounted");
	json_array_foreach((json_t *)environments, k, env) metric_environment("tdefs_mounted", env, strcmp(text_of(env, "state"), "mounted") == 0);
	for (size_t m = 0; m < ARRAY_LEN(metrics); m++) {
		metric_head(metrics[m].name, metrics[m].type, metrics[m].help);
		json_array_foreach((json_t *)environments, k, env) {
			const json_t *value = json_object_get(env, metrics[m].key);

			metric_environment(metrics[m].name, env, json_is_integer(value) ? (long long)json_integer_value(value) : json_is_true(value));
		}
	}
}
