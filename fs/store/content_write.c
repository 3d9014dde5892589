/* content_write: changes to a file's bytes (but fallocate: content_allocate.c). Contract and invariants: content.h.
 *
 * Order within a write: mark (C3), length (C4), then per group the data and after it the entries, all into the page cache;
 * no flush but the mark's. Only the length needs the file's end to itself: from then on a write holds its own blocks alone,
 * so that several extend a file side by side. A write that fails on the way cuts its new blocks off again, or leaves them
 * as gaps (C5) where others went on behind it; old ones are old or, where their data was written whole, new; where it may have
 * left one that matches no entry, the volume is poisoned. */
#include "store/content_internal.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <string.h>

/* ---- a thread's buffer for one group's ciphertext ---- */

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_make_key(void)
{
	pthread_key_create(&scratch_key, free);
}

static uint8_t *scratch_get(void)
{
	pthread_once(&scratch_once, scratch_make_key);
	uint8_t *buf = pthread_getspecific(scratch_key);

	if (!buf && posix_memalign((void **)&buf, BLOCK_SIZE, GROUP_BLOCKS * BLOCK_SIZE) == 0)
		pthread_setspecific(scratch_key, buf);
	return buf;
}

/* ---- state ---- */

uint32_t content_generation(struct content *c, uint64_t blk, uint64_t n)
{
	pthread_mutex_lock(&c->state_lock);
	if (c->slot.tags + n > GENERATION_TAGS) {
		c->slot.generation = c->slot.generation % GENERATION_MAX + 1;
		c->slot.tags = 0;
	}
	c->slot.tags += n;
	c->slot_dirty = true;
	c->changed = true;
	uint32_t generation = c->slot.generation | filehead_key_of(&c->head, blk);
	pthread_mutex_unlock(&c->state_lock);
	return generation;
}

void content_unsure(struct content *c, uint64_t blk)
{
	pthread_mutex_lock(&c->state_lock);
	c->unsure = MIN(c->unsure, blk);
	pthread_mutex_unlock(&c->state_lock);
}

static void content_not_dense_locked(struct content *c)
{
	c->slot.dense = false;
	c->slot_dirty = true;
	c->changed = true;
}

void content_not_dense(struct content *c)
{
	pthread_mutex_lock(&c->state_lock);
	content_not_dense_locked(c);
	pthread_mutex_unlock(&c->state_lock);
}

/* ---- gaps (C5) ---- */

/* More than the kernel has under way at a time: nobody is about to write there. */
#define GAP_BLOCKS_MAX ((64ull << 20) / BLOCK_SIZE)

/* The file grows from old to new blocks, the first of them that is written at once being first. */
static void content_gaps_grow(struct content *c, uint64_t old, uint64_t first, uint64_t new)
{
	pthread_mutex_lock(&c->state_lock);
	if (first > old && first - old > GAP_BLOCKS_MAX)
		content_not_dense_locked(c);
	if (!gaps_add(&c->gaps, old, new)) {
		content_not_dense_locked(c);
		c->gaps.count = 0;
	}
	pthread_mutex_unlock(&c->state_lock);
}

void content_gaps_close(struct content *c, uint64_t first, uint64_t end)
{
	pthread_mutex_lock(&c->state_lock);
	if (!gaps_remove(&c->gaps, first, end)) {
		content_not_dense_locked(c);
		c->gaps.count = 0;
	}
	pthread_mutex_unlock(&c->state_lock);
}

