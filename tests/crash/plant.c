/* plant: see plant.h. */
#include "plant.h"

#include "store/format.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a record is ---- */

static bool is_sync(const struct record *one)
{
	return one->op == IO_FSYNC || one->op == IO_FDATASYNC;
}

static bool is_slot(const struct record *one)
{
	return one->op == IO_WRITE && one->len == SECTOR_SIZE && (one->off == SLOT_OFF(0) || one->off == SLOT_OFF(1));
}

/* Whether this sync is the durable end of a slot write. */
static bool ends_slot(const struct recording *r, size_t k)
{
	return k > 0 && is_slot(&r->records[k - 1]) && r->records[k - 1].obj == r->records[k].obj;
}

/* The name that an object got when it was made; "" for the base's. */
static const char *first_name(const struct recording *r, uint32_t obj)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].made == obj && r->records[k].op != IO_RENAME && r->records[k].op != IO_UNLINK && r->records[k].path)
			return r->records[k].path;
	return "";
}

static bool becomes_side_file(const struct recording *r, uint32_t obj)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_RENAME && r->records[k].made == obj && strncmp(r->records[k].path2, "n.", 2) == 0)
			return true;
	return false;
}

/* Whether the object is a directory: something was made or renamed in it. */
static bool is_directory(const struct recording *r, uint32_t obj)
{
	for (size_t k = 0; k < r->count; k++)
		if ((r->records[k].path2 && r->records[k].op == IO_RENAME && r->records[k].obj2 == obj) ||
			(r->records[k].op == IO_OPEN && r->records[k].obj == obj))
			return true;
	return false;
}

/* Moves record from to the place before record to; both counted before the move. Syncs cover what they did; what comes earlier now
 * than something covered, too; what comes later, no more. */
static void move(struct recording *r, size_t from, size_t to)
{
	struct record one = r->records[from];

	for (size_t k = 0; k < r->count; k++) {
		size_t *begun = &r->records[k].begun;

		if (from < to && *begun > from && *begun < to)
			--*begun;
		else if (from > to && *begun > to && *begun <= from)
			++*begun;
	}
	one.begun = r->records[from].begun;

	if (from < to) {
		memmove(&r->records[from], &r->records[from + 1], (to - from - 1) * sizeof(one));
		r->records[to - 1] = one;
	} else {
		memmove(&r->records[to + 1], &r->records[to], (from - to) * sizeof(one));
		r->records[to] = one;
	}
}

/* Records that are to come in, in order of where. */
struct inserts {
	size_t count, room, *before; /* which record */
	struct record *records;
};

static void insert(struct inserts *in, size_t before, const struct record *one)
{
	if (in->count == in->room) {
		in->room = in->room ? 2 * in->room : 64;
		in->before = realloc(in->before, in->room * sizeof(*in->before));
		in->records = realloc(in->records, in->room * sizeof(*in->records));
		if (!in->before || !in->records)
			abort();
	}
	in->before[in->count] = before;
	in->records[in->count] = *one;
	in->records[in->count++].planted = true;
}

/* Syncs cover what they did, and of what comes in what lies between. */
static void insert_all(struct recording *r, struct inserts *in)
{
	size_t count = r->count + in->count, from = 0, next = 0;
	struct record *records = calloc(count + 1, sizeof(*records));
	uint64_t *log_ends = calloc(count + 1, sizeof(*log_ends));
	size_t *places = calloc(r->count + 1, sizeof(*places)); /* by record: where it is now, and 1; [0]: 0 */

	if (!records || !log_ends || !places)
		abort();
	for (size_t k = 0; k < count; k++) {
		bool comes_in = next < in->count && in->before[next] == from;

		records[k] = comes_in ? in->records[next++] : r->records[from];
		if (r->log_ends)
			log_ends[k] = !comes_in ? r->log_ends[from] : from ? r->log_ends[from - 1] : 0;
		if (!comes_in)
			places[++from] = k + 1;
	}
	for (size_t k = 0; k < count; k++)
		records[k].begun = records[k].planted ? k : places[records[k].begun];
	free(r->records);
	r->records = records;
	if (r->log_ends) {
		free(r->log_ends);
		r->log_ends = TAKE_PTR(log_ends);
	}
	r->count = count;
	r->room = count + 1;
	free(log_ends);
	free(places);
	free(in->before);
	free(in->records);
}

/* ---- the bugs ---- */

static void nothing(struct recording *r)
{
	(void)r;
}

static void intent_not_durable(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (is_sync(&r->records[k]) && ends_slot(r, k))
			r->records[k].hidden = true;
}

static void intent_after_data(struct recording *r)
{
	for (size_t k = 1; k + 1 < r->count; k++)
		if (is_sync(&r->records[k]) && ends_slot(r, k) && r->records[k + 1].op == IO_WRITE && r->records[k + 1].obj == r->records[k].obj)
			move(r, k + 1, k - 1);
}

