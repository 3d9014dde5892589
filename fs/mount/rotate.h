/* rotate: goes through every file of a mounted environment while everything goes on: after an unclean end, so that nothing is in
 * flux any more; to move it to its new key; or to new keys of their own, with their content encrypted again.
 *
 * R1. New files are under what is new. What moves is seen to before (the key), or kept by the walk (content).
 * R2. Passes are made until one finds nothing that was still to be done; what has no name but is open is gone through too. Only
 *     then is the old key destroyed, or the rotation of the data over.
 * R3. What does not verify with any key is left and reported. Content that does not verify keeps its file's key, and the
 *     rotation of the data waits.
 * R4. Recovery comes first, and is not paused. Unclean epochs are forgotten once a pass has opened everything that was there; what
 *     moves is opened before. Where something could not be opened they are kept, and the next mount tries again.
 *
 * Where a rotation stands is known by the store alone (header and key sectors), and so is whether it is paused: a mount goes
 * on with it. */
#pragma once
#include "mount/walk.h"

struct session;
struct batch;

enum rotate_phase {
	ROTATE_NONE,
	ROTATE_RECOVER, /* opens what a crash may have left half done */
	ROTATE_KEY,
	ROTATE_COUNT,   /* how much there is */
	ROTATE_DATA,
};

struct rotate {
	struct session *session;
	struct walk walk;
	pthread_t thread;
	bool started;  /* the order thread's */
	pthread_mutex_t lock;
	bool again;    /* lock, to change running: there is more to do than the thread had seen */
	atomic_bool running, stop;
	atomic_int error, phase;
	atomic_uint_fast64_t files;        /* moved, since the thread began */
	/* The first pass of a phase has gone through so much of so much: bytes that lie below in the data phase, else files. Of the data
	 * phase: what it did not only pass over, and how long that took. */
	atomic_uint_fast64_t done, total, worked, work_ns;
	atomic_uint_fast64_t encrypted;    /* bytes, since the phase began */
	atomic_uint_fast64_t begun_ns;     /* the phase */
	atomic_uint_fast64_t left;         /* files that do not verify, in this pass */
	atomic_uint_fast64_t held_ns;      /* the longest that a step held a range */
	/* the thread's */
	struct recrypt *recrypt;
	struct batch *batch;
	uint64_t found, requests;
	bool first_pass, weighs;
};
void rotate_init(struct rotate *r, struct session *s);
/* Begins with what there is to do: recovery, a rotation that has begun (volume_rotate_begin) and is not paused. */
void rotate_continue(struct rotate *r);
/* Stops, to be continued. */
void rotate_end(struct rotate *r);
void rotate_done(struct rotate *r);
/* How long the phase goes on at the speed that it had up to here; 0: not known. */
uint64_t rotate_left_ns(const struct rotate *r);
/* Pause and resume: durable. -ENOENT: there is no rotation. */
int rotate_pause(struct rotate *r, bool paused) MUST_CHECK;
/* Around every change of a name: before it, what begins; for the object behind fd (O_PATH, borrowed); after it. */
void rotate_move_begin(struct rotate *r);
int rotate_before_move(struct rotate *r, int fd, const struct stat *st) MUST_CHECK;
void rotate_move_end(struct rotate *r);
/* Whether rotate_before_move wants to be asked. Between begin and end. */
bool rotate_wants_moves(const struct rotate *r);
