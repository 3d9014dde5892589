/* recover: what a crash left in flux is made whole when the file is first opened again.
 *
 * R1. Only blocks in flux of an unclean epoch are accepted; everything else must match its entry, always. In a copy (place.h) they
 *     must, too: what does not is left as it is.
 * R2. It may be cut itself at any point and start again: until the slot at its end is written, the old one stands.
 * R3. After it, invariant C1 holds again: the last block ends in zeros, and nothing is left past it: neither data nor the entries
 *     of an extension whose length was lost, which a file can have that has nothing in flux (recover_leftovers). */
#include "store/content_internal.h"

#include <fcntl.h>
#include <string.h>

/* Where the lower file system had not allocated all of a block, some of its sectors are zeros on the lower disk: they are zeros
 * above, not what zeros decrypt to. Returns 1 when there were such sectors and data was encrypted again. */
static int recover_zero_sectors(struct block_crypto *bc, uint64_t blk, uint32_t generation, uint8_t *entry, uint8_t *data)
{
	uint8_t plain[BLOCK_SIZE];
	bool any = false;
	int rc = block_plain(bc, blk, generation, data, plain);

	for (size_t s = 0; rc == 0 && s < BLOCK_SIZE; s += SECTOR_SIZE)
		if (content_all_zero(data + s, SECTOR_SIZE)) {
			memset(plain + s, 0, SECTOR_SIZE);
			any = true;
		}
	if (rc == 0 && any)
		rc = block_seal(bc, blk, generation, plain, data, entry);
	secret_wipe(plain, sizeof(plain));
	return rc < 0 ? rc : any;
}

/* Blocks in flux that did not match their entries. */
struct recovered {
	uint64_t anew, torn; /* accepted; left */
};

/* One block in flux. Returns 0 when it matched its entry or is left, 1 when that had to be made anew, 2 when its data was changed, too. */
static int recover_block(struct content *c, struct block_crypto *bc, uint64_t blk, uint8_t *entry, uint8_t *data,
	struct recovered *found)
{
	uint8_t plain[BLOCK_SIZE];
	uint32_t generation = c->slot.generation | filehead_key_of(&c->head, blk);

	memcpy(plain, data, BLOCK_SIZE);
	int rc = content_open_block(c, bc, blk, entry, plain);
	secret_wipe(plain, sizeof(plain));
	if (rc == -EBADMSG && c->copied) {
		found->torn++;
		return 0;
	}
	if (rc != -EBADMSG)
		return rc;
	if (content_all_zero(data, BLOCK_SIZE))
		rc = block_zero_entry(bc, blk, generation, entry);
	else if ((rc = recover_zero_sectors(bc, blk, generation, entry, data)) == 0)
		rc = block_retag(bc, blk, generation, data, entry);
	return rc < 0 ? rc : rc + 1;
}

static int recover_group(struct content *c, struct block_crypto *bc, uint64_t blk, unsigned n, uint8_t *buf,
	struct recovered *found)
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
	for (unsigned i = 0; rc >= 0 && i < n; i++) {
		uint8_t *data = buf + i * (size_t)BLOCK_SIZE;

		rc = content_in_flux(c, blk + i) ? recover_block(c, bc, blk + i, entries + i * ENTRY_SIZE, data, found) : 0;
		found->anew += rc > 0;
		any |= rc > 0;
		if (rc == 2)
			rc = io_pwrite_full(c->fd, data, BLOCK_SIZE, extent_data_off(blk + i));
	}
	if (rc >= 0 && any)
		rc = io_pwrite_full(c->fd, entries, n * (size_t)ENTRY_SIZE, extent_tag_off(blk));
	return MIN(rc, 0);
}

/* Whether so much of the file is holes that it cannot have been dense. */
static int recover_dense(struct content *c, uint64_t blocks)
{
	uint64_t holes = 0, next;
	int rc = 0;

	for (uint64_t blk = 0; rc == 0 && c->slot.dense && blk < blocks; blk = next + GROUP_BLOCKS) {
		rc = content_next_group(c, blk, blocks, &next);
		if (rc == 0)
			holes += next - blk;
		if (holes > ZERO_ENTRIES_MAX)
			c->slot.dense = false;
	}
	return rc;
}