static void sync_does_nothing(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (is_sync(&r->records[k]) && !ends_slot(r, k) && k % 3 == 0)
			r->records[k].hidden = true;
}

static void header_not_synced(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_FSYNC && strcmp(first_name(r, r->records[k].obj), "tdefs.env.new") == 0)
			r->records[k].hidden = true;
}

static void header_rename_not_synced(struct recording *r)
{
	for (size_t k = 1; k < r->count; k++)
		if (r->records[k].op == IO_FSYNC && r->records[k - 1].op == IO_RENAME && strcmp(r->records[k - 1].path2, "tdefs.env") == 0)
			r->records[k].hidden = true;
}

static void id_not_synced(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_FSYNC && strcmp(first_name(r, r->records[k].obj), "tdefs.dir") == 0)
			r->records[k].hidden = true;
}

static void directory_before_id(struct recording *r)
{
	/* mkdir, open and write of the id, fsync, fsync, rename: the rename comes first. Later renames stay where they are. */
	for (size_t m = 0; m < r->count; m++)
		for (size_t k = m; r->records[m].op == IO_MKDIR && ++k < r->count;)
			if (r->records[k].op == IO_RENAME && r->records[k].made == r->records[m].made) {
				move(r, k, m + 1);
				break;
			}
}

static void side_file_not_synced(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_FSYNC && becomes_side_file(r, r->records[k].obj))
			r->records[k].hidden = true;
}

static void sealed_before_synced(struct recording *r)
{
	for (size_t k = 0; k + 1 < r->count; k++)
		if (is_sync(&r->records[k]) && !ends_slot(r, k) && is_slot(&r->records[k + 1]) && r->records[k + 1].obj == r->records[k].obj)
			r->records[k].hidden = true;
}

static void length_after_data(struct recording *r)
{
	for (size_t k = 0; k + 1 < r->count; k++)
		if (r->records[k].op == IO_TRUNCATE && r->records[k + 1].op == IO_WRITE && r->records[k + 1].obj == r->records[k].obj &&
			r->records[k + 1].len >= BLOCK_SIZE)
			move(r, k, k + 2);
}

static void cut_before_unsealing(struct recording *r)
{
	for (size_t k = 0; k + 2 < r->count; k++)
		if (is_slot(&r->records[k]) && is_sync(&r->records[k + 1]) && r->records[k + 2].op == IO_TRUNCATE &&
			r->records[k + 2].obj == r->records[k].obj && r->records[k + 1].obj == r->records[k].obj)
			move(r, k + 2, k);
}

static void directory_sync_does_nothing(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_FSYNC && is_directory(r, r->records[k].obj))
			r->records[k].hidden = true;
}

/* The object that name in dir stands for before record k; 0: none that was made since the base. */
static uint32_t named_before(const struct recording *r, size_t k, uint32_t dir, const char *name)
{
	while (k-- > 0) {
		const struct record *one = &r->records[k];

		if ((one->op == IO_RENAME || one->op == IO_LINK) && one->obj2 == dir && strcmp(one->path2, name) == 0)
			return one->flags ? 0 : one->made;
		if ((one->op == IO_RENAME || one->op == IO_UNLINK) && one->obj == dir && strcmp(one->path, name) == 0)
			return 0;
		if (one->op == IO_OPEN && one->obj == dir && strcmp(one->path, name) == 0)
			return one->made;
	}
	return 0;
}

static void rename_in_two_steps(struct recording *r)
{
	struct inserts in = {0};

	/* Of a rename over a file: first the file goes, then the other comes. */
	for (size_t k = 0; k < r->count; k++) {
		const struct record one = r->records[k];
		uint32_t old = one.op == IO_RENAME && one.flags == 0 ? named_before(r, k, one.obj2, one.path2) : 0;

		if (!old || old == one.made || is_directory(r, old))
			continue;
		insert(&in, k, &(struct record){.op = IO_UNLINK, .obj = one.obj2, .made = old, .path = strdup(one.path2)});
	}
	insert_all(r, &in);
}

static void old_key_gone_early(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_SYNCFS)
			r->records[k].hidden = true;
}

/* ---- the journal of re-encryption ---- */

static bool in_journal(const struct recording *r, size_t k)
{
	return strcmp(first_name(r, r->records[k].obj), "rotate.journal") == 0;
}

/* What puts a record in force: its first sector, alone or with the rest. */
static bool is_journal_record(const struct recording *r, size_t k)
{
	const struct record *one = &r->records[k];

	return one->op == IO_WRITE && one->off == 0 && one->len >= SECTOR_SIZE && one->data[0] != 0 && in_journal(r, k);
}

