/* config: see config.h. */
#include "control/config.h"

#include <libconfig.h>
#include <stdio.h>
#include <string.h>

enum type { TEXT, PATH, CHOICE, BOOL, COUNT, SIZE, DURATION };

#define OFF(member) offsetof(struct config, member)
static const struct setting {
	const char *name;
	enum type type;
	size_t offset;
	const char *fallback; /* NULL: required */
	long min, max;        /* of a COUNT */
	const char *choices;  /* of a CHOICE, each with a | behind it */
} settings[] = {
	{"tenant", TEXT, OFF(tenant), NULL, 0, 0, NULL},
	{"state_dir", PATH, OFF(state_dir), NULL, 0, 0, NULL},
	{"runtime_dir", PATH, OFF(runtime_dir), NULL, 0, 0, NULL},
	{"socket", TEXT, OFF(socket), "", 0, 0, NULL},
	{"worker", TEXT, OFF(worker), "", 0, 0, NULL},
	{"platform_key", TEXT, OFF(platform_key), "", 0, 0, NULL},
	{"roles.tenant_admin", TEXT, OFF(tenant_admin), "", 0, 0, NULL},
	{"roles.vault_admin", TEXT, OFF(vault_admin), "", 0, 0, NULL},
	{"roles.platform_operator", TEXT, OFF(platform_operator), "", 0, 0, NULL},
	{"roles.auditor", TEXT, OFF(auditor), "", 0, 0, NULL},
	{"roles.root_is_all", BOOL, OFF(root_is_all), "true", 0, 0, NULL},
	{"mount.threads", COUNT, OFF(threads), "4", 1, 256, NULL},
	{"mount.transport", CHOICE, OFF(transport), "device", 0, 0, "auto|device|io_uring|"},
	{"mount.spin_us", COUNT, OFF(spin_us), "0", 0, 10000, NULL},
	{"mount.seal_interval", DURATION, OFF(seal_interval_ns), "30s", 0, 0, NULL},
	{"mount.restart_limit", COUNT, OFF(restart_limit), "5", 0, 1000, NULL},
	{"mount.restart_delay", DURATION, OFF(restart_delay_ns), "1s", 0, 0, NULL},
	{"mount.unmount_on_stop", BOOL, OFF(unmount_on_stop), "false", 0, 0, NULL},
	{"rotate.max_rate", SIZE, OFF(rotate_max_rate), "0", 0, 0, NULL},
	{"lock.timeout", DURATION, OFF(lock_timeout_ns), "30s", 0, 0, NULL},
	{"lock.on_lock", TEXT, OFF(on_lock), "", 0, 0, NULL},
	{"lock.on_lock_user", TEXT, OFF(on_lock_user), "root", 0, 0, NULL},
	{"lock.on_lock_timeout", DURATION, OFF(on_lock_timeout_ns), "10s", 0, 0, NULL},
	{"guard.activation_interval", DURATION, OFF(activation_interval_ns), "24h", 0, 0, NULL},
	{"guard.lock_after_key_change", DURATION, OFF(lock_after_key_change_ns), "72h", 0, 0, NULL},
	{"guard.unlock_after_lock", DURATION, OFF(unlock_after_lock_ns), "1h", 0, 0, NULL},
	{"guard.delete_locked_after", DURATION, OFF(delete_locked_after_ns), "28d", 0, 0, NULL},
	{"guard.delete_warning", DURATION, OFF(delete_warning_ns), "7d", 0, 0, NULL},
	{"guard.confirm_text", DURATION, OFF(confirm_text_ns), "5m", 0, 0, NULL},
	{"log.level", CHOICE, OFF(log_level), "info", 0, 0, "info|debug|"},
	{"log.syslog", BOOL, OFF(syslog), "false", 0, 0, NULL},
};

const char *config_setting(size_t index, const char **ret_default)
{
	if (index >= ARRAY_LEN(settings))
		return NULL;
	*ret_default = settings[index].fallback;
	return settings[index].name;
}

