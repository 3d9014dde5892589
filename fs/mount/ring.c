/* ring: see ring.h.
 *
 * Life of an entry: registered -> in the kernel --(completion)--> being served --(reply)--> committed, which fetches its next
 * request. Only a queue's own thread touches its ring: a reply made elsewhere is put on the queue's list, and an eventfd that
 * the ring reads wakes its thread. An entry whose command fails is gone; with the last one the thread ends (the mount is). */
#include "mount/ring.h"

#include "base/log.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#define QUEUE_DEPTH RING_QUEUE_DEPTH
#define LARGE_REQUEST (64u << 10) /* bytes; such reads and writes go to a helper */

/* include/uapi/linux/fuse.h of kernel 6.14, which Debian 12's headers are older than. */
enum { CMD_REGISTER = 1, CMD_COMMIT_AND_FETCH = 2 };
struct ring_header {
	uint8_t in_out[128]; /* struct fuse_in_header, then struct fuse_out_header */
	uint8_t op_in[128];  /* the operation's first argument */
	uint64_t flags, commit_id;
	uint32_t payload_len, padding;
	uint64_t reserved;
};
struct ring_command {
	uint64_t flags, commit_id;
	uint16_t queue;
	uint8_t padding[6];
};

struct ring_entry {
	struct ring_queue *queue;
	struct ring_header *header;
	uint8_t *payload;   /* request_max bytes; a page before them is ours */
	struct iovec iov[2]; /* these two, for registering */
	uint32_t command;   /* the last one */
	atomic_uint_fast64_t unique; /* of the request that is being served; 0: none */
	void *request;      /* for a helper: what to serve, and its length */
	size_t len;
	struct ring_entry *next; /* in the helpers' list, then in the queue's done list; their locks */
};

struct ring_queue {
	struct ring *r;
	struct io_uring uring; /* the queue's thread */
	bool made, running;
	pthread_t thread;
	unsigned id, live;     /* live: entries that the kernel has or we serve */
	int wake;              /* eventfd */
	uint64_t wake_value;
	pthread_mutex_t lock;
	struct ring_entry *done; /* replied to by others; lock */
	struct ring_entry entries[QUEUE_DEPTH];
};

struct ring {
	size_t request_max, page, entry_size;
	void (*serve)(void *ctx, void *request, size_t len);
	void *ctx;
	uint8_t *memory;       /* of all headers and payloads */
	size_t memory_len;
	unsigned queue_count;
	struct ring_queue *queues;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct ring_entry *head, **tail; /* for the helpers, in order of arrival; lock */
	bool stop;             /* lock */
	atomic_bool started;
	unsigned helper_count, helpers_running;
	pthread_t helpers[];
};

static _Thread_local struct ring_queue *own_queue;  /* this thread's */
static _Thread_local struct ring_entry *own_entry;  /* being served by this thread */

bool ring_offered(void)
{
	CLEANUP_CLOSE int fd = open(RING_PARAMETER, O_RDONLY | O_CLOEXEC);
	char word = 'N';

	return fd >= 0 && read(fd, &word, 1) == 1 && word == 'Y';
}

/* ---- commands; queue's thread ---- */

/* Never NULL: a queue has room for a command of each entry and the read of its eventfd. */
static struct io_uring_sqe *queue_command(struct ring_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->uring);

	if (!sqe && io_uring_submit(&q->uring) >= 0)
		sqe = io_uring_get_sqe(&q->uring);
	if (!sqe)
		abort();
	/* Half of a long entry is the command's own; nobody clears it. */
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->flags = IOSQE_FIXED_FILE;
	return sqe;
}

static void entry_command(struct ring_entry *e, uint32_t command)
{
	struct io_uring_sqe *sqe = queue_command(e->queue);
	struct ring_command what = {.commit_id = command == CMD_REGISTER ? 0 : e->header->commit_id, .queue = (uint16_t)e->queue->id};

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = 0;
	sqe->cmd_op = command;
	if (command == CMD_REGISTER) {
		sqe->addr = (uintptr_t)e->iov;
		sqe->len = ARRAY_LEN(e->iov);
	}
	memcpy(sqe->cmd, &what, sizeof(what));
	io_uring_sqe_set_data(sqe, e);
	e->command = command;
}

