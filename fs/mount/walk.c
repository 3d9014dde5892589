/* walk: see walk.h. */
#include "mount/walk.h"

#include "base/io.h"
#include "store/format.h"

#include <fcntl.h>
#include <string.h>

void walk_init(struct walk *w)
{
	pthread_rwlockattr_t attributes;

	/* The pass that begins is not to wait for ever. */
	*w = (struct walk){0};
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&w->moves, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	pthread_mutex_init(&w->lock, NULL);
}

static void walk_forget(struct walk *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->kept_count > 0)
		close(w->kept[--w->kept_count]);
	free(w->kept);
	free(w->known);
	w->kept = NULL;
	w->known = NULL;
	w->known_size = w->known_count = 0;
	pthread_mutex_unlock(&w->lock);
}

void walk_done(struct walk *w)
{
	walk_forget(w);
	pthread_rwlock_destroy(&w->moves);
	pthread_mutex_destroy(&w->lock);
}

/* ---- what is known; lock held ---- */

static size_t known_slot(const struct walk *w, uint64_t ino)
{
	size_t k = (size_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (w->known_size - 1);

	while (w->known[k] && w->known[k] != ino)
		k = (k + 1) & (w->known_size - 1);
	return k;
}

/* 1 when it is new, 0 when it was known. */
static int known_add(struct walk *w, uint64_t ino)
{
	if (2 * w->known_count >= w->known_size) {
		struct walk larger = {.known_size = w->known_size ? 2 * w->known_size : 1024};

		larger.known = calloc(larger.known_size, sizeof(*larger.known));
		if (!larger.known)
			return -ENOMEM;
		for (size_t k = 0; k < w->known_size; k++)
			if (w->known[k])
				larger.known[known_slot(&larger, w->known[k])] = w->known[k];
		free(w->known);
		w->known = larger.known;
		w->known_size = larger.known_size;
	}
	size_t k = known_slot(w, ino);
	if (w->known[k])
		return 0;
	w->known[k] = ino;
	w->known_count++;
	return 1;
}

int walk_keep(struct walk *w, int fd, uint64_t ino)
{
	pthread_mutex_lock(&w->lock);
	int rc = known_add(w, ino);
	int *more = rc > 0 ? realloc(w->kept, (w->kept_count + 1) * sizeof(*more)) : NULL;
	int copy = more ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (more)
		w->kept = more;
	if (rc > 0 && copy < 0)
		rc = more ? -errno : -ENOMEM;
	if (copy >= 0)
		w->kept[w->kept_count++] = copy;
	pthread_mutex_unlock(&w->lock);
	return MIN(rc, 0);
}

static int walk_next_kept(struct walk *w)
{
	pthread_mutex_lock(&w->lock);
	int fd = w->kept_count ? w->kept[--w->kept_count] : -1;
	pthread_mutex_unlock(&w->lock);
	return fd;
}

/* ---- a pass ---- */

#define CHUNK_ENTRIES 1024u
#define CHUNK_TEXT (64u << 10)
#define AHEAD 32u /* files that are open, and read from, before it is their turn */

/* Some of a directory's files, in the order in which they lie below: W4. */
struct chunk {
	unsigned count;
	size_t used;
	struct chunk_entry {
		uint64_t ino;
		size_t name; /* in text */
		int fd;      /* -errno: could not be opened */
		unsigned char type;
	} entries[CHUNK_ENTRIES];
	char text[CHUNK_TEXT];
};

struct pass {
	struct walk *walk;
	struct volume *v;
	const struct walk_visitor *visitor;
	struct chunk *chunk; /* one, for its files are visited before a directory is gone down from */
	int error;           /* of enter */
};
DEFINE_CLEANUP(struct dir_stream *, dir_stream_close);

char *walk_path(struct volume *v, const struct walk_at *at)
{
	char name[DIR_NAME_MAX + 1];

	if (!at->up)
		return strdup(at->lower);
	CLEANUP_FREE char *up = walk_path(v, at->up);
	int rc = dir_plain_name(v, at->up->dirfd, &at->up->id, at->lower, name);
	return up ? str_format("%s/%s", up, rc < 0 ? at->lower : name) : NULL;
}

static int chunk_compare(const void *a, const void *b)
{
	const struct chunk_entry *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* 1 when there may be more. */
static int chunk_fill(struct chunk *c, struct dir_stream *stream, bool *directories)
{
	struct dir_entry de;
	int rc = 1;

	c->count = 0;
	c->used = 0;
	while (c->count < CHUNK_ENTRIES && c->used + sizeof(de.lower) <= CHUNK_TEXT && (rc = dir_stream_next_lower(stream, &de)) > 0) {
		*directories |= de.type == DT_DIR;
		if (de.type != DT_REG && de.type != DT_UNKNOWN)
			continue;
		c->entries[c->count++] = (struct chunk_entry){.ino = de.ino, .name = c->used, .fd = -1, .type = de.type};
		strcpy(c->text + c->used, de.lower);
		c->used += strlen(de.lower) + 1;
	}
	qsort(c->entries, c->count, sizeof(c->entries[0]), chunk_compare);
	return rc;
}

/* O_PATH will do where a file cannot be had for reading and writing, or may be none. */
static void chunk_open(struct chunk *c, unsigned k, int dirfd)
{
	struct chunk_entry *e = &c->entries[k];
	const char *lower = c->text + e->name;

	e->fd = e->type == DT_REG ? io_openat(dirfd, lower, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0) : -EINVAL;
	if (e->fd >= 0)
		io_read_ahead(e->fd, HEADER_SIZE, 0);
	else
		e->fd = io_openat(dirfd, lower, O_PATH | O_NOFOLLOW, 0);
}

static int pass_file(const struct pass *p, const struct walk_at *at, const struct chunk_entry *e, bool *directories)
{
	struct stat st = {.st_mode = S_IFREG, .st_ino = e->ino};
	int rc = 0;

	if (p->visitor->wants == WALK_FILES)
		rc = e->fd < 0 ? e->fd : io_fstatat(e->fd, "", &st, AT_EMPTY_PATH);
	else if (p->visitor->wants == WALK_SIZES || e->type == DT_UNKNOWN)
		rc = io_fstatat(at->up->dirfd, at->lower, &st, AT_SYMLINK_NOFOLLOW);
	if (rc == -ENOENT)
		return 0; /* gone since */
	if (rc < 0) {
		p->visitor->unreadable(p->visitor->ctx, at, rc);
		return 0;
	}
	*directories |= S_ISDIR(st.st_mode);
	return S_ISREG(st.st_mode) ? p->visitor->file(p->visitor->ctx, e->fd, &st, at) : 0;
}

static int pass_chunk(const struct pass *p, const struct walk_at *dir, bool *directories)
{
	struct chunk *c = p->chunk;
	unsigned ahead = 0;
	int rc = 0;

	for (unsigned k = 0; rc == 0 && k < c->count; k++) {
		for (; p->visitor->wants == WALK_FILES && ahead < MIN(k + AHEAD, c->count); ahead++)
			chunk_open(c, ahead, dir->dirfd);
		rc = pass_file(p, &(struct walk_at){.up = dir, .dirfd = -1, .lower = c->text + c->entries[k].name}, &c->entries[k], directories);
		util_closep(&c->entries[k].fd);
	}
	for (unsigned k = 0; k < ahead; k++)
		util_closep(&c->entries[k].fd);
	return rc;
}

static bool pass_enter(struct pass *p, uint64_t ino)
{
	pthread_mutex_lock(&p->walk->lock);
	int rc = known_add(p->walk, ino);
	pthread_mutex_unlock(&p->walk->lock);
	p->error = MIN(p->error, rc);
	return rc > 0;
}

static int pass_directory(struct pass *p, struct walk_at *dir);

/* What lies in the directory by that name, if it is one. */
static int pass_down(struct pass *p, const struct walk_at *dir, const char *lower)
{
	struct stat st;
	CLEANUP_CLOSE int fd = io_openat(dir->dirfd, lower, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
	struct walk_at at = {.up = dir, .dirfd = fd, .lower = lower};
	int rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);

	if (rc == -ENOENT || rc == -ENOTDIR)
		return 0; /* gone since, or never one */
	if (rc < 0)
		p->visitor->unreadable(p->visitor->ctx, &at, rc);
	return rc == 0 && pass_enter(p, st.st_ino) ? pass_directory(p, &at) : p->error;
}

static int pass_directory(struct pass *p, struct walk_at *dir)
{
	CLEANUP(dir_stream_closep) struct dir_stream *stream = NULL;
	bool directories = false;
	struct dir_entry de;
	/* Also where no name is wanted: one that is due an id after a crash gets it here. */
	int rc = dir_id_load(p->v, dir->dirfd, &dir->id), more;

	if (rc == 0)
		rc = dir_stream_open(p->v, dir->dirfd, &dir->id, &stream);
	if (rc == -ENOENT)
		return 0; /* gone since */
	if (rc < 0) {
		p->visitor->unreadable(p->visitor->ctx, dir, rc);
		return 0;
	}
	do {
		more = chunk_fill(p->chunk, stream, &directories);
		if (more < 0)
			p->visitor->unreadable(p->visitor->ctx, dir, more);
		rc = pass_chunk(p, dir, &directories);
	} while (rc == 0 && more > 0);
	if (rc < 0 || !directories)
		return rc;
	dir_stream_seek(stream, 0);
	while (rc == 0 && (more = dir_stream_next_lower(stream, &de)) > 0)
		if (de.type == DT_DIR || de.type == DT_UNKNOWN)
			rc = pass_down(p, dir, de.lower);
	if (rc == 0 && more < 0)
		p->visitor->unreadable(p->visitor->ctx, dir, more);
	return rc;
}

static int pass_kept(struct pass *p, int fd)
{
	/* It is known already: by being kept. What lies in it is asked about one by one. */
	struct walk_at at = {.dirfd = fd, .lower = "(moved)"};
	struct stat st;
	int rc = io_fstatat(fd, "", &st, AT_EMPTY_PATH);

	if (rc < 0)
		return rc;
	return S_ISDIR(st.st_mode) ? pass_directory(p, &at) : p->visitor->file(p->visitor->ctx, fd, &st, &at);
}

int walk_pass(struct walk *w, struct volume *v, const struct walk_visitor *visitor)
{
	CLEANUP_FREE struct chunk *chunk = malloc(sizeof(*chunk));
	struct pass p = {.walk = w, .v = v, .visitor = visitor, .chunk = chunk};
	struct walk_at root = {.dirfd = v->root_fd, .lower = ""};
	int fd;

	if (!chunk)
		return -ENOMEM;
	walk_forget(w);
	pthread_rwlock_wrlock(&w->moves);
	pthread_rwlock_unlock(&w->moves);
	int rc = pass_directory(&p, &root);
	while (rc == 0 && (fd = walk_next_kept(w)) >= 0) {
		rc = pass_kept(&p, fd);
		close(fd);
	}
	walk_forget(w);
	return rc < 0 ? rc : p.error;
}
