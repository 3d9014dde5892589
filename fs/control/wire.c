/* wire: see wire.h. */
#include "control/wire.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define SEALS (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)

static void wire_close_fds(struct wire *w)
{
	while (w->fd_count > 0)
		close(w->fds[--w->fd_count]);
}

void wire_done(struct wire *w)
{
	wire_close_fds(w);
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

/* recv(2) that keeps descriptors; more than WIRE_FDS_MAX are closed. */
static ssize_t wire_recv(struct wire *w, void *buf, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 16)];
	} control;
	struct iovec iov = {buf, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(w->fd, &m, MSG_CMSG_CLOEXEC);

	for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t k = 0; k < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); k++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + k * sizeof(int), sizeof(int));
			if (w->fd_count < WIRE_FDS_MAX)
				w->fds[w->fd_count++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

int wire_receive(struct wire *w, int timeout_ms, json_t **ret)
{
	size_t seen = 0, max = w->max ? w->max : WIRE_MESSAGE_MAX;

	wire_close_fds(w);
	for (;;) {
		const char *end = w->used > seen ? memchr(w->buf + seen, '\0', w->used - seen) : NULL;

		if (end)
			return wire_parse(w, (size_t)(end - w->buf), ret);
		seen = w->used;
		if (w->used >= max) {
			snprintf(w->error, sizeof(w->error), "longer than %zu bytes", max);
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
		ssize_t n = wire_recv(w, w->buf + w->used, MIN(w->size - w->used, max - w->used));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		w->used += (size_t)n;
	}
}

int wire_send(int fd, json_t *message)
{
	return wire_send_fds(fd, message, NULL, 0);
}

int wire_send_fds(int fd, json_t *message_arg, const int *fds, unsigned n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
	} control = {0};
	CLEANUP(json_decrefp) json_t *message = message_arg;
	CLEANUP_FREE char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) + 1 : 0, sent = 0;

	if (!text)
		return -ENOMEM;
	while (sent < len) {
		struct iovec iov = {text + sent, len - sent};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

		if (sent == 0 && n_fds > 0 && n_fds <= WIRE_FDS_MAX) {
			m.msg_control = &control;
			m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
			control.align = (struct cmsghdr){
				.cmsg_len = CMSG_LEN(sizeof(int) * n_fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
			memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * n_fds);
		}
		ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		sent += (size_t)n;
	}
	return 0;
}

int wire_memfd(const void *data, size_t len)
{
	CLEANUP_CLOSE int fd = memfd_create("tdefs", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (pwrite(fd, data, len, 0) != (ssize_t)len || fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return errno ? -errno : -EIO;
	return TAKE_FD(fd);
}

int wire_read_memfd(int fd, size_t max, struct secret *ret)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & (SEALS & ~F_SEAL_SEAL)) != (SEALS & ~F_SEAL_SEAL))
		return -EINVAL;
	return lseek(fd, 0, SEEK_SET) < 0 ? -errno : secret_read_fd(fd, max, ret);
}
