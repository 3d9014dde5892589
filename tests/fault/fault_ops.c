/* fault_ops: every kind of change and look at a store, each small enough to fail every one of its calls. */
#include "fault.h"

#include "store/recrypt.h"
#include "store/xattr.h"

#include <linux/falloc.h>

#define B 4096
#define FILE_BLOCKS 140u /* two groups */

const struct env_key fault_next_key = {.b = "the environment key after that"};
static const struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .ek_version = 1,
	.blob = {2}, .blob_len = 1};
static const struct dir_owner somebody = {1000, 1000, S_IFREG | 02640}, directory = {1000, 1000, S_IFDIR | 02750};

/* 200 bytes: with a side file. */
#define LONG50(c) c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c
#define LONG(c) LONG50(c) LONG50(c) LONG50(c) LONG50(c)

DEFINE_CLEANUP(struct content *, content_close);

/* ---- doors ---- */

static int root_id(struct volume *v, struct dir_id *ret)
{
	return dir_id_load(v, v->root_fd, ret);
}

static int look_up(struct volume *v, const char *name, struct stat *ret_st)
{
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_lookup(v, v->root_fd, &id, name, ret_st);
}

static int file_open(struct volume *v, const char *name, struct content **ret)
{
	struct stat st;
	CLEANUP_CLOSE int fd = look_up(v, name, &st);
	int copy = fd < 0 ? fd : io_reopen(fd, O_RDWR);

	return copy < 0 ? copy : content_open(v, copy, ret);
}

static const uint8_t *pattern(size_t len, uint8_t first)
{
	static uint8_t data[FILE_BLOCKS * B];

	for (size_t k = 0; k < len; k++)
		data[k] = (uint8_t)(first + k / B % 100);
	return data;
}

static int write_at(struct volume *v, const char *name, uint64_t off, size_t len, uint8_t first)
{
	CLEANUP(content_closep) struct content *c = NULL;
	int rc = file_open(v, name, &c);

	return rc < 0 ? rc : content_write(c, pattern(len, first), len, off);
}

/* ---- the tree before ---- */

static void setup_file(struct volume *v, const struct dir_id *id, int dirfd, const char *name, size_t len)
{
	struct content *c;
	int fd = dir_create(v, dirfd, id, name, &store_owner);

	assert_true(fd >= 0);
	assert_int_equal(content_open(v, fd, &c), 0);
	assert_int_equal(content_write(c, pattern(len, 1), len, 0), 0);
	if (content_seal_begin(c))
		content_seal_finish(c, content_sync(c, false));
	content_close(c);
}

void fault_setup(const char *store, bool crashed)
{
	static const struct dir_owner link = {0, 0, S_IFLNK | 0777};
	static const char *const directories[] = {"d", "d2", LONG("D")};
	struct dir_id sub;
	struct stat st;

	store_create(store);
	struct volume *v = store_open(store);
	struct dir_id id = store_root_id(v);
	setup_file(v, &id, v->root_fd, "a", FILE_BLOCKS * B);
	setup_file(v, &id, v->root_fd, "tail", 2 * B + 100);
	setup_file(v, &id, v->root_fd, "empty", 0);
	setup_file(v, &id, v->root_fd, LONG("l"), 10);
	for (unsigned k = 0; k < ARRAY_LEN(directories); k++)
		assert_int_equal(dir_mkdir(v, v->root_fd, &id, directories[k], &directory), 0);
	assert_int_equal(dir_symlink(v, v->root_fd, &id, "link", &link, "target"), 0);
	int fd = dir_lookup(v, v->root_fd, &id, "d", &st);
	assert_int_equal(dir_id_load(v, fd, &sub), 0);
	setup_file(v, &sub, fd, "x", 5);
	close(fd);
	fd = dir_lookup(v, v->root_fd, &id, "a", &st);
	assert_int_equal(xattr_set(v, fd, st.st_mode, "user.colour", "blue", 4, 0), 0);
	close(fd);
	if (crashed) {
		struct content *c;

		assert_int_equal(volume_close(v), 0);
		v = store_open(store);
		assert_int_equal(store_file(v, "a", false, &c), 0);
		assert_int_equal(content_write(c, pattern(3 * B, 60), 3 * B, 2 * B), 0);
		assert_int_equal(content_truncate(c, FILE_BLOCKS * B - 77), 0);
		content_close(c);
		v->options.read_only = true; /* ends without the clean flag */
	}
	assert_int_equal(volume_close(v), 0);
}

/* ---- names ---- */

