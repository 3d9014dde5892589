/* session: one mounted environment inside a worker; what the FUSE operations share. */
#pragma once
#define FUSE_USE_VERSION 314
#include "mount/inode.h"
#include "mount/ring.h"
#include "mount/rotate.h"

#include <fuse_lowlevel.h>

/* The store belongs to this worker alone, so the kernel may believe what it was told for a day; BUSY: but for how many blocks a file
 * has, which it does not count itself. Seconds. */
#define CACHE_TIMEOUT 86400.0
#define BUSY_TIMEOUT 1.0

struct mount_options {
	unsigned threads;           /* that serve requests */
	enum transport { TRANSPORT_DEVICE, TRANSPORT_URING, TRANSPORT_AUTO } transport;
	unsigned spin_us;           /* how long one of them looks out for the next before it sleeps */
	uint64_t seal_interval_ns;  /* between two rounds of the sealer */
	bool read_only;
	uint64_t rotate_max_rate;   /* bytes/s that a rotation of the data may encrypt; 0: any */
};

/* deferred.c. */
struct deferred_job;
struct deferred {
	pthread_t thread;
	bool started; /* the service thread's */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct deferred_job *head, **tail; /* in order of arrival; lock */
	bool stop;                     /* lock */
	unsigned held;                 /* jobs whose requests wait; lock */
};

/* relief.c. */
struct relief {
	pthread_t thread;
	bool started; /* the service thread's */
	size_t high;  /* inodes */
};

struct session {
	struct volume *v;
	struct inode_table inodes;
	struct mount_options options;
	const char *name;   /* borrowed */
	struct fuse_session *se;
	int device;         /* /dev/fuse; se closes it */
	struct ring *ring;  /* NULL: requests come through device alone */
	struct rotate rotate;
	atomic_uint_fast64_t requests; /* from the kernel */
	struct deferred deferred;
	struct relief relief;
	atomic_bool closed; /* a lock is under way: nothing more is read out */
};

/* ops_tree.c, ops_meta.c, ops_file.c: fill in their part of the table. Handlers get the session as user data. */
void ops_tree(struct fuse_lowlevel_ops *ops);
void ops_meta(struct fuse_lowlevel_ops *ops);
void ops_file(struct fuse_lowlevel_ops *ops);
/* A new regular file; name NULL: without one. */
int ops_make_file(fuse_req_t req, struct inode *dir, const char *name, mode_t mode, struct fuse_entry_param *ret) MUST_CHECK;

/* ops.c, what the handlers share.
 * The one place that turns -errno into a FUSE error. Damage has been reported where it was found: here it is EIO. */
void ops_reply_error(fuse_req_t req, int rc);
struct session *ops_session(fuse_req_t req);
struct inode *ops_inode(struct session *s, fuse_ino_t ino);
/* -EIO once a lock is under way. */
int ops_gate(const struct session *s) MUST_CHECK;
/* What the kernel is told of i, and for how many seconds it may believe it. */
int ops_attr(struct session *s, struct inode *i, const struct stat *lower, struct stat *ret, double *ret_timeout) MUST_CHECK;
int ops_entry(struct session *s, int fd, const struct stat *lower, struct fuse_entry_param *ret) MUST_CHECK;
/* Who a new object in dir belongs to: setgid inheritance, umask unless a default ACL stands for it. */
int ops_owner(struct session *s, fuse_req_t req, struct inode *dir, mode_t mode, struct dir_owner *ret) MUST_CHECK;
/* Of root it does not matter: with CAP_FSETID the kernel asks after a chown alone, and then root keeps sgid. */
bool ops_caller_in_group(fuse_req_t req, gid_t gid) MUST_CHECK;
/* Takes suid, sgid and file capabilities from an object that the caller of req changes. */
void ops_kill_privileges(fuse_req_t req, struct inode *i);

/* device.c. Makes se over device, which it then owns. */
#define DEVICE_REQUEST_MAX (1u << 20)
int device_open(struct session *s) MUST_CHECK;
/* Of the request that this thread is serving: whether it asks to clear suid and sgid (FUSE_HANDLE_KILLPRIV_V2), and whether
 * what libfuse calls a create is one without a name (O_TMPFILE). */
void device_serve(void *ctx, void *request, size_t len);
bool device_kill_privileges(void);
bool device_tmpfile(void);
int device_loop(struct session *s) MUST_CHECK;
/* Has the kernel drop those of up to DEVICE_PRUNE_MAX nodes that nobody uses; -EINVAL where it cannot (before 6.18). */
#define DEVICE_PRUNE_MAX 512u
int device_prune(struct session *s, uint64_t *nodes, size_t n) MUST_CHECK;

/* relief.c. */
int relief_start(struct session *s) MUST_CHECK;
void relief_end(struct session *s);

/* deferred.c: started before there are requests, ended when there are no more. seek and written: req is answered later. */
int deferred_start(struct session *s) MUST_CHECK;
void deferred_end(struct session *s);
void deferred_seek(struct session *s, fuse_req_t req, fuse_ino_t ino, uint64_t off, int whence);
void deferred_written(struct session *s, fuse_req_t req, fuse_ino_t ino, uint64_t off, size_t len);
