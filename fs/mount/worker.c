/* worker: orders from tdefsd, and the order in which things end.
 *
 * One thread (worker_run) takes the orders, one runs the FUSE loop and its helpers, one answers seeks, one seals. The end of a mount:
 *
 *   unmount   umount2 (refused while somebody uses it) -> loop ends -> contents closed -> volume closed clean
 *   lock      list users -> [sync through the mount -> gate closed: nothing is read out any more -> every inode's pages
 *             written and dropped, mappings included -> files sealed] within the time limit -> connection aborted ->
 *             detached -> volume closed -> keys wiped -> reply -> exit
 *
 * What is in brackets runs in a thread of its own; when it is late the rest happens without it, and the reply says so. */
#include "mount/worker.h"

#include "base/io.h"
#include "base/log.h"
#include "mount/link.h"
#include "mount/sandbox.h"
#include "store/scrub.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/signalfd.h>

#define CONNECTIONS_MAX 8
#define END_LIMIT_NS (UINT64_C(30) * 1000000000)

struct worker {
	const struct worker_arguments *arguments;
	struct session session;
	struct volume *v;
	bool serving;       /* mounted, the threads below run */
	pthread_t loop, sealer;
	int loop_ended;     /* eventfd */
	pthread_mutex_t lock;
	pthread_cond_t stop;
	bool stopping;      /* lock */
	pthread_t scrub;
	bool scrub_started; /* the service thread's */
	atomic_bool scrub_running, scrub_stop;
	atomic_int scrub_error;
	atomic_uint_fast64_t scrub_files, scrub_blocks, scrub_bad;
};

static void worker_report(void *ctx, const char *line)
{
	const struct worker *w = ctx;

	log_warn("%s: %s", w->arguments->name, line);
}

/* ---- threads ---- */

static void *worker_loop(void *arg)
{
	struct worker *w = arg;
	int rc = device_loop(&w->session);

	if (rc < 0)
		log_error("%s: the FUSE loop ended: %s", w->arguments->name, strerror(-rc));
	eventfd_write(w->loop_ended, 1);
	return NULL;
}

static void *worker_sealer(void *arg)
{
	struct worker *w = arg;
	uint64_t interval = w->arguments->mount.seal_interval_ns;
	struct timespec until;

	pthread_mutex_lock(&w->lock);
	while (!w->stopping) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += (time_t)(interval / 1000000000);
		until.tv_nsec += (long)(interval % 1000000000);
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_cond_timedwait(&w->stop, &w->lock, &until) == 0 || w->stopping)
			continue;
		pthread_mutex_unlock(&w->lock);
		inode_seal_all(&w->session.inodes);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static int scrub_file(void *ctx, int fd, const struct stat *st, const char *lower, const char *plain)
{
	struct worker *w = ctx;
	struct content_check check;
	struct content *c;
	struct inode *i;
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (atomic_load(&w->scrub_stop))
		return -ECANCELED;
	if (copy < 0)
		return copy;
	/* Through the inode table: the file may be in use. */
	int rc = inode_get(&w->session.inodes, copy, st, &i);
	if (rc < 0)
		return rc;
	rc = inode_open(&w->session.inodes, i, &c);
	if (rc == 0) {
		rc = content_verify(c, &check);
		inode_release(&w->session.inodes, i);
	}
	inode_put(&w->session.inodes, i, 1);
	atomic_fetch_add(&w->scrub_files, 1);
	if (rc < 0) {
		atomic_fetch_add(&w->scrub_bad, 1);
		log_warn("%s: scrub: %s (%s): %s", w->arguments->name, plain, lower, strerror(-rc));
		return 0;
	}
	atomic_fetch_add(&w->scrub_blocks, check.good + check.bad);
	if (check.bad) {
		atomic_fetch_add(&w->scrub_bad, check.bad);
		log_warn("%s: scrub: %s (%s): %llu blocks do not verify, the first is %llu", w->arguments->name, plain, lower,
			(unsigned long long)check.bad, (unsigned long long)check.first_bad);
	}
	return 0;
}

static void scrub_damaged(void *ctx, int error, const char *lower, const char *plain)
{
	struct worker *w = ctx;

	atomic_fetch_add(&w->scrub_bad, 1);
	log_warn("%s: scrub: %s (%s): %s", w->arguments->name, plain, lower, strerror(-error));
}

static void *worker_scrub(void *arg)
{
	struct worker *w = arg;
	struct scrub_visitor visitor = {scrub_file, scrub_damaged, NULL, w};

	atomic_store(&w->scrub_error, scrub_walk(w->v, &visitor));
	atomic_store(&w->scrub_running, false);
	return NULL;
}

