/* worker: orders from tdefsd. How a mount ends: ending.c.
 *
 * The main thread takes the orders and never waits for a disk, so that a lock is always taken. What may wait is done by a thread
 * of its own, one order at a time. Others run the FUSE loop with its helpers, answer what has to wait
 * (deferred.c), seal, scrub and rotate. */
#include "mount/worker_internal.h"

#include "base/io.h"
#include "base/log.h"
#include "base/scorch.h"
#include "mount/sandbox.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#define CONNECTIONS_MAX 8
#define MOUNT_LIMIT_MS 30000
#define MOUNTER_LEAVE_MS 200

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
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += (time_t)(interval / 1000000000);
		until.tv_nsec += (long)(interval % 1000000000);
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_cond_timedwait(&w->changed, &w->lock, &until) == 0 || w->stopping)
			continue;
		pthread_mutex_unlock(&w->lock);
		inode_seal_all(&w->session.inodes);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static int worker_order_rotate(struct worker *w, struct link_message *m)
{
	int rc = w->serving ? volume_rotate_begin(w->v, &m->key, m->wraps, m->wrap_count, m->flag) : -ENOTCONN;

	secret_wipe(&m->key, sizeof(m->key));
	if (w->serving)
		rotate_continue(&w->session.rotate);
	return rc;
}

