/* shadow: the operations of workloads, and the model that each of them changes too. Contract: crash.h. */
#include "crash.h"
#include "programs.h"

#include "store/xattr.h"

#include <linux/falloc.h>
#include <sys/stat.h>

const struct env_key crash_next_key = {.b = "the environment key after that"};

static size_t now(const struct crash *h)
{
	return h->record.count;
}

/* ---- histories ---- */

static void history_add(struct history *h, size_t from, uint64_t value, const uint8_t *block)
{
	if (h->count == h->room) {
		h->room = h->room ? 2 * h->room : 4;
		h->v = realloc(h->v, h->room * sizeof(*h->v));
		assert_non_null(h->v);
	}
	struct version *v = &h->v[h->count++];
	*v = (struct version){from, SIZE_MAX, value, NULL};
	if (block) {
		v->block = malloc(BLOCK_SIZE);
		assert_non_null(v->block);
		memcpy(v->block, block, BLOCK_SIZE);
	}
}

static void history_sync(struct history *h, size_t at)
{
	if (h->count && h->v[h->count - 1].synced == SIZE_MAX)
		h->v[h->count - 1].synced = at;
}

static void history_free(struct history *h)
{
	for (unsigned k = 0; k < h->count; k++)
		free(h->v[k].block);
	free(h->v);
	*h = (struct history){0};
}

static const uint8_t *block_now(const struct object *o, unsigned blk)
{
	static const uint8_t zeros[BLOCK_SIZE];
	const struct history *h = &o->blocks[blk];

	return h->count ? h->v[h->count - 1].block : zeros;
}

/* ---- the tree ---- */

static struct tree *tree_now(struct crash *h)
{
	return &h->trees[h->tree_count - 1];
}

static uint32_t name_index(struct crash *h, const char *name)
{
	for (uint32_t k = 0; k < h->name_count; k++)
		if (strcmp(h->names[k], name) == 0)
			return k;
	assert_true(h->name_count < ARRAY_LEN(h->names));
	h->names[h->name_count] = strdup(name);
	return h->name_count++;
}

static struct entry *tree_find(const struct crash *h, uint32_t dir, const char *name)
{
	const struct tree *t = &h->trees[h->tree_count - 1];

	for (unsigned k = 0; k < t->count; k++)
		if (t->entries[k].dir == dir && strcmp(h->names[t->entries[k].name], name) == 0)
			return &t->entries[k];
	return NULL;
}

uint32_t crash_lookup(const struct crash *h, uint32_t dir, const char *name)
{
	const struct entry *e = tree_find(h, dir, name);

	return e ? e->obj : CRASH_NONE;
}

bool crash_is_empty(const struct crash *h, uint32_t dir)
{
	const struct tree *t = &h->trees[h->tree_count - 1];

	for (unsigned k = 0; k < t->count; k++)
		if (t->entries[k].dir == dir)
			return false;
	return true;
}

bool crash_is_below(const struct crash *h, uint32_t dir, uint32_t above)
{
	const struct tree *t = &h->trees[h->tree_count - 1];

	while (dir != above && dir != CRASH_ROOT) {
		unsigned k = 0;

		while (k < t->count && t->entries[k].obj != dir)
			k++;
		if (k == t->count)
			return false;
		dir = t->entries[k].dir;
	}
	return dir == above;
}

/* A copy of the tree for an operation that begins now, which the caller then changes. */
static void tree_change(struct crash *h, size_t from)
{
	const struct tree before = *tree_now(h);

	h->trees = realloc(h->trees, (h->tree_count + 1) * sizeof(*h->trees));
	assert_non_null(h->trees);
	struct tree *t = &h->trees[h->tree_count++];
	*t = (struct tree){from, malloc((before.count + 2) * sizeof(*t->entries)), before.count};
	assert_non_null(t->entries);
	for (unsigned k = 0; k < before.count; k++)
		t->entries[k] = before.entries[k];
}

