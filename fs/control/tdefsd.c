/* tdefsd: the keeper of one tenant. It holds the platform key and the registry, starts and watches the workers, and
 * answers keyctl; it never touches file data. Ending it unmounts nothing, unless mount.unmount_on_stop says so. */
#include "base/confine.h"
#include "base/io.h"
#include "base/log.h"
#include "tenant/audit.h"
#include "tenant/claim.h"
#include "tenant/key.h"
#include "control/server.h"

#include <fcntl.h>
#include <getopt.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define SECRET_HEAP (1u << 20)

static const char usage[] =
	"Usage: tdefsd --config FILE [--foreground]\n"
	"Keeps a tenant's encrypted environments. keyctl talks to it.\n\n"
	"  --config FILE   settings (conf/tdefs.conf has all, with comments)\n"
	"  --foreground    stay in the foreground, log to standard error\n"
	"  --check         only read the configuration and say whether it is right\n"
	"  --help\n  --version\n\n"
	"SIGTERM ends it; mounted environments go on and are taken back at the next start.\n";

static int make_dir(const char *path, mode_t mode)
{
	return mkdir(path, mode) < 0 && errno != EEXIST ? -errno : 0;
}

/* One tdefsd for a state directory. */
static int take_lock(const struct config *c)
{
	CLEANUP_FREE char *path = str_format("%s/tdefsd.lock", c->state_dir);
	CLEANUP_CLOSE int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return -errno;
	int rc = io_lock(fd);
	return rc < 0 ? rc : TAKE_FD(fd);
}

static int prepare_dirs(const struct config *c)
{
	CLEANUP_FREE char *stores = str_format("%s/stores", c->state_dir);
	int rc = make_dir(c->state_dir, 0700);

	if (rc == 0)
		rc = make_dir(c->runtime_dir, 0755);
	if (rc == 0)
		rc = stores ? make_dir(stores, 0700) : -ENOMEM;
	return rc;
}

/* sd_notify(3) without its library: one datagram. */
static void notify_ready(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	static const char ready[] = "READY=1";

	if (!path || strlen(path) >= sizeof(address.sun_path))
		return;
	strcpy(address.sun_path, path);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (address.sun_path[0] == '@')
		address.sun_path[0] = '\0';
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		(void)!sendto(fd, ready, sizeof(ready) - 1, MSG_NOSIGNAL, (struct sockaddr *)&address, len);
}

/* Workers and lock.on_lock come from here: it keeps what they need, and what reading /proc and guarding mount points take. */
static void keeper_confine(void)
{
	static const int forbidden[] = {SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(init_module),
		SCMP_SYS(finit_module), SCMP_SYS(delete_module), SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(bpf),
		SCMP_SYS(perf_event_open), SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key), SCMP_SYS(swapon),
		SCMP_SYS(swapoff), SCMP_SYS(reboot), SCMP_SYS(settimeofday), SCMP_SYS(clock_settime), SCMP_SYS(setns),
		SCMP_SYS(pivot_root), SCMP_SYS(userfaultfd), SCMP_SYS(open_by_handle_at)};
	int rc = confine_capabilities(CAPABILITY(CAP_CHOWN) | CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_DAC_READ_SEARCH) |
				      CAPABILITY(CAP_FOWNER) | CAPABILITY(CAP_FSETID) | CAPABILITY(CAP_KILL) | CAPABILITY(CAP_SETUID) |
				      CAPABILITY(CAP_SETGID) | CAPABILITY(CAP_SETPCAP) | CAPABILITY(CAP_LINUX_IMMUTABLE) |
				      CAPABILITY(CAP_IPC_LOCK) | CAPABILITY(CAP_SYS_PTRACE) | CAPABILITY(CAP_SYS_ADMIN) |
				      CAPABILITY(CAP_SYS_RESOURCE) | CAPABILITY(CAP_MKNOD));

	if (rc < 0)
		log_warn("capabilities were not given up: %s", strerror(-rc));
	rc = confine_calls(NULL, 0, forbidden, ARRAY_LEN(forbidden));
	if (rc < 0)
		log_warn("no seccomp filter: %s", strerror(-rc));
}

static int keeper_open(struct keeper *k)
{
	const struct config *c = &k->config;
	CLEANUP_FREE char *registry = str_format("%s/registry.db", c->state_dir);
	CLEANUP_FREE char *vault = str_format("%s/vault", c->state_dir);
	bool made = false;
	int rc = platform_key_open(c->platform_key, &k->tenant.platform_key, &made);

	if (rc < 0) {
		log_error("the platform key %s: %s", c->platform_key,
			rc == -EPERM	 ? "others than its owner may read it: chmod 600, and think about who has"
			: rc == -EUCLEAN ? "this is not a platform key"
					 : strerror(-rc));
		return rc;
	}
	if (made)
		log_warn("made a new platform key in %s: back it up, away from the stores", c->platform_key);
	rc = registry ? registry_open(registry, &k->tenant.registry) : -ENOMEM;
	if (rc < 0) {
		log_error("the registry %s: %s", registry, rc == -EUCLEAN	? "it is damaged"
			: rc == -ENOTSUP ? "it is of a newer version of tdefs: nothing was changed, and what is mounted serves on"
					 : strerror(-rc));
		return rc;
	}
	rc = audit_recover(k->tenant.registry);
	if (rc < 0) {
		log_error("the audit log takes no entry: %s", strerror(-rc));
		return rc;
	}
	rc = vault ? vault_open(vault, k->tenant.platform_key, &k->tenant.vault) : -ENOMEM;
	if (rc < 0) {
		log_error("the vault %s: %s", vault, strerror(-rc));
		return rc;
	}
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&k->tenant.unclaimed, &attr);
	pthread_condattr_destroy(&attr);
	k->tenant.lock = &k->lock;
	k->tenant.name = c->tenant;
	k->tenant.state_dir = c->state_dir;
	k->tenant.guards = (struct guards){c->activation_interval_ns, c->lock_after_key_change_ns, c->unlock_after_lock_ns,
		c->delete_locked_after_ns, c->delete_warning_ns, c->confirm_text_ns};
	steward_init(&k->steward, &k->tenant, &k->lock);
	rc = key_sweep(&k->tenant);
	if (rc < 0)
		log_warn("the vault %s could not be looked through: %s", vault, strerror(-rc));
	return supervisor_init(&k->supervisor, c, &k->tenant, &k->lock);
}