static void worker_end_scrub(struct worker *w)
{
	atomic_store(&w->scrub_stop, true);
	if (w->scrub_started)
		pthread_join(w->scrub, NULL);
	w->scrub_started = false;
	atomic_store(&w->scrub_stop, false);
}

static int worker_order_rotate(struct worker *w, struct link_message *m)
{
	int rc = w->serving ? volume_rotate_begin(w->v, &m->rotate.key, m->rotate.wraps, m->rotate.count) : -ENOTCONN;

	secret_wipe(&m->rotate, sizeof(m->rotate));
	if (w->serving)
		rotate_continue(&w->session.rotate);
	return rc;
}

/* ---- start and end ---- */

static const char *worker_open_error(int rc)
{
	switch (-rc) {
	case ENOENT:
		return "there is no store (no tdefs.env)";
	case EUCLEAN:
		return "this is not a tdefs store, or its header is damaged";
	case ENOTSUP:
		return "the store was made by a newer version of tdefs";
	case EBADMSG:
		return "the environment header was changed by somebody who does not have the key";
	case EKEYREJECTED:
		return "the key is not this environment's";
	case EBUSY:
		return "another worker has the store mounted";
	case ESTALE:
		return "the store is older than what was last mounted: an old copy was put back";
	default:
		return strerror(-rc);
	}
}

static int worker_start(struct worker *w, struct link_message *m)
{
	const struct worker_arguments *a = w->arguments;
	struct env_key *ek = KEY_NEW(struct env_key);
	struct volume_options options = {.min_epoch = m->start.min_epoch, .read_only = a->mount.read_only,
		.report = worker_report, .report_ctx = w};
	int rc = -ENOMEM;

	if (ek)
		*ek = m->start.key;
	secret_wipe(m, sizeof(*m));
	if (w->serving)
		rc = -EALREADY;
	else if (ek)
		rc = volume_open(a->store, ek, &options, &w->v);
	KEY_FREE(ek);
	if (rc < 0) {
		snprintf(m->text, sizeof(m->text), "%s", rc == -EALREADY ? "it is mounted already" : worker_open_error(rc));
		return rc;
	}
	w->session = (struct session){.v = w->v, .options = a->mount, .name = a->name, .mountpoint = a->mountpoint};
	rc = inode_table_init(&w->session.inodes, w->v);
	if (rc == 0)
		rc = seek_start(&w->session);
	if (rc == 0)
		rc = device_mount(&w->session);
	if (rc < 0) {
		snprintf(m->text, sizeof(m->text), "cannot mount on %s: %s", a->mountpoint, strerror(-rc));
		seek_end(&w->session);
		inode_table_done(&w->session.inodes);
		(void)volume_close(w->v);
		w->v = NULL;
		return rc;
	}
	w->stopping = false;
	rotate_init(&w->session.rotate, &w->session);
	pthread_create(&w->loop, NULL, worker_loop, w);
	pthread_create(&w->sealer, NULL, worker_sealer, w);
	w->serving = true;
	/* The kernel has spoken to us before anybody is told that the mount is there. */
	CLEANUP_CLOSE int fd = open(a->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		device_tune(fd);
	sandbox_enter();
	if (!a->mount.read_only)
		rotate_continue(&w->session.rotate);
	log_info("%s: mounted on %s, epoch %llu%s", a->name, a->mountpoint, (unsigned long long)w->v->header.epoch,
		w->v->header.unclean_count ? " (there were unclean ends before)" : "");
	return fd < 0 ? -errno : 0;
}

/* The mount is gone from the kernel: everything else ends. in_time: every thread has let go of the volume. */
static int worker_finish(struct worker *w, bool in_time)
{
	int rc = -ETIMEDOUT;

	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->stop);
	pthread_mutex_unlock(&w->lock);
	if (in_time) {
		seek_end(&w->session);
		pthread_join(w->sealer, NULL);
		worker_end_scrub(w);
		rotate_end(&w->session.rotate);
		rotate_done(&w->session.rotate);
		inode_seal_all(&w->session.inodes);
		inode_table_done(&w->session.inodes);
		rc = volume_close(w->v);
		fuse_session_destroy(w->session.se);
	} else {
		volume_wipe(w->v);
	}
	w->v = NULL;
	w->serving = false;
	log_info("%s: unmounted%s", w->arguments->name, rc < 0 ? "; the store was not left clean" : "");
	return rc;
}