static void tree_add(struct crash *h, uint32_t dir, const char *name, uint32_t obj)
{
	struct tree *t = tree_now(h);

	t->entries[t->count++] = (struct entry){dir, name_index(h, name), obj};
	h->objects[obj].named_op = h->tree_count - 1;
	h->objects[obj].named_dir = dir;
	h->objects[obj].named = name_index(h, name);
}

static void tree_remove(struct crash *h, uint32_t dir, const char *name)
{
	struct tree *t = tree_now(h);
	struct entry *e = tree_find(h, dir, name);

	if (e)
		*e = t->entries[--t->count];
}

static void promise(struct crash *h, unsigned op, uint32_t dir, uint32_t name, bool loose)
{
	h->promises = realloc(h->promises, (h->promise_count + 1) * sizeof(*h->promises));
	assert_non_null(h->promises);
	h->promises[h->promise_count++] = (struct promise){now(h), op, dir, name, loose};
}

/* ---- objects ---- */

static uint32_t object_new(struct crash *h, mode_t type, size_t from)
{
	assert_true(h->object_count < CRASH_OBJECTS);
	struct object *o = &h->objects[h->object_count];

	*o = (struct object){.type = type, .fd = -1};
	history_add(&o->sizes, from, 0, NULL);
	history_add(&o->attribute, from, 0, NULL);
	return h->object_count++;
}

static int dir_fd(struct crash *h, uint32_t dir);

static int open_path(struct crash *h, uint32_t obj)
{
	const struct tree *t = tree_now(h);
	struct stat st;
	unsigned k = 0;

	while (k < t->count && t->entries[k].obj != obj)
		k++;
	assert_true(k < t->count);
	int fd = dir_fd(h, t->entries[k].dir);
	int path_fd = dir_lookup(h->v, fd, &h->objects[t->entries[k].dir].id, h->names[t->entries[k].name], &st);
	assert_true(path_fd >= 0);
	return path_fd;
}

