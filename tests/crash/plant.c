/* plant: see plant.h. */
#include "plant.h"

#include "store/format.h"

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

/* Moves record from to the place before record to; both counted before the move. */
static void move(struct recording *r, size_t from, size_t to)
{
	struct record one = r->records[from];

	if (from < to) {
		memmove(&r->records[from], &r->records[from + 1], (to - from - 1) * sizeof(one));
		r->records[to - 1] = one;
	} else {
		memmove(&r->records[to + 1], &r->records[to], (from - to) * sizeof(one));
		r->records[to] = one;
	}
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
	/* mkdir, open and write of the id, fsync, fsync, rename: the rename comes first. */
	for (size_t k = 0; k < r->count; k++)
		if (r->records[k].op == IO_RENAME && is_directory(r, r->records[k].made))
			for (size_t m = k; m-- > 0;)
				if (r->records[m].op == IO_MKDIR && r->records[m].made == r->records[k].made) {
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
	/* Of a rename over a file: first the file goes, then the other comes. */
	for (size_t k = 0; k < r->count && r->count < r->room; k++) {
		const struct record one = r->records[k];
		uint32_t old = one.op == IO_RENAME && one.flags == 0 ? named_before(r, k, one.obj2, one.path2) : 0;

		if (!old || old == one.made || is_directory(r, old))
			continue;
		memmove(&r->records[k + 1], &r->records[k], (r->count - k) * sizeof(one));
		r->records[k] = (struct record){.op = IO_UNLINK, .obj = one.obj2, .made = old, .path = strdup(one.path2), .begun = k};
		k++;
		r->count++;
	}
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
	{"a record is taken back before its blocks are synced", retired_before_data_synced, nothing, "recrypt"},
	{"that a record is taken back is not synced", retirement_not_synced, nothing, "recrypt"},
	{"recovery takes a record back before its blocks are synced", nothing, part_taken_back_before_synced, "recrypt"},
	{"unclean ends are forgotten before what was looked at is synced", forgotten_before_synced, forgotten_before_synced, NULL},
	{"unclean ends are forgotten before anything is looked at", forgotten_before_looked_at, forgotten_before_looked_at, NULL},
	{"recovery calls sealed what it has not synced", nothing, sealed_before_synced, NULL},
	{0},
};
