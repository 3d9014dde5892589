/* supervisor: see supervisor.h. */
#include "control/supervisor.h"

#include "base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#define START_LIMIT_MS 60000
#define STATUS_LIMIT_MS 5000
#define USERS_LIMIT_MS 2000

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
	CLEANUP_CLOSE int fd = link_connect(path);
	return fd < 0 ? fd : link_call(fd, timeout_ms, m);
}

/* ---- starting ---- */

static pid_t worker_spawn(const struct supervisor *s, const struct registry_env *env, const char *socket)
{
	char threads[16], interval[32];

	snprintf(threads, sizeof(threads), "%d", s->config->threads);
	duration_format(s->config->seal_interval_ns, interval, sizeof(interval));
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
		"--threads", threads, "--seal-interval", interval, (char *)NULL);
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
	struct link_message m = {.type = LINK_START, .start = {.key = *ek, .min_epoch = env->epoch}};
	int rc = e ? 0 : -ENOMEM;

	worker_socket(s, env->name, socket);
	/* What a dead worker left in the way. */
	unlink(socket);
	if (rc == 0) {
		pid_t pid = worker_spawn(s, env, socket);

		rc = pid < 0 ? -errno : entry_watch(s, e, pid);
	}
	CLEANUP_CLOSE int fd = rc == 0 ? worker_wait(socket, e->pidfd) : rc;
	if (fd >= 0)
		rc = link_call(fd, START_LIMIT_MS, &m);
	else
		rc = fd;
	snprintf(text, 480, "%.479s", m.type == LINK_REPLY ? m.text : "");
	if (rc == 0)
		*ret_epoch = m.status.epoch;
	secret_wipe(&m, sizeof(m));
	if (rc < 0 && e) {
		if (e->pidfd >= 0) {
			/* A worker that could not start ends by itself; one that hangs is ended. */
			struct pollfd p = {.fd = e->pidfd, .events = POLLIN};
			if (poll(&p, 1, STATUS_LIMIT_MS) <= 0 && e->pid > 0)
				kill(e->pid, SIGKILL);
			poll(&p, 1, STATUS_LIMIT_MS);
			worker_reap(e, reason, sizeof(reason));
			if (!text[0])
				snprintf(text, 480, "its worker: %s", reason);
		}
		unlink(socket);
		if (e->restarts == 0)
			entry_remove(s, e);
	}
	return rc;
}

static bool ops_alive(void *ctx, const char *name)
{
	const struct supervised *e = supervisor_find(ctx, name);

	return e && e->pid > 0;
}

/* ---- stopping ---- */

static int ops_stop(void *ctx, const struct registry_env *env, bool lock, bool force, struct users *ret_users, char *text)
{
	struct supervisor *s = ctx;
	struct supervised *e = entry_find(s, env->name);
	uint64_t limit_ms = s->config->lock_timeout_ns / 1000000;
	struct link_message m = {.type = lock ? LINK_LOCK : LINK_UNMOUNT, .flag = force, .arg = limit_ms};
	char socket[1100], reason[256];

	*ret_users = (struct users){0};
	if (!e)
		return 0;
	if (lock || force)
		users_find(e->mountpoint, USERS_LIMIT_MS, ret_users);
	int rc = e->pid > 0 ? supervisor_call(s, env->name, (int)limit_ms + 2 * START_LIMIT_MS, &m) : 0;
	if (e->pid > 0 && m.type == LINK_REPLY)
		snprintf(text, 480, "%.479s", m.text);
	if (rc == -EBUSY && !force) {
		users_find(e->mountpoint, USERS_LIMIT_MS, ret_users);
		return rc;
	}
	if (e->pid > 0) {
		struct pollfd p = {.fd = e->pidfd, .events = POLLIN};

		/* A worker that does not answer a lock is killed: its keys go with it. */
		if (poll(&p, 1, rc < 0 ? 0 : START_LIMIT_MS) <= 0 && (lock || force)) {
			log_warn("%s: the worker did not end in time and is killed", env->name);
			kill(e->pid, SIGKILL);
			poll(&p, 1, START_LIMIT_MS);
			snprintf(text, 480, "its worker did not answer and was killed: what was not synced may be lost");
			rc = 0;
		} else if (rc < 0 && poll(&p, 1, 0) <= 0) {
			return rc;
		}
		worker_reap(e, reason, sizeof(reason));
	}
	umount2(e->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
	worker_socket(s, env->name, socket);
	unlink(socket);
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

static int ops_rotate(void *ctx, const char *name, const struct env_key *ek, const struct env_wrap *wraps, size_t n, char *text)
{
	struct link_message m = {.type = LINK_ROTATE, .rotate = {.key = *ek, .count = (uint32_t)n}};

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
	worker_reap(e, e->reason, sizeof(e->reason));
	log_error("%s: its worker died: %s", e->name, e->reason);
	umount2(e->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
	if (e->restarts < s->config->restart_limit) {
		uint64_t delay = s->config->restart_delay_ns << MIN(e->restarts, 8);

		e->retry_at_ns = clock_monotonic_ns() + delay;
	} else {
		log_error("%s: gave up after %d restarts: keyctl env mount %s tries again", e->name, e->restarts, e->name);
	}
}

static void entry_retry(struct supervisor *s, struct supervised *e)
{
	struct refusal refusal = {0};
	char name[64];

	strcpy(name, e->name);
	e->retry_at_ns = 0;
	e->restarts++;
	int rc = environment_resume(s->tenant, name, &refusal);
	e = entry_find(s, name);
	if (rc == 0) {
		log_info("%s: mounted again", name);
	} else if (e) {
		log_error("%s: could not be mounted again: %s", name, refusal.text);
		if (e->restarts < s->config->restart_limit)
			e->retry_at_ns = clock_monotonic_ns() + (s->config->restart_delay_ns << MIN(e->restarts, 8));
	}
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

		for (struct supervised *e = s->list, *after; e; e = after) {
			after = e->next;
			if (e->pid > 0) {
				struct pollfd one = {.fd = e->pidfd, .events = POLLIN};

				if (poll(&one, 1, 0) > 0)
					entry_died(s, e);
				else if (n < ARRAY_LEN(p))
					p[n++] = one;
			}
			if (e->retry_at_ns && e->retry_at_ns <= now)
				entry_retry(s, e);
			else if (e->retry_at_ns)
				next = MIN(next, e->retry_at_ns);
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

/* ---- the start and the end of tdefsd ---- */

static bool take_back_one(struct supervisor *s, const struct registry_env *env)
{
	struct link_message m = {.type = LINK_STATUS};
	struct supervised *e;
	struct statfs fs;
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
	/* A dead mount answers ENOTCONN. */
	if (statfs(env->mountpoint, &fs) < 0 && errno == ENOTCONN)
		umount2(env->mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
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
			(void)!ops_stop(s, &list[k], true, true, &users, text);
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
		if (ops_stop(s, &env, false, true, &users, text) < 0)
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
	tenant->workers = (struct worker_ops){ops_start, ops_stop, ops_alive, ops_rewrap, ops_rotate, s};
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
