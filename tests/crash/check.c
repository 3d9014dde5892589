/* check: holds a crash state against the model. Contract: crash.h. */
#include "crash.h"

#include "store/journal.h"
#include "store/recrypt.h"
#include "store/xattr.h"

#include <sys/stat.h>

struct check {
	struct crash *h;
	const struct crash_state *s;
	struct volume *v;
	struct entry found[256];
	unsigned count, how;
	bool seen[CRASH_OBJECTS];
};

static void PRINTF(2, 3) violated(const struct check *k, const char *format, ...)
{
	va_list ap;

	if (!k->h->quiet && k->h->violations < 5) {
		fprintf(stderr, "cut %zu of %zu, %s: ", k->s->cut, k->h->record.count, k->s->loose ? "loose" : "journal");
		va_start(ap, format);
		vfprintf(stderr, format, ap);
		va_end(ap);
		fputc('\n', stderr);
	}
	k->h->violations++;
}

/* The first version that may be there at the cut: the last promised one. */
static unsigned history_first(const struct history *h, size_t cut, bool *ret_promised)
{
	unsigned first = 0;

	*ret_promised = false;
	for (unsigned k = 0; k < h->count; k++)
		if (h->v[k].synced <= cut) {
			first = k;
			*ret_promised = true;
		}
	return first;
}

/* ---- files ---- */

static void check_block(const struct check *k, uint32_t obj, unsigned blk, const uint8_t *got, size_t len)
{
	static const uint8_t zeros[SECTOR_SIZE];
	const struct history *h = &k->h->objects[obj].blocks[blk];
	bool promised;
	unsigned first = history_first(h, k->s->cut, &promised);

	for (size_t s = 0; s < len; s += SECTOR_SIZE) {
		size_t n = MIN(len - s, SECTOR_SIZE);
		bool fits = !promised && memcmp(got + s, zeros, n) == 0;

		for (unsigned i = first; !fits && i < h->count; i++)
			fits = h->v[i].from < k->s->cut && memcmp(got + s, h->v[i].block + s, n) == 0;
		if (!fits)
			violated(k, "object %u, block %u, sector %zu: nothing that was written there", obj, blk, s / SECTOR_SIZE);
	}
}

static uint64_t check_content(const struct check *k, uint32_t obj, struct content *c)
{
	static uint8_t buf[CRASH_BLOCKS * BLOCK_SIZE];
	const struct history *sizes = &k->h->objects[obj].sizes;
	uint64_t size = content_size(c), low = UINT64_MAX, high = 0;
	struct content_check verified;
	bool promised;

	for (unsigned i = history_first(sizes, k->s->cut, &promised); i < sizes->count; i++)
		if (i == 0 || sizes->v[i].from < k->s->cut) {
			low = MIN(low, sizes->v[i].value);
			high = MAX(high, sizes->v[i].value);
		}
	if (size < (promised ? low : 0) || size > high) {
		violated(k, "object %u has %llu bytes, not %llu to %llu", obj, (unsigned long long)size, (unsigned long long)low,
			(unsigned long long)high);
		return size;
	}
	ssize_t n = content_read(c, buf, sizeof(buf), 0);
	if (n != (ssize_t)MIN(size, sizeof(buf))) {
		violated(k, "object %u does not read: %zd", obj, n);
		return size;
	}
	for (unsigned blk = 0; (uint64_t)blk * BLOCK_SIZE < size && blk < CRASH_BLOCKS; blk++)
		check_block(k, obj, blk, buf + (size_t)blk * BLOCK_SIZE, (size_t)MIN(size - (uint64_t)blk * BLOCK_SIZE, BLOCK_SIZE));
	if (content_verify(c, &verified) < 0 || verified.bad)
		violated(k, "object %u does not verify", obj);
	return size;
}

