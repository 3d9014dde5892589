/* hook: see hook.h. */
#include "control/hook.h"

#include "base/log.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TEXT_SIZE 160
#define GROUPS_MAX 256

struct identity {
	uid_t uid;
	gid_t gid, groups[GROUPS_MAX];
	int group_count;
};

static int identity_of(const char *user, struct identity *ret)
{
	char buf[16384];
	struct passwd pw, *found;

	if (getpwnam_r(user, &pw, buf, sizeof(buf), &found) != 0 || !found)
		return -ENOENT;
	ret->uid = pw.pw_uid;
	ret->gid = pw.pw_gid;
	ret->group_count = GROUPS_MAX;
	return getgrouplist(user, pw.pw_gid, ret->groups, &ret->group_count) < 0 ? -E2BIG : 0;
}

/* Between fork and exec: only what signal-safety(7) allows. */
_Noreturn static void hook_exec(const char *command, const struct identity *who, char *const *environ_of_it)
{
	sigset_t none;

	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	int null = open("/dev/null", O_RDONLY);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 || chdir("/") < 0)
		_exit(126);
	/* The plain calls: libc's would stop every thread first. */
	if (who->uid != 0 && (syscall(SYS_setgroups, who->group_count, who->groups) < 0 || syscall(SYS_setgid, who->gid) < 0 ||
				     syscall(SYS_setuid, who->uid) < 0))
		_exit(126);
	execle("/bin/sh", "sh", "-c", command, (char *)NULL, environ_of_it);
	_exit(127);
}

void hook_run(const struct hook *hook, const char *environment, const char *mountpoint, char *ret_text)
{
	CLEANUP_FREE char *name = str_format("TDEFS_ENVIRONMENT=%s", environment), *place = str_format("TDEFS_MOUNTPOINT=%s", mountpoint);
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	char *const variables[] = {path, name, place, NULL};
	struct identity who = {0};
	siginfo_t info = {0};

	ret_text[0] = '\0';
	if (!hook->command[0])
		return;
	int rc = name && place ? identity_of(hook->user, &who) : -ENOMEM;
	if (rc < 0) {
		snprintf(ret_text, TEXT_SIZE, "lock.on_lock was not run: user %.60s: %s", hook->user, rc == -ENOENT ? "there is none" : strerror(-rc));
		return;
	}
	pid_t pid = fork();
	if (pid == 0)
		hook_exec(hook->command, &who, variables);
	CLEANUP_CLOSE int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (pid < 0) {
		snprintf(ret_text, TEXT_SIZE, "lock.on_lock was not run: %s", strerror(errno));
		return;
	}
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	bool late = poll(&p, 1, (int)(hook->timeout_ns / 1000000)) <= 0;
	if (late) {
		kill(-pid, SIGKILL);
		kill(pid, SIGKILL);
	}
	/* One that hangs in the kernel is left; its end is of no interest. */
	if (late && poll(&p, 1, 1000) <= 0)
		snprintf(ret_text, TEXT_SIZE, "lock.on_lock did not end in time and cannot be killed");
	else if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0)
		snprintf(ret_text, TEXT_SIZE, "lock.on_lock: %s", strerror(errno));
	else if (late)
		snprintf(ret_text, TEXT_SIZE, "lock.on_lock did not end in time and was killed");
	else if (info.si_code != CLD_EXITED)
		snprintf(ret_text, TEXT_SIZE, "lock.on_lock was killed by signal %d", info.si_status);
	else if (info.si_status != 0)
		snprintf(ret_text, TEXT_SIZE, "lock.on_lock ended with status %d", info.si_status);
	log_info("%s: lock.on_lock %s", environment, ret_text[0] ? ret_text : "ended with status 0");
}
