/* request: the closed table of what a peer may ask, as which role; and its answers. */
#pragma once
#include "control/roles.h"
#include "control/steward.h"
#include "control/supervisor.h"
#include "control/wire.h"
#include "control/witness.h"

#define GENERATED_MAX 8

struct keeper {
	struct config config;
	struct tenant tenant;
	struct supervisor supervisor;
	struct steward steward;
	struct witness witness;
	char generated[GENERATED_MAX][65]; /* fingerprints of the keys made last */
	unsigned generated_next;
	pthread_mutex_t lock; /* everything above; one request at a time */
	int64_t started;
	uid_t stranger; /* who was last turned away without a role; until then the audit log has enough of it */
	uint64_t stranger_until_ns; /* monotonic */
};
extern const char request_interface[]; /* io.tdefs.Keeper.varlink */

/* Notes a peer without any role, and what to tell it. */
json_t *request_stranger(struct keeper *k, const struct peer *peer) MUST_CHECK;
/* Answers one message of a peer, which came on wire with its descriptors. -errno when the connection is of no more use. */
int request_answer(struct keeper *k, const struct peer *peer, const json_t *message, struct wire *wire) MUST_CHECK;