/* The file goes on being used: it grows by a hole and by data, and says zeros and the data there. */
static void check_use(const struct check *k, uint32_t obj, struct content *c, uint64_t size)
{
	static uint8_t buf[2 * GROUP_BLOCKS * BLOCK_SIZE];
	uint64_t hole = GROUP_BLOCKS * BLOCK_SIZE + 777, at = size + hole;
	size_t first = MIN(size % BLOCK_SIZE, size);

	if (content_truncate(c, at) < 0 || content_write(c, "used", 4, at) < 0) {
		violated(k, "object %u cannot be used any more", obj);
		return;
	}
	ssize_t n = content_read(c, buf, hole + 4 + first, size - first);
	if (n != (ssize_t)(hole + 4 + first) || memcmp(buf + first + hole, "used", 4) != 0)
		violated(k, "object %u does not read after it was used: %zd", obj, n);
	for (size_t i = first; n > 0 && i < first + hole; i++)
		if (buf[i]) {
			violated(k, "object %u is not zeros in a new hole, at %zu", obj, i - first);
			break;
		}
}

static void check_file(const struct check *k, uint32_t obj, int path_fd)
{
	struct content *c = NULL;
	int fd = io_reopen(path_fd, O_RDWR), rc = fd < 0 ? fd : content_open(k->v, fd, &c);

	if (rc < 0) {
		violated(k, "object %u does not open: %s", obj, strerror(-rc));
		return;
	}
	uint64_t size = check_content(k, obj, c);
	if (k->how & CHECK_USE)
		check_use(k, obj, c, size);
	content_close(c);
}

/* ---- the tree ---- */

static void check_attribute(const struct check *k, uint32_t obj, int fd)
{
	const struct history *h = &k->h->objects[obj].attribute;
	uint64_t value = 0;
	bool promised, fits = false;
	ssize_t n = xattr_get(k->v, fd, k->h->objects[obj].type, "user.crash", &value, sizeof(value));

	if (n < 0 && n != -ENODATA && n != -EOPNOTSUPP)
		violated(k, "the attribute of object %u: %s", obj, strerror((int)-n));
	for (unsigned i = history_first(h, k->s->cut, &promised); i < h->count; i++)
		fits |= (i == 0 || h->v[i].from < k->s->cut) && h->v[i].value == value;
	if (!fits)
		violated(k, "object %u has an attribute that it should not have", obj);
}

static uint32_t object_by_serial(const struct crash *h, uint32_t serial)
{
	for (uint32_t obj = 0; serial && obj < h->object_count; obj++)
		if (h->objects[obj].serial == serial)
			return obj;
	return CRASH_NONE;
}

static void check_directory(struct check *k, int dirfd, uint32_t dir)
{
	struct dir_stream *stream = NULL;
	struct dir_entry de;
	struct dir_id id;
	int rc = dir_id_load(k->v, dirfd, &id);

	if (rc == 0)
		rc = dir_stream_open(k->v, dirfd, &id, &stream);
	if (rc < 0) {
		violated(k, "directory %u does not open: %s", dir, strerror(-rc));
		return;
	}
	while ((rc = dir_stream_next(stream, &de)) > 0 && k->count < ARRAY_LEN(k->found)) {
		char target[DIR_TARGET_MAX + 1];
		struct stat st;
		uint32_t name = 0;

		if (strcmp(de.name, ".") == 0 || strcmp(de.name, "..") == 0)
			continue;
		CLEANUP_CLOSE int fd = dir_lookup(k->v, dirfd, &id, de.name, &st);
		uint32_t obj = fd < 0 ? CRASH_NONE : object_by_serial(k->h, state_object(&k->h->record, k->s, st.st_ino));
		while (name < k->h->name_count && strcmp(k->h->names[name], de.name) != 0)
			name++;
		if (obj == CRASH_NONE || name == k->h->name_count || (st.st_mode & S_IFMT) != k->h->objects[obj].type) {
			violated(k, "directory %u has %.20s, which nobody made", dir, de.name);
			continue;
		}
		k->found[k->count++] = (struct entry){dir, name, obj};
		if (k->seen[obj])
			continue;
		k->seen[obj] = true;
		if (!S_ISLNK(st.st_mode))
			check_attribute(k, obj, fd);
		if (S_ISDIR(st.st_mode)) {
			CLEANUP_CLOSE int sub = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

			check_directory(k, sub, obj);
		} else if (S_ISREG(st.st_mode)) {
			if (st.st_uid != CRASH_OWNER || st.st_gid != CRASH_OWNER)
				violated(k, "file %u is somebody else's", obj);
			check_file(k, obj, fd);
		} else if (dir_readlink(k->v, fd, target) < 0 || strcmp(target, k->h->objects[obj].target) != 0) {
			violated(k, "symbolic link %u leads elsewhere", obj);
		}
	}
	if (rc < 0)
		violated(k, "directory %u does not read: %s", dir, strerror(-rc));
	dir_stream_close(stream);
}

