/* content: opening, reading, syncing, sealing. Contract and invariants: content.h; changes: content_write.c.
 *
 * Lock order: a range of c->ranges, then state_lock, then crypto_lock. Nobody holds state_lock while it does data I/O;
 * the durable slot write of content_mark does hold it, and that is what batches marks of parallel writers. */
#include "store/content_internal.h"
#include "store/journal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* ---- contexts ---- */

int content_crypto_get(struct content *c, struct block_crypto **ret)
{
	pthread_mutex_lock(&c->crypto_lock);
	*ret = c->crypto_count ? c->crypto[--c->crypto_count] : NULL;
	pthread_mutex_unlock(&c->crypto_lock);
	if (*ret)
		return 0;
	const struct file_key *fk[2];
	fk[c->head.key_bit] = c->head.key[0].fk;
	fk[!c->head.key_bit] = c->head.key[1].fk;
	return block_crypto_new(fk, c->head.file_id, ret);
}

void content_crypto_put(struct content *c, struct block_crypto *bc)
{
	pthread_mutex_lock(&c->crypto_lock);
	if (c->crypto_count < CONTENT_CRYPTO_MAX) {
		c->crypto[c->crypto_count++] = bc;
		bc = NULL;
	}
	pthread_mutex_unlock(&c->crypto_lock);
	block_crypto_free(bc);
}

void content_crypto_drop(struct content *c)
{
	while (c->crypto_count)
		block_crypto_free(c->crypto[--c->crypto_count]);
}

/* ---- state slots ---- */

/* A slot's write failed: what is on the disk must verify all the same, or nobody opens the file again in this epoch. */
static void content_slot_failed(struct content *c, int error)
{
	uint8_t sector[SECTOR_SIZE];
	struct fileslot left;
	int rc = io_pread_full(c->fd, sector, sizeof(sector), SLOT_OFF(1 - c->slot_index), NULL);

	if (rc == 0)
		rc = fileslot_decode(&c->head, sector, &left);
	if (rc < 0 && rc != -ENOENT)
		(void)volume_poison(c->v, "a file's state cannot be written", error);
}

int content_slot_write_locked(struct content *c, bool durable)
{
	uint8_t sector[SECTOR_SIZE];
	struct fileslot out = c->slot;
	struct stat st;

	out.sequence++;
	out.epoch = c->v->header.epoch;
	for (size_t i = 0; i < SLOT_BITMAP_SIZE; i++)
		out.marks[i] |= c->sealing[i];
	int rc = fileslot_encode(&c->head, &out, sector);
	if (rc == 0)
		rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH);
	/* Never over the slot that is durable: a torn write must leave that one. (A file closed and opened again in one epoch takes
	 * its newest slot for the durable one. That is enough: sectors are written whole, and both slots are true.) */
	if (rc == 0) {
		rc = io_pwrite_full(c->fd, sector, sizeof(sector), SLOT_OFF(1 - c->slot_index));
		if (rc < 0)
			content_slot_failed(c, rc);
	}
	if (rc < 0)
		return rc;
	/* Only now: after a failure the disk's slot names the epoch and the marks that it named before (C3). */
	c->slot.sequence = out.sequence;
	c->slot.epoch = out.epoch;
	/* Nobody above wrote anything now. */
	(void)!io_utimensat(c->fd, "", (struct timespec[2]){{0, UTIME_OMIT}, st.st_mtim}, AT_EMPTY_PATH);
	c->slot_dirty = false;
	if (!durable)
		return 0;
	atomic_fetch_add(&c->v->stats.intents, 1);
	rc = volume_synced(c->v, io_fdatasync(c->fd));
	if (rc == 0)
		c->slot_index = 1 - c->slot_index;
	return rc;
}

bool content_in_flux(const struct content *c, uint64_t blk)
{
	return blk >= c->slot.sealed || fileslot_marked(&c->slot, blk);
}

bool content_all_zero(const void *data, size_t len)
{
	const uint8_t *b = data;

	return len == 0 || (b[0] == 0 && memcmp(b, b + 1, len - 1) == 0);
}

