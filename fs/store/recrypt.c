/* recrypt: see recrypt.h.
 *
 * A file's way from its key F to a new key G, by what its key sector names; most files go in one step:
 *
 *   [F] --step--> [G, F, cursor n] --step ...--> [G, F, cursor m] --step--> [G]
 *   [F] ---------------------------step-----------------------------------> [G]
 *
 * X1. Which key a block is under is a matter of its place: G below the cursor, F from it on. Writers go by that, and so does the
 *     recovery of a block in flux, whose sectors may be of several times but never of several keys. Its entry says it
 *     too (key bit), and that is all that readers need: a half-rotated file is an ordinary file.
 * X2. A step writes new entries, new ciphertext and the sector with the cursor past them as one record of the journal, and
 *     holds the blocks' range from before it reads them until the record is taken back: for all the world they change at
 *     once. Seals and marks stay true: the record stands for what they cannot say in between. Only while the record is written, and
 *     not in force yet, the range is let go and watched: where somebody changed something there the step begins again, and keeps it.
 * X3. The step that brings G and the one that drops F hold the whole file, for they change the keys that others use.
 * X4. The last step holds the file's state too; it writes both state slots anew, under G, with the sector that does not name
 *     F any more. Where it is the only one the record has all that the file has: it calls everything sealed.
 * X5. Before the record is in force the file's length and holes are durable, as far as the step goes: blocks that a lost
 *     truncation would bring back are under F.
 * X6. A hole stays a hole, and zeros without data stay so.
 * X7. What does not verify is left, and F with it: -EBADMSG, reported with its place.
 *
 * A step takes as many groups and files as keep its locks under HOLD_WANTED_NS, by the last one's time. Locks: ranges of
 * several files, then their state locks; nobody else holds those of two files. */
#include "store/recrypt.h"

#include "store/content_internal.h"
#include "store/journal.h"

#include <fcntl.h>
#include <string.h>

#define HOLD_WANTED_NS UINT64_C(6000000)

struct step {
	struct content *c;
	struct range range;
	bool dense;
	bool last;            /* X4; holds state_lock too */
	bool renewed;         /* next has keys of its own */
	bool sealed;          /* its slots call everything sealed */
	bool watched;         /* no lock is held, the range is watched */
	struct filehead next; /* what the key sector will say */
	uint64_t first, end;  /* blocks, whole groups: what is encrypted again, and the cursor after it */
};

struct recrypt {
	struct volume *v;
	uint8_t *group; /* a tag block and its data */
	unsigned groups, files; /* in a step */
	uint64_t held_ns;
	struct step steps[RECRYPT_FILES_MAX];
};

int recrypt_new(struct volume *v, struct recrypt **ret)
{
	struct recrypt *r = calloc(1, sizeof(*r));
	int rc = r ? journal_start(v) : -ENOMEM;

	if (rc == 0 && posix_memalign((void **)&r->group, BLOCK_SIZE, (GROUP_BLOCKS + 1) * BLOCK_SIZE) != 0)
		rc = -ENOMEM;
	if (rc < 0) {
		free(r);
		return rc;
	}
	r->v = v;
	r->groups = r->files = 1;
	*ret = r;
	return 0;
}

void recrypt_free(struct recrypt *r)
{
	if (!r)
		return;
	journal_stop(r->v);
	secret_wipe(r->group, (GROUP_BLOCKS + 1) * BLOCK_SIZE);
	free(r->group);
	free(r);
}

uint64_t recrypt_room(const struct recrypt *r)
{
	return r->groups * (uint64_t)GROUP_BLOCKS;
}

unsigned recrypt_files(const struct recrypt *r)
{
	return r->files;
}

uint64_t recrypt_held_ns(const struct recrypt *r)
{
	return r->held_ns;
}

static bool recrypt_is_done_locked(const struct content *c, uint32_t version)
{
	return !c->has_header || (!c->head.key[1].fk && c->head.data_version == version);
}

bool recrypt_is_done(struct content *c)
{
	uint32_t version = volume_data_version(c->v);

	pthread_mutex_lock(&c->state_lock);
	bool done = recrypt_is_done_locked(c, version);
	pthread_mutex_unlock(&c->state_lock);
	return done;
}

