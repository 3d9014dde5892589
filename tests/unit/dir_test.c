/* dir: names of every length, exchanges between directories, damage. */
#include "store.h"

static void names_of_every_length_roundtrip(void **state)
{
	char dir[64], name[257];
	struct dir_stream *stream;
	struct dir_entry entry;
	unsigned seen = 0;
	int rc;

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	struct dir_id id = store_root_id(v);
	for (unsigned n = 1; n <= 255; n++) {
		memset(name, 0, sizeof(name));
		memset(name, n % 2 ? 'x' : 0xff, n); /* not UTF-8 */
		int fd = dir_create(v, v->root_fd, &id, name, &store_owner);
		assert_true(fd >= 0);
		close(fd);
	}
	memset(name, 'y', 256);
	name[256] = '\0';
	assert_int_equal(dir_create(v, v->root_fd, &id, name, &store_owner), -ENAMETOOLONG);
	assert_int_equal(dir_stream_open(v, v->root_fd, &id, &stream), 0);
	while ((rc = dir_stream_next(stream, &entry)) == 1)
		if (strcmp(entry.name, ".") != 0 && strcmp(entry.name, "..") != 0) {
			size_t n = strlen(entry.name);

			assert_int_equal((unsigned char)entry.name[n - 1], n % 2 ? 'x' : 0xff);
			seen++;
		}
	assert_int_equal(rc, 0);
	dir_stream_close(stream);
	assert_int_equal(seen, 255);
	memset(name, 'x', 255);
	name[255] = '\0';
	assert_int_equal(dir_rename(v, v->root_fd, &id, name, v->root_fd, &id, "short", 0), 0);
	assert_int_equal(dir_rename(v, v->root_fd, &id, "short", v->root_fd, &id, name, RENAME_NOREPLACE), 0);
	assert_int_equal(dir_unlink(v, v->root_fd, &id, name), 0);
	assert_int_equal(dir_unlink(v, v->root_fd, &id, name), -ENOENT);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static bool tmpfiles; /* that the lower file system has them */
static unsigned foreign; /* changes of an owner while the name was there */

static int before_call(void *ctx, struct io_event *ev)
{
	struct stat st;

	(void)ctx;
	if (ev->op == IO_OPEN && (ev->flags & O_TMPFILE) == O_TMPFILE)
		return tmpfiles ? 0 : -EOPNOTSUPP;
	foreign += ev->op == IO_CHOWN && fstatat(ev->fd, ev->path, &st, AT_EMPTY_PATH) == 0 && st.st_nlink > 0;
	return 0;
}

static void file_has_its_owner_before_its_name(void **state)
{
	struct io_hook hook = {before_call, NULL, NULL};
	struct dir_owner owner = {1, 2, S_IFREG | 04640};
	char dir[64], name[] = "without";
	struct stat st;

	(void)state;
	if (geteuid() != 0)
		skip();
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	struct dir_id id = store_root_id(v);
	io_set_hook(&hook);
	for (tmpfiles = false;; tmpfiles = true, strcpy(name, "with")) {
		foreign = 0;
		int fd = dir_create(v, v->root_fd, &id, name, &owner);
		assert_true(fd >= 0);
		assert_int_equal(foreign, !tmpfiles);
		close(fd);
		assert_int_equal(dir_create(v, v->root_fd, &id, name, &owner), -EEXIST);
		fd = dir_lookup(v, v->root_fd, &id, name, &st);
		assert_true(fd >= 0 && st.st_uid == 1 && st.st_gid == 2 && st.st_mode == owner.mode && st.st_nlink == 1);
		close(fd);
		if (tmpfiles)
			break;
	}
	io_set_hook(NULL);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void name_from_another_directory_is_left_out(void **state)
{
	struct dir_owner owner = {0, 0, S_IFDIR | 0755};
	char dir[64], lower[256], sub[256], from[400], to[800];
	struct dir_stream *stream;
	struct dir_entry entry;
	struct stat st;

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	struct dir_id id = store_root_id(v), sub_id;
	close(dir_create(v, v->root_fd, &id, "f", &store_owner));
	assert_int_equal(dir_mkdir(v, v->root_fd, &id, "d", &owner), 0);
	assert_int_equal(dir_mkdir(v, v->root_fd, &id, "d", &owner), -EEXIST);
	assert_int_equal(dir_lower_name(v, &id, "f", lower), 0);
	assert_int_equal(dir_lower_name(v, &id, "d", sub), 0);
	snprintf(from, sizeof(from), "%s/root/%s", dir, lower);
	snprintf(to, sizeof(to), "%s/root/%s/%s", dir, sub, lower);
	assert_int_equal(rename(from, to), 0);
	int fd = dir_lookup(v, v->root_fd, &id, "d", &st);
	assert_true(fd >= 0);
	assert_int_equal(dir_id_load(v, fd, &sub_id), 0);
	assert_int_equal(dir_stream_open(v, fd, &sub_id, &stream), 0);
	unsigned before = store_reports;
	while (dir_stream_next(stream, &entry) == 1)
		assert_true(strcmp(entry.name, ".") == 0 || strcmp(entry.name, "..") == 0);
	assert_int_equal(store_reports, before + 1);
	dir_stream_close(stream);
	struct dir_id right = sub_id;
	/* Of the three copies of an id each is enough. */
	snprintf(to, sizeof(to), "%s/root/%s/tdefs.dir", dir, sub);
	for (int copy = 0; copy < 2; copy++) {
		int raw = open(to, O_RDWR);
		char byte;

		assert_int_equal(pread(raw, &byte, 1, copy * 512 + 10), 1);
		byte ^= 1;
		assert_int_equal(pwrite(raw, &byte, 1, copy * 512 + 10), 1);
		close(raw);
		assert_int_equal(dir_id_load(v, fd, &sub_id), 0);
		assert_memory_equal(&sub_id, &right, sizeof(right));
	}
	assert_int_equal(io_removexattr(fd, "user.tdefs.id"), 0);
	assert_int_equal(dir_id_load(v, fd, &sub_id), -EBADMSG);
	close(fd);
	assert_int_equal(dir_rmdir(v, v->root_fd, &id, "d"), -ENOTEMPTY);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

/* Every bit and length of tdefs.dir, of the id's copy, of a side file and its copy: what is left serves, or nothing does. */
static void damaged_ids_and_long_names_are_refused_or_served_by_a_copy(void **state)
{
	char dir[64], name[201], lower[256], plain[DIR_NAME_MAX + 1];
	uint8_t id_copy[56], both[1024], sealed[300];
	struct dir_id id, got;
	struct dir_stream *stream;
	struct dir_entry entry;

	(void)state;
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	id = store_root_id(v);
	memset(name, 'n', 200);
	name[200] = '\0';
	int fd = dir_create(v, v->root_fd, &id, name, &store_owner);
	assert_true(fd >= 0);

	/* ids */
	int raw = openat(v->root_fd, "tdefs.dir", O_RDWR);
	assert_int_equal(pread(raw, both, sizeof(both), 0), sizeof(both));
	assert_int_equal(io_getxattr(v->root_fd, "user.tdefs.id", id_copy, sizeof(id_copy)), sizeof(id_copy));
	assert_memory_equal(id_copy, both, sizeof(id_copy));
	assert_int_equal(io_removexattr(v->root_fd, "user.tdefs.id"), 0);
	for (unsigned bit = 0; bit < 8 * sizeof(id_copy); bit++) {
		for (unsigned sector = 0; sector < 2; sector++) {
			uint8_t byte = both[512 * sector + bit / 8] ^ (uint8_t)(1u << bit % 8);

			assert_int_equal(pwrite(raw, &byte, 1, 512 * sector + bit / 8), 1);
			assert_int_equal(dir_id_load(v, v->root_fd, &got), sector == 0 ? 0 : -EBADMSG);
		}
		/* The copy alone, good and with the same bit flipped. */
		assert_int_equal(io_setxattr(v->root_fd, "user.tdefs.id", id_copy, sizeof(id_copy), 0), 0);
		assert_int_equal(dir_id_load(v, v->root_fd, &got), 0);
		assert_memory_equal(&got, &id, sizeof(id));
		id_copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(io_setxattr(v->root_fd, "user.tdefs.id", id_copy, sizeof(id_copy), 0), 0);
		assert_int_equal(dir_id_load(v, v->root_fd, &got), -EBADMSG);
		id_copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(io_removexattr(v->root_fd, "user.tdefs.id"), 0);
		assert_int_equal(pwrite(raw, both, sizeof(both), 0), sizeof(both));
	}
	for (off_t len = 0; len < 56; len++) {
		assert_int_equal(ftruncate(raw, len), 0);
		assert_int_equal(dir_id_load(v, v->root_fd, &got), -EBADMSG);
	}
	assert_int_equal(pwrite(raw, both, sizeof(both), 0), sizeof(both));
	close(raw);

	/* long names */
	assert_int_equal(dir_lower_name(v, &id, name, lower), 0);
	lower[0] = 'n';
	raw = openat(v->root_fd, lower, O_RDWR);
	ssize_t n = pread(raw, sealed, sizeof(sealed), 0);
	assert_int_equal(n, 216);
	assert_int_equal(io_removexattr(fd, "user.tdefs.name"), 0);
	for (unsigned k = 0; k < 9 * (unsigned)n; k++) {
		if (k < 8 * (unsigned)n) {
			uint8_t byte = sealed[k / 8] ^ (uint8_t)(1u << k % 8);

			assert_int_equal(pwrite(raw, &byte, 1, k / 8), 1);
		} else {
			assert_int_equal(ftruncate(raw, k - 8 * n), 0);
		}
		for (int copy = 0; copy < 2; copy++) {
			unsigned seen = 0;

			if (copy)
				assert_int_equal(io_setxattr(fd, "user.tdefs.name", sealed, (size_t)n, 0), 0);
			assert_int_equal(dir_stream_open(v, v->root_fd, &id, &stream), 0);
			while (dir_stream_next(stream, &entry) == 1)
				if (entry.name[0] != '.') {
					strcpy(plain, entry.name);
					seen++;
				}
			dir_stream_close(stream);
			assert_int_equal(seen, copy);
		}
		assert_string_equal(plain, name);
		assert_int_equal(io_removexattr(fd, "user.tdefs.name"), 0);
		assert_int_equal(pwrite(raw, sealed, (size_t)n, 0), n);
	}
	close(raw);
	close(fd);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(names_of_every_length_roundtrip),
		cmocka_unit_test(file_has_its_owner_before_its_name), cmocka_unit_test(name_from_another_directory_is_left_out),
		cmocka_unit_test(damaged_ids_and_long_names_are_refused_or_served_by_a_copy)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
