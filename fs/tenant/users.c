/* users: see users.h. The mount is known by its device number: a path would miss who sees it in a container. */
#include "tenant/users.h"

#include "base/patience.h"
#include "tenant/mounts.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* ---- one process ---- */

/* Asks the kernel alone, never the file system behind the link. */
static bool link_is_on(const char *link, dev_t device)
{
	struct statx st;

	return statx(AT_FDCWD, link, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &st) == 0 &&
	       makedev(st.stx_dev_major, st.stx_dev_minor) == device;
}

static bool process_has_descriptor(const char *pid, dev_t device)
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
		found = de->d_name[0] != '.' && link_is_on(path, device);
	}
	closedir(dp);
	return found;
}

static bool process_has_mapping(const char *pid, dev_t device)
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
		unsigned major, minor;

		found = sscanf(line, "%*s %*s %*s %x:%x", &major, &minor) == 2 && makedev(major, minor) == device;
	}
	fclose(f);
	return found;
}

static bool process_uses(const char *pid, dev_t device)
{
	static const char *const links[] = {"cwd", "root", "exe"};
	char path[300];

	for (size_t k = 0; k < ARRAY_LEN(links); k++) {
		snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, links[k]);
		if (link_is_on(path, device))
			return true;
	}
	return process_has_descriptor(pid, device) || process_has_mapping(pid, device);
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

/* ---- all of them ---- */

struct search {
	dev_t device;
	struct users found;
};

static int users_search(void *work)
{
	struct search *s = work;
	DIR *dp = opendir("/proc");
	const struct dirent *de;

	while (dp && (de = readdir(dp))) {
		int pid = atoi(de->d_name);

		if (pid <= 0 || !process_uses(de->d_name, s->device))
			continue;
		if (s->found.count < USERS_MAX) {
			s->found.list[s->found.count].pid = pid;
			process_name(de->d_name, s->found.list[s->found.count].name);
		}
		s->found.count++;
	}
	if (dp)
		closedir(dp);
	return 0;
}

void users_find(const char *mountpoint, unsigned timeout_ms, struct users *ret)
{
	struct search *s = calloc(1, sizeof(*s));

	*ret = (struct users){.unknown = true};
	if (!s)
		return;
	s->device = mounts_device(mountpoint);
	/* A process's memory map can be kept by whoever waits for a dead disk with it. */
	int rc = s->device ? patience(users_search, s, free, timeout_ms) : 0;
	if (rc == 0)
		*ret = s->found;
	if (rc != -ETIMEDOUT)
		free(s);
}

void users_text(const struct users *u, char *ret, size_t size)
{
	size_t used = 0;

	snprintf(ret, size, "%s", u->unknown ? "processes that could not be listed in time" : "");
	for (uint32_t k = 0; k < MIN(u->count, USERS_MAX) && used + 40 < size; k++)
		used += (size_t)snprintf(ret + used, size - used, "%s%s (%d)", k ? ", " : "", u->list[k].name, (int)u->list[k].pid);
	if (u->count > USERS_MAX && used + 40 < size)
		snprintf(ret + used, size - used, " and %u more", u->count - USERS_MAX);
}