/* The state of a file that gets its first bytes, and its header's. */
static int content_new_header(struct content *c, uint8_t header[static HEADER_SIZE])
{
	struct filehead head = {0};

	pthread_rwlock_rdlock(&c->v->keys_lock);
	int rc = filehead_new(c->v->fw, c->v->ek_version, c->v->header.epoch, c->v->data_version, &head);
	pthread_rwlock_unlock(&c->v->keys_lock);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&c->state_lock);
	content_crypto_drop(c);
	filehead_done(&c->head);
	c->head = head;
	c->slot = (struct fileslot){.sequence = 1, .epoch = c->v->header.epoch, .dense = true, .shift = REGION_SHIFT_MIN,
		.generation = 1};
	c->slot_index = 0;
	memset(c->sealing, 0, SLOT_BITMAP_SIZE);
	c->sealing_now = false;
	c->gaps.count = c->gaps_before.count = 0;
	memset(header, 0, HEADER_SIZE);
	rc = filehead_encode(&c->head, header);
	if (rc == 0)
		rc = fileslot_encode(&c->head, &c->slot, header + SLOT_OFF(0));
	c->has_header = rc == 0;
	c->changed = c->has_header;
	pthread_mutex_unlock(&c->state_lock);
	return rc;
}

/* The sector is replaced in place: after a cut it is the old one or the new one, and both keys are held until the end. */
static int content_rotate_head(struct volume *v, int fd, struct filehead *head)
{
	uint8_t sector[SECTOR_SIZE];
	struct filehead before = *head;
	struct stat st;

	pthread_rwlock_rdlock(&v->keys_lock);
	bool old = head->record[0].ek_version != v->ek_version;
	int rc = old ? filehead_rewrap(head, v->fw, v->ek_version) : 0;
	pthread_rwlock_unlock(&v->keys_lock);
	if (!old || rc < 0)
		return rc;
	rc = filehead_encode(head, sector);
	if (rc == 0)
		rc = io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	if (rc < 0)
		return rc;
	rc = io_pwrite_full(fd, sector, sizeof(sector), 0);
	if (rc < 0 && (filehead_encode(&before, sector) < 0 || io_pwrite_full(fd, sector, sizeof(sector), 0) < 0))
		(void)volume_poison(v, "a file's header cannot be written", rc);
	(void)!io_utimensat(fd, "", (struct timespec[2]){{0, UTIME_OMIT}, st.st_mtim}, AT_EMPTY_PATH);
	return rc < 0 ? rc : 1;
}

int content_rotate(struct content *c)
{
	struct range r;
	int rc = volume_writable(c->v);

	if (rc < 0)
		return rc;
	range_lock(&c->ranges, &r, 0, RANGE_END, true);
	if (c->has_header) {
		struct filehead next = c->head;

		rc = content_rotate_head(c->v, c->fd, &next);
		if (rc > 0)
			c->head = next;
	}
	range_unlock(&c->ranges, &r);
	return rc;
}

int content_rotate_file(struct volume *v, int fd)
{
	uint8_t sector[SECTOR_SIZE];
	struct filehead head;
	int rc = volume_writable(v);

	if (rc == 0)
		rc = io_pread_full(fd, sector, sizeof(sector), 0, NULL);
	if (rc == 0)
		rc = volume_open_head(v, sector, &head);
	if (rc < 0)
		return rc == -EKEYREJECTED ? -EBADMSG : rc;
	rc = content_rotate_head(v, fd, &head);
	filehead_done(&head);
	return rc;
}

/* Marks count upwards from the wanted region; while they keep coming, each takes twice as many with it, so that a file
 * written all over costs a few slot writes per sealing interval and not one per region. */
int content_mark(struct content *c, uint64_t first, uint64_t last)
{
	pthread_mutex_lock(&c->state_lock);
	uint64_t sealed = c->sealing_now ? MAX(c->sealing_blocks, c->slot.sealed) : c->slot.sealed;
	struct fileslot before = c->slot;
	bool wanted = c->slot.epoch != c->v->header.epoch;
	int rc = 0;

	if (first < sealed) {
		uint64_t region = first >> c->slot.shift, end = MIN(last, sealed - 1) >> c->slot.shift;
		uint64_t limit = MIN((sealed - 1) >> c->slot.shift, SLOT_REGIONS - 1), extra = 0;

		for (; region <= limit && (region <= end || extra > 0); region++) {
			bool marked = c->slot.marks[region / 8] & 1u << region % 8;

			if (region > end)
				extra--;
			if (marked)
				continue;
			c->slot.marks[region / 8] |= (uint8_t)(1u << region % 8);
			if (region <= end) {
				wanted = true;
				extra = c->mark_run - 1;
			}
		}
	}
	if (wanted) {
		rc = content_slot_write_locked(c, true);
		if (rc == 0)
			c->mark_run = MIN(c->mark_run * 2, 512u);
		else
			memcpy(c->slot.marks, before.marks, SLOT_BITMAP_SIZE);
	}
	c->changed = true;
	pthread_mutex_unlock(&c->state_lock);
	return rc;
}

