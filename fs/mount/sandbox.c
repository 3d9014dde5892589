/* sandbox: see sandbox.h. */
#include "mount/sandbox.h"

#include "base/log.h"
#include "base/secret.h"

#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static bool memory_locked;

void sandbox_prepare(void)
{
	struct rlimit files = {1 << 20, 1 << 20}, none = {0, 0}, unlimited = {RLIM_INFINITY, RLIM_INFINITY};

	umask(0);
	setrlimit(RLIMIT_CORE, &none);
#ifndef TDEFS_TRACEABLE
	prctl(PR_SET_DUMPABLE, 0);
#endif
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	memory_locked = mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
	if (!memory_locked)
		log_warn("memory cannot be locked (%s): keys are in locked memory %s", strerror(errno),
			secret_locked() ? "all the same" : "neither, and swap should be off or encrypted");
	/* 1 Mi descriptors, else as many as we may. */
	if (setrlimit(RLIMIT_NOFILE, &files) < 0 && getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	/* We are in the kernel's way when it writes memory out: our own allocations must not wait for that. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_debug("PR_SET_IO_FLUSHER: %s", strerror(errno));
}

bool sandbox_memory_locked(void)
{
	return memory_locked;
}

void sandbox_enter(void)
{
	static const int refused[] = {
#ifndef TDEFS_TRACEABLE
		SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev),
#endif
		SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(socket), SCMP_SYS(socketpair), SCMP_SYS(connect), SCMP_SYS(mount),
		SCMP_SYS(move_mount), SCMP_SYS(open_tree), SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(setns),
		SCMP_SYS(unshare), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module), SCMP_SYS(kexec_load),
		SCMP_SYS(bpf), SCMP_SYS(perf_event_open), SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key),
		SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(reboot), SCMP_SYS(settimeofday), SCMP_SYS(clock_settime)};
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int rc = filter ? 0 : -ENOMEM;

	for (size_t k = 0; rc == 0 && k < sizeof(refused) / sizeof(refused[0]); k++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), refused[k], 0);
	/* Threads that run already (libfuse's, the sealer) come under it too. */
	if (rc == 0)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	if (rc == 0)
		rc = seccomp_load(filter); /* sets no-new-privileges as well */
	if (rc < 0)
		log_warn("no seccomp filter: %s", strerror(-rc));
	if (filter)
		seccomp_release(filter);
}