static int op_create_as(struct volume *v, const char *name)
{
	struct dir_id id;
	int rc = root_id(v, &id);
	CLEANUP_CLOSE int fd = rc < 0 ? rc : dir_create(v, v->root_fd, &id, name, &somebody);

	return fd < 0 ? fd : 0;
}

static int op_create(struct volume *v)
{
	return op_create_as(v, "new");
}

static int op_create_long(struct volume *v)
{
	return op_create_as(v, LONG("n"));
}

static int op_mkdir(struct volume *v)
{
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_mkdir(v, v->root_fd, &id, "new", &directory);
}

static int op_mkdir_long(struct volume *v)
{
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_mkdir(v, v->root_fd, &id, LONG("n"), &directory);
}

static int op_mknod(struct volume *v)
{
	static const struct dir_owner fifo = {1000, 1000, S_IFIFO | 0640};
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_mknod(v, v->root_fd, &id, "new", &fifo, 0);
}

static int op_symlink_to(struct volume *v, const char *name, size_t len)
{
	static const struct dir_owner owner = {1000, 1000, S_IFLNK | 0777};
	char target[DIR_TARGET_MAX + 1];
	struct dir_id id;
	int rc = root_id(v, &id);

	memset(target, 't', len);
	target[len] = '\0';
	return rc < 0 ? rc : dir_symlink(v, v->root_fd, &id, name, &owner, target);
}

static int op_symlink(struct volume *v)
{
	return op_symlink_to(v, LONG("n"), 20);
}

static int op_symlink_large(struct volume *v)
{
	return op_symlink_to(v, "new", 4000);
}

static int op_link_as(struct volume *v, const char *name)
{
	struct dir_id id;
	struct stat st;
	int rc = root_id(v, &id);
	CLEANUP_CLOSE int fd = rc < 0 ? rc : look_up(v, "a", &st);

	return fd < 0 ? fd : dir_link(v, fd, v->root_fd, &id, name);
}

/* O_TMPFILE: with a name in the end. */
static int op_tmpfile(struct volume *v)
{
	struct dir_id id;
	int rc = root_id(v, &id);
	CLEANUP_CLOSE int fd = rc < 0 ? rc : dir_tmpfile(v, v->root_fd, &somebody);

	return fd < 0 ? fd : dir_link(v, fd, v->root_fd, &id, LONG("n"));
}

static int op_link(struct volume *v)
{
	return op_link_as(v, "new");
}

static int op_link_long(struct volume *v)
{
	return op_link_as(v, LONG("n"));
}

static int op_unlink(struct volume *v)
{
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_unlink(v, v->root_fd, &id, "tail");
}

static int op_unlink_long(struct volume *v)
{
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_unlink(v, v->root_fd, &id, LONG("l"));
}

static int op_rmdir(struct volume *v)
{
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_rmdir(v, v->root_fd, &id, LONG("D"));
}

static int op_rename_to(struct volume *v, const char *from, const char *to, unsigned flags)
{
	struct dir_id id;
	int rc = root_id(v, &id);

	return rc < 0 ? rc : dir_rename(v, v->root_fd, &id, from, v->root_fd, &id, to, flags);
}

static int op_rename(struct volume *v)
{
	return op_rename_to(v, "a", "new", RENAME_NOREPLACE);
}

static int op_rename_over(struct volume *v)
{
	return op_rename_to(v, "tail", "a", 0);
}

static int op_rename_to_long(struct volume *v)
{
	return op_rename_to(v, "a", LONG("n"), 0);
}

static int op_rename_over_long(struct volume *v)
{
	return op_rename_to(v, "a", LONG("l"), 0);
}

static int op_rename_from_long(struct volume *v)
{
	return op_rename_to(v, LONG("l"), "new", 0);
}

static int op_rename_exchange(struct volume *v)
{
	return op_rename_to(v, "d", LONG("l"), RENAME_EXCHANGE);
}

static int op_rename_over_directory(struct volume *v)
{
	return op_rename_to(v, "d", "d2", 0);
}

static int op_rename_over_long_directory(struct volume *v)
{
	return op_rename_to(v, "d", LONG("D"), 0);
}

static int op_rename_into(struct volume *v)
{
	struct dir_id id, sub;
	struct stat st;
	int rc = root_id(v, &id);
	CLEANUP_CLOSE int fd = rc < 0 ? rc : look_up(v, "d", &st);

	rc = fd < 0 ? fd : dir_id_load(v, fd, &sub);
	return rc < 0 ? rc : dir_rename(v, v->root_fd, &id, "a", fd, &sub, "x", 0);
}