/* ---- ranges and failures ---- */

void content_lock_tail(struct content *c, struct range *r, uint64_t off)
{
	for (;;) {
		uint64_t first = MIN(off, content_size(c)) / BLOCK_SIZE;

		range_lock(&c->ranges, r, first, RANGE_END, true);
		if (content_size(c) / BLOCK_SIZE >= first)
			return;
		range_unlock(&c->ranges, r);
	}
}

void content_lock_blocks(struct content *c, struct range *r, uint64_t off, uint64_t len)
{
	while (off + len <= content_size(c)) {
		range_lock(&c->ranges, r, off / BLOCK_SIZE, (off + len - 1) / BLOCK_SIZE, true);
		if (off + len <= content_size(c))
			return;
		range_unlock(&c->ranges, r); /* it shrank meanwhile */
	}
	content_lock_tail(c, r, off);
}

/* What lies past the last block goes, lest the file grows again over it: the bytes under the sparse tail, which are the
 * next block's or the next tag block's, and the entries in the last group of blocks that are no more. */
int content_forget_tail(struct content *c, uint64_t size)
{
	uint8_t entries[BLOCK_SIZE];
	uint64_t blocks = extent_blocks(size), end = extent_data_off(blocks - 1) + BLOCK_SIZE;
	unsigned n = (unsigned)((GROUP_BLOCKS - blocks % GROUP_BLOCKS) % GROUP_BLOCKS);
	int rc = 0;

	if (size % BLOCK_SIZE) {
		rc = io_fallocate(c->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, BLOCK_SIZE);
		if (rc == -EOPNOTSUPP) {
			memset(entries, 0, size % BLOCK_SIZE);
			rc = io_pwrite_full(c->fd, entries, size % BLOCK_SIZE, end);
		}
	}
	if (rc == 0 && n)
		rc = io_pread_full(c->fd, entries, n * (size_t)ENTRY_SIZE, extent_entry_off(blocks), NULL);
	if (n == 0 || rc < 0 || content_all_zero(entries, n * (size_t)ENTRY_SIZE))
		return rc;
	memset(entries, 0, n * (size_t)ENTRY_SIZE);
	return io_pwrite_full(c->fd, entries, n * (size_t)ENTRY_SIZE, extent_entry_off(blocks));
}

static int content_zero_tail(struct content *c, uint64_t size);

int content_failed(struct content *c, uint64_t old_size, int rc)
{
	int undone = io_ftruncate(c->fd, extent_cipher_len(old_size));

	content_unsure(c, old_size / BLOCK_SIZE);
	if (undone == 0 && old_size == 0) {
		pthread_mutex_lock(&c->state_lock);
		c->has_header = false;
		pthread_mutex_unlock(&c->state_lock);
	} else if (undone == 0) {
		undone = content_forget_tail(c, old_size);
		/* The last block may have been written whole, with bytes past the old size. */
		if (undone == 0)
			undone = content_zero_tail(c, old_size);
	}
	if (undone < 0)
		(void)volume_poison(c->v, "a failed change cannot be taken back", rc);
	return rc;
}

int content_make_header(struct content *c)
{
	uint8_t header[HEADER_SIZE];
	int rc = content_new_header(c, header);

	if (rc == 0)
		rc = io_pwrite_full(c->fd, header, sizeof(header), 0);
	return rc < 0 ? content_failed(c, 0, rc) : 0;
}

