/* crypto: the one door to OpenSSL for the store. Every derivation label stands in crypto.c's table.
 *
 * HKDF-SHA256: RFC 5869. AES-256-KW: RFC 3394. AES-256-SIV: RFC 5297. AES-256-XTS: IEEE 1619, NIST SP 800-38E.
 * AES-256-GMAC: NIST SP 800-38D. Errors: -ENOMEM, -EIO (OpenSSL failed), and what each function says. */
#pragma once
#include "base/secret.h"
#include "store/format.h"

#include <sys/uio.h>

#define SIV_SIZE 16u

enum crypto_label {
	LABEL_FILE_WRAP,   /* EK -> struct wrap_key */
	LABEL_HEADER_MAC,  /* EK -> struct mac_key of tdefs.env */
	LABEL_NAMES_WRAP,  /* EK -> key that wraps the names key */
	LABEL_DIR_MAC,     /* names key -> struct mac_key of directory ids */
	LABEL_CONTENT,     /* FK -> 64-byte XTS key */
	LABEL_BLOCK_MAC,   /* FK, generation -> 32-byte GMAC key */
	LABEL_FILE_HEADER, /* FK -> struct mac_key of a file's header sectors */
	LABEL_PREVIOUS,    /* EK -> key that wraps the EK before it, while a rotation lasts */
	LABEL_JOURNAL,    /* FK -> 32-byte GMAC key of its parts in the journal */
	LABEL_COUNT,
};
int crypto_derive(const uint8_t *key, size_t key_len, enum crypto_label label, uint32_t context, void *ret, size_t len) MUST_CHECK;

/* MAC over two pieces (the second may be empty). */
int crypto_mac(const struct mac_key *key, const void *a, size_t a_len, const void *b, size_t b_len, uint8_t ret[MAC_SIZE]) MUST_CHECK;
/* AES-256-GMAC over the pieces. */
int crypto_gmac(const uint8_t key[32], const uint8_t nonce[12], const struct iovec *iov, int n, uint8_t ret[16]) MUST_CHECK;
bool crypto_equal(const void *a, const void *b, size_t len);

/* AES-256-KW of len bytes (a multiple of 8) into len+8. Unwrap: -EKEYREJECTED where the integrity check fails. */
int crypto_wrap(const uint8_t kek[32], const void *key, size_t len, uint8_t *ret) MUST_CHECK;
int crypto_unwrap(const uint8_t kek[32], const uint8_t *wrapped, size_t wrapped_len, void *ret) MUST_CHECK;

/* The names key set up for SIV; may be used by several threads. */
struct names_crypto;
int names_crypto_new(const struct names_key *key, struct names_crypto **ret) MUST_CHECK;
void names_crypto_free(struct names_crypto *nc);
/* SIV of len >= 1 bytes with one associated-data string into len + SIV_SIZE; open: -EBADMSG. */
int crypto_siv_seal(const struct names_crypto *nc, const void *ad, size_t ad_len, const void *plain, size_t len, uint8_t *ret) MUST_CHECK;
int crypto_siv_open(const struct names_crypto *nc, const void *ad, size_t ad_len, const uint8_t *sealed, size_t len, uint8_t *ret) MUST_CHECK;

int crypto_sha256(const void *data, size_t len, uint8_t ret[32]) MUST_CHECK;

/* The keyed contexts of one file's blocks; used by one thread at a time (content.c keeps a few per file). */
struct block_crypto;
/* The keys by the key bit of their blocks; one of the two may be NULL. */
int block_crypto_new(const struct file_key *const fk[2], const uint8_t file_id[FILE_ID_SIZE], struct block_crypto **ret) MUST_CHECK;
void block_crypto_free(struct block_crypto *bc);

/* plain and cipher are BLOCK_SIZE and may be the same memory. seal makes ciphertext and entry; open verifies and
 * decrypts, -EBADMSG; retag makes a fresh entry for ciphertext as it stands; plain decrypts without looking at a tag.
 * generation: with the key bit (ENTRY_KEY) of the key that is meant; of a key that is not there: -EBADMSG. */
int block_seal(struct block_crypto *bc, uint64_t blk, uint32_t generation, const void *plain, void *cipher, uint8_t *ret_entry) MUST_CHECK;
int block_open(struct block_crypto *bc, uint64_t blk, const uint8_t *entry, const void *cipher, void *plain) MUST_CHECK;
int block_verify(struct block_crypto *bc, uint64_t blk, const uint8_t *entry, const void *cipher) MUST_CHECK;
int block_retag(struct block_crypto *bc, uint64_t blk, uint32_t generation, const void *cipher, uint8_t *ret_entry) MUST_CHECK;
int block_plain(struct block_crypto *bc, uint64_t blk, uint32_t generation, const void *cipher, void *plain) MUST_CHECK;
/* The entry that says "zeros, no data" under a MAC. */
int block_zero_entry(struct block_crypto *bc, uint64_t blk, uint32_t generation, uint8_t *ret_entry) MUST_CHECK;
int block_zero_verify(struct block_crypto *bc, uint64_t blk, const uint8_t *entry) MUST_CHECK;