static bool worker_join_loop(struct worker *w, uint64_t limit_ns)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)(limit_ns / 1000000000) + 1;
	return pthread_timedjoin_np(w->loop, NULL, &until) == 0;
}

static int worker_unmount(struct worker *w, struct link_message *m)
{
	if (umount2(w->arguments->mountpoint, UMOUNT_NOFOLLOW) < 0) {
		int rc = -errno;

		if (rc == -EBUSY)
			teardown_users(&w->session, &m->status);
		snprintf(m->text, sizeof(m->text), "%s", rc == -EBUSY ? "processes still use it" : strerror(-rc));
		return rc;
	}
	bool in_time = worker_join_loop(w, END_LIMIT_NS);
	int rc = worker_finish(w, in_time);
	if (rc < 0)
		snprintf(m->text, sizeof(m->text), "unmounted, but the store was not left clean: %s", strerror(-rc));
	return rc;
}

struct drain {
	struct worker *w;
	uint64_t deadline_ns;
};

static void *worker_drain(void *arg)
{
	struct drain *d = arg;
	struct worker *w = d->w;

	{
		CLEANUP_CLOSE int fd = open(w->arguments->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd >= 0)
			(void)syncfs(fd);
	}
	atomic_store(&w->session.closed, true);
	(void)!teardown_drop_caches(&w->session, d->deadline_ns);
	inode_seal_all(&w->session.inodes);
	free(d);
	return NULL;
}

static int worker_lock(struct worker *w, struct link_message *m, uint64_t limit_ms)
{
	struct drain *d = malloc(sizeof(*d));
	struct timespec until;
	pthread_t thread;
	bool in_time = false;

	teardown_users(&w->session, &m->status);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)(limit_ms / 1000) + 1;
	if (d) {
		*d = (struct drain){w, clock_monotonic_ns() + limit_ms * 1000000};
		if (pthread_create(&thread, NULL, worker_drain, d) == 0)
			in_time = pthread_timedjoin_np(thread, NULL, &until) == 0;
	}
	atomic_store(&w->session.closed, true);
	teardown_abort(&w->session);
	in_time = worker_join_loop(w, END_LIMIT_NS) && in_time;
	int rc = worker_finish(w, in_time);
	if (!in_time)
		snprintf(m->text, sizeof(m->text), "locked, but not everything could be written out within the time limit");
	else if (rc < 0)
		snprintf(m->text, sizeof(m->text), "locked, but the store was not left clean: %s", strerror(-rc));
	return 0;
}

/* ---- orders ---- */

static void worker_status(struct worker *w, struct link_status *st)
{
	uint32_t users = st->user_count;

	st->pid = getpid();
	st->state = w->serving ? LINK_SERVING : LINK_IDLE;
	st->memory_locked = sandbox_memory_locked();
	st->user_count = users;
	st->scrub_running = atomic_load(&w->scrub_running);
	st->scrub_error = atomic_load(&w->scrub_error);
	st->scrub_files = atomic_load(&w->scrub_files);
	st->scrub_blocks = atomic_load(&w->scrub_blocks);
	st->scrub_bad = atomic_load(&w->scrub_bad);
	st->rotate_files = atomic_load(&w->session.rotate.files);
	st->rotate_error = atomic_load(&w->session.rotate.error);
	if (!w->v)
		return;
	st->rotating = volume_rotating(w->v);
	st->key_version = w->v->ek_version;
	st->epoch = w->v->header.epoch;
	memcpy(st->uuid, w->v->header.uuid, sizeof(st->uuid));
	st->refused = atomic_load(&w->v->stats.refused);
	st->resealed = atomic_load(&w->v->stats.resealed);
	st->intents = atomic_load(&w->v->stats.intents);
	st->syncs = atomic_load(&w->v->stats.syncs);
	st->read_bytes = atomic_load(&w->v->stats.read_bytes);
	st->written_bytes = atomic_load(&w->v->stats.written_bytes);
	st->poisoned = atomic_load(&w->v->poisoned);
	st->open_files = inode_open_files(&w->session.inodes);
}

static int worker_start_scrub(struct worker *w)
{
	if (atomic_load(&w->scrub_running))
		return -EALREADY;
	worker_end_scrub(w);
	atomic_store(&w->scrub_files, 0);
	atomic_store(&w->scrub_blocks, 0);
	atomic_store(&w->scrub_bad, 0);
	atomic_store(&w->scrub_error, 0);
	atomic_store(&w->scrub_running, true);
	w->scrub_started = pthread_create(&w->scrub, NULL, worker_scrub, w) == 0;
	if (!w->scrub_started)
		atomic_store(&w->scrub_running, false);
	return w->scrub_started ? 0 : -EAGAIN;
}

