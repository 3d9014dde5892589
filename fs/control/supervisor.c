/* supervisor: see supervisor.h. */
#include "control/supervisor.h"

#include "base/log.h"
#include "control/process.h"
#include "control/witness.h"
#include "tenant/claim.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define START_LIMIT_MS 60000
#define STATUS_LIMIT_MS 5000

static struct supervised *entry_find(const struct supervisor *s, const char *name)
{
	struct supervised *e = s->list;

	while (e && strcmp(e->name, name) != 0)
		e = e->next;
	return e;
}

const struct supervised *supervisor_find(const struct supervisor *s, const char *name)
{
	return entry_find(s, name);
}

static struct supervised *entry_get(struct supervisor *s, const struct registry_env *env)
{
	struct supervised *e = entry_find(s, env->name);

	if (!e && (e = calloc(1, sizeof(*e)))) {
		*e = (struct supervised){.next = s->list, .pidfd = -1};
		strcpy(e->name, env->name);
		s->list = e;
	}
	if (e)
		strcpy(e->mountpoint, env->mountpoint);
	return e;
}

static void entry_remove(struct supervisor *s, struct supervised *e)
{
	struct supervised **p = &s->list;

	while (*p != e)
		p = &(*p)->next;
	*p = e->next;
	util_closep(&e->pidfd);
	free(e);
	eventfd_write(s->wake, 1);
}

/* pidfd becomes the entry's. */
static void entry_watch(struct supervisor *s, struct supervised *e, pid_t pid, int pidfd)
{
	util_closep(&e->pidfd);
	e->pidfd = pidfd;
	e->pid = pid;
	e->started = clock_realtime_s();
	e->retry_at_ns = 0;
	eventfd_write(s->wake, 1);
}

int supervisor_call(struct supervisor *s, const char *name, int timeout_ms, struct link_message *m)
{
	char path[PROCESS_SOCKET_MAX];

	process_socket(s->config, name, path);
	tenant_let_go(s->tenant);
	CLEANUP_CLOSE int fd = link_connect(path);
	int rc = fd < 0 ? fd : link_call(fd, timeout_ms, m);
	tenant_take_again(s->tenant);
	const struct supervised *e = entry_find(s, name);
	if (link_foreign(rc) && (!e || e->pid <= 0 || process_ended(e->pidfd, 0)))
		return -ESRCH;
	bool unknown = rc == -EOPNOTSUPP && m->version != link_version;
	if (unknown || link_foreign(rc))
		snprintf(m->text, sizeof(m->text), "its worker is of another version of tdefs, %s: it can do that once it is unmounted and mounted again",
			unknown ? "which does not know this order" : "whose language this tdefsd does not speak");
	return rc;
}

/* Whether the worker ended before limit_ms were over. */
static bool entry_ended(struct supervisor *s, const struct supervised *e, int limit_ms)
{
	CLEANUP_CLOSE int pidfd = fcntl(e->pidfd, F_DUPFD_CLOEXEC, 0);

	tenant_let_go(s->tenant);
	bool ended = process_ended(pidfd, limit_ms);
	tenant_take_again(s->tenant);
	return ended;
}

static bool entry_reap(struct supervised *e, char *ret_reason, size_t size)
{
	bool usage = process_reap(e->pidfd, ret_reason, size);

	util_closep(&e->pidfd);
	e->pid = 0;
	return usage;
}

/* What a worker that died left. */
static void mount_detach(struct supervisor *s, const char *mountpoint)
{
	tenant_let_go(s->tenant);
	process_detach(mountpoint);
	tenant_take_again(s->tenant);
}

/* ---- starting ---- */

/* A process that listens: a connection, which the caller owns, and *ret_pidfd likewise. */
static int entry_begin(struct supervisor *s, struct supervised *e, const struct registry_env *env, const char *socket, bool bare, int *ret_pidfd)
{
	pid_t pid = process_spawn(s->config, s->worker, env, socket, bare);
	int pidfd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);

	if (pid < 0 || pidfd < 0)
		return pid < 0 ? pid : -errno;
	entry_watch(s, e, pid, fcntl(pidfd, F_DUPFD_CLOEXEC, 0));
	util_closep(ret_pidfd);
	*ret_pidfd = pidfd;
	tenant_let_go(s->tenant);
	int fd = process_wait(socket, pidfd, START_LIMIT_MS);
	tenant_take_again(s->tenant);
	return fd;
}

