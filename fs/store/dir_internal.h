/* dir_internal: shared by dir.c (the tree), dir_name.c (names and ids), scrub.c (looking at their copies) and repair.c. */
#pragma once
#include "store/crypto.h"
#include "store/dir.h"

#define ID_MAGIC "TDEFSD1"
#define ID_COPIES 2u
#define ID_MAC_OFF 24u
#define ID_SIZE (ID_MAC_OFF + MAC_SIZE)
#define ID_COPY_NAME "user.tdefs.id"
#define SEALED_MAX (DIR_NAME_MAX + SIV_SIZE)

struct lower_name {
	char text[256]; /* of the object */
	char side[256]; /* of the side file; empty for a short name */
	uint8_t sealed[SEALED_MAX];
	size_t len;
};

int name_seal(struct volume *v, const struct dir_id *id, const char *name, struct lower_name *ret) MUST_CHECK;
/* What a long name's side file, or the copy that its object has, says: -EBADMSG where it is not there or not that name's. */
int name_read_side(int dirfd, const char *lower, struct lower_name *ret) MUST_CHECK;
int name_read_copy(int dirfd, const char *lower, struct lower_name *ret) MUST_CHECK;
/* D1: the side file of a long name, synced, in its directory before the name is used. */
int name_side_create(struct volume *v, int dirfd, const struct lower_name *lower) MUST_CHECK;

/* The object of a long name keeps it too; the one that it was given last, where it has several. Whoever cannot have it has one
 * copy fewer. */
void name_keep_copy(int dirfd, const struct lower_name *lower);
/* What every change that makes a name begins with: may we, what is it called, and its side file. An existing name
 * keeps its side file, so a failing call must not remove it: ret->side is emptied when the name is there already. */
int name_prepare(struct volume *v, int dirfd, const struct dir_id *id, const char *name, struct lower_name *ret) MUST_CHECK;
/* After a long name's object was not made; a failure leaves a file that everybody ignores. */
void name_side_remove(int dirfd, const struct lower_name *lower);
/* After the last use of a long name, which must not outlive its side file: once the name's end is on the disk. Where that cannot
 * be had the side file stays: everybody ignores it. */
void name_side_retire(struct volume *v, int dirfd, const struct lower_name *lower);
/* Removes what a change that failed with rc has made. Where that fails too the kernel above would go on without a name that
 * is there: in doubt. */
int name_undo(struct volume *v, int dirfd, const struct lower_name *lower, int rc) MUST_CHECK;

/* Calls fn with each name in a directory but "." and "..", until it returns other than 0, which is the result. */
int dir_each(int dirfd, int (*fn)(void *ctx, int dirfd, const char *lower), void *ctx) MUST_CHECK;

/* Both sectors of tdefs.dir. */
int dir_id_encode(const struct mac_key *dir_mac, const struct dir_id *id, uint8_t copies[static ID_COPIES * SECTOR_SIZE]) MUST_CHECK;
int dir_id_decode(struct volume *v, const uint8_t copy[static ID_SIZE], struct dir_id *ret) MUST_CHECK;
/* From tdefs.dir, with the number of its good sectors, and from the directory's attribute (-ENODATA: has none). -EBADMSG. */
int dir_id_read(struct volume *v, int dirfd, struct dir_id *ret, unsigned *ret_good) MUST_CHECK;
int dir_id_read_copy(struct volume *v, int dirfd, struct dir_id *ret) MUST_CHECK;
/* Whether a directory is one that dir_rename was about to replace when the power went: there is nothing in it, not even an id. Who
 * empties a directory gains nothing by taking the id as well, for removing names is what he did already. */
bool dir_id_is_due(const struct volume *v, int dirfd) MUST_CHECK;

/* As dir_stream_next, but -EBADMSG for a name that does not verify (ret->lower), after which reading goes on; no report. */
int dir_stream_next_raw(struct dir_stream *s, struct dir_entry *ret) MUST_CHECK;
