/* state: builds crash states. Contract: record.h. */
#include "record.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

/* One page since the last sync of its file. */
struct page {
	uint32_t obj;
	uint64_t number;
	uint8_t sectors; /* that still take writes; 0xff: all, the page is not frozen yet */
};

/* What has an order of its own in a loose state: a name in a directory, or a file's length and attributes. */
struct chain {
	uint32_t obj;  /* the directory, the file */
	uint64_t name; /* hash; 0: of the object itself */
	bool kept;     /* everything earlier in it is there */
	bool lost;     /* something in it is lost, and so is what comes later */
};

struct build {
	const struct recording *r;
	struct crash_state *s;
	int *fds;           /* by serial; -1 */
	bool *required;     /* by record: of what is not data */
	bool *durable;      /* by record: a write that was one */
	bool *is_dir;       /* by serial */
	size_t *synced;     /* by serial: records before this one are on the disk, data too */
	uint64_t *lengths;  /* by serial: the file's, in memory, at the record that is looked at */
	struct chain *chains; /* open addressing */
	size_t chain_size, chain_count;
	struct page *pages; /* open addressing by object and number */
	size_t page_size, page_count;
	uint32_t numbered;  /* objects of the base so far */
};

static struct chain *chain_of(struct build *b, uint32_t obj, const char *name)
{
	uint64_t hash = name ? UINT64_C(0xcbf29ce484222325) : 0;