static bool setting_is_text(const struct setting *d)
{
	return d->type == TEXT || d->type == PATH || d->type == CHOICE;
}

void config_done(struct config *c)
{
	for (size_t k = 0; k < ARRAY_LEN(settings); k++)
		if (setting_is_text(&settings[k]))
			free(*(char **)((char *)c + settings[k].offset));
	*c = (struct config){0};
}

static const struct setting *setting_find(const char *name)
{
	for (size_t k = 0; k < ARRAY_LEN(settings); k++)
		if (strcmp(settings[k].name, name) == 0)
			return &settings[k];
	return NULL;
}

static bool setting_is_group(const char *name)
{
	size_t n = strlen(name);

	for (size_t k = 0; k < ARRAY_LEN(settings); k++)
		if (strncmp(settings[k].name, name, n) == 0 && settings[k].name[n] == '.')
			return true;
	return false;
}

static int setting_error(char *ret, const config_setting_t *s, const char *name, const char *wanted)
{
	const char *file = config_setting_source_file(s);

	snprintf(ret, 512, "%s:%u: %s: %s", file ? file : "configuration", config_setting_source_line(s), name, wanted);
	return -EINVAL;
}

static bool choice_has(const char *choices, const char *text)
{
	size_t n = strlen(text);

	for (const char *c = choices; *c; c = strchr(c, '|') + 1)
		if (strncmp(c, text, n) == 0 && c[n] == '|')
			return true;
	return false;
}

static int setting_store(const struct setting *d, const config_setting_t *s, struct config *c, char *ret_error)
{
	void *member = (char *)c + d->offset;
	int type = config_setting_type(s);
	const char *text;

	switch (d->type) {
	case BOOL:
		if (type != CONFIG_TYPE_BOOL)
			return setting_error(ret_error, s, d->name, "true or false is wanted");
		*(bool *)member = config_setting_get_bool(s);
		return 0;
	case COUNT: {
		long n = type == CONFIG_TYPE_INT ? config_setting_get_int(s) : -1;
		char wanted[80];

		snprintf(wanted, sizeof(wanted), "a number from %ld to %ld is wanted", d->min, d->max);
		if (type != CONFIG_TYPE_INT || n < d->min || n > d->max)
			return setting_error(ret_error, s, d->name, wanted);
		*(int *)member = (int)n;
		return 0;
	}
	case SIZE:
		if ((type != CONFIG_TYPE_INT && type != CONFIG_TYPE_INT64) || config_setting_get_int64(s) < 0)
			return setting_error(ret_error, s, d->name, "a number of bytes is wanted, as 20000000 (L behind it from 2 GB on)");
		*(uint64_t *)member = (uint64_t)config_setting_get_int64(s);
		return 0;
	case DURATION:
		text = type == CONFIG_TYPE_STRING ? config_setting_get_string(s) : "";
		if (duration_parse(text, member) < 0 || *(uint64_t *)member == 0)
			return setting_error(ret_error, s, d->name, "a duration as \"30s\", \"72h\" or \"28d\" is wanted");
		return 0;
	case PATH:
	case CHOICE:
	case TEXT:
		if (type != CONFIG_TYPE_STRING)
			return setting_error(ret_error, s, d->name, "a text in double quotes is wanted");
		text = config_setting_get_string(s);
		if (d->type == PATH && text[0] != '/')
			return setting_error(ret_error, s, d->name, "an absolute path is wanted");
		if (d->type == CHOICE && !choice_has(d->choices, text)) {
			char wanted[80];

			snprintf(wanted, sizeof(wanted), "one of %.*s is wanted", (int)strlen(d->choices) - 1, d->choices);
			return setting_error(ret_error, s, d->name, wanted);
		}
		free(*(char **)member);
		*(char **)member = strdup(text);
		return *(char **)member ? 0 : -ENOMEM;
	}
	return -EINVAL;
}