static int dir_fd(struct crash *h, uint32_t dir)
{
	struct object *o = &h->objects[dir];

	if (o->opened)
		return o->fd;
	int path_fd = dir == CRASH_ROOT ? dup(h->v->root_fd) : open_path(h, dir);
	o->fd = openat(path_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	close(path_fd);
	assert_true(o->fd >= 0);
	assert_int_equal(dir_id_load(h->v, o->fd, &o->id), 0);
	o->opened = true;
	return o->fd;
}

struct content *crash_content(struct crash *h, uint32_t obj)
{
	struct object *o = &h->objects[obj];

	if (!o->opened) {
		int path_fd = open_path(h, obj), fd = io_reopen(path_fd, O_RDWR);

		close(path_fd);
		assert_true(fd >= 0);
		assert_int_equal(content_open(h->v, fd, &o->c), 0);
		o->opened = true;
	}
	return o->c;
}

void crash_close(struct crash *h, uint32_t obj)
{
	struct object *o = &h->objects[obj];

	if (!o->opened)
		return;
	content_close(o->c);
	util_closep(&o->fd);
	o->c = NULL;
	o->opened = false;
}

static struct dir_owner owner_of(mode_t mode)
{
	return (struct dir_owner){0, 0, mode};
}

uint32_t crash_create(struct crash *h, uint32_t dir, const char *name)
{
	size_t from = now(h);
	struct dir_owner owner = {CRASH_OWNER, CRASH_OWNER, S_IFREG | 0600};
	int fd = dir_create(h->v, dir_fd(h, dir), &h->objects[dir].id, name, &owner);
	uint32_t obj = object_new(h, S_IFREG, from);
	struct object *o = &h->objects[obj];

	assert_true(fd >= 0);
	o->serial = record_object(&h->record, fd, "");
	assert_int_equal(content_open(h->v, fd, &o->c), 0);
	o->opened = true;
	tree_change(h, from);
	tree_add(h, dir, name, obj);
	return obj;
}

static void object_number(struct crash *h, uint32_t obj)
{
	CLEANUP_CLOSE int fd = open_path(h, obj);

	h->objects[obj].serial = record_object(&h->record, fd, "");
}

uint32_t crash_mkdir(struct crash *h, uint32_t dir, const char *name)
{
	size_t from = now(h);
	struct dir_owner owner = owner_of(S_IFDIR | 0700);

	assert_int_equal(dir_mkdir(h->v, dir_fd(h, dir), &h->objects[dir].id, name, &owner), 0);
	uint32_t obj = object_new(h, S_IFDIR, from);
	tree_change(h, from);
	tree_add(h, dir, name, obj);
	object_number(h, obj);
	return obj;
}

uint32_t crash_symlink(struct crash *h, uint32_t dir, const char *name, const char *target)
{
	size_t from = now(h);
	struct dir_owner owner = owner_of(S_IFLNK | 0777);

	assert_int_equal(dir_symlink(h->v, dir_fd(h, dir), &h->objects[dir].id, name, &owner, target), 0);
	uint32_t obj = object_new(h, S_IFLNK, from);
	snprintf(h->objects[obj].target, sizeof(h->objects[obj].target), "%s", target);
	tree_change(h, from);
	tree_add(h, dir, name, obj);
	object_number(h, obj);
	return obj;
}

void crash_link(struct crash *h, uint32_t obj, uint32_t dir, const char *name)
{
	size_t from = now(h);
	CLEANUP_CLOSE int fd = open_path(h, obj);

	assert_int_equal(dir_link(h->v, fd, dir_fd(h, dir), &h->objects[dir].id, name), 0);
	tree_change(h, from);
	tree_add(h, dir, name, obj);
}

void crash_unlink(struct crash *h, uint32_t dir, const char *name)
{
	size_t from = now(h);

	assert_int_equal(dir_unlink(h->v, dir_fd(h, dir), &h->objects[dir].id, name), 0);
	tree_change(h, from);
	tree_remove(h, dir, name);
}

void crash_rmdir(struct crash *h, uint32_t dir, const char *name)
{
	size_t from = now(h);
	uint32_t obj = crash_lookup(h, dir, name);

	assert_int_equal(dir_rmdir(h->v, dir_fd(h, dir), &h->objects[dir].id, name), 0);
	tree_change(h, from);
	tree_remove(h, dir, name);
	crash_close(h, obj);
}

void crash_rename(struct crash *h, uint32_t dir, const char *name, uint32_t dir2, const char *name2, unsigned flags)
{
	size_t from = now(h);
	uint32_t obj = crash_lookup(h, dir, name), obj2 = crash_lookup(h, dir2, name2);
	int fd = dir_fd(h, dir), fd2 = dir_fd(h, dir2);

	assert_int_equal(dir_rename(h->v, fd, &h->objects[dir].id, name, fd2, &h->objects[dir2].id, name2, flags), 0);
	if (obj == obj2)
		return; /* two names of one file: nothing happens */
	tree_change(h, from);
	tree_remove(h, dir, name);
	tree_remove(h, dir2, name2);
	tree_add(h, dir2, name2, obj);
	if (flags & RENAME_EXCHANGE)
		tree_add(h, dir, name, obj2);
	else if (obj2 != CRASH_NONE && S_ISDIR(h->objects[obj2].type))
		crash_close(h, obj2);
}

void crash_setxattr(struct crash *h, uint32_t obj, uint64_t value)
{
	struct object *o = &h->objects[obj];
	CLEANUP_CLOSE int fd = open_path(h, obj);
	size_t from = now(h);
	int rc = xattr_set(h->v, fd, o->type, "user.crash", &value, sizeof(value), 0);

	if (rc == -EOPNOTSUPP)
		return; /* the file system that the test runs on has none */
	assert_int_equal(rc, 0);
	history_add(&o->attribute, from, value, NULL);
}

/* ---- content ---- */

/* Bytes [off, end) of the file become src's, or zeros. */
static void model_bytes(struct crash *h, uint32_t obj, size_t from, uint64_t off, uint64_t end, const uint8_t *src)
{
	struct object *o = &h->objects[obj];

	for (uint64_t blk = off / BLOCK_SIZE; blk * BLOCK_SIZE < end; blk++) {
		uint64_t a = MAX(off, blk * BLOCK_SIZE), b = MIN(end, (blk + 1) * BLOCK_SIZE);
		uint8_t merged[BLOCK_SIZE];

		memcpy(merged, block_now(o, (unsigned)blk), BLOCK_SIZE);
		if (src)
			memcpy(merged + a % BLOCK_SIZE, src + (a - off), b - a);
		else
			memset(merged + a % BLOCK_SIZE, 0, b - a);
		history_add(&o->blocks[blk], from, 0, merged);
	}
}

static void model_size(struct crash *h, uint32_t obj, size_t from, uint64_t size)
{
	struct object *o = &h->objects[obj];

	if (size < o->size)
		model_bytes(h, obj, from, size, MIN((o->size + BLOCK_SIZE - 1) / BLOCK_SIZE, CRASH_BLOCKS) * BLOCK_SIZE, NULL);
	if (size != o->size)
		history_add(&o->sizes, from, size, NULL);
	o->size = size;
}

void crash_write(struct crash *h, uint32_t obj, uint64_t off, size_t len)
{
	static uint8_t data[CRASH_BLOCKS * BLOCK_SIZE];
	size_t from = now(h);
	uint64_t mark = crash_random(&h->seed);

	len = (size_t)MIN(len, MAX(CRASH_BLOCKS * BLOCK_SIZE, off) - off);
	if (len == 0)
		return;
	for (size_t k = 0; k < len; k++)
		data[k] = (uint8_t)(mark >> k % 7 * 8) ^ (uint8_t)((off + k) / 512);
	struct content *c = crash_content(h, obj);
	assert_int_equal(content_write(c, data, len, off), 0);
	model_bytes(h, obj, from, off, off + len, data);
	if (off + len > h->objects[obj].size)
		model_size(h, obj, from, off + len);
}

void crash_truncate(struct crash *h, uint32_t obj, uint64_t size)
{
	size_t from = now(h);

	assert_int_equal(content_truncate(crash_content(h, obj), size), 0);
	model_size(h, obj, from, size);
}

void crash_allocate(struct crash *h, uint32_t obj, int mode, uint64_t off, uint64_t len)
{
	size_t from = now(h);
	struct object *o = &h->objects[obj];
	bool zeroes = mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);
	uint64_t end = MIN(off + len, CRASH_BLOCKS * BLOCK_SIZE);

	if (off >= end)
		return;
	int rc = content_allocate(crash_content(h, obj), mode, off, end - off);
	assert_int_equal(rc, 0);
	if (zeroes && off < o->size)
		model_bytes(h, obj, from, off, MIN(end, o->size), NULL);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > o->size)
		model_size(h, obj, from, end);
}

