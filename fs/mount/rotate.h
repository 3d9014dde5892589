/* rotate: moves every file of a mounted environment to its new key, while everything goes on.
 *
 * R1. A directory is gone through once; from then on it holds no file under the old key: new files are under the new one, and a
 *     file that is renamed or linked is wrapped before it moves.
 * R2. A directory that moves before it was gone through could pass the walk by: it is kept, and gone through after the walk.
 * R3. So when walk and kept directories are done no file needs the old key, and it is destroyed. */
#pragma once
#include "base/util.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

struct session;
struct rotate {
	struct session *session;
	pthread_t thread;
	bool started;  /* the service thread's */
	atomic_bool running, stop;
	atomic_int error;
	atomic_uint_fast64_t files;
	pthread_mutex_t lock;
	/* lock: directories gone through or kept, by inode number (open addressing, 0 empty), and those kept (O_PATH) */
	uint64_t *known;
	size_t known_size, known_count;
	int *kept;
	size_t kept_count;
};
void rotate_init(struct rotate *r, struct session *s);
/* Goes on with a rotation that has begun (volume_rotate_begin); does nothing where none has, or where it runs. */
void rotate_continue(struct rotate *r);
/* Stops it, to be continued. */
void rotate_end(struct rotate *r);
void rotate_done(struct rotate *r);
/* Before the object behind fd (O_PATH, borrowed) gets another name. */
int rotate_before_move(struct rotate *r, int fd, const struct stat *st) MUST_CHECK;
