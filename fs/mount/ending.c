/* ending: how a mount ends, in the worker.
 *
 *   unmount   umount (refused while somebody uses it) -> loop ends -> contents closed -> volume closed clean
 *   lock      gate closed: nothing is read or opened any more -> synced through the mount -> every inode's pages written and
 *             dropped, mappings included -> files sealed -> connection aborted and mount detached -> contents and volume closed
 *             -> memory wiped, reply, exit (scorch.h)
 *
 * A lock is bounded: a thread of its own goes through the list, the main thread only waits and watches the clock. By three
 * quarters of the limit the connection is aborted, drained or not; by the limit the main thread goes on to wiping the memory,
 * whatever still hangs below. */
#include "mount/worker_internal.h"

#include "base/log.h"
#include "base/scorch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* The mount is gone from the kernel: everything else ends. Waits for the disk as long as it takes. */
static int worker_finish(struct worker *w)
{
	pthread_join(w->loop, NULL);
	ring_end(w->session.ring);
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
	relief_end(&w->session);
	deferred_end(&w->session);
	pthread_join(w->sealer, NULL);
	scrubber_end(&w->scrubber);
	rotate_end(&w->session.rotate);
	rotate_done(&w->session.rotate);
	inode_seal_all(&w->session.inodes);
	inode_table_done(&w->session.inodes);
	pthread_mutex_lock(&w->lock);
	struct volume *v = TAKE_PTR(w->v);
	w->serving = false;
	w->ended = (struct link_status){.epoch = v->header.epoch, .refused = atomic_load(&v->stats.refused),
		.resealed = atomic_load(&v->stats.resealed)};
	memcpy(w->ended.uuid, v->header.uuid, sizeof(w->ended.uuid));
	pthread_mutex_unlock(&w->lock);
	scrubber_done(&w->scrubber);
	bool writable = !v->options.read_only;
	int rc = volume_close(v);
	fuse_session_destroy(w->session.se);
	ring_free(w->session.ring);
	pthread_mutex_lock(&w->lock);
	w->left_clean = rc == 0 && writable;
	pthread_mutex_unlock(&w->lock);
	log_info("%s: unmounted%s", w->arguments->name, rc < 0 ? "; the store was not left clean" : "");
	return rc;
}

int worker_unmount(struct worker *w, struct link_message *m)
{
	int rc = mounter_ask(w->mounter.orders, MOUNTER_UNMOUNT, -1, &w->cancel);

	if (rc < 0) {
		snprintf(m->text, sizeof(m->text), "%s",
			rc == -EBUSY	   ? "processes still use it"
			: rc == -ECANCELED ? "it was locked meanwhile"
					   : strerror(-rc));
		return rc;
	}
	rc = worker_finish(w);
	if (rc < 0)
		snprintf(m->text, sizeof(m->text), "unmounted, but the store was not left clean: %s", strerror(-rc));
	return rc;
}

/* ---- letting go ---- */

static void drop_one(void *ctx, struct inode *i)
{
	struct worker *w = ctx;
	fuse_ino_t ino = i == w->session.inodes.root ? FUSE_ROOT_ID : (uintptr_t)i;

	if (clock_monotonic_ns() < w->drain_until_ns)
		(void)fuse_lowlevel_notify_inval_inode(w->session.se, ino, 0, 0);
}

static void worker_drain(struct worker *w)
{
	CLEANUP_CLOSE int fd = open(w->arguments->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	atomic_store(&w->session.closed, true);
	if (fd >= 0)
		(void)syncfs(fd);
	inode_each(&w->session.inodes, drop_one, w);
	inode_seal_all(&w->session.inodes);
}

static void ending_set(struct worker *w, enum ending ending)
{
	pthread_mutex_lock(&w->lock);
	w->ending = MAX(w->ending, ending);
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

/* Whether it came to that before the time was over. */
static bool ending_wait(struct worker *w, enum ending ending, uint64_t until_ns)
{
	struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};
	int rc = 0;

	pthread_mutex_lock(&w->lock);
	while (w->ending < ending && rc == 0)
		rc = pthread_cond_timedwait(&w->changed, &w->lock, &until);
	bool reached = w->ending >= ending;
	pthread_mutex_unlock(&w->lock);
	return reached;
}

static void *ending_run(void *arg)
{
	struct worker *w = arg;
	int rc = 0;

	/* The order under way comes to its end first: it may be what unmounts or mounts. */
	pthread_mutex_lock(&w->lock);
	while (w->order_running)
		pthread_cond_wait(&w->changed, &w->lock);
	bool serving = w->serving;
	pthread_mutex_unlock(&w->lock);
	if (serving) {
		worker_drain(w);
		ending_set(w, ENDING_DRAINED);
		(void)!ending_wait(w, ENDING_ABORTED, UINT64_MAX);
		rc = worker_finish(w);
	}
	pthread_mutex_lock(&w->lock);
	w->store_clean = rc == 0;
	pthread_mutex_unlock(&w->lock);
	ending_set(w, ENDING_CLOSED);
	return NULL;
}

void worker_end(struct worker *w, uint64_t limit_ms, struct link_message *m)
{
	uint64_t now = clock_monotonic_ns(), limit_ns = limit_ms * UINT64_C(1000000);
	uint64_t end_ns = now + limit_ns - MIN(limit_ns / 8, SCORCH_LIMIT_MS * UINT64_C(1000000));
	pthread_t thread;

	w->drain_until_ns = now + limit_ns / 4 * 3;
	atomic_store(&w->cancel, true);
	ending_set(w, ENDING_DRAINING);
	bool begun = pthread_create(&thread, NULL, ending_run, w) == 0;
	bool drained = begun && ending_wait(w, ENDING_DRAINED, w->drain_until_ns);
	atomic_store(&w->session.closed, true);
	pthread_mutex_lock(&w->lock);
	bool serving = w->serving;
	pthread_mutex_unlock(&w->lock);
	int rc = 0;
	if (serving)
		rc = mounter_ask(w->mounter.end, MOUNTER_ABORT, (int)MAX(limit_ms / 8, 1u), NULL);
	/* -EINVAL: it is no mount any more. */
	if (rc < 0 && rc != -EINVAL)
		log_warn("%s: the mount was not detached at once: %s", w->arguments->name, strerror(-rc));
	ending_set(w, ENDING_ABORTED);
	bool closed = begun && ending_wait(w, ENDING_CLOSED, end_ns);
	if (closed)
		pthread_join(thread, NULL);
	else
		log_warn("%s: something below still hangs: it is left behind without its keys", w->arguments->name);
	if (!drained || !closed)
		snprintf(m->text, sizeof(m->text), "not everything could be written out within the time limit%s",
			closed ? "" : ", and the store's disk still does not answer");
	else if (!w->store_clean)
		snprintf(m->text, sizeof(m->text), "the store was not left clean");
}