uint64_t recrypt_blocks_left(struct content *c)
{
	pthread_mutex_lock(&c->state_lock);
	uint64_t blocks = extent_blocks(content_size(c)), left = blocks - MIN(blocks, c->head.cursor);
	pthread_mutex_unlock(&c->state_lock);
	return left;
}

uint64_t recrypt_bytes_behind(struct content *c)
{
	pthread_mutex_lock(&c->state_lock);
	uint64_t end = c->head.cursor ? extent_tag_off(c->head.cursor) : 0, bytes = 0, off = 0;
	pthread_mutex_unlock(&c->state_lock);
	while (off < end) {
		int64_t data = io_lseek(c->fd, off, SEEK_DATA), hole = data < 0 ? data : io_lseek(c->fd, (uint64_t)data, SEEK_HOLE);

		if (hole < 0 || (uint64_t)data >= end)
			break;
		off = MIN((uint64_t)hole, end);
		bytes += off - (uint64_t)data;
	}
	return bytes;
}

/* ---- one group ---- */

/* A block's entry and ciphertext, in place. *ret_data: there is data to write. */
static int recrypt_block(struct step *s, struct block_crypto *from, struct block_crypto *to, uint32_t generation, uint64_t blk,
	uint8_t *entry, uint8_t *data, bool *ret_data)
{
	int rc;

	*ret_data = false;
	if (content_all_zero(entry, ENTRY_SIZE))
		return content_is_hole(s->c, blk) ? 0 : -EBADMSG;
	if (le32_load(entry) & ENTRY_ZERO) {
		rc = block_zero_verify(from, blk, entry);
		return rc < 0 ? rc : block_zero_entry(to, blk, generation, entry);
	}
	*ret_data = true;
	rc = block_open(from, blk, entry, data, data);
	return rc < 0 ? rc : block_seal(to, blk, generation, data, data, entry);
}

static int recrypt_copy(struct journal *j, uint64_t off, const void *data, size_t len)
{
	uint8_t *to = journal_extent(j, off, len);

	if (!to)
		return -ENOSPC;
	memcpy(to, data, len);
	return 0;
}

static int recrypt_group(struct recrypt *r, struct step *s, struct block_crypto *from, struct block_crypto *to, uint64_t blk, unsigned n,
	uint64_t *bytes)
{
	struct content *c = s->c;
	uint8_t *tags = r->group, *data = r->group + BLOCK_SIZE;
	uint32_t generation = (content_generation(c, blk, n) & GENERATION_MAX) | filehead_key_of(&s->next, blk);
	unsigned run = 0, have = 0; /* blocks with data from run on */
	bool wanted[GROUP_BLOCKS + 1] = {false};
	int rc = io_pread_full(c->fd, tags, BLOCK_SIZE + n * (size_t)BLOCK_SIZE, extent_tag_off(blk), NULL);

	if (rc == 0 && !s->dense && content_all_zero(tags, n * (size_t)ENTRY_SIZE))
		return 0;
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		rc = recrypt_block(s, from, to, generation, blk + i, tags + i * ENTRY_SIZE, data + i * (size_t)BLOCK_SIZE, &wanted[i]);
		if (rc == -EBADMSG)
			return content_refuse(c, blk + i, "does not match its tag: the file keeps its key");
		have += wanted[i];
	}
	if (rc == 0)
		rc = recrypt_copy(r->v->journal, extent_tag_off(blk), tags, BLOCK_SIZE);
	for (unsigned i = 0; rc == 0 && i <= n; i++) {
		if (wanted[i])
			continue;
		if (i > run)
			rc = recrypt_copy(r->v->journal, extent_data_off(blk + run), data + run * (size_t)BLOCK_SIZE, (i - run) * (size_t)BLOCK_SIZE);
		run = i + 1;
	}
	*bytes += have * (uint64_t)BLOCK_SIZE;
	return rc;
}

/* ---- a step ---- */

static uint64_t groups_up(uint64_t blk)
{
	return (blk + GROUP_BLOCKS - 1) / GROUP_BLOCKS * GROUP_BLOCKS;
}