static bool retires_record(const struct recording *r, size_t k)
{
	return r->records[k].op == IO_WRITE && r->records[k].len == SECTOR_SIZE && r->records[k].data[0] == 0 && in_journal(r, k);
}

/* The record that k puts in force but for its first sector: in the same write, or in one before. */
static const uint8_t *journal_parts(const struct recording *r, size_t k, uint64_t *ret_len)
{
	const struct record *one = &r->records[k];
	size_t w = k;

	*ret_len = le64_load(one->data + 24) - SECTOR_SIZE;
	if (one->len > SECTOR_SIZE)
		return one->data + SECTOR_SIZE;
	do
		assert(w > 0);
	while (r->records[--w].op != IO_WRITE || r->records[w].obj != one->obj || r->records[w].off != SECTOR_SIZE);
	assert(r->records[w].len == *ret_len);
	return r->records[w].data;
}

/* Whether w puts in place what the journal's record at k has; format.h. */
static bool journal_has(const struct recording *r, size_t k, size_t w)
{
	const struct record *one = &r->records[w];
	uint64_t parts_len;
	const uint8_t *b = journal_parts(r, k, &parts_len);

	if (one->op != IO_WRITE || one->obj == r->records[k].obj)
		return false;
	for (uint64_t part = 0, end; part < parts_len; part = end) {
		end = part + le64_load(b + part + 32);
		for (uint64_t at = part + 72, len; at < end; at += 16 + len) {
			len = le64_load(b + at + 8);
			if (len == one->len && le64_load(b + at) == one->off && memcmp(b + at + 16, one->data, len) == 0)
				return true;
		}
	}
	return false;
}

/* Inserts what of a write in place says which key blocks are under: the key sector and the entries. */
static void insert_switch(struct inserts *in, size_t before, const struct record *one, bool durable)
{
	for (uint64_t off = 0; off < one->off + one->len; off = off ? off + (GROUP_BLOCKS + 1) * BLOCK_SIZE : HEADER_SIZE) {
		struct record piece = {.op = IO_WRITE, .obj = one->obj, .off = off, .len = off ? BLOCK_SIZE : SECTOR_SIZE};

		if (off < one->off || off + piece.len > one->off + one->len)
			continue;
		piece.data = malloc(piece.len);
		if (!piece.data)
			abort();
		memcpy(piece.data, one->data + (off - one->off), piece.len);
		insert(in, before, &piece);
		piece.op = IO_FDATASYNC;
		piece.data = NULL;
		piece.flags = RWF_DSYNC;
		if (durable)
			insert(in, before, &piece);
	}
}

static void switched_before_record(struct recording *r)
{
	struct inserts in = {0};

	for (size_t k = 0; k < r->count; k++)
		if (is_journal_record(r, k))
			for (size_t w = k + 1; w < r->count && !retires_record(r, w); w++)
				if (journal_has(r, k, w))
					insert_switch(&in, k, &r->records[w], false);
	insert_all(r, &in);
}

static void retired_when_switched(struct recording *r)
{
	struct inserts in = {0};

	for (size_t k = 0; k < r->count; k++)
		if (is_journal_record(r, k))
			for (size_t w = k + 1; w < r->count && !retires_record(r, w); w++)
				if (journal_has(r, k, w)) {
					insert_switch(&in, w + 1, &r->records[w], true);
					/* Its own sync, or that of all of the file's writes. */
					for (size_t s = w + 1; s < r->count && !retires_record(r, s) && !journal_has(r, k, s); s++)
						r->records[s].hidden |= is_sync(&r->records[s]) && r->records[s].obj == r->records[w].obj;
				}
	insert_all(r, &in);
}

static void journal_not_synced(struct recording *r)
{
	for (size_t k = 1; k < r->count; k++)
		if (is_sync(&r->records[k]) && is_journal_record(r, k - 1))
			r->records[k].hidden = true;
}

static void overwritten_before_record(struct recording *r)
{
	for (size_t k = 0; k + 2 < r->count; k++)
		if (is_journal_record(r, k) && is_sync(&r->records[k + 1]) && r->records[k + 2].op == IO_WRITE) {
			move(r, k + 2, k);
			k++; /* at the record again */
		}
}

static void retired_before_data_synced(struct recording *r)
{
	bool in_force = false;

	for (size_t k = 1; k < r->count; k++) {
		if (is_journal_record(r, k - 1))
			in_force = true;
		else if (retires_record(r, k))
			in_force = false;
		else if (in_force && is_sync(&r->records[k]))
			r->records[k].hidden = true;
	}
}

static void retirement_not_synced(struct recording *r)
{
	for (size_t k = 1; k < r->count; k++)
		if (is_sync(&r->records[k]) && retires_record(r, k - 1))
			r->records[k].hidden = true;
}