static int op_read_directory(struct volume *v)
{
	struct dir_stream *stream;
	struct dir_entry entry;
	unsigned seen = 0;
	struct dir_id id;
	int rc = root_id(v, &id);

	if (rc == 0)
		rc = dir_stream_open(v, v->root_fd, &id, &stream);
	if (rc < 0)
		return rc;
	while ((rc = dir_stream_next(stream, &entry)) > 0)
		seen++;
	dir_stream_close(stream);
	if (rc == 0)
		assert_int_equal(seen, 10);
	return rc;
}

static int op_read_link(struct volume *v)
{
	char target[DIR_TARGET_MAX + 1];
	struct stat st;
	CLEANUP_CLOSE int fd = look_up(v, "link", &st);
	int rc = fd < 0 ? fd : dir_readlink(v, fd, target);

	if (rc == 0)
		assert_string_equal(target, "target");
	return rc;
}

/* ---- content ---- */

static int op_write_over(struct volume *v)
{
	return write_at(v, "a", 10 * B + 5, 6 * B, 50);
}

static int op_write_large(struct volume *v)
{
	return write_at(v, "a", 0, FILE_BLOCKS * B, 50);
}

static int op_write_extends(struct volume *v)
{
	return write_at(v, "tail", 2 * B + 50, 3 * B + 7, 50);
}

static int op_write_extends_aligned(struct volume *v)
{
	return write_at(v, "a", FILE_BLOCKS * B, 4 * B, 50);
}

static int op_write_with_gap(struct volume *v)
{
	return write_at(v, "tail", 200 * B + 1, 2 * B, 50);
}

static int op_write_first(struct volume *v)
{
	return write_at(v, "empty", 0, 3 * B + 9, 50);
}

static int op_write_sync_write(struct volume *v)
{
	CLEANUP(content_closep) struct content *c = NULL;
	int rc = file_open(v, "a", &c);

	if (rc == 0)
		rc = content_write(c, pattern(B, 50), B, 3 * B);
	if (rc == 0)
		rc = content_sync(c, true);
	if (rc == 0)
		rc = content_write(c, pattern(B, 60), B, 130 * B);
	return rc < 0 ? rc : content_sync(c, false);
}

static int truncate_to(struct volume *v, const char *name, uint64_t size)
{
	CLEANUP(content_closep) struct content *c = NULL;
	int rc = file_open(v, name, &c);

	return rc < 0 ? rc : content_truncate(c, size);
}

static int op_shrink(struct volume *v)
{
	return truncate_to(v, "a", 20 * B + 77);
}

static int op_shrink_aligned(struct volume *v)
{
	return truncate_to(v, "a", 130 * B);
}

static int op_grow(struct volume *v)
{
	return truncate_to(v, "tail", 150 * B + 3);
}

static int op_grow_empty(struct volume *v)
{
	return truncate_to(v, "empty", 2 * B + 3);
}

static int op_empty(struct volume *v)
{
	return truncate_to(v, "a", 0);
}

static int allocate(struct volume *v, const char *name, int mode, uint64_t off, uint64_t len)
{
	CLEANUP(content_closep) struct content *c = NULL;
	int rc = file_open(v, name, &c);

	return rc < 0 ? rc : content_allocate(c, mode, off, len);
}

static int op_allocate(struct volume *v)
{
	return allocate(v, "tail", 0, B, 140 * B);
}

static int op_allocate_empty(struct volume *v)
{
	return allocate(v, "empty", 0, 0, 5 * B + 5);
}

static int op_allocate_beyond(struct volume *v)
{
	return allocate(v, "a", FALLOC_FL_KEEP_SIZE, 100 * B, 100 * B);
}

static int op_punch(struct volume *v)
{
	return allocate(v, "a", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * B + 7, 120 * B);
}

static int op_zero_range(struct volume *v)
{
	return allocate(v, "a", FALLOC_FL_ZERO_RANGE, 130 * B + 7, 20 * B);
}

static int op_seal(struct volume *v)
{
	CLEANUP(content_closep) struct content *c = NULL;
	int rc = file_open(v, "a", &c);

	if (rc == 0)
		rc = content_write(c, pattern(B, 50), B, 3 * B);
	if (rc == 0 && content_seal_begin(c)) {
		rc = content_sync(c, true);
		content_seal_finish(c, rc);
	}
	return rc < 0 ? rc : content_write(c, pattern(B, 60), B, 5 * B);
}

