/* wire: Varlink messages (varlink.org, "Interface Definition" and "Method Call"): JSON objects, each ended by a NUL byte,
 * over a Unix stream socket. */
#pragma once
#include "base/secret.h"

#include <jansson.h>

#define WIRE_INTERFACE "io.tdefs.Keeper"
#define WIRE_MESSAGE_MAX (256u << 10)
#define WIRE_DEPTH_MAX 32u
#define WIRE_FDS_MAX 4u

/* One connection's receiving end; zero it and set fd. */
struct wire {
	int fd;
	char *buf;
	size_t used, size, max; /* max: longest message taken; 0 for WIRE_MESSAGE_MAX */
	int fds[WIRE_FDS_MAX]; /* that came with the last message, by SCM_RIGHTS; closed when the next is received */
	unsigned fd_count;
	char error[160]; /* what was wrong with the last message, after -EPROTO or -EMSGSIZE */
};
void wire_done(struct wire *w); /* frees the buffer, closes what came; fd stays open */
/* The next message, a JSON object. -ECONNRESET at the end, -EMSGSIZE too long, -EPROTO not JSON, nested too deep or not an
 * object, -ETIMEDOUT when nothing came for timeout_ms (-1: none). After an error the connection is of no more use. */
int wire_receive(struct wire *w, int timeout_ms, json_t **ret) MUST_CHECK;
/* Takes message; sends the n descriptors of fds with its first byte. */
int wire_send_fds(int fd, json_t *message, const int *fds, unsigned n) MUST_CHECK;
int wire_send(int fd, json_t *message) MUST_CHECK;
/* Secrets travel as memfd_create(2) files, sealed against every change. The caller owns the descriptor. */
int wire_memfd(const void *data, size_t len) MUST_CHECK;
/* Reads such a file into secret memory. -EINVAL not sealed, -EFBIG longer than max. */
int wire_read_memfd(int fd, size_t max, struct secret *ret) MUST_CHECK;