/* ---- writing ---- */

/* A change of bytes within the file's size. */
struct write {
	const uint8_t *src;    /* NULL: zeros */
	size_t len;
	uint64_t off;
	uint64_t existing;     /* blocks the file had */
	const uint8_t *header; /* of a file that has none below yet, from block 0 on: goes with the first group; else NULL */
};

bool write_was_refused(int rc, uint64_t done)
{
	return done == 0 && (rc == -ENOSPC || rc == -EDQUOT || rc == -EROFS);
}

/* Whether these blocks of one group read as zeros whatever lies in them. */
static bool content_is_empty(struct content *c, uint64_t first, uint64_t n)
{
	uint8_t entries[BLOCK_SIZE];
	bool empty = n == 0 || io_pread_full(c->fd, entries, n * ENTRY_SIZE, extent_entry_off(first), NULL) == 0;

	pthread_mutex_lock(&c->state_lock);
	for (uint64_t i = 0; empty && i < n; i++) {
		const uint8_t *entry = entries + i * ENTRY_SIZE;

		empty = (le32_load(entry) & ENTRY_ZERO) ||
			((!c->slot.dense || gaps_has(&c->gaps, first + i)) && content_all_zero(entry, ENTRY_SIZE));
	}
	pthread_mutex_unlock(&c->state_lock);
	return empty;
}

/* Writes n sealed blocks of one group and their entries. */
static int content_put_group(struct content *c, const struct write *w, uint64_t first, unsigned n, uint8_t entries[static BLOCK_SIZE],
	uint8_t *cipher)
{
	const uint8_t *header = first < GROUP_BLOCKS ? w->header : NULL;
	struct iovec iov[] = {{(void *)(uintptr_t)header, header ? HEADER_SIZE : 0}, {entries, BLOCK_SIZE}, {cipher, n * (size_t)BLOCK_SIZE}};
	uint64_t old = w->existing > first ? MIN(w->existing - first, n) : 0, done, tagged = 0;

	/* Nothing here yet that could be torn: all in one. */
	if (header || (n == GROUP_BLOCKS && old == 0)) {
		memset(entries + n * ENTRY_SIZE, 0, (GROUP_BLOCKS - n) * ENTRY_SIZE);
		return io_pwritev_full(c->fd, iov, 3, header ? 0 : extent_tag_off(first), NULL);
	}
	int rc = io_pwritev_full(c->fd, &iov[2], 1, extent_data_off(first), &done);
	uint64_t whole = done / BLOCK_SIZE;
	bool torn = rc < 0 && whole < old && !write_was_refused(rc, done % BLOCK_SIZE) && !content_is_empty(c, first + whole, old - whole);

	/* Blocks that are there whole get their entries, also when the next one failed. */
	iov[1].iov_len = whole * ENTRY_SIZE;
	int rc2 = whole ? io_pwritev_full(c->fd, &iov[1], 1, extent_entry_off(first), &tagged) : 0;
	torn |= rc2 < 0 && old > 0 && !(write_was_refused(rc2, tagged) && content_is_empty(c, first, MIN(whole, old)));
	if (torn)
		(void)volume_poison(c->v, "a failed write may have left half a block", rc < 0 ? rc : rc2);
	return rc < 0 ? rc : rc2;
}

