/* scrub: see scrub.h. Directories are walked with one stream open per level, so depth is bounded by descriptors only. */
#include "store/scrub.h"

#include "base/io.h"
#include "store/dir_internal.h"
#include "store/extent.h"
#include "store/repair.h"
#include "store/xattr.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

DEFINE_CLEANUP(struct dir_stream *, dir_stream_close);
DEFINE_CLEANUP(DIR *, closedir);

/* ---- findings ---- */

const char *scrub_kind_name(enum scrub_kind kind)
{
	static const char *const names[] = {"blocks", "header", "unreadable", "name", "id", "id-copy", "side-file", "target", "attribute"};

	return names[kind];
}

void scrub_describe(const struct scrub_finding *f, char *ret, size_t size)
{
	static const char *const texts[] = {[SCRUB_FILE] = "its header does not verify",
		[SCRUB_NAME] = "a name in it does not verify", [SCRUB_ID] = "the directory's id is lost, and with it the names in it",
		[SCRUB_ID_COPY] = "a copy of the directory's id is damaged",
		[SCRUB_SIDE] = "the side file of its long name is missing or damaged, its copy is good",
		[SCRUB_TARGET] = "the link's target does not verify", [SCRUB_ATTRIBUTE] = "an extended attribute does not verify"};
	unsigned long long block = f->block, last = f->block + f->count - 1;
	int n;

	if (f->kind == SCRUB_BLOCKS && f->count == 1)
		n = snprintf(ret, size, "block %llu does not match its tag", block);
	else if (f->kind == SCRUB_BLOCKS)
		n = snprintf(ret, size, "blocks %llu to %llu do not match their tags", block, last);
	else
		n = snprintf(ret, size, "%s", f->kind == SCRUB_UNREADABLE ? strerror(-f->error) : texts[f->kind]);
	if (f->done && n >= 0 && (size_t)n < size)
		snprintf(ret + n, size - (size_t)n, "; %s", f->done);
}

uint64_t scrub_weight(const struct scrub_finding *f)
{
	return f->kind == SCRUB_BLOCKS ? f->count : 1;
}

static void scrub_found(const struct scrub_visitor *visitor, enum scrub_kind kind, int error, const char *lower, const char *plain, const char *done)
{
	struct scrub_finding f = {.kind = kind, .error = error, .lower = lower, .plain = plain, .done = done};

	visitor->found(visitor->ctx, &f);
}

/* ---- copies ---- */

/* A directory's id; thorough: with a look at each copy. */
static int scrub_id(struct volume *v, int dirfd, const struct scrub_visitor *visitor, const char *lower, const char *plain, struct dir_id *ret)
{
	struct dir_id copy;
	unsigned good;

	if (v->options.read_only && dir_id_is_due(v, dirfd)) {
		*ret = (struct dir_id){0}; /* for no names */
		return 0;
	}
	if (!visitor->thorough || dir_id_is_due(v, dirfd))
		return dir_id_load(v, dirfd, ret);
	int rc = dir_id_read(v, dirfd, ret, &good), rc2 = dir_id_read_copy(v, dirfd, &copy);
	if (rc < 0 && rc2 < 0)
		return rc;
	if (rc < 0)
		*ret = copy;
	/* A store from before there were copies, or below which there can be none, is whole without. */
	if (good == ID_COPIES && (rc2 == -ENODATA || (rc2 == 0 && memcmp(&copy, ret, sizeof(copy)) == 0)))
		return 0;
	/* Two good ones that differ: which is right the names tell (repair.c), and nobody who serves them. */
	bool clear = rc < 0 || rc2 < 0 || memcmp(&copy, ret, sizeof(copy)) == 0;
	rc = visitor->repair && clear ? repair_id(v, dirfd, ret) : -EAGAIN;
	scrub_found(visitor, SCRUB_ID_COPY, -EBADMSG, lower, plain, rc == 0 ? "written again" : NULL);
	return 0;
}

