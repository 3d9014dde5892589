/* wire: see wire.h. */
#include "control/wire.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

void wire_done(struct wire *w)
{
	free(w->buf);
	*w = (struct wire){.fd = -1};
}

/* Nesting, before a parser recurses into it. */
static bool wire_too_deep(const char *text, size_t len)
{
	unsigned depth = 0;
	bool quoted = false;

	for (size_t k = 0; k < len; k++) {
		if (quoted && text[k] == '\\')
			k++;
		else if (text[k] == '"')
			quoted = !quoted;
		else if (!quoted && (text[k] == '{' || text[k] == '['))
			depth++;
		else if (!quoted && (text[k] == '}' || text[k] == ']') && depth)
			depth--;
		if (depth > WIRE_DEPTH_MAX)
			return true;
	}
	return false;
}

static int wire_parse(struct wire *w, size_t len, json_t **ret)
{
	json_error_t error;

	if (wire_too_deep(w->buf, len)) {
		snprintf(w->error, sizeof(w->error), "nested deeper than %u", WIRE_DEPTH_MAX);
		return -EPROTO;
	}
	json_t *message = json_loadb(w->buf, len, JSON_REJECT_DUPLICATES, &error);
	if (!message)
		snprintf(w->error, sizeof(w->error), "not JSON: %.120s", error.text);
	else if (!json_is_object(message))
		snprintf(w->error, sizeof(w->error), "not a JSON object");
	w->used -= len + 1;
	memmove(w->buf, w->buf + len + 1, w->used);
	if (!json_is_object(message)) {
		json_decref(message);
		return -EPROTO;
	}
	*ret = message;
	return 0;
}

int wire_receive(struct wire *w, int timeout_ms, json_t **ret)
{
	size_t seen = 0;

	for (;;) {
		const char *end = w->used > seen ? memchr(w->buf + seen, '\0', w->used - seen) : NULL;

		if (end)
			return wire_parse(w, (size_t)(end - w->buf), ret);
		seen = w->used;
		if (w->used >= WIRE_MESSAGE_MAX) {
			snprintf(w->error, sizeof(w->error), "longer than %u bytes", WIRE_MESSAGE_MAX);
			return -EMSGSIZE;
		}
		if (w->used == w->size) {
			size_t size = w->size ? w->size * 2 : 4096;
			char *buf = realloc(w->buf, size);

			if (!buf)
				return -ENOMEM;
			w->buf = buf;
			w->size = size;
		}
		struct pollfd p = {.fd = w->fd, .events = POLLIN};
		int ready = poll(&p, 1, timeout_ms);
		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0)
			return ready < 0 ? -errno : -ETIMEDOUT;
		ssize_t n = recv(w->fd, w->buf + w->used, MIN(w->size - w->used, WIRE_MESSAGE_MAX - w->used), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		w->used += (size_t)n;
	}
}

int wire_send(int fd, json_t *message_arg)
{
	CLEANUP(json_decrefp) json_t *message = message_arg;
	CLEANUP_FREE char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) + 1 : 0, sent = 0;

	if (!text)
		return -ENOMEM;
	while (sent < len) {
		ssize_t n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		sent += (size_t)n;
	}
	return 0;
}
