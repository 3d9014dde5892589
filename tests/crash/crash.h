/* crash: drives a store through a workload, and knows what each crash state may look like afterwards.
 *
 * A workload is a function that calls the crash_ operations below; each does the thing to the store and to the shadow model, in
 * which every sync is a promise. For a crash state the model says which trees are allowed (the tree after some operation, not
 * before the last promised one), and for each 512-byte sector of each file which versions (the last promised or any begun later;
 * zeros where nothing was promised). To add a workload: write it, put it into the table in workloads.c. Operations of the store
 * that change nothing an application sees (a rotation, sealing) are called directly on h->v and crash_content(h, obj). */
#pragma once
#include "../unit/store.h"
#include "record.h"

#define CRASH_OBJECTS 64u
#define CRASH_BLOCKS 160u
#define CRASH_ROOT 0u
#define CRASH_OWNER 1u /* of files */
#define CRASH_NONE UINT32_MAX

/* One value that something had; [from, synced) in records: it may be there from `from` on, and nothing older is after `synced`. */
struct version {
	size_t from, synced;
	uint64_t value;
	uint8_t *block;
};
struct history {
	struct version *v;
	unsigned count, room;
};

struct object {
	mode_t type;
	uint32_t serial;
	bool opened;            /* fd or content is usable */
	int fd;                 /* of a directory */
	struct dir_id id;
	struct content *c;      /* of a file */
	char target[300];
	uint64_t size;
	struct history sizes, attribute, blocks[CRASH_BLOCKS];
	unsigned named_op;      /* the operation that gave it its newest name */
	uint32_t named_dir, named;
};

struct entry {
	uint32_t dir, name, obj;
};
/* The tree after an operation. */
struct tree {
	size_t from;
	struct entry *entries;
	unsigned count;
};
struct promise {
	size_t at;
	unsigned op;
	uint32_t dir, name; /* CRASH_NONE: of the whole tree, of all names */
	bool loose;   /* holds in loose states too; otherwise in journal states alone */
};

struct crash {
	struct recording record;
	struct volume *v;
	char store[100];
	uint64_t seed;
	struct object objects[CRASH_OBJECTS];
	uint32_t object_count;
	char *names[128];
	uint32_t name_count;
	struct tree *trees; /* by operation; the last is now */
	unsigned tree_count;
	struct promise *promises;
	unsigned promise_count;
	bool rotated;
	bool small_blocks; /* half of all runs believe to be on a file system with blocks of 1 KiB */
	unsigned violations, refused, quiet;
};

struct crash_workload {
	const char *name;
	void (*run)(struct crash *h);
	bool rotates; /* the Python reader holds one key */
};
extern const struct crash_workload crash_workloads[];
extern const size_t crash_workload_count;
extern const struct env_key crash_next_key; /* a rotation in a workload moves to this one */

/* ---- operations of workloads; names are of the directory's; any may fail the test, none returns an error ---- */
uint32_t crash_create(struct crash *h, uint32_t dir, const char *name);
uint32_t crash_mkdir(struct crash *h, uint32_t dir, const char *name);
uint32_t crash_symlink(struct crash *h, uint32_t dir, const char *name, const char *target);
void crash_link(struct crash *h, uint32_t obj, uint32_t dir, const char *name);
void crash_unlink(struct crash *h, uint32_t dir, const char *name);
void crash_rmdir(struct crash *h, uint32_t dir, const char *name);
void crash_rename(struct crash *h, uint32_t dir, const char *name, uint32_t dir2, const char *name2, unsigned flags);
void crash_setxattr(struct crash *h, uint32_t obj, uint64_t value);
void crash_write(struct crash *h, uint32_t obj, uint64_t off, size_t len);
void crash_truncate(struct crash *h, uint32_t obj, uint64_t size);
void crash_allocate(struct crash *h, uint32_t obj, int mode, uint64_t off, uint64_t len);
void crash_sync(struct crash *h, uint32_t obj, bool data_only);
void crash_sync_dir(struct crash *h, uint32_t dir);
void crash_sync_all(struct crash *h);
void crash_seal(struct crash *h, uint32_t obj);
void crash_close(struct crash *h, uint32_t obj);
/* clean: an unmount; otherwise the worker's death. */
void crash_remount(struct crash *h, bool clean);
/* Everything is looked at, and the unclean ends before are forgotten. */
void crash_forget(struct crash *h);
struct content *crash_content(struct crash *h, uint32_t obj);
/* What name in dir is, or CRASH_NONE. */
uint32_t crash_lookup(const struct crash *h, uint32_t dir, const char *name);
bool crash_is_empty(const struct crash *h, uint32_t dir);
bool crash_is_below(const struct crash *h, uint32_t dir, uint32_t above);

/* ---- a run ---- */
void crash_begin(struct crash *h, const char *dir, uint64_t seed);
void crash_end(struct crash *h);  /* the power goes: nothing is closed cleanly */
void crash_free(struct crash *h);
enum { CHECK_USE = 1, CHECK_AGAIN = 2 };
/* Opens the state in dir and holds it against the model; counts violations and refusals in h. USE: its files are then used
 * further, which must find no trace of the crash; AGAIN: it is mounted a second time, which must find nothing left to repair. */
void crash_check(struct crash *h, const char *dir, const struct crash_state *s, unsigned how);
