/* fault: fails the N-th call below the store, for every N and every operation of fault_ops.c, and asks what is left.
 *
 * The hook of fs/base/io fails one call (the rest go on), or every call from the N-th on (undoing fails too), or cuts a write
 * short before the failure. After it the following must hold:
 *   - the error of the call comes up, or none did harm and the result is that of success;
 *   - the tree is as before or as after, names wholly, content byte by byte, and everything verifies;
 *   - after a failed sync, and where a change could not be taken back, the volume is poisoned: changes and syncs are
 *     refused, closing does not call it clean;
 *   - where it is not poisoned the same operation succeeds when it is tried again;
 *   - opened again, all of this still holds, and files grow by zeros.
 * In the end every kind of call must have been failed: the seam was hit. */
#include "fault.h"

#include "store/xattr.h"

#include <errno.h>
#include <sys/sysmacros.h>

#define OBJECTS_MAX 24u
#define DATA_MAX (256u * 4096)

/* ---- the tree as somebody sees it ---- */

struct object {
	char path[300], about[160];
	uint8_t *data;
	size_t len;
};
struct tree {
	struct object o[OBJECTS_MAX];
	unsigned count;
};

static void tree_done(struct tree *t)
{
	for (unsigned k = 0; k < t->count; k++)
		free(t->o[k].data);
	t->count = 0;
}

static int object_order(const void *a, const void *b)
{
	return strcmp(((const struct object *)a)->path, ((const struct object *)b)->path);
}

static void tree_add(struct volume *v, struct tree *t, int fd, const char *path)
{
	struct object *o = memset(&t->o[t->count++], 0, sizeof(*o));
	char target[DIR_TARGET_MAX + 1] = "", names[200] = "", value[60] = "";
	struct content *c;
	struct stat st;

	assert_true(t->count < OBJECTS_MAX);
	assert_int_equal(fstat(fd, &st), 0);
	snprintf(o->path, sizeof(o->path), "%s", path);
	if (S_ISLNK(st.st_mode))
		assert_int_equal(dir_readlink(v, fd, target), 0);
	ssize_t n = xattr_list(v, fd, st.st_mode, names, sizeof(names));
	assert_true(n >= 0);
	if (n > 0)
		assert_true(xattr_get(v, fd, st.st_mode, names, value, sizeof(value)) > 0);
	snprintf(o->about, sizeof(o->about), "%o %u:%u %u links, %.5s+%zu, %s=%s", st.st_mode, st.st_uid, st.st_gid,
		S_ISDIR(st.st_mode) ? 0 : (unsigned)st.st_nlink, target, strlen(target), names, value);
	if (!S_ISREG(st.st_mode))
		return;
	int rc = content_open(v, io_reopen(fd, O_RDWR), &c);
	if (rc == 0) {
		o->len = (size_t)content_size(c);
		o->data = malloc(o->len + 1);
		ssize_t got = content_read(c, o->data, o->len + 1, 0);
		rc = got < 0 ? (int)got : 0;
		content_close(c);
	}
	if (rc < 0) /* no tree that is compared with has this */
		snprintf(o->about, sizeof(o->about), "unreadable: %s", strerror(-rc));
}

static void tree_walk(struct volume *v, struct tree *t, int dirfd, const char *path)
{
	struct dir_stream *stream;
	struct dir_entry entry;
	struct dir_id id;
	int rc;

	assert_int_equal(dir_id_load(v, dirfd, &id), 0);
	assert_int_equal(dir_stream_open(v, dirfd, &id, &stream), 0);
	while ((rc = dir_stream_next(stream, &entry)) > 0) {
		char sub[300];
		struct stat st;

		if (strcmp(entry.name, ".") == 0 || strcmp(entry.name, "..") == 0)
			continue;
		snprintf(sub, sizeof(sub), "%.20s/%.255s", path, entry.name);
		int fd = dir_lookup(v, dirfd, &id, entry.name, &st);
		assert_true(fd >= 0);
		tree_add(v, t, fd, sub);
		if (S_ISDIR(st.st_mode))
			tree_walk(v, t, fd, sub);
		close(fd);
	}
	assert_int_equal(rc, 0);
	dir_stream_close(stream);
}

