/* scrubber: see scrubber.h. */
#include "mount/scrubber.h"

#include "base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define KEPT_MAX 1000u

struct scrubber_finding {
	const char *kind;
	char *text, *lower, *plain;
	uint64_t block, count;
};

void scrubber_init(struct scrubber *s, struct session *session)
{
	*s = (struct scrubber){.session = session};
	pthread_mutex_init(&s->lock, NULL);
}

static void scrubber_forget(struct scrubber *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->kept_count > 0) {
		struct scrubber_finding *f = &s->kept[--s->kept_count];

		free(f->text);
		free(f->lower);
		free(f->plain);
	}
	free(s->kept);
	s->kept = NULL;
	pthread_mutex_unlock(&s->lock);
}

void scrubber_done(struct scrubber *s)
{
	scrubber_forget(s);
	pthread_mutex_destroy(&s->lock);
}

static int scrubber_with(void *ctx, int fd, const struct stat *st, int (*fn)(void *arg, struct content *c), void *arg)
{
	struct scrubber *s = ctx;
	struct inode_table *inodes = &s->session->inodes;
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
		rc = fn(arg, c);
		inode_release(i);
	}
	inode_put(inodes, i, 1);
	return rc;
}

static void scrubber_found(void *ctx, const struct scrub_finding *f)
{
	struct scrubber *s = ctx;
	struct scrubber_finding kept = {.kind = scrub_kind_name(f->kind), .block = f->block, .count = f->count};
	char text[160];

	scrub_describe(f, text, sizeof(text));
	log_warn("%s: scrub: %s (%s): %s", s->session->name, f->plain[0] ? f->plain : "/", f->lower, text);
	pthread_mutex_lock(&s->lock);
	if (!s->kept)
		s->kept = calloc(KEPT_MAX, sizeof(*s->kept));
	if (s->kept && s->kept_count < KEPT_MAX) {
		kept.text = strdup(text);
		kept.lower = strdup(f->lower);
		kept.plain = strdup(f->plain[0] ? f->plain : "/");
		s->kept[s->kept_count++] = kept;
	}
	pthread_mutex_unlock(&s->lock);
}

static void *scrubber_run(void *arg)
{
	struct scrubber *s = arg;

	atomic_store(&s->error, scrub_run(&s->scrub));
	atomic_store(&s->running, false);
	return NULL;
}

int scrubber_start(struct scrubber *s, bool repair)
{
	if (atomic_load(&s->running))
		return -EALREADY;
	scrubber_end(s);
	scrubber_forget(s);
	s->scrub.v = s->session->v;
	s->scrub.repair = repair;
	s->scrub.with = scrubber_with;
	s->scrub.found = scrubber_found;
	s->scrub.ctx = s;
	atomic_store(&s->error, 0);
	atomic_store(&s->running, true);
	s->started = pthread_create(&s->thread, NULL, scrubber_run, s) == 0;
	if (!s->started)
		atomic_store(&s->running, false);
	return s->started ? 0 : -EAGAIN;
}

void scrubber_end(struct scrubber *s)
{
	atomic_store(&s->scrub.stop, true);
	if (s->started)
		pthread_join(s->thread, NULL);
	s->started = false;
	atomic_store(&s->scrub.stop, false);
}

void scrubber_status(struct scrubber *s, struct link_status *ret)
{
	ret->scrub_running = atomic_load(&s->running);
	ret->scrub_error = atomic_load(&s->error);
	ret->scrub_files = atomic_load(&s->scrub.files);
	ret->scrub_total_files = atomic_load(&s->scrub.total_files);
	ret->scrub_bytes = atomic_load(&s->scrub.bytes);
	ret->scrub_total_bytes = atomic_load(&s->scrub.total_bytes);
	ret->scrub_blocks = atomic_load(&s->scrub.blocks);
	ret->scrub_bad = atomic_load(&s->scrub.bad);
}

bool scrubber_finding(struct scrubber *s, uint64_t number, struct link_finding *ret)
{
	pthread_mutex_lock(&s->lock);
	bool there = number < s->kept_count;
	if (there) {
		const struct scrubber_finding *f = &s->kept[number];

		*ret = (struct link_finding){.block = f->block, .count = f->count};
		snprintf(ret->kind, sizeof(ret->kind), "%s", f->kind);
		snprintf(ret->text, sizeof(ret->text), "%s", f->text ? f->text : "");
		snprintf(ret->lower, sizeof(ret->lower), "%s", f->lower ? f->lower : "");
		snprintf(ret->plain, sizeof(ret->plain), "%s", f->plain ? f->plain : "");
	}
	pthread_mutex_unlock(&s->lock);
	return there;
}
