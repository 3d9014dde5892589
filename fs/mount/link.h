/* link: what tdefsd and a worker say to each other.
 *
 * A worker listens on a SOCK_SEQPACKET Unix socket (mode 0600, peers of its own uid only) for as long as it lives; tdefsd
 * connects, at the start as after a restart of its own. One message a request, one a reply. Closing the connection means nothing.
 *
 * The two may be of different versions: a worker serves on while tdefsd is replaced by a later or an earlier one. So a message is
 * a list of fields, each with a number and a length, and these hold for ever:
 *   1. A number never changes its meaning and is never given again. What is zero is not sent; what does not come is zero.
 *   2. Of a reply, unknown fields are passed over. An order of an unknown type or with an unknown field is refused: -EOPNOTSUPP.
 *   3. LINK_STATUS, LINK_UNMOUNT and LINK_LOCK are obeyed whatever else they carry, and never need anything but what version 5
 *      had. The status tells pid and state, the other two left_clean.
 *   4. Who cannot read a message at all closes the connection.
 *   5. Without any message: the socket's peer (link_peer) is the worker; SIGTERM makes it end as a lock does; unmounting makes it
 *      end as LINK_UNMOUNT does. So tdefsd reaches also a worker whose language it does not know.
 *
 *     0    4  magic "TDLK"
 *     4    4  version of the sender's link
 *     8    4  type
 *    12       fields: number (2), length (2), bytes; numbers little-endian, zeros at the end left out */
#pragma once
#include "base/secret.h"
#include "store/envheader.h"

/* Of this build. 5: start, status, unmount, lock, rewrap; 6: rotation, scrub, in_flux. Before 5 a message was one build's struct. */
extern const uint32_t link_version;
#define LINK_SIZE_MAX 16384u /* of a message; for ever */

enum link_type {
	LINK_START = 1, /* key, minimum epoch; the reply comes when the mount is live, or says why not */
	LINK_STATUS,
	LINK_UNMOUNT, /* -EBUSY while somebody uses it; flag: as LINK_LOCK. The worker ends with the reply */
	LINK_LOCK,    /* arg: time limit in ms. The lock order of ending.c; the worker ends with the reply, its memory wiped. Taken
	               * at any time, also while another order waits for the disk: those get -EBUSY then */
	LINK_REWRAP,  /* wraps */
	LINK_ROTATE,  /* key and wraps of the next version; flag: the data too. The worker goes on with it by itself */
	LINK_ROTATE_PAUSE, /* flag: pause; without it: go on. -ENOENT: there is nothing to pause */
	LINK_SCRUB, /* flag: LINK_SCRUB_*; without any, how far the last one is */
	LINK_FINDING, /* arg: number of one of its findings, from 0; the reply's flag says whether there is one */
	LINK_REPLY,
};

#define LINK_SCRUB_START 1u
#define LINK_SCRUB_REPAIR 2u /* with it */

enum link_state { LINK_IDLE, LINK_SERVING, LINK_ENDING };

/* What an unclean end before this mount left in flux. */
enum link_in_flux {
	LINK_FLUX_NONE,
	LINK_FLUX_LOOKED_AT, /* a walk through everything is under way */
	LINK_FLUX_KEPT,      /* something could not be looked at */
};

/* No padding: unit.link finds a member that has no number by it. */
struct link_status {
	int32_t pid;
	uint32_t state; /* enum link_state */
	char program[16]; /* the worker's release */
	uint64_t epoch;
	uint8_t uuid[16];
	uint64_t refused, resealed, intents, syncs, read_bytes, written_bytes;
	uint64_t open_files; /* that were used lately */
	uint64_t rings;      /* io_uring queues that requests come through; 0: through /dev/fuse */
	uint8_t poisoned, memory_locked;
	uint8_t left_clean; /* of a worker that has unmounted: the store's header says clean, durably */
	uint8_t scrub_running;
	int32_t scrub_error;
	uint64_t scrub_files, scrub_total_files, scrub_bytes, scrub_total_bytes, scrub_blocks, scrub_bad;
	uint32_t rotating;
	uint32_t key_version;
	uint64_t rotate_files; /* moved to the current key since it came */
	int32_t rotate_error;  /* of the last walk, which is tried again at the next mount or order */
	uint32_t rotating_data, rotate_paused;
	uint32_t rotate_phase; /* enum rotate_phase */
	uint64_t rotate_done, rotate_total; /* of the phase: gone through, and there is (bytes of the data phase, else files); 0: not known yet */
	uint64_t rotate_left_ns; /* for how long the phase goes on; 0: not known */
	uint64_t rotate_encrypted, rotate_ns; /* bytes encrypted again, and since when the phase runs */
	uint64_t rotate_left;  /* files that do not verify */
	uint64_t rotate_held_ns; /* the longest that blocks were withheld from others */
	uint64_t in_flux; /* enum link_in_flux */
};

/* Of a scrub, for people and programs; what does not fit is cut. No padding, as above. */
struct link_finding {
	char kind[16], text[160];
	char lower[1024], plain[1024];
	uint64_t block, count;
};

struct link_message {
	uint32_t version, type; /* version: the sender's */
	bool unknown;           /* received: an order of a kind, or with a field, that this build does not know */
	int32_t error; /* reply: 0 or -errno, text says it in words */
	uint32_t flag;
	uint64_t arg;
	char text[480];
	struct env_key key;
	uint64_t min_epoch;
	uint8_t min_clean;
	uint32_t wrap_count;
	struct env_wrap wraps[ENV_WRAPS_MAX];
	struct link_status status;
	struct link_finding finding;
};

/* Whether a peer of that version knows such orders. */
bool link_knows(uint32_t version, uint32_t type);

/* Into and out of bytes. Encoding returns the length. Decoding: -EPROTO, ret is wiped then; lengths in it are within bounds, texts
 * end. Whoever has what may hold a key wipes it. */
size_t link_encode(const struct link_message *m, uint8_t ret[LINK_SIZE_MAX]);
int link_decode(const uint8_t *bytes, size_t len, struct link_message *ret) MUST_CHECK;

/* Listens at path, replacing a dead socket; -EADDRINUSE when somebody answers there. The caller owns the descriptor. */
int link_listen(const char *path) MUST_CHECK;
/* -EAGAIN where the worker takes no connection for LINK_CONNECT_S. */
#define LINK_CONNECT_S 3
int link_connect(const char *path) MUST_CHECK;
/* The process that listens behind a connection: a pidfd, which the caller owns. -EPERM: of another uid; -ESRCH: it has ended. */
int link_peer(int fd, pid_t *ret_pid) MUST_CHECK;
/* Takes one connection; a peer of another uid is dropped: -EPERM. */
int link_accept(int listen_fd) MUST_CHECK;
int link_send(int fd, const struct link_message *m) MUST_CHECK;
/* -EPROTO for what is no message, -ECONNRESET at the end, -ETIMEDOUT after timeout_ms (-1: none). */
int link_receive(int fd, int timeout_ms, struct link_message *ret) MUST_CHECK;
/* Sends m, wipes it, and puts the reply in its place; the result is the reply's error. m->type is LINK_REPLY if one came. */
int link_call(int fd, int timeout_ms, struct link_message *m) MUST_CHECK;
/* Whether the result of link_call, from one that is alive, says that the two have no language in common (rule 4). */
static inline bool link_foreign(int rc)
{
	return rc == -EPROTO || rc == -ECONNRESET;
}