/* Carries one order out and turns the message into its reply. Returns true when the worker has to end. */
static bool worker_order(struct worker *w, struct link_message *m)
{
	uint32_t type = m->type, flag = m->flag;
	uint64_t arg = m->arg;
	bool ends = false, was_serving = w->serving;
	struct link_status status = {0};
	int rc = 0;

	if (type == LINK_START) {
		rc = worker_start(w, m);
		ends = rc < 0 && rc != -EALREADY;
	} else if (type == LINK_REWRAP) {
		rc = w->serving ? volume_rewrap(w->v, m->rewrap.wraps, m->rewrap.count) : -ENOTCONN;
		memset(&m->rewrap, 0, sizeof(m->rewrap));
	} else if (type == LINK_ROTATE) {
		rc = worker_order_rotate(w, m);
	} else {
		memset(&m->status, 0, sizeof(m->status));
		if (type == LINK_SCRUB)
			rc = !w->serving ? -ENOTCONN : flag ? worker_start_scrub(w) : 0;
		else if ((type == LINK_LOCK || (type == LINK_UNMOUNT && flag)) && was_serving)
			rc = worker_lock(w, m, arg ? arg : END_LIMIT_NS / 1000000);
		else if (type == LINK_UNMOUNT && was_serving)
			rc = worker_unmount(w, m);
		else if (type == LINK_USERS && was_serving)
			teardown_users(&w->session, &m->status);
		else if (type != LINK_STATUS && type != LINK_USERS && type != LINK_LOCK && type != LINK_UNMOUNT)
			rc = -EPROTO;
		ends = (type == LINK_LOCK || type == LINK_UNMOUNT) && !w->serving;
		status = m->status;
	}
	worker_status(w, &status);
	m->status = status;
	m->version = LINK_VERSION;
	m->type = LINK_REPLY;
	m->error = rc;
	return ends;
}

static bool worker_serve(struct worker *w, int fd, bool *ret_close)
{
	struct link_message m;
	int rc = link_receive(fd, 10000, &m);

	*ret_close = rc < 0;
	if (rc < 0)
		return false;
	bool ends = worker_order(w, &m);
	*ret_close = link_send(fd, &m) < 0;
	return ends;
}

int worker_run(const struct worker_arguments *arguments)
{
	struct worker w = {.arguments = arguments};
	struct pollfd p[3 + CONNECTIONS_MAX];
	int connections = 0, status = 0;
	bool ends = false;
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	pthread_mutex_init(&w.lock, NULL);
	pthread_cond_init(&w.stop, NULL);
	w.loop_ended = eventfd(0, EFD_CLOEXEC);
	CLEANUP_CLOSE int listener = link_listen(arguments->socket);
	CLEANUP_CLOSE int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
	if (listener < 0 || signal_fd < 0 || w.loop_ended < 0) {
		log_error("%s: cannot listen on %s: %s", arguments->name, arguments->socket,
			strerror(listener < 0 ? -listener : errno));
		return 1;
	}
	while (!ends) {
		p[0] = (struct pollfd){.fd = listener, .events = connections < CONNECTIONS_MAX ? POLLIN : 0};
		p[1] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
		p[2] = (struct pollfd){.fd = w.loop_ended, .events = POLLIN};
		if (poll(p, (nfds_t)(3 + connections), -1) < 0)
			continue;
		if (p[2].revents && w.serving) {
			log_warn("%s: somebody else unmounted %s", arguments->name, arguments->mountpoint);
			pthread_join(w.loop, NULL);
			status = worker_finish(&w, true) < 0;
			break;
		}
		if (p[1].revents) {
			struct link_message m = {.status = {0}};

			if (w.serving)
				(void)worker_lock(&w, &m, END_LIMIT_NS / 1000000);
			break;
		}
		for (int k = 0; !ends && k < connections; k++) {
			bool closed;

			if (!p[3 + k].revents)
				continue;
			ends = worker_serve(&w, p[3 + k].fd, &closed);
			if (closed) {
				close(p[3 + k].fd);
				p[3 + k--] = p[3 + --connections];
			}
		}
		if (!ends && (p[0].revents & POLLIN)) {
			int fd = link_accept(listener);

			if (fd >= 0)
				p[3 + connections++] = (struct pollfd){.fd = fd, .events = POLLIN};
		}
	}
	unlink(arguments->socket);
	while (connections > 0)
		close(p[3 + --connections].fd);
	close(w.loop_ended);
	return status;
}
