/* journal: STORE/rotate.journal, which makes re-encryption in place safe from a cut of the power.
 *
 * Blocks overwritten in place by the same content under another key could be left, by a cut, with sectors of which some are under
 * one key and some under the other. So what a step is going to write is written here first, whole and durable; then in place, durable;
 * then the record is taken back, durable (a redo record).
 *
 * J1. A record is in force from when it is durable as a whole until its first sector is gone. A torn one never is: the tag of
 *     each part binds it to the record id in the first sector.
 *     So the rest may be written, and be durable, before the first sector is.
 * J2. While it is in force nobody else changes what it covers (recrypt.c holds the ranges): to apply it, any number of times, is right.
 * J3. After a crash a part is applied when its file is opened, before anything of the file is believed, and then taken back
 *     for itself, durably, before anybody gets the file.
 * J4. No record is written while parts are pending: the one that writes finds their files first, or knows that they are gone.
 *
 * A volume that is read-only (or poisoned) applies nothing: what a pending part says is laid over what is read. Bytes: format.h. */
#pragma once
#include "store/filehead.h"
#include "store/volume.h"

#define JOURNAL_PARTS_MAX 64u
#define JOURNAL_GROUPS_MAX 8u /* that a record has room for */

struct journal_part; /* a pending one */

/* Reads what is pending; v's keys are there. A journal that makes no sense is none. */
int journal_load(struct volume *v) MUST_CHECK;
void journal_free(struct journal *j); /* NULL is fine */

/* Parts that wait for their files. */
unsigned journal_pending(const struct volume *v);
/* For the file behind fd, whose first sectors are header (HEADER_SIZE bytes): applies what is pending and reads header again.
 * Read-only: *ret_over is what to lay over reads, and header has it already. */
int journal_recover(struct volume *v, int fd, uint8_t *header, const struct journal_part **ret_over) MUST_CHECK;
void journal_lay_over(const struct journal_part *part, uint64_t off, void *buf, size_t len);
/* The files of what is pending are no more. */
int journal_drop_pending(struct volume *v) MUST_CHECK;

/* ---- writing, by one thread ---- */

/* Makes the file and takes its space. -ENOSPC: nothing has happened; -EAGAIN: J4. */
int journal_start(struct volume *v) MUST_CHECK;
/* Removes it, unless something is pending. */
void journal_stop(struct volume *v);
/* A record of parts, a part of extents. part's mtime is what the file's shall be after it. */
void journal_part_begin(struct journal *j, const uint8_t file_id[FILE_ID_SIZE], const struct timespec *mtime);
/* Where the bytes of the next extent go; the first of a part is the key sector, at 0. NULL when there is no room. */
uint8_t *journal_extent(struct journal *j, uint64_t off, size_t len);
void journal_part_cancel(struct journal *j);
/* key: of record 0 in the key sector that the part brings. */
int journal_part_end(struct journal *j, const struct file_key *key) MUST_CHECK;
/* The record but for what puts it in force: so that little is left for journal_commit. What fails has done nothing. */
int journal_write_ahead(struct volume *v) MUST_CHECK;
/* The record is not to be. */
void journal_forget(struct journal *j);
/* Makes the record durable. What fails poisons the volume, unless nothing of it is in force. */
int journal_commit(struct volume *v) MUST_CHECK;
/* Writes part index (in order of begin) in place, durably. */
int journal_apply(struct journal *j, unsigned index, int fd) MUST_CHECK;
int journal_retire(struct volume *v) MUST_CHECK;