/* Seals the blocks of one group from the plain bytes [off, off+len) of w laid over what is there, and writes them. */
static int content_write_group(struct content *c, struct block_crypto *bc, const struct write *w, uint64_t off, size_t len)
{
	const uint8_t *src = w->src ? w->src + (off - w->off) : NULL;
	uint8_t entries[BLOCK_SIZE], merged[BLOCK_SIZE], *cipher = scratch_get();
	uint64_t first = off / BLOCK_SIZE;
	unsigned n = (unsigned)((off + len - 1) / BLOCK_SIZE - first + 1);
	uint32_t generation = content_generation(c, first, n);
	int rc = cipher ? 0 : -ENOMEM;

	for (unsigned i = 0; rc == 0 && i < n; i++) {
		uint64_t blk_off = (first + i) * BLOCK_SIZE;
		size_t from = off > blk_off ? (size_t)(off - blk_off) : 0, to = (size_t)MIN(off + len - blk_off, BLOCK_SIZE);
		const uint8_t *plain = src ? src + (blk_off + from - off) : NULL;

		if (from > 0 || to < BLOCK_SIZE || !src) {
			memset(merged, 0, BLOCK_SIZE);
			if ((from > 0 || to < BLOCK_SIZE) && first + i < w->existing)
				rc = content_read_blocks(c, bc, first + i, 1, merged);
			if (src)
				memcpy(merged + from, plain, to - from);
			else
				memset(merged + from, 0, to - from);
			plain = merged;
		}
		if (rc == 0)
			rc = block_seal(bc, first + i, generation, plain, cipher + i * (size_t)BLOCK_SIZE, entries + i * ENTRY_SIZE);
	}
	secret_wipe(merged, sizeof(merged));
	return rc < 0 ? rc : content_put_group(c, w, first, n, entries, cipher);
}

/* C1 for the block that ends, or is to end, at size. Range held. */
static int content_zero_tail(struct content *c, uint64_t size)
{
	uint64_t blk = size / BLOCK_SIZE;
	size_t tail = size % BLOCK_SIZE;
	struct write w = {.len = BLOCK_SIZE - tail, .off = size, .existing = blk + 1};
	uint8_t plain[BLOCK_SIZE];
	struct block_crypto *bc;
	int rc = tail ? content_crypto_get(c, &bc) : 0;

	if (rc < 0 || tail == 0)
		return rc;
	rc = content_read_blocks(c, bc, blk, 1, plain);
	if (rc == 0 && !content_all_zero(plain + tail, BLOCK_SIZE - tail))
		rc = content_write_group(c, bc, &w, w.off, w.len);
	content_crypto_put(c, bc);
	secret_wipe(plain, sizeof(plain));
	return rc;
}

/* Range held, marked. */
static int content_write_blocks(struct content *c, const struct write *w)
{
	struct block_crypto *bc = NULL;
	int rc = content_crypto_get(c, &bc);

	for (uint64_t pos = w->off; rc == 0 && pos < w->off + w->len;) {
		uint64_t group_end = (pos / BLOCK_SIZE / GROUP_BLOCKS + 1) * GROUP_BLOCKS * BLOCK_SIZE;
		size_t n = (size_t)(MIN(group_end, w->off + w->len) - pos);

		rc = content_write_group(c, bc, w, pos, n);
		pos += n;
	}
	if (bc)
		content_crypto_put(c, bc);
	if (rc == 0)
		content_gaps_close(c, w->off / BLOCK_SIZE, (w->off + w->len - 1) / BLOCK_SIZE + 1);
	return rc;
}

int content_write_zeros(struct content *c, size_t len, uint64_t off)
{
	struct write w = {.len = len, .off = off, .existing = extent_blocks(content_size(c))};
	int rc = content_mark(c, off / BLOCK_SIZE, (off + len - 1) / BLOCK_SIZE);

	return rc < 0 ? rc : content_write_blocks(c, &w);
}

/* The first bytes of a file, from block 0 on: header, entries and data in one piece. Range up to RANGE_END held. */
static int content_write_first(struct content *c, struct write *w)
{
	uint8_t header[HEADER_SIZE];
	uint64_t end = w->off + w->len;
	int rc = content_new_header(c, header);

	w->header = header;
	if (rc == 0 && (end % BLOCK_SIZE || c->v->small_blocks))
		rc = io_ftruncate(c->fd, extent_cipher_len(end));
	if (rc == 0)
		rc = content_write_blocks(c, w);
	if (rc < 0)
		return content_failed(c, 0, rc);
	atomic_store_explicit(&c->size, end, memory_order_release);
	content_unsure(c, 0);
	return 0;
}

