/* scrub: see scrub.h. Directories are walked with one stream open per level, so depth is bounded by descriptors only. */
#include "store/scrub.h"

#include "base/io.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

DEFINE_CLEANUP(struct dir_stream *, dir_stream_close);

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
		visitor->damaged(visitor->ctx, rc, lower, plain);
		return 0;
	}
	if (S_ISDIR(st.st_mode))
		return visitor->enter && !visitor->enter(visitor->ctx, &st) ? 0 : scrub_directory(v, fd, visitor, lower, plain);
	if (S_ISREG(st.st_mode))
		return visitor->file(visitor->ctx, fd, &st, lower, plain);
	if (S_ISLNK(st.st_mode)) {
		rc = dir_readlink(v, fd, target);
		if (rc < 0)
			visitor->damaged(visitor->ctx, rc, lower, plain);
	}
	return 0;
}

static int scrub_directory(struct volume *v, int dirfd, const struct scrub_visitor *visitor, const char *lower, const char *plain)
{
	CLEANUP(dir_stream_closep) struct dir_stream *stream = NULL;
	uint64_t before;
	struct dir_entry de;
	struct dir_id id;
	int rc = dir_id_load(v, dirfd, &id);

	if (rc == 0)
		rc = dir_stream_open(v, dirfd, &id, &stream);
	if (rc < 0) {
		visitor->damaged(visitor->ctx, rc, lower, plain);
		return 0;
	}
	for (;;) {
		before = atomic_load(&v->stats.refused);
		rc = dir_stream_next(stream, &de);
		/* Names that do not verify were left out, and reported by name. */
		if (atomic_load(&v->stats.refused) != before)
			visitor->damaged(visitor->ctx, -EBADMSG, lower, plain);
		if (rc <= 0)
			return rc;
		if (strcmp(de.name, ".") == 0 || strcmp(de.name, "..") == 0)
			continue;
		CLEANUP_FREE char *sub_lower = str_format("%s/%s", lower, de.lower);
		CLEANUP_FREE char *sub_plain = str_format("%s/%s", plain, de.name);
		rc = sub_lower && sub_plain ? scrub_object(v, dirfd, &de, visitor, sub_lower, sub_plain) : -ENOMEM;
		if (rc < 0)
			return rc;
	}
}

int scrub_walk_from(struct volume *v, int dirfd, const struct scrub_visitor *visitor)
{
	struct stat st;
	int rc = io_fstatat(dirfd, "", &st, AT_EMPTY_PATH);

	if (rc < 0 || (visitor->enter && !visitor->enter(visitor->ctx, &st)))
		return rc;
	return scrub_directory(v, dirfd, visitor, "(moved)", "(moved)");
}

int scrub_walk(struct volume *v, const struct scrub_visitor *visitor)
{
	return scrub_directory(v, v->root_fd, visitor, "root", "");
}
