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

		assert_int_equal(pwrite(raw, "x", 1, copy * 512 + 10), 1);
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

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(names_of_every_length_roundtrip),
		cmocka_unit_test(name_from_another_directory_is_left_out)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
