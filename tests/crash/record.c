/* record: see record.h. */
#include "record.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static void *not_null(void *p)
{
	if (!p)
		abort();
	return p;
}

uint64_t crash_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed * UINT64_C(0x2545f4914f6cdd1d);
}

uint64_t crash_below(uint64_t *seed, uint64_t n)
{
	return (crash_random(seed) >> 20) % n;
}

/* ---- objects ---- */

static size_t map_slot(const struct recording *r, uint64_t ino)
{
	size_t k = (size_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (r->map_size - 1);

	while (r->map[k].ino && r->map[k].ino != ino)
		k = (k + 1) & (r->map_size - 1);
	return k;
}

/* A new object with this inode number, which may have been another's before. */
static uint32_t map_new(struct recording *r, uint64_t ino)
{
	if (2 * r->map_count >= r->map_size) {
		struct recording larger = {.map_size = r->map_size ? 2 * r->map_size : 1024};

		larger.map = calloc(larger.map_size, sizeof(*larger.map));
		not_null(larger.map);
		for (size_t k = 0; k < r->map_size; k++)
			if (r->map[k].ino)
				larger.map[map_slot(&larger, r->map[k].ino)] = r->map[k];
		free(r->map);
		r->map = larger.map;
		r->map_size = larger.map_size;
	}
	size_t k = map_slot(r, ino);
	r->map_count += r->map[k].ino == 0;
	r->map[k].ino = ino;
	r->map[k].obj = ++r->objects;
	return r->objects;
}

static uint32_t map_find(const struct recording *r, uint64_t ino)
{
	return r->map_size ? r->map[map_slot(r, ino)].obj : 0;
}

static uint32_t object_of(const struct recording *r, int fd, const char *path)
{
	struct stat st;

	return fstatat(fd, path, &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ? map_find(r, st.st_ino) : 0;
}

uint32_t record_object(struct recording *r, int dirfd, const char *path)
{
	pthread_mutex_lock(&r->lock);
	uint32_t obj = object_of(r, dirfd, path);
	pthread_mutex_unlock(&r->lock);
	return obj;
}

uint32_t record_of_ino(struct recording *r, uint64_t ino)
{
	pthread_mutex_lock(&r->lock);
	uint32_t obj = map_find(r, ino);
	pthread_mutex_unlock(&r->lock);
	return obj;
}

/* ---- the base ---- */

static void copy_attributes(int from, int to)
{
	char names[4096], value[65536], proc[40], proc_to[40];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", from);
	snprintf(proc_to, sizeof(proc_to), "/proc/self/fd/%d", to);
	ssize_t n = listxattr(proc, names, sizeof(names));
	for (char *p = names; p < names + MAX(n, 0); p += strlen(p) + 1) {
		ssize_t len = getxattr(proc, p, value, sizeof(value));

		if (len >= 0)
			(void)!setxattr(proc_to, p, value, (size_t)len, 0);
	}
}

static void copy_file(int from, int to)
{
	static _Thread_local char buf[1 << 16];
	struct stat st;
	off_t at = 0, data;
	ssize_t n;

	if (fstat(from, &st) < 0 || ftruncate(to, st.st_size) < 0)
		abort();
	while ((data = lseek(from, at, SEEK_DATA)) >= 0) {
		off_t hole = lseek(from, data, SEEK_HOLE);

		for (at = data; at < hole; at += n) {
			n = pread(from, buf, (size_t)MIN((off_t)sizeof(buf), hole - at), at);
			if (n <= 0 || pwrite(to, buf, (size_t)n, at) != n)
				abort();
		}
	}
}

struct walk {
	void (*made)(void *ctx, uint64_t ino, int copy);
	void *ctx;
	struct {
		uint64_t ino;
		int copy;
	} links[64]; /* files with more names than one, met already */
	unsigned link_count;
};

/* Makes name in to a link where the file was met under another name: then it is no new object. */
static bool walk_linked(struct walk *w, const struct stat *st, int to, const char *name)
{
	char proc[40];

	for (unsigned k = 0; k < w->link_count; k++)
		if (w->links[k].ino == st->st_ino) {
			snprintf(proc, sizeof(proc), "/proc/self/fd/%d", w->links[k].copy);
			if (to >= 0 && linkat(AT_FDCWD, proc, to, name, AT_SYMLINK_FOLLOW) < 0)
				abort();
			return true;
		}
	return false;
}

/* Copies one object to to (-1: nowhere) under its name and opens both. */
static void walk_copy(int from, int to, const char *name, const struct stat *st, int *ret_fd, int *ret_fd2)
{
	int kind = S_ISDIR(st->st_mode) ? O_RDONLY | O_DIRECTORY : S_ISREG(st->st_mode) ? O_RDWR : O_PATH;
	char target[4097] = "";

	*ret_fd = openat(from, name, (kind == O_RDWR ? O_RDONLY : kind) | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0)
		abort();
	if (to < 0)
		return;
	if (S_ISDIR(st->st_mode))
		(void)!mkdirat(to, name, st->st_mode & 07777);
	else if (S_ISLNK(st->st_mode) && readlinkat(from, name, target, sizeof(target) - 1) > 0)
		(void)!symlinkat(target, to, name);
	else if (!S_ISREG(st->st_mode))
		(void)!mknodat(to, name, st->st_mode, st->st_rdev);
	*ret_fd2 = openat(to, name, kind | O_NOFOLLOW | O_CLOEXEC | (kind == O_RDWR ? O_CREAT : 0), st->st_mode & 07777);
	if (*ret_fd2 < 0)
		abort();
	(void)!fchownat(*ret_fd2, "", st->st_uid, st->st_gid, AT_EMPTY_PATH);
	if (S_ISREG(st->st_mode))
		copy_file(*ret_fd, *ret_fd2);
	copy_attributes(*ret_fd, *ret_fd2);
}

/* Walks the directory from in the order of names, so that two walks number alike. */
static void walk_directory(struct walk *w, int from, int to)
{
	struct dirent **list;
	struct stat st;
	char path[40];

	if (fstat(from, &st) < 0)
		abort();
	w->made(w->ctx, st.st_ino, to);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", from);
	int n = scandir(path, &list, NULL, alphasort);
	if (n < 0)
		abort();
	for (int k = 0; k < n; k++) {
		const char *name = list[k]->d_name;
		int fd = -1, fd2 = -1;

		if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			!walk_linked(w, &st, to, name)) {
			walk_copy(from, to, name, &st, &fd, &fd2);
			if (S_ISDIR(st.st_mode))
				walk_directory(w, fd, fd2);
			else
				w->made(w->ctx, st.st_ino, fd2);
			if (S_ISREG(st.st_mode) && st.st_nlink > 1 && w->link_count < ARRAY_LEN(w->links)) {
				w->links[w->link_count].ino = st.st_ino;
				w->links[w->link_count++].copy = to >= 0 ? TAKE_FD(fd2) : -1;
			}
			close(fd);
			util_closep(&fd2);
		}
		free(list[k]);
	}
	free(list);
}

static void made_nothing(void *ctx, uint64_t ino, int copy)
{
	(void)ctx;
	(void)ino;
	(void)copy;
}

static void made_number(void *ctx, uint64_t ino, int copy)
{
	(void)copy;
	map_new(ctx, ino);
}

void base_build(const char *from, const char *to, void (*made)(void *ctx, uint64_t ino, int copy), void *ctx)
{
	CLEANUP_CLOSE int fd = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd2 = -1;

	if (fd < 0 || (to && (mkdir(to, 0700) < 0 || (fd2 = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)))
		abort();
	struct walk w = {.made = made, .ctx = ctx};
	walk_directory(&w, fd, fd2);
	for (unsigned k = 0; k < w.link_count; k++)
		util_closep(&w.links[k].copy);
}

void copy_tree(const char *from, const char *to)
{
	base_build(from, to, made_nothing, NULL);
}

/* ---- recording ---- */

static _Thread_local struct {
	bool existed;   /* before an open that creates */
	uint32_t victim; /* before a rename or unlink: what the name stood for */
	size_t begun;
} before_call;

static int record_before(void *ctx, struct io_event *ev)
{
	struct recording *r = ctx;
	struct stat st;

	if (ev->op == IO_OPEN && (ev->flags & O_CREAT))
		before_call.existed = fstatat(ev->fd, ev->path, &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (ev->op == IO_RENAME || ev->op == IO_UNLINK)
		before_call.victim = record_object(r, ev->fd, ev->path);
	if (ev->op == IO_LINK)
		before_call.victim = record_object(r, ev->fd, "");
	if (ev->op == IO_FSYNC || ev->op == IO_FDATASYNC || ev->op == IO_SYNCFS) {
		pthread_mutex_lock(&r->lock);
		before_call.begun = r->count;
		pthread_mutex_unlock(&r->lock);
	}
	return 0;
}

static void log_put(FILE *f, const void *b, uint64_t len)
{
	uint64_t head = len;

	fwrite(&head, sizeof(head), 1, f);
	if (len)
		fwrite(b, 1, len, f);
}

static void record_keep(struct recording *r, struct record *one)
{
	if (r->log) {
		fwrite(one, sizeof(*one), 1, r->log);
		log_put(r->log, one->path, one->path ? strlen(one->path) + 1 : 0);
		log_put(r->log, one->path2, one->path2 ? strlen(one->path2) + 1 : 0);
		log_put(r->log, one->data, one->data ? one->len : 0);
		fflush(r->log);
		free(one->path);
		free(one->path2);
		free(one->data);
		r->count++;
		return;
	}
	if (r->count == r->room) {
		r->room = r->room ? 2 * r->room : 1024;
		r->records = realloc(r->records, r->room * sizeof(*r->records));
		not_null(r->records);
	}
	r->records[r->count++] = *one;
}

static uint8_t *iov_copy(const struct iovec *iov, int count, uint64_t len)
{
	uint8_t *b = malloc(len + 1);

	not_null(b);
	for (uint64_t k = 0, done = 0; k < (uint64_t)count && done < len; k++) {
		uint64_t n = MIN(iov[k].iov_len, len - done);

		memcpy(b + done, iov[k].iov_base, n);
		done += n;
	}
	return b;
}

static void record_after(void *ctx, const struct io_event *ev, int64_t result)
{
	struct recording *r = ctx;
	struct record one = {.op = ev->op, .off = ev->off, .len = ev->len, .flags = ev->flags, .mode = ev->mode};
	struct stat st;

	if (result < 0)
		return;
	pthread_mutex_lock(&r->lock);
	one.begun = r->count;
	switch ((int)ev->op) { /* what changes nothing is not recorded */
	case IO_OPEN:
		if (!((ev->flags & O_TMPFILE) == O_TMPFILE || (ev->flags & (O_CREAT | O_TRUNC))) || fstat((int)result, &st) < 0)
			goto out;
		one.obj = object_of(r, ev->fd, "");
		if (one.obj && ((ev->flags & O_TMPFILE) == O_TMPFILE || !before_call.existed))
			one.made = map_new(r, st.st_ino);
		else if (ev->flags & O_TRUNC)
			one = (struct record){.op = IO_TRUNCATE, .obj = map_find(r, st.st_ino)};
		else
			goto out;
		break;
	case IO_MKDIR:
	case IO_SYMLINK:
	case IO_MKNOD:
		if (fstatat(ev->fd, ev->path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			goto out;
		one.obj = object_of(r, ev->fd, "");
		one.made = one.obj ? map_new(r, st.st_ino) : 0;
		break;
	case IO_WRITE:
		one.obj = object_of(r, ev->fd, "");
		one.len = (uint64_t)result;
		one.data = iov_copy(ev->iov, ev->iov_count, one.len);
		break;
	case IO_SETXATTR:
		one.obj = object_of(r, ev->fd, "");
		one.data = iov_copy(ev->iov, ev->iov_count, one.len);
		break;
	case IO_FDATASYNC:
	case IO_FSYNC:
	case IO_SYNCFS:
		one.begun = before_call.begun;
		one.obj = object_of(r, ev->fd, "");
		break;
	case IO_TRUNCATE:
	case IO_FALLOCATE:
	case IO_REMOVEXATTR:
	case IO_CHMOD:
		one.obj = object_of(r, ev->fd, "");
		break;
	case IO_CHOWN:
		if (fstatat(ev->fd, ev->path, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
			goto out;
		one.obj = map_find(r, st.st_ino);
		one.off = st.st_uid;
		one.len = st.st_gid;
		break;
	case IO_RENAME:
	case IO_LINK:
		one.obj = ev->op == IO_LINK ? object_of(r, ev->fd2, "") : object_of(r, ev->fd, "");
		one.obj2 = object_of(r, ev->fd2, "");
		one.made = before_call.victim;
		break;
	case IO_UNLINK:
		one.obj = object_of(r, ev->fd, "");
		one.made = before_call.victim;
		break;
	default:
		goto out;
	}
	/* Links and their like come by way of the store's root or not at all; anything else lies outside. */
	if (one.obj == 0 && one.op != IO_SYNCFS)
		goto out;
	one.path = ev->path && one.op != IO_TRUNCATE && one.op != IO_CHOWN ? strdup(ev->path) : NULL;
	one.path2 = ev->path2 ? strdup(ev->path2) : NULL;
	record_keep(r, &one);
	one.data = NULL;
	/* Of a durable write, that it is: the power may have gone before. */
	if (one.op == IO_WRITE && (one.flags & RWF_DSYNC)) {
		one = (struct record){.op = IO_FDATASYNC, .obj = one.obj, .off = one.off, .len = one.len, .flags = one.flags};
		one.begun = r->count;
		record_keep(r, &one);
	}
out:
	free(one.data);
	pthread_mutex_unlock(&r->lock);
}

void record_begin(struct recording *r, const char *store, const char *base, FILE *log)
{
	static struct io_hook hook = {record_before, record_after, NULL};

	*r = (struct recording){.log = log};
	pthread_mutex_init(&r->lock, NULL);
	snprintf(r->base, sizeof(r->base), "%s", base);
	copy_tree(store, base);
	base_build(store, NULL, made_number, r);
	hook.ctx = r;
	io_set_hook(&hook);
}

void record_end(void)
{
	io_set_hook(NULL);
}

void record_free(struct recording *r)
{
	for (size_t k = 0; k < r->count && r->records; k++) {
		free(r->records[k].path);
		free(r->records[k].path2);
		free(r->records[k].data);
	}
	free(r->records);
	free(r->log_ends);
	free(r->map);
	pthread_mutex_destroy(&r->lock);
	*r = (struct recording){0};
}

static void *log_get(FILE *f)
{
	uint64_t len;

	if (fread(&len, sizeof(len), 1, f) != 1 || len > 1 << 24)
		abort();
	if (len == 0)
		return NULL;
	char *b = malloc(len + 1);
	not_null(b);
	if (fread(b, 1, len, f) != len)
		abort();
	return b;
}

void record_load(struct recording *r, const char *base, FILE *log)
{
	struct record one;

	*r = (struct recording){0};
	pthread_mutex_init(&r->lock, NULL);
	snprintf(r->base, sizeof(r->base), "%s", base);
	base_build(base, NULL, made_number, r);
	while (fread(&one, sizeof(one), 1, log) == 1) {
		one.path = log_get(log);
		one.path2 = log_get(log);
		one.data = log_get(log);
		r->objects = MAX(r->objects, one.made);
		record_keep(r, &one);
		r->log_ends = not_null(realloc(r->log_ends, r->room * sizeof(*r->log_ends)));
		r->log_ends[r->count - 1] = (uint64_t)ftello(log);
	}
}