static int worker_order_rotate_pause(struct worker *w, struct link_message *m)
{
	return w->serving ? rotate_pause(&w->session.rotate, m->flag) : -ENOTCONN;
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
	case ENOSPC:
		return "the store's disk is full: a mount needs a few KiB there, for its header";
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
	struct volume_options options = {.min_epoch = m->min_epoch, .min_clean = m->min_clean, .read_only = a->mount.read_only,
		.report = worker_report, .report_ctx = w};
	int rc = -ENOMEM;

	if (ek)
		*ek = m->key;
	secret_wipe(m, sizeof(*m));
	if (w->v)
		rc = -EALREADY;
	else if (ek)
		rc = volume_open(a->store, ek, &options, &w->v);
	KEY_FREE(ek);
	if (rc < 0) {
		snprintf(m->text, sizeof(m->text), "%s", rc == -EALREADY ? "it is mounted already" : worker_open_error(rc));
		return rc;
	}
	w->session = (struct session){.v = w->v, .options = a->mount, .name = a->name, .device = TAKE_FD(w->device), .ring = w->ring};
	rc = inode_table_init(&w->session.inodes, w->v);
	if (rc == 0)
		rc = deferred_start(&w->session);
	if (rc == 0)
		rc = relief_start(&w->session);
	if (rc == 0)
		rc = device_open(&w->session);
	if (rc == 0)
		rc = mounter_ask(w->mounter.orders, MOUNTER_MOUNT, MOUNT_LIMIT_MS, &w->cancel);
	if (rc < 0) {
		snprintf(m->text, sizeof(m->text), "cannot mount on %s: %s", a->mountpoint, strerror(-rc));
		relief_end(&w->session);
		deferred_end(&w->session);
		inode_table_done(&w->session.inodes);
		if (w->session.se)
			fuse_session_destroy(w->session.se);
		(void)volume_close(w->v);
		w->v = NULL;
		return rc;
	}
	rotate_init(&w->session.rotate, &w->session);
	/* Before anything can move. */
	if (!a->mount.read_only)
		rotate_continue(&w->session.rotate);
	scrubber_init(&w->scrubber, &w->session);
	pthread_create(&w->loop, NULL, worker_loop, w);
	pthread_create(&w->sealer, NULL, worker_sealer, w);
	pthread_mutex_lock(&w->lock);
	w->serving = true;
	pthread_mutex_unlock(&w->lock);
	/* The kernel has spoken to us before anybody is told that the mount is there. */
	CLEANUP_CLOSE int fd = open(a->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		(void)!mounter_ask(w->mounter.orders, MOUNTER_TUNE, MOUNT_LIMIT_MS, &w->cancel);
	if (volume_is_copy(w->v)) {
		snprintf(m->text, sizeof(m->text), "this is a copy of a store that was mounted: what was being written then may be refused, keyctl scrub "
			"names it");
		log_warn("%s: %s", a->name, m->text);
	}
	log_info("%s: mounted on %s, epoch %llu%s", a->name, a->mountpoint, (unsigned long long)w->v->header.epoch,
		w->v->header.unclean_count ? " (there were unclean ends before)" : "");
	return fd < 0 ? -errno : 0;
}

/* ---- orders ---- */

static void worker_status_rotation(struct worker *w, struct link_status *st)
{
	struct rotate *r = &w->session.rotate;

	st->rotating = volume_rotating(w->v);
	st->rotating_data = volume_data_rotating(w->v);
	st->rotate_paused = volume_paused(w->v);
	st->key_version = volume_key_version(w->v);
	st->rotate_error = atomic_load(&r->running) ? 0 : atomic_load(&r->error);
	st->rotate_phase = (uint32_t)atomic_load(&r->phase);
	st->rotate_files = atomic_load(&r->files);
	st->rotate_done = atomic_load(&r->done);
	st->rotate_total = st->rotate_phase == ROTATE_COUNT ? 0 : atomic_load(&r->total);
	st->rotate_encrypted = atomic_load(&r->encrypted);
	st->rotate_ns = atomic_load(&r->running) ? clock_monotonic_ns() - atomic_load(&r->begun_ns) : 0;
	st->rotate_left = atomic_load(&r->left);
	st->rotate_left_ns = rotate_left_ns(r);
	st->rotate_held_ns = atomic_load(&r->held_ns);
}

static void worker_status_volume(struct worker *w, struct link_status *st)
{
	scrubber_status(&w->scrubber, st);
	worker_status_rotation(w, st);
	st->epoch = w->v->header.epoch;
	memcpy(st->uuid, w->v->header.uuid, sizeof(st->uuid));
	st->refused = atomic_load(&w->v->stats.refused);
	st->resealed = atomic_load(&w->v->stats.resealed);
	st->intents = atomic_load(&w->v->stats.intents);
	st->syncs = atomic_load(&w->v->stats.syncs);
	st->read_bytes = atomic_load(&w->v->stats.read_bytes);
	st->written_bytes = atomic_load(&w->v->stats.written_bytes);
	st->poisoned = atomic_load(&w->v->poisoned);
	if (volume_last_unclean(w->v) && !w->v->options.read_only)
		st->in_flux = atomic_load(&w->session.rotate.running) ? LINK_FLUX_LOOKED_AT : LINK_FLUX_KEPT;
	st->open_files = inode_open_files(&w->session.inodes);
	st->rings = ring_queues(w->session.ring);
}

/* What tdefsd has to know of a mount that is over. */
static void worker_status_ended(const struct worker *w, struct link_status *st)
{
	st->epoch = w->ended.epoch;
	memcpy(st->uuid, w->ended.uuid, sizeof(st->uuid));
	st->refused = w->ended.refused;
	st->resealed = w->ended.resealed;
}

static void worker_status(struct worker *w, struct link_status *st)
{
	*st = (struct link_status){.pid = getpid(), .program = TDEFS_VERSION, .memory_locked = sandbox_memory_locked()};
	pthread_mutex_lock(&w->lock);
	st->state = w->serving ? LINK_SERVING : LINK_IDLE;
	st->left_clean = w->left_clean;
	if (w->serving)
		worker_status_volume(w, st);
	else
		worker_status_ended(w, st);
	pthread_mutex_unlock(&w->lock);
}

/* What the order asks for; m->text says in words what went wrong. */
static int order_do(struct worker *w, struct link_message *m)
{
	switch ((enum link_type)m->type) {
	case LINK_START:
		return worker_start(w, m);
	case LINK_REWRAP:
		return w->serving ? volume_rewrap(w->v, m->wraps, m->wrap_count) : -ENOTCONN;
	case LINK_ROTATE:
		return worker_order_rotate(w, m);
	case LINK_ROTATE_PAUSE:
		return worker_order_rotate_pause(w, m);
	case LINK_SCRUB:
		return w->serving ? scrubber_start(&w->scrubber, m->flag & LINK_SCRUB_REPAIR) : -ENOTCONN;
	case LINK_UNMOUNT:
		return w->serving ? worker_unmount(w, m) : 0;
	case LINK_STATUS:
	case LINK_FINDING:
	case LINK_LOCK:
	case LINK_REPLY:
		break;
	}
	return -EPROTO;
}

static void order_reply(struct worker *w, struct link_message *m, int rc)
{
	char text[sizeof(m->text)];

	memcpy(text, m->text, sizeof(text));
	secret_wipe(m, sizeof(*m));
	m->type = LINK_REPLY;
	m->error = rc;
	memcpy(m->text, text, sizeof(text));
	worker_status(w, &m->status);
}

static void *order_run(void *arg)
{
	struct worker *w = arg;
	uint32_t type = w->order.type;
	int rc = order_do(w, &w->order);

	w->order_ends = type == LINK_UNMOUNT ? !w->serving : type == LINK_START && rc < 0 && rc != -EALREADY;
	order_reply(w, &w->order, rc);
	pthread_mutex_lock(&w->lock);
	w->order_running = false;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
	eventfd_write(w->order_done, 1);
	return NULL;
}

/* Begins an order that may wait for the disk; its answer goes to fd. */
static int order_begin(struct worker *w, struct link_message *m, int fd)
{
	if (w->order_fd >= 0)
		return -EBUSY;
	w->order = *m;
	secret_wipe(m, sizeof(*m));
	w->order_running = true;
	int rc = -pthread_create(&w->order_thread, NULL, order_run, w);
	if (rc < 0)
		w->order_running = false;
	else
		w->order_fd = fd;
	return rc;
}

enum served { SERVED_STAY, SERVED_CLOSE, SERVED_BY_ORDER, SERVED_END };

/* One message from fd. */
static enum served worker_serve(struct worker *w, int fd, struct link_message *m)
{
	int rc = link_receive(fd, 10000, m);

	if (rc < 0)
		return SERVED_CLOSE;
	if (m->unknown && m->type != LINK_STATUS && m->type != LINK_UNMOUNT && m->type != LINK_LOCK) {
		order_reply(w, m, -EOPNOTSUPP);
		return link_send(fd, m) < 0 ? SERVED_CLOSE : SERVED_STAY;
	}
	if (m->type == LINK_LOCK || (m->type == LINK_UNMOUNT && m->flag)) {
		uint64_t limit_ms = m->arg ? m->arg : END_LIMIT_MS;

		memset(m->text, 0, sizeof(m->text));
		worker_end(w, limit_ms, m);
		order_reply(w, m, 0);
		return SERVED_END;
	}
	if (m->type == LINK_FINDING) {
		uint64_t number = m->arg;

		*m = (struct link_message){.type = LINK_REPLY};
		pthread_mutex_lock(&w->lock);
		m->flag = w->serving && scrubber_finding(&w->scrubber, number, &m->finding);
		pthread_mutex_unlock(&w->lock);
		return link_send(fd, m) < 0 ? SERVED_CLOSE : SERVED_STAY;
	}
	if (m->type != LINK_STATUS && (m->type != LINK_SCRUB || m->flag)) {
		rc = order_begin(w, m, fd);
		if (rc == 0)
			return SERVED_BY_ORDER;
	}
	order_reply(w, m, rc);
	return link_send(fd, m) < 0 ? SERVED_CLOSE : SERVED_STAY;
}

static void worker_prepare_ring(struct worker *w)
{
	const struct worker_arguments *a = w->arguments;
	int rc = -ENOTSUP;

	if (a->mount.transport == TRANSPORT_DEVICE)
		return;
	if (ring_offered())
		rc = ring_new(w->device, DEVICE_REQUEST_MAX, a->mount.threads, device_serve, &w->session, &w->ring);
	if (rc == -ENOTSUP && a->mount.transport == TRANSPORT_URING)
		log_warn("%s: requests come through /dev/fuse: FUSE over io_uring needs Linux 6.14, and Y in %s", a->name, RING_PARAMETER);
	else if (rc < 0 && rc != -ENOTSUP)
		log_warn("%s: requests come through /dev/fuse: io_uring: %s", a->name, strerror(-rc));
}

/* The place that holds only once, before any key: what the rest needs is open, and the sandbox is shut. */
static int worker_prepare(struct worker *w, int *ret_listener, int *ret_signals)
{
	const struct worker_arguments *a = w->arguments;
	struct mounter_place place = {a->name, a->mountpoint, a->socket, a->mount.read_only};
	pthread_condattr_t attr;
	sigset_t signals;

	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->changed, &attr);
	pthread_condattr_destroy(&attr);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	w->device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (w->device < 0) {
		log_error("%s: /dev/fuse: %s", a->name, strerror(errno));
		return -errno;
	}
	int rc = mounter_start(&place, w->device, &w->mounter);
	if (rc < 0) {
		log_error("%s: no mounter: %s", a->name, strerror(-rc));
		return rc;
	}
	*ret_listener = link_listen(a->socket);
	if (*ret_listener < 0) {
		log_error("%s: cannot listen on %s: %s", a->name, a->socket, strerror(-*ret_listener));
		return *ret_listener;
	}
	*ret_signals = signalfd(-1, &signals, SFD_CLOEXEC);
	w->loop_ended = eventfd(0, EFD_CLOEXEC);
	w->order_done = eventfd(0, EFD_CLOEXEC);
	if (*ret_signals < 0 || w->loop_ended < 0 || w->order_done < 0)
		return -errno;
	worker_prepare_ring(w);
	scorch_prepare();
	sandbox_enter(a->store);
	return 0;
}