static int keeper_run(struct keeper *k, int signal_fd, int ready_fd)
{
	pthread_t watch, steward, witness;
	CLEANUP_CLOSE int listener = server_listen(k->config.socket);

	if (listener < 0) {
		log_error("cannot listen on %s: %s", k->config.socket, strerror(-listener));
		return listener;
	}
	pthread_mutex_lock(&k->lock);
	supervisor_take_back(&k->supervisor);
	pthread_mutex_unlock(&k->lock);
	pthread_create(&watch, NULL, supervisor_watch, &k->supervisor);
	pthread_create(&steward, NULL, steward_run, &k->steward);
	witness_init(&k->witness, &k->supervisor, &k->lock);
	pthread_create(&witness, NULL, witness_run, &k->witness);
	log_info("tenant %s: ready on %s", k->config.tenant, k->config.socket);
	notify_ready();
	if (ready_fd >= 0) {
		(void)!write(ready_fd, "1", 1);
		close(ready_fd);
	}
	server_run(k, listener, signal_fd);
	log_info("tenant %s: ending%s", k->config.tenant,
		k->config.unmount_on_stop ? ", unmounting" : "; mounted environments go on");
	pthread_mutex_lock(&k->lock);
	k->supervisor.stopping = k->steward.stopping = k->witness.stopping = true;
	pthread_cond_broadcast(&k->witness.wake);
	pthread_cond_broadcast(&k->steward.wake);
	pthread_cond_broadcast(&k->steward.moved);
	eventfd_write(k->supervisor.wake, 1);
	pthread_mutex_unlock(&k->lock);
	pthread_join(watch, NULL);
	pthread_join(steward, NULL);
	pthread_join(witness, NULL);
	pthread_mutex_lock(&k->lock); /* and keep it: whoever still asks gets no answer any more */
	tenant_keep();
	if (k->config.unmount_on_stop)
		supervisor_stop_all(&k->supervisor);
	unlink(k->config.socket);
	return 0;
}

/* Goes into the background; the parent waits for the child's word. Returns the descriptor to write it to, -1 in front. */
static int go_background(void)
{
	int word[2];
	char c;

	if (pipe2(word, O_CLOEXEC) < 0)
		exit(1);
	pid_t pid = fork();
	if (pid < 0)
		exit(1);
	if (pid > 0) {
		close(word[1]);
		_exit(read(word[0], &c, 1) == 1 ? 0 : 1);
	}
	close(word[0]);
	setsid();
	/* Nobody who waits for the end of our output may wait for ours; the log stays where standard error goes. */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	return word[1];
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'}, {"foreground", no_argument, NULL, 'f'},
		{"check", no_argument, NULL, 'C'}, {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {0}};
	struct keeper k = {.lock = PTHREAD_MUTEX_INITIALIZER, .started = clock_realtime_s()};
	struct rlimit none = {0, 0};
	const char *path = NULL;
	bool foreground = false, check = false;
	char error[512];
	int option, ready_fd = -1;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			path = optarg;
			break;
		case 'f':
			foreground = true;
			break;
		case 'C':
			check = true;
			break;
		case 'V':
			puts("tdefsd " TDEFS_VERSION);
			return 0;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (!path || optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	if (config_load(path, &k.config, error) < 0) {
		fprintf(stderr, "tdefsd: %s\n", error);
		return 1;
	}
	if (check) {
		printf("%s: right\n", path);
		return 0;
	}
	if (!foreground)
		ready_fd = go_background();
	log_open("tdefsd", strcmp(k.config.log_level, "debug") == 0 ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, k.config.syslog);
	umask(022);
	setrlimit(RLIMIT_CORE, &none);
#ifndef TDEFS_TRACEABLE
	prctl(PR_SET_DUMPABLE, 0);
#endif
	if (secret_init(SECRET_HEAP) < 0) {
		log_error("no memory for keys");
		return 1;
	}
	keeper_confine();
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	CLEANUP_CLOSE int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);

	int rc = prepare_dirs(&k.config);
	if (rc < 0) {
		log_error("cannot make %s or %s: %s", k.config.state_dir, k.config.runtime_dir, strerror(-rc));
		return 1;
	}
	CLEANUP_CLOSE int lock = take_lock(&k.config);
	if (lock < 0) {
		log_error("%s: %s", k.config.state_dir, lock == -EAGAIN ? "another tdefsd runs on it" : strerror(-lock));
		return 1;
	}
	rc = keeper_open(&k);
	if (rc == 0)
		rc = keeper_run(&k, signal_fd, ready_fd);
	/* A thread that still serves a connection waits for the big lock or its peer: it ends with the process. */
	if (rc < 0)
		return 1;
	supervisor_done(&k.supervisor);
	registry_close(k.tenant.registry);
	vault_close(k.tenant.vault);
	platform_key_free(k.tenant.platform_key);
	_exit(0);
}
