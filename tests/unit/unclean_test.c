/* unclean: epochs that ended uncleanly: how long they are remembered, and what that excuses. */
#include "store.h"

#define MANY (ENV_UNCLEAN_MAX + 40u)

/* The end comes without warning. */
static void die(struct volume *v)
{
	v->options.read_only = true;
	assert_int_equal(volume_close(v), 0);
}

static int file_fd(struct volume *v, const char *name)
{
	struct dir_id id = store_root_id(v);
	struct stat st;
	int path_fd = dir_lookup(v, v->root_fd, &id, name, &st), fd = io_reopen(path_fd, O_RDWR);

	assert_true(fd >= 0);
	close(path_fd);
	return fd;
}

static void make_file(struct volume *v, const char *name, bool seal)
{
	static const uint8_t data[3 * BLOCK_SIZE] = "what was written";
	struct content *c;

	assert_int_equal(store_file(v, name, true, &c), 0);
	assert_int_equal(content_write(c, data, sizeof(data), 0), 0);
	if (seal) {
		assert_true(content_seal_begin(c));
		content_seal_finish(c, content_sync(c, true));
	}
	content_close(c);
}

/* A store that was just made, open, with files of three blocks that were not sealed. Names end with NULL. */
static struct volume *begin(char dir[64], const char *const *names)
{
	test_dir(dir);
	store_create(dir);
	struct volume *v = store_open(dir);
	for (; *names; names++)
		make_file(v, *names, false);
	return v;
}

/* As a write that the power interrupts leaves it, or somebody who has no key. */
static void change(struct volume *v, const char *name, uint64_t off)
{
	uint8_t byte;
	int fd = file_fd(v, name);

	assert_int_equal(pread(fd, &byte, 1, (off_t)off), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)off), 1);
	close(fd);
}

static void zero_header(struct volume *v, const char *name)
{
	static const uint8_t zeros[HEADER_SIZE];
	int fd = file_fd(v, name);

	assert_int_equal(pwrite(fd, zeros, sizeof(zeros), 0), sizeof(zeros));
	close(fd);
}

/* Opens it and reads all of it. */
static int look(struct volume *v, const char *name)
{
	struct content_check check;
	struct content *c;
	int rc = store_file(v, name, false, &c);

	if (rc < 0)
		return rc;
	assert_int_equal(content_verify(c, &check), 0);
	content_close(c);
	return check.bad ? -EIO : 0;
}

