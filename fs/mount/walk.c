/* walk: see walk.h. */
#include "mount/walk.h"

#include "base/io.h"

#include <fcntl.h>

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

struct pass {
	struct walk *walk;
	const struct walk_visitor *visitor;
	int error; /* of enter */
};

static int pass_file(void *ctx, int fd, const struct stat *st, const char *lower, const char *plain)
{
	const struct pass *p = ctx;

	(void)lower;
	return p->error < 0 ? p->error : p->visitor->file(p->visitor->ctx, fd, st, plain);
}

static void pass_found(void *ctx, const struct scrub_finding *f)
{
	const struct pass *p = ctx;

	p->visitor->found(p->visitor->ctx, f);
}

static bool pass_enter(void *ctx, const struct stat *st)
{
	struct pass *p = ctx;

	pthread_mutex_lock(&p->walk->lock);
	int rc = known_add(p->walk, st->st_ino);
	pthread_mutex_unlock(&p->walk->lock);
	p->error = MIN(p->error, rc);
	return rc > 0;
}

static int pass_kept(struct pass *p, struct volume *v, int fd)
{
	/* It is known already: by being kept. What lies in it is asked about one by one. */
	struct scrub_visitor from = {.file = pass_file, .found = pass_found, .open = p->visitor->open, .ctx = p};
	struct stat st;
	int rc = io_fstatat(fd, "", &st, AT_EMPTY_PATH);

	if (rc < 0)
		return rc;
	return S_ISDIR(st.st_mode) ? scrub_walk_from(v, fd, &from) : p->visitor->file(p->visitor->ctx, fd, &st, "(moved)");
}

int walk_pass(struct walk *w, struct volume *v, const struct walk_visitor *visitor)
{
	struct pass p = {.walk = w, .visitor = visitor};
	struct scrub_visitor all = {.file = pass_file, .found = pass_found, .enter = pass_enter, .open = visitor->open, .ctx = &p};
	int fd;

	walk_forget(w);
	pthread_rwlock_wrlock(&w->moves);
	pthread_rwlock_unlock(&w->moves);
	int rc = scrub_walk(v, &all);
	while (rc == 0 && (fd = walk_next_kept(w)) >= 0) {
		rc = pass_kept(&p, v, fd);
		close(fd);
	}
	walk_forget(w);
	return rc < 0 ? rc : p.error;
}
