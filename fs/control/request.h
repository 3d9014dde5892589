/* request: the closed table of what a peer may ask, as which role; and its answers. */
#pragma once
#include "control/roles.h"
#include "control/supervisor.h"
#include "control/wire.h"

struct keeper {
	struct config config;
	struct tenant tenant;
	struct supervisor supervisor;
	pthread_mutex_t lock; /* everything above; one request at a time */
	int64_t started;
};
extern const char request_interface[]; /* io.tdefs.Keeper.varlink */

/* Answers one message of a peer on fd. -errno when the connection is of no more use. */
int request_answer(struct keeper *k, const struct peer *peer, const json_t *message, int fd) MUST_CHECK;