static void scrub_side_file(struct volume *v, int dirfd, const struct scrub_visitor *visitor, const char *name, const char *lower, const char *plain)
{
	struct lower_name long_name;

	if (!visitor->thorough || strncmp(name, "l.", 2) != 0 || name_read_side(dirfd, name, &long_name) == 0)
		return;
	int rc = name_read_copy(dirfd, name, &long_name);
	if (rc == 0)
		rc = visitor->repair ? name_side_create(v, dirfd, &long_name) : -EAGAIN;
	scrub_found(visitor, SCRUB_SIDE, -EBADMSG, lower, plain, rc == 0 ? "written again" : NULL);
}

/* ---- the walk ---- */

static int scrub_directory(struct volume *v, int dirfd, const struct scrub_visitor *visitor, const char *lower, const char *plain);

static int scrub_object(struct volume *v, int dirfd, const struct dir_entry *de, const struct scrub_visitor *visitor,
	const char *lower, const char *plain)
{
	char target[DIR_TARGET_MAX + 1];
	struct stat st;
	CLEANUP_CLOSE int fd = io_openat(dirfd, de->lower, O_PATH | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);

	if (rc == -ENOENT)
		return 0; /* gone since */
	if (rc < 0) {
		scrub_found(visitor, SCRUB_UNREADABLE, rc, lower, plain, NULL);
		return 0;
	}
	scrub_side_file(v, dirfd, visitor, de->lower, lower, plain);
	if (visitor->thorough) {
		rc = xattr_verify(v, fd, st.st_mode);
		if (rc < 0)
			scrub_found(visitor, rc == -EBADMSG ? SCRUB_ATTRIBUTE : SCRUB_UNREADABLE, rc, lower, plain, NULL);
	}
	if (S_ISDIR(st.st_mode))
		return scrub_directory(v, fd, visitor, lower, plain);
	if (S_ISREG(st.st_mode))
		return visitor->file(visitor->ctx, fd, &st, lower, plain);
	if (S_ISLNK(st.st_mode) && visitor->thorough) {
		rc = dir_readlink(v, fd, target);
		if (rc < 0)
			scrub_found(visitor, rc == -EBADMSG ? SCRUB_TARGET : SCRUB_UNREADABLE, rc, lower, plain, NULL);
	}
	return 0;
}

static int scrub_directory(struct volume *v, int dirfd, const struct scrub_visitor *visitor, const char *lower, const char *plain)
{
	CLEANUP(dir_stream_closep) struct dir_stream *stream = NULL;
	struct dir_entry de;
	struct dir_id id;
	int rc = scrub_id(v, dirfd, visitor, lower, plain, &id);

	if (rc == -ENOENT)
		return 0; /* gone since */
	if (rc < 0) {
		scrub_found(visitor, rc == -EBADMSG ? SCRUB_ID : SCRUB_UNREADABLE, rc, lower, plain, NULL);
		return 0;
	}
	rc = dir_stream_open(v, dirfd, &id, &stream);
	if (rc == -ENOENT)
		return 0;
	if (rc < 0) {
		scrub_found(visitor, SCRUB_UNREADABLE, rc, lower, plain, NULL);
		return 0;
	}
	for (;;) {
		rc = dir_stream_next_raw(stream, &de);
		if (rc == 0)
			return 0;
		CLEANUP_FREE char *sub_lower = str_format("%s/%s", lower, rc == 1 || rc == -EBADMSG ? de.lower : "");
		if (!sub_lower)
			return -ENOMEM;
		if (rc == -EBADMSG) {
			scrub_found(visitor, SCRUB_NAME, rc, sub_lower, plain, NULL);
			continue;
		}
		if (rc < 0) {
			scrub_found(visitor, SCRUB_UNREADABLE, rc, lower, plain, NULL);
			return 0;
		}
		if (strcmp(de.name, ".") == 0 || strcmp(de.name, "..") == 0)
			continue;
		CLEANUP_FREE char *sub_plain = str_format("%s/%s", plain, de.name);
		rc = sub_plain ? scrub_object(v, dirfd, &de, visitor, sub_lower, sub_plain) : -ENOMEM;
		if (rc < 0)
			return rc;
	}
}

