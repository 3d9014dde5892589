/* supervisor: see supervisor.h. */
#include "control/supervisor.h"

#include "base/log.h"
#include "base/patience.h"
#include "control/hook.h"
#include "control/witness.h"
#include "tenant/claim.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define START_LIMIT_MS 60000
#define STATUS_LIMIT_MS 5000
#define USERS_LIMIT_MS 4000
#define DETACH_LIMIT_MS 5000
#define LOCK_SLACK_MS 3000 /* over lock.timeout, for the way there and back */
#define KILL_LIMIT_MS 5000

static void worker_socket(const struct supervisor *s, const char *name, char ret[1100])
{
	snprintf(ret, 1100, "%s/%s.worker", s->config->runtime_dir, name);
}

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

static int entry_watch(struct supervisor *s, struct supervised *e, pid_t pid)
{
	util_closep(&e->pidfd);
	e->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (e->pidfd < 0)
		return -errno;
	e->pid = pid;
	e->started = clock_realtime_s();
	e->retry_at_ns = 0;
	eventfd_write(s->wake, 1);
	return 0;
}

int supervisor_call(struct supervisor *s, const char *name, int timeout_ms, struct link_message *m)
{
	char path[1100];

	worker_socket(s, name, path);
	tenant_let_go(s->tenant);
	CLEANUP_CLOSE int fd = link_connect(path);
	int rc = fd < 0 ? fd : link_call(fd, timeout_ms, m);
	tenant_take_again(s->tenant);
	return rc;
}

/* Whether the worker ended before limit_ms were over. */
static bool entry_ended(struct supervisor *s, const struct supervised *e, int limit_ms)
{
	struct pollfd p = {.fd = fcntl(e->pidfd, F_DUPFD_CLOEXEC, 0), .events = POLLIN};

	tenant_let_go(s->tenant);
	bool ended = poll(&p, 1, limit_ms) > 0;
	tenant_take_again(s->tenant);
	util_closep(&p.fd);
	return ended;
}

/* ---- a mount without a worker ---- */

