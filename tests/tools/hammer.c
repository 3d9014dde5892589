/* hammer: many threads on one file, or on few names, of a mounted file system.
 *
 *   hammer file PATH THREADS SECONDS SEED      reads, writes, mappings, O_DIRECT, truncation, punching, syncing, seeking
 *   hammer names DIR THREADS SECONDS SEED      lookups against rename, link, unlink, and names that are forgotten
 *
 * Every block that is written holds one number all over: its own number and a stamp. So a block that mixes two writes, or is
 * another's, shows. The file's blocks, by what is done to them:
 *
 *   0..511      shared    whole-block writes of everybody, punching, zero ranges; always written with O_DIRECT, so even a read
 *                         beside them sees one write, or zeros
 *   512..1023   owned     block k is written by thread k % THREADS alone, in every way; it reads back what it wrote
 *   1024..1087  sectors   sector j of each is thread j's (of the first 8): writes of 512 bytes, O_DIRECT and not
 *   1088..      tail      cut off and extended, blocks and pieces of any length
 *
 * Exit status 0, or 1 and a line that says what was seen. */
#include "base/util.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 4096u
#define SECTOR 512u
#define SHARED 512u
#define OWNED_END 1024u
#define SECTORS_END 1088u
#define TAIL_MAX 700u
#define THREADS_MAX 64u
#define NAMES 12u

static const char *path;
static unsigned threads;
static uint64_t end_ns;
static atomic_bool failed;
static atomic_uint_fast64_t operations, stamps = 1;

struct hammer {
	pthread_t thread;
	unsigned index;
	uint64_t seed;
	int fd, direct;
	uint8_t *map;    /* the first SECTORS_END blocks */
	uint8_t *buf;    /* 64 aligned blocks */
	uint64_t last[OWNED_END - SHARED]; /* what this thread wrote last to its own blocks */
	uint64_t sector[SECTORS_END - OWNED_END];
};

static void fail(const char *what, uint64_t a, uint64_t b)
{
	if (!atomic_exchange(&failed, true))
		printf("hammer: %s (%llu, %llx): %s\n", what, (unsigned long long)a, (unsigned long long)b, strerror(errno));
}

static bool going(void)
{
	atomic_fetch_add_explicit(&operations, 1, memory_order_relaxed);
	return clock_monotonic_ns() < end_ns && !atomic_load(&failed);
}

static uint64_t draw(struct hammer *h, uint64_t n)
{
	h->seed ^= h->seed << 13;
	h->seed ^= h->seed >> 7;
	h->seed ^= h->seed << 17;
	return h->seed % n;
}

static uint64_t stamp_new(uint64_t blk)
{
	return blk << 40 | (atomic_fetch_add(&stamps, 1) & ((UINT64_C(1) << 40) - 1));
}

static void fill(uint8_t *b, uint64_t value, size_t len)
{
	for (size_t k = 0; k < len; k += sizeof(value))
		memcpy(b + k, &value, sizeof(value));
}

/* The one number that a block holds. */
static uint64_t value_of(const uint8_t *b, uint64_t blk, size_t len)
{
	uint64_t value, other;

	memcpy(&value, b, sizeof(value));
	for (size_t k = sizeof(value); k < len; k += sizeof(value)) {
		memcpy(&other, b + k, sizeof(other));
		if (other != value) {
			fail("torn block", blk, other);
			return other;
		}
	}
	if (value && value >> 40 != blk)
		fail("another block's content", blk, value);
	return value;
}

static void write_all(int fd, const void *b, size_t len, uint64_t off)
{
	ssize_t n = pwrite(fd, b, len, (off_t)off);

	if (n != (ssize_t)len)
		fail("write", off, (uint64_t)n);
}

static void read_all(int fd, void *b, size_t len, uint64_t off)
{
	ssize_t n = pread(fd, b, len, (off_t)off);

	if (n != (ssize_t)len)
		fail("read", off, (uint64_t)n);
}

/* ---- one file ---- */

