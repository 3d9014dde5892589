/* teardown: who uses the mount, and how the kernel lets go of it. */
#include "mount/link.h"
#include "mount/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

/* ---- users ---- */

static bool path_is_under(const char *path, const char *mountpoint)
{
	size_t n = strlen(mountpoint);

	return strncmp(path, mountpoint, n) == 0 && (path[n] == '\0' || path[n] == '/' || path[n] == ' ' || path[n] == '\n');
}

static bool link_is_under(const char *link, const char *mountpoint)
{
	char target[4096];
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	return path_is_under(target, mountpoint);
}

static bool process_has_descriptor(const char *pid, const char *mountpoint)
{
	char path[300];
	const struct dirent *de;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	DIR *dp = opendir(path);
	if (!dp)
		return false;
	while (!found && (de = readdir(dp))) {
		snprintf(path, sizeof(path), "/proc/%.20s/fd/%.20s", pid, de->d_name);
		found = de->d_name[0] != '.' && link_is_under(path, mountpoint);
	}
	closedir(dp);
	return found;
}

static bool process_has_mapping(const char *pid, const char *mountpoint)
{
	char path[300];
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/%.20s/maps", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && getline(&line, &size, f) > 0) {
		const char *name = strchr(line, '/');

		found = name && path_is_under(name, mountpoint);
	}
	fclose(f);
	return found;
}

static bool process_uses(const char *pid, const char *mountpoint)
{
	static const char *const links[] = {"cwd", "root", "exe"};
	char path[300];

	for (size_t k = 0; k < ARRAY_LEN(links); k++) {
		snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, links[k]);
		if (link_is_under(path, mountpoint))
			return true;
	}
	return process_has_descriptor(pid, mountpoint) || process_has_mapping(pid, mountpoint);
}

static void process_name(const char *pid, char ret[20])
{
	char path[300];

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, ret, 19);
	ret[MAX(n, 0)] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
}

void teardown_users(struct session *s, struct link_status *ret)
{
	DIR *dp = opendir("/proc");
	const struct dirent *de;

	ret->user_count = 0;
	while (dp && (de = readdir(dp))) {
		int pid = atoi(de->d_name);

		if (pid <= 0 || pid == getpid() || !process_uses(de->d_name, s->mountpoint))
			continue;
		if (ret->user_count < LINK_USERS_MAX) {
			ret->users[ret->user_count].pid = pid;
			process_name(de->d_name, ret->users[ret->user_count].name);
		}
		ret->user_count++;
	}
	if (dp)
		closedir(dp);
}

/* ---- letting go ---- */

struct drop {
	struct session *s;
	uint64_t deadline_ns;
	int rc;
};

static void drop_one(void *ctx, struct inode *i)
{
	struct drop *d = ctx;
	fuse_ino_t ino = i == d->s->inodes.root ? FUSE_ROOT_ID : (uintptr_t)i;

	if (clock_monotonic_ns() > d->deadline_ns)
		d->rc = -ETIMEDOUT;
	if (d->rc == 0)
		(void)fuse_lowlevel_notify_inval_inode(d->s->se, ino, 0, 0);
}

int teardown_drop_caches(struct session *s, uint64_t deadline_ns)
{
	struct drop d = {s, deadline_ns, 0};

	inode_each(&s->inodes, drop_one, &d);
	return d.rc;
}

/* MNT_FORCE makes the kernel abort the FUSE connection (a lazy unmount alone leaves it alive for whoever has a file open):
 * from then on every descriptor and mapping gets an error. It needs no fusectl file system, unlike the abort file there. */
void teardown_abort(struct session *s)
{
	(void)umount2(s->mountpoint, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
}