/* Makes the file end bytes long for a write from off on. Range up to RANGE_END held. */
static int content_extend(struct content *c, uint64_t off, uint64_t end)
{
	uint64_t size = content_size(c), existing = extent_blocks(size), first = off / BLOCK_SIZE;
	int rc = c->has_header ? content_mark(c, first, (end - 1) / BLOCK_SIZE) : content_make_header(c);

	if (rc < 0)
		return rc;
	/* Also to take away the sparse tail of the old size; where there is none to come, the data itself extends the file: block by
	 * block, unless the lower file system's are smaller and a part of one could be taken for a tail. */
	if (end % BLOCK_SIZE || first > existing || size % BLOCK_SIZE || c->v->small_blocks)
		rc = io_ftruncate(c->fd, extent_cipher_len(end));
	if (rc < 0)
		return content_failed(c, size, rc);
	content_gaps_grow(c, existing, first, extent_blocks(end));
	atomic_store_explicit(&c->size, end, memory_order_release);
	content_unsure(c, size / BLOCK_SIZE);
	return 0;
}

/* Of blocks first..end, which a failed write left as new: those that match no entry become holes, or gaps. */
static int content_drop_torn(struct content *c, uint64_t first, uint64_t end)
{
	uint8_t entry[ENTRY_SIZE], data[BLOCK_SIZE];
	struct block_crypto *bc;
	int rc = content_crypto_get(c, &bc);

	if (rc < 0)
		return rc;
	for (uint64_t blk = first; rc == 0 && blk < end; blk++) {
		rc = io_pread_full(c->fd, entry, sizeof(entry), extent_entry_off(blk), NULL);
		if (rc == 0 && !content_all_zero(entry, sizeof(entry)))
			rc = io_pread_full(c->fd, data, sizeof(data), extent_data_off(blk), NULL);
		if (rc == 0 && !content_all_zero(entry, sizeof(entry)))
			rc = content_open_block(c, bc, blk, entry, data);
		if (rc == -EBADMSG) {
			memset(entry, 0, sizeof(entry));
			rc = io_pwrite_full(c->fd, entry, sizeof(entry), extent_entry_off(blk));
		}
	}
	secret_wipe(data, sizeof(data));
	content_crypto_put(c, bc);
	return rc;
}

/* After a write that extended the file from size to end has failed: back to size, where nobody built on it. No range held. */
static int content_retract(struct content *c, uint64_t size, uint64_t end, int rc)
{
	struct range r;

	content_lock_tail(c, &r, size);
	content_unsure(c, size / BLOCK_SIZE);
	pthread_mutex_lock(&c->state_lock);
	bool alone = content_size(c) == end && gaps_cover(&c->gaps, extent_blocks(size), extent_blocks(end));
	pthread_mutex_unlock(&c->state_lock);
	if (!alone && content_drop_torn(c, extent_blocks(size), extent_blocks(end)) < 0) {
		(void)volume_poison(c->v, "a failed change cannot be taken back", rc);
	} else if (alone) {
		rc = content_failed(c, size, rc);
		content_gaps_close(c, extent_blocks(size), extent_blocks(end));
		atomic_store_explicit(&c->size, size, memory_order_release);
	}
	range_unlock(&c->ranges, &r);
	return rc;
}

