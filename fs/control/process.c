/* process: see process.h. */
#include "control/process.h"

#include "base/log.h"
#include "base/patience.h"
#include "control/hook.h"
#include "tenant/mounts.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define USERS_LIMIT_MS 4000
#define DETACH_LIMIT_MS 5000
#define LOCK_SLACK_MS 3000 /* over lock.timeout, for the way there and back */
#define KILL_LIMIT_MS 5000
#define UNMOUNT_LIMIT_MS 60000
#define PROCESS_USAGE 2 /* the exit status of a program that does not know its options */

void process_socket(const struct config *c, const char *name, char ret[PROCESS_SOCKET_MAX])
{
	snprintf(ret, PROCESS_SOCKET_MAX, "%s/%s.worker", c->runtime_dir, name);
}

bool process_ended(int pidfd, int limit_ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, limit_ms) > 0;
}

/* ---- beginning ---- */

#define OPTIONS_MAX 5
#define OPTION_SIZE 48

/* What tdefs-mount does without: a setting each. */
static void process_options(const struct config *c, char ret[OPTIONS_MAX][OPTION_SIZE])
{
	char interval[32];

	duration_format(c->seal_interval_ns, interval, sizeof(interval));
	snprintf(ret[0], OPTION_SIZE, "--threads=%d", c->threads);
	snprintf(ret[1], OPTION_SIZE, "--transport=%.20s", c->transport);
	snprintf(ret[2], OPTION_SIZE, "--spin-us=%d", c->spin_us);
	snprintf(ret[3], OPTION_SIZE, "--seal-interval=%s", interval);
	snprintf(ret[4], OPTION_SIZE, "--rotate-max-rate=%llu", (unsigned long long)c->rotate_max_rate);
}

pid_t process_spawn(const struct config *c, const char *program, const struct registry_env *env, const char *socket, bool bare)
{
	char options[OPTIONS_MAX][OPTION_SIZE];

	process_options(c, options);
	pid_t pid = fork();
	if (pid != 0)
		return pid < 0 ? -errno : pid;
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
	execl(program, program, "--name", env->name, "--store", env->store, "--mountpoint", env->mountpoint, "--socket", socket,
		bare ? NULL : options[0], options[1], options[2], options[3], options[4], (char *)NULL);
	_exit(127);
}

int process_wait(const char *socket, int pidfd, unsigned limit_ms)
{
	uint64_t end = clock_monotonic_ns() + limit_ms * UINT64_C(1000000);

	while (clock_monotonic_ns() < end) {
		int fd = link_connect(socket);

		if (fd >= 0)
			return fd;
		if (process_ended(pidfd, 10))
			return -ECHILD;
	}
	return -ETIMEDOUT;
}

int process_find(const char *socket, pid_t *ret_pid)
{
	CLEANUP_CLOSE int fd = link_connect(socket);

	return fd < 0 ? fd : link_peer(fd, ret_pid);
}

/* ---- ending ---- */

bool process_reap(int pidfd, char *ret_reason, size_t size)
{
	siginfo_t info = {0};

	if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
		snprintf(ret_reason, size, "it ended (how is unknown: another tdefsd had started it)");
	else if (info.si_code == CLD_EXITED)
		snprintf(ret_reason, size, info.si_status == 127 ? "tdefs-mount could not be started" : "it exited with status %d",
			info.si_status);
	else
		snprintf(ret_reason, size, "it was killed by signal %d (%s)", info.si_status, strsignal(info.si_status));
	return info.si_code == CLD_EXITED && info.si_status == PROCESS_USAGE;
}

