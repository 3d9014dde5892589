/* range: what waits for what; and that content uses it so that different ranges of a file really go side by side. */
#include "store.h"

#include "store/range.h"

#include <linux/falloc.h>
#include <pthread.h>
#include <time.h>

/* A place where threads meet: whoever comes waits for the others, for as long as a broken lock would need to show. */
struct meeting {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	unsigned want, here, most; /* lock */
	long patience_ms;
};

static struct meeting meeting = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0};
static _Thread_local bool guest; /* this thread's I/O counts */

static void meeting_begin(unsigned want, long patience_ms)
{
	meeting.want = want;
	meeting.here = meeting.most = 0;
	meeting.patience_ms = patience_ms;
}

static void meet(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += meeting.patience_ms / 1000;
	until.tv_nsec += meeting.patience_ms % 1000 * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&meeting.lock);
	meeting.here++;
	meeting.most = MAX(meeting.most, meeting.here);
	pthread_cond_broadcast(&meeting.moved);
	while (meeting.most < meeting.want && pthread_cond_timedwait(&meeting.moved, &meeting.lock, &until) == 0)
		;
	meeting.here--;
	pthread_mutex_unlock(&meeting.lock);
}

/* ---- ranges alone ---- */

struct party {
	struct range_set *set;
	uint64_t first, last;
	bool exclusive;
};

static void *hold(void *arg)
{
	const struct party *p = arg;
	struct range r;

	range_lock(p->set, &r, p->first, p->last, p->exclusive);
	meet();
	range_unlock(p->set, &r);
	return NULL;
}

/* The most of these two that were inside at once. */
static unsigned together(struct range_set *set, long patience_ms, struct party a, struct party b)
{
	pthread_t threads[2];
	struct party both[2] = {a, b};

	meeting_begin(2, patience_ms);
	for (unsigned k = 0; k < 2; k++) {
		both[k].set = set;
		assert_int_equal(pthread_create(&threads[k], NULL, hold, &both[k]), 0);
	}
	for (unsigned k = 0; k < 2; k++)
		pthread_join(threads[k], NULL);
	return meeting.most;
}

static void range_excludes_only_what_conflicts(void **state)
{
	struct range_set set;

	(void)state;
	range_set_init(&set);
	assert_int_equal(together(&set, 100, (struct party){NULL, 0, 9, true}, (struct party){NULL, 9, 9, true}), 1);
	assert_int_equal(together(&set, 100, (struct party){NULL, 0, 9, true}, (struct party){NULL, 3, 4, false}), 1);
	assert_int_equal(together(&set, 100, (struct party){NULL, 5, RANGE_END, true}, (struct party){NULL, 1000, 1000, true}), 1);
	assert_int_equal(together(&set, 10000, (struct party){NULL, 0, 9, false}, (struct party){NULL, 0, RANGE_END, false}), 2);
	assert_int_equal(together(&set, 10000, (struct party){NULL, 0, 9, true}, (struct party){NULL, 10, RANGE_END, true}), 2);
	assert_int_equal(together(&set, 10000, (struct party){NULL, 0, 0, true}, (struct party){NULL, 1, 1, false}), 2);
	range_set_done(&set);
}

static void range_watched_knows_who_came(void **state)
{
	struct range_set set;
	struct range watched, other;

	(void)state;
	range_set_init(&set);
	for (unsigned round = 0; round < 4; round++) {
		bool meets = round == 3;

		range_lock(&set, &watched, 10, 19, true);
		range_watch(&set, &watched);
		/* Nobody waits for it; who reads, or is elsewhere, does not count. */
		range_lock(&set, &other, meets ? 19 : round == 0 ? 20 : 12, meets || round == 0 ? 30 : 12, meets || round == 0);
		range_unlock(&set, &other);
		assert_int_equal(range_retake(&set, &watched), !meets);
		assert_int_equal(together(&set, 100, (struct party){NULL, 0, 9, true}, (struct party){NULL, 20, 29, true}), 2);
		range_unlock(&set, &watched);
	}
	/* Also who waited already. */
	struct party p = {&set, 15, 15, true};
	pthread_t thread;
	meeting_begin(1, 10000);
	range_lock(&set, &watched, 10, 19, true);
	assert_int_equal(pthread_create(&thread, NULL, hold, &p), 0);
	for (bool waits = false; !waits;) {
		pthread_mutex_lock(&set.lock);
		waits = watched.next != NULL;
		pthread_mutex_unlock(&set.lock);
	}
	range_watch(&set, &watched);
	pthread_join(thread, NULL);
	assert_int_equal(range_retake(&set, &watched), false);
	range_unlock(&set, &watched);
	assert_null(set.head);
	assert_ptr_equal(set.tail, &set.head);
	range_set_done(&set);
}