int content_refuse(struct content *c, uint64_t blk, const char *why)
{
	char proc[40], path[512];
	ssize_t n;

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", c->fd);
	n = readlink(proc, path, sizeof(path) - 1);
	path[MAX(n, 0)] = '\0';
	atomic_fetch_add(&c->v->stats.refused, 1);
	if (blk == UINT64_MAX)
		volume_report(c->v, "refused: %s: %s", path, why);
	else
		volume_report(c->v, "refused: %s: block %llu: %s", path, (unsigned long long)blk, why);
	return -EBADMSG;
}

static void marks_coarsen(uint8_t marks[SLOT_BITMAP_SIZE])
{
	uint8_t out[SLOT_BITMAP_SIZE] = {0};

	for (unsigned i = 0; i < SLOT_REGIONS; i++)
		if (marks[i / 8] & 1u << i % 8)
			out[i / 16] |= (uint8_t)(1u << i / 2 % 8);
	memcpy(marks, out, SLOT_BITMAP_SIZE);
}

void content_fit_regions(struct content *c, uint64_t blocks)
{
	while (blocks && (blocks - 1) >> c->slot.shift >= SLOT_REGIONS) {
		marks_coarsen(c->slot.marks);
		c->slot.shift++;
	}
}

/* ---- opening ---- */

/* Which slot counts, and whether what it says may be believed. */
static int content_choose_slot(struct content *c, const uint8_t *header)
{
	struct fileslot slots[2];
	int rc[2];

	for (unsigned i = 0; i < 2; i++) {
		rc[i] = fileslot_decode(&c->head, header + SLOT_OFF(i), &slots[i]);
		if (rc[i] < 0 && rc[i] != -ENOENT && rc[i] != -EBADMSG)
			return rc[i];
	}
	/* The header's page was torn before its first slot reached the disk. */
	if (rc[0] == -ENOENT && rc[1] == -ENOENT && volume_epoch_unclean(c->v, c->head.epoch)) {
		c->slot = (struct fileslot){.epoch = c->head.epoch, .dense = true, .shift = REGION_SHIFT_MIN, .generation = 1};
		return 0;
	}
	if (rc[0] < 0 && rc[1] < 0)
		return content_refuse(c, UINT64_MAX, "neither state slot verifies");
	c->slot_index = rc[0] < 0 || (rc[1] == 0 && slots[1].sequence > slots[0].sequence);
	c->slot = slots[c->slot_index];
	uint64_t last = volume_last_unclean(c->v);
	bool torn_by_crash = (last && last >= c->slot.epoch) || volume_writable(c->v) < 0;
	if (rc[1 - c->slot_index] == -EBADMSG && !torn_by_crash)
		return content_refuse(c, UINT64_MAX, "a state slot does not verify");
	if (c->slot.epoch > c->v->header.epoch)
		return content_refuse(c, UINT64_MAX, "a state slot from the future: the environment header is an old one");
	/* A torn slot is written over, for only a crash that is remembered excuses it. */
	c->slot_dirty = rc[1 - c->slot_index] == -EBADMSG;
	return 0;
}

static int content_load(struct content *c, uint64_t cipher_len)
{
	uint8_t header[HEADER_SIZE];
	int rc = io_pread_full(c->fd, header, sizeof(header), 0, NULL);

	if (rc < 0)
		return rc;
	/* Whoever can zero the key sector can zero the slots as well: they say nothing here. */
	uint64_t last = volume_last_unclean(c->v);
	if (content_all_zero(header, SECTOR_SIZE) && last && !volume_epoch_copied(c->v, last))
		return recover_lost_header(c, cipher_len);
	rc = journal_recover(c->v, c->fd, header, &c->over);
	if (rc < 0)
		return rc;
	rc = volume_open_head(c->v, header, &c->head);
	if (rc == -EUCLEAN || rc == -EKEYREJECTED || rc == -EBADMSG)
		return content_refuse(c, UINT64_MAX, "the file's header does not verify");
	if (rc == -ENOTSUP)
		return content_refuse(c, UINT64_MAX, "the file's header is of a newer version");
	if (rc < 0)
		return rc;
	c->has_header = true;
	rc = content_choose_slot(c, header);
	if (rc < 0)
		return rc;
	uint64_t size = extent_plain_size(cipher_len), blocks = extent_blocks(size);
	atomic_store(&c->size, size);
	if (blocks < c->slot.sealed)
		return content_refuse(c, UINT64_MAX, "shorter than what was sealed");
	if (c->slot.epoch == c->v->header.epoch && !(c->v->options.read_only && !c->v->header.clean))
		return 0;
	if (volume_epoch_unclean(c->v, c->slot.epoch)) {
		bool writable = volume_writable(c->v) == 0;

		if (writable && blocks == 0)
			return recover_empty(c);
		if (c->slot.sealed == blocks && content_all_zero(c->slot.marks, SLOT_BITMAP_SIZE))
			return writable ? recover_leftovers(c) : 0;
		c->copied = volume_epoch_copied(c->v, c->slot.epoch);
		c->accept_flux = !writable && !c->copied;
		return writable ? recover_content(c) : 0;
	}
	/* That epoch ended with everything on disk: nothing is in flux, whatever was sealed by then. */
	c->slot.sealed = blocks;
	memset(c->slot.marks, 0, SLOT_BITMAP_SIZE);
	content_fit_regions(c, blocks);
	return 0;
}

