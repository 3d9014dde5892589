/* deferred: requests that are answered by a thread of their own, because first the kernel has to let go of pages of the file.
 *
 * Asking for that waits for READ and WRITE requests; on a request's thread it would wait for its own kind, and as many of them
 * as there are threads would wait for ever. So such a request is queued, and its thread is free again. The caller's open file
 * keeps inode and content until the reply. Two kinds:
 *
 * seek     What the kernel has dirty is data too, and shows below only once it is written out.
 * written  O_DIRECT, while others read through the page cache: one of them may have read the old bytes after the kernel dropped
 *          its pages and before they were written. Of an asynchronous write the kernel does not see to that itself. */
#include "mount/session.h"

struct deferred_job {
	struct deferred_job *next;
	fuse_req_t req;
	fuse_ino_t ino;
	struct content *content; /* NULL: written */
	uint64_t off;
	size_t len; /* written */
	int whence; /* seek */
};

static void deferred_answer(struct session *s, const struct deferred_job *job)
{
	uint64_t found;

	(void)fuse_lowlevel_notify_inval_inode(s->se, job->ino, job->content ? 0 : (off_t)job->off, (off_t)job->len);
	if (!job->content) {
		fuse_reply_write(job->req, job->len);
		return;
	}
	int rc = content_seek(job->content, job->off, job->whence, &found);
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
		deferred_answer(s, job);
		free(job);
		pthread_mutex_lock(&d->lock);
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
	*d->tail = job;
	d->tail = &job->next;
	pthread_cond_signal(&d->changed);
	pthread_mutex_unlock(&d->lock);
}

void deferred_seek(struct session *s, fuse_req_t req, fuse_ino_t ino, struct content *content, uint64_t off, int whence)
{
	deferred_queue(s, &(struct deferred_job){.req = req, .ino = ino, .content = content, .off = off, .whence = whence});
}

void deferred_written(struct session *s, fuse_req_t req, fuse_ino_t ino, uint64_t off, size_t len)
{
	deferred_queue(s, &(struct deferred_job){.req = req, .ino = ino, .off = off, .len = len});
}
