/* content_internal: shared by content.c (opening, reading, state), content_write.c (changes) and recover.c. */
#pragma once
#include "base/io.h"
#include "store/content.h"
#include "store/crypto.h"
#include "store/extent.h"
#include "store/filehead.h"
#include "store/gaps.h"
#include "store/range.h"

#define CONTENT_CRYPTO_MAX 8

struct journal_part;

struct content {
	struct volume *v;
	int fd;
	struct range_set ranges; /* outermost lock; then state_lock; then crypto_lock */
	atomic_uint_fast64_t size; /* changed by who holds a range up to RANGE_END; ahead of what is written by `gaps` */

	pthread_mutex_t state_lock;
	bool has_header;         /* range up to RANGE_END; false: the file is empty */
	struct filehead head;    /* keys: as has_header */
	struct fileslot slot;    /* state_lock: what the disk's newer slot says, or will once slot_dirty is written */
	unsigned slot_index;     /* state_lock: where it lies */
	bool slot_dirty;         /* state_lock: differs from the disk in what need not be durable */
	uint8_t sealing[SLOT_BITMAP_SIZE]; /* state_lock: marks that the seal under way will clear */
	uint64_t sealing_blocks; /* state_lock: what it will call sealed */
	atomic_bool sealing_now; /* changed under state_lock, as changed */
	unsigned mark_run;       /* state_lock: regions marked at once; doubles while marks keep coming */
	atomic_bool changed;     /* since the last seal */
	uint64_t unsure;         /* state_lock: from this block on, a cut may bring back what was cut off or made a hole; UINT64_MAX: none */
	struct gaps gaps, gaps_before; /* state_lock: C5; before: as the last seal found them */
	const struct journal_part *over; /* nothing may be written to a crashed store: what its journal would have applied */
	bool copied;             /* what is in flux was torn by a copier, and is not accepted */
	bool accept_flux;        /* nothing may be written to a crashed store: in-flux mismatches are accepted as they stand */

	pthread_mutex_t crypto_lock;
	struct block_crypto *crypto[CONTENT_CRYPTO_MAX]; /* idle ones; crypto_lock */
	unsigned crypto_count;
};

int content_crypto_get(struct content *c, struct block_crypto **ret) MUST_CHECK;
void content_crypto_put(struct content *c, struct block_crypto *bc);
void content_crypto_drop(struct content *c);

/* One block's plaintext from its entry and ciphertext, in place; -EBADMSG without a report. */
int content_open_block(struct content *c, struct block_crypto *bc, uint64_t blk, const uint8_t *entry, uint8_t *data);
/* Lower bytes as they lie on the disk, or will once what the journal holds is applied. */
int content_fetch(struct content *c, const struct iovec *iov, int n, uint64_t off) MUST_CHECK;
/* Reads and decrypts whole blocks of one group. */
int content_read_blocks(struct content *c, struct block_crypto *bc, uint64_t blk, unsigned n, uint8_t *buf) MUST_CHECK;
int content_refuse(struct content *c, uint64_t blk, const char *why);
/* Whether a block without an entry is a hole, and not damage. */
bool content_is_hole(struct content *c, uint64_t blk);
bool content_in_flux(const struct content *c, uint64_t blk);
bool content_all_zero(const void *data, size_t len);

/* Writes the state slot, keeping the file's mtime; durable: followed by fdatasync. A failure changes nothing, or poisons.
 * state_lock held. */
int content_slot_write_locked(struct content *c, bool durable) MUST_CHECK;
/* Coarsens the regions until blocks blocks have one each. state_lock held, or c not shared yet. */
void content_fit_regions(struct content *c, uint64_t blocks);
/* C3 for blocks first..last. Range held. */
int content_mark(struct content *c, uint64_t first, uint64_t last) MUST_CHECK;
/* The generation, with its key bit, for new tags of n blocks of one group. Range held. */
uint32_t content_generation(struct content *c, uint64_t blk, uint64_t n);
/* The length, or holes, from blk on changed. Range held, from before it. */
void content_unsure(struct content *c, uint64_t blk);
/* Makes durable what is unsure of blocks before end. No range held. */
int content_settle(struct content *c, uint64_t end) MUST_CHECK;
/* The first block from blk on whose group the lower file has anything of; where none has, the larger of blk and blocks. */
int content_next_group(struct content *c, uint64_t blk, uint64_t blocks, uint64_t *ret) MUST_CHECK;
/* A header for a file that has none. Range up to RANGE_END held. */
int content_make_header(struct content *c) MUST_CHECK;
/* What content_write.c has for content_allocate.c. Takes blocks from off's up to the end of file and beyond, and makes sure that
 * the old last block is among them; content_lock_blocks takes those of off..off+len alone where the file has them all. */
void content_lock_tail(struct content *c, struct range *r, uint64_t off);
void content_lock_blocks(struct content *c, struct range *r, uint64_t off, uint64_t len);
void content_not_dense(struct content *c);
/* Blocks first..end have their entries now, or are no more (C5). */
void content_gaps_close(struct content *c, uint64_t first, uint64_t end);
/* After a failed change: cuts what was new. Gives rc back, or what made the volume poisoned. */
int content_failed(struct content *c, uint64_t old_size, int rc) MUST_CHECK;
/* Zeros within the file's size. Range held. */
int content_write_zeros(struct content *c, size_t len, uint64_t off) MUST_CHECK;
/* Whether a failed write has left every byte as it was. */
bool write_was_refused(int rc, uint64_t done);
/* Above this many blocks no zero entries are written one by one: the file is no longer dense instead. */
#define ZERO_ENTRIES_MAX (1u << 18)
/* After the lower file was cut to size > 0. Range up to RANGE_END held. */
int content_forget_tail(struct content *c, uint64_t size) MUST_CHECK;

int recover_content(struct content *c) MUST_CHECK;
/* R3 for a file with nothing in flux: it may have been cut when it crashed. */
int recover_leftovers(struct content *c) MUST_CHECK;
/* The header, and perhaps entries, of a file whose first bytes never came: it is empty. */
int recover_empty(struct content *c) MUST_CHECK;
int recover_lost_header(struct content *c, uint64_t cipher_len) MUST_CHECK;

DEFINE_CLEANUP(struct content *, content_close);