/* ---- content ---- */

struct job {
	struct content *c;
	uint64_t off;
	size_t len;
	enum { READ, WRITE, PUNCH } what;
	int rc;
};

static int at_the_lower_file(void *ctx, struct io_event *ev)
{
	enum io_op *wanted = ctx;

	if (guest && ev->op == *wanted && ev->len >= BLOCK_SIZE)
		meet();
	return 0;
}

static void *do_job(void *arg)
{
	struct job *j = arg;
	uint8_t *buf = calloc(1, j->len);

	guest = true;
	if (j->what == WRITE)
		j->rc = content_write(j->c, buf, j->len, j->off);
	else if (j->what == PUNCH)
		j->rc = content_allocate(j->c, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, j->off, j->len);
	else
		j->rc = content_read(j->c, buf, j->len, j->off) == (ssize_t)j->len ? 0 : -EIO;
	guest = false;
	free(buf);
	return NULL;
}

/* The most of n jobs that were at the lower file at once. */
static unsigned jobs_together(struct job *jobs, unsigned n, enum io_op op, long patience_ms)
{
	pthread_t threads[4];

	meeting_begin(n, patience_ms);
	io_set_hook(&(struct io_hook){.before = at_the_lower_file, .ctx = &op});
	for (unsigned k = 0; k < n; k++)
		assert_int_equal(pthread_create(&threads[k], NULL, do_job, &jobs[k]), 0);
	for (unsigned k = 0; k < n; k++)
		pthread_join(threads[k], NULL);
	io_set_hook(NULL);
	for (unsigned k = 0; k < n; k++)
		assert_int_equal(jobs[k].rc, 0);
	return meeting.most;
}

#define FILE_SIZE (600ull * BLOCK_SIZE)

static void content_different_ranges_go_side_by_side(void **state)
{
	static uint8_t data[FILE_SIZE];
	struct content *c;
	struct volume *v;
	char dir[64];

	(void)state;
	test_dir(dir);
	store_create(dir);
	v = store_open(dir);
	assert_int_equal(store_file(v, "a", true, &c), 0);
	assert_int_equal(content_write(c, data, sizeof(data), 0), 0);
	assert_true(content_seal_begin(c));
	content_seal_finish(c, content_sync(c, true));

	/* Neighbours in one tag block, sealed so far: four at once. */
	struct job neighbours[4] = {{c, 0, 4096, WRITE, 0}, {c, 4096, 8192, WRITE, 0}, {c, 16384, 4096, WRITE, 0}, {c, 100 * 4096, 5000, WRITE, 0}};
	assert_int_equal(jobs_together(neighbours, 4, IO_WRITE, 10000), 4);
	struct job groups[2] = {{c, 10, 300000, WRITE, 0}, {c, 300 * 4096, 1048576, WRITE, 0}};
	assert_int_equal(jobs_together(groups, 2, IO_WRITE, 10000), 2);
	/* One that makes the file longer beside one inside it. */
	struct job longer[2] = {{c, FILE_SIZE, 8192, WRITE, 0}, {c, 8192, 8192, WRITE, 0}};
	assert_int_equal(jobs_together(longer, 2, IO_WRITE, 10000), 2);
	/* Holes are punched side by side, as InnoDB does with compressed pages. */
	struct job holes[2] = {{c, 8192, 12288, PUNCH, 0}, {c, 400 * 4096, 4096, PUNCH, 0}};
	assert_int_equal(jobs_together(holes, 2, IO_FALLOCATE, 10000), 2);
	/* Readers of the same block share it. */
	struct job readers[3] = {{c, 4096, 4096, READ, 0}, {c, 4096, 4096, READ, 0}, {c, 0, 65536, READ, 0}};
	assert_int_equal(jobs_together(readers, 3, IO_READ, 10000), 3);
	/* And those that overlap do not. */
	struct job overlapping[2] = {{c, 0, 8192, WRITE, 0}, {c, 4096, 8192, WRITE, 0}};
	assert_int_equal(jobs_together(overlapping, 2, IO_WRITE, 100), 1);

	content_close(c);
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(range_excludes_only_what_conflicts),
		cmocka_unit_test(range_watched_knows_who_came),
		cmocka_unit_test(content_different_ranges_go_side_by_side),
	};

	return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}
