/* inode: one object and one content for a file, however lookups, opens and forgets fall together. */
#include "store.h"

#include "mount/inode.h"

#include <pthread.h>
#include <time.h>

struct fixture {
	char dir[64];
	struct volume *v;
	struct inode_table t;
	pthread_mutex_t lock;
	pthread_cond_t moved;
	bool closing, done; /* lock */
	pthread_t closer;
	int opened, wrote;  /* what the other thread saw */
	ssize_t got;
};

static void fixture_begin(struct fixture *f)
{
	*f = (struct fixture){.closing = false};
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->moved, NULL);
	test_dir(f->dir);
	store_create(f->dir);
	f->v = store_open(f->dir);
	assert_int_equal(inode_table_init(&f->t, f->v), 0);
}

static void fixture_end(struct fixture *f)
{
	io_set_hook(NULL);
	inode_put(&f->t, f->t.root, 1);
	inode_table_done(&f->t);
	assert_int_equal(volume_close(f->v), 0);
	test_remove(f->dir);
}

static struct inode *fixture_lookup(struct fixture *f, const char *name)
{
	struct dir_id id = store_root_id(f->v);
	struct inode *i = NULL;
	struct stat st;
	int fd = dir_lookup(f->v, f->v->root_fd, &id, name, &st);

	assert_true(fd >= 0);
	assert_int_equal(inode_get(&f->t, fd, &st, &i), 0);
	return i;
}