static int ops_start(void *ctx, const struct registry_env *env, const struct env_key *ek, uint64_t *ret_epoch, char *text)
{
	struct supervisor *s = ctx;
	struct supervised *e = entry_get(s, env);
	char socket[PROCESS_SOCKET_MAX], reason[256];
	struct link_message m = {.type = LINK_START, .key = *ek, .min_epoch = env->epoch, .min_clean = env->clean};
	CLEANUP_CLOSE int pidfd = -1;

	if (e && e->left) {
		secret_wipe(&m, sizeof(m));
		snprintf(text, 480, "its last worker (pid %d) still hangs in the kernel: does the store's disk answer?", (int)e->pid);
		return -EBUSY;
	}
	process_socket(s->config, env->name, socket);
	/* What a dead worker left in the way. */
	unlink(socket);
	CLEANUP_CLOSE int fd = e ? entry_begin(s, e, env, socket, false, &pidfd) : -ENOMEM;
	if (fd == -ECHILD && entry_reap(e, reason, sizeof(reason))) {
		log_warn("%s: %s does not know all settings that this tdefsd gives it: it is started without", env->name, s->worker);
		fd = entry_begin(s, e, env, socket, true, &pidfd);
	}
	tenant_let_go(s->tenant);
	int rc = fd < 0 ? fd : link_call(fd, START_LIMIT_MS, &m);
	if (link_foreign(rc) && !process_ended(pidfd, 1000))
		snprintf(m.text, sizeof(m.text), "%.300s is of another version, whose language this tdefsd does not speak", s->worker);
	tenant_take_again(s->tenant);
	snprintf(text, 480, "%.479s", m.text);
	if (rc == 0)
		*ret_epoch = m.status.epoch;
	secret_wipe(&m, sizeof(m));
	if (rc < 0 && e && e->pidfd >= 0) {
		/* A worker that could not start ends by itself; one that hangs is ended. */
		if (!entry_ended(s, e, STATUS_LIMIT_MS)) {
			kill(e->pid, SIGKILL);
			e->left = !entry_ended(s, e, STATUS_LIMIT_MS);
		}
		if (!e->left)
			entry_reap(e, reason, sizeof(reason));
		if (!text[0])
			snprintf(text, 480, e->left ? "its worker hangs in the kernel" : "its worker: %s", reason);
		unlink(socket);
	} else if (rc == -ECHILD && !text[0]) {
		snprintf(text, 480, "its worker: %s", reason);
		unlink(socket);
	}
	if (rc < 0 && e && !e->left && e->restarts == 0)
		entry_remove(s, e);
	return rc;
}

static bool ops_alive(void *ctx, const char *name)
{
	const struct supervised *e = supervisor_find(ctx, name);

	return e && e->pid > 0 && !e->left;
}

/* What a worker says at its end. The header that was left behind says clean: one of that epoch that does not is an old copy from
 * here on. */
static void worker_told(struct supervisor *s, const char *name, const struct link_status *status)
{
	int rc = status->left_clean ? registry_env_set_clean(s->tenant->registry, name) : 0;

	if (rc < 0)
		log_error("%s: the registry: %s", name, strerror(-rc));
	witness_note(s->tenant, name, status);
}

/* ---- stopping ---- */

/* A worker that is to end: known by copies, for its entry may be taken away while the big lock is let go. */
struct leaving {
	struct supervised copy;
	char socket[PROCESS_SOCKET_MAX];
	struct process process;
	struct link_status status; /* what it said at last */
};

static void leaving_begin(struct supervisor *s, const struct supervised *e, struct leaving *ret)
{
	ret->copy = *e;
	process_socket(s->config, e->name, ret->socket);
	ret->process = (struct process){ret->copy.name, ret->copy.mountpoint, ret->socket, fcntl(e->pidfd, F_DUPFD_CLOEXEC, 0)};
	tenant_let_go(s->tenant);
}

