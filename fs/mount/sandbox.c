/* sandbox: see sandbox.h. */
#include "mount/sandbox.h"

#include "base/confine.h"
#include "base/log.h"
#include "base/secret.h"
#include "mount/landlock.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

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
		log_warn("PR_SET_IO_FLUSHER: %s: without CAP_SYS_RESOURCE we may wait for write-back under memory pressure", strerror(errno));
}

bool sandbox_memory_locked(void)
{
	return memory_locked;
}

#ifdef TDEFS_TRACEABLE

static void landlock_enter(const char *store)
{
	(void)store;
}

#else

/* ---- Landlock ---- */

static void landlock_allow(int ruleset, const char *path, uint64_t rights)
{
	CLEANUP_CLOSE int fd = open(path, O_PATH | O_CLOEXEC);
	struct ll_beneath rule = {rights, fd};

	/* What is not there is asked for later, and not found then. */
	if (fd >= 0 && syscall(SYS_landlock_add_rule, ruleset, 1 /* beneath a path */, &rule, 0) < 0)
		log_warn("Landlock: %s: %s", path, strerror(errno));
}

static void landlock_enter(const char *store)
{
	const uint64_t make = LL_MAKE_CHAR | LL_MAKE_DIR | LL_MAKE_REG | LL_MAKE_SOCK | LL_MAKE_FIFO | LL_MAKE_BLOCK | LL_MAKE_SYM;
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* its version */);

	if (abi < 1) {
		log_info("this kernel has no Landlock");
		return;
	}
	uint64_t known = abi >= 5 ? 0xffff : abi >= 3 ? 0x7fff : abi >= 2 ? 0x3fff : 0x1fff;
	struct ll_ruleset all = {known, abi >= 4 ? LL_NET : 0, abi >= 6 ? LL_SCOPE : 0};
	size_t size = abi >= 6 ? sizeof(all) : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
	CLEANUP_CLOSE int ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, size, 0);
	if (ruleset < 0) {
		log_warn("no Landlock: %s", strerror(errno));
		return;
	}
	landlock_allow(ruleset, store, known & (LL_WRITE_FILE | LL_READ_FILE | LL_READ_DIR | LL_REMOVE_DIR | LL_REMOVE_FILE | make |
					LL_REFER | LL_TRUNCATE));
	landlock_allow(ruleset, "/dev/fuse", known & (LL_READ_FILE | LL_WRITE_FILE | LL_IOCTL_DEV));
	/* libfuse asks there for the groups of who calls; other processes' memory and descriptors stay out of reach (ptrace(2)). */
	landlock_allow(ruleset, "/proc", LL_READ_FILE);
	/* To sync the mount it opens its root. */
	landlock_allow(ruleset, "/", LL_READ_DIR);
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		log_warn("no Landlock: %s", strerror(errno));
}

#endif

static void give_up(uint64_t capabilities, const int *calls, size_t n)
{
	/* No fault explains these: somebody else is at the helm. */
	static const int fatal[] = {SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv),
		SCMP_SYS(process_vm_writev), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(kexec_load), SCMP_SYS(bpf),
		SCMP_SYS(setns), SCMP_SYS(unshare), SCMP_SYS(pivot_root)};
	int rc = confine_capabilities(capabilities);

	if (rc < 0)
		log_warn("capabilities were not given up: %s", strerror(-rc));
	rc = confine_calls(calls, n, fatal, ARRAY_LEN(fatal));
	if (rc < 0)
		log_warn("no seccomp filter: %s", strerror(-rc));
}

#define CALLS_COMMON                                                                                                                 \
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(close), SCMP_SYS(openat), SCMP_SYS(poll), SCMP_SYS(ppoll),       \
		SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(exit), SCMP_SYS(exit_group),    \
		SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction), SCMP_SYS(restart_syscall),                 \
		SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(clock_gettime), SCMP_SYS(clone), SCMP_SYS(clone3),                      \
		SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(futex), SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mprotect),    \
		SCMP_SYS(brk), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(unlink)

void sandbox_mounter(void)
{
	static const int calls[] = {CALLS_COMMON, SCMP_SYS(mount), SCMP_SYS(umount2)};

	give_up(CAPABILITY(CAP_SYS_ADMIN) | CAPABILITY(CAP_DAC_READ_SEARCH), calls, ARRAY_LEN(calls));
}

void sandbox_enter(const char *store)
{
	static const int calls[] = {CALLS_COMMON,
		/* lower files */
		SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2),
		SCMP_SYS(readv), SCMP_SYS(lseek), SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
		SCMP_SYS(syncfs), SCMP_SYS(sync_file_range), SCMP_SYS(fadvise64), SCMP_SYS(readahead), SCMP_SYS(copy_file_range),
		SCMP_SYS(statx), SCMP_SYS(statfs), SCMP_SYS(fstatfs), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getdents64),
		SCMP_SYS(unlinkat), SCMP_SYS(rmdir), SCMP_SYS(mkdirat), SCMP_SYS(mknodat), SCMP_SYS(symlinkat), SCMP_SYS(linkat),
		SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(chmod), SCMP_SYS(fchmod), SCMP_SYS(fchmodat),
		SCMP_SYS(fchown), SCMP_SYS(fchownat), SCMP_SYS(lchown), SCMP_SYS(utimensat), SCMP_SYS(getxattr), SCMP_SYS(lgetxattr),
		SCMP_SYS(fgetxattr), SCMP_SYS(setxattr), SCMP_SYS(lsetxattr), SCMP_SYS(fsetxattr), SCMP_SYS(listxattr),
		SCMP_SYS(llistxattr), SCMP_SYS(flistxattr), SCMP_SYS(removexattr), SCMP_SYS(lremovexattr), SCMP_SYS(fremovexattr),
		SCMP_SYS(fcntl), SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(name_to_handle_at), SCMP_SYS(open_by_handle_at),
		/* /dev/fuse, the socket */
		SCMP_SYS(ioctl), SCMP_SYS(splice), SCMP_SYS(vmsplice), SCMP_SYS(pipe2), SCMP_SYS(accept4), SCMP_SYS(getsockopt), SCMP_SYS(shutdown),
		SCMP_SYS(dup), SCMP_SYS(dup3), SCMP_SYS(eventfd2), SCMP_SYS(io_uring_enter),
		/* threads, memory, time, chance */
		SCMP_SYS(madvise), SCMP_SYS(mremap), SCMP_SYS(mincore), SCMP_SYS(mlock), SCMP_SYS(munlock), SCMP_SYS(tgkill),
		SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity), SCMP_SYS(getcpu), SCMP_SYS(prctl),
		SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(getuid),
		SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(prlimit64), SCMP_SYS(sysinfo), SCMP_SYS(membarrier)};

	/* Where the limit on locked memory could not be lifted, memory that comes later needs CAP_IPC_LOCK. */
	struct rlimit locked;
	bool unlimited = getrlimit(RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_cur == RLIM_INFINITY;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	landlock_enter(store);
	give_up(CAPABILITY(CAP_CHOWN) | CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_DAC_READ_SEARCH) | CAPABILITY(CAP_FOWNER) |
			CAPABILITY(CAP_FSETID) | CAPABILITY(CAP_MKNOD) | CAPABILITY(CAP_SYS_ADMIN) |
			(unlimited ? 0 : CAPABILITY(CAP_IPC_LOCK)),
		calls, ARRAY_LEN(calls));
}