static int recover_groups(struct content *c, struct block_crypto *bc, uint64_t blocks, uint8_t *buf, struct recovered *found)
{
	uint64_t blk = 0;
	int rc = recover_dense(c, blocks);

	while (rc == 0 && blk < blocks) {
		if (!c->slot.dense)
			rc = content_next_group(c, blk, blocks, &blk);
		if (rc == 0 && blk < blocks)
			rc = recover_group(c, bc, blk, (unsigned)MIN(blocks - blk, GROUP_BLOCKS), buf, found);
		blk += GROUP_BLOCKS;
	}
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
	if (rc == -EBADMSG && c->copied)
		return 0;
	if (rc < 0 || content_all_zero(buf + tail, BLOCK_SIZE - tail))
		return rc;
	memset(buf + tail, 0, BLOCK_SIZE - tail);
	rc = block_seal(bc, blk, c->slot.generation | filehead_key_of(&c->head, blk), buf, buf, entry);
	if (rc == 0)
		rc = io_pwrite_full(c->fd, buf, BLOCK_SIZE, extent_data_off(blk));
	if (rc == 0)
		rc = io_pwrite_full(c->fd, entry, ENTRY_SIZE, extent_entry_off(blk));
	return rc;
}

/* R3: the tag block of a group that none of the data of was kept. Whether there was one. */
static int recover_cut(struct content *c, const struct stat *st)
{
	uint64_t size = content_size(c);

	if (size == 0 || (uint64_t)st->st_size <= extent_cipher_len(size))
		return 0;
	int rc = io_ftruncate(c->fd, extent_cipher_len(size));
	return rc < 0 ? rc : 1;
}

int recover_content(struct content *c)
{
	CLEANUP_FREE uint8_t *buf = malloc(GROUP_BLOCKS * BLOCK_SIZE);
	struct block_crypto *bc;
	struct stat st;
	uint64_t blocks = extent_blocks(content_size(c));
	struct recovered found = {0};

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
	rc = recover_groups(c, bc, blocks, buf, &found);
	if (rc == 0)
		rc = recover_tail(c, bc, buf);
	if (rc == 0)
		rc = MIN(recover_cut(c, &st), 0);
	if (rc == 0 && blocks)
		rc = content_forget_tail(c, content_size(c));
	content_crypto_put(c, bc);
	if (rc == 0)
		rc = volume_synced(c->v, io_fdatasync(c->fd));
	if (rc < 0)
		return rc;
	c->slot.sealed = blocks;
	memset(c->slot.marks, 0, SLOT_BITMAP_SIZE);
	content_fit_regions(c, blocks);
	rc = content_slot_write_locked(c, false);
	(void)!io_utimensat(c->fd, "", (struct timespec[2]){st.st_atim, st.st_mtim}, AT_EMPTY_PATH);
	if (found.anew) {
		atomic_fetch_add(&c->v->stats.resealed, found.anew);
		volume_report(c->v, "re-sealed after crash: %llu blocks of the file with inode %llu", (unsigned long long)found.anew,
			(unsigned long long)st.st_ino);
	}
	if (found.torn) {
		atomic_fetch_add(&c->v->stats.refused, found.torn);
		volume_report(c->v, "refused: %llu blocks of the file with inode %llu were written while it was copied", (unsigned long long)found.torn,
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
	int rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH), cut = rc == 0 ? recover_cut(c, &st) : 0;

	if (rc == 0)
		rc = cut < 0 ? cut : blocks ? io_pread_full(c->fd, entries, n * (size_t)ENTRY_SIZE, extent_entry_off(blocks), NULL) : 0;
	bool any = cut > 0 || (blocks && rc == 0 && !content_all_zero(entries, n * (size_t)ENTRY_SIZE));
	if (blocks && rc == 0 && !any) {
		rc = io_pread_full(c->fd, entries, size % BLOCK_SIZE, extent_data_off(blocks - 1) + BLOCK_SIZE, NULL);
		any = rc == 0 && !content_all_zero(entries, size % BLOCK_SIZE);
	}
	if (rc < 0 || !any)
		return rc;
	rc = content_forget_tail(c, size);
	(void)!io_utimensat(c->fd, "", (struct timespec[2]){st.st_atim, st.st_mtim}, AT_EMPTY_PATH);
	return rc;
}

int recover_empty(struct content *c)
{
	struct stat st;
	int rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH);

	if (rc == 0)
		rc = io_ftruncate(c->fd, 0);
	if (rc < 0)
		return rc;
	(void)!io_utimensat(c->fd, "", (struct timespec[2]){st.st_atim, st.st_mtim}, AT_EMPTY_PATH);
	c->has_header = false;
	c->slot_dirty = false;
	return 0;
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