static void leaving_end(struct supervisor *s, struct leaving *l)
{
	tenant_take_again(s->tenant);
	util_closep(&l->process.pidfd);
	worker_told(s, l->copy.name, &l->status);
}

static int ops_lock(void *ctx, const struct registry_env *env, struct users *ret_users, char *text)
{
	struct supervisor *s = ctx;
	struct supervised *e = entry_find(s, env->name);
	struct leaving l;

	*ret_users = (struct users){0};
	while (e && e->locking) {
		pthread_cond_wait(&s->tenant->unclaimed, s->lock);
		e = entry_find(s, env->name);
	}
	if (!e || e->pid <= 0 || e->left)
		return 0;
	e->locking = true;
	leaving_begin(s, e, &l);
	bool ended = process_lock(s->config, &l.process, ret_users, &l.status, text);
	leaving_end(s, &l);
	/* Who had the claim may have taken it away by now. */
	e = entry_find(s, env->name);
	if (e && (e->pid == l.copy.pid || e->pid <= 0))
		e->locking = false;
	if (e && e->pid == l.copy.pid)
		e->left = !ended;
	pthread_cond_broadcast(&s->tenant->unclaimed);
	return 0;
}

static int entry_unmount(struct supervisor *s, const struct supervised *e, struct users *ret_users, char *text)
{
	struct leaving l;

	leaving_begin(s, e, &l);
	int rc = process_unmount(s->config, &l.process, ret_users, &l.status, text);
	leaving_end(s, &l);
	return rc;
}

static int ops_stop(void *ctx, const struct registry_env *env, bool force, struct users *ret_users, char *text)
{
	struct supervisor *s = ctx;
	struct supervised *e = entry_find(s, env->name);
	char socket[PROCESS_SOCKET_MAX], reason[256];
	int rc = 0;

	*ret_users = (struct users){0};
	if (e && force)
		rc = ops_lock(s, env, ret_users, text);
	else if (e && e->pid > 0 && !e->left)
		rc = entry_unmount(s, e, ret_users, text);
	e = entry_find(s, env->name);
	if (e && e->pid > 0 && !e->left && !entry_ended(s, e, 0))
		return rc;
	if (e && e->pid > 0 && !e->left)
		entry_reap(e, reason, sizeof(reason));
	mount_detach(s, env->mountpoint);
	process_socket(s->config, env->name, socket);
	unlink(socket);
	if (e && !e->left)
		entry_remove(s, e);
	return rc;
}

static int ops_rewrap(void *ctx, const char *name, const struct env_wrap *wraps, size_t n, char *text)
{
	struct link_message m = {.type = LINK_REWRAP, .wrap_count = (uint32_t)n};

	if (n > ENV_WRAPS_MAX)
		return -EINVAL;
	memcpy(m.wraps, wraps, n * sizeof(*wraps));
	int rc = supervisor_call(ctx, name, START_LIMIT_MS, &m);
	snprintf(text, 480, "%.479s", m.text);
	return rc;
}

static int ops_rotate(void *ctx, const char *name, const struct env_key *ek, const struct env_wrap *wraps, size_t n, bool data, char *text)
{
	struct link_message m = {.type = LINK_ROTATE, .flag = data, .key = *ek, .wrap_count = (uint32_t)n};

	if (n > ENV_WRAPS_MAX)
		return -EINVAL;
	memcpy(m.wraps, wraps, n * sizeof(*wraps));
	int rc = supervisor_call(ctx, name, START_LIMIT_MS, &m);
	snprintf(text, 480, "%.479s", m.text);
	secret_wipe(&m, sizeof(m));
	return rc;
}

/* ---- watching ---- */

static void entry_died(struct supervisor *s, struct supervised *e)
{
	char mountpoint[sizeof(e->mountpoint)];
	CLEANUP(claim_done) struct claim claim = {0};
	struct refusal refusal;

	/* Nobody has it: supervisor_watch looked. */
	(void)!claim_take(s->tenant, e->name, "is being cleared away", &claim, &refusal);
	entry_reap(e, e->reason, sizeof(e->reason));
	log_error("%s: its worker died: %s", e->name, e->reason);
	if (e->restarts < s->config->restart_limit) {
		uint64_t delay = s->config->restart_delay_ns << MIN(e->restarts, 8);

		e->retry_at_ns = clock_monotonic_ns() + delay;
	} else {
		log_error("%s: gave up after %d restarts: keyctl env mount %s tries again", e->name, e->restarts, e->name);
	}
	strcpy(mountpoint, e->mountpoint);
	mount_detach(s, mountpoint);
}

