/* journal: see journal.h. */
#include "store/journal.h"

#include "base/io.h"
#include "store/crypto.h"

#include <fcntl.h>
#include <string.h>

#define JOURNAL_NAME "rotate.journal"
#define JOURNAL_MAGIC "TDEFSJ1"
#define JOURNAL_SIZE (JOURNAL_GROUPS_MAX * (GROUP_BLOCKS + 1) * BLOCK_SIZE + JOURNAL_PARTS_MAX * 8192u)
#define RECORD_ID_SIZE 16u
#define PART_HEAD 72u
#define TAG_OFF 52u
#define TAG_SIZE 16u
#define EXTENT_HEAD 16u

struct journal_part {
	uint8_t *b; /* in the journal's pending bytes */
	size_t len;
	bool done; /* applied, or never in force */
};

struct journal {
	int fd; /* -1: not open */
	uint8_t *buf; /* the record being made; JOURNAL_SIZE */
	size_t len, part, extent; /* of the record; where the open part and its last extent begin */
	unsigned parts;
	bool ahead; /* all but its first sector is durable */
	size_t starts[JOURNAL_PARTS_MAX];

	pthread_mutex_t lock; /* for the rest */
	uint8_t *pending; /* the record that was found, id included */
	struct journal_part list[JOURNAL_PARTS_MAX];
	unsigned count;
	atomic_uint left; /* in list and not done */
};

static int part_tag(const struct file_key *fk, const uint8_t *record_id, const uint8_t *part, size_t len, uint8_t ret[TAG_SIZE])
{
	const struct iovec iov[] = {{(void *)(uintptr_t)record_id, RECORD_ID_SIZE}, {(void *)(uintptr_t)part, TAG_OFF},
		{(void *)(uintptr_t)(part + TAG_OFF + TAG_SIZE), len - TAG_OFF - TAG_SIZE}};
	uint8_t key[32];
	int rc = crypto_derive(fk->b, sizeof(fk->b), LABEL_JOURNAL, 0, key, sizeof(key));

	if (rc == 0)
		rc = crypto_gmac(key, part + 40, iov, ARRAY_LEN(iov), ret);
	secret_wipe(key, sizeof(key));
	return rc;
}

/* The next extent of a part after *pos; false at its end, or where it makes no sense. */
static bool part_next(const uint8_t *part, size_t len, size_t *pos, uint64_t *ret_off, size_t *ret_len, const uint8_t **ret_data)
{
	if (len - *pos < EXTENT_HEAD)
		return false;
	uint64_t off = le64_load(part + *pos), n = le64_load(part + *pos + 8);
	if (n > len - *pos - EXTENT_HEAD || off > FILE_SIZE_MAX * 2)
		return false;
	*ret_off = off;
	*ret_len = (size_t)n;
	*ret_data = part + *pos + EXTENT_HEAD;
	*pos += EXTENT_HEAD + (size_t)n;
	return true;
}

/* Extents that are written durably one by one; where there are more, the file is synced once, and whoever dirtied it waited for. */
#define DURABLE_EXTENTS 2u

static int part_write(const uint8_t *part, size_t len, const struct timespec *mtime, int fd)
{
	const uint8_t *data;
	size_t pos = PART_HEAD, n;
	unsigned extents = 0;
	uint64_t off;
	int rc = 0;

	while (part_next(part, len, &pos, &off, &n, &data))
		extents++;
	bool each = extents <= DURABLE_EXTENTS;
	for (pos = PART_HEAD; rc == 0 && part_next(part, len, &pos, &off, &n, &data);)
		rc = each ? io_pwrite_durable(fd, data, n, off) : io_pwrite_full(fd, data, n, off);
	if (rc == 0)
		(void)!io_utimensat(fd, "", (struct timespec[2]){{0, UTIME_OMIT}, *mtime}, AT_EMPTY_PATH);
	return rc == 0 && !each ? io_fdatasync(fd) : rc;
}

/* ---- after a crash ---- */

void journal_free(struct journal *j)
{
	if (!j)
		return;
	util_closep(&j->fd);
	pthread_mutex_destroy(&j->lock);
	free(j->pending);
	free(j->buf);
	free(j);
}

static void journal_parse(struct journal *j, size_t size)
{
	uint64_t len = le64_load(j->pending + 24);
	uint32_t parts = le32_load(j->pending + 32);

	if (memcmp(j->pending, JOURNAL_MAGIC, 8) != 0 || len > size || parts > JOURNAL_PARTS_MAX)
		return;
	for (size_t pos = SECTOR_SIZE; j->count < parts; j->count++) {
		uint64_t n = len - pos >= PART_HEAD ? le64_load(j->pending + pos + 32) : 0;

		if (n < PART_HEAD || n > len - pos)
			return;
		j->list[j->count] = (struct journal_part){.b = j->pending + pos, .len = (size_t)n};
		atomic_fetch_add(&j->left, 1);
		pos += (size_t)n;
	}
}