static int op_read(struct volume *v)
{
	CLEANUP(content_closep) struct content *c = NULL;
	struct content_check check;
	uint8_t buf[9 * B];
	int rc = file_open(v, "a", &c);
	ssize_t n = rc < 0 ? rc : content_read(c, buf, sizeof(buf), 125 * B + 3);

	if (n < 0)
		return (int)n;
	assert_int_equal(n, sizeof(buf));
	assert_int_equal(buf[0], 26);
	rc = content_verify(c, &check);
	return rc < 0 ? rc : check.bad ? -EIO : 0; /* what cannot be read is bad */
}

static int op_seek(struct volume *v)
{
	CLEANUP(content_closep) struct content *c = NULL;
	int rc = file_open(v, "a", &c);
	uint64_t at;

	return rc < 0 ? rc : content_seek(c, 5, SEEK_HOLE, &at);
}

/* After a crash, opening is repairing. */
static int op_recover(struct volume *v)
{
	CLEANUP(content_closep) struct content *c = NULL;

	return file_open(v, "a", &c);
}

struct look {
	struct volume *v;
	int error;
};

static int look_file(void *ctx, int path_fd, const struct stat *st, const char *lower, const char *plain)
{
	CLEANUP(content_closep) struct content *c = NULL;
	const struct look *l = ctx;
	int fd = io_reopen(path_fd, O_RDWR);

	(void)st;
	(void)lower;
	(void)plain;
	return fd < 0 ? fd : content_open(l->v, fd, &c);
}

static void look_found(void *ctx, const struct scrub_finding *f)
{
	((struct look *)ctx)->error = f->error;
}

/* After a crash, everything is looked at, and the crash forgotten. */
static int op_forget(struct volume *v)
{
	struct look l = {.v = v};
	int rc = scrub_walk(v, &(struct scrub_visitor){.file = look_file, .found = look_found, .ctx = &l});

	if (rc == 0)
		rc = l.error;
	return rc < 0 ? rc : volume_forget_unclean(v);
}

/* ---- attributes ---- */

static int op_xattrs(struct volume *v)
{
	char names[300], value[10];
	struct stat st;
	CLEANUP_CLOSE int fd = look_up(v, "a", &st);
	int rc = fd < 0 ? fd : xattr_set(v, fd, st.st_mode, "user.colour", "red", 3, 0);
	ssize_t n = rc < 0 ? rc : xattr_list(v, fd, st.st_mode, names, sizeof(names));

	if (n >= 0)
		n = xattr_get(v, fd, st.st_mode, "user.colour", value, sizeof(value));
	return n < 0 ? (int)n : 0;
}

static int op_xattr_remove(struct volume *v)
{
	struct stat st;
	CLEANUP_CLOSE int fd = look_up(v, "a", &st);
	int rc = fd < 0 ? fd : xattr_remove(v, fd, st.st_mode, "user.colour");

	return rc == -ENODATA ? 0 : rc; /* the second time */
}

/* ---- the volume ---- */

static int op_statfs(struct volume *v)
{
	struct statfs st;

	return volume_statfs(v, &st);
}

static int op_rewrap(struct volume *v)
{
	return volume_rewrap(v, &wrap, 1);
}

static int op_rotate(struct volume *v)
{
	CLEANUP(content_closep) struct content *c = NULL;
	int rc = volume_rotating(v) ? 0 : volume_rotate_begin(v, &fault_next_key, &wrap, 1, false);

	if (rc == 0)
		rc = file_open(v, "a", &c);
	if (rc == 0)
		rc = content_rotate(c);
	return MIN(rc, 0);
}

/* Every file that fault_setup left. */
static int files_each(struct volume *v, int (*fn)(void *ctx, struct content *c), void *ctx)
{
	static const char *const names[] = {"a", "tail", LONG("l")};
	struct dir_id id;
	struct stat st;
	int rc = 0;

	for (unsigned k = 0; rc == 0 && k < ARRAY_LEN(names); k++) {
		CLEANUP(content_closep) struct content *c = NULL;

		rc = file_open(v, names[k], &c);
		if (rc == 0)
			rc = fn(ctx, c);
	}
	if (rc < 0)
		return rc;
	/* d/x */
	CLEANUP(content_closep) struct content *c = NULL;
	CLEANUP_CLOSE int dirfd = look_up(v, "d", &st);
	rc = dirfd < 0 ? dirfd : dir_id_load(v, dirfd, &id);
	CLEANUP_CLOSE int fd = rc < 0 ? rc : dir_lookup(v, dirfd, &id, "x", &st);
	int copy = fd < 0 ? fd : io_reopen(fd, O_RDWR);
	rc = copy < 0 ? copy : content_open(v, copy, &c);
	return rc < 0 ? rc : fn(ctx, c);
}

