/* scrub: a walk over everything a store holds. */
#pragma once
#include "store/dir.h"

/* What the walk meets. lower is the object's path under root/ in the store, plain its path in the mount. */
struct scrub_visitor {
	/* A regular file, O_PATH (borrowed). -errno ends the walk; damage in the file is the visitor's to count. */
	int (*file)(void *ctx, int fd, const struct stat *st, const char *lower, const char *plain);
	/* Something that could not be read, by the error; the walk goes on. */
	void (*damaged)(void *ctx, int error, const char *lower, const char *plain);
	/* Whether to go into a directory; may be NULL. */
	bool (*enter)(void *ctx, const struct stat *st);
	void *ctx;
};
/* Visits each object once per name. 0, or what ended it. */
int scrub_walk(struct volume *v, const struct scrub_visitor *visitor) MUST_CHECK;
/* The same from one directory (O_PATH, borrowed) on. */
int scrub_walk_from(struct volume *v, int dirfd, const struct scrub_visitor *visitor) MUST_CHECK;