static int setting_walk(const config_setting_t *group, const char *prefix, struct config *c, char *ret_error)
{
	for (int k = 0; k < config_setting_length(group); k++) {
		const config_setting_t *s = config_setting_get_elem(group, (unsigned)k);
		char name[128];
		int rc;

		snprintf(name, sizeof(name), "%s%s%s", prefix, prefix[0] ? "." : "", config_setting_name(s));
		const struct setting *d = setting_find(name);
		if (d)
			rc = setting_store(d, s, c, ret_error);
		else if (!prefix[0] && setting_is_group(name))
			rc = config_setting_is_group(s) ? setting_walk(s, name, c, ret_error)
							: setting_error(ret_error, s, name, "a group { ... } is wanted");
		else
			rc = setting_error(ret_error, s, name, "there is no such setting; conf/tdefs.conf has all of them");
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int config_defaults(struct config *c)
{
	for (size_t k = 0; k < ARRAY_LEN(settings); k++) {
		const struct setting *d = &settings[k];
		void *member = (char *)c + d->offset;

		if (!d->fallback)
			continue;
		if (d->type == BOOL)
			*(bool *)member = strcmp(d->fallback, "true") == 0;
		else if (d->type == COUNT)
			*(int *)member = atoi(d->fallback);
		else if (d->type == DURATION && duration_parse(d->fallback, member) < 0)
			return -EINVAL;
		else if (setting_is_text(d))
			*(char **)member = strdup(d->fallback);
	}
	return 0;
}

/* Paths that are empty follow from those that are not. */
static int config_derive(struct config *c)
{
	struct {
		char **path;
		const char *dir, *name;
	} derived[] = {{&c->socket, c->runtime_dir, "keyctl.sock"}, {&c->platform_key, c->state_dir, "platform.key"}};

	for (size_t k = 0; k < ARRAY_LEN(derived); k++)
		if (!(*derived[k].path)[0]) {
			free(*derived[k].path);
			*derived[k].path = str_format("%s/%s", derived[k].dir, derived[k].name);
			if (!*derived[k].path)
				return -ENOMEM;
		}
	return 0;
}

int config_load(const char *path, struct config *ret, char *ret_error)
{
	struct config c = {0};
	config_t file;
	int rc = config_defaults(&c);
	FILE *f = fopen(path, "re");

	if (!f) {
		rc = -errno;
		snprintf(ret_error, 512, "%s: %s", path, strerror(errno));
		config_done(&c);
		return rc;
	}
	config_init(&file);
	config_set_options(&file, CONFIG_OPTION_SEMICOLON_SEPARATORS | CONFIG_OPTION_COLON_ASSIGNMENT_FOR_GROUPS |
					  CONFIG_OPTION_OPEN_BRACE_ON_SEPARATE_LINE);
	if (rc == 0 && config_read(&file, f) != CONFIG_TRUE) {
		snprintf(ret_error, 512, "%s:%d: %s", path, config_error_line(&file), config_error_text(&file));
		rc = -EINVAL;
	}
	if (rc == 0)
		rc = setting_walk(config_root_setting(&file), "", &c, ret_error);
	for (size_t k = 0; rc == 0 && k < ARRAY_LEN(settings); k++)
		if (!settings[k].fallback && !*(char **)((char *)&c + settings[k].offset)) {
			snprintf(ret_error, 512, "%s: %s is not set, and it has no default", path, settings[k].name);
			rc = -EINVAL;
		}
	if (rc == 0)
		rc = config_derive(&c);
	config_destroy(&file);
	fclose(f);
	/* libconfig knows no name for a stream: give the file's. */
	if (rc == -EINVAL && strncmp(ret_error, "configuration:", 14) == 0) {
		char line[512];

		snprintf(line, sizeof(line), "%.200s%.300s", path, ret_error + 13);
		strcpy(ret_error, line);
	}
	if (rc < 0) {
		config_done(&c);
		return rc;
	}
	*ret = c;
	return 0;
}
