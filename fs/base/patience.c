/* patience: see patience.h. */
#include "base/patience.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define HANGING_MAX 256

static atomic_int hanging;

struct call {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool over, left; /* lock: fn came back; nobody waits any more */
	int (*fn)(void *work);
	void *work;
	void (*done)(void *work);
	int rc;
};

static void call_free(struct call *c)
{
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->changed);
	free(c);
}

static void *call_run(void *arg)
{
	struct call *c = arg;
	int rc = c->fn(c->work);

	pthread_mutex_lock(&c->lock);
	c->rc = rc;
	c->over = true;
	bool left = c->left;
	pthread_cond_signal(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (left) {
		c->done(c->work);
		call_free(c);
		atomic_fetch_sub(&hanging, 1);
	}
	return NULL;
}

int patience(int (*fn)(void *work), void *work, void (*done)(void *work), unsigned timeout_ms)
{
	struct call *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;
	struct timespec until;
	pthread_t thread;
	int rc = c ? 0 : -ENOMEM;

	if (rc == 0 && atomic_load(&hanging) >= HANGING_MAX)
		rc = -EAGAIN;
	if (rc < 0) {
		free(c);
		return rc;
	}
	*c = (struct call){.fn = fn, .work = work, .done = done};
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->changed, &attr);
	pthread_condattr_destroy(&attr);
	rc = -pthread_create(&thread, NULL, call_run, c);
	if (rc < 0) {
		call_free(c);
		return rc;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&c->lock);
	while (!c->over && rc == 0)
		rc = -pthread_cond_timedwait(&c->changed, &c->lock, &until);
	bool over = c->over;
	c->left = !over;
	if (!over)
		atomic_fetch_add(&hanging, 1);
	pthread_mutex_unlock(&c->lock);
	if (!over) {
		pthread_detach(thread);
		return -ETIMEDOUT;
	}
	pthread_join(thread, NULL);
	rc = c->rc;
	call_free(c);
	return rc;
}