static bool has_entry(const struct entry *entries, unsigned n, const struct entry *e)
{
	for (unsigned k = 0; k < n; k++)
		if (memcmp(&entries[k], e, sizeof(*e)) == 0)
			return true;
	return false;
}

/* The first operation after which the tree may be: of everything, or of one name in one directory. */
static unsigned first_tree(const struct check *k, uint32_t dir, uint32_t name)
{
	const struct crash *h = k->h;
	unsigned first = 0;

	for (unsigned i = 0; i < h->promise_count; i++) {
		const struct promise *p = &h->promises[i];

		if (p->at <= k->s->cut && (p->loose || !k->s->loose) && (p->dir == CRASH_NONE || p->dir == dir) &&
			(p->name == CRASH_NONE || p->name == name))
			first = MAX(first, p->op);
	}
	return first;
}

static uint32_t entry_obj(const struct entry *entries, unsigned n, uint32_t dir, uint32_t name)
{
	for (unsigned i = 0; i < n; i++)
		if (entries[i].dir == dir && entries[i].name == name)
			return entries[i].obj;
	return CRASH_NONE;
}

/* Journal: the whole is the tree of one moment. */
static void check_tree(const struct check *k)
{
	const struct crash *h = k->h;
	unsigned first = first_tree(k, CRASH_NONE, CRASH_NONE);

	for (unsigned op = first; op < h->tree_count && (op == 0 || h->trees[op].from < k->s->cut); op++) {
		const struct tree *t = &h->trees[op];
		bool fits = t->count == k->count;

		for (unsigned i = 0; fits && i < k->count; i++)
			fits = has_entry(t->entries, t->count, &k->found[i]);
		if (fits)
			return;
	}
	violated(k, "the tree is that of no moment after operation %u", first);
}

/* Loose: each name of each directory that is there is that of some moment. */
static void check_names(const struct check *k, uint32_t dir)
{
	const struct crash *h = k->h;

	for (uint32_t name = 0; name < h->name_count; name++) {
		unsigned first = first_tree(k, dir, name), op = first;
		uint32_t found = entry_obj(k->found, k->count, dir, name);
		bool fits = false;

		for (; !fits && op < h->tree_count && (op == 0 || h->trees[op].from < k->s->cut); op++)
			fits = entry_obj(h->trees[op].entries, h->trees[op].count, dir, name) == found;
		if (!fits)
			violated(k, "%.20s in directory %u is that of no moment after operation %u", h->names[name], dir, first);
	}
}

/* A second mount, after a clean end: nothing is left to repair. */
static int again_file(void *ctx, int path_fd, const struct stat *st, const char *lower, const char *plain)
{
	const struct check *k = ctx;
	struct content_check verified;
	struct content *c = NULL;
	int fd = io_reopen(path_fd, O_RDWR), rc = fd < 0 ? fd : content_open(k->v, fd, &c);

	(void)st;
	if (rc == 0)
		rc = content_verify(c, &verified);
	if (rc < 0 || verified.bad)
		violated(k, "%s (%s) does not verify at the second mount", plain, lower);
	content_close(c);
	return 0;
}

static void again_found(void *ctx, const struct scrub_finding *f)
{
	char text[160];

	scrub_describe(f, text, sizeof(text));
	violated(ctx, "%s (%s) at the second mount: %s", f->plain, f->lower, text);
}