int content_write(struct content *c, const void *buf, size_t len, uint64_t off)
{
	uint64_t size, first = off / BLOCK_SIZE, last = (off + len - 1) / BLOCK_SIZE;
	struct range r;
	int rc = volume_writable(c->v);

	if (rc < 0 || len == 0)
		return rc;
	if (off > FILE_SIZE_MAX || len > FILE_SIZE_MAX - off)
		return -EFBIG;
	content_lock_blocks(c, &r, off, len);
	size = content_size(c);
	struct write w = {.src = buf, .len = len, .off = off, .existing = extent_blocks(size)};
	bool extended = false;
	if (off + len > size && first == 0 && !c->has_header) {
		rc = content_write_first(c, &w);
	} else {
		rc = off + len > size ? content_extend(c, off, off + len) : content_mark(c, first, last);
		extended = rc == 0 && off + len > size;
		range_narrow(&c->ranges, &r, first, last);
		if (rc == 0)
			rc = content_write_blocks(c, &w);
	}
	range_unlock(&c->ranges, &r);
	if (rc < 0 && extended)
		rc = content_retract(c, size, off + len, rc);
	if (rc == 0)
		atomic_fetch_add_explicit(&c->v->stats.written_bytes, len, memory_order_relaxed);
	return rc;
}

/* ---- truncating ---- */

static int content_cut_to_zero(struct content *c)
{
	int rc = io_ftruncate(c->fd, 0);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&c->state_lock);
	c->has_header = false;
	c->slot_dirty = false;
	c->changed = false;
	c->sealing_now = false;
	memset(c->sealing, 0, SLOT_BITMAP_SIZE);
	c->gaps.count = c->gaps_before.count = 0;
	pthread_mutex_unlock(&c->state_lock);
	atomic_store(&c->size, 0);
	return 0;
}

static int content_grow(struct content *c, uint64_t old, uint64_t size)
{
	int rc = c->has_header ? content_mark(c, old / BLOCK_SIZE, old / BLOCK_SIZE) : content_make_header(c);

	if (rc < 0)
		return rc;
	if (extent_blocks(size) > extent_blocks(old))
		content_not_dense(c);
	rc = io_ftruncate(c->fd, extent_cipher_len(size));
	if (rc < 0)
		return content_failed(c, old, rc);
	atomic_store_explicit(&c->size, size, memory_order_release);
	return 0;
}

static int content_shrink(struct content *c, uint64_t size)
{
	uint64_t blocks = extent_blocks(size);
	int rc = size % BLOCK_SIZE ? content_mark(c, size / BLOCK_SIZE, size / BLOCK_SIZE) : 0;

	/* While nothing is lost yet: what this needs may not be there. */
	if (rc == 0)
		rc = content_zero_tail(c, size);
	if (rc < 0)
		return rc;
	/* Durably unseal what goes: other bytes may stand there soon. */
	pthread_mutex_lock(&c->state_lock);
	uint64_t sealed = c->slot.sealed;
	if (sealed > blocks) {
		c->slot.sealed = blocks;
		rc = content_slot_write_locked(c, true);
		if (rc < 0)
			c->slot.sealed = sealed;
	}
	if (rc == 0)
		c->sealing_blocks = MIN(c->sealing_blocks, blocks);
	c->changed = true;
	pthread_mutex_unlock(&c->state_lock);
	if (rc == 0)
		rc = io_ftruncate(c->fd, extent_cipher_len(size));
	if (rc < 0)
		return rc;
	content_gaps_close(c, blocks, extent_blocks(content_size(c)));
	atomic_store_explicit(&c->size, size, memory_order_release);
	rc = content_forget_tail(c, size);
	return rc < 0 ? volume_poison(c->v, "what lies past a file's new end cannot be removed", rc) : 0;
}

int content_truncate(struct content *c, uint64_t size)
{
	struct range r;
	int rc = volume_writable(c->v);

	if (rc < 0)
		return rc;
	if (size > FILE_SIZE_MAX)
		return -EFBIG;
	content_lock_tail(c, &r, size);
	uint64_t old = content_size(c);
	if (size == 0)
		rc = old || c->has_header ? content_cut_to_zero(c) : 0;
	else if (size > old)
		rc = content_grow(c, old, size);
	else if (size < old)
		rc = content_shrink(c, size);
	content_unsure(c, MIN(old, size) / BLOCK_SIZE);
	range_unlock(&c->ranges, &r);
	return rc;
}