static void queue_listen(struct ring_queue *q)
{
	struct io_uring_sqe *sqe = queue_command(q);

	sqe->opcode = IORING_OP_READ;
	sqe->fd = 1;
	sqe->addr = (uintptr_t)&q->wake_value;
	sqe->len = sizeof(q->wake_value);
	io_uring_sqe_set_data(sqe, NULL);
}

/* ---- requests ---- */

static void entry_serve(struct ring_entry *e)
{
	own_entry = e;
	e->queue->r->serve(e->queue->r->ctx, e->request, e->len);
	own_entry = NULL;
}

static bool request_takes_long(const struct fuse_in_header *in, const void *body)
{
	switch (in->opcode) {
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
	case FUSE_SYNCFS:
	case FUSE_FALLOCATE:
		return true;
	case FUSE_READ:
		return ((const struct fuse_read_in *)body)->size >= LARGE_REQUEST;
	case FUSE_WRITE:
		return ((const struct fuse_write_in *)body)->size >= LARGE_REQUEST;
	default:
		return false;
	}
}

/* The kernel puts the header, the operation's first argument and the rest in three places; in front of the rest there is room
 * to put them one after the other again. */
static bool entry_request(struct ring_entry *e)
{
	const struct fuse_in_header *in = (const struct fuse_in_header *)e->header->in_out;
	uint32_t rest = e->header->payload_len, len = in->len, first = len - (uint32_t)sizeof(*in) - rest;

	if (rest > e->queue->r->request_max || len < sizeof(*in) + rest || first > sizeof(e->header->op_in))
		return false;
	memcpy(e->payload - first, e->header->op_in, first);
	e->request = memcpy(e->payload - first - sizeof(*in), in, sizeof(*in));
	e->len = len;
	atomic_store_explicit(&e->unique, in->unique, memory_order_release);
	return true;
}