/* Takes the range and decides what is done under it. 1: there is nothing to do (any more), and no range is held. */
static int step_plan(struct recrypt *r, struct step *s, uint32_t version)
{
	struct content *c = s->c;
	uint64_t blocks = extent_blocks(content_size(c)), start, limit = r->groups * (uint64_t)GROUP_BLOCKS;

	/* Only this thread moves the cursor; but whoever empties the file takes it away. */
	pthread_mutex_lock(&c->state_lock);
	uint64_t cursor = c->head.cursor;
	bool whole = !c->head.key[1].fk;
	pthread_mutex_unlock(&c->state_lock);
	int rc = content_next_group(c, cursor, blocks, &start);
	if (rc < 0)
		return rc;
	whole = whole || blocks - MIN(start, blocks) <= limit;
	range_lock(&c->ranges, &s->range, whole ? 0 : cursor, whole ? RANGE_END : start + limit - 1, true);
	/* It may have shrunk, grown, been emptied, or been written to where there were holes. */
	blocks = extent_blocks(content_size(c));
	rc = recrypt_is_done_locked(c, version) ? 1 : content_next_group(c, cursor, blocks, &start);
	if (rc != 0) {
		range_unlock(&c->ranges, &s->range);
		return rc;
	}
	s->first = start;
	s->end = MIN(groups_up(blocks), start + limit);
	if (!whole)
		s->end = MIN(s->end, s->range.last + 1);
	s->end = MAX(s->end, cursor);
	s->last = whole && s->end >= blocks;
	pthread_mutex_lock(&c->state_lock);
	s->dense = c->slot.dense;
	pthread_mutex_unlock(&c->state_lock);
	return 0;
}

/* What the key sector will say. */
static int step_head(struct step *s, uint32_t version)
{
	struct content *c = s->c;
	int rc = 0;

	s->renewed = !c->head.key[1].fk;
	if (s->renewed) {
		pthread_rwlock_rdlock(&c->v->keys_lock);
		rc = filehead_renew(&c->head, c->v->fw, c->v->ek_version, version, &s->next);
		pthread_rwlock_unlock(&c->v->keys_lock);
	} else {
		s->next = c->head;
	}
	s->next.cursor = s->end;
	return rc;
}

static void step_undo(struct step *s)
{
	if (s->last && !s->watched)
		pthread_mutex_unlock(&s->c->state_lock);
	if (s->renewed)
		filehead_done(&s->next);
	range_unlock(&s->c->ranges, &s->range);
}

/* The key sector; with the last step, both slots too. state_lock held then. */
static int step_header(struct step *s, uint8_t *header)
{
	uint64_t blocks = extent_blocks(content_size(s->c));
	struct filehead head = s->next;
	int rc = 0;

	if (s->last) {
		struct fileslot slot = s->c->slot;

		head.key[1] = (struct filehead_keys){0};
		memset(&head.record[1], 0, sizeof(head.record[1]));
		head.cursor = 0;
		slot.epoch = s->c->v->header.epoch;
		for (size_t i = 0; i < SLOT_BITMAP_SIZE; i++)
			slot.marks[i] |= s->c->sealing[i];
		s->sealed = s->renewed && !s->c->sealing_now && s->c->gaps.count == 0 && blocks >> slot.shift < SLOT_REGIONS;
		if (s->sealed) {
			slot.sealed = blocks;
			memset(slot.marks, 0, SLOT_BITMAP_SIZE);
		}
		memset(header, 0, HEADER_SIZE);
		for (unsigned i = 0; rc == 0 && i < 2; i++) {
			slot.sequence++;
			rc = fileslot_encode(&head, &slot, header + SLOT_OFF(i == 0 ? 1 - s->c->slot_index : s->c->slot_index));
		}
	}
	return rc < 0 ? rc : filehead_encode(&head, header);
}

/* X5. What changed since content_settle. */
static int step_sync_length(struct step *s)
{
	struct content *c = s->c;

	pthread_mutex_lock(&c->state_lock);
	bool unsure = c->unsure < (s->last ? UINT64_MAX : s->end);
	pthread_mutex_unlock(&c->state_lock);
	return unsure ? volume_synced(c->v, io_fdatasync(c->fd)) : 0;
}

