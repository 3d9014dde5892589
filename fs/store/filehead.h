/* filehead: a file's header sectors as structs; decoding, encoding, and nothing else. Bytes: format.h. */
#pragma once
#include "base/secret.h"
#include "store/format.h"

struct filehead {
	uint8_t file_id[FILE_ID_SIZE];
	uint64_t epoch; /* in which it was made */
	struct {
		uint32_t ek_version; /* 0: none */
		uint8_t wrapped[WRAPPED_KEY_SIZE];
	} record[KEY_RECORDS];
	uint32_t data_version; /* data rotation in which the key of record 0 was made */
	bool key_bit;          /* that the blocks under record 0's key have; those under record 1's have the other */
	uint64_t cursor;       /* with a record 1: blocks from here on are under its key */
	struct filehead_keys {
		struct file_key *fk; /* secret memory, owned; NULL where there is no such record */
		struct mac_key *mac; /* of the header sectors; as above */
	} key[KEY_RECORDS];
};
struct fileslot {
	uint64_t sequence, epoch, sealed;
	bool dense;
	uint32_t shift, generation;
	uint64_t tags;
	uint8_t marks[SLOT_BITMAP_SIZE];
};

/* A new file's keys and id. */
int filehead_new(const struct wrap_key *fw, uint32_t ek_version, uint64_t epoch, uint32_t data_version, struct filehead *ret) MUST_CHECK;
void filehead_done(struct filehead *h);
/* The same file with a new key; h's goes to record 1, and every block is under it still. h must have one key. */
int filehead_renew(const struct filehead *h, const struct wrap_key *fw, uint32_t ek_version, uint32_t data_version, struct filehead *ret) MUST_CHECK;
/* Wipes the key of record 1. */
void filehead_forget(struct filehead *h);
/* Which of the file's keys a block is under, by its place: ENTRY_KEY or 0. */
uint32_t filehead_key_of(const struct filehead *h, uint64_t blk);
/* Wraps the file's keys under fw. */
int filehead_rewrap(struct filehead *h, const struct wrap_key *fw, uint32_t ek_version) MUST_CHECK;
int filehead_encode(const struct filehead *h, uint8_t ret[SECTOR_SIZE]) MUST_CHECK;
/* -EUCLEAN no magic or no sense, -ENOTSUP newer, -EKEYREJECTED a record does not open, -EBADMSG MAC. */
int filehead_decode(const uint8_t sector[SECTOR_SIZE], const struct wrap_key *fw, uint32_t ek_version, struct filehead *ret) MUST_CHECK;

/* What a key sector says, believed only to ask whether it is worth opening: ek_version 0 where it is none. */
struct filehead_says {
	uint32_t ek_version, data_version;
	bool two_keys;
};
struct filehead_says filehead_says(const uint8_t sector[SECTOR_SIZE]);

int fileslot_encode(const struct filehead *h, const struct fileslot *s, uint8_t ret[SECTOR_SIZE]) MUST_CHECK;
/* -ENOENT all zeros, -EBADMSG else where it does not verify. */
int fileslot_decode(const struct filehead *h, const uint8_t sector[SECTOR_SIZE], struct fileslot *ret) MUST_CHECK;

static inline bool fileslot_marked(const struct fileslot *s, uint64_t blk)
{
	uint64_t region = blk >> s->shift;

	return region < SLOT_REGIONS && (s->marks[region / 8] & 1u << region % 8);
}
