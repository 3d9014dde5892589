/* crash_state: builds one crash state from the log of a recording_mount, opens it as a mount would, verifies all of it, and writes
 * the plain tree out, for an engine to look at.
 *
 *     crash_state BASE LOG KEYFILE SEED FROM[-TO[@NAME]] STORE PLAIN [PLANT]
 *
 * The cut is taken at random after the first FROM bytes of the log, within the first TO; with NAME, soon after the next write to a
 * file that was made under that name. Prints the bytes of the log before the cut, the number of blocks re-sealed and how the state
 * was made. Exit status 1 when anything was refused. PLANT names a bug of plant.c. With - as PLAIN the state is built and left as it
 * is, and no key is needed: KEYFILE may be - too. */
#include "plant.h"
#include "../tools/key_file.h"

#include "store/content.h"
#include "store/dir.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

DEFINE_CLEANUP(struct content *, content_close);
DEFINE_CLEANUP(struct dir_stream *, dir_stream_close);

static unsigned wrong;

static void report(void *ctx, const char *line)
{
	(void)ctx;
	if (strncmp(line, "re-sealed", 9) != 0)
		fprintf(stderr, "%s\n", line);
}

static void check(int rc, const char *what, const char *name)
{
	if (rc < 0) {
		fprintf(stderr, "%s %s: %s\n", what, name, strerror(-rc));
		wrong++;
	}
}

static void write_file(struct volume *v, int path_fd, int to, const char *name, mode_t mode)
{
	static char buf[1 << 20];
	CLEANUP(content_closep) struct content *c = NULL;
	struct content_check verified = {0};
	int fd = io_reopen(path_fd, O_RDWR), rc = fd < 0 ? fd : content_open(v, fd, &c);
	CLEANUP_CLOSE int out = openat(to, name, O_WRONLY | O_CREAT | O_CLOEXEC, mode & 07777);

	if (rc == 0)
		rc = content_verify(c, &verified);
	check(rc, "cannot open", name);
	if (rc < 0)
		return;
	if (verified.bad)
		check(-EBADMSG, "does not verify:", name);
	for (uint64_t off = 0; off < content_size(c);) {
		ssize_t n = content_read(c, buf, sizeof(buf), off);

		if (n <= 0 || pwrite(out, buf, (size_t)n, (off_t)off) != n) {
			check(n < 0 ? (int)n : -EIO, "cannot copy", name);
			return;
		}
		off += (uint64_t)n;
	}
}

static void write_directory(struct volume *v, int dirfd, int to)
{
	CLEANUP(dir_stream_closep) struct dir_stream *stream = NULL;
	struct dir_entry de;
	struct dir_id id;
	int rc = dir_id_load(v, dirfd, &id);

	if (rc == 0)
		rc = dir_stream_open(v, dirfd, &id, &stream);
	while (rc >= 0 && (rc = dir_stream_next(stream, &de)) > 0) {
		char target[DIR_TARGET_MAX + 1];
		struct stat st;

		if (strcmp(de.name, ".") == 0 || strcmp(de.name, "..") == 0)
			continue;
		CLEANUP_CLOSE int fd = dir_lookup(v, dirfd, &id, de.name, &st);
		check(fd, "cannot look up", de.name);
		if (fd < 0)
			continue;
		if (S_ISDIR(st.st_mode)) {
			CLEANUP_CLOSE int sub = io_openat(fd, ".", O_RDONLY | O_DIRECTORY, 0), sub_to = -1;

			if (mkdirat(to, de.name, 0700) == 0)
				sub_to = openat(to, de.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			write_directory(v, sub, sub_to);
		} else if (S_ISREG(st.st_mode)) {
			write_file(v, fd, to, de.name, st.st_mode);
		} else if (S_ISLNK(st.st_mode)) {
			check(dir_readlink(v, fd, target), "cannot read the link", de.name);
			(void)!symlinkat(target, to, de.name);
		}
	}
	check(rc, "cannot read a directory", "");
}

/* Records that end within so many bytes of the log. */
static size_t records_within(const struct recording *r, uint64_t bytes)
{
	size_t n = 0;

	while (n < r->count && r->log_ends[n] <= bytes)
		n++;
	return n;
}

/* The cut, moved on to soon after the next write to that file; not beyond last. */
static size_t cut_after(const struct recording *r, const char *name, size_t cut, size_t last, uint64_t *seed)
{
	uint32_t obj = 0;

	for (size_t k = 0; k < last; k++) {
		const struct record *one = &r->records[k];

		if (one->op == IO_OPEN && one->made && one->path && strcmp(one->path, name) == 0)
			obj = one->made;
		else if (k >= cut && obj && one->op == IO_WRITE && one->obj == obj)
			return MIN(k + 1 + crash_below(seed, crash_below(seed, 2) ? 5 : 100), last);
	}
	return cut;
}

static void say(const struct recording *r, const struct crash_state *s, uint64_t resealed)
{
	printf("%llu %llu %s cut %zu of %zu\n", s->cut ? (unsigned long long)r->log_ends[s->cut - 1] : 0, (unsigned long long)resealed,
		s->loose ? "loose" : "journal", s->cut, r->count);
}

int main(int argc, char **argv)
{
	struct volume_options options = {.report = report};
	struct recording r;
	struct volume *v;
	struct env_key key = {0};
	char *to_bytes;

	if (argc != 8 && argc != 9) {
		fprintf(stderr, "usage: crash_state BASE LOG KEYFILE SEED FROM[-TO[@NAME]] STORE PLAIN [PLANT]\n");
		return 2;
	}
	FILE *log = fopen(argv[2], "re");
	bool plain = argc > 7 && strcmp(argv[7], "-") != 0;
	if (!log || (plain && key_read(argv[3], &key) < 0) || secret_init(1 << 20) < 0)
		return 2;
	uint64_t seed = (strtoull(argv[4], NULL, 0) * 2 + 1) * UINT64_C(0x9e3779b97f4a7c15); /* seeds that are near give states that are not */
	record_load(&r, argv[1], log);
	for (const struct plant *plant = plants; argc == 9 && plant->name; plant++)
		if (strcmp(plant->name, argv[8]) == 0)
			plant->workload(&r);
	struct crash_state s = {.loose = crash_below(&seed, 2)};
	size_t first = records_within(&r, strtoull(argv[5], &to_bytes, 0));
	size_t last = *to_bytes == '-' ? records_within(&r, strtoull(to_bytes + 1, &to_bytes, 0)) : r.count;
	s.cut = first + crash_below(&seed, MAX(first, last) - first + 1);
	if (*to_bytes == '@')
		s.cut = cut_after(&r, to_bytes + 1, s.cut, last, &seed);
	s.seed = crash_random(&seed);
	state_build(&r, argv[6], &s);
	if (!plain) {
		say(&r, &s, 0);
		state_done(&s);
		record_free(&r);
		return 0;
	}
	int rc = volume_open(argv[6], &key, &options, &v);
	check(rc, "cannot open", argv[6]);
	if (rc < 0)
		return 1;
	CLEANUP_CLOSE int to = mkdir(argv[7], 0755) == 0 ? open(argv[7], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (to < 0)
		return 2;
	write_directory(v, v->root_fd, to);
	say(&r, &s, atomic_load(&v->stats.resealed));
	wrong += (unsigned)atomic_load(&v->stats.refused);
	check(volume_close(v), "cannot close", argv[6]);
	state_done(&s);
	record_free(&r);
	return wrong > 0;
}
