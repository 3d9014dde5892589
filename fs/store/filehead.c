/* filehead: see filehead.h. */
#include "store/filehead.h"

#include "store/crypto.h"

#include <string.h>

#define MAC_OFF (SECTOR_SIZE - MAC_SIZE)

static int filehead_keys(struct filehead *h)
{
	return crypto_derive(h->fk->b, sizeof(h->fk->b), LABEL_FILE_HEADER, 0, h->mac->b, sizeof(h->mac->b));
}

static int filehead_alloc(struct filehead *h)
{
	h->fk = KEY_NEW(struct file_key);
	h->mac = KEY_NEW(struct mac_key);
	return h->fk && h->mac ? 0 : -ENOMEM;
}

void filehead_done(struct filehead *h)
{
	KEY_FREE(h->fk);
	KEY_FREE(h->mac);
	*h = (struct filehead){0};
}

int filehead_new(const struct wrap_key *fw, uint32_t ek_version, uint64_t epoch, struct filehead *ret)
{
	struct filehead h = {.epoch = epoch};
	int rc = filehead_alloc(&h);

	h.record[0].ek_version = ek_version;
	if (rc == 0)
		rc = secret_random(h.file_id, sizeof(h.file_id));
	if (rc == 0)
		rc = secret_random(h.fk->b, sizeof(h.fk->b));
	if (rc == 0)
		rc = crypto_wrap(fw->b, h.fk->b, sizeof(h.fk->b), h.record[0].wrapped);
	if (rc == 0)
		rc = filehead_keys(&h);
	if (rc < 0) {
		filehead_done(&h);
		return rc;
	}
	*ret = h;
	return 0;
}

int filehead_rewrap(struct filehead *h, const struct wrap_key *fw, uint32_t ek_version)
{
	uint8_t wrapped[WRAPPED_KEY_SIZE];
	int rc = crypto_wrap(fw->b, h->fk->b, sizeof(h->fk->b), wrapped);

	if (rc < 0)
		return rc;
	memset(h->record, 0, sizeof(h->record));
	h->record[0].ek_version = ek_version;
	memcpy(h->record[0].wrapped, wrapped, sizeof(wrapped));
	return 0;
}

int filehead_encode(const struct filehead *h, uint8_t ret[SECTOR_SIZE])
{
	memset(ret, 0, SECTOR_SIZE);
	memcpy(ret, FILE_MAGIC, 8);
	le32_store(ret + 8, FORMAT_VERSION);
	memcpy(ret + 16, h->file_id, FILE_ID_SIZE);
	le64_store(ret + 32, h->epoch);
	for (unsigned i = 0; i < KEY_RECORDS; i++) {
		le32_store(ret + 40 + 44 * i, h->record[i].ek_version);
		memcpy(ret + 44 + 44 * i, h->record[i].wrapped, WRAPPED_KEY_SIZE);
	}
	return crypto_mac(h->mac, ret, MAC_OFF, NULL, 0, ret + MAC_OFF);
}

int filehead_decode(const uint8_t sector[SECTOR_SIZE], const struct wrap_key *fw, uint32_t ek_version, struct filehead *ret)
{
	struct filehead h = {0};
	uint8_t mac[MAC_SIZE];
	int rc;

	if (memcmp(sector, FILE_MAGIC, 8) != 0)
		return -EUCLEAN;
	if (le32_load(sector + 8) != FORMAT_VERSION || le32_load(sector + 12) != 0)
		return -ENOTSUP;
	rc = filehead_alloc(&h);
	memcpy(h.file_id, sector + 16, FILE_ID_SIZE);
	h.epoch = le64_load(sector + 32);
	if (rc == 0)
		rc = -EKEYREJECTED;
	for (unsigned i = 0; i < KEY_RECORDS; i++) {
		h.record[i].ek_version = le32_load(sector + 40 + 44 * i);
		memcpy(h.record[i].wrapped, sector + 44 + 44 * i, WRAPPED_KEY_SIZE);
		if (rc == -EKEYREJECTED && h.record[i].ek_version == ek_version)
			rc = crypto_unwrap(fw->b, h.record[i].wrapped, WRAPPED_KEY_SIZE, h.fk->b);
	}
	if (rc == 0)
		rc = filehead_keys(&h);
	if (rc == 0)
		rc = crypto_mac(h.mac, sector, MAC_OFF, NULL, 0, mac);
	if (rc == 0 && !crypto_equal(mac, sector + MAC_OFF, MAC_SIZE))
		rc = -EBADMSG;
	if (rc < 0) {
		filehead_done(&h);
		return rc;
	}
	*ret = h;
	return 0;
}

/* The file id comes first under the MAC, so that a slot of another file with the same key (there is none) would fail. */
static int fileslot_mac(const struct filehead *h, const uint8_t *sector, uint8_t ret[MAC_SIZE])
{
	return crypto_mac(h->mac, h->file_id, FILE_ID_SIZE, sector, MAC_OFF, ret);
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
	return fileslot_mac(h, ret, ret + MAC_OFF);
}

int fileslot_decode(const struct filehead *h, const uint8_t sector[SECTOR_SIZE], struct fileslot *ret)
{
	static const uint8_t zeros[SECTOR_SIZE];
	uint8_t mac[MAC_SIZE];

	if (memcmp(sector, zeros, SECTOR_SIZE) == 0)
		return -ENOENT;
	int rc = fileslot_mac(h, sector, mac);
	if (rc < 0)
		return rc;
	uint32_t flags = le32_load(sector + 32), shift = le32_load(sector + 36), generation = le32_load(sector + 40);
	if (!crypto_equal(mac, sector + MAC_OFF, MAC_SIZE) || memcmp(sector, SLOT_MAGIC, 8) != 0 ||
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