static void on_shared(struct hammer *h)
{
	uint64_t n = draw(h, 16) + 1, blk = draw(h, SHARED - n);

	switch (draw(h, 8)) {
	case 0:
		if (fallocate(h->fd, FALLOC_FL_KEEP_SIZE | (draw(h, 2) ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE), (off_t)(blk * BLOCK),
			    (off_t)(n * BLOCK)) < 0)
			fail("fallocate", blk, n);
		break;
	case 1:
	case 2:
	case 3:
		for (uint64_t k = 0; k < n; k++)
			fill(h->buf + k * BLOCK, stamp_new(blk + k), BLOCK);
		write_all(h->direct, h->buf, n * BLOCK, blk * BLOCK);
		break;
	default:
		read_all(h->direct, h->buf, n * BLOCK, blk * BLOCK);
		for (uint64_t k = 0; k < n; k++)
			value_of(h->buf + k * BLOCK, blk + k, BLOCK);
	}
}

static void on_owned(struct hammer *h)
{
	uint64_t blk = SHARED + draw(h, (OWNED_END - SHARED) / threads) * threads;

	while (blk % threads != h->index)
		blk++;
	if (blk >= OWNED_END)
		return;
	uint64_t *last = &h->last[blk - SHARED], off = blk * BLOCK, seen;
	switch (draw(h, 6)) {
	case 0:
		fill(h->buf, *last = stamp_new(blk), BLOCK);
		write_all(h->fd, h->buf, BLOCK, off);
		break;
	case 1:
		fill(h->buf, *last = stamp_new(blk), BLOCK);
		write_all(h->direct, h->buf, BLOCK, off);
		break;
	case 2:
		fill(h->map + off, *last = stamp_new(blk), BLOCK);
		break;
	case 3:
		seen = value_of(h->map + off, blk, BLOCK);
		if (seen != *last)
			fail("the mapping shows an old block", blk, seen);
		break;
	default:
		read_all(draw(h, 2) ? h->fd : h->direct, h->buf, BLOCK, off);
		seen = value_of(h->buf, blk, BLOCK);
		if (seen != *last)
			fail("an old block was read", blk, seen);
	}
}

static void on_sectors(struct hammer *h)
{
	uint64_t k = draw(h, SECTORS_END - OWNED_END), blk = OWNED_END + k, off = blk * BLOCK + h->index * SECTOR, seen;

	if (h->index >= BLOCK / SECTOR)
		return;
	int fd = draw(h, 2) ? h->fd : h->direct;
	if (draw(h, 2)) {
		fill(h->buf, h->sector[k] = stamp_new(blk), SECTOR);
		write_all(fd, h->buf, SECTOR, off);
	} else {
		read_all(fd, h->buf, SECTOR, off);
		seen = value_of(h->buf, blk, SECTOR);
		if (seen != h->sector[k])
			fail("an old sector was read", blk, seen);
	}
}

static void on_tail(struct hammer *h)
{
	uint64_t at = SECTORS_END * BLOCK + draw(h, TAIL_MAX * BLOCK), len = draw(h, 20000) + 1;

	switch (draw(h, 5)) {
	case 0:
	case 1:
		if (ftruncate(h->fd, (off_t)at) < 0)
			fail("ftruncate", at, 0);
		break;
	case 2:
		memset(h->buf, 0x55, len);
		write_all(h->fd, h->buf, len, at);
		break;
	case 3:
		memset(h->buf, 0x55, 8 * BLOCK);
		write_all(h->direct, h->buf, 8 * BLOCK, at / BLOCK * BLOCK);
		break;
	default: {
		ssize_t n = pread(h->fd, h->buf, len, (off_t)at);

		if (n < 0)
			fail("read of the tail", at, 0);
		for (ssize_t k = 0; k < n; k++)
			if (h->buf[k] != 0x55 && h->buf[k] != 0)
				fail("a strange byte in the tail", at + (uint64_t)k, h->buf[k]);
	}
	}
}

static void on_state(struct hammer *h)
{
	struct stat st;
	off_t at;

	switch (draw(h, 4)) {
	case 0:
		if ((draw(h, 2) ? fsync(h->fd) : fdatasync(h->fd)) < 0)
			fail("fsync", 0, 0);
		break;
	case 1:
		at = lseek(h->fd, (off_t)draw(h, OWNED_END * BLOCK), draw(h, 2) ? SEEK_DATA : SEEK_HOLE);
		if (at < 0 && errno != ENXIO) /* at first there is no data at all */
			fail("lseek", 0, 0);
		break;
	case 2:
		if (msync(h->map, (size_t)SECTORS_END * BLOCK, draw(h, 2) ? MS_SYNC : MS_ASYNC) < 0)
			fail("msync", 0, 0);
		break;
	default:
		if (fstat(h->fd, &st) < 0 || st.st_size < (off_t)(SECTORS_END * BLOCK))
			fail("the size", (uint64_t)st.st_size, 0);
	}
}

