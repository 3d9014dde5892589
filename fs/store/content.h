/* content: what one regular lower file holds. One object per inode, shared by all who have it open; thread safe.
 *
 * C1. Bytes beyond the size in the last block are zeros on disk.
 * C2. Blocks below `sealed` in unmarked regions matched their entries on disk when the slot was written, and have not
 *     been changed since: only for others may a mismatch after a crash be an interrupted write.
 * C3. The slot that names the current epoch, and marks a region, is durable before a sealed block there is overwritten.
 * C4. The file's length reaches its new value before the data of an extension does, so a cut leaves the old size or the new.
 * C5. A block below the size that has no entry is a hole of a file that is not dense, or in `gaps`: extended over, and not
 *     written yet. Nothing from the first gap on is sealed; a gap that two seals find ends the file's denseness.
 *
 * States of a block's knowledge: sealed --(content_mark: slot, fdatasync)--> in flux --(content_seal_*: fdatasync, slot)-->
 * sealed; after an unclean epoch in flux --(recover.c)--> sealed.
 *
 * Offsets and sizes are plain bytes. Errors: -EBADMSG a block or header that does not verify, is none, or is of a
 * newer version (reported with its place), -EROFS poisoned or read-only, -EFBIG, else the file system's. */
#pragma once
#include "store/volume.h"

struct content;

/* Takes fd (open for reading and writing, or for reading on a read-only volume), also when it fails. Recovers what an
 * unclean epoch left in flux. */
int content_open(struct volume *v, int fd, struct content **ret) MUST_CHECK;
/* Does not sync, and leaves a file without a name as it is. NULL is fine. */
void content_close(struct content *c);
int content_fd(const struct content *c);
bool content_has_name(const struct content *c);

uint64_t content_size(const struct content *c);
/* Bytes read, 0 at or past the end. */
ssize_t content_read(struct content *c, void *buf, size_t len, uint64_t off) MUST_CHECK;
/* All of it or an error; after -ENOSPC the size is what it was, unless others extended the file further meanwhile. */
int content_write(struct content *c, const void *buf, size_t len, uint64_t off) MUST_CHECK;
int content_truncate(struct content *c, uint64_t size) MUST_CHECK;
/* mode as fallocate(2): 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE[|KEEP_SIZE]; -EOPNOTSUPP for others. */
int content_allocate(struct content *c, int mode, uint64_t off, uint64_t len) MUST_CHECK;
/* whence SEEK_DATA or SEEK_HOLE; -ENXIO past the end or without more data. */
int content_seek(struct content *c, uint64_t off, int whence, uint64_t *ret_off) MUST_CHECK;
int content_sync(struct content *c, bool data_only) MUST_CHECK;

/* Sealing in two steps around a sync of the caller's (one fdatasync, or one syncfs for many files). begin returns false
 * when there is nothing to seal; finish gets the sync's result. */
bool content_seal_begin(struct content *c);
/* Whether anything changed since the last seal. */
bool content_is_changed(struct content *c);
void content_seal_finish(struct content *c, int synced);

/* Wraps the file's keys under the environment's current key: 1, or 0 where it was so or there is none. Does not sync. */
int content_rotate(struct content *c) MUST_CHECK;
/* The same for a file that is open nowhere; fd stays the caller's. -EUCLEAN: it has no header yet: open it. */
int content_rotate_file(struct volume *v, int fd) MUST_CHECK;

/* Verifies every block; told counts good blocks, bad ones and holes. For scrub and fsck. 0 unless reading itself fails. */
struct content_check {
	uint64_t good, bad, holes;
	uint64_t first_bad; /* block; valid when bad > 0 */
};
int content_verify(struct content *c, struct content_check *ret) MUST_CHECK;
/* The same, telling what it does. */
struct content_watch {
	bool (*step)(void *ctx, unsigned blocks); /* so many more were looked at; false ends it: -ECANCELED */
	void (*bad)(void *ctx, uint64_t first, uint64_t count); /* a run of bad blocks */
	void *ctx;
};
int content_scan(struct content *c, const struct content_watch *watch, struct content_check *ret) MUST_CHECK;
