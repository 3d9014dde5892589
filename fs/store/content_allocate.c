/* content_allocate: fallocate(2): preallocating, punching holes, zeroing ranges. Contract and invariants: content.h. */
#include "store/content_internal.h"

#include <linux/falloc.h>
#include <string.h>

/* Zero entries for blocks first..last: for those without any entry (only_holes), or for all. */
static int content_zero_entries(struct content *c, uint64_t first, uint64_t last, bool only_holes)
{
	static const uint8_t hole[ENTRY_SIZE];
	uint8_t entries[BLOCK_SIZE];
	struct block_crypto *bc;
	int rc = content_crypto_get(c, &bc);

	if (rc < 0)
		return rc;
	for (uint64_t blk = first; rc == 0 && blk <= last;) {
		unsigned n = (unsigned)MIN(last - blk + 1, GROUP_BLOCKS - blk % GROUP_BLOCKS);
		uint32_t generation = content_generation(c, blk, n);

		rc = io_pread_full(c->fd, entries, n * (size_t)ENTRY_SIZE, extent_entry_off(blk), NULL);
		for (unsigned i = 0; rc == 0 && i < n; i++)
			if (!only_holes || memcmp(entries + i * ENTRY_SIZE, hole, ENTRY_SIZE) == 0)
				rc = block_zero_entry(bc, blk + i, generation, entries + i * ENTRY_SIZE);
		if (rc == 0) {
			uint64_t done;

			rc = io_pwritev_full(c->fd, &(struct iovec){entries, n * (size_t)ENTRY_SIZE}, 1, extent_entry_off(blk), &done);
			if (rc < 0 && !write_was_refused(rc, done))
				(void)volume_poison(c->v, "a failed write may have left half a tag", rc);
		}
		blk += n;
	}
	content_crypto_put(c, bc);
	if (rc == 0)
		content_gaps_close(c, first, last + 1);
	return rc;
}

/* A lower fallocate of the data of blocks first..last, group by group where tag blocks must stay. */
static int content_lower_allocate(struct content *c, int mode, uint64_t first, uint64_t last)
{
	int rc = 0;

	if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
		return io_fallocate(c->fd, mode, extent_tag_off(first), extent_data_off(last) + BLOCK_SIZE - extent_tag_off(first));
	for (uint64_t blk = first; rc == 0 && blk <= last;) {
		uint64_t n = MIN(last - blk + 1, GROUP_BLOCKS - blk % GROUP_BLOCKS);

		rc = io_fallocate(c->fd, mode, extent_data_off(blk), n * BLOCK_SIZE);
		blk += n;
	}
	return rc;
}

static int content_preallocate(struct content *c, uint64_t off, uint64_t len, bool keep_size)
{
	uint64_t old = content_size(c), size = keep_size ? old : MAX(old, off + len);
	uint64_t first = off / BLOCK_SIZE, last = (off + len - 1) / BLOCK_SIZE;
	int rc = 0;

	if (!c->has_header && size > 0)
		rc = content_make_header(c);
	else if (c->has_header)
		rc = content_mark(c, first, last);
	if (rc < 0)
		return rc;
	rc = content_lower_allocate(c, FALLOC_FL_KEEP_SIZE, first, last);
	if (rc == 0 && size > old)
		rc = io_ftruncate(c->fd, extent_cipher_len(size));
	if (rc == 0 && size > 0) {
		if (off > old && first > extent_blocks(old))
			content_not_dense(c);
		if (last - first >= ZERO_ENTRIES_MAX)
			content_not_dense(c);
		else if (first < extent_blocks(size))
			rc = content_zero_entries(c, first, MIN(last, extent_blocks(size) - 1), true);
	}
	if (rc < 0)
		return size > 0 && (size > old || old == 0) ? content_failed(c, old, rc) : rc;
	atomic_store_explicit(&c->size, size, memory_order_release);
	return 0;
}

/* Whole blocks of [off, end) become zeros without data; the file is at least end long. */
static int content_punch_blocks(struct content *c, uint64_t first, uint64_t last)
{
	int rc = content_mark(c, first, last);

	if (rc < 0)
		return rc;
	if (last - first < ZERO_ENTRIES_MAX) {
		rc = content_zero_entries(c, first, last, false);
	} else {
		/* Whole groups go with their tag blocks; what is left at both ends is less than a group. */
		uint64_t g = (first + GROUP_BLOCKS - 1) / GROUP_BLOCKS * GROUP_BLOCKS, h = (last + 1) / GROUP_BLOCKS * GROUP_BLOCKS;

		content_not_dense(c);
		rc = io_fallocate(c->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, extent_tag_off(g), extent_tag_off(h) - extent_tag_off(g));
		if (rc == 0 && g > first)
			rc = content_zero_entries(c, first, g - 1, false);
		if (rc == 0 && last >= h)
			rc = content_zero_entries(c, h, last, false);
	}
	if (rc < 0)
		return rc;
	rc = content_lower_allocate(c, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, last);
	return rc == -EOPNOTSUPP ? 0 : rc; /* the entries say it already */
}

static int content_zero_range(struct content *c, uint64_t off, uint64_t len)
{
	uint64_t size = content_size(c), end = MIN(off + len, size);
	int rc = 0;

	if (off >= end)
		return 0;
	uint64_t head = MIN((BLOCK_SIZE - off % BLOCK_SIZE) % BLOCK_SIZE, end - off);
	if (head)
		rc = content_write_zeros(c, (size_t)head, off);
	off += head;
	/* The last block counts as whole where the range reaches the end of the file. */
	uint64_t tail = end == size ? 0 : end % BLOCK_SIZE;
	if (rc == 0 && off < end && tail && end - tail >= off) {
		rc = content_write_zeros(c, (size_t)tail, end - tail);
		end -= tail;
	}
	if (rc == 0 && off < end)
		rc = content_punch_blocks(c, off / BLOCK_SIZE, (end - 1) / BLOCK_SIZE);
	return rc;
}

int content_allocate(struct content *c, int mode, uint64_t off, uint64_t len)
{
	bool keep = mode & FALLOC_FL_KEEP_SIZE, punch = mode & FALLOC_FL_PUNCH_HOLE, zero = mode & FALLOC_FL_ZERO_RANGE;
	struct range r;
	int rc = volume_writable(c->v);

	if (rc < 0)
		return rc;
	if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) || (punch && (!keep || zero)))
		return -EOPNOTSUPP;
	if (len == 0)
		return -EINVAL;
	if (off > FILE_SIZE_MAX || len > FILE_SIZE_MAX - off)
		return -EFBIG;
	if (punch)
		content_lock_blocks(c, &r, off, len);
	else
		content_lock_tail(c, &r, off);
	content_unsure(c, MIN(off, content_size(c)) / BLOCK_SIZE);
	if (punch || zero)
		rc = content_zero_range(c, off, len);
	if (rc == 0 && !punch)
		rc = content_preallocate(c, off, len, keep);
	range_unlock(&c->ranges, &r);
	return rc;
}