int content_open(struct volume *v, int fd_arg, struct content **ret)
{
	CLEANUP_CLOSE int fd = fd_arg;
	CLEANUP(content_closep) struct content *c = calloc(1, sizeof(*c));
	struct stat st;

	if (!c)
		return -ENOMEM;
	c->v = v;
	c->fd = TAKE_FD(fd);
	c->mark_run = 1;
	range_set_init(&c->ranges);
	pthread_mutex_init(&c->state_lock, NULL);
	pthread_mutex_init(&c->crypto_lock, NULL);
	int rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH);
	if (rc == 0 && st.st_size > 0)
		rc = content_load(c, (uint64_t)st.st_size);
	if (rc < 0)
		return rc;
	/* What was not written to since the last clean end is on the disk as it is. */
	bool sure = !c->has_header || (c->slot.epoch != v->header.epoch && !volume_epoch_unclean(v, c->slot.epoch));
	c->unsure = sure ? UINT64_MAX : 0;
	*ret = TAKE_PTR(c);
	return 0;
}

bool content_has_name(const struct content *c)
{
	struct stat st;

	return io_fstatat(c->fd, "", &st, AT_EMPTY_PATH) < 0 || st.st_nlink > 0;
}

void content_close(struct content *c)
{
	if (!c)
		return;
	/* What the slot says must be true when the file is opened again in this epoch. */
	if (c->gaps.count) {
		c->slot.dense = false;
		c->slot_dirty = true;
	}
	if (c->slot_dirty && c->has_header && volume_writable(c->v) == 0 && content_has_name(c)) {
		int rc = content_slot_write_locked(c, false);

		if (rc < 0)
			(void)volume_poison(c->v, "a file's state cannot be written", rc);
	}
	content_crypto_drop(c);
	filehead_done(&c->head);
	range_set_done(&c->ranges);
	pthread_mutex_destroy(&c->state_lock);
	pthread_mutex_destroy(&c->crypto_lock);
	util_closep(&c->fd);
	free(c);
}

int content_fd(const struct content *c)
{
	return c->fd;
}

uint64_t content_size(const struct content *c)
{
	return atomic_load_explicit(&c->size, memory_order_acquire);
}

/* ---- reading ---- */

bool content_is_hole(struct content *c, uint64_t blk)
{
	pthread_mutex_lock(&c->state_lock);
	bool hole = !c->slot.dense || gaps_has(&c->gaps, blk);
	pthread_mutex_unlock(&c->state_lock);
	return hole;
}

int content_open_block(struct content *c, struct block_crypto *bc, uint64_t blk, const uint8_t *entry, uint8_t *data)
{
	static const uint8_t hole[ENTRY_SIZE];
	int rc;

	if (memcmp(entry, hole, ENTRY_SIZE) == 0) {
		rc = content_is_hole(c, blk) ? 0 : -EBADMSG;
		if (rc == 0)
			memset(data, 0, BLOCK_SIZE);
	} else if (le32_load(entry) & ENTRY_ZERO) {
		rc = block_zero_verify(bc, blk, entry);
		if (rc == 0)
			memset(data, 0, BLOCK_SIZE);
	} else {
		rc = block_open(bc, blk, entry, data, data);
	}
	if (rc == -EBADMSG && c->accept_flux && content_in_flux(c, blk))
		rc = content_all_zero(data, BLOCK_SIZE) ? 0 : block_plain(bc, blk, filehead_key_of(&c->head, blk), data, data);
	return rc;
}

