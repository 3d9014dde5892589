/* walk: goes through everything that an environment holds, also through what moves meanwhile.
 *
 * W1. In a pass a directory is gone through once; from then on it holds nothing that the pass did not see, or that was not
 *     seen to before it moved (rotate_before_move).
 * W2. A directory that moves before it was gone through could pass the walk by: it is kept, and gone through at the end. So
 *     is a file where that is not seen to at once.
 * W3. Whoever moves something holds `moves` from the question to the rename: a pass begins when nothing is between. */
#pragma once
#include "base/util.h"
#include "store/scrub.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

struct walk {
	pthread_rwlock_t moves; /* outermost; shared: something moves */
	pthread_mutex_t lock;
	/* lock: directories gone through, and what is kept, by inode number (open addressing, 0 empty) */
	uint64_t *known;
	size_t known_size, known_count;
	int *kept; /* lock: O_PATH */
	size_t kept_count;
};
void walk_init(struct walk *w);
void walk_done(struct walk *w);

struct walk_visitor {
	/* A regular file (borrowed), O_PATH or better. plain: its path in the mount, for messages. -errno ends the pass. */
	int (*file)(void *ctx, int fd, const struct stat *st, const char *plain);
	void (*found)(void *ctx, const struct scrub_finding *f);
	bool open; /* better is wanted: for reading and writing, where that can be */
	void *ctx;
};
int walk_pass(struct walk *w, struct volume *v, const struct walk_visitor *visitor) MUST_CHECK;
/* W2. fd is borrowed. */
int walk_keep(struct walk *w, int fd, uint64_t ino) MUST_CHECK;
