/* walk: goes through every file that an environment holds, also through what moves meanwhile.
 *
 * W1. In a pass a directory is gone through once; from then on it holds nothing that the pass did not see, or that was not
 *     seen to before it moved (rotate_before_move).
 * W2. A directory that moves before it was gone through could pass the walk by: it is kept, and gone through at the end. So
 *     is a file where that is not seen to at once.
 * W3. Whoever moves something holds `moves` from the question to the rename: a pass begins when nothing is between.
 * W4. Files are visited in the order of their inodes, some hundred of a directory at a time, and read from some files ahead: a disk
 *     that has to move, or to be waited for, is so once for many.
 *
 * It goes by names as they lie below: what a name says does not matter here, and one that does not verify hides nothing. */
#pragma once
#include "base/util.h"
#include "store/dir.h"

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

/* Where a pass is. */
struct walk_at {
	const struct walk_at *up; /* the directory that it lies in; NULL where the pass began */
	struct dir_id id;         /* of a directory */
	int dirfd;                /* of a directory, O_PATH */
	const char *lower;        /* its name below */
};
/* Its path in the mount, for messages; the caller's to free, NULL without memory. */
char *walk_path(struct volume *v, const struct walk_at *at);

struct walk_visitor {
	enum { WALK_NAMES, WALK_SIZES, WALK_FILES } wants;
	/* A regular file. FILES: opened for reading and writing, or O_PATH where that cannot be; borrowed. SIZES: fd is no descriptor;
	 * NAMES: and st has no size either. -errno ends the pass. */
	int (*file)(void *ctx, int fd, const struct stat *st, const struct walk_at *at);
	/* What lies there was not visited; -EBADMSG: a directory whose id is lost. */
	void (*unreadable)(void *ctx, const struct walk_at *at, int error);
	void *ctx;
};
int walk_pass(struct walk *w, struct volume *v, const struct walk_visitor *visitor) MUST_CHECK;
/* W2. fd is borrowed. */
int walk_keep(struct walk *w, int fd, uint64_t ino) MUST_CHECK;