static void check_again(struct check *k, const char *dir, const struct env_key *key)
{
	struct volume_options options = {.report = store_report};
	struct scrub_visitor visitor = {.file = again_file, .found = again_found, .thorough = true, .ctx = k};
	int rc = volume_open(dir, key, &options, &k->v);

	if (rc == 0)
		rc = scrub_walk(k->v, &visitor);
	if (rc < 0 || atomic_load(&k->v->stats.resealed))
		violated(k, "the second mount finds work: %s", strerror(-rc));
	if (k->v)
		(void)volume_close(k->v);
}

/* A rotation of the data that the crash interrupted goes on to its end, and changes nothing that is read. */
struct rotation {
	struct check *k;
	struct recrypt *r;
};

static int rotation_file(void *ctx, int path_fd, const struct stat *st, const char *lower, const char *plain)
{
	static uint8_t before[3 * GROUP_BLOCKS * BLOCK_SIZE], after[sizeof(before)];
	const struct rotation *rotation = ctx;
	struct recrypt_file file = {0};
	uint64_t bytes;
	int fd = io_reopen(path_fd, O_RDWR), rc = fd < 0 ? fd : content_open(rotation->k->v, fd, &file.content);

	(void)st;
	ssize_t n = rc < 0 ? rc : content_read(file.content, before, sizeof(before), 0);
	while (rc == 0 && n >= 0 && file.result == 0)
		rc = recrypt_step(rotation->r, &file, 1, &bytes);
	if (rc < 0 || n < 0 || file.result != 1 || content_read(file.content, after, sizeof(after), 0) != n || memcmp(before, after, (size_t)n) != 0)
		violated(rotation->k, "%s (%s): its rotation does not go on: %d, %zd, %d", plain, lower, rc, n, file.result);
	content_close(file.content);
	return 0;
}

static void rotation_found(void *ctx, const struct scrub_finding *f)
{
	violated(((struct rotation *)ctx)->k, "%s (%s) while its rotation goes on: %s", f->plain, f->lower, strerror(-f->error));
}

static void check_rotation(struct check *k)
{
	struct rotation rotation = {.k = k};
	struct scrub_visitor visitor = {.file = rotation_file, .found = rotation_found, .ctx = &rotation};

	if (!volume_data_rotating(k->v) || volume_rotating(k->v))
		return;
	/* What is pending still is for files that are no more. */
	int rc = journal_drop_pending(k->v);
	if (rc == 0)
		rc = recrypt_new(k->v, &rotation.r);
	if (rc == 0)
		rc = scrub_walk(k->v, &visitor);
	recrypt_free(rotation.r);
	if (rc == 0)
		rc = volume_data_end(k->v);
	if (rc < 0)
		violated(k, "the rotation does not go on: %s", strerror(-rc));
}

void crash_check(struct crash *h, const char *dir, const struct crash_state *s, unsigned how)
{
	struct volume_options options = {.report = store_report};
	struct check k = {.h = h, .s = s, .how = how};
	const struct env_key *key = &store_key;
	int rc = volume_open(dir, key, &options, &k.v);

	/* Rotated or not: one of the two keys opens it, whenever the power went. */
	if (rc == -EKEYREJECTED)
		rc = volume_open(dir, key = &crash_next_key, &options, &k.v);
	if (rc < 0) {
		violated(&k, "the store does not open: %s", strerror(-rc));
		return;
	}
	check_directory(&k, k.v->root_fd, CRASH_ROOT);
	if (s->loose) {
		check_names(&k, CRASH_ROOT);
		for (uint32_t obj = 1; obj < h->object_count; obj++)
			if (k.seen[obj] && S_ISDIR(h->objects[obj].type))
				check_names(&k, obj);
	} else {
		check_tree(&k);
	}
	if (how & CHECK_USE)
		check_rotation(&k);
	/* Every file was opened. */
	rc = volume_forget_unclean(k.v);
	if (rc < 0)
		violated(&k, "the unclean end is not forgotten: %s", strerror(-rc));
	h->refused += (unsigned)atomic_load(&k.v->stats.refused);
	rc = volume_close(k.v);
	if (rc < 0)
		violated(&k, "the store does not close: %s", strerror(-rc));
	if (how & CHECK_AGAIN)
		check_again(&k, dir, key);
}
