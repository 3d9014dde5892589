/* deferred: requests that are answered by a thread of their own, because first the kernel has to let go of pages of the file.
 *
 * Asking for that waits for READ and WRITE requests; on a request's thread it would wait for its own kind, and as many of them
 * as there are threads would wait for ever. So such a request is queued, and its thread is free again. The caller's open file
 * keeps the inode until the reply. Two kinds:
 *
 * seek     What the kernel has dirty is data too, and shows below only once it is written out.
 * written  O_DIRECT, while others read through the page cache: one of them may have read the old bytes after the kernel dropped
 *          its pages and before they were written. Of an asynchronous write the kernel does not see to that itself.
 *
 * Over io_uring a request that waits holds one of its queue's entries, and what it waits for may need one (ring.h). There a seek is
 * answered by the kernel, for which a file has no holes then; and of the writes only as many wait as leave entries free: more
 * are answered before the pages are dropped. */
#include "mount/session.h"

struct deferred_job {
	struct deferred_job *next;
	fuse_req_t req; /* NULL: answered, and the kernel may forget the inode at any time */
	fuse_ino_t ino;
	uint64_t off;
	size_t len; /* written; 0: seek */
	int whence; /* seek */
};

#define READERS_REST_NS UINT64_C(1000000000)

/* Has the kernel let go of the pages that a write left stale. */
static void deferred_drop(struct session *s, const struct deferred_job *job)
{
	(void)fuse_lowlevel_notify_inval_inode(s->se, job->ino, (off_t)job->off, (off_t)job->len);
}

static void deferred_written_answer(struct session *s, const struct deferred_job *job)
{
	struct inode *i = ops_inode(s, job->ino);
	uint64_t cached = atomic_load(&i->cached_ns);
	/* Nobody reads any more: once nothing is cached, the next writes need not wait. Pages that are being read keep the kernel
	 * waiting until they are, and that is seen. */
	bool all = clock_monotonic_ns() - cached > READERS_REST_NS;

	deferred_drop(s, all ? &(struct deferred_job){.ino = job->ino} : job);
	if (all)
		atomic_compare_exchange_strong(&i->cached_ns, &cached, 0);
	fuse_reply_write(job->req, job->len);
}

static void deferred_seek_answer(struct session *s, const struct deferred_job *job)
{
	struct inode *i = ops_inode(s, job->ino);
	struct content *c;
	uint64_t found;

	(void)fuse_lowlevel_notify_inval_inode(s->se, job->ino, 0, 0);
	int rc = inode_open(&s->inodes, i, &c);
	if (rc == 0) {
		rc = content_seek(c, job->off, job->whence, &found);
		inode_release(i);
	}
	if (rc < 0)
		ops_reply_error(job->req, rc);
	else
		fuse_reply_lseek(job->req, (off_t)found);
}

static void *deferred_run(void *arg)
{
	struct session *s = arg;
	struct deferred *d = &s->deferred;

	pthread_mutex_lock(&d->lock);
	for (;;) {
		struct deferred_job *job = d->head;

		if (!job && d->stop)
			break;
		if (!job) {
			pthread_cond_wait(&d->changed, &d->lock);
			continue;
		}
		d->head = job->next;
		if (!d->head)
			d->tail = &d->head;
		pthread_mutex_unlock(&d->lock);
		if (!job->req)
			deferred_drop(s, job);
		else if (job->len)
			deferred_written_answer(s, job);
		else
			deferred_seek_answer(s, job);
		pthread_mutex_lock(&d->lock);
		d->held -= job->req != NULL;
		free(job);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

int deferred_start(struct session *s)
{
	struct deferred *d = &s->deferred;

	*d = (struct deferred){.tail = &d->head};
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->changed, NULL);
	int rc = -pthread_create(&d->thread, NULL, deferred_run, s);
	d->started = rc == 0;
	return rc;
}

void deferred_end(struct session *s)
{
	struct deferred *d = &s->deferred;

	if (!d->started)
		return;
	pthread_mutex_lock(&d->lock);
	d->stop = true;
	pthread_cond_signal(&d->changed);
	pthread_mutex_unlock(&d->lock);
	pthread_join(d->thread, NULL);
	d->started = false;
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->lock);
}

static void deferred_queue(struct session *s, const struct deferred_job *what)
{
	struct deferred *d = &s->deferred;
	struct deferred_job *job = malloc(sizeof(*job));

	if (!job) {
		ops_reply_error(what->req, -ENOMEM);
		return;
	}
	*job = *what;
	pthread_mutex_lock(&d->lock);
	bool now = ring_queues(s->ring) && d->held >= RING_QUEUE_DEPTH / 2;
	if (now)
		job->req = NULL;
	d->held += !now;
	*d->tail = job;
	d->tail = &job->next;
	pthread_cond_signal(&d->changed);
	pthread_mutex_unlock(&d->lock);
	if (now)
		fuse_reply_write(what->req, what->len);
}

void deferred_seek(struct session *s, fuse_req_t req, fuse_ino_t ino, uint64_t off, int whence)
{
	if (ring_queues(s->ring))
		fuse_reply_err(req, ENOSYS);
	else
		deferred_queue(s, &(struct deferred_job){.req = req, .ino = ino, .off = off, .whence = whence});
}

void deferred_written(struct session *s, fuse_req_t req, fuse_ino_t ino, uint64_t off, size_t len)
{
	deferred_queue(s, &(struct deferred_job){.req = req, .ino = ino, .off = off, .len = len});
}