static void list_full_opens_and_excuses_what_is_older(void **state)
{
	char dir[64];
	struct volume *v = begin(dir, (const char *const[]){"in flux", "other", NULL});

	(void)state;
	make_file(v, "sealed", true);
	change(v, "in flux", extent_data_off(1));
	change(v, "sealed", extent_data_off(1));
	die(v);
	for (unsigned k = 1; k < MANY; k++)
		die(store_open(dir));
	v = store_open(dir);
	assert_int_equal(v->header.epoch, MANY + 1);
	assert_int_equal(v->header.unclean_count, ENV_UNCLEAN_MAX);
	assert_true(v->header.unclean[0] > 1);
	assert_int_equal(volume_last_unclean(v), MANY);
	assert_true(volume_epoch_unclean(v, 1));
	assert_true(volume_epoch_unclean(v, v->header.unclean[0]));
	assert_false(volume_epoch_unclean(v, MANY + 1));
	/* What was sealed in the crashed epoch is excused by nothing. */
	assert_int_equal(look(v, "in flux"), 0);
	assert_int_equal(atomic_load(&v->stats.resealed), 1);
	assert_int_equal(look(v, "sealed"), -EIO);
	assert_int_equal(look(v, "other"), 0);
	assert_int_equal(volume_forget_unclean(v), 0);
	assert_false(volume_epoch_unclean(v, 1));
	assert_int_equal(volume_close(v), 0);
	v = store_open(dir);
	assert_int_equal(v->header.unclean_count, 0);
	assert_int_equal(look(v, "in flux"), 0);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void forgotten_excuses_nothing_more(void **state)
{
	struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .blob = {2}, .blob_len = 1};
	char dir[64];
	struct volume *v = begin(dir, (const char *const[]){"one", "two", "three", NULL});

	(void)state;
	die(v);
	v = store_open(dir);
	zero_header(v, "one");
	assert_int_equal(look(v, "one"), 0); /* nothing of it was synced, for all that is known */
	assert_int_equal(look(v, "two"), 0);
	assert_int_equal(look(v, "three"), 0);
	assert_int_equal(volume_forget_unclean(v), 0);
	zero_header(v, "two");
	assert_int_equal(look(v, "two"), -EBADMSG);
	change(v, "three", extent_data_off(0));
	assert_int_equal(look(v, "three"), -EIO);
	/* A header that is written for another reason does not bring them back. */
	assert_int_equal(volume_rewrap(v, &wrap, 1), 0);
	die(v);
	v = store_open(dir);
	assert_int_equal(v->header.unclean_count, 1);
	assert_false(volume_epoch_unclean(v, 1));
	assert_true(volume_epoch_unclean(v, 2));
	assert_int_equal(look(v, "three"), -EIO);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void forgetting_needs_a_volume_that_can_be_written(void **state)
{
	char dir[64];
	struct volume *v = begin(dir, (const char *const[]){NULL});

	(void)state;
	die(v);
	assert_int_equal(volume_open(dir, &store_key, &(struct volume_options){.read_only = true}, &v), 0);
	assert_int_equal(volume_last_unclean(v), 1);
	assert_int_equal(volume_forget_unclean(v), -EROFS);
	assert_int_equal(volume_last_unclean(v), 1);
	assert_int_equal(volume_close(v), 0);
	v = store_open(dir);
	(void)volume_poison(v, "a test", -EIO);
	assert_int_equal(volume_forget_unclean(v), -EROFS);
	assert_int_equal(volume_close(v), -EROFS);
	v = store_open(dir);
	assert_int_equal(v->header.unclean_count, 2);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void copy_of(const char *dir, char ret[64])
{
	char command[200];

	test_dir(ret);
	snprintf(command, sizeof(command), "cp -a %s/. %s/", dir, ret);
	assert_int_equal(system(command), 0);
}

static void in_a_copy_nothing_is_excused_but_its_own_crashes(void **state)
{
	char dir[64], copy[64], believed[64], lock[80];
	struct volume *v = begin(dir, (const char *const[]){"in flux", "headless", "whole", NULL});

	(void)state;
	change(v, "in flux", extent_data_off(1));
	zero_header(v, "headless");
	die(v);
	copy_of(dir, copy);
	copy_of(dir, believed);
	/* Looked at only, it is left as it is. */
	assert_int_equal(volume_open(copy, &store_key, &(struct volume_options){.read_only = true}, &v), 0);
	assert_int_equal(look(v, "in flux"), -EIO);
	assert_int_equal(volume_close(v), 0);
	v = store_open(copy);
	make_file(v, "its own", false);
	change(v, "its own", extent_data_off(1));
	die(v);
	v = store_open(copy);
	assert_int_equal(look(v, "in flux"), -EIO);
	assert_int_equal(look(v, "in flux"), -EIO); /* and so it stays */
	assert_int_equal(look(v, "whole"), 0);
	assert_int_equal(atomic_load(&v->stats.resealed), 0);
	assert_int_equal(look(v, "its own"), 0);
	assert_int_equal(atomic_load(&v->stats.resealed), 1);
	assert_int_equal(volume_close(v), 0);
	/* The store itself, and a copy of which somebody says that it is one. */
	snprintf(lock, sizeof(lock), "%s/lock", believed);
	assert_int_equal(truncate(lock, 0), 0);
	for (unsigned k = 0; k < 2; k++) {
		v = store_open(k == 0 ? dir : believed);
		assert_int_equal(look(v, "in flux"), 0);
		assert_int_equal(look(v, "headless"), 0);
		assert_int_equal(volume_close(v), 0);
	}
	test_remove(dir);
	test_remove(copy);
	test_remove(believed);
}

static void in_a_copy_a_lost_header_is_damage(void **state)
{
	char dir[64], copy[64];
	struct volume *v = begin(dir, (const char *const[]){"headless", NULL});

	(void)state;
	zero_header(v, "headless");
	die(v);
	copy_of(dir, copy);
	v = store_open(copy);
	assert_int_equal(look(v, "headless"), -EBADMSG);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
	test_remove(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(list_full_opens_and_excuses_what_is_older),
		cmocka_unit_test(forgotten_excuses_nothing_more), cmocka_unit_test(forgetting_needs_a_volume_that_can_be_written),
		cmocka_unit_test(in_a_copy_nothing_is_excused_but_its_own_crashes), cmocka_unit_test(in_a_copy_a_lost_header_is_damage)};

	/* Thousands of mounts, each with its syncs. */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
