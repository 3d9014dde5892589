/* rotate: see rotate.h. */
#include "mount/session.h"

#include "base/log.h"
#include "store/scrub.h"

#include <fcntl.h>
#include <string.h>

void rotate_init(struct rotate *r, struct session *s)
{
	*r = (struct rotate){.session = s};
	pthread_mutex_init(&r->lock, NULL);
}

static void rotate_forget(struct rotate *r)
{
	while (r->kept_count > 0)
		close(r->kept[--r->kept_count]);
	free(r->kept);
	free(r->known);
	r->kept = NULL;
	r->known = NULL;
	r->known_size = r->known_count = 0;
}

void rotate_done(struct rotate *r)
{
	rotate_forget(r);
	pthread_mutex_destroy(&r->lock);
}

/* ---- which directories are known; lock held ---- */

static size_t known_slot(const struct rotate *r, uint64_t ino)
{
	size_t k = (size_t)(ino * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (r->known_size - 1);

	while (r->known[k] && r->known[k] != ino)
		k = (k + 1) & (r->known_size - 1);
	return k;
}

/* 1 when it is new, 0 when it was known. */
static int known_add(struct rotate *r, uint64_t ino)
{
	if (2 * r->known_count >= r->known_size) {
		struct rotate larger = {.known_size = r->known_size ? 2 * r->known_size : 1024};

		larger.known = calloc(larger.known_size, sizeof(*larger.known));
		if (!larger.known)
			return -ENOMEM;
		for (size_t k = 0; k < r->known_size; k++)
			if (r->known[k])
				larger.known[known_slot(&larger, r->known[k])] = r->known[k];
		free(r->known);
		r->known = larger.known;
		r->known_size = larger.known_size;
	}
	size_t k = known_slot(r, ino);
	if (r->known[k])
		return 0;
	r->known[k] = ino;
	r->known_count++;
	return 1;
}

static int rotate_keep(struct rotate *r, int fd, uint64_t ino)
{
	pthread_mutex_lock(&r->lock);
	int rc = known_add(r, ino);
	int *more = rc > 0 ? realloc(r->kept, (r->kept_count + 1) * sizeof(*more)) : NULL;
	int copy = more ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (more)
		r->kept = more;
	if (rc > 0 && copy < 0)
		rc = more ? -errno : -ENOMEM;
	if (copy >= 0)
		r->kept[r->kept_count++] = copy;
	pthread_mutex_unlock(&r->lock);
	return MIN(rc, 0);
}

static int rotate_next_kept(struct rotate *r)
{
	pthread_mutex_lock(&r->lock);
	int fd = r->kept_count ? r->kept[--r->kept_count] : -1;
	pthread_mutex_unlock(&r->lock);
	return fd;
}

/* ---- one object ---- */

static int rotate_one(struct rotate *r, int fd, const struct stat *st)
{
	struct inode_table *inodes = &r->session->inodes;
	struct content *c;
	struct inode *i;
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0)
		return -errno;
	int rc = inode_get(inodes, copy, st, &i);
	if (rc < 0)
		return rc;
	rc = inode_open(inodes, i, &c);
	if (rc == 0) {
		rc = content_rotate(c);
		inode_touch(i); /* as after a seal */
		inode_release(inodes, i);
	}
	inode_put(inodes, i, 1);
	return rc;
}

int rotate_before_move(struct rotate *r, int fd, const struct stat *st)
{
	int rc = 0;

	if (!volume_rotating(r->session->v))
		return 0;
	if (S_ISDIR(st->st_mode))
		rc = rotate_keep(r, fd, st->st_ino);
	else if (S_ISREG(st->st_mode))
		rc = rotate_one(r, fd, st);
	/* What verifies with neither key loses nothing. */
	return rc < 0 && rc != -EBADMSG ? rc : 0;
}

/* ---- the walk ---- */

static int rotate_file(void *ctx, int fd, const struct stat *st, const char *lower, const char *plain)
{
	struct rotate *r = ctx;

	if (atomic_load(&r->stop))
		return -ECANCELED;
	int rc = rotate_one(r, fd, st);
	if (rc == -EBADMSG) {
		log_warn("%s: rotation: %s (%s) does not verify and is left as it is", r->session->name, plain, lower);
		return 0;
	}
	if (rc > 0)
		atomic_fetch_add(&r->files, 1);
	return MIN(rc, 0);
}

static void rotate_damaged(void *ctx, const struct scrub_finding *f)
{
	struct rotate *r = ctx;
	char text[160];

	/* What lies below cannot be seen: the old key must not go. */
	atomic_store(&r->error, f->error);
	scrub_describe(f, text, sizeof(text));
	log_warn("%s: rotation: %s (%s): %s", r->session->name, f->plain, f->lower, text);
}

static bool rotate_enter(void *ctx, const struct stat *st)
{
	struct rotate *r = ctx;

	pthread_mutex_lock(&r->lock);
	int rc = known_add(r, st->st_ino);
	pthread_mutex_unlock(&r->lock);
	if (rc < 0)
		atomic_store(&r->error, rc);
	return rc > 0;
}

static void *rotate_run(void *arg)
{
	struct rotate *r = arg;
	struct scrub_visitor visitor = {.file = rotate_file, .found = rotate_damaged, .enter = rotate_enter, .ctx = r};
	struct volume *v = r->session->v;
	int rc = scrub_walk(v, &visitor), fd;

	while (rc == 0 && (fd = rotate_next_kept(r)) >= 0) {
		/* It is known already: by being kept. What lies in it is asked about one by one. */
		struct scrub_visitor from = {.file = rotate_file, .found = rotate_damaged, .ctx = r};

		rc = scrub_walk_from(v, fd, &from);
		close(fd);
	}
	if (rc == 0)
		rc = atomic_load(&r->error);
	if (rc == 0)
		rc = volume_rotate_end(v);
	if (rc == 0)
		log_info("%s: the environment key is version %u; %llu files were moved to it", r->session->name, v->ek_version,
			(unsigned long long)atomic_load(&r->files));
	else if (rc != -ECANCELED)
		log_error("%s: the rotation waits: %s", r->session->name, strerror(-rc));
	atomic_store(&r->error, rc == -ECANCELED ? 0 : rc);
	pthread_mutex_lock(&r->lock);
	rotate_forget(r);
	pthread_mutex_unlock(&r->lock);
	atomic_store(&r->running, false);
	return NULL;
}

void rotate_end(struct rotate *r)
{
	atomic_store(&r->stop, true);
	if (r->started)
		pthread_join(r->thread, NULL);
	r->started = false;
	atomic_store(&r->stop, false);
}

void rotate_continue(struct rotate *r)
{
	if (!volume_rotating(r->session->v) || atomic_load(&r->running))
		return;
	rotate_end(r);
	atomic_store(&r->files, 0);
	atomic_store(&r->error, 0);
	atomic_store(&r->running, true);
	r->started = pthread_create(&r->thread, NULL, rotate_run, r) == 0;
	if (!r->started)
		atomic_store(&r->running, false);
}