static void *hammer_file(void *arg)
{
	struct hammer *h = arg;

	while (going()) {
		uint64_t kind = draw(h, 100);

		if (kind < 35)
			on_shared(h);
		else if (kind < 65)
			on_owned(h);
		else if (kind < 80)
			on_sectors(h);
		else if (kind < 96)
			on_tail(h);
		else
			on_state(h);
	}
	return NULL;
}

static void file_open(struct hammer *h)
{
	h->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	h->direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (h->fd < 0 || h->direct < 0)
		fail("open", 0, 0);
	if (h->index == 0 && ftruncate(h->fd, SECTORS_END * (off_t)BLOCK) < 0)
		fail("ftruncate", 0, 0);
	h->map = mmap(NULL, (size_t)SECTORS_END * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, h->fd, 0);
	if (h->map == MAP_FAILED)
		fail("mmap", 0, 0);
}

/* What must be there when all is quiet, by either way of reading. */
static void file_check(struct hammer *all)
{
	for (unsigned direct = 0; direct < 2; direct++) {
		struct hammer *h = &all[0];

		for (uint64_t blk = 0; blk < SECTORS_END && !atomic_load(&failed); blk++) {
			read_all(direct ? h->direct : h->fd, h->buf, BLOCK, blk * BLOCK);
			if (blk < OWNED_END) {
				uint64_t value = value_of(h->buf, blk, BLOCK);

				if (blk >= SHARED && value != all[blk % threads].last[blk - SHARED])
					fail("a write is lost", blk, value);
				continue;
			}
			for (unsigned j = 0; j < MIN(threads, BLOCK / SECTOR); j++)
				if (value_of(h->buf + j * SECTOR, blk, SECTOR) != all[j].sector[blk - OWNED_END])
					fail("a sector's write is lost", blk, j);
		}
	}
	if (fsync(all[0].fd) < 0)
		fail("fsync", 0, 0);
}

/* ---- names ---- */

static void name_of(struct hammer *h, char ret[600])
{
	uint64_t k = draw(h, NAMES);

	/* Some as long as names get, in one of two folders. */
	snprintf(ret, 600, "%s/%s/%.*s%llu", path, k % 2 ? "one" : "two", k % 3 ? 0 : 240,
		"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
		"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
		(unsigned long long)k);
}

static void allow(int rc, int a, int b, const char *what)
{
	if (rc < 0 && errno != a && errno != b)
		fail(what, 0, 0);
}

/* A file appears under its name whole: two blocks of one number. */
static void name_make(struct hammer *h)
{
	char name[600], made[600];
	uint64_t value = stamp_new(1);

	name_of(h, name);
	snprintf(made, sizeof(made), "%s/one/made%u", path, h->index);
	int fd = open(made, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0) {
		fail("open of a new file", 0, 0);
		return;
	}
	fill(h->buf, value, BLOCK);
	write_all(fd, h->buf, BLOCK, 0);
	write_all(fd, h->buf, BLOCK, (value % 300) * BLOCK);
	close(fd);
	unsigned flags = draw(h, 3) == 0 ? RENAME_NOREPLACE : draw(h, 4) == 0 ? RENAME_EXCHANGE : 0;
	if (renameat2(AT_FDCWD, made, AT_FDCWD, name, flags) < 0 || flags == RENAME_EXCHANGE) {
		allow(errno ? -1 : 0, EEXIST, ENOENT, "rename of a new file");
		if (unlink(made) < 0)
			fail("unlink of a new file", 0, 0);
	}
}

static void name_read(struct hammer *h)
{
	char name[600];
	struct stat st;

	name_of(h, name);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		allow(-1, ENOENT, ENOENT, "open");
		return;
	}
	read_all(fd, h->buf, BLOCK, 0);
	uint64_t value = value_of(h->buf, 1, BLOCK), at = value % 300;
	if (value == 0)
		fail("a file without its content", 0, 0);
	read_all(fd, h->buf, BLOCK, at * BLOCK);
	if (value_of(h->buf, 1, BLOCK) != value)
		fail("a file with another's content", 0, value);
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != (at + 1) * BLOCK)
		fail("a file with another's size", (uint64_t)st.st_size, value);
	close(fd);
}