/* A part is taken back by a write of zeros over its tag. */
static void part_taken_back_before_synced(struct recording *r)
{
	for (size_t k = 0, from = 0; k < r->count; k++)
		if (r->records[k].op == IO_WRITE && r->records[k].len == 16 && r->records[k].data[0] == 0) {
			for (; from < k; from++)
				r->records[from].hidden |= is_sync(&r->records[from]) && r->records[from].obj != r->records[k].obj;
			from = k;
		}
}

static void mount_leaves_no_mark(struct recording *r)
{
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_RENAME && strcmp(r->records[k].path2, "tdefs.env") == 0)
			r->records[k].hidden = true;
}

static bool lists_unclean(const struct record *one)
{
	return !memmem(one->data, one->len, "unclean = []", 12);
}

/* The write of the next header from record k on in which the unclean epochs are forgotten; *ret_before: that of the one before. */
static size_t next_forgetting(const struct recording *r, size_t k, size_t *ret_before)
{
	size_t last = r->count;

	for (size_t i = 0; i < r->count; i++) {
		if (r->records[i].op != IO_WRITE || strcmp(first_name(r, r->records[i].obj), "tdefs.env.new") != 0)
			continue;
		if (i >= k && last < i && lists_unclean(&r->records[last]) && !lists_unclean(&r->records[i])) {
			*ret_before = last;
			return i;
		}
		last = i;
	}
	return r->count;
}

static void forgotten_before_synced(struct recording *r)
{
	size_t before;

	for (size_t k = 0; (k = next_forgetting(r, k, &before)) < r->count; k++)
		for (size_t m = k; m-- > before;)
			if (r->records[m].op == IO_SYNCFS) {
				r->records[m].hidden = true;
				break;
			}
}

static void forgotten_before_looked_at(struct recording *r)
{
	size_t before;

	/* What is done to the new header, up to its rename and the fsync after it, comes right after those of the header before. */
	for (size_t k = 0; (k = next_forgetting(r, k, &before)) < r->count; k++) {
		uint32_t header = r->records[k].obj;
		size_t to = before + 4, end = k;

		while (end < r->count && (r->records[end].op != IO_RENAME || r->records[end].made != header))
			end++;
		for (size_t i = to; end + 1 < r->count && i <= end + 1; i++)
			if (r->records[i].obj == header || r->records[i].made == header || i == end + 1)
				move(r, i, to++);
	}
}

const struct plant plants[] = {
	{"an intent is not made durable", intent_not_durable, nothing, NULL},
	{"an intent comes after the data that it is for", intent_after_data, nothing, NULL},
	{"an fsync of content does nothing", sync_does_nothing, nothing, NULL},
	{"blocks are called sealed before they are synced", sealed_before_synced, nothing, NULL},
	{"a length comes after the data of an extension", length_after_data, nothing, NULL},
	{"a file is cut before what goes is unsealed", cut_before_unsealing, nothing, NULL},
	{"the environment header is renamed before it is synced", header_not_synced, nothing, NULL},
	{"the rename of the environment header is not synced", header_rename_not_synced, nothing, NULL},
	{"a mount does not say that it began", mount_leaves_no_mark, nothing, NULL},
	{"a directory's id is not synced", id_not_synced, nothing, NULL},
	{"a directory is there before its id", directory_before_id, nothing, NULL},
	{"a long name's side file is not synced", side_file_not_synced, nothing, NULL},
	{"an fsync of a directory does nothing", directory_sync_does_nothing, nothing, NULL},
	{"a rename over a file is two steps", rename_in_two_steps, nothing, NULL},
	{"the old key is destroyed before the new wraps are synced", old_key_gone_early, nothing, NULL},
	{"a record of the journal is not synced", journal_not_synced, nothing, "recrypt"},
	{"blocks are overwritten before the journal has them", overwritten_before_record, nothing, "recrypt"},
	{"blocks are called the new key's before the journal has them", switched_before_record, nothing, "recrypt"},
	{"a record is taken back before its blocks are synced", retired_before_data_synced, nothing, "recrypt"},
	{"a record is taken back when its blocks are called the new key's, their data not synced", retired_when_switched, nothing, "recrypt"},
	{"that a record is taken back is not synced", retirement_not_synced, nothing, "recrypt"},
	{"recovery takes a record back before its blocks are synced", nothing, part_taken_back_before_synced, "recrypt"},
	{"unclean ends are forgotten before what was looked at is synced", forgotten_before_synced, forgotten_before_synced, NULL},
	{"unclean ends are forgotten before anything is looked at", forgotten_before_looked_at, forgotten_before_looked_at, NULL},
	{"recovery calls sealed what it has not synced", nothing, sealed_before_synced, NULL},
	{0},
};