/* The slot that a closing content writes is held back until the other thread has had its chance. */
static int slow_slot(void *ctx, struct io_event *ev)
{
	struct fixture *f = ctx;
	struct timespec until;

	if (ev->op != IO_WRITE || ev->len != SECTOR_SIZE || !pthread_equal(pthread_self(), f->closer))
		return 0;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 1;
	pthread_mutex_lock(&f->lock);
	f->closing = true;
	pthread_cond_broadcast(&f->moved);
	while (!f->done && pthread_cond_timedwait(&f->moved, &f->lock, &until) == 0)
		;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static void *look_up_again(void *arg)
{
	struct fixture *f = arg;
	char buf[16];
	struct content *c;

	pthread_mutex_lock(&f->lock);
	while (!f->closing)
		pthread_cond_wait(&f->moved, &f->lock);
	pthread_mutex_unlock(&f->lock);
	struct inode *i = fixture_lookup(f, "a");
	f->opened = inode_open(&f->t, i, &c);
	if (f->opened == 0) {
		f->got = content_read(c, buf, sizeof(buf), BLOCK_SIZE);
		f->wrote = content_write(c, "again", 5, 0);
		inode_release(i);
	}
	pthread_mutex_lock(&f->lock);
	f->done = true;
	pthread_cond_broadcast(&f->moved);
	pthread_mutex_unlock(&f->lock);
	inode_put(&f->t, i, 1);
	return NULL;
}

static void inode_forgotten_while_looked_up_has_one_content(void **state)
{
	struct fixture f;
	struct content *c;
	pthread_t other;
	char buf[8] = "";

	(void)state;
	fixture_begin(&f);
	assert_int_equal(store_file(f.v, "a", true, &c), 0);
	content_close(c);
	/* A hole, so that the file's slot says something else than it did when it was opened. */
	struct inode *i = fixture_lookup(&f, "a");
	assert_int_equal(inode_open(&f.t, i, &c), 0);
	assert_int_equal(content_truncate(c, 100 * BLOCK_SIZE), 0);
	assert_int_equal(content_write(c, "end", 3, 99 * BLOCK_SIZE), 0);
	inode_release(i);
	f.closer = pthread_self();
	io_set_hook(&(struct io_hook){.before = slow_slot, .ctx = &f});
	assert_int_equal(pthread_create(&other, NULL, look_up_again, &f), 0);
	inode_put(&f.t, i, 1);
	assert_true(f.closing); /* or the seam was not hit */
	pthread_join(other, NULL);
	io_set_hook(NULL);
	assert_int_equal(f.opened, 0);
	assert_int_equal(f.got, 16);
	assert_int_equal(f.wrote, 0);

	i = fixture_lookup(&f, "a");
	assert_int_equal(inode_open(&f.t, i, &c), 0);
	assert_int_equal(content_read(c, buf, 5, 0), 5);
	assert_string_equal(buf, "again");
	assert_int_equal(content_read(c, buf, 5, 50 * BLOCK_SIZE), 5);
	inode_release(i);
	inode_put(&f.t, i, 1);
	fixture_end(&f);
}

/* The slot's write puts mtime back as it found it; what was set meanwhile stays all the same. */
static void inode_sealed_while_times_are_set_keeps_them(void **state)
{
	struct timespec ts[2] = {{0, UTIME_OMIT}, {1000000000, 5}};
	struct fixture f;
	struct content *c;
	struct stat st;

	(void)state;
	fixture_begin(&f);
	assert_int_equal(store_file(f.v, "a", true, &c), 0);
	content_close(c);
	struct inode *i = fixture_lookup(&f, "a");
	assert_int_equal(fstatat(i->fd, "", &st, AT_EMPTY_PATH), 0);
	struct timespec told = st.st_mtim;
	inode_mtime(i, &told);
	assert_int_equal(inode_open(&f.t, i, &c), 0);
	assert_int_equal(content_write(c, "x", 1, 0), 0);
	inode_touch(i);
	inode_release(i);
	assert_int_equal(fstatat(i->fd, "", &st, AT_EMPTY_PATH), 0);
	/* Whoever looks before it is put back is told the same as before. */
	told = st.st_mtim;
	told.tv_sec++;
	inode_mtime(i, &told);
	assert_int_equal(told.tv_sec, st.st_mtim.tv_sec);
	assert_int_equal(inode_set_times(i, ts), 0);
	/* As a seal would have it that looked before the time was set. */
	assert_int_equal(utimensat(content_fd(c), "", (struct timespec[2]){{0, UTIME_OMIT}, st.st_mtim}, AT_EMPTY_PATH), 0);
	inode_seal_all(&f.t);
	assert_int_equal(fstatat(i->fd, "", &st, AT_EMPTY_PATH), 0);
	assert_int_equal(st.st_mtim.tv_sec, ts[1].tv_sec);
	assert_int_equal(st.st_mtim.tv_nsec, ts[1].tv_nsec);
	inode_put(&f.t, i, 1);
	fixture_end(&f);
}

/* ---- what fsync asks of the disk ---- */

struct syncs {
	unsigned whole, data;
};

static int count_syncs(void *ctx, struct io_event *ev)
{
	struct syncs *n = ctx;

	n->whole += ev->op == IO_FSYNC;
	n->data += ev->op == IO_FDATASYNC;
	return 0;
}

static void inode_fsync_syncs_attributes_only_where_they_changed(void **state)
{
	struct fixture f;
	struct syncs n = {0};
	struct io_hook hook = {.before = count_syncs, .ctx = &n};
	struct content *c;

	(void)state;
	fixture_begin(&f);
	assert_int_equal(store_file(f.v, "f", true, &c), 0);
	content_close(c);
	struct inode *i = fixture_lookup(&f, "f");
	assert_int_equal(inode_open(&f.t, i, &c), 0);
	io_set_hook(&hook);
	/* The first, and the first after each change to attributes or names. */
	for (unsigned k = 0; k < 3; k++) {
		for (unsigned again = 0; again < 5; again++) {
			assert_int_equal(content_write(c, "abc", 3, again), 0);
			inode_touch(i);
			assert_int_equal(inode_sync(&f.t, i, c, false), 0);
			assert_int_equal(n.whole, k + 1);
		}
		assert_int_equal(n.data, 4 * (k + 1));
		inode_changed(&f.t, k ? NULL : i);
	}
	assert_int_equal(inode_sync(&f.t, i, c, true), 0);
	assert_int_equal(n.whole, 3);
	io_set_hook(NULL);
	inode_release(i);
	inode_put(&f.t, i, 1);
	fixture_end(&f);
}

static void inode_idle_content_stays_until_the_second_seal(void **state)
{
	struct content *c, *again;
	struct fixture f;

	(void)state;
	fixture_begin(&f);
	assert_int_equal(store_file(f.v, "f", true, &c), 0);
	content_close(c);
	struct inode *i = fixture_lookup(&f, "f");
	assert_int_equal(inode_open(&f.t, i, &c), 0);
	inode_release(i);
	assert_ptr_equal(i->content, c);
	inode_seal_all(&f.t);
	assert_int_equal(inode_open(&f.t, i, &again), 0);
	assert_ptr_equal(again, c);
	inode_release(i);
	inode_seal_all(&f.t);
	assert_non_null(i->content);
	inode_seal_all(&f.t);
	assert_null(i->content);
	assert_int_equal(inode_open_files(&f.t), 0);
	inode_put(&f.t, i, 1);
	fixture_end(&f);
}

/* Nothing else would know what its slot has to say. */
static void inode_content_in_use_or_without_name_stays(void **state)
{
	struct content *c, *again;
	struct fixture f;

	(void)state;
	fixture_begin(&f);
	assert_int_equal(store_file(f.v, "f", true, &c), 0);
	content_close(c);
	struct inode *i = fixture_lookup(&f, "f");
	assert_int_equal(inode_open(&f.t, i, &c), 0);
	for (int k = 0; k < 4; k++)
		inode_seal_all(&f.t);
	assert_ptr_equal(i->content, c);
	inode_release(i);
	struct dir_id id = store_root_id(f.v);
	assert_int_equal(dir_unlink(f.v, f.v->root_fd, &id, "f"), 0);
	for (int k = 0; k < 4; k++)
		inode_seal_all(&f.t);
	assert_int_equal(inode_open(&f.t, i, &again), 0);
	assert_ptr_equal(again, c);
	inode_release(i);
	inode_put(&f.t, i, 1);
	assert_int_equal(inode_open_files(&f.t), 0);
	fixture_end(&f);
}

/* Far more than may be held at once, half of them changed: some are sealed and closed to make room, none is lost. */
static void inode_contents_make_room_for_others(void **state)
{
	enum { FILES = 200, HELD = 16 };
	struct inode *i[FILES];
	struct content *c;
	struct fixture f;
	char name[8], buf[8];

	(void)state;
	fixture_begin(&f);
	f.t.contents_max = HELD;
	for (int k = 0; k < FILES; k++) {
		snprintf(name, sizeof(name), "%d", k);
		assert_int_equal(store_file(f.v, name, true, &c), 0);
		content_close(c);
		i[k] = fixture_lookup(&f, name);
		assert_int_equal(inode_open(&f.t, i[k], &c), 0);
		if (k % 2)
			assert_int_equal(content_write(c, name, sizeof(name), 0), 0);
		inode_release(i[k]);
		assert_in_range(inode_open_files(&f.t), 1, HELD);
	}
	for (int k = 0; k < FILES; k++) {
		snprintf(name, sizeof(name), "%d", k);
		assert_int_equal(inode_open(&f.t, i[k], &c), 0);
		assert_int_equal(content_read(c, buf, sizeof(buf), 0), k % 2 ? (int)sizeof(buf) : 0);
		assert_true(k % 2 == 0 || strcmp(buf, name) == 0);
		inode_release(i[k]);
		inode_put(&f.t, i[k], 1);
	}
	fixture_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inode_forgotten_while_looked_up_has_one_content),
		cmocka_unit_test(inode_sealed_while_times_are_set_keeps_them),
		cmocka_unit_test(inode_fsync_syncs_attributes_only_where_they_changed),
		cmocka_unit_test(inode_idle_content_stays_until_the_second_seal),
		cmocka_unit_test(inode_content_in_use_or_without_name_stays),
		cmocka_unit_test(inode_contents_make_room_for_others),
	};

	return cmocka_run_group_tests_name("inode", tests, NULL, NULL);
}