/* The file's part of the record. On success its locks are held. */
static int step_compose(struct recrypt *r, struct step *s, uint32_t version, uint64_t *bytes)
{
	struct content *c = s->c;
	struct journal *j = r->v->journal;
	struct block_crypto *from = NULL, *to = NULL;
	const struct file_key *fk[2] = {NULL, NULL};
	uint64_t blocks = extent_blocks(content_size(c));
	struct stat st;
	int rc = step_head(s, version);

	if (rc < 0) {
		s->last = s->renewed = false;
		step_undo(s);
		return rc;
	}
	fk[s->next.key_bit] = s->next.key[0].fk;
	rc = step_sync_length(s);
	if (rc == 0)
		rc = io_fstatat(c->fd, "", &st, AT_EMPTY_PATH);
	if (rc == 0)
		rc = content_crypto_get(c, &from);
	if (rc == 0)
		rc = block_crypto_new(fk, c->head.file_id, &to);
	journal_part_begin(j, c->head.file_id, &st.st_mtim);
	uint8_t *header = journal_extent(j, 0, s->last ? HEADER_SIZE : SECTOR_SIZE);
	if (rc == 0 && !header)
		rc = -ENOSPC;
	for (uint64_t blk = s->first; rc == 0 && blk < MIN(s->end, blocks); blk += GROUP_BLOCKS)
		rc = recrypt_group(r, s, from, to, blk, (unsigned)MIN(blocks - blk, GROUP_BLOCKS), bytes);
	if (from)
		content_crypto_put(c, from);
	block_crypto_free(to);
	if (s->last)
		pthread_mutex_lock(&c->state_lock);
	if (rc == 0)
		rc = step_header(s, header);
	if (rc == 0)
		rc = journal_part_end(j, s->next.key[0].fk);
	if (rc < 0) {
		journal_part_cancel(j);
		step_undo(s);
	}
	return rc;
}

/* It is on the disk: from here on memory says so. */
static void step_install(struct step *s)
{
	struct content *c = s->c;

	if (!s->last)
		pthread_mutex_lock(&c->state_lock);
	if (s->renewed) {
		filehead_done(&c->head);
		c->head = s->next;
	} else {
		c->head.cursor = s->next.cursor;
	}
	if (s->last) {
		filehead_forget(&c->head);
		c->slot.epoch = c->v->header.epoch;
		c->slot.sequence += 2;
		c->slot_dirty = false;
	}
	if (s->sealed) {
		c->slot.sealed = extent_blocks(content_size(c));
		memset(c->slot.marks, 0, SLOT_BITMAP_SIZE);
		c->changed = false;
	}
	/* Nobody has one: the whole range is ours. */
	if (s->renewed || s->last)
		content_crypto_drop(c);
	pthread_mutex_unlock(&c->state_lock);
	range_unlock(&c->ranges, &s->range);
}

/* The record of the steps that were composed, in force and then in place. */
static int recrypt_carry_out(struct recrypt *r, struct step **steps, unsigned n)
{
	int rc = journal_commit(r->v);

	if (rc < 0)
		return rc;
	for (unsigned k = 0; rc == 0 && k < n; k++)
		rc = journal_apply(r->v->journal, k, steps[k]->c->fd);
	/* The record stays in force: the next mount applies it. Until then nothing may be written. */
	return rc < 0 ? volume_synced(r->v, rc) : journal_retire(r->v);
}

static void recrypt_adapt(struct recrypt *r, unsigned files, uint64_t bytes)
{
	bool full = bytes >= r->groups * (uint64_t)GROUP_BLOCKS * BLOCK_SIZE / 2;

	if (r->held_ns > HOLD_WANTED_NS) {
		r->files = MAX(r->files / 2, 1u);
		r->groups = files > 1 && !full ? r->groups : MAX(r->groups / 2, 1u);
	} else if (r->held_ns < HOLD_WANTED_NS / 3) {
		r->files = MIN(files == r->files ? r->files * 2 : r->files, RECRYPT_FILES_MAX);
		r->groups = MIN(full ? r->groups * 2 : r->groups, JOURNAL_GROUPS_MAX);
	}
}

/* Whether nothing but who holds the range changes what the record says: a seal under way does. */
static bool step_can_be_watched(const struct step *s)
{
	return !s->last || !s->c->sealing_now;
}

static void step_watch(struct step *s)
{
	if (s->last)
		pthread_mutex_unlock(&s->c->state_lock);
	range_watch(&s->c->ranges, &s->range);
	s->watched = true;
}

