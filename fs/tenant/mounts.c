/* mounts: see mounts.h. */
#include "tenant/mounts.h"

#include "base/patience.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define NAMESPACES_MAX 256u /* that are looked at */

/* ---- one namespace ---- */

struct mount {
	int id, parent;
	dev_t device;
	bool ours;    /* of our type */
	int shared, master, from; /* peer groups; 0: none */
	char *path;
};

struct mounts {
	struct mount *list;
	size_t count, room;
};

static void mounts_done(struct mounts *m)
{
	for (size_t k = 0; k < m->count; k++)
		free(m->list[k].path);
	free(m->list);
	*m = (struct mounts){0};
}

/* Undoes mountinfo's \040 for what a path may not show as it is. */
static void mountinfo_path(char *s)
{
	char *out = s;

	for (const char *p = s; *p; out++)
		if (p[0] == '\\' && p[1] && p[2] && p[3]) {
			*out = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
			p += 4;
		} else {
			*out = *p++;
		}
	*out = '\0';
}

static bool mount_parse(char *line, struct mount *ret)
{
	unsigned major, minor;
	int at = 0;

	*ret = (struct mount){0};
	if (sscanf(line, "%d %d %u:%u %*s %n", &ret->id, &ret->parent, &major, &minor, &at) < 4 || at == 0)
		return false;
	char *path = line + at, *end = strchr(path, ' '), *rest = end ? strstr(end, " - ") : NULL;
	if (!rest)
		return false;
	ret->device = makedev(major, minor);
	ret->ours = strncmp(rest, " - fuse.tdefs ", 14) == 0;
	*rest = '\0';
	for (const char *p = end; (p = strchr(p, ' ')) != NULL; p++) {
		(void)!sscanf(p, " shared:%d", &ret->shared);
		(void)!sscanf(p, " master:%d", &ret->master);
		(void)!sscanf(p, " propagate_from:%d", &ret->from);
	}
	*end = '\0';
	mountinfo_path(path);
	ret->path = strdup(path);
	return ret->path != NULL;
}

static void mounts_read(const char *pid, struct mounts *ret)
{
	char path[64];
	CLEANUP_FREE char *line = NULL;
	size_t size = 0;

	*ret = (struct mounts){0};
	snprintf(path, sizeof(path), "/proc/%.20s/mountinfo", pid);
	FILE *f = fopen(path, "re");
	while (f && getline(&line, &size, f) > 0) {
		if (ret->count == ret->room) {
			size_t room = ret->room ? 2 * ret->room : 64;
			struct mount *list = realloc(ret->list, room * sizeof(*list));

			if (!list)
				break;
			ret->list = list;
			ret->room = room;
		}
		ret->count += mount_parse(line, &ret->list[ret->count]);
	}
	if (f)
		fclose(f);
}

/* The last one lies on top. */
static const struct mount *mounts_at(const struct mounts *m, const char *mountpoint)
{
	const struct mount *found = NULL;

	for (size_t k = 0; k < m->count; k++)
		if (m->list[k].ours && strcmp(m->list[k].path, mountpoint) == 0)
			found = &m->list[k];
	return found;
}

static const struct mount *mounts_parent(const struct mounts *m, const struct mount *one)
{
	for (size_t k = 0; k < m->count; k++)
		if (m->list[k].id == one->parent)
			return &m->list[k];
	return NULL;
}

dev_t mounts_device(const char *mountpoint)
{
	struct mounts here;

	mounts_read("self", &here);
	const struct mount *one = mounts_at(&here, mountpoint);
	dev_t device = one ? one->device : 0;
	mounts_done(&here);
	return device;
}

/* ---- all of them ---- */

struct elsewhere {
	char mountpoint[1024];
	char text[480];
};

/* A mount of the device that does not go with that one: an unmount reaches the peers and slaves of what it is mounted on. */
static const struct mount *mounts_left(const struct mounts *m, const struct mount *one, int group)
{
	for (size_t k = 0; k < m->count; k++) {
		const struct mount *other = &m->list[k], *parent = mounts_parent(m, other);

		if (other->device != one->device || other->id == one->id)
			continue;
		if (!parent || group == 0 || (parent->shared != group && parent->master != group && parent->from != group))
			return other;
	}
	return NULL;
}

/* pid: 0 for our own namespace. */
static void elsewhere_text(struct elsewhere *e, int pid, const char *path)
{
	char comm[64], name[20] = "";

	if (!pid) {
		snprintf(e->text, sizeof(e->text), "it is mounted on %.200s, too: unmount that first, or use --force, which takes the files from "
			"whoever uses them there", path);
		return;
	}
	snprintf(comm, sizeof(comm), "/proc/%d/comm", pid);
	FILE *f = fopen(comm, "re");
	if (f && fscanf(f, "%19[^\n]", name) != 1)
		name[0] = '\0';
	if (f)
		fclose(f);
	snprintf(e->text, sizeof(e->text), "it is mounted in the mount namespace of %s (%d), too, which an unmount here does not reach: end that "
		"process, or nsenter -t %d -m umount %.200s, or use --force, which takes the files from whoever uses them there", name, pid,
		pid, path);
}

static int elsewhere_search(void *work)
{
	struct elsewhere *e = work;
	struct mounts here;
	const struct mount *one, *left;
	ino_t seen[NAMESPACES_MAX];
	const struct dirent *de;
	size_t n = 0;
	struct stat st;

	mounts_read("self", &here);
	one = mounts_at(&here, e->mountpoint);
	const struct mount *parent = one ? mounts_parent(&here, one) : NULL;
	int group = parent ? parent->shared : 0;
	left = one ? mounts_left(&here, one, group) : NULL;
	if (left)
		elsewhere_text(e, 0, left->path);
	if (stat("/proc/self/ns/mnt", &st) == 0)
		seen[n++] = st.st_ino;
	DIR *dp = one && !left ? opendir("/proc") : NULL;
	while (dp && !e->text[0] && n < NAMESPACES_MAX && (de = readdir(dp))) {
		char path[64];
		bool known = false;

		snprintf(path, sizeof(path), "/proc/%.20s/ns/mnt", de->d_name);
		if (atoi(de->d_name) <= 0 || stat(path, &st) < 0)
			continue;
		for (size_t k = 0; k < n; k++)
			known = known || seen[k] == st.st_ino;
		if (known)
			continue;
		seen[n++] = st.st_ino;
		struct mounts there;
		mounts_read(de->d_name, &there);
		left = mounts_left(&there, one, group);
		if (left)
			elsewhere_text(e, atoi(de->d_name), left->path);
		mounts_done(&there);
	}
	if (dp)
		closedir(dp);
	mounts_done(&here);
	return 0;
}

void mounts_elsewhere(const char *mountpoint, unsigned timeout_ms, char *text, size_t size)
{
	struct elsewhere *e = calloc(1, sizeof(*e));
	int rc = -ENOMEM;

	text[0] = '\0';
	if (!e)
		return;
	snprintf(e->mountpoint, sizeof(e->mountpoint), "%s", mountpoint);
	/* Whoever is being unmounted elsewhere may hold the list of mounts. */
	rc = patience(elsewhere_search, e, free, timeout_ms);
	if (rc == 0)
		snprintf(text, size, "%s", e->text);
	if (rc != -ETIMEDOUT)
		free(e);
}
