/* recrypt: puts files' content under new file keys, in place, while it is read and written. Theory: recrypt.c. */
#pragma once
#include "store/content.h"

/* What a rotation of the data needs; used by one thread. */
struct recrypt;
/* Takes the journal: nothing may be pending in it (-EAGAIN). -ENOSPC: no room for it. */
int recrypt_new(struct volume *v, struct recrypt **ret) MUST_CHECK;
void recrypt_free(struct recrypt *r); /* NULL is fine */

#define RECRYPT_FILES_MAX 48u /* the locks of as many files are held at once; ThreadSanitizer can follow 64 */
struct recrypt_file {
	struct content *content;
	int result; /* 1 its key is new; 0 call again, there is more; -errno: unchanged by this call, or the volume is poisoned */
};
/* One step for each of n files: durable when it returns. ret_bytes: plain bytes that were encrypted again. Files that are
 * not small (RECRYPT_SMALL) come alone. 0, or what ended it for all. */
int recrypt_step(struct recrypt *r, struct recrypt_file *files, unsigned n, uint64_t *ret_bytes) MUST_CHECK;

/* Whether its content is under a key that is younger than the rotation; also of a file that holds nothing. */
bool recrypt_is_done(struct content *c);
/* Blocks that are to be encrypted again. Files of up to RECRYPT_SMALL of them are small; as many as recrypt_room has place for,
 * and no more than recrypt_files, go together in a step. */
#define RECRYPT_SMALL 128u
uint64_t recrypt_blocks_left(struct content *c);
/* What there is below of blocks that a step has been at already: bytes, without holes. */
uint64_t recrypt_bytes_behind(struct content *c);
uint64_t recrypt_room(const struct recrypt *r);
unsigned recrypt_files(const struct recrypt *r);
/* How long the last step held locks. */
uint64_t recrypt_held_ns(const struct recrypt *r);
