/* recover: what a crash left in flux is made whole when the file is first opened again.
 *
 * R1. Only blocks in flux of an unclean epoch are accepted; everything else must match its entry, always.
 * R2. It may be cut itself at any point and start again: until the slot at its end is written, the old one stands.
 * R3. After it, invariant C1 holds again: the last block ends in zeros, and nothing is left past it. */
#include "store/content_internal.h"

#include <fcntl.h>
#include <string.h>

/* One block in flux; true when its entry had to be made anew. */
static int recover_block(struct content *c, struct block_crypto *bc, uint64_t blk, uint8_t *entry, uint8_t *data, bool *ret_anew)
{
	uint8_t plain[BLOCK_SIZE];

	memcpy(plain, data, BLOCK_SIZE);
	int rc = content_open_block(c, bc, blk, entry, plain);
	if (rc != -EBADMSG)
		return rc;
	*ret_anew = true;
	/* Zeros on the lower disk: the file system had not allocated the block. */
	if (content_all_zero(data, BLOCK_SIZE))
		return block_zero_entry(bc, blk, c->slot.generation, entry);
	return block_retag(bc, blk, c->slot.generation, data, entry);
}

static int recover_group(struct content *c, struct block_crypto *bc, uint64_t blk, unsigned n, uint8_t *buf, uint64_t *anew)
{
	uint8_t entries[BLOCK_SIZE];
	struct iovec iov[] = {{entries, BLOCK_SIZE}, {buf, n * (size_t)BLOCK_SIZE}};
	bool any = false;
	int rc = 0;

	for (unsigned i = 0; i < n; i++)
		any |= content_in_flux(c, blk + i);
	if (!any)
		return 0;
	rc = io_preadv_full(c->fd, iov, 2, extent_tag_off(blk), NULL);
	any = false;
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		bool one = false;

		if (content_in_flux(c, blk + i))
			rc = recover_block(c, bc, blk + i, entries + i * ENTRY_SIZE, buf + i * (size_t)BLOCK_SIZE, &one);
		*anew += one;
		any |= one;
	}
	if (rc == 0 && any)
		rc = io_pwrite_full(c->fd, entries, n * (size_t)ENTRY_SIZE, extent_tag_off(blk));
	return rc;
}

/* R3. */
static int recover_tail(struct content *c, struct block_crypto *bc, uint8_t *buf)
{
	uint64_t size = content_size(c), blk = size / BLOCK_SIZE;
	size_t tail = size % BLOCK_SIZE;
	uint8_t entry[ENTRY_SIZE];

	if (tail == 0 || !content_in_flux(c, blk))
		return 0;
	int rc = content_read_blocks(c, bc, blk, 1, buf);
	if (rc < 0 || content_all_zero(buf + tail, BLOCK_SIZE - tail))
		return rc;
	memset(buf + tail, 0, BLOCK_SIZE - tail);
	rc = block_seal(bc, blk, c->slot.generation, buf, buf, entry);
	if (rc == 0)
		rc = io_pwrite_full(c->fd, buf, BLOCK_SIZE, extent_data_off(blk));
	if (rc == 0)
		rc = io_pwrite_full(c->fd, entry, ENTRY_SIZE, extent_entry_off(blk));
	return rc;
}

int recover_content(struct content *c)
{
	CLEANUP_FREE uint8_t *buf = malloc(GROUP_BLOCKS * BLOCK_SIZE);
	struct block_crypto *bc;
	struct stat st;
	uint64_t blocks = extent_blocks(content_size(c)), anew = 0;

	if (!buf)
		return -ENOMEM;
	int rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH);
	if (rc == 0)
		rc = content_crypto_get(c, &bc);
	if (rc < 0)
		return rc;
	/* How many tags the lost time made is unknown: a generation of its own for what comes. */
	c->slot.generation = c->slot.generation % GENERATION_MAX + 1;
	c->slot.tags = 0;
	for (uint64_t blk = 0; rc == 0 && blk < blocks; blk += GROUP_BLOCKS)
		rc = recover_group(c, bc, blk, (unsigned)MIN(blocks - blk, GROUP_BLOCKS), buf, &anew);
	if (rc == 0)
		rc = recover_tail(c, bc, buf);
	if (rc == 0 && blocks)
		rc = content_forget_tail(c, content_size(c));
	content_crypto_put(c, bc);
	if (rc == 0)
		rc = volume_synced(c->v, io_fdatasync(c->fd));
	if (rc < 0)
		return rc;
	c->slot.sealed = blocks;
	memset(c->slot.marks, 0, SLOT_BITMAP_SIZE);
	while (blocks && (blocks - 1) >> c->slot.shift >= SLOT_REGIONS)
		c->slot.shift++;
	rc = content_slot_write_locked(c, false);
	(void)!io_utimensat(c->fd, "", (struct timespec[2]){st.st_atim, st.st_mtim}, AT_EMPTY_PATH);
	if (anew) {
		atomic_fetch_add(&c->v->stats.resealed, anew);
		volume_report(c->v, "re-sealed after crash: %llu blocks of the file with inode %llu", (unsigned long long)anew,
			(unsigned long long)st.st_ino);
	}
	return rc;
}

int recover_leftovers(struct content *c)
{
	uint8_t entries[BLOCK_SIZE];
	struct stat st;
	uint64_t size = content_size(c), blocks = extent_blocks(size);
	unsigned n = (unsigned)((GROUP_BLOCKS - blocks % GROUP_BLOCKS) % GROUP_BLOCKS);
	int rc = blocks ? io_pread_full(c->fd, entries, n * (size_t)ENTRY_SIZE, extent_entry_off(blocks), NULL) : 0;
	bool any = blocks && rc == 0 && !content_all_zero(entries, n * (size_t)ENTRY_SIZE);

	if (blocks && rc == 0 && !any) {
		rc = io_pread_full(c->fd, entries, size % BLOCK_SIZE, extent_data_off(blocks - 1) + BLOCK_SIZE, NULL);
		any = rc == 0 && !content_all_zero(entries, size % BLOCK_SIZE);
	}
	if (!any)
		return rc;
	rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH);
	if (rc < 0)
		return rc;
	rc = content_forget_tail(c, size);
	(void)!io_utimensat(c->fd, "", (struct timespec[2]){st.st_atim, st.st_mtim}, AT_EMPTY_PATH);
	return rc;
}

int recover_lost_header(struct content *c, uint64_t cipher_len)
{
	struct stat st;
	uint64_t size = extent_plain_size(cipher_len);

	if (volume_writable(c->v) < 0)
		return 0;
	int rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH);
	if (rc == 0)
		rc = io_ftruncate(c->fd, 0);
	if (rc == 0 && size > 0)
		rc = content_make_header(c);
	if (rc == 0 && size > 0) {
		c->slot.dense = false;
		rc = content_slot_write_locked(c, false);
		if (rc == 0)
			rc = io_ftruncate(c->fd, extent_cipher_len(size));
	}
	(void)!io_utimensat(c->fd, "", (struct timespec[2]){st.st_atim, st.st_mtim}, AT_EMPTY_PATH);
	if (rc < 0)
		return rc;
	atomic_store(&c->size, size);
	atomic_fetch_add(&c->v->stats.resealed, extent_blocks(size));
	volume_report(c->v, "re-sealed after crash: nothing of the file with inode %llu had been synced; it reads as zeros",
		(unsigned long long)st.st_ino);
	return 0;
}
