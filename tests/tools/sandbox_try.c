/* sandbox_try: goes into a worker's or its mounter's sandbox and tries one thing that it is kept from.
 *
 *   sandbox_try worker|mounter|none STORE WHAT [PATH]    prints "allowed" or the error's name; or the kernel ends it with SIGSYS */
#include "mount/sandbox.h"

#include "base/util.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static long try_one(const char *what, const char *path)
{
	static char *const nothing[] = {NULL};
	char buf[16];
	struct iovec iov = {buf, sizeof(buf)};

	if (strcmp(what, "read") == 0 || strcmp(what, "write") == 0) {
		CLEANUP_CLOSE int fd = open(path, what[0] == 'r' ? O_RDONLY : O_WRONLY);

		return fd < 0 ? -1 : what[0] == 'r' ? read(fd, buf, sizeof(buf)) : write(fd, "x", 1);
	}
	if (strcmp(what, "create") == 0)
		return open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (strcmp(what, "unlink") == 0)
		return unlink(path);
	if (strcmp(what, "mknod") == 0)
		return mknodat(AT_FDCWD, path, S_IFBLK | 0600, 0x700);
	if (strcmp(what, "list") == 0)
		return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (strcmp(what, "exec") == 0)
		return execve("/bin/true", nothing, nothing);
	if (strcmp(what, "ptrace") == 0)
		return ptrace(PTRACE_ATTACH, getppid(), 0, 0);
	if (strcmp(what, "other memory") == 0)
		return process_vm_readv(getppid(), &iov, 1, &iov, 1, 0);
	if (strcmp(what, "bpf") == 0)
		return syscall(SYS_bpf, BPF_MAP_CREATE, NULL, 0);
	if (strcmp(what, "unshare") == 0)
		return unshare(CLONE_NEWNS);
	if (strcmp(what, "inet socket") == 0)
		return socket(AF_INET, SOCK_STREAM, 0);
	if (strcmp(what, "unix socket") == 0)
		return socket(AF_UNIX, SOCK_STREAM, 0);
	if (strcmp(what, "mount") == 0)
		return mount("none", path, "tmpfs", 0, "");
	if (strcmp(what, "umount") == 0)
		return umount2(path, MNT_DETACH);
	if (strcmp(what, "signal") == 0)
		return kill(getppid(), 0);
	if (strcmp(what, "clock") == 0)
		return syscall(SYS_settimeofday, NULL, NULL);
	if (strcmp(what, "reboot") == 0)
		return syscall(SYS_reboot, 0, 0, 0, 0);
	if (strcmp(what, "setuid") == 0)
		return setuid(65534);
	errno = EINVAL;
	return -1;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	if (strcmp(argv[1], "worker") == 0)
		sandbox_enter(argv[2]);
	else if (strcmp(argv[1], "mounter") == 0)
		sandbox_mounter();
	long rc = try_one(argv[3], argc > 4 ? argv[4] : NULL);
	const char *result = rc < 0 ? strerrorname_np(errno) : "allowed";
	(void)!write(STDOUT_FILENO, result, strlen(result));
	_exit(0);
}