/* A number of this thread's own in a file full of holes: opened anew each time, while the kernel forgets it. */
static void name_count(struct hammer *h)
{
	char name[600];
	uint64_t seen = 0;

	snprintf(name, sizeof(name), "%s/two/count%u", path, h->index);
	int fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		fail("open of a count", 0, 0);
		return;
	}
	uint64_t at = (1 + h->last[0] % 40) * 50000;
	if (h->last[0] && pread(fd, &seen, sizeof(seen), (off_t)h->last[1]) < 0)
		fail("read of a count", 0, 0);
	if (h->last[0] && seen != h->last[0])
		fail("a count went back", seen, h->last[0]);
	h->last[0]++;
	h->last[1] = at;
	write_all(fd, &h->last[0], sizeof(uint64_t), at);
	if (draw(h, 10) == 0 && ftruncate(fd, (off_t)(at + 8)) < 0)
		fail("ftruncate of a count", 0, 0);
	close(fd);
}

static void *hammer_names(void *arg)
{
	struct hammer *h = arg;
	char name[600], other[600];
	struct stat st;

	while (going()) {
		name_of(h, name);
		name_of(h, other);
		errno = 0;
		switch (draw(h, 9)) {
		case 0:
			allow(rename(name, other), ENOENT, ENOENT, "rename");
			break;
		case 1:
			allow(link(name, other), ENOENT, EEXIST, "link");
			break;
		case 2:
			allow(unlink(name), ENOENT, ENOENT, "unlink");
			break;
		case 3:
			allow(stat(name, &st), ENOENT, ENOENT, "stat");
			break;
		case 4:
		case 5:
			name_make(h);
			break;
		case 6:
			name_count(h);
			break;
		default:
			name_read(h);
		}
	}
	return NULL;
}

/* A remount in place drops what nobody uses: names and inodes, and the worker hears of it. */
static void *forget(void *arg)
{
	const char *mountpoint = arg;

	while (going()) {
		if (mount(NULL, mountpoint, NULL, MS_REMOUNT, NULL) < 0)
			fail("remount", 0, 0);
		usleep(1000);
	}
	return NULL;
}

/* ---- */

int main(int argc, char **argv)
{
	static struct hammer all[THREADS_MAX];
	pthread_t forgetter;

	if (argc != 6 || strtoul(argv[3], NULL, 10) - 1 >= THREADS_MAX) {
		fprintf(stderr, "hammer file PATH | names DIR, then THREADS SECONDS SEED\n");
		return 2;
	}
	bool names = strcmp(argv[1], "names") == 0;
	path = argv[2];
	threads = (unsigned)strtoul(argv[3], NULL, 10);
	end_ns = clock_monotonic_ns() + strtoull(argv[4], NULL, 10) * 1000000000;
	for (unsigned k = 0; k < threads; k++) {
		struct hammer *h = &all[k];

		h->index = k;
		h->seed = (strtoull(argv[5], NULL, 10) + 1) * UINT64_C(0x9e3779b97f4a7c15) + k * 7919 + 1;
		if (posix_memalign((void **)&h->buf, BLOCK, 64 * BLOCK) != 0)
			return 1;
		if (!names)
			file_open(h);
	}
	if (names) {
		char folder[600];

		for (unsigned k = 0; k < 2; k++) {
			snprintf(folder, sizeof(folder), "%s/%s", path, k ? "one" : "two");
			if (mkdir(folder, 0700) < 0)
				fail("mkdir", 0, 0);
		}
		pthread_create(&forgetter, NULL, forget, argv[2]);
	}
	for (unsigned k = 0; k < threads; k++)
		pthread_create(&all[k].thread, NULL, names ? hammer_names : hammer_file, &all[k]);
	for (unsigned k = 0; k < threads; k++)
		pthread_join(all[k].thread, NULL);
	if (names)
		pthread_join(forgetter, NULL);
	else
		file_check(all);
	printf("hammer: %llu operations\n", (unsigned long long)operations);
	return atomic_load(&failed);
}
