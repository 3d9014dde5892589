/* filehead: see filehead.h. */
#include "store/filehead.h"

#include "store/crypto.h"

#include <assert.h>
#include <string.h>

#define MAC_OFF (SECTOR_SIZE - MAC_SIZE)
#define RECORD_OFF(i) (40u + 44u * (i))
#define ROTATION_OFF 128u

static void keys_done(struct filehead_keys *k)
{
	KEY_FREE(k->fk);
	KEY_FREE(k->mac);
	*k = (struct filehead_keys){0};
}

static int keys_alloc(struct filehead_keys *k)
{
	k->fk = KEY_NEW(struct file_key);
	k->mac = KEY_NEW(struct mac_key);
	return k->fk && k->mac ? 0 : -ENOMEM;
}

static int keys_derive(struct filehead_keys *k)
{
	return crypto_derive(k->fk->b, sizeof(k->fk->b), LABEL_FILE_HEADER, 0, k->mac->b, sizeof(k->mac->b));
}

static int keys_copy(const struct filehead_keys *k, struct filehead_keys *ret)
{
	int rc = keys_alloc(ret);

	if (rc == 0) {
		*ret->fk = *k->fk;
		*ret->mac = *k->mac;
	}
	return rc;
}

void filehead_done(struct filehead *h)
{
	for (unsigned i = 0; i < KEY_RECORDS; i++)
		keys_done(&h->key[i]);
	*h = (struct filehead){0};
}

int filehead_rewrap(struct filehead *h, const struct wrap_key *fw, uint32_t ek_version)
{
	struct filehead next = *h;

	for (unsigned i = 0; i < KEY_RECORDS; i++) {
		int rc = h->key[i].fk ? crypto_wrap(fw->b, h->key[i].fk->b, sizeof(h->key[i].fk->b), next.record[i].wrapped) : 0;

		if (rc < 0)
			return rc;
		next.record[i].ek_version = h->key[i].fk ? ek_version : 0;
	}
	*h = next;
	return 0;
}

int filehead_new(const struct wrap_key *fw, uint32_t ek_version, uint64_t epoch, uint32_t data_version, struct filehead *ret)
{
	struct filehead h = {.epoch = epoch, .data_version = data_version};
	int rc = keys_alloc(&h.key[0]);

	if (rc == 0)
		rc = secret_random(h.file_id, sizeof(h.file_id));
	if (rc == 0)
		rc = secret_random(h.key[0].fk->b, sizeof(h.key[0].fk->b));
	if (rc == 0)
		rc = keys_derive(&h.key[0]);
	if (rc == 0)
		rc = filehead_rewrap(&h, fw, ek_version);
	if (rc < 0) {
		filehead_done(&h);
		return rc;
	}
	*ret = h;
	return 0;
}

int filehead_renew(const struct filehead *h, const struct wrap_key *fw, uint32_t ek_version, uint32_t data_version, struct filehead *ret)
{
	struct filehead next;
	int rc = filehead_new(fw, ek_version, h->epoch, data_version, &next);

	assert(!h->key[1].fk);
	if (rc < 0)
		return rc;
	memcpy(next.file_id, h->file_id, FILE_ID_SIZE);
	next.key_bit = !h->key_bit;
	rc = keys_copy(&h->key[0], &next.key[1]);
	if (rc == 0)
		rc = filehead_rewrap(&next, fw, ek_version);
	if (rc < 0) {
		filehead_done(&next);
		return rc;
	}
	*ret = next;
	return 0;
}

void filehead_forget(struct filehead *h)
{
	keys_done(&h->key[1]);
	memset(&h->record[1], 0, sizeof(h->record[1]));
	h->cursor = 0;
}

uint32_t filehead_key_of(const struct filehead *h, uint64_t blk)
{
	bool before = h->key[1].fk && blk >= h->cursor;

	return h->key_bit != before ? ENTRY_KEY : 0;
}

int filehead_encode(const struct filehead *h, uint8_t ret[SECTOR_SIZE])
{
	memset(ret, 0, SECTOR_SIZE);
	memcpy(ret, FILE_MAGIC, 8);
	le32_store(ret + 8, FORMAT_VERSION);
	le32_store(ret + 12, h->key_bit ? FILE_KEY_BIT : 0);
	memcpy(ret + 16, h->file_id, FILE_ID_SIZE);
	le64_store(ret + 32, h->epoch);
	for (unsigned i = 0; i < KEY_RECORDS; i++) {
		le32_store(ret + RECORD_OFF(i), h->record[i].ek_version);
		memcpy(ret + RECORD_OFF(i) + 4, h->record[i].wrapped, WRAPPED_KEY_SIZE);
	}
	le32_store(ret + ROTATION_OFF, h->data_version);
	le64_store(ret + ROTATION_OFF + 8, h->cursor);
	return crypto_mac(h->key[0].mac, ret, MAC_OFF, NULL, 0, ret + MAC_OFF);
}