static void model_synced(struct crash *h, uint32_t obj)
{
	struct object *o = &h->objects[obj];

	for (unsigned blk = 0; blk < CRASH_BLOCKS; blk++)
		history_sync(&o->blocks[blk], now(h));
	history_sync(&o->sizes, now(h));
	history_sync(&o->attribute, now(h));
}

void crash_sync(struct crash *h, uint32_t obj, bool data_only)
{
	struct object *o = &h->objects[obj];
	const struct tree *t = tree_now(h);

	assert_int_equal(content_sync(crash_content(h, obj), data_only), 0);
	model_synced(h, obj);
	promise(h, h->tree_count - 1, CRASH_NONE, CRASH_NONE, false);
	for (unsigned k = 0; k < t->count; k++)
		if (t->entries[k].obj == obj && t->entries[k].dir == o->named_dir && t->entries[k].name == o->named) {
			promise(h, o->named_op, o->named_dir, o->named, true);
			break;
		}
}

void crash_sync_dir(struct crash *h, uint32_t dir)
{
	assert_int_equal(volume_synced(h->v, io_fsync(dir_fd(h, dir))), 0);
	history_sync(&h->objects[dir].attribute, now(h));
	promise(h, h->tree_count - 1, CRASH_NONE, CRASH_NONE, false);
	promise(h, h->tree_count - 1, dir, CRASH_NONE, true);
}

