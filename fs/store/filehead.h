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
	struct file_key *fk;   /* secret memory, owned */
	struct mac_key *mac;   /* of the header sectors; secret memory, owned */
};
struct fileslot {
	uint64_t sequence, epoch, sealed;
	bool dense;
	uint32_t shift, generation;
	uint64_t tags;
	uint8_t marks[SLOT_BITMAP_SIZE];
};

/* A new file's keys and id. */
int filehead_new(const struct wrap_key *fw, uint32_t ek_version, uint64_t epoch, struct filehead *ret) MUST_CHECK;
void filehead_done(struct filehead *h);
/* Wraps the file key under fw, and forgets the other wraps. */
int filehead_rewrap(struct filehead *h, const struct wrap_key *fw, uint32_t ek_version) MUST_CHECK;
int filehead_encode(const struct filehead *h, uint8_t ret[SECTOR_SIZE]) MUST_CHECK;
/* -EUCLEAN no magic, -ENOTSUP newer, -EKEYREJECTED no record opens, -EBADMSG MAC. */
int filehead_decode(const uint8_t sector[SECTOR_SIZE], const struct wrap_key *fw, uint32_t ek_version, struct filehead *ret) MUST_CHECK;

int fileslot_encode(const struct filehead *h, const struct fileslot *s, uint8_t ret[SECTOR_SIZE]) MUST_CHECK;
/* -ENOENT all zeros, -EBADMSG else where it does not verify. */
int fileslot_decode(const struct filehead *h, const uint8_t sector[SECTOR_SIZE], struct fileslot *ret) MUST_CHECK;

static inline bool fileslot_marked(const struct fileslot *s, uint64_t blk)
{
	uint64_t region = blk >> s->shift;

	return region < SLOT_REGIONS && (s->marks[region / 8] & 1u << region % 8);
}