static int rotate_file(void *ctx, struct content *c)
{
	(void)ctx;
	int rc = content_rotate(c);
	return MIN(rc, 0);
}

static int rotate_whole(struct volume *v, bool data)
{
	int rc = volume_rotating(v) || v->ek_version > 1 ? 0 : volume_rotate_begin(v, &fault_next_key, &wrap, 1, data);

	if (rc == 0)
		rc = files_each(v, rotate_file, NULL);
	return rc < 0 ? rc : volume_rotating(v) ? volume_rotate_end(v) : 0;
}

static int op_rotate_whole(struct volume *v)
{
	return rotate_whole(v, false);
}

static int recrypt_file(void *ctx, struct content *c)
{
	struct recrypt_file file = {.content = c};
	uint64_t bytes;
	int rc = 0;

	while (rc == 0 && file.result == 0)
		rc = recrypt_step(ctx, &file, 1, &bytes);
	return rc < 0 ? rc : MIN(file.result, 0);
}

static int op_rotate_data(struct volume *v)
{
	struct recrypt *r = NULL;
	int rc = rotate_whole(v, true);

	if (rc == 0)
		rc = recrypt_new(v, &r);
	if (rc == 0)
		rc = files_each(v, recrypt_file, r);
	recrypt_free(r);
	return rc < 0 ? rc : volume_data_rotating(v) ? volume_data_end(v) : 0;
}

const struct fault_op fault_ops[] = {
	{"create", op_create, true, false},
	{"create, long name", op_create_long, true, false},
	{"mkdir", op_mkdir, true, false},
	{"mkdir, long name", op_mkdir_long, true, false},
	{"mknod", op_mknod, true, false},
	{"symlink, long name", op_symlink, true, false},
	{"symlink, large", op_symlink_large, true, false},
	{"link", op_link, true, false},
	{"file without a name, and its name", op_tmpfile, true, false},
	{"link, long name", op_link_long, true, false},
	{"unlink", op_unlink, true, false},
	{"unlink, long name", op_unlink_long, true, false},
	{"rmdir", op_rmdir, true, false},
	{"rename", op_rename, true, false},
	{"rename over", op_rename_over, true, false},
	{"rename to long", op_rename_to_long, true, false},
	{"rename over long", op_rename_over_long, true, false},
	{"rename from long", op_rename_from_long, true, false},
	{"exchange", op_rename_exchange, true, false},
	{"rename over directory", op_rename_over_directory, true, false},
	{"rename over long directory", op_rename_over_long_directory, true, false},
	{"rename into directory", op_rename_into, true, false},
	{"read directory", op_read_directory, true, false},
	{"read link", op_read_link, true, false},
	{"write over", op_write_over, false, false},
	{"write large", op_write_large, false, false},
	{"write, extending", op_write_extends, false, false},
	{"write, extending in blocks", op_write_extends_aligned, false, false},
	{"write with a gap", op_write_with_gap, false, false},
	{"write first", op_write_first, false, false},
	{"write, sync, write, sync", op_write_sync_write, false, false},
	{"shrink", op_shrink, false, false},
	{"shrink, in blocks", op_shrink_aligned, false, false},
	{"grow", op_grow, false, false},
	{"grow from nothing", op_grow_empty, false, false},
	{"empty", op_empty, false, false},
	{"allocate", op_allocate, false, false},
	{"allocate from nothing", op_allocate_empty, false, false},
	{"allocate beyond", op_allocate_beyond, false, false},
	{"punch", op_punch, false, false},
	{"zero range", op_zero_range, false, false},
	{"seal", op_seal, false, false},
	{"read", op_read, true, false},
	{"seek", op_seek, true, false},
	{"recover", op_recover, false, true},
	{"write after a crash", op_write_over, false, true},
	{"forget a crash", op_forget, false, true},
	{"xattrs", op_xattrs, true, false},
	{"xattr remove", op_xattr_remove, true, false},
	{"statfs", op_statfs, true, false},
	{"rewrap", op_rewrap, true, false},
	{"rotate one", op_rotate, true, false},
	{"rotate", op_rotate_whole, false, false},
	{"rotate --data", op_rotate_data, false, false},
};
const unsigned fault_op_count = ARRAY_LEN(fault_ops);