static void model_all_synced(struct crash *h)
{
	for (uint32_t obj = 0; obj < h->object_count; obj++)
		model_synced(h, obj);
	promise(h, h->tree_count - 1, CRASH_NONE, CRASH_NONE, true);
}

void crash_sync_all(struct crash *h)
{
	assert_int_equal(volume_synced(h->v, io_syncfs(h->v->fd)), 0);
	model_all_synced(h);
}

void crash_seal(struct crash *h, uint32_t obj)
{
	struct content *c = crash_content(h, obj);

	if (content_seal_begin(c)) {
		int rc = content_sync(c, true);

		assert_int_equal(rc, 0);
		model_synced(h, obj);
		content_seal_finish(c, rc);
	}
}

/* ---- a run ---- */

static void crash_mount(struct crash *h)
{
	struct volume_options options = {.report = store_report};

	assert_int_equal(volume_open(h->store, h->rotated ? &crash_next_key : &store_key, &options, &h->v), 0);
	h->v->small_blocks = h->small_blocks;
}

static void crash_unmount(struct crash *h, bool clean)
{
	for (uint32_t obj = 0; obj < h->object_count; obj++)
		if (clean && h->objects[obj].c)
			crash_seal(h, obj);
	if (!clean)
		h->v->options.read_only = true; /* the end comes without warning: nothing more is written */
	for (uint32_t obj = 0; obj < h->object_count; obj++)
		crash_close(h, obj);
	assert_int_equal(volume_close(h->v), 0);
	h->v = NULL;
}

void crash_remount(struct crash *h, bool clean)
{
	crash_unmount(h, clean);
	if (clean)
		model_all_synced(h);
	crash_mount(h);
}

void crash_forget(struct crash *h)
{
	const struct tree *t = tree_now(h);

	for (unsigned k = 0; k < t->count; k++)
		if (S_ISREG(h->objects[t->entries[k].obj].type))
			(void)crash_content(h, t->entries[k].obj);
		else if (S_ISDIR(h->objects[t->entries[k].obj].type))
			(void)dir_fd(h, t->entries[k].obj);
	assert_int_equal(volume_forget_unclean(h->v), 0);
	model_all_synced(h);
}

void crash_begin(struct crash *h, const char *dir, uint64_t seed)
{
	char base[120];

	*h = (struct crash){.seed = seed, .small_blocks = seed >> 8 & 1};
	snprintf(h->store, sizeof(h->store), "%s/live", dir);
	snprintf(base, sizeof(base), "%s/base", dir);
	struct env_wrap wrap;
	programs_wrap(&store_key, &wrap);
	assert_int_equal(envheader_create(h->store, &store_key, &wrap, 1), 0);
	record_begin(&h->record, h->store, base, NULL);
	object_new(h, S_IFDIR, 0);
	h->trees = calloc(1, sizeof(*h->trees));
	assert_non_null(h->trees);
	h->tree_count = 1;
	promise(h, 0, CRASH_NONE, CRASH_NONE, true);
	crash_mount(h);
	h->objects[CRASH_ROOT].serial = record_object(&h->record, h->v->root_fd, "");
}

void crash_end(struct crash *h)
{
	record_end();
	crash_unmount(h, false);
}

void crash_free(struct crash *h)
{
	for (uint32_t obj = 0; obj < h->object_count; obj++) {
		for (unsigned blk = 0; blk < CRASH_BLOCKS; blk++)
			history_free(&h->objects[obj].blocks[blk]);
		history_free(&h->objects[obj].sizes);
		history_free(&h->objects[obj].attribute);
	}
	for (uint32_t k = 0; k < h->name_count; k++)
		free(h->names[k]);
	for (unsigned k = 0; k < h->tree_count; k++)
		free(h->trees[k].entries);
	free(h->trees);
	free(h->promises);
	record_free(&h->record);
}