int scrub_walk(struct volume *v, const struct scrub_visitor *visitor)
{
	return scrub_directory(v, v->root_fd, visitor, "root", "");
}

/* ---- everything, once ---- */

/* How much there is, by lengths alone; what cannot be read is not counted. */
static int scrub_measure(struct scrub *s, int dirfd)
{
	CLEANUP(closedirp) DIR *dp = NULL;
	const struct dirent *de;
	struct stat st;
	int rc = io_opendir(dirfd, &dp);

	while (rc == 0 && io_readdir(dp, &de) > 0) {
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 || strcmp(de->d_name, DIR_ID_NAME) == 0 ||
			strncmp(de->d_name, "n.", 2) == 0 || io_fstatat(dirfd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISREG(st.st_mode)) {
			atomic_fetch_add(&s->total_files, 1);
			atomic_fetch_add(&s->total_bytes, extent_blocks(extent_plain_size((uint64_t)st.st_size)) * BLOCK_SIZE);
		} else if (S_ISDIR(st.st_mode)) {
			CLEANUP_CLOSE int fd = io_openat(dirfd, de->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);

			rc = fd < 0 ? 0 : scrub_measure(s, fd);
		}
		if (atomic_load(&s->stop))
			rc = -ECANCELED;
	}
	return rc == -ECANCELED ? rc : 0;
}

static void scrub_count(void *ctx, const struct scrub_finding *f)
{
	struct scrub *s = ctx;

	atomic_fetch_add(&s->bad, scrub_weight(f));
	s->found(s->ctx, f);
}

/* One file under verification. */
struct scrub_file {
	struct scrub *s;
	const char *lower, *plain;
};

static bool scrub_step(void *ctx, unsigned blocks)
{
	struct scrub_file *f = ctx;

	atomic_fetch_add(&f->s->bytes, blocks * (uint64_t)BLOCK_SIZE);
	return !atomic_load(&f->s->stop);
}

static void scrub_bad_blocks(void *ctx, uint64_t first, uint64_t count)
{
	struct scrub_file *f = ctx;

	scrub_count(f->s, &(struct scrub_finding){.kind = SCRUB_BLOCKS, .error = -EBADMSG, .lower = f->lower, .plain = f->plain,
		.block = first, .count = count});
}

static int scrub_content(void *ctx, struct content *c)
{
	struct scrub_file *f = ctx;
	struct content_check check;
	int rc = content_scan(c, &(struct content_watch){scrub_step, scrub_bad_blocks, f}, &check);

	atomic_fetch_add(&f->s->blocks, check.good + check.bad);
	atomic_fetch_add(&f->s->holes, check.holes);
	return rc;
}

static int scrub_visit_file(void *ctx, int fd, const struct stat *st, const char *lower, const char *plain)
{
	struct scrub *s = ctx;
	struct scrub_file f = {s, lower, plain};

	if (atomic_load(&s->stop))
		return -ECANCELED;
	int rc = s->with(s->ctx, fd, st, scrub_content, &f);
	atomic_fetch_add(&s->files, 1);
	if (rc == -EBADMSG || (rc < 0 && rc != -ECANCELED && rc != -ENOMEM)) {
		scrub_count(s, &(struct scrub_finding){.kind = rc == -EBADMSG ? SCRUB_FILE : SCRUB_UNREADABLE, .error = rc, .lower = lower,
			.plain = plain});
		rc = 0;
	}
	return rc;
}

int scrub_run(struct scrub *s)
{
	struct scrub_visitor visitor = {.file = scrub_visit_file, .found = scrub_count, .thorough = true, .repair = s->repair, .ctx = s};

	s->files = s->bytes = s->blocks = s->holes = s->bad = s->total_files = s->total_bytes = 0;
	int rc = scrub_measure(s, s->v->root_fd);
	return rc < 0 ? rc : scrub_walk(s->v, &visitor);
}