int content_fetch(struct content *c, const struct iovec *iov, int n, uint64_t off)
{
	int rc = io_preadv_full(c->fd, iov, n, off, NULL);

	for (int k = 0; rc == 0 && c->over && k < n; off += iov[k++].iov_len)
		journal_lay_over(c->over, off, iov[k].iov_base, iov[k].iov_len);
	return rc;
}

int content_read_blocks(struct content *c, struct block_crypto *bc, uint64_t blk, unsigned n, uint8_t *buf)
{
	uint8_t entries[BLOCK_SIZE];
	int rc;

	if (blk % GROUP_BLOCKS == 0) {
		struct iovec iov[] = {{entries, BLOCK_SIZE}, {buf, n * (size_t)BLOCK_SIZE}};

		rc = content_fetch(c, iov, 2, extent_tag_off(blk));
	} else {
		rc = content_fetch(c, &(struct iovec){entries, n * (size_t)ENTRY_SIZE}, 1, extent_entry_off(blk));
		if (rc == 0)
			rc = content_fetch(c, &(struct iovec){buf, n * (size_t)BLOCK_SIZE}, 1, extent_data_off(blk));
	}
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		rc = content_open_block(c, bc, blk + i, entries + i * ENTRY_SIZE, buf + i * (size_t)BLOCK_SIZE);
		if (rc == -EBADMSG) {
			memset(buf, 0, n * (size_t)BLOCK_SIZE);
			return content_refuse(c, blk + i, "does not match its tag");
		}
	}
	return rc;
}

static int content_read_locked(struct content *c, uint8_t *buf, size_t len, uint64_t off)
{
	struct block_crypto *bc;
	uint8_t bounce[BLOCK_SIZE];
	int rc = content_crypto_get(c, &bc);

	if (rc < 0)
		return rc;
	while (rc == 0 && len > 0) {
		uint64_t blk = off / BLOCK_SIZE;
		size_t skip = off % BLOCK_SIZE, n;

		if (skip || len < BLOCK_SIZE) {
			n = MIN(len, BLOCK_SIZE - skip);
			rc = content_read_blocks(c, bc, blk, 1, bounce);
			if (rc == 0)
				memcpy(buf, bounce + skip, n);
		} else {
			uint64_t blocks = MIN(len / BLOCK_SIZE, GROUP_BLOCKS - blk % GROUP_BLOCKS);

			n = (size_t)blocks * BLOCK_SIZE;
			rc = content_read_blocks(c, bc, blk, (unsigned)blocks, buf);
		}
		buf += n;
		off += n;
		len -= n;
	}
	content_crypto_put(c, bc);
	return rc;
}

ssize_t content_read(struct content *c, void *buf, size_t len, uint64_t off)
{
	struct range r;

	if (len == 0 || off >= content_size(c))
		return 0;
	range_lock(&c->ranges, &r, off / BLOCK_SIZE, (off + len - 1) / BLOCK_SIZE, false);
	uint64_t size = content_size(c);
	int rc = 0;
	len = off >= size ? 0 : (size_t)MIN(len, size - off);
	if (len)
		rc = content_read_locked(c, buf, len, off);
	range_unlock(&c->ranges, &r);
	if (rc == 0)
		atomic_fetch_add_explicit(&c->v->stats.read_bytes, len, memory_order_relaxed);
	return rc < 0 ? rc : (ssize_t)len;
}

int content_seek(struct content *c, uint64_t off, int whence, uint64_t *ret_off)
{
	struct range r;
	int rc = 0;

	range_lock(&c->ranges, &r, 0, RANGE_END, false);
	uint64_t size = content_size(c), pos = off;
	if (off >= size)
		rc = -ENXIO;
	while (rc == 0) {
		uint64_t blk = pos / BLOCK_SIZE, found;
		int64_t lower = io_lseek(c->fd, extent_data_off(blk) + pos % BLOCK_SIZE, whence);

		if (lower == -ENXIO || (lower >= 0 && whence == SEEK_HOLE && (uint64_t)lower >= extent_cipher_len(size))) {
			rc = whence == SEEK_DATA ? -ENXIO : 0;
			pos = size;
			break;
		}
		if (lower < 0) {
			rc = (int)lower;
			break;
		}
		enum extent_kind kind = extent_at((uint64_t)lower, &found);
		uint64_t plain = found * BLOCK_SIZE + (kind == EXTENT_DATA && found == blk ? pos % BLOCK_SIZE : 0);
		pos = MAX(pos, plain);
		if (pos >= size) {
			rc = whence == SEEK_DATA ? -ENXIO : 0;
			pos = size;
			break;
		}
		if (kind == EXTENT_DATA)
			break;
		/* A tag block says nothing about the data beside it: ask again from the group's first block. */
		lower = io_lseek(c->fd, extent_data_off(pos / BLOCK_SIZE), whence);
		if (lower >= 0 && extent_at((uint64_t)lower, &found) == EXTENT_DATA && found == pos / BLOCK_SIZE)
			break;
	}
	range_unlock(&c->ranges, &r);
	if (rc == 0)
		*ret_off = pos;
	return rc;
}