static void tree_read(struct volume *v, struct tree *ret)
{
	struct object *header = &ret->o[0];

	ret->count = 1;
	*header = (struct object){.path = "environment header"};
	snprintf(header->about, sizeof(header->about), "key version %u, previous %u, wrap %02x", v->header.ek_version,
		v->header.previous_version, v->header.wraps[0].blob[0]);
	tree_walk(v, ret, v->root_fd, "");
	qsort(ret->o, ret->count, sizeof(ret->o[0]), object_order);
}

static const struct object *tree_find(const struct tree *t, const char *path)
{
	for (unsigned k = 0; k < t->count; k++)
		if (strcmp(t->o[k].path, path) == 0)
			return &t->o[k];
	return NULL;
}

static bool object_equal(const struct object *a, const struct object *b)
{
	return strcmp(a->path, b->path) == 0 && strcmp(a->about, b->about) == 0 && a->len == b->len &&
	       (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static bool tree_equal(const struct tree *a, const struct tree *b)
{
	bool equal = a->count == b->count;

	for (unsigned k = 0; equal && k < a->count; k++)
		equal = object_equal(&a->o[k], &b->o[k]);
	return equal;
}

static uint8_t byte_at(const struct object *o, size_t k)
{
	return o && k < o->len ? o->data[k] : 0;
}

/* Whether got may be what an interrupted change from before to after left. The environment's header may be between the two as
 * well: it has its own checks in volume_open. */
static bool tree_between(const struct tree *got, const struct tree *before, const struct tree *after)
{
	for (unsigned k = 0; k < got->count; k++) {
		const struct object *o = &got->o[k], *a = tree_find(before, o->path), *b = tree_find(after, o->path);

		if (!a || !b || (o->path[0] == '/' && strcmp(o->about, a->about) != 0) || o->len < MIN(a->len, b->len) || o->len > MAX(a->len, b->len))
			return false;
		for (size_t i = 0; i < o->len; i++)
			if (o->data[i] != byte_at(a, i) && o->data[i] != byte_at(b, i))
				return false;
	}
	return got->count == before->count;
}

/* Whether got may be what a change of names left that failed and could not be taken back: nothing is lost, nothing else came. */
static bool tree_doubtful(const struct tree *got, const struct tree *before, const struct tree *after)
{
	bool fits = true;

	for (unsigned k = 0; fits && k < got->count; k++)
		fits = tree_find(before, got->o[k].path) || tree_find(after, got->o[k].path);
	for (unsigned k = 0; fits && k < before->count; k++)
		fits = tree_find(got, before->o[k].path) || !tree_find(after, before->o[k].path);
	return fits;
}

/* ---- the faults ---- */

enum fault_mode {
	FAIL_ONE,
	FAIL_FROM,   /* and everything after it */
	FAIL_SHORT,  /* the write is cut in two, and its second half fails */
	FAIL_SIGNAL, /* EINTR: asked again, and nobody notices */
	COUNT,       /* fails nothing */
	MODES,
};
static const char *const mode_names[MODES] = {"one", "from", "short", "signal", "count"};

static struct {
	enum fault_mode mode;
	int error;
	unsigned nth, calls; /* calls: so far */
	enum io_op op;       /* what was failed first */
	bool hit, sync_failed, cut;
} fault;
static unsigned long hits[IO_OP_COUNT], total_hits;

static bool is_sync(enum io_op op)
{
	return op == IO_FSYNC || op == IO_FDATASYNC || op == IO_SYNCFS;
}

static int fault_before(void *ctx, struct io_event *ev)
{
	bool now = fault.calls++ == fault.nth || (fault.mode == FAIL_FROM && fault.hit);

	(void)ctx;
	if (fault.cut) { /* what is left of the write */
		fault.cut = false;
		return fault.error;
	}
	if (!now || fault.mode == COUNT)
		return 0;
	if (fault.mode == FAIL_SHORT) {
		if (ev->op != IO_WRITE || ev->len < 2)
			return 0;
		ev->len /= 2;
		fault.cut = true;
	}
	if (!fault.hit)
		fault.op = ev->op;
	fault.hit = true;
	fault.sync_failed |= is_sync(ev->op);
	hits[ev->op]++;
	total_hits++;
	return fault.mode == FAIL_SHORT ? 0 : fault.error;
}

static const struct io_hook fault_hook = {.before = fault_before};

static void fault_begin(enum fault_mode mode, int error, unsigned nth)
{
	fault = (__typeof__(fault)){.mode = mode, .error = error, .nth = nth};
	io_set_hook(&fault_hook);
}

/* Counts the changes that go through. */
static unsigned changes;

static void changes_after(void *ctx, const struct io_event *ev, int64_t result)
{
	static const bool harmless[IO_OP_COUNT] = {[IO_OPEN] = true, [IO_READ] = true, [IO_READLINK] = true, [IO_STAT] = true,
		[IO_SEEK] = true, [IO_GETXATTR] = true, [IO_LISTXATTR] = true, [IO_STATFS] = true, [IO_READDIR] = true};

	(void)ctx;
	changes += result >= 0 && (!harmless[ev->op] || (ev->op == IO_OPEN && (ev->flags & (O_CREAT | O_TRUNC))));
}

static const struct io_hook changes_hook = {.after = changes_after};

#define COMPLAIN(op, ...)                                                                                    \
	do {                                                                                                 \
		print_error("%s: %s, %s of call %u (kind %d): ", (op)->name, strerror(-fault.error),         \
			mode_names[fault.mode], fault.nth, (int)fault.op);                                   \
		print_error(__VA_ARGS__);                                                                    \
		print_error("\n");                                                                           \
		complaints++;                                                                                \
	} while (0)
static unsigned complaints;

static void tree_print(const char *what, const struct tree *t)
{
	print_error("%s:\n", what);
	for (unsigned k = 0; k < t->count; k++)
		print_error("  %.40s  %s  %zu bytes\n", t->o[k].path, t->o[k].about, t->o[k].len);
}

/* ---- one run ---- */

static struct volume *open_either(const char *store)
{
	struct volume *v = NULL;
	struct volume_options options = {.report = store_report};
	int rc = volume_open(store, &store_key, &options, &v);

	if (rc == -EKEYREJECTED)
		rc = volume_open(store, &fault_next_key, &options, &v);
	if (rc < 0)
		print_error("the store does not open: %s\n", strerror(-rc));
	assert_int_equal(rc, 0);
	return v;
}

/* Nothing of what was there once comes back when a file grows. */
static void grow_all(const struct fault_op *op, struct volume *v, const struct tree *t)
{
	static uint8_t buf[DATA_MAX];

	for (unsigned k = 0; k < t->count; k++) {
		struct content *c;

		if (!t->o[k].data || strchr(t->o[k].path + 1, '/') || store_file(v, t->o[k].path + 1, false, &c) < 0)
			continue;
		int rc = content_truncate(c, t->o[k].len + 3 * 4096 + 1);
		ssize_t n = rc < 0 ? rc : content_read(c, buf, sizeof(buf), t->o[k].len);
		bool zeros = true;
		for (ssize_t i = 0; zeros && i < n; i++)
			zeros = buf[i] == 0;
		if (n != 3 * 4096 + 1 || !zeros)
			COMPLAIN(op, "%.20s does not grow by zeros (%zd)", t->o[k].path, n);
		content_close(c);
	}
}

static void check_tree(const struct fault_op *op, const char *when, int rc, bool doubtful, struct volume *v, const struct tree *before,
	const struct tree *after)
{
	struct tree got = {0};

	tree_read(v, &got);
	bool fits = rc == 0 ? tree_equal(&got, after) : tree_equal(&got, before) || tree_equal(&got, after) ||
				(op->atomic ? doubtful && tree_doubtful(&got, before, after) : tree_between(&got, before, after));
	if (!fits) {
		COMPLAIN(op, "%s, after %s, the tree is neither as before nor as after", when, rc == 0 ? "success" : strerror(-rc));
		if (getenv("TDEFS_FAULT_OP")) {
			tree_print("got", &got);
			tree_print("after", after);
		}
	}
	tree_done(&got);
}

/* Returns the number of calls that the operation made. */
static unsigned run_one(const char *store, const struct fault_op *op, enum fault_mode mode, int error, unsigned nth,
	const struct tree *before, const struct tree *after)
{
	fault_setup(store, op->crashed);
	struct volume *v = open_either(store);

	fault_begin(mode, error, nth);
	int rc = op->run(v);
	unsigned calls = fault.calls;
	io_set_hook(NULL);
	bool poisoned = atomic_load(&v->poisoned);
	if (rc != 0 && rc != error && !(rc == -EROFS && poisoned))
		COMPLAIN(op, "%s came up (%d)", strerror(-rc), rc);
	if (rc != 0 && !fault.hit)
		COMPLAIN(op, "%s without a fault", strerror(-rc));
	if (mode == FAIL_SIGNAL && rc != 0)
		COMPLAIN(op, "a signal came up");
	if (poisoned && !fault.hit)
		COMPLAIN(op, "poisoned without reason");
	if (poisoned) {
		struct dir_id id = store_root_id(v);

		io_set_hook(&changes_hook);
		changes = 0;
		if (dir_create(v, v->root_fd, &id, "refused", &store_owner) != -EROFS || (op->run(v), changes > 0))
			COMPLAIN(op, "poisoned, and takes changes");
		io_set_hook(NULL);
	} else {
		check_tree(op, "at once", rc, false, v, before, after);
		if (rc != 0) {
			rc = op->run(v);
			if (rc != 0)
				COMPLAIN(op, "tried again: %s", strerror(-rc));
			check_tree(op, "again", rc, false, v, before, after);
		}
	}
	int closed = volume_close(v);
	if ((closed == 0) == poisoned)
		COMPLAIN(op, "closing says %s", strerror(-closed));
	v = open_either(store);
	check_tree(op, "opened again", rc, poisoned, v, before, after);
	struct tree t = {0};
	tree_read(v, &t);
	grow_all(op, v, &t);
	tree_done(&t);
	assert_int_equal(volume_close(v), 0);
	test_remove(store);
	return calls;
}

static void failing_calls_lose_and_forge_nothing(void **state)
{
	static const struct {
		enum fault_mode mode;
		int error;
	} faults[] = {{FAIL_SIGNAL, -EINTR}, {FAIL_ONE, -EIO}, {FAIL_FROM, -EIO}, {FAIL_ONE, -ENOSPC}, {FAIL_FROM, -ENOSPC},
		{FAIL_SHORT, -EIO}, {FAIL_SHORT, -ENOSPC}, {FAIL_FROM, -EDQUOT}, {FAIL_FROM, -EROFS}};
	enum { SHORT_RUN = 7 };
	bool long_run = getenv("TDEFS_LONG") != NULL;
	const char *only = getenv("TDEFS_FAULT_OP");
	char dir[64], store[80];

	(void)state;
	test_dir(dir);
	snprintf(store, sizeof(store), "%s/store", dir);
	for (unsigned k = 0; k < fault_op_count; k++) {
		const struct fault_op *op = &fault_ops[k];
		struct tree before = {0}, after = {0};

		if (only && strcmp(op->name, only) != 0)
			continue;
		fault_setup(store, op->crashed);
		struct volume *v = open_either(store);
		tree_read(v, &before);
		assert_int_equal(volume_close(v), 0);
		test_remove(store);
		fault_setup(store, op->crashed);
		v = open_either(store);
		fault_begin(COUNT, 0, 0);
		int rc = op->run(v);
		io_set_hook(NULL);
		unsigned calls = fault.calls;
		if (rc != 0)
			fail_msg("%s: %s without a fault", op->name, strerror(-rc));
		tree_read(v, &after);
		assert_int_equal(volume_close(v), 0);
		test_remove(store);
		assert_true(calls > 0);
		unsigned long was = total_hits;
		for (unsigned f = 0; f < ARRAY_LEN(faults); f++)
			for (unsigned nth = 0; nth < calls && (long_run || f < SHORT_RUN || !op->atomic); nth++)
				(void)run_one(store, op, faults[f].mode, faults[f].error, nth, &before, &after);
		print_message("%-30s %3u calls, %4lu failed\n", op->name, calls, total_hits - was);
		tree_done(&before);
		tree_done(&after);
	}
	test_remove(dir);
	assert_int_equal(complaints, 0);
}

/* ---- the store as a whole ---- */

static int whole_open_and_close(const char *store)
{
	struct volume *v = NULL;
	int rc = volume_open(store, &store_key, &(struct volume_options){.report = store_report}, &v);

	return rc < 0 ? rc : volume_close(v);
}

static int whole_rewrap(const char *store)
{
	struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .blob = {1}, .blob_len = 1};

	return envheader_rewrap(store, &store_key, &wrap, 1);
}

static void leave_in_tmp(const char *store)
{
	char path[120];

	snprintf(path, sizeof(path), "%s/tmp/t7", store);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/tmp/t7/tdefs.dir", store);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	close(fd);
}

/* Opening, closing and wrapping again: whatever fails, the store opens again with all that was in it; leftovers in tmp/ are
 * removed at the latest then. */
static void failing_open_and_close_lose_nothing(void **state)
{
	static const struct fault_op ops[] = {{.name = "open and close"}, {.name = "wrap again"}};
	static int (*const runs[])(const char *) = {whole_open_and_close, whole_rewrap};
	static const int errors[] = {-EIO, -ENOSPC, -EROFS, -EINTR};
	struct tree before = {0};
	char dir[64], store[80];

	(void)state;
	if (getenv("TDEFS_FAULT_OP"))
		skip();
	test_dir(dir);
	snprintf(store, sizeof(store), "%s/store", dir);
	for (unsigned k = 0; k < ARRAY_LEN(ops) * ARRAY_LEN(errors) * 2; k++) {
		const struct fault_op *op = &ops[k % ARRAY_LEN(ops)];
		int error = errors[k / ARRAY_LEN(ops) % ARRAY_LEN(errors)];
		bool from = k / ARRAY_LEN(ops) / ARRAY_LEN(errors) && error != -EINTR;
		bool hit = true;

		for (unsigned nth = 0; hit; nth++) {
			fault_setup(store, k % 3 == 0);
			if (nth == 0) {
				struct volume *v = open_either(store);

				tree_done(&before);
				tree_read(v, &before);
				assert_int_equal(volume_close(v), 0);
			}
			leave_in_tmp(store);
			fault_begin(from ? FAIL_FROM : FAIL_ONE, error, nth);
			int rc = runs[k % ARRAY_LEN(ops)](store);
			io_set_hook(NULL);
			hit = fault.hit;
			if (rc != 0 && (rc != error || error == -EINTR))
				COMPLAIN(op, "%s came up", strerror(-rc));
			if (rc == 0 && fault.sync_failed && error != -EINTR)
				COMPLAIN(op, "a failed sync, and success");
			struct volume *v = open_either(store);
			check_tree(op, "opened again", -1, false, v, &before, &before);
			assert_int_equal(dir_is_empty(v->tmp_fd, NULL), 0);
			assert_int_equal(volume_close(v), 0);
			test_remove(store);
		}
	}
	tree_done(&before);
	test_remove(dir);
	assert_int_equal(complaints, 0);
}

/* A store that could not be made is not there, and can be made when there is room again. */
static void failing_create_leaves_nothing(void **state)
{
	struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .blob = {1}, .blob_len = 1};
	char dir[64], store[80];
	bool hit = true;

	(void)state;
	test_dir(dir);
	snprintf(store, sizeof(store), "%s/store", dir);
	for (unsigned nth = 0; hit; nth++) {
		fault_begin(FAIL_ONE, -ENOSPC, nth);
		int rc = envheader_create(store, &store_key, &wrap, 1);
		io_set_hook(NULL);
		hit = fault.hit;
		if (rc < 0) {
			assert_int_equal(rc, -ENOSPC);
			if (access(store, F_OK) == 0)
				fail_msg("call %u failed (kind %d), and the store is there", nth, (int)fault.op);
			assert_int_equal(envheader_create(store, &store_key, &wrap, 1), 0);
		}
		assert_int_equal(volume_close(open_either(store)), 0);
		test_remove(store);
	}
	test_remove(dir);
}

static void every_kind_of_call_was_failed(void **state)
{
	(void)state;
	if (getenv("TDEFS_FAULT_OP"))
		skip();
	for (unsigned k = 0; k < IO_OP_COUNT; k++)
		if (hits[k] == 0)
			fail_msg("no call of kind %u was ever failed", k);
	print_message("%lu calls failed\n", total_hits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(failing_calls_lose_and_forge_nothing),
		cmocka_unit_test(failing_open_and_close_lose_nothing), cmocka_unit_test(failing_create_leaves_nothing),
		cmocka_unit_test(every_kind_of_call_was_failed)};

	/* Thousands of syncs: in memory they cost nothing, and nothing here depends on a real one. */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