int journal_load(struct volume *v)
{
	struct stat st;
	int rc = 0;

	v->journal = calloc(1, sizeof(*v->journal));
	if (!v->journal)
		return -ENOMEM;
	struct journal *j = v->journal;
	pthread_mutex_init(&j->lock, NULL);
	j->fd = io_openat(v->fd, JOURNAL_NAME, (v->options.read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW, 0);
	if (j->fd < 0)
		return j->fd == -ENOENT ? 0 : j->fd;
	rc = io_fstatat(j->fd, "", &st, AT_EMPTY_PATH);
	if (rc < 0 || st.st_size < (off_t)SECTOR_SIZE || st.st_size > (off_t)JOURNAL_SIZE)
		return rc;
	j->pending = malloc((size_t)st.st_size);
	if (!j->pending)
		return -ENOMEM;
	rc = io_pread_full(j->fd, j->pending, (size_t)st.st_size, 0, NULL);
	if (rc == 0)
		journal_parse(j, (size_t)st.st_size);
	return rc;
}

unsigned journal_pending(const struct volume *v)
{
	return v->journal ? atomic_load(&v->journal->left) : 0;
}

/* Whether a part is in force: its own key sector gives the key of its tag. */
static int part_verify(struct volume *v, const struct journal_part *part)
{
	struct filehead head = {0};
	uint8_t tag[TAG_SIZE];
	const uint8_t *data;
	size_t pos = PART_HEAD, n;
	uint64_t off;

	if (!part_next(part->b, part->len, &pos, &off, &n, &data) || off != 0 || n < SECTOR_SIZE)
		return -EBADMSG;
	int rc = volume_open_head(v, data, &head);
	if (rc == 0 && memcmp(head.file_id, part->b, FILE_ID_SIZE) != 0)
		rc = -EBADMSG;
	if (rc == 0)
		rc = part_tag(head.key[0].fk, v->journal->pending + 8, part->b, part->len, tag);
	if (rc == 0 && !crypto_equal(tag, part->b + TAG_OFF, TAG_SIZE))
		rc = -EBADMSG;
	filehead_done(&head);
	return rc;
}

/* J3. */
static int part_apply(struct volume *v, struct journal_part *part, int fd)
{
	static const uint8_t gone[TAG_SIZE];
	const struct timespec mtime = {(time_t)le64_load(part->b + 16), (long)le32_load(part->b + 24)};
	struct journal *j = v->journal;
	int rc = part_write(part->b, part->len, &mtime, fd);

	if (rc == 0)
		rc = io_pwrite_full(j->fd, gone, sizeof(gone), (uint64_t)(part->b - j->pending) + TAG_OFF);
	if (rc == 0)
		rc = io_fdatasync(j->fd);
	return volume_synced(v, rc);
}

int journal_recover(struct volume *v, int fd, uint8_t *header, const struct journal_part **ret_over)
{
	struct journal *j = v->journal;
	int rc = 0;

	if (journal_pending(v) == 0 || memcmp(header, FILE_MAGIC, 8) != 0)
		return 0;
	pthread_mutex_lock(&j->lock);
	for (unsigned k = 0; rc == 0 && k < j->count; k++) {
		struct journal_part *part = &j->list[k];

		if (part->done || memcmp(part->b, header + 16, FILE_ID_SIZE) != 0)
			continue;
		int verified = part_verify(v, part);
		if (verified == 0 && volume_writable(v) < 0) {
			*ret_over = part;
			journal_lay_over(part, 0, header, HEADER_SIZE);
			break;
		}
		rc = verified == 0 ? part_apply(v, part, fd) : verified == -ENOMEM || verified == -EIO ? verified : 0;
		if (rc == 0 && verified == 0)
			rc = io_pread_full(fd, header, HEADER_SIZE, 0, NULL);
		if (rc == 0) {
			part->done = true;
			atomic_fetch_sub(&j->left, 1);
		}
	}
	pthread_mutex_unlock(&j->lock);
	return rc;
}

void journal_lay_over(const struct journal_part *part, uint64_t off, void *buf, size_t len)
{
	const uint8_t *data;
	size_t pos = PART_HEAD, n;
	uint64_t at;

	while (part_next(part->b, part->len, &pos, &at, &n, &data)) {
		uint64_t first = MAX(at, off), end = MIN(at + n, off + len);

		if (first < end)
			memcpy((uint8_t *)buf + (first - off), data + (first - at), (size_t)(end - first));
	}
}

int journal_drop_pending(struct volume *v)
{
	struct journal *j = v->journal;

	pthread_mutex_lock(&j->lock);
	unsigned left = atomic_exchange(&j->left, 0);
	for (unsigned k = 0; k < j->count; k++)
		j->list[k].done = true;
	pthread_mutex_unlock(&j->lock);
	return left ? journal_retire(v) : 0;
}

/* ---- writing ---- */

int journal_start(struct volume *v)
{
	struct journal *j = v->journal;

	if (journal_pending(v) > 0)
		return -EAGAIN;
	if (j->buf && j->fd >= 0)
		return 0;
	if (!j->buf && !(j->buf = calloc(1, JOURNAL_SIZE)))
		return -ENOMEM;
	util_closep(&j->fd);
	j->fd = -1;
	CLEANUP_CLOSE int fd = io_openat(v->fd, JOURNAL_NAME, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fd;
	/* Zeros, not only space: later records then change no metadata, and cannot fail for want of space. */
	memset(j->buf, 0, JOURNAL_SIZE);
	int rc = io_pwrite_full(fd, j->buf, JOURNAL_SIZE, 0);
	if (rc == 0)
		rc = io_fsync(fd);
	if (rc == 0)
		rc = io_fsync(v->fd);
	if (rc < 0)
		(void)!io_unlinkat(v->fd, JOURNAL_NAME, 0);
	else
		j->fd = TAKE_FD(fd);
	return rc;
}

void journal_stop(struct volume *v)
{
	struct journal *j = v->journal;

	free(j->buf);
	j->buf = NULL;
	if (j->fd < 0 || journal_pending(v) > 0 || volume_writable(v) < 0)
		return;
	(void)!io_unlinkat(v->fd, JOURNAL_NAME, 0);
	util_closep(&j->fd);
	j->fd = -1;
}

void journal_part_begin(struct journal *j, const uint8_t file_id[FILE_ID_SIZE], const struct timespec *mtime)
{
	if (j->parts == 0) {
		j->len = SECTOR_SIZE;
		j->ahead = false;
	}
	j->part = j->len;
	j->extent = 0;
	uint8_t *head = j->buf + j->part;
	memset(head, 0, PART_HEAD);
	memcpy(head, file_id, FILE_ID_SIZE);
	le64_store(head + 16, (uint64_t)mtime->tv_sec);
	le32_store(head + 24, (uint32_t)mtime->tv_nsec);
	j->len += PART_HEAD;
}

uint8_t *journal_extent(struct journal *j, uint64_t off, size_t len)
{
	uint8_t *last = j->extent ? j->buf + j->extent : NULL;

	if (JOURNAL_SIZE - j->len < EXTENT_HEAD + len + PART_HEAD)
		return NULL;
	if (last && le64_load(last) + le64_load(last + 8) == off) {
		le64_store(last + 8, le64_load(last + 8) + len);
	} else {
		j->extent = j->len;
		le64_store(j->buf + j->len, off);
		le64_store(j->buf + j->len + 8, len);
		j->len += EXTENT_HEAD;
	}
	j->len += len;
	return j->buf + j->len - len;
}

void journal_part_cancel(struct journal *j)
{
	j->len = j->part;
}

int journal_part_end(struct journal *j, const struct file_key *key)
{
	uint8_t *part = j->buf + j->part;
	int rc = 0;

	/* The record's id is the first part's affair. */
	if (j->parts == 0)
		rc = secret_random(j->buf + 8, RECORD_ID_SIZE);
	le64_store(part + 32, j->len - j->part);
	if (rc == 0)
		rc = secret_random(part + 40, TAG_OFF - 40);
	if (rc == 0)
		rc = part_tag(key, j->buf + 8, part, j->len - j->part, part + TAG_OFF);
	if (rc == 0)
		j->starts[j->parts++] = j->part;
	return rc;
}

int journal_write_ahead(struct volume *v)
{
	struct journal *j = v->journal;
	int rc = io_pwrite_full(j->fd, j->buf + SECTOR_SIZE, j->len - SECTOR_SIZE, SECTOR_SIZE);

	if (rc == 0)
		rc = volume_synced(v, io_fdatasync(j->fd));
	j->ahead = rc == 0;
	return rc;
}

void journal_forget(struct journal *j)
{
	j->parts = 0;
}

int journal_commit(struct volume *v)
{
	struct journal *j = v->journal;

	memcpy(j->buf, JOURNAL_MAGIC, 8);
	memset(j->buf + 24, 0, SECTOR_SIZE - 24);
	le64_store(j->buf + 24, j->len);
	le32_store(j->buf + 32, j->parts);
	int rc = io_pwrite_full(j->fd, j->buf, j->ahead ? SECTOR_SIZE : j->len, 0);
	if (rc == 0)
		return volume_synced(v, io_fdatasync(j->fd));
	/* Its first parts may be whole. */
	int undone = journal_retire(v);
	return undone < 0 ? undone : rc;
}

int journal_apply(struct journal *j, unsigned index, int fd)
{
	const uint8_t *part = j->buf + j->starts[index];
	struct stat st;
	int rc = io_fstatat(fd, "", &st, AT_EMPTY_PATH);

	return rc < 0 ? rc : part_write(part, (size_t)le64_load(part + 32), &st.st_mtim, fd);
}

int journal_retire(struct volume *v)
{
	static const uint8_t gone[SECTOR_SIZE];
	struct journal *j = v->journal;
	int rc = io_pwrite_full(j->fd, gone, sizeof(gone), 0);

	j->parts = 0;
	if (rc == 0)
		rc = io_fdatasync(j->fd);
	return volume_synced(v, rc);
}