struct retry {
	struct supervisor *supervisor;
	char name[64];
};

/* In a thread of its own: a start may hang for long. */
static void *retry_run(void *arg)
{
	CLEANUP_FREE struct retry *r = arg;
	struct supervisor *s = r->supervisor;
	struct refusal refusal = {0};

	pthread_mutex_lock(s->lock);
	int rc = environment_resume(s->tenant, r->name, &refusal);
	struct supervised *e = entry_find(s, r->name);
	if (rc == 0) {
		log_info("%s: mounted again", r->name);
	} else if (e) {
		log_error("%s: could not be mounted again: %s", r->name, refusal.text);
		if (e->restarts < s->config->restart_limit)
			e->retry_at_ns = clock_monotonic_ns() + (s->config->restart_delay_ns << MIN(e->restarts, 8));
		eventfd_write(s->wake, 1);
	}
	pthread_mutex_unlock(s->lock);
	return NULL;
}

static void entry_retry(struct supervisor *s, struct supervised *e)
{
	struct retry *r = malloc(sizeof(*r));
	pthread_t thread;

	e->retry_at_ns = 0;
	e->restarts++;
	if (!r)
		return;
	r->supervisor = s;
	strcpy(r->name, e->name);
	if (pthread_create(&thread, NULL, retry_run, r) == 0)
		pthread_detach(thread);
	else
		free(r);
}

/* What has to be done now for one entry. Whether anything was: the list may be another one then. */
static bool entry_look(struct supervisor *s, struct supervised *e, uint64_t now)
{
	struct pollfd p = {.fd = e->pidfd, .events = POLLIN};

	if (e->pid > 0 && poll(&p, 1, 0) > 0) {
		if (!e->left) {
			entry_died(s, e);
			return true;
		}
		entry_reap(e, e->reason, sizeof(e->reason));
		log_info("%s: its last worker has ended", e->name);
		entry_remove(s, e);
		return true;
	}
	if (e->retry_at_ns && e->retry_at_ns <= now) {
		entry_retry(s, e);
		return true;
	}
	return false;
}

void *supervisor_watch(void *arg)
{
	struct supervisor *s = arg;

	pthread_setname_np(pthread_self(), "watch");
	pthread_mutex_lock(s->lock);
	while (!s->stopping) {
		struct pollfd p[1024] = {{.fd = s->wake, .events = POLLIN}};
		nfds_t n = 1;
		uint64_t now = clock_monotonic_ns(), next = UINT64_MAX;
		struct supervised *e = s->list;

		while (e) {
			/* Whoever works on it sees to its end as well. */
			if (!e->locking && !claim_find(s->tenant, e->name)) {
				if (entry_look(s, e, now)) {
					e = s->list;
					continue;
				}
				if (e->pid > 0 && n < ARRAY_LEN(p))
					p[n++] = (struct pollfd){.fd = e->pidfd, .events = POLLIN};
				if (e->retry_at_ns)
					next = MIN(next, e->retry_at_ns);
			}
			e = e->next;
		}
		int timeout = next == UINT64_MAX ? -1 : (int)((next > now ? next - now : 0) / 1000000 + 1);
		pthread_mutex_unlock(s->lock);
		poll(p, n, timeout);
		eventfd_t value;
		if (p[0].revents)
			eventfd_read(s->wake, &value);
		pthread_mutex_lock(s->lock);
	}
	pthread_mutex_unlock(s->lock);
	return NULL;
}

static void ops_released(void *ctx)
{
	const struct supervisor *s = ctx;

	eventfd_write(s->wake, 1);
}

/* ---- the start and the end of tdefsd ---- */

