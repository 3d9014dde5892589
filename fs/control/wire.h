/* wire: Varlink messages (varlink.org, "Interface Definition" and "Method Call"): JSON objects, each ended by a NUL byte,
 * over a Unix stream socket. */
#pragma once
#include "base/util.h"

#include <jansson.h>

#define WIRE_INTERFACE "io.tdefs.Keeper"
#define WIRE_MESSAGE_MAX (256u << 10)
#define WIRE_DEPTH_MAX 32u


/* One connection's receiving end; zero it and set fd. */
struct wire {
	int fd;
	char *buf;
	size_t used, size;
	char error[160]; /* what was wrong with the last message, after -EPROTO or -EMSGSIZE */
};
void wire_done(struct wire *w); /* frees the buffer; fd stays open */
/* The next message, a JSON object. -ECONNRESET at the end, -EMSGSIZE too long, -EPROTO not JSON, nested too deep or not an
 * object, -ETIMEDOUT when nothing came for timeout_ms (-1: none). After an error the connection is of no more use. */
int wire_receive(struct wire *w, int timeout_ms, json_t **ret) MUST_CHECK;
/* Takes message. */
int wire_send(int fd, json_t *message) MUST_CHECK;
