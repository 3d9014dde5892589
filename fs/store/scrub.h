/* scrub: a walk over everything a store holds, and the verification of all of it.
 *
 * A finding names the object's path in the store and in the mount. Copies (dir.h) that are damaged while the original is good, or
 * the other way round, are findings too, but nothing is lost with them. */
#pragma once
#include "store/content.h"
#include "store/dir.h"

enum scrub_kind {
	SCRUB_BLOCKS,     /* blocks of a file do not match their tags, or cannot be read */
	SCRUB_FILE,       /* its header does not verify: nothing of it is read */
	SCRUB_UNREADABLE, /* the file system below says error */
	SCRUB_NAME,       /* an object's name does not verify in its directory */
	SCRUB_ID,         /* a directory's id is lost: no name in it can be read */
	SCRUB_ID_COPY,    /* one copy of it is damaged, or not that of the others */
	SCRUB_SIDE,       /* a long name's side file is missing or damaged; the object's copy is good */
	SCRUB_TARGET,     /* a symbolic link's target does not verify */
	SCRUB_ATTRIBUTE,  /* an extended attribute does not verify */
};
struct scrub_finding {
	enum scrub_kind kind;
	int error;
	const char *lower; /* path in the store: root/... */
	const char *plain; /* path in the mount, "" for its root; of SCRUB_NAME: of its directory */
	uint64_t block, count; /* SCRUB_BLOCKS */
	const char *done;  /* what was done about it, in words; NULL: nothing */
};
/* For programs: "blocks", "header", "unreadable", "name", "id", "id-copy", "side-file", "target", "attribute". */
const char *scrub_kind_name(enum scrub_kind kind);
/* One sentence for people, without the paths. */
void scrub_describe(const struct scrub_finding *f, char *ret, size_t size);
/* How many things it is about. */
uint64_t scrub_weight(const struct scrub_finding *f);

/* What the walk meets. */
struct scrub_visitor {
	/* A regular file (O_PATH, borrowed). -errno ends the walk; damage in the file is the visitor's to count. */
	int (*file)(void *ctx, int fd, const struct stat *st, const char *lower, const char *plain);
	void (*found)(void *ctx, const struct scrub_finding *f);
	bool thorough; /* looks at copies, link targets and attributes too */
	bool repair;   /* ... and writes damaged copies again; on a volume that is written to, mounted or not */
	void *ctx;
};
/* Visits each object once per name. 0, or what ended it. */
int scrub_walk(struct volume *v, const struct scrub_visitor *visitor) MUST_CHECK;

/* Everything, once. The first part is the caller's to fill; the numbers may be read meanwhile. */
struct scrub {
	struct volume *v;
	bool repair;
	/* Calls fn(arg, content) with the file behind fd (O_PATH, borrowed) opened, and closes it; what it returns is returned. */
	int (*with)(void *ctx, int fd, const struct stat *st, int (*fn)(void *arg, struct content *c), void *arg);
	void (*found)(void *ctx, const struct scrub_finding *f);
	void *ctx;

	atomic_bool stop; /* set by anybody: ends with -ECANCELED */
	atomic_uint_fast64_t files, bytes, blocks, holes, bad; /* so far; blocks: verified ones */
	atomic_uint_fast64_t total_files, total_bytes; /* as counted at the beginning */
};
/* 0 when the walk came to its end, whatever it found. */
int scrub_run(struct scrub *s) MUST_CHECK;
