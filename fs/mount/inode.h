/* inode: the objects that the kernel knows, one per lower inode.
 *
 * An inode lives while the kernel counts lookups on it or somebody holds a reference; it keeps a descriptor, so its number
 * cannot be used again below. Lock order: seal lock, table lock, then an inode's lock.
 *
 * The kernel keeps mtime of regular files: it takes ours when it first sees the file, and says what it is only when it moves
 * by its own clock. A write that reaches the lower file within the same tick, or after what the kernel said of it, would move it there
 * unseen; so it is put back with the next seal, sync or close; by a sync only once that is longer ago than a tick. */
#pragma once
#include "store/content.h"
#include "store/dir.h"

#include <pthread.h>

struct inode {
	struct inode *next;    /* in its bucket; table lock */
	uint64_t refs;         /* lookups by the kernel and references of ours; table lock */
	uint64_t ino;          /* lower; constant, as the next two */
	int fd;                /* O_PATH, or as it was made; only to name the object */
	mode_t type;           /* S_IFMT bits */
	pthread_mutex_t lock;
	_Atomic(struct content *) content; /* of a regular file that was used lately; changed under lock */
	atomic_uint users;     /* of content: as long as there are some, it stays */
	atomic_bool used;      /* since the last round of the sealer */
	struct dir_id id;      /* of a directory; lock */
	bool has_id;           /* lock */
	struct timespec mtime; /* of a regular file, as the kernel has it; lock */
	bool has_mtime;        /* lock */
	uint64_t mtime_told_ns; /* when the kernel last said what mtime is, CLOCK_MONOTONIC; lock */
	bool bare;             /* made by this worker, and no extended attribute set since; lock */
	atomic_bool touched;   /* the lower file was written since mtime was set */
	atomic_uint_fast64_t cached_ns; /* when the kernel last read into its page cache, CLOCK_MONOTONIC */
	atomic_bool told_long; /* the kernel believes the attributes that it has for long */
	atomic_uint_fast64_t changes;    /* to attributes */
	uint64_t synced, synced_names;   /* changes, and the table's to names, that the last fsync made durable; lock */
	signed char default_acl; /* of a directory: 1 has one, 0 has none, -1 not asked yet; lock */
};

struct inode_table {
	struct volume *v;
	pthread_mutex_t seal_lock; /* one round of sealing at a time */
	pthread_mutex_t lock;
	struct inode **buckets;
	size_t bucket_count, count; /* lock */
	size_t crowd;               /* more than this are too many (relief.c); lock */
	pthread_cond_t crowded;     /* with lock */
	bool ending;                /* lock */
	atomic_uint contents;       /* that there are: each has a descriptor, and key memory */
	unsigned contents_max;
	atomic_uint_fast64_t name_changes; /* renames, links and unlinks */
	struct inode *root;
};

int inode_table_init(struct inode_table *t, struct volume *v) MUST_CHECK;
/* Closes every content; nobody may use the table any more. */
void inode_table_done(struct inode_table *t);

/* The inode of an object, with one reference more. Takes fd. */
int inode_get(struct inode_table *t, int fd, const struct stat *st, struct inode **ret) MUST_CHECK;
void inode_put(struct inode_table *t, struct inode *i, uint64_t refs);

int inode_dir_id(struct inode_table *t, struct inode *i, struct dir_id *ret) MUST_CHECK;
/* The content, for one request: inode_release gives it back. The kernel does not say what is open (ops_file.c); so a content is
 * opened when it is needed, and closed when it was sealed and not used for a round of the sealer. */
int inode_open(struct inode_table *t, struct inode *i, struct content **ret) MUST_CHECK;
/* The same with a descriptor for reading and writing that is there already, and is taken; -1 for none. */
int inode_open_with(struct inode_table *t, struct inode *i, int fd, struct content **ret) MUST_CHECK;
void inode_release(struct inode *i);
/* The content if there is one, as inode_open; else NULL. */
struct content *inode_hold(struct inode *i);
/* content_rotate, whether it is open or not. fd (borrowed): its file, for reading and writing or O_PATH. */
int inode_rotate(struct inode_table *t, struct inode *i, int fd) MUST_CHECK;
/* i was just made in dir, whose lock the kernel holds: attributes come to it only from a default ACL. */
void inode_made(struct inode *i, struct inode *dir);
/* mtime of a regular file for the kernel: as it is below where the kernel sees the file first, else as the kernel has it. */
void inode_mtime(struct inode *i, struct timespec *mtime);
/* utimensat(2): ts[1] of a regular file is never UTIME_NOW. */
int inode_set_times(struct inode *i, const struct timespec ts[2]) MUST_CHECK;
void inode_touch(struct inode *i);
/* fsync(2), data_only fdatasync(2), of the content that i has open. Where nothing but bytes changed since the last fsync it is
 * an fdatasync below: mtime, which each write moves there, would cost a flush for the lower file system's journal. */
int inode_sync(struct inode_table *t, struct inode *i, struct content *c, bool data_only) MUST_CHECK;
/* Told of each change to i's attributes, or with NULL to a name: from then on fsync(2) has more than bytes to sync. */
void inode_changed(struct inode_table *t, struct inode *i);
/* Seals what changed since the last time, and closes what nobody has used since then. */
void inode_seal_all(struct inode_table *t);
/* Calls fn for each inode, with a reference held and no lock. */
void inode_each(struct inode_table *t, void (*fn)(void *ctx, struct inode *i), void *ctx);

/* For relief.c. await_crowd: returns when there are more than crowd inodes, or false when it has ended. nodes: of up to max inodes,
 * from the bucket *hand on; *ret_round: it came round. They are numbers, and may be those of inodes that are gone by then. */
bool inode_await_crowd(struct inode_table *t, size_t crowd);
void inode_await_end(struct inode_table *t, unsigned limit_s);
void inode_end_crowd(struct inode_table *t);
size_t inode_count(struct inode_table *t);
size_t inode_nodes(struct inode_table *t, size_t *hand, uint64_t *ret, size_t max, bool *ret_round);

/* That have a content. */
uint64_t inode_open_files(const struct inode_table *t);