/* Whether a worker serves it. */
static bool take_back_one(struct supervisor *s, const struct registry_env *env)
{
	struct link_message m = {.type = LINK_STATUS};
	struct supervised *e = NULL;
	char socket[PROCESS_SOCKET_MAX];
	pid_t pid = 0;

	process_socket(s->config, env->name, socket);
	int pidfd = process_find(socket, &pid);
	if (pidfd >= 0 && (e = entry_get(s, env)))
		entry_watch(s, e, pid, pidfd);
	else
		util_closep(&pidfd);
	int rc = e ? supervisor_call(s, env->name, STATUS_LIMIT_MS, &m) : -ENOENT;
	if (rc == 0 && m.status.state != LINK_SERVING) {
		/* It never got its key: the tdefsd before us died in between. */
		m = (struct link_message){.type = LINK_UNMOUNT};
		(void)!supervisor_call(s, env->name, STATUS_LIMIT_MS, &m);
		(void)!entry_ended(s, e, STATUS_LIMIT_MS);
	} else if (e && !entry_ended(s, e, 0)) {
		if (rc == 0)
			log_info("%s: taken back, worker %d%s", env->name, (int)pid, m.version == link_version ? "" : ", of another version");
		else if (link_foreign(rc))
			log_warn("%s: taken back, worker %d, of another version, whose language this tdefsd does not speak: it can be locked and "
				 "unmounted only", env->name, (int)pid);
		else
			log_warn("%s: taken back, worker %d, which does not answer: %s", env->name, (int)pid, strerror(-rc));
		return true;
	}
	if (e)
		entry_remove(s, e);
	mount_detach(s, env->mountpoint);
	return false;
}

void supervisor_take_back(struct supervisor *s)
{
	CLEANUP_FREE struct registry_env *list = NULL;
	struct users users;
	struct refusal refusal = {0};
	char text[480];
	size_t n = 0;
	int rc = registry_env_list(s->tenant->registry, &list, &n);

	if (rc < 0)
		log_error("the registry: %s", strerror(-rc));
	for (size_t k = 0; k < n; k++) {
		bool taken = take_back_one(s, &list[k]);

		if (taken && list[k].state != ENV_MOUNTED) {
			log_info("%s: is %s, but a worker served it still", list[k].name, env_state_name(list[k].state));
			(void)!ops_stop(s, &list[k], true, &users, text);
		} else if (!taken && list[k].state == ENV_MOUNTED) {
			rc = environment_resume(s->tenant, list[k].name, &refusal);
			if (rc < 0) {
				struct supervised *e = entry_get(s, &list[k]);

				log_error("%s: could not be mounted: %s", list[k].name, refusal.text);
				if (e)
					snprintf(e->reason, sizeof(e->reason), "%.255s", refusal.text);
			}
		}
	}
}

void supervisor_stop_all(struct supervisor *s)
{
	while (s->list) {
		struct registry_env env = {0};
		struct users users;
		char text[480] = "";

		strcpy(env.name, s->list->name);
		strcpy(env.mountpoint, s->list->mountpoint);
		if (ops_stop(s, &env, true, &users, text) < 0)
			log_warn("%s: %s", env.name, text);
		if (s->list && strcmp(s->list->name, env.name) == 0)
			entry_remove(s, s->list);
	}
}

int supervisor_init(struct supervisor *s, const struct config *config, struct tenant *tenant, pthread_mutex_t *lock)
{
	ssize_t n;

	*s = (struct supervisor){.config = config, .tenant = tenant, .lock = lock, .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (s->wake < 0)
		return -errno;
	tenant->workers = (struct worker_ops){ops_start, ops_lock, ops_stop, ops_alive, ops_rewrap, ops_rotate, ops_released, s};
	snprintf(s->worker, sizeof(s->worker), "%s", config->worker);
	if (!s->worker[0]) {
		n = readlink("/proc/self/exe", s->worker, sizeof(s->worker) - 16);
		if (n < 0)
			return -errno;
		s->worker[n] = '\0';
		strcpy(strrchr(s->worker, '/'), "/tdefs-mount");
		/* Installed, it is in the library directory. */
		if (access(s->worker, X_OK) < 0)
			snprintf(s->worker, sizeof(s->worker), "%s", TDEFS_LIBEXEC "/tdefs-mount");
	}
	return 0;
}

void supervisor_done(struct supervisor *s)
{
	while (s->list)
		entry_remove(s, s->list);
	util_closep(&s->wake);
}