/* All of them again, or false. */
static bool recrypt_retake(struct step **steps, unsigned n)
{
	bool all = true;

	for (unsigned k = 0; all && k < n; k++)
		all = range_retake(&steps[k]->c->ranges, &steps[k]->range);
	for (unsigned k = 0; all && k < n; k++) {
		if (steps[k]->last)
			pthread_mutex_lock(&steps[k]->c->state_lock);
		steps[k]->watched = false;
	}
	return all;
}

/* X5, as far as a step can go. */
static int recrypt_settle(struct recrypt *r, struct content *c)
{
	bool small = recrypt_blocks_left(c) <= RECRYPT_SMALL;

	pthread_mutex_lock(&c->state_lock);
	uint64_t end = small ? UINT64_MAX : c->head.cursor + recrypt_room(r);
	pthread_mutex_unlock(&c->state_lock);
	return content_settle(c, end);
}

/* Their record, in the journal's memory. Locks of those in ret are held. */
static unsigned recrypt_compose(struct recrypt *r, struct recrypt_file *files, unsigned n, struct step **ret, uint64_t *ret_bytes)
{
	uint32_t version = volume_data_version(r->v);
	unsigned count = 0;

	*ret_bytes = 0;
	journal_forget(r->v->journal);
	for (unsigned k = 0; k < n; k++) {
		struct step *s = &r->steps[k];

		*s = (struct step){.c = files[k].content};
		int one = step_plan(r, s, version);
		if (one == 0)
			one = step_compose(r, s, version, ret_bytes);
		/* Files that were small when they were chosen may have grown: those that have no room any more come with another step. */
		files[k].result = one == 0 ? s->last : one == -ENOSPC && count > 0 ? 0 : one;
		if (one == 0)
			ret[count++] = s;
	}
	return count;
}

static void recrypt_held(struct recrypt *r, uint64_t since_ns)
{
	r->held_ns = MAX(r->held_ns, clock_monotonic_ns() - since_ns);
}

/* Writes the record while nothing is held, where that can be. False: it is nothing any more, nor are they. */
static bool recrypt_write_ahead(struct recrypt *r, struct step **steps, unsigned n, uint64_t *since_ns, int *ret_rc)
{
	bool can = true;

	for (unsigned k = 0; k < n; k++)
		can = can && step_can_be_watched(steps[k]);
	if (!can)
		return true;
	for (unsigned k = 0; k < n; k++)
		step_watch(steps[k]);
	recrypt_held(r, *since_ns);
	*ret_rc = journal_write_ahead(r->v);
	*since_ns = clock_monotonic_ns();
	if (*ret_rc == 0 && recrypt_retake(steps, n))
		return true;
	for (unsigned k = 0; k < n; k++)
		step_undo(steps[k]);
	return false;
}

int recrypt_step(struct recrypt *r, struct recrypt_file *files, unsigned n, uint64_t *ret_bytes)
{
	struct step *composed[RECRYPT_FILES_MAX];
	unsigned count = 0;
	int rc = volume_writable(r->v);

	*ret_bytes = 0;
	/* So that little is left to wait for when others wait for us. */
	for (unsigned k = 0; rc == 0 && k < n; k++)
		rc = recrypt_settle(r, files[k].content);
	uint64_t since = clock_monotonic_ns();
	r->held_ns = 0;
	if (rc == 0)
		count = recrypt_compose(r, files, n, composed, ret_bytes);
	if (count > 0 && !recrypt_write_ahead(r, composed, count, &since, &rc))
		count = rc == 0 ? recrypt_compose(r, files, n, composed, ret_bytes) : 0;
	/* Poisoned on the way: then nothing more is written. */
	if (rc == 0)
		rc = volume_writable(r->v);
	if (rc == 0 && count > 0)
		rc = recrypt_carry_out(r, composed, count);
	for (unsigned k = 0; k < count; k++) {
		if (rc == 0)
			step_install(composed[k]);
		else
			step_undo(composed[k]);
	}
	if (rc < 0 || count == 0)
		return rc;
	recrypt_held(r, since);
	recrypt_adapt(r, n, *ret_bytes);
	return 0;
}