static int detach_run(void *mountpoint)
{
	return umount2(mountpoint, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}

/* What a worker that died left; the way there may lead over a dead disk. */
static void mount_detach(struct supervisor *s, const char *mountpoint)
{
	char *copy = users_device(mountpoint) ? strdup(mountpoint) : NULL;

	if (!copy)
		return;
	tenant_let_go(s->tenant);
	int rc = patience(detach_run, copy, free, DETACH_LIMIT_MS);
	tenant_take_again(s->tenant);
	if (rc < 0)
		log_warn("%s: the dead mount was not detached: %s", mountpoint, strerror(-rc));
	if (rc != -ETIMEDOUT)
		free(copy);
}

/* ---- starting ---- */

static pid_t worker_spawn(const struct supervisor *s, const struct registry_env *env, const char *socket)
{
	char threads[16], spin[16], interval[32], rate[32];

	snprintf(threads, sizeof(threads), "%d", s->config->threads);
	snprintf(spin, sizeof(spin), "%d", s->config->spin_us);
	duration_format(s->config->seal_interval_ns, interval, sizeof(interval));
	snprintf(rate, sizeof(rate), "%llu", (unsigned long long)s->config->rotate_max_rate);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	/* Between fork and exec: only what signal-safety(7) allows. */
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	int null = open("/dev/null", O_RDWR);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	execl(s->worker, s->worker, "--name", env->name, "--store", env->store, "--mountpoint", env->mountpoint, "--socket", socket,
		"--threads", threads, "--transport", s->config->transport, "--spin-us", spin, "--seal-interval", interval, "--rotate-max-rate", rate, (char *)NULL);
	_exit(127);
}

/* Until the new worker listens, ends, or START_LIMIT_MS are over. */
static int worker_wait(const char *socket, int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	uint64_t end = clock_monotonic_ns() + START_LIMIT_MS * UINT64_C(1000000);

	while (clock_monotonic_ns() < end) {
		int fd = link_connect(socket);

		if (fd >= 0)
			return fd;
		if (poll(&p, 1, 10) > 0)
			return -ECHILD;
	}
	return -ETIMEDOUT;
}

static void worker_reap(struct supervised *e, char *ret_reason, size_t size)
{
	siginfo_t info = {0};

	if (waitid(P_PIDFD, (id_t)e->pidfd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
		snprintf(ret_reason, size, "it ended (how is unknown: another tdefsd had started it)");
	else if (info.si_code == CLD_EXITED)
		snprintf(ret_reason, size, info.si_status == 127 ? "tdefs-mount could not be started" : "it exited with status %d",
			info.si_status);
	else
		snprintf(ret_reason, size, "it was killed by signal %d (%s)", info.si_status, strsignal(info.si_status));
	util_closep(&e->pidfd);
	e->pid = 0;
}

static int ops_start(void *ctx, const struct registry_env *env, const struct env_key *ek, uint64_t *ret_epoch, char *text)
{
	struct supervisor *s = ctx;
	struct supervised *e = entry_get(s, env);
	char socket[1100], reason[256];
	struct link_message m = {.type = LINK_START, .start = {.key = *ek, .min_epoch = env->epoch, .min_clean = env->clean}};
	int rc = e ? 0 : -ENOMEM, pidfd = -1;

	if (e && e->left) {
		secret_wipe(&m, sizeof(m));
		snprintf(text, 480, "its last worker (pid %d) still hangs in the kernel: does the store's disk answer?", (int)e->pid);
		return -EBUSY;
	}
	worker_socket(s, env->name, socket);
	/* What a dead worker left in the way. */
	unlink(socket);
	if (rc == 0) {
		pid_t pid = worker_spawn(s, env, socket);

		rc = pid < 0 ? -errno : entry_watch(s, e, pid);
	}
	if (rc == 0)
		pidfd = fcntl(e->pidfd, F_DUPFD_CLOEXEC, 0);
	tenant_let_go(s->tenant);
	CLEANUP_CLOSE int fd = rc == 0 ? worker_wait(socket, pidfd) : rc;
	rc = fd < 0 ? fd : link_call(fd, START_LIMIT_MS, &m);
	tenant_take_again(s->tenant);
	util_closep(&pidfd);
	snprintf(text, 480, "%.479s", m.type == LINK_REPLY ? m.text : "");
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
			worker_reap(e, reason, sizeof(reason));
		if (!text[0])
			snprintf(text, 480, e->left ? "its worker hangs in the kernel" : "its worker: %s", reason);
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

/* The lock order to the worker, and its end one way or the other; no lock is held. text: what was lost. */
static bool worker_lock(const struct supervisor *s, const struct supervised *e, int pidfd, struct users *ret_users,
	struct link_status *ret_status, char *text)
{
	uint64_t limit_ms = s->config->lock_timeout_ns / 1000000;
	struct link_message m = {.type = LINK_LOCK, .arg = limit_ms};
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	char socket[1100], hook[160] = "", lost[480] = "";

	hook_run(&(struct hook){s->config->on_lock, s->config->on_lock_user, s->config->on_lock_timeout_ns}, e->name, e->mountpoint, hook);
	users_find(e->mountpoint, USERS_LIMIT_MS, ret_users);
	worker_socket(s, e->name, socket);
	CLEANUP_CLOSE int fd = link_connect(socket);
	int rc = fd < 0 ? fd : link_call(fd, (int)limit_ms + LOCK_SLACK_MS, &m);
	bool answered = m.type == LINK_REPLY, ended = poll(&p, 1, answered ? 1000 : 0) > 0;
	*ret_status = answered ? m.status : (struct link_status){0};
	if (answered) {
		snprintf(lost, sizeof(lost), "%s", m.text);
	} else if (!ended) {
		log_warn("%s: its worker does not answer (%s) and is killed", e->name, strerror(-rc));
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
		ended = poll(&p, 1, KILL_LIMIT_MS) > 0;
		snprintf(lost, sizeof(lost), "its worker did not answer and was killed: what was not synced may be lost, and its memory was not wiped");
	}
	if (!ended)
		log_warn("%s: its worker hangs in the kernel and is left behind%s", e->name, answered ? ", without its keys" : "");
	snprintf(text, 480, "%s%s%.300s", hook, hook[0] && lost[0] ? "; " : "", lost);
	return ended;
}

static int ops_lock(void *ctx, const struct registry_env *env, struct users *ret_users, char *text)
{
	struct supervisor *s = ctx;
	struct supervised *e = entry_find(s, env->name);

	*ret_users = (struct users){0};
	while (e && e->locking) {
		pthread_cond_wait(&s->tenant->unclaimed, s->lock);
		e = entry_find(s, env->name);
	}
	if (!e || e->pid <= 0 || e->left)
		return 0;
	e->locking = true;
	const struct supervised copy = *e;
	CLEANUP_CLOSE int pidfd = fcntl(e->pidfd, F_DUPFD_CLOEXEC, 0);
	tenant_let_go(s->tenant);
	struct link_status status;
	bool ended = worker_lock(s, &copy, pidfd, ret_users, &status, text);
	tenant_take_again(s->tenant);
	worker_told(s, env->name, &status);
	/* Who had the claim may have taken it away by now. */
	e = entry_find(s, env->name);
	if (e && e->pid == copy.pid) {
		e->locking = false;
		e->left = !ended;
	}
	pthread_cond_broadcast(&s->tenant->unclaimed);
	return 0;
}

static int worker_unmount(struct supervisor *s, struct supervised *e, struct users *ret_users, char *text)
{
	struct link_message m = {.type = LINK_UNMOUNT};
	int rc = supervisor_call(s, e->name, (int)(s->config->lock_timeout_ns / 1000000) + START_LIMIT_MS, &m);

	snprintf(text, 480, "%.479s", m.type == LINK_REPLY ? m.text : "");
	if (m.type == LINK_REPLY)
		worker_told(s, e->name, &m.status);
	if (rc == -EBUSY && m.type == LINK_REPLY) {
		char mountpoint[sizeof(e->mountpoint)];

		strcpy(mountpoint, e->mountpoint);
		tenant_let_go(s->tenant);
		users_find(mountpoint, USERS_LIMIT_MS, ret_users);
		tenant_take_again(s->tenant);
		return rc;
	}
	if (!entry_ended(s, e, m.type == LINK_REPLY ? START_LIMIT_MS : 0)) {
		if (!text[0])
			snprintf(text, 480, "its worker does not answer: keyctl env unmount --force does without");
		return rc < 0 ? rc : -ETIMEDOUT;
	}
	return m.type == LINK_REPLY ? rc : 0;
}

static int ops_stop(void *ctx, const struct registry_env *env, bool force, struct users *ret_users, char *text)
{
	struct supervisor *s = ctx;
	struct supervised *e = entry_find(s, env->name);
	char socket[1100], reason[256];
	int rc = 0;

	*ret_users = (struct users){0};
	if (e && force)
		rc = ops_lock(s, env, ret_users, text);
	else if (e && e->pid > 0 && !e->left)
		rc = worker_unmount(s, e, ret_users, text);
	e = entry_find(s, env->name);
	if (e && e->pid > 0 && !e->left && !entry_ended(s, e, 0))
		return rc;
	if (e && e->pid > 0 && !e->left)
		worker_reap(e, reason, sizeof(reason));
	mount_detach(s, env->mountpoint);
	worker_socket(s, env->name, socket);
	unlink(socket);
	if (e && !e->left)
		entry_remove(s, e);
	return rc;
}

static int ops_rewrap(void *ctx, const char *name, const struct env_wrap *wraps, size_t n, char *text)
{
	struct link_message m = {.type = LINK_REWRAP, .rewrap.count = (uint32_t)n};

	if (n > ENV_WRAPS_MAX)
		return -EINVAL;
	memcpy(m.rewrap.wraps, wraps, n * sizeof(*wraps));
	int rc = supervisor_call(ctx, name, START_LIMIT_MS, &m);
	snprintf(text, 480, "%.479s", m.type == LINK_REPLY ? m.text : "");
	return rc;
}

static int ops_rotate(void *ctx, const char *name, const struct env_key *ek, const struct env_wrap *wraps, size_t n, bool data, char *text)
{
	struct link_message m = {.type = LINK_ROTATE, .flag = data, .rotate = {.key = *ek, .count = (uint32_t)n}};

	if (n > ENV_WRAPS_MAX)
		return -EINVAL;
	memcpy(m.rotate.wraps, wraps, n * sizeof(*wraps));
	int rc = supervisor_call(ctx, name, START_LIMIT_MS, &m);
	snprintf(text, 480, "%.479s", m.type == LINK_REPLY ? m.text : "");
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
	worker_reap(e, e->reason, sizeof(e->reason));
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
		worker_reap(e, e->reason, sizeof(e->reason));
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

static bool take_back_one(struct supervisor *s, const struct registry_env *env)
{
	struct link_message m = {.type = LINK_STATUS};
	struct supervised *e;
	int rc = supervisor_call(s, env->name, STATUS_LIMIT_MS, &m);

	if (rc == 0 && m.status.state == LINK_SERVING) {
		e = entry_get(s, env);
		if (e && entry_watch(s, e, m.status.pid) == 0) {
			log_info("%s: taken back, worker %d", env->name, m.status.pid);
			return true;
		}
	} else if (rc == 0) {
		/* It never got its key: the tdefsd before us died in between. */
		m = (struct link_message){.type = LINK_UNMOUNT};
		(void)!supervisor_call(s, env->name, STATUS_LIMIT_MS, &m);
	}
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