int worker_run(const struct worker_arguments *arguments)
{
	struct worker w = {.arguments = arguments, .order_fd = -1};
	struct pollfd p[4 + CONNECTIONS_MAX];
	struct link_message m = {0};
	int connections = 0, listener = -1, signal_fd = -1, last_fd = -1, status = 0;
	bool ends = false;
	eventfd_t count;

	if (worker_prepare(&w, &listener, &signal_fd) < 0)
		return 1;
	while (!ends) {
		p[0] = (struct pollfd){.fd = listener, .events = connections < CONNECTIONS_MAX ? POLLIN : 0};
		p[1] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
		p[2] = (struct pollfd){.fd = w.order_done, .events = POLLIN};
		/* The order under way may be what ends the loop. */
		p[3] = (struct pollfd){.fd = w.order_fd < 0 ? w.loop_ended : -1, .events = POLLIN};
		if (poll(p, (nfds_t)(4 + connections), -1) < 0)
			continue;
		if (p[2].revents && eventfd_read(w.order_done, &count) == 0) {
			pthread_join(w.order_thread, NULL);
			int fd = TAKE_FD(w.order_fd);

			if (w.order_ends) {
				m = w.order;
				last_fd = fd;
				break;
			}
			if (link_send(fd, &w.order) < 0)
				close(fd);
			else
				p[4 + connections++] = (struct pollfd){.fd = fd, .events = POLLIN};
			continue;
		}
		if (p[3].revents) {
			log_warn("%s: somebody else unmounted %s", arguments->name, arguments->mountpoint);
			worker_end(&w, END_LIMIT_MS, &m);
			status = m.text[0] != '\0';
			break;
		}
		if (p[1].revents) {
			worker_end(&w, END_LIMIT_MS, &m);
			break;
		}
		for (int k = 0; !ends && k < connections; k++) {
			if (!p[4 + k].revents)
				continue;
			enum served served = worker_serve(&w, p[4 + k].fd, &m);
			ends = served == SERVED_END;
			if (ends)
				last_fd = p[4 + k].fd;
			if (served == SERVED_CLOSE)
				close(p[4 + k].fd);
			if (served == SERVED_CLOSE || served == SERVED_BY_ORDER)
				p[4 + k--] = p[4 + --connections];
		}
		if (!ends && (p[0].revents & POLLIN)) {
			int fd = link_accept(listener);

			if (fd >= 0)
				p[4 + connections++] = (struct pollfd){.fd = fd, .events = POLLIN};
		}
	}
	(void)!mounter_ask(w.mounter.end, MOUNTER_LEAVE, MOUNTER_LEAVE_MS, NULL);
	/* A thread that hangs keeps descriptors open: whoever else waits for an answer is told that none will come. */
	if (w.order_fd >= 0)
		shutdown(w.order_fd, SHUT_RDWR);
	for (int k = 0; k < connections; k++)
		if (p[4 + k].fd != last_fd)
			shutdown(p[4 + k].fd, SHUT_RDWR);
	uint8_t last[LINK_SIZE_MAX];
	scorch(last_fd, last, link_encode(&m, last), status);
}
