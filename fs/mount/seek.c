/* seek: SEEK_DATA and SEEK_HOLE, answered by a thread of their own.
 *
 * What the kernel has dirty is data too, and shows below only once it is written out. Asking for that waits for WRITE
 * requests; on a request's thread it would wait for its own kind, and as many seeks as there are threads would wait for ever.
 * So the request is queued, and its thread is free again. The caller's open file keeps inode and content until the reply. */
#include "mount/session.h"

struct seek_job {
	struct seek_job *next;
	fuse_req_t req;
	fuse_ino_t ino;
	struct content *content;
	uint64_t off;
	int whence;
};

static void seek_answer(struct session *s, const struct seek_job *job)
{
	uint64_t found;

	(void)fuse_lowlevel_notify_inval_inode(s->se, job->ino, 0, 0);
	int rc = content_seek(job->content, job->off, job->whence, &found);
	if (rc < 0)
		ops_reply_error(job->req, rc);
	else
		fuse_reply_lseek(job->req, (off_t)found);
}

static void *seek_run(void *arg)
{
	struct session *s = arg;
	struct seeker *k = &s->seeker;

	pthread_mutex_lock(&k->lock);
	for (;;) {
		struct seek_job *job = k->head;

		if (!job && k->stop)
			break;
		if (!job) {
			pthread_cond_wait(&k->changed, &k->lock);
			continue;
		}
		k->head = job->next;
		if (!k->head)
			k->tail = &k->head;
		pthread_mutex_unlock(&k->lock);
		seek_answer(s, job);
		free(job);
		pthread_mutex_lock(&k->lock);
	}
	pthread_mutex_unlock(&k->lock);
	return NULL;
}

int seek_start(struct session *s)
{
	struct seeker *k = &s->seeker;

	*k = (struct seeker){.tail = &k->head};
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->changed, NULL);
	int rc = -pthread_create(&k->thread, NULL, seek_run, s);
	k->started = rc == 0;
	return rc;
}

void seek_end(struct session *s)
{
	struct seeker *k = &s->seeker;

	if (!k->started)
		return;
	pthread_mutex_lock(&k->lock);
	k->stop = true;
	pthread_cond_signal(&k->changed);
	pthread_mutex_unlock(&k->lock);
	pthread_join(k->thread, NULL);
	k->started = false;
	pthread_cond_destroy(&k->changed);
	pthread_mutex_destroy(&k->lock);
}

void seek_queue(struct session *s, fuse_req_t req, fuse_ino_t ino, struct content *content, uint64_t off, int whence)
{
	struct seeker *k = &s->seeker;
	struct seek_job *job = malloc(sizeof(*job));

	if (!job) {
		ops_reply_error(req, -ENOMEM);
		return;
	}
	*job = (struct seek_job){NULL, req, ino, content, off, whence};
	pthread_mutex_lock(&k->lock);
	*k->tail = job;
	k->tail = &job->next;
	pthread_cond_signal(&k->changed);
	pthread_mutex_unlock(&k->lock);
}