static void entry_arrived(struct ring_entry *e)
{
	struct ring *r = e->queue->r;

	if (!entry_request(e)) {
		log_error("a FUSE request over io_uring has impossible lengths");
		abort();
	}
	if (!request_takes_long(e->request, e->header->op_in)) {
		entry_serve(e);
		return;
	}
	e->next = NULL;
	pthread_mutex_lock(&r->lock);
	*r->tail = e;
	r->tail = &e->next;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

static void *helper_run(void *arg)
{
	struct ring *r = arg;

	pthread_mutex_lock(&r->lock);
	for (;;) {
		struct ring_entry *e = r->head;

		if (!e && r->stop)
			break;
		if (!e) {
			pthread_cond_wait(&r->changed, &r->lock);
			continue;
		}
		r->head = e->next;
		if (!r->head)
			r->tail = &r->head;
		pthread_mutex_unlock(&r->lock);
		entry_serve(e);
		pthread_mutex_lock(&r->lock);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ---- replies ---- */

static struct ring_entry *entry_find(struct ring *r, uint64_t unique)
{
	if (own_entry && atomic_load_explicit(&own_entry->unique, memory_order_relaxed) == unique)
		return own_entry;
	for (unsigned q = 0; q < r->queue_count; q++)
		for (unsigned k = 0; k < QUEUE_DEPTH; k++)
			if (atomic_load_explicit(&r->queues[q].entries[k].unique, memory_order_acquire) == unique)
				return &r->queues[q].entries[k];
	return NULL;
}

bool ring_reply(struct ring *r, const struct iovec *iov, int count)
{
	struct fuse_out_header out;
	struct ring_entry *e;
	size_t len = 0;

	memcpy(&out, iov[0].iov_base, sizeof(out));
	e = out.unique ? entry_find(r, out.unique) : NULL;
	if (!e)
		return false;
	for (int k = 1; k < count; k++) {
		if (len + iov[k].iov_len > r->request_max) {
			out.error = -EIO;
			len = 0;
			break;
		}
		if (iov[k].iov_base != e->payload + len)
			memcpy(e->payload + len, iov[k].iov_base, iov[k].iov_len);
		len += iov[k].iov_len;
	}
	memcpy(e->header->in_out, &out, sizeof(out));
	e->header->payload_len = (uint32_t)len;
	atomic_store_explicit(&e->unique, 0, memory_order_relaxed);
	struct ring_queue *q = e->queue;
	if (q == own_queue) {
		entry_command(e, CMD_COMMIT_AND_FETCH);
		return true;
	}
	pthread_mutex_lock(&q->lock);
	bool first = !q->done;
	e->next = q->done;
	q->done = e;
	pthread_mutex_unlock(&q->lock);
	if (first)
		eventfd_write(q->wake, 1);
	return true;
}

void *ring_reply_memory(size_t size)
{
	return own_entry && size <= own_entry->queue->r->request_max ? own_entry->payload : NULL;
}

/* ---- a queue's thread ---- */

static void queue_take_replies(struct ring_queue *q)
{
	pthread_mutex_lock(&q->lock);
	struct ring_entry *e = TAKE_PTR(q->done);
	pthread_mutex_unlock(&q->lock);
	while (e) {
		struct ring_entry *next = e->next;

		entry_command(e, CMD_COMMIT_AND_FETCH);
		e = next;
	}
}

static void queue_completed(struct ring_queue *q, struct ring_entry *e, int rc)
{
	if (!e) {
		queue_listen(q);
		queue_take_replies(q);
	} else if (rc == 0) {
		entry_arrived(e);
	} else if (rc == -EAGAIN || rc == -EINTR) {
		entry_command(e, e->command);
	} else {
		if (e->command == CMD_REGISTER && rc != -ENOTCONN) {
			/* The kernel waits for this queue, and everybody who uses the mount for the kernel. */
			log_error("FUSE over io_uring was refused: %s (mount.transport = \"device\" does without)", strerror(-rc));
			_exit(1);
		}
		q->live--;
	}
}

static void *queue_run(void *arg)
{
	struct ring_queue *q = arg;
	struct io_uring_cqe *cqe;
	cpu_set_t cpu;

	own_queue = q;
	pthread_setname_np(pthread_self(), "ring");
	CPU_ZERO(&cpu);
	CPU_SET(q->id, &cpu);
	(void)pthread_setaffinity_np(pthread_self(), sizeof(cpu), &cpu); /* a CPU that is off: anywhere */
	q->live = QUEUE_DEPTH;
	queue_listen(q);
	for (unsigned k = 0; k < QUEUE_DEPTH; k++)
		entry_command(&q->entries[k], CMD_REGISTER);
	while (q->live > 0) {
		int rc = io_uring_submit_and_wait(&q->uring, 1);

		if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
			log_error("io_uring: %s", strerror(-rc));
		while (io_uring_peek_cqe(&q->uring, &cqe) == 0) {
			struct ring_entry *e = io_uring_cqe_get_data(cqe);
			int result = cqe->res;

			io_uring_cqe_seen(&q->uring, cqe);
			queue_completed(q, e, result);
		}
	}
	return NULL;
}

/* ---- making and ending ---- */

static int queue_make(struct ring *r, unsigned id, int device)
{
	struct ring_queue *q = &r->queues[id];
	struct io_uring_params params = {.flags = IORING_SETUP_SQE128 | IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL};
	struct io_uring_restriction only[] = {{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_URING_CMD},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE}};

	q->r = r;
	q->id = id;
	pthread_mutex_init(&q->lock, NULL);
	q->wake = eventfd(0, EFD_CLOEXEC);
	if (q->wake < 0)
		return -errno;
	int rc = io_uring_queue_init_params(QUEUE_DEPTH * 2, &q->uring, &params);
	q->made = rc == 0;
	if (rc == 0)
		rc = io_uring_register_files(&q->uring, (int[]){device, q->wake}, 2);
	/* liburing 2.3 has functions for these two, and forgot to export them. */
	if (rc == 0 && (syscall(SYS_io_uring_register, q->uring.ring_fd, IORING_REGISTER_RESTRICTIONS, only, ARRAY_LEN(only)) < 0 ||
			       syscall(SYS_io_uring_register, q->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0))
		rc = -errno;
	for (unsigned k = 0; k < QUEUE_DEPTH; k++) {
		struct ring_entry *e = &q->entries[k];
		uint8_t *memory = r->memory + (id * QUEUE_DEPTH + k) * r->entry_size;

		e->queue = q;
		e->header = (struct ring_header *)memory;
		e->payload = memory + 2 * r->page;
		e->iov[0] = (struct iovec){e->header, sizeof(*e->header)};
		e->iov[1] = (struct iovec){e->payload, r->request_max};
	}
	return rc;
}

int ring_new(int device, size_t request_max, unsigned helpers, void (*serve)(void *ctx, void *request, size_t len), void *ctx,
	struct ring **ret)
{
	struct ring *r = calloc(1, sizeof(*r) + helpers * sizeof(r->helpers[0]));

	if (!r)
		return -ENOMEM;
	r->request_max = request_max;
	r->serve = serve;
	r->ctx = ctx;
	r->helper_count = helpers;
	r->tail = &r->head;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	r->page = (size_t)sysconf(_SC_PAGESIZE);
	/* The header has a page of its own, then comes the page before the payload. Touched, and so there, only when used. */
	r->entry_size = 2 * r->page + request_max;
	r->queue_count = (unsigned)get_nprocs_conf();
	r->queues = calloc(r->queue_count, sizeof(*r->queues));
	r->memory_len = r->queue_count * QUEUE_DEPTH * r->entry_size;
	r->memory = mmap(NULL, r->memory_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int rc = r->queues && r->memory != MAP_FAILED ? 0 : -ENOMEM;
	for (unsigned q = 0; rc == 0 && q < r->queue_count; q++)
		rc = queue_make(r, q, device);
	if (rc < 0) {
		ring_free(r);
		return rc;
	}
	*ret = r;
	return 0;
}

unsigned ring_queues(struct ring *r)
{
	return r && atomic_load_explicit(&r->started, memory_order_acquire) ? r->queue_count : 0;
}

int ring_start(struct ring *r)
{
	int rc = 0;

	atomic_store_explicit(&r->started, true, memory_order_release);
	while (rc == 0 && r->helpers_running < r->helper_count) {
		rc = -pthread_create(&r->helpers[r->helpers_running], NULL, helper_run, r);
		r->helpers_running += rc == 0;
	}
	for (unsigned q = 0; rc == 0 && q < r->queue_count; q++) {
		rc = -pthread_create(&r->queues[q].thread, NULL, queue_run, &r->queues[q]);
		r->queues[q].running = rc == 0;
	}
	return rc;
}

void ring_end(struct ring *r)
{
	if (!r)
		return;
	for (unsigned q = 0; r->queues && q < r->queue_count; q++) {
		if (r->queues[q].running)
			pthread_join(r->queues[q].thread, NULL);
		r->queues[q].running = false;
	}
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	for (unsigned k = 0; k < r->helpers_running; k++)
		pthread_join(r->helpers[k], NULL);
	r->helpers_running = 0;
}

void ring_free(struct ring *r)
{
	if (!r)
		return;
	ring_end(r);
	for (unsigned q = 0; r->queues && q < r->queue_count; q++) {
		if (r->queues[q].made)
			io_uring_queue_exit(&r->queues[q].uring);
		if (r->queues[q].r) {
			util_closep(&r->queues[q].wake);
			pthread_mutex_destroy(&r->queues[q].lock);
		}
	}
	if (r->memory && r->memory != MAP_FAILED)
		munmap(r->memory, r->memory_len);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r->queues);
	free(r);
}