static int filehead_decode_keys(const uint8_t sector[SECTOR_SIZE], const struct wrap_key *fw, uint32_t ek_version, struct filehead *h)
{
	uint8_t mac[MAC_SIZE];
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < KEY_RECORDS; i++) {
		h->record[i].ek_version = le32_load(sector + RECORD_OFF(i));
		memcpy(h->record[i].wrapped, sector + RECORD_OFF(i) + 4, WRAPPED_KEY_SIZE);
		if (i > 0 && h->record[i].ek_version == 0)
			continue;
		rc = h->record[i].ek_version == ek_version ? keys_alloc(&h->key[i]) : -EKEYREJECTED;
		if (rc == 0)
			rc = crypto_unwrap(fw->b, h->record[i].wrapped, WRAPPED_KEY_SIZE, h->key[i].fk->b);
		if (rc == 0)
			rc = keys_derive(&h->key[i]);
	}
	if (rc == 0)
		rc = crypto_mac(h->key[0].mac, sector, MAC_OFF, NULL, 0, mac);
	return rc == 0 && !crypto_equal(mac, sector + MAC_OFF, MAC_SIZE) ? -EBADMSG : rc;
}

int filehead_decode(const uint8_t sector[SECTOR_SIZE], const struct wrap_key *fw, uint32_t ek_version, struct filehead *ret)
{
	struct filehead h = {0};
	uint32_t version = le32_load(sector + 8), flags = le32_load(sector + 12);

	if (memcmp(sector, FILE_MAGIC, 8) != 0 || version == 0)
		return -EUCLEAN;
	if (version > FORMAT_VERSION || (flags & ~FILE_KEY_BIT))
		return -ENOTSUP;
	memcpy(h.file_id, sector + 16, FILE_ID_SIZE);
	h.epoch = le64_load(sector + 32);
	h.key_bit = flags & FILE_KEY_BIT;
	h.data_version = le32_load(sector + ROTATION_OFF);
	h.cursor = le64_load(sector + ROTATION_OFF + 8);
	int rc = filehead_decode_keys(sector, fw, ek_version, &h);
	if (rc == 0 && (h.cursor % GROUP_BLOCKS || (h.cursor && !h.key[1].fk) || (version == 1 && (flags || h.data_version || h.key[1].fk))))
		rc = -EUCLEAN;
	if (rc < 0) {
		filehead_done(&h);
		return rc;
	}
	*ret = h;
	return 0;
}

struct filehead_says filehead_says(const uint8_t sector[SECTOR_SIZE])
{
	if (memcmp(sector, FILE_MAGIC, 8) != 0)
		return (struct filehead_says){0};
	return (struct filehead_says){le32_load(sector + RECORD_OFF(0)), le32_load(sector + ROTATION_OFF), le32_load(sector + RECORD_OFF(1)) != 0};
}

/* The file id comes first under the MAC, so that a slot of another file with the same key (there is none) would fail. */
static int fileslot_mac(const struct filehead *h, unsigned record, const uint8_t *sector, uint8_t ret[MAC_SIZE])
{
	return crypto_mac(h->key[record].mac, h->file_id, FILE_ID_SIZE, sector, MAC_OFF, ret);
}

int fileslot_encode(const struct filehead *h, const struct fileslot *s, uint8_t ret[SECTOR_SIZE])
{
	memset(ret, 0, SECTOR_SIZE);
	memcpy(ret, SLOT_MAGIC, 8);
	le64_store(ret + 8, s->sequence);
	le64_store(ret + 16, s->epoch);
	le64_store(ret + 24, s->sealed);
	le32_store(ret + 32, s->dense ? SLOT_DENSE : 0);
	le32_store(ret + 36, s->shift);
	le32_store(ret + 40, s->generation);
	le64_store(ret + 48, s->tags);
	memcpy(ret + 56, s->marks, SLOT_BITMAP_SIZE);
	return fileslot_mac(h, 0, ret, ret + MAC_OFF);
}

int fileslot_decode(const struct filehead *h, const uint8_t sector[SECTOR_SIZE], struct fileslot *ret)
{
	static const uint8_t zeros[SECTOR_SIZE];
	uint8_t mac[MAC_SIZE];

	if (memcmp(sector, zeros, SECTOR_SIZE) == 0)
		return -ENOENT;
	bool verified = false;
	for (unsigned i = 0; !verified && i < KEY_RECORDS && h->key[i].mac; i++) {
		int rc = fileslot_mac(h, i, sector, mac);

		if (rc < 0)
			return rc;
		verified = crypto_equal(mac, sector + MAC_OFF, MAC_SIZE);
	}
	uint32_t flags = le32_load(sector + 32), shift = le32_load(sector + 36), generation = le32_load(sector + 40);
	if (!verified || memcmp(sector, SLOT_MAGIC, 8) != 0 ||
		(flags & ~SLOT_DENSE) || shift < REGION_SHIFT_MIN || shift > 40 || generation == 0 || generation > GENERATION_MAX)
		return -EBADMSG;
	ret->sequence = le64_load(sector + 8);
	ret->epoch = le64_load(sector + 16);
	ret->sealed = le64_load(sector + 24);
	ret->dense = flags & SLOT_DENSE;
	ret->shift = shift;
	ret->generation = generation;
	ret->tags = le64_load(sector + 48);
	memcpy(ret->marks, sector + 56, SLOT_BITMAP_SIZE);
	return 0;
}