	for (; name && *name; name++)
		hash = (hash ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
	if (2 * b->chain_count >= b->chain_size) {
		struct chain *old = b->chains;
		size_t n = b->chain_size;

		b->chain_size = n ? 2 * n : 256;
		b->chains = calloc(b->chain_size, sizeof(*b->chains));
		if (!b->chains)
			abort();
		for (size_t k = 0; k < n; k++)
			if (old[k].obj) {
				size_t to = (size_t)((old[k].name ^ old[k].obj) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (b->chain_size - 1);

				while (b->chains[to].obj)
					to = (to + 1) & (b->chain_size - 1);
				b->chains[to] = old[k];
			}
		free(old);
	}
	size_t k = (size_t)((hash ^ obj) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (b->chain_size - 1);
	while (b->chains[k].obj && (b->chains[k].obj != obj || b->chains[k].name != hash))
		k = (k + 1) & (b->chain_size - 1);
	if (!b->chains[k].obj) {
		b->chains[k] = (struct chain){.obj = obj, .name = hash};
		b->chain_count++;
	}
	return &b->chains[k];
}

static bool is_sync(const struct record *one)
{
	return one->op == IO_FSYNC || one->op == IO_FDATASYNC || one->op == IO_SYNCFS;
}

static bool is_name(const struct record *one)
{
	switch ((int)one->op) {
	case IO_OPEN:
	case IO_MKDIR:
	case IO_SYMLINK:
	case IO_MKNOD:
	case IO_RENAME:
	case IO_LINK:
	case IO_UNLINK:
		return true;
	default:
		return false;
	}
}

/* A file without a name comes to be: that is in nobody's order. */
static bool is_nameless(const struct record *one)
{
	return one->op == IO_OPEN && (one->flags & O_TMPFILE) == O_TMPFILE;
}

/* The one or two chains of a change. */
static unsigned chains_of(struct build *b, const struct record *one, struct chain *ret[2])
{
	unsigned n = 0;

	if (is_nameless(one))
		return 0;
	(void)chain_of(b, one->obj, one->path); /* room for both first: a chain's place changes when there is no more */
	if (!is_name(one))
		ret[n++] = chain_of(b, one->obj, NULL);
	if (is_name(one) && one->op != IO_LINK)
		ret[n++] = chain_of(b, one->obj, one->path);
	if (one->op == IO_RENAME || one->op == IO_LINK) {
		(void)chain_of(b, one->obj2, one->path2);
		if (n)
			ret[0] = chain_of(b, one->obj, one->path);
		ret[n++] = chain_of(b, one->obj2, one->path2);
	}
	return n;
}

/* Of a loose state: going backwards, what has to be there for what is promised. */
static bool loose_required(struct build *b, const struct record *one, size_t k, bool *named, bool *needed)
{
	struct chain *chains[2];
	unsigned n = chains_of(b, one, chains);
	uint32_t other = one->obj2 ? one->obj2 : one->obj;
	bool required = k < b->synced[one->obj] || k < b->synced[other];

	for (unsigned i = 0; i < n; i++)
		required |= chains[i]->kept;
	if (!is_name(one))
		return required;
	if (one->op != IO_UNLINK && one->made) {
		bool makes = one->op != IO_RENAME && one->op != IO_LINK;

		/* A synced file has its newest name; what something was put into, or linked to, is there. */
		if (makes && needed[one->made])
			required = true;
		if (!named[one->made] && (needed[one->made] || (k < b->synced[one->made] && !b->is_dir[one->made])))
			required = named[one->made] = true;
	}
	if (!required)
		return false;
	for (unsigned i = 0; i < n; i++)
		chains[i]->kept = true;
	if (one->op == IO_LINK) {
		needed[one->made] = true;
		/* It changes the inode, which is written as a whole. */
		chain_of(b, one->made, NULL)->kept = true;
	} else if (one->obj != other)
		needed[one->obj] = needed[other] = true;
	return true;
}

/* The write that ended with record k. */
static void build_durable(struct build *b, size_t k)
{
	const struct record *records = b->r->records, *sync = &records[k];

	while (k-- > 0)
		if (records[k].op == IO_WRITE && records[k].obj == sync->obj && records[k].off == sync->off && records[k].len == sync->len) {
			b->durable[k] = true;
			return;
		}
}

/* How far each object is on the disk, and which changes of names, lengths and attributes are. */
static void build_required(struct build *b)
{
	const struct record *records = b->r->records;
	size_t last = 0, objects = b->r->objects + 1, all = 0;
	bool *named = calloc(objects, 1), *needed = calloc(objects, 1); /* by serial */

	if (!named || !needed)
		abort();
	for (size_t k = 0; k < b->s->cut; k++) {
		if (records[k].op == IO_MKDIR)
			b->is_dir[records[k].made] = true;
		if (records[k].hidden || !is_sync(&records[k]))
			continue;
		if (records[k].flags & RWF_DSYNC) {
			build_durable(b, k);
			continue;
		}
		last = MAX(last, records[k].begun);
		if (records[k].op == IO_SYNCFS)
			all = MAX(all, records[k].begun);
		else
			b->synced[records[k].obj] = MAX(b->synced[records[k].obj], records[k].begun);
	}
	for (size_t o = 0; o < objects; o++)
		b->synced[o] = MAX(b->synced[o], all);
	for (size_t k = b->s->cut; k-- > 0;)
		if (!records[k].hidden && !is_sync(&records[k]) && records[k].op != IO_WRITE)
			b->required[k] = b->s->loose ? loose_required(b, &records[k], k, named, needed) : k < last;
	free(named);
	free(needed);
}

static void base_made(void *ctx, uint64_t ino, int copy)
{
	struct build *b = ctx;

	struct stat st;

	(void)ino;
	b->fds[++b->numbered] = fcntl(copy, F_DUPFD_CLOEXEC, 0);
	b->is_dir[b->numbered] = fstat(copy, &st) == 0 && S_ISDIR(st.st_mode);
	b->lengths[b->numbered] = (uint64_t)st.st_size;
}

static struct page *page_of(struct build *b, uint32_t obj, uint64_t number)
{
	if (2 * b->page_count >= b->page_size) {
		struct build larger = {.page_size = b->page_size ? 2 * b->page_size : 1024};

		larger.pages = calloc(larger.page_size, sizeof(*larger.pages));
		if (!larger.pages)
			abort();
		for (size_t k = 0; k < b->page_size; k++)
			if (b->pages[k].obj)
				*page_of(&larger, b->pages[k].obj, b->pages[k].number) = b->pages[k];
		free(b->pages);
		b->pages = larger.pages;
		b->page_size = larger.page_size;
	}
	size_t k = (size_t)((number * 31 + obj) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (b->page_size - 1);
	while (b->pages[k].obj && (b->pages[k].obj != obj || b->pages[k].number != number))
		k = (k + 1) & (b->page_size - 1);
	if (!b->pages[k].obj) {
		b->pages[k] = (struct page){obj, number, 0xff};
		b->page_count++;
	}
	return &b->pages[k];
}

static bool page_is_there(int fd, uint64_t number)
{
	char b[4096];
	ssize_t n = pread(fd, b, sizeof(b), (off_t)(number * 4096));

	return n > 0 && (b[0] != 0 || memcmp(b, b + 1, (size_t)n - 1) != 0);
}

static void put(int fd, const uint8_t *b, uint64_t n, uint64_t off)
{
	if (pwrite(fd, b, n, (off_t)off) != (ssize_t)n)
		abort();
}

/* A page is written as far as the file went then, also what nobody has written in it. */
static void put_page(int fd, const uint8_t *b, uint64_t n, uint64_t off, uint64_t length)
{
	uint64_t end = MIN((off / 4096 + 1) * 4096, length);
	struct stat st;

	put(fd, b, n, off);
	if (fstat(fd, &st) < 0 || ((uint64_t)st.st_size < end && ftruncate(fd, (off_t)end) < 0))
		abort();
}

/* The file's length in memory after a change. */
static void build_length(struct build *b, const struct record *one)
{
	uint64_t *length = &b->lengths[one->obj];

	if (one->op == IO_TRUNCATE)
		*length = one->len;
	else if (one->op == IO_WRITE || (one->op == IO_FALLOCATE && !(one->flags & FALLOC_FL_KEEP_SIZE)))
		*length = MAX(*length, one->off + one->len);
}

static void build_write(struct build *b, const struct record *one, bool whole)
{
	int fd = b->fds[one->obj];

	if (fd < 0 || (!whole && chain_of(b, one->obj, NULL)->lost))
		return;
	if (whole) {
		put(fd, one->data, one->len, one->off);
		return;
	}
	for (uint64_t at = one->off, end = one->off + one->len, n; at < end; at += n) {
		struct page *p = page_of(b, one->obj, at / 4096);
		const uint8_t *data = one->data + (at - one->off);

		n = MIN(4096 - at % 4096, end - at);
		/* A page reaches the disk as it was before some write to it: from that one on it is frozen. */
		if (p->sectors == 0xff && crash_below(&b->s->seed, 2)) {
			bool torn = crash_below(&b->s->seed, 8) == 0, there = torn && page_is_there(fd, at / 4096);

			/* Torn in place, by sectors; where it was not allocated before, by the file system's blocks of 1 KiB. */
			p->sectors = torn ? (uint8_t)crash_below(&b->s->seed, 255) : 0;
			if (!there)
				p->sectors = b->s->small_blocks ? (uint8_t)((p->sectors & 0x55) * 3) : 0;
		}
		if (p->sectors == 0xff)
			put_page(fd, data, n, at, b->lengths[one->obj]);
		else
			for (uint64_t s = at; p->sectors && s < at + n; s = (s / 512 + 1) * 512)
				if (p->sectors >> s / 512 % 8 & 1)
					put(fd, data + (s - at), MIN((s / 512 + 1) * 512, at + n) - s, s);
	}
}

static void build_attribute(int fd, const struct record *one)
{
	char proc[40];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (one->op == IO_SETXATTR)
		(void)!setxattr(proc, one->path, one->data, one->len, 0);
	else if (one->op == IO_REMOVEXATTR)
		(void)!removexattr(proc, one->path);
	else if (one->op == IO_CHMOD)
		(void)!chmod(proc, one->mode & 07777);
	else if (one->op == IO_CHOWN)
		(void)!fchownat(fd, "", (uid_t)one->off, (gid_t)one->len, AT_EMPTY_PATH);
}

/* A directory that is no more has nothing in it, whatever of its own changes was lost. */
static void build_empty(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dp = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;

	while (dp && (de = readdir(dp)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0 && unlinkat(fd, de->d_name, 0) < 0) {
			build_empty(fd, de->d_name);
			(void)!unlinkat(fd, de->d_name, AT_REMOVEDIR);
		}
	if (dp)
		closedir(dp);
}

static void must(int rc, const struct record *one)
{
	if (rc < 0) {
		fprintf(stderr, "a state cannot be built: operation %d on %s: %s\n", (int)one->op, one->path ? one->path : "", strerror(errno));
		abort();
	}
}

/* Names, lengths, attributes. */
static void build_change(struct build *b, const struct record *one)
{
	int fd = b->fds[one->obj], fd2 = one->obj2 ? b->fds[one->obj2] : -1;
	char proc[40];

	if (fd < 0 || (one->obj2 && fd2 < 0))
		return; /* it was made by something lost */
	switch ((int)one->op) {
	case IO_OPEN:
		b->fds[one->made] = openat(fd, one->path, O_RDWR | O_CLOEXEC | (int)(one->flags & (O_CREAT | O_TMPFILE)), one->mode & 07777);
		must(b->fds[one->made], one);
		break;
	case IO_MKDIR:
		must(mkdirat(fd, one->path, one->mode & 07777), one);
		b->fds[one->made] = openat(fd, one->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		break;
	case IO_SYMLINK:
		must(symlinkat(one->path2, fd, one->path), one);
		b->fds[one->made] = openat(fd, one->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		break;
	case IO_MKNOD:
		must(mknodat(fd, one->path, one->mode, 0), one);
		b->fds[one->made] = openat(fd, one->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		break;
	case IO_RENAME:
		if (one->flags == 0 && faccessat(fd, one->path, F_OK, AT_SYMLINK_NOFOLLOW) == 0 && b->is_dir[one->made])
			build_empty(fd2, one->path2);
		must(renameat2(fd, one->path, fd2, one->path2, one->flags), one);
		break;
	case IO_LINK:
		if (b->fds[one->made] < 0)
			break;
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", b->fds[one->made]);
		must(linkat(AT_FDCWD, proc, fd2, one->path2, AT_SYMLINK_FOLLOW), one);
		break;
	case IO_UNLINK:
		if (one->flags & AT_REMOVEDIR)
			build_empty(fd, one->path);
		must(unlinkat(fd, one->path, (int)one->flags), one);
		break;
	case IO_TRUNCATE:
		must(ftruncate(fd, (off_t)one->len), one);
		break;
	case IO_FALLOCATE:
		must(fallocate(fd, (int)one->flags, (off_t)one->off, (off_t)one->len), one);
		break;
	default:
		build_attribute(fd, one);
		break;
	}
}

/* Whether a change that no sync kept is lost; once one is, so are all after it in the same order. */
static bool build_loses(struct build *b, const struct record *one, bool beyond)
{
	struct chain *chains[2];
	bool inode_lost = one->op == IO_LINK && chain_of(b, one->made, NULL)->lost;
	unsigned n = chains_of(b, one, chains);
	uint32_t other = one->obj2 ? one->obj2 : one->obj;
	bool lost = beyond;

	if (b->s->loose) {
		lost = b->fds[one->obj] < 0 || b->fds[other] < 0 || (one->op == IO_LINK && b->fds[one->made] < 0) || inode_lost ||
			(!is_nameless(one) && crash_below(&b->s->seed, 4) == 0);
		for (unsigned i = 0; i < n; i++)
			lost |= chains[i]->lost;
	}
	for (unsigned i = 0; i < n && lost; i++)
		chains[i]->lost = true;
	return lost;
}

void state_build(const struct recording *r, const char *to, struct crash_state *s)
{
	size_t objects = r->objects + 1, first_free = 0;
	struct build b = {.r = r, .s = s, .fds = malloc(objects * sizeof(int)), .required = calloc(s->cut + 1, 1),
		.durable = calloc(s->cut + 1, 1), .synced = calloc(objects, sizeof(size_t)), .is_dir = calloc(objects, 1),
		.lengths = calloc(objects, sizeof(uint64_t))};

	s->inos = calloc(objects, sizeof(*s->inos));
	if (!b.fds || !b.required || !b.durable || !b.synced || !b.is_dir || !b.lengths || !s->inos)
		abort();
	for (size_t o = 0; o < objects; o++)
		b.fds[o] = -1;
	base_build(r->base, to, base_made, &b);
	build_required(&b);
	for (size_t k = 0; k < s->cut; k++)
		if (b.required[k])
			first_free = k + 1;
	size_t end = first_free + crash_below(&s->seed, s->cut - first_free + 1);
	for (size_t k = 0; k < s->cut; k++) {
		const struct record *one = &r->records[k];

		if (one->hidden)
			continue;
		build_length(&b, one);
		if (one->op == IO_WRITE)
			build_write(&b, one, k < b.synced[one->obj] || b.durable[k]);
		else if (!is_sync(one) && (b.required[k] || !build_loses(&b, one, k >= end)))
			build_change(&b, one);
	}
	for (size_t o = 1; o < objects; o++) {
		struct stat st;

		if (b.fds[o] >= 0 && fstat(b.fds[o], &st) == 0)
			s->inos[o] = st.st_ino;
		util_closep(&b.fds[o]);
	}
	/* This is the store itself after a crash, and not a copy that somebody made (store/place.h). */
	char lock[1024];
	snprintf(lock, sizeof(lock), "%s/lock", to);
	(void)!truncate(lock, 0);
	free(b.fds);
	free(b.required);
	free(b.durable);
	free(b.synced);
	free(b.chains);
	free(b.is_dir);
	free(b.lengths);
	free(b.pages);
}

void state_done(struct crash_state *s)
{
	free(s->inos);
	s->inos = NULL;
}

uint32_t state_object(const struct recording *r, const struct crash_state *s, uint64_t ino)
{
	/* The newest: a number may have come again. */
	for (uint32_t o = r->objects; o > 0; o--)
		if (s->inos[o] == ino)
			return o;
	return 0;
}
