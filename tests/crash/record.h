/* record: every change below the store, as fs/base/io makes it, and the crash states that can be built from it.
 *
 * Objects (files, directories, links) have serial numbers of the recording's own, for inode numbers come again. A recording
 * begins with a base: the store as it is on disk then. A crash state is that base with a part of the record played over it:
 *
 *   journal  names and lengths happened in order, at least up to the last sync of anything (a journal commits in order), at most
 *            up to the cut: ext4, XFS
 *   loose    each name in a directory, and each file's length and attributes, has an order of its own, at least up to the last
 *            sync of that directory or file; a synced file has its newest name, too, and what is linked its attributes: the least
 *            that a file system promises
 *
 * Data of a file is there as far as it was synced. What was written since reached the disk page by page, each page as it was at
 * some time up to the cut; now and then a page is torn, and its 512-byte sectors are of two times, or, on a file system with
 * blocks of 1 KiB, only some of them were allocated and the others are zeros. */
#pragma once
#include "base/io.h"

#include <pthread.h>
#include <stdio.h>

struct record {
	enum io_op op;
	uint32_t obj, obj2; /* the file; the directories of a name */
	uint32_t made;      /* the object that came to be, was moved, linked or lost a name; 0: none */
	char *path, *path2;
	uint8_t *data;
	uint64_t off, len; /* IO_CHOWN: the owner, the group */
	size_t begun;      /* of a sync: the record count when it began; what was written later it does not cover */
	unsigned flags;    /* of a sync: RWF_DSYNC where it is of the file's last write alone */
	mode_t mode;
	bool hidden;       /* as if it had not been: for planted bugs */
	bool planted;      /* it has not been: likewise */
};

struct recording {
	struct record *records;
	size_t count, room;
	char base[128];        /* directory: a copy of the store as it was at the beginning */
	uint32_t objects;      /* serials given so far, from 1 */
	struct {
		uint64_t ino;
		uint32_t obj;
	} *map; /* inode numbers now; open addressing */
	size_t map_size, map_count;
	pthread_mutex_t lock;
	FILE *log;             /* where to write records instead of keeping them; NULL */
	uint64_t *log_ends;    /* of one loaded from a log: where each record ends in it */
};

/* Copies the store to base and hooks io. One recording at a time. With log, records go there (record_load reads them). */
void record_begin(struct recording *r, const char *store, const char *base, FILE *log);
void record_end(void);
void record_free(struct recording *r);
/* Reads what a recording with a log wrote, and numbers the base's objects as it did. */
void record_load(struct recording *r, const char *base, FILE *log);
/* The serial of what fd or dirfd/path names; 0: unknown. */
uint32_t record_object(struct recording *r, int dirfd, const char *path);
uint32_t record_of_ino(struct recording *r, uint64_t ino);

struct crash_state {
	size_t cut;        /* records before this one may have happened */
	bool loose;
	bool small_blocks; /* the file system below has blocks of 1 KiB */
	uint64_t seed;
	/* By serial: the inode number in the state, 0 where it is not there. Freed by state_done. */
	uint64_t *inos;
};
/* Builds the state described by ret->cut, loose and seed in the new directory to. */
void state_build(const struct recording *r, const char *to, struct crash_state *ret);
void state_done(struct crash_state *s);
uint32_t state_object(const struct recording *r, const struct crash_state *s, uint64_t ino);
void copy_tree(const char *from, const char *to);
/* Copies the directory from to the new one to (NULL: walks only), and tells made of each object in the order of serials, with a
 * descriptor on the copy. */
void base_build(const char *from, const char *to, void (*made)(void *ctx, uint64_t ino, int copy), void *ctx);

uint64_t crash_random(uint64_t *seed);
/* 0..n-1 */
uint64_t crash_below(uint64_t *seed, uint64_t n);
