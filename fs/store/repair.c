/* repair: see repair.h. */
#include "store/repair.h"

#include "base/io.h"
#include "store/dir_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

DEFINE_CLEANUP(struct dir_stream *, dir_stream_close);

/* ---- ids ---- */

int repair_id(struct volume *v, int dirfd, const struct dir_id *id)
{
	uint8_t copies[ID_COPIES * SECTOR_SIZE];
	char tmp[32];
	int rc = volume_writable(v);

	if (rc == 0)
		rc = dir_id_encode(v->dir_mac, id, copies);
	if (rc < 0)
		return rc;
	volume_tmp_name(v, tmp);
	CLEANUP_CLOSE int fd = io_openat(v->tmp_fd, tmp, O_WRONLY | O_CREAT | O_EXCL, 0600);
	CLEANUP_CLOSE int dir = io_openat(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
	rc = fd < 0 ? fd : dir < 0 ? dir : io_pwrite_full(fd, copies, sizeof(copies), 0);
	if (rc == 0)
		rc = io_fsync(fd);
	if (rc == 0)
		rc = io_renameat2(v->tmp_fd, tmp, dir, DIR_ID_NAME, 0);
	if (rc < 0) {
		(void)!io_unlinkat(v->tmp_fd, tmp, 0);
		return rc;
	}
	rc = io_setxattr(dir, ID_COPY_NAME, copies, ID_SIZE, 0);
	if (rc == 0 || rc == -EOPNOTSUPP)
		rc = volume_synced(v, io_fsync(dir));
	return rc;
}

/* How many names of a directory verify under id; with what does not, a negative number. */
static int repair_count_names(struct volume *v, int dirfd, const struct dir_id *id, unsigned *ret_good)
{
	CLEANUP(dir_stream_closep) struct dir_stream *stream = NULL;
	struct dir_entry de;
	int rc = dir_stream_open(v, dirfd, id, &stream);

	*ret_good = 0;
	while (rc >= 0 && (rc = dir_stream_next_raw(stream, &de)) != 0) {
		*ret_good += rc == 1;
		rc = rc == -EBADMSG ? 1 : rc;
	}
	return MIN(rc, 0);
}

/* ---- names ---- */

static int repair_rename(struct volume *v, int dirfd, const struct dir_id *id, const char *lower, char ret_plain[static 64])
{
	struct lower_name to;
	struct stat st;
	int rc = io_fstatat(dirfd, lower, &st, AT_SYMLINK_NOFOLLOW);

	for (unsigned k = 0; rc == 0 || rc == -EEXIST; k++) {
		snprintf(ret_plain, 64, k ? "recovered.%llu.%u" : "recovered.%llu", (unsigned long long)st.st_ino, k);
		rc = name_seal(v, id, ret_plain, &to);
		if (rc == 0)
			rc = io_renameat2(dirfd, lower, dirfd, to.text, RENAME_NOREPLACE);
		if (rc == 0)
			return 0;
	}
	return rc;
}

struct repair {
	struct volume *v;
	void (*found)(void *ctx, const struct scrub_finding *f);
	void *ctx;
};

/* A directory's entries, or those of them whose names do not verify: collected first, for renaming while reading reads twice. */
struct names {
	char (*lower)[256];
	size_t count;
};

static void names_done(struct names *n)
{
	free(n->lower);
}

static int names_add(struct names *n, const char *lower)
{
	char(*more)[256] = (n->count & (n->count + 1)) == 0 ? realloc(n->lower, 2 * (n->count + 1) * sizeof(*more)) : n->lower;

	if (!more)
		return -ENOMEM;
	n->lower = more;
	strcpy(n->lower[n->count++], lower);
	return 0;
}

static int repair_names(struct repair *r, int dirfd, const struct dir_id *id, const char *lower, const char *plain)
{
	CLEANUP(names_done) struct names bad = {0};
	CLEANUP(dir_stream_closep) struct dir_stream *stream = NULL;
	struct lower_name long_name;
	struct dir_entry de;
	int rc = dir_stream_open(r->v, dirfd, id, &stream);

	while (rc >= 0 && (rc = dir_stream_next_raw(stream, &de)) != 0)
		if (rc == -EBADMSG)
			rc = names_add(&bad, de.lower);
		else if (rc > 0 && strncmp(de.lower, "l.", 2) == 0 && name_read_side(dirfd, de.lower, &long_name) < 0)
			rc = names_add(&bad, de.lower);
	for (size_t k = 0; rc == 0 && k < bad.count; k++) {
		const char *name = bad.lower[k];
		CLEANUP_FREE char *sub = str_format("%s/%s", lower, name);
		char to[64], done[128] = "its side file is written again";
		bool is_long = strncmp(name, "l.", 2) == 0 && name_read_copy(dirfd, name, &long_name) == 0 &&
			       dir_plain_name(r->v, dirfd, id, name, de.name) == 0;

		if (!sub)
			return -ENOMEM;
		rc = is_long ? name_side_create(r->v, dirfd, &long_name) : repair_rename(r->v, dirfd, id, name, to);
		if (!is_long)
			snprintf(done, sizeof(done), "called %s now", to);
		if (rc == 0)
			r->found(r->ctx, &(struct scrub_finding){.kind = is_long ? SCRUB_SIDE : SCRUB_NAME, .error = -EBADMSG, .lower = sub,
				.plain = plain, .done = done});
	}
	return rc;
}

static int repair_directory(struct repair *r, int dirfd, const char *lower, const char *plain)
{
	struct dir_id id, copy;
	unsigned good, under_id = 0, under_copy = 0;
	int from_file = dir_id_read(r->v, dirfd, &id, &good), from_copy = dir_id_read_copy(r->v, dirfd, &copy), rc = 0;
	bool differ = from_file == 0 && from_copy == 0 && memcmp(&id, &copy, sizeof(id)) != 0;
	struct scrub_finding f = {.kind = SCRUB_ID_COPY, .error = -EBADMSG, .lower = lower, .plain = plain, .done = "written again"};

	if (from_file < 0 && from_file != -EBADMSG && from_copy < 0)
		return from_file;
	if (differ) {
		rc = repair_count_names(r->v, dirfd, &id, &under_id);
		if (rc == 0)
			rc = repair_count_names(r->v, dirfd, &copy, &under_copy);
	}
	bool lost = from_file < 0 && from_copy < 0;
	if (lost)
		rc = secret_random(id.b, sizeof(id.b));
	else if (from_file < 0 || under_copy > under_id)
		id = copy;
	/* A missing copy is no damage: an older version made the directory, or a tool that copies no attributes. */
	bool damaged = good != ID_COPIES || differ || (from_copy < 0 && from_copy != -ENODATA);
	if (rc == 0 && (damaged || from_copy == -ENODATA))
		rc = repair_id(r->v, dirfd, &id);
	if (rc < 0)
		return rc;
	if (lost) {
		f.kind = SCRUB_ID;
		f.done = "it has a new one";
	}
	if (damaged)
		r->found(r->ctx, &f);
	return repair_names(r, dirfd, &id, lower, plain);
}

static int repair_below(struct repair *r, int dirfd, const char *lower, const char *plain)
{
	CLEANUP(dir_stream_closep) struct dir_stream *stream = NULL;
	struct dir_entry de;
	struct dir_id id;
	struct stat st;
	int rc = repair_directory(r, dirfd, lower, plain);

	/* The lower file system does not let itself be read here, say: the rest can be repaired all the same. */
	if (rc < 0 && rc != -ENOMEM && rc != -EROFS && rc != -ENOSPC) {
		r->found(r->ctx, &(struct scrub_finding){.kind = SCRUB_UNREADABLE, .error = rc, .lower = lower, .plain = plain});
		return 0;
	}
	if (rc == 0)
		rc = dir_id_load(r->v, dirfd, &id);
	if (rc == 0)
		rc = dir_stream_open(r->v, dirfd, &id, &stream);
	while (rc >= 0 && (rc = dir_stream_next_raw(stream, &de)) > 0) {
		if (strcmp(de.name, ".") == 0 || strcmp(de.name, "..") == 0 || io_fstatat(dirfd, de.lower, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			!S_ISDIR(st.st_mode))
			continue;
		CLEANUP_CLOSE int fd = io_openat(dirfd, de.lower, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
		CLEANUP_FREE char *sub_lower = str_format("%s/%s", lower, de.lower), *sub_plain = str_format("%s/%s", plain, de.name);

		rc = fd < 0 ? fd : sub_lower && sub_plain ? repair_below(r, fd, sub_lower, sub_plain) : -ENOMEM;
	}
	return rc;
}

int repair_tree(struct volume *v, void (*found)(void *ctx, const struct scrub_finding *f), void *ctx)
{
	struct repair r = {v, found, ctx};
	int rc = volume_writable(v);

	return rc < 0 ? rc : repair_below(&r, v->root_fd, "root", "");
}

/* ---- quarantine ---- */

/* The directory that lower's last name is in. */
static int open_parent(int fd, const char *lower, const char **ret_name)
{
	CLEANUP_CLOSE int dir = io_openat(fd, ".", O_PATH | O_DIRECTORY, 0);
	const char *slash;

	for (; dir >= 0 && (slash = strchr(lower, '/')); lower = slash + 1) {
		CLEANUP_FREE char *name = strndup(lower, (size_t)(slash - lower));
		int next = name ? io_openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0) : -ENOMEM;

		util_closep(&dir);
		dir = next;
	}
	*ret_name = lower;
	return dir < 0 ? dir : TAKE_FD(dir);
}

int repair_quarantine(struct volume *v, const char *lower, const char *why, char ret[static 64])
{
	const char *name;
	int rc = volume_writable(v);

	if (rc == 0)
		rc = io_mkdirat(v->fd, QUARANTINE_NAME, 0700);
	if (rc < 0 && rc != -EEXIST)
		return rc;
	CLEANUP_CLOSE int quarantine = io_openat(v->fd, QUARANTINE_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	CLEANUP_CLOSE int parent = quarantine < 0 ? quarantine : open_parent(v->fd, lower, &name);
	if (parent < 0)
		return parent;
	CLEANUP_CLOSE int report = io_openat(quarantine, "report", O_WRONLY | O_CREAT | O_NOFOLLOW, 0600);
	struct stat st;
	rc = report < 0 ? report : io_fstatat(report, "", &st, AT_EMPTY_PATH);
	if (rc < 0)
		return rc;
	rc = -EEXIST;
	for (unsigned k = 1; rc == -EEXIST; k++) {
		snprintf(ret, 64, QUARANTINE_NAME "/%u", k);
		rc = io_renameat2(parent, name, v->fd, ret, RENAME_NOREPLACE);
	}
	CLEANUP_FREE char *line = str_format("{\"time\": %lld, \"from\": \"%s\", \"as\": \"%s\", \"why\": \"%s\"}\n", (long long)time(NULL), lower,
		ret, why);
	if (rc == 0)
		rc = line ? io_pwrite_full(report, line, strlen(line), (uint64_t)st.st_size) : -ENOMEM;
	if (rc == 0)
		rc = volume_synced(v, io_syncfs(v->fd));
	return rc;
}