bool process_lock(const struct config *c, const struct process *p, struct users *ret_users, struct link_status *ret_status, char *text)
{
	uint64_t limit_ms = c->lock_timeout_ns / 1000000;
	struct link_message m = {.type = LINK_LOCK, .arg = limit_ms};
	char hook[160] = "", lost[480] = "";

	hook_run(&(struct hook){c->on_lock, c->on_lock_user, c->on_lock_timeout_ns}, p->name, p->mountpoint, hook);
	users_find(p->mountpoint, USERS_LIMIT_MS, ret_users);
	CLEANUP_CLOSE int fd = link_connect(p->socket);
	int rc = fd < 0 ? fd : link_call(fd, (int)limit_ms + LOCK_SLACK_MS, &m);
	bool answered = m.type == LINK_REPLY, ended = process_ended(p->pidfd, answered ? 1000 : 0);
	*ret_status = m.status;
	snprintf(lost, sizeof(lost), "%s", m.text);
	if (link_foreign(rc) && !ended) {
		log_warn("%s: its worker does not understand the lock order: it is told to end by SIGTERM", p->name);
		syscall(SYS_pidfd_send_signal, p->pidfd, SIGTERM, NULL, 0);
		ended = process_ended(p->pidfd, (int)limit_ms + LOCK_SLACK_MS);
		snprintf(lost, sizeof(lost), "its worker is of another version and ended without an answer: its log says whether everything was written out");
	}
	if (!answered && !ended) {
		log_warn("%s: its worker does not answer (%s) and is killed", p->name, strerror(-rc));
		syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0);
		ended = process_ended(p->pidfd, KILL_LIMIT_MS);
		snprintf(lost, sizeof(lost), "its worker did not answer and was killed: what was not synced may be lost, and its memory was not wiped");
	}
	if (!ended)
		log_warn("%s: its worker hangs in the kernel and is left behind%s", p->name, answered ? ", without its keys" : "");
	snprintf(text, 480, "%s%s%.300s", hook, hook[0] && lost[0] ? "; " : "", lost);
	return ended;
}

static int unmount_run(void *mountpoint)
{
	return umount2(mountpoint, UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}

static int detach_run(void *mountpoint)
{
	return umount2(mountpoint, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}

/* The way there may lead over a dead disk. */
static int unmount_patiently(int (*run)(void *mountpoint), const char *mountpoint, unsigned limit_ms)
{
	char *copy = strdup(mountpoint);
	int rc = copy ? patience(run, copy, free, limit_ms) : -ENOMEM;

	if (rc != -ETIMEDOUT)
		free(copy);
	return rc;
}

int process_unmount(const struct config *c, const struct process *p, struct users *ret_users, struct link_status *ret_status,
	char *text)
{
	struct link_message m = {.type = LINK_UNMOUNT};

	*ret_status = (struct link_status){0};
	/* The worker would wait for its end there. */
	mounts_elsewhere(p->mountpoint, USERS_LIMIT_MS, text, 480);
	if (text[0])
		return -EBUSY;
	CLEANUP_CLOSE int fd = link_connect(p->socket);
	int rc = fd < 0 ? fd : link_call(fd, (int)(c->lock_timeout_ns / 1000000) + UNMOUNT_LIMIT_MS, &m);
	bool answered = m.type == LINK_REPLY;

	*ret_status = m.status;
	snprintf(text, 480, "%.479s", m.text);
	if (link_foreign(rc) && !process_ended(p->pidfd, 0)) {
		/* It ends when its mount does. */
		rc = unmount_patiently(unmount_run, p->mountpoint, UNMOUNT_LIMIT_MS);
		answered = rc == 0 || rc == -EBUSY;
	}
	if (rc == -EBUSY && answered) {
		text[0] = '\0';
		users_find(p->mountpoint, USERS_LIMIT_MS, ret_users);
		return rc;
	}
	if (!process_ended(p->pidfd, answered ? UNMOUNT_LIMIT_MS : 0)) {
		if (!text[0])
			snprintf(text, 480, "its worker does not answer, or somebody has it mounted elsewhere still: keyctl env unmount --force does without");
		return rc < 0 ? rc : -ETIMEDOUT;
	}
	return answered ? rc : 0;
}

void process_detach(const char *mountpoint)
{
	int rc = mounts_device(mountpoint) ? unmount_patiently(detach_run, mountpoint, DETACH_LIMIT_MS) : 0;

	if (rc < 0)
		log_warn("%s: the dead mount was not detached: %s", mountpoint, strerror(-rc));
}