/* ---- syncing and sealing ---- */

int content_sync(struct content *c, bool data_only)
{
	int rc = volume_writable(c->v);

	if (rc < 0)
		return c->v->options.read_only ? 0 : rc;
	atomic_fetch_add_explicit(&c->v->stats.syncs, 1, memory_order_relaxed);
	return volume_synced(c->v, data_only ? io_fdatasync(c->fd) : io_fsync(c->fd));
}

int content_settle(struct content *c, uint64_t end)
{
	struct range r;

	pthread_mutex_lock(&c->state_lock);
	bool sure = c->unsure >= end;
	pthread_mutex_unlock(&c->state_lock);
	if (sure)
		return 0;
	/* What began to change has changed: a write extends the file with its data. */
	range_lock(&c->ranges, &r, 0, RANGE_END, false);
	pthread_mutex_lock(&c->state_lock);
	c->unsure = UINT64_MAX;
	pthread_mutex_unlock(&c->state_lock);
	range_unlock(&c->ranges, &r);
	return volume_synced(c->v, io_fdatasync(c->fd));
}

bool content_is_changed(struct content *c)
{
	/* In this order: a seal says that it is under way before nothing counts as changed, and is over after. */
	return atomic_load(&c->changed) || atomic_load(&c->sealing_now);
}

bool content_seal_begin(struct content *c)
{
	struct range r;

	pthread_mutex_lock(&c->state_lock);
	bool wanted = c->changed && !c->sealing_now;
	pthread_mutex_unlock(&c->state_lock);
	if (!wanted || volume_writable(c->v) < 0)
		return false;
	/* Nobody is in the middle of a write: what is marked from here on belongs to the next seal. */
	range_lock(&c->ranges, &r, 0, RANGE_END, true);
	pthread_mutex_lock(&c->state_lock);
	wanted = c->has_header && c->changed && !c->sealing_now;
	if (wanted) {
		/* Now, so that what is about to be sealed can be marked from here on. */
		content_fit_regions(c, extent_blocks(content_size(c)));
		memcpy(c->sealing, c->slot.marks, SLOT_BITMAP_SIZE);
		memset(c->slot.marks, 0, SLOT_BITMAP_SIZE);
		if (gaps_meet(&c->gaps, &c->gaps_before))
			c->slot.dense = false;
		if (!c->slot.dense)
			c->gaps.count = 0;
		c->gaps_before = c->gaps;
		c->sealing_blocks = c->gaps.count ? c->gaps.at[0].first : extent_blocks(content_size(c));
		c->sealing_now = true;
		c->changed = c->gaps.count > 0;
		c->mark_run = 1;
	}
	pthread_mutex_unlock(&c->state_lock);
	range_unlock(&c->ranges, &r);
	return wanted;
}

void content_seal_finish(struct content *c, int synced)
{
	pthread_mutex_lock(&c->state_lock);
	if (synced == 0 && c->has_header && c->sealing_now) {
		c->slot.sealed = c->sealing_blocks;
		memset(c->sealing, 0, SLOT_BITMAP_SIZE);
		/* Need not be durable: until it is, more is in flux than has to be. */
		(void)!content_slot_write_locked(c, false);
	} else if (c->sealing_now) {
		for (size_t i = 0; i < SLOT_BITMAP_SIZE; i++)
			c->slot.marks[i] |= c->sealing[i];
		memset(c->sealing, 0, SLOT_BITMAP_SIZE);
		c->changed = true;
	}
	c->sealing_now = false;
	pthread_mutex_unlock(&c->state_lock);
}
