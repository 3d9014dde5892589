/* client: the connection to tdefsd, and what is said to people. */
#include "keyctl/keyctl.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ANSWER_MAX (64u << 20) /* thousands of environments; tdefsd is trusted */

enum status client_error(enum status status, const char *format, ...)
{
	va_list ap;

	fputs("keyctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	return status;
}

const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

long long number_of(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

void client_print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
}

char *client_path(const char *path)
{
	char here[PATH_MAX];

	if (path[0] == '/' || !getcwd(here, sizeof(here)))
		return strdup(path);
	return str_format("%s/%s", strcmp(here, "/") == 0 ? "" : here, path);
}

static int client_connect(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static enum status client_answer_error(const char *error, const json_t *parameters)
{
	const char *message = text_of(parameters, "message"), *rule = text_of(parameters, "rule");
	const char *name = strrchr(error, '.');

	name = name ? name + 1 : error;
	if (strcmp(name, "Refused") == 0)
		return client_error(STATUS_REFUSED, "refused by rule %s: %s", rule, message);
	if (strcmp(name, "Locked") == 0)
		return client_error(STATUS_LOCKED, "%s%s%s", rule, rule[0] ? ": " : "", message);
	if (strcmp(name, "PermissionDenied") == 0)
		return client_error(STATUS_PERMISSION, "%s", message);
	if (strcmp(name, "InvalidParameter") == 0)
		return client_error(STATUS_FAILED, "tdefsd does not take the parameter %s", text_of(parameters, "parameter"));
	if (strcmp(name, "MethodNotFound") == 0)
		return client_error(STATUS_FAILED, "this tdefsd does not know %s: is it of another version?", text_of(parameters, "method"));
	return client_error(STATUS_FAILED, "%s", message[0] ? message : error);
}

enum status client_call_with(const struct options *o, const struct client_call *call, json_t **ret)
{
	char full[80];
	json_t *answer = NULL;
	CLEANUP_CLOSE int fd = client_connect(o->socket);

	*ret = NULL;
	if (fd < 0) {
		json_decref(call->parameters);
		return client_error(STATUS_NO_DAEMON, "no tdefsd answers at %s (%s): is it running? --socket or TDEFS_SOCKET name another",
			o->socket, strerror(-fd));
	}
	snprintf(full, sizeof(full), WIRE_INTERFACE ".%s", call->method);
	int rc = wire_send_fds(fd, json_pack("{ss sb so}", "method", full, "more", call->progress != NULL, "parameters", call->parameters),
		call->fds, call->fd_count);
	struct wire wire = {.fd = fd, .max = ANSWER_MAX};
	if (rc == 0 || rc == -EPIPE)
		rc = wire_receive(&wire, -1, &answer);
	while (rc == 0 && json_is_true(json_object_get(answer, "continues"))) {
		if (call->progress)
			call->progress(json_object_get(answer, "parameters"));
		json_decref(answer);
		answer = NULL;
		rc = wire_receive(&wire, -1, &answer);
	}
	if (rc == 0 && call->ret_fd && wire.fd_count > 0) {
		*call->ret_fd = wire.fds[--wire.fd_count];
	}
	wire_done(&wire);
	if (rc < 0)
		return client_error(STATUS_NO_DAEMON, "tdefsd ended the conversation: %s", strerror(-rc));
	const char *error = json_string_value(json_object_get(answer, "error"));
	enum status status = error ? client_answer_error(error, json_object_get(answer, "parameters")) : STATUS_DONE;
	if (status == STATUS_DONE)
		*ret = json_incref(json_object_get(answer, "parameters"));
	json_decref(answer);
	return status;
}

enum status client_call(const struct options *o, const char *method, json_t *parameters, json_t **ret)
{
	return client_call_with(o, &(struct client_call){.method = method, .parameters = parameters}, ret);
}

enum status client_type(const char *prompt, char *ret, size_t size)
{
	printf("%s", prompt);
	fflush(stdout);
	if (!fgets(ret, (int)size, stdin))
		ret[0] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	return ret[0] ? STATUS_DONE : client_error(STATUS_FAILED, "nothing was typed, nothing was done");
}

enum status client_confirm(const struct options *o, const char *question)
{
	char line[16] = "";

	if (o->yes)
		return STATUS_DONE;
	if (!isatty(STDIN_FILENO))
		return client_error(STATUS_USAGE, "%s Say so with --yes (rule A2)", question);
	printf("%s Type yes to go on: ", question);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin) || strcmp(line, "yes\n") != 0)
		return client_error(STATUS_FAILED, "not confirmed, nothing was done");
	return STATUS_DONE;
}
