/* crypto: see crypto.h.
 *
 * Algorithms are fetched once (crypto_fetch), because a fetch costs more than a MAC: a context for a derivation, a MAC or
 * a name is the copy of one that was set up for it. A block's keyed contexts are set up once and only given a new IV per
 * block, which is what makes a 4 KiB block cost about 2 microseconds. */
#include "store/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <string.h>

static const char *const labels[LABEL_COUNT] = {
	[LABEL_FILE_WRAP] = "tdefs v1 file wrap",
	[LABEL_HEADER_MAC] = "tdefs v1 environment header",
	[LABEL_NAMES_WRAP] = "tdefs v1 names wrap",
	[LABEL_DIR_MAC] = "tdefs v1 directory id",
	[LABEL_CONTENT] = "tdefs v1 content",
	[LABEL_BLOCK_MAC] = "tdefs v1 block mac",
	[LABEL_FILE_HEADER] = "tdefs v1 file header",
	[LABEL_PREVIOUS] = "tdefs v1 previous key",
	[LABEL_JOURNAL] = "tdefs v1 rotation journal",
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char digest[] = "SHA256";
static EVP_KDF *hkdf;
static EVP_MAC_CTX *hmac; /* with its digest, without key; to copy (HKDF's cannot be, in OpenSSL 3.0) */
static EVP_CIPHER *ecb, *siv, *xts, *gcm;

static void crypto_fetch(void)
{
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_construct_end()};

	hmac = mac ? EVP_MAC_CTX_new(mac) : NULL;
	if (!hmac || EVP_MAC_CTX_set_params(hmac, params) != 1)
		return;
	hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	ecb = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
	siv = EVP_CIPHER_fetch(NULL, "AES-256-SIV", NULL);
	xts = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
	gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
}

static int crypto_ready(void)
{
	pthread_once(&once, crypto_fetch);
	return hkdf && ecb && siv && xts && gcm ? 0 : -EIO;
}

DEFINE_CLEANUP(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_free);
DEFINE_CLEANUP(EVP_KDF_CTX *, EVP_KDF_CTX_free);
DEFINE_CLEANUP(EVP_MAC_CTX *, EVP_MAC_CTX_free);

int crypto_derive(const uint8_t *key, size_t key_len, enum crypto_label label, uint32_t context, void *ret, size_t len)
{
	char info[64];
	size_t label_len = strlen(labels[label]);

	if (crypto_ready() < 0)
		return -EIO;
	memcpy(info, labels[label], label_len + 1);
	le32_store(info + label_len + 1, context);
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, key_len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, label_len + 5),
		OSSL_PARAM_construct_end(),
	};
	CLEANUP(EVP_KDF_CTX_freep) EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(hkdf);

	if (!ctx)
		return -ENOMEM;
	return EVP_KDF_derive(ctx, ret, len, params) == 1 ? 0 : -EIO;
}

int crypto_mac(const struct mac_key *key, const void *a, size_t a_len, const void *b, size_t b_len, uint8_t ret[MAC_SIZE])
{
	size_t n = 0;

	if (crypto_ready() < 0)
		return -EIO;
	CLEANUP(EVP_MAC_CTX_freep) EVP_MAC_CTX *ctx = EVP_MAC_CTX_dup(hmac);
	if (!ctx)
		return -ENOMEM;
	return EVP_MAC_init(ctx, key->b, sizeof(key->b), NULL) == 1 && EVP_MAC_update(ctx, a, a_len) == 1 &&
			       EVP_MAC_update(ctx, b, b_len) == 1 && EVP_MAC_final(ctx, ret, &n, MAC_SIZE) == 1
		       ? 0
		       : -EIO;
}

int crypto_gmac(const uint8_t key[32], const uint8_t nonce[12], const struct iovec *iov, int n, uint8_t ret[16])
{
	CLEANUP(EVP_CIPHER_CTX_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t none[16];
	int done;

	if (!ctx)
		return -ENOMEM;
	if (crypto_ready() < 0 || EVP_EncryptInit_ex(ctx, gcm, NULL, key, nonce) != 1)
		return -EIO;
	for (int i = 0; i < n; i++)
		if (EVP_EncryptUpdate(ctx, NULL, &done, iov[i].iov_base, (int)iov[i].iov_len) != 1)
			return -EIO;
	return EVP_EncryptFinal_ex(ctx, none, &done) == 1 && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, ret) == 1 ? 0 : -EIO;
}

bool crypto_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

/* AES-256-KW step by step on AES-256-ECB: OpenSSL's own has AES without the processor's help, at three times the time. */
#define KW_STEPS 6u
#define KW_CHECK 0xa6

static int kw_begin(EVP_CIPHER_CTX *ctx, const uint8_t kek[32], int enc)
{
	if (!ctx)
		return -ENOMEM;
	if (crypto_ready() < 0 || EVP_CipherInit_ex(ctx, ecb, NULL, kek, NULL, enc) != 1 || EVP_CIPHER_CTX_set_padding(ctx, 0) != 1)
		return -EIO;
	return 0;
}

/* The integrity check value takes in the step's number. */
static void kw_count(uint8_t a[8], uint64_t t)
{
	for (unsigned i = 0; i < 8; i++)
		a[i] ^= (uint8_t)(t >> (56 - 8 * i));
}

int crypto_wrap(const uint8_t kek[32], const void *key, size_t len, uint8_t *ret)
{
	CLEANUP(EVP_CIPHER_CTX_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t b[16];
	int done, rc = kw_begin(ctx, kek, 1);

	memset(b, KW_CHECK, 8);
	memcpy(ret + 8, key, len);
	for (uint64_t t = 0; rc == 0 && t < KW_STEPS * len / 8; t++) {
		uint8_t *r = ret + 8 + t * 8 % len;

		memcpy(b + 8, r, 8);
		if (EVP_EncryptUpdate(ctx, b, &done, b, sizeof(b)) != 1)
			rc = -EIO;
		kw_count(b, t + 1);
		memcpy(r, b + 8, 8);
	}
	memcpy(ret, b, 8);
	OPENSSL_cleanse(b, sizeof(b));
	if (rc < 0)
		OPENSSL_cleanse(ret, len + 8);
	return rc;
}

int crypto_unwrap(const uint8_t kek[32], const uint8_t *wrapped, size_t wrapped_len, void *ret)
{
	CLEANUP(EVP_CIPHER_CTX_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	static const uint8_t check[8] = {KW_CHECK, KW_CHECK, KW_CHECK, KW_CHECK, KW_CHECK, KW_CHECK, KW_CHECK, KW_CHECK};
	size_t len = wrapped_len - 8;
	uint8_t b[16];
	int done, rc = kw_begin(ctx, kek, 0);

	memcpy(b, wrapped, 8);
	memcpy(ret, wrapped + 8, len);
	for (uint64_t t = KW_STEPS * len / 8; rc == 0 && t > 0; t--) {
		uint8_t *r = (uint8_t *)ret + (t - 1) * 8 % len;

		kw_count(b, t);
		memcpy(b + 8, r, 8);
		if (EVP_DecryptUpdate(ctx, b, &done, b, sizeof(b)) != 1)
			rc = -EIO;
		memcpy(r, b + 8, 8);
	}
	if (rc == 0 && !crypto_equal(b, check, sizeof(check)))
		rc = -EKEYREJECTED;
	OPENSSL_cleanse(b, sizeof(b));
	if (rc < 0)
		OPENSSL_cleanse(ret, len);
	return rc;
}

/* An SIV context is good for one message: each message gets a copy. */
struct names_crypto {
	EVP_CIPHER_CTX *seal, *open;
};

void names_crypto_free(struct names_crypto *nc)
{
	if (!nc)
		return;
	EVP_CIPHER_CTX_free(nc->seal);
	EVP_CIPHER_CTX_free(nc->open);
	free(nc);
}
DEFINE_CLEANUP(struct names_crypto *, names_crypto_free);

int names_crypto_new(const struct names_key *key, struct names_crypto **ret)
{
	CLEANUP(names_crypto_freep) struct names_crypto *nc = calloc(1, sizeof(*nc));

	if (!nc)
		return -ENOMEM;
	nc->seal = EVP_CIPHER_CTX_new();
	nc->open = EVP_CIPHER_CTX_new();
	if (!nc->seal || !nc->open)
		return -ENOMEM;
	if (crypto_ready() < 0 || EVP_EncryptInit_ex(nc->seal, siv, NULL, key->b, NULL) != 1 ||
		EVP_DecryptInit_ex(nc->open, siv, NULL, key->b, NULL) != 1)
		return -EIO;
	*ret = TAKE_PTR(nc);
	return 0;
}

int crypto_siv_seal(const struct names_crypto *nc, const void *ad, size_t ad_len, const void *plain, size_t len, uint8_t *ret)
{
	CLEANUP(EVP_CIPHER_CTX_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n = 0;

	if (!ctx)
		return -ENOMEM;
	if (EVP_CIPHER_CTX_copy(ctx, nc->seal) != 1 || EVP_EncryptUpdate(ctx, NULL, &n, ad, (int)ad_len) != 1 ||
		EVP_EncryptUpdate(ctx, ret + SIV_SIZE, &n, plain, (int)len) != 1 ||
		EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, SIV_SIZE, ret) != 1)
		return -EIO;
	return 0;
}

int crypto_siv_open(const struct names_crypto *nc, const void *ad, size_t ad_len, const uint8_t *sealed, size_t len, uint8_t *ret)
{
	CLEANUP(EVP_CIPHER_CTX_freep) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n = 0;

	if (len <= SIV_SIZE)
		return -EBADMSG;
	if (!ctx)
		return -ENOMEM;
	if (EVP_CIPHER_CTX_copy(ctx, nc->open) != 1 ||
		EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, SIV_SIZE, (void *)(uintptr_t)sealed) != 1 ||
		EVP_DecryptUpdate(ctx, NULL, &n, ad, (int)ad_len) != 1)
		return -EIO;
	if (EVP_DecryptUpdate(ctx, ret, &n, sealed + SIV_SIZE, (int)(len - SIV_SIZE)) != 1) {
		OPENSSL_cleanse(ret, len - SIV_SIZE);
		return -EBADMSG;
	}
	return 0;
}

int crypto_sha256(const void *data, size_t len, uint8_t ret[32])
{
	return EVP_Digest(data, len, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

/* ---- blocks ---- */

#define MAC_CONTEXTS 4
#define NONCE_SIZE 12u
#define NONCES 341u /* 4 KiB of random bytes drawn at a time: RAND_bytes costs a microsecond a call */

enum block_kind { BLOCK_DATA = 1, BLOCK_ZEROS = 2 };

struct block_crypto {
	uint8_t file_id[FILE_ID_SIZE];
	struct {
		struct file_key *fk; /* NULL: there is none */
		EVP_CIPHER_CTX *seal, *open;
	} key[2]; /* by key bit */
	struct {
		uint32_t generation; /* with its key bit; 0: unused; generations start at 1 */
		EVP_CIPHER_CTX *ctx;
	} mac[MAC_CONTEXTS];
	unsigned next_mac; /* the context that is replaced next */
};

/* A thread's nonces: most files need one or two. */
static _Thread_local struct {
	uint8_t bytes[NONCES * NONCE_SIZE];
	unsigned left;
} nonces;

void block_crypto_free(struct block_crypto *bc)
{
	if (!bc)
		return;
	for (size_t i = 0; i < ARRAY_LEN(bc->key); i++) {
		KEY_FREE(bc->key[i].fk);
		EVP_CIPHER_CTX_free(bc->key[i].seal);
		EVP_CIPHER_CTX_free(bc->key[i].open);
	}
	for (size_t i = 0; i < MAC_CONTEXTS; i++)
		EVP_CIPHER_CTX_free(bc->mac[i].ctx);
	free(bc);
}
DEFINE_CLEANUP(struct block_crypto *, block_crypto_free);

static int block_crypto_key(struct block_crypto *bc, unsigned bit, const struct file_key *fk)
{
	uint8_t key[64];

	bc->key[bit].fk = KEY_NEW(struct file_key);
	bc->key[bit].seal = EVP_CIPHER_CTX_new();
	bc->key[bit].open = EVP_CIPHER_CTX_new();
	if (!bc->key[bit].fk || !bc->key[bit].seal || !bc->key[bit].open)
		return -ENOMEM;
	*bc->key[bit].fk = *fk;
	int rc = crypto_derive(fk->b, sizeof(fk->b), LABEL_CONTENT, 0, key, sizeof(key));
	if (rc == 0 && (EVP_EncryptInit_ex(bc->key[bit].seal, xts, NULL, key, NULL) != 1 ||
			       EVP_DecryptInit_ex(bc->key[bit].open, xts, NULL, key, NULL) != 1))
		rc = -EIO;
	secret_wipe(key, sizeof(key));
	return rc;
}

int block_crypto_new(const struct file_key *const fk[2], const uint8_t file_id[FILE_ID_SIZE], struct block_crypto **ret)
{
	CLEANUP(block_crypto_freep) struct block_crypto *bc = calloc(1, sizeof(*bc));

	if (!bc)
		return -ENOMEM;
	memcpy(bc->file_id, file_id, FILE_ID_SIZE);
	for (unsigned bit = 0; bit < ARRAY_LEN(bc->key); bit++) {
		int rc = fk[bit] ? block_crypto_key(bc, bit, fk[bit]) : 0;

		if (rc < 0)
			return rc;
	}
	*ret = TAKE_PTR(bc);
	return 0;
}

static unsigned block_key_bit(uint32_t generation)
{
	return generation & ENTRY_KEY ? 1 : 0;
}

static int block_mac_context(struct block_crypto *bc, uint32_t generation, EVP_CIPHER_CTX **ret)
{
	const struct file_key *fk = bc->key[block_key_bit(generation)].fk;
	uint8_t key[32];

	if (!fk)
		return -EBADMSG;
	for (size_t i = 0; i < MAC_CONTEXTS; i++)
		if (bc->mac[i].generation == generation && bc->mac[i].ctx) {
			*ret = bc->mac[i].ctx;
			return 0;
		}
	unsigned slot = bc->next_mac++ % MAC_CONTEXTS;
	EVP_CIPHER_CTX *ctx = bc->mac[slot].ctx ? bc->mac[slot].ctx : EVP_CIPHER_CTX_new();

	if (!ctx)
		return -ENOMEM;
	bc->mac[slot].ctx = ctx;
	bc->mac[slot].generation = 0;
	int rc = crypto_derive(fk->b, sizeof(fk->b), LABEL_BLOCK_MAC, generation & GENERATION_MAX, key, sizeof(key));
	if (rc == 0 && EVP_EncryptInit_ex(ctx, gcm, NULL, key, NULL) != 1)
		rc = -EIO;
	secret_wipe(key, sizeof(key));
	if (rc < 0)
		return rc;
	bc->mac[slot].generation = generation;
	*ret = ctx;
	return 0;
}

static int block_mac(struct block_crypto *bc, uint64_t blk, enum block_kind kind, uint32_t generation,
	const uint8_t *nonce, const void *cipher, uint8_t ret_tag[16])
{
	EVP_CIPHER_CTX *ctx;
	uint8_t head[FILE_ID_SIZE + 16], none[16];
	int n, rc = block_mac_context(bc, generation, &ctx);

	if (rc < 0)
		return rc;
	memcpy(head, bc->file_id, FILE_ID_SIZE);
	le64_store(head + FILE_ID_SIZE, blk);
	le64_store(head + FILE_ID_SIZE + 8, kind);
	if (EVP_EncryptInit_ex(ctx, NULL, NULL, NULL, nonce) != 1 ||
		EVP_EncryptUpdate(ctx, NULL, &n, head, sizeof(head)) != 1 ||
		(cipher && EVP_EncryptUpdate(ctx, NULL, &n, cipher, BLOCK_SIZE) != 1) ||
		EVP_EncryptFinal_ex(ctx, none, &n) != 1 ||
		EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, ret_tag) != 1)
		return -EIO;
	return 0;
}

static int block_make_entry(struct block_crypto *bc, uint64_t blk, enum block_kind kind, uint32_t generation,
	const void *cipher, uint8_t *ret_entry)
{
	if (nonces.left == 0) {
		if (RAND_bytes(nonces.bytes, sizeof(nonces.bytes)) != 1)
			return -EIO;
		nonces.left = NONCES;
	}
	le32_store(ret_entry, generation | (kind == BLOCK_ZEROS ? ENTRY_ZERO : 0));
	memcpy(ret_entry + 4, nonces.bytes + --nonces.left * NONCE_SIZE, NONCE_SIZE);
	return block_mac(bc, blk, kind, generation, ret_entry + 4, cipher, ret_entry + 16);
}

static int block_check_entry(struct block_crypto *bc, uint64_t blk, enum block_kind kind, const uint8_t *entry, const void *cipher)
{
	uint8_t tag[16];
	uint32_t generation = le32_load(entry);

	if ((generation & ENTRY_ZERO ? BLOCK_ZEROS : BLOCK_DATA) != kind || (generation & GENERATION_MAX) == 0)
		return -EBADMSG;
	int rc = block_mac(bc, blk, kind, generation & ~ENTRY_ZERO, entry + 4, cipher, tag);

	if (rc < 0)
		return rc;
	return crypto_equal(tag, entry + 16, sizeof(tag)) ? 0 : -EBADMSG;
}

static int block_xts(EVP_CIPHER_CTX *ctx, uint64_t blk, const void *in, void *out)
{
	uint8_t tweak[16] = {0};
	int n;

	if (!ctx)
		return -EBADMSG;
	le64_store(tweak, blk);
	if (EVP_CipherInit_ex(ctx, NULL, NULL, NULL, tweak, -1) != 1 || EVP_CipherUpdate(ctx, out, &n, in, BLOCK_SIZE) != 1)
		return -EIO;
	return 0;
}

int block_seal(struct block_crypto *bc, uint64_t blk, uint32_t generation, const void *plain, void *cipher, uint8_t *ret_entry)
{
	int rc = block_xts(bc->key[block_key_bit(generation)].seal, blk, plain, cipher);

	return rc < 0 ? rc : block_make_entry(bc, blk, BLOCK_DATA, generation, cipher, ret_entry);
}

int block_verify(struct block_crypto *bc, uint64_t blk, const uint8_t *entry, const void *cipher)
{
	return block_check_entry(bc, blk, BLOCK_DATA, entry, cipher);
}

int block_open(struct block_crypto *bc, uint64_t blk, const uint8_t *entry, const void *cipher, void *plain)
{
	int rc = block_verify(bc, blk, entry, cipher);

	return rc < 0 ? rc : block_xts(bc->key[block_key_bit(le32_load(entry))].open, blk, cipher, plain);
}

int block_retag(struct block_crypto *bc, uint64_t blk, uint32_t generation, const void *cipher, uint8_t *ret_entry)
{
	return block_make_entry(bc, blk, BLOCK_DATA, generation, cipher, ret_entry);
}

int block_plain(struct block_crypto *bc, uint64_t blk, uint32_t generation, const void *cipher, void *plain)
{
	return block_xts(bc->key[block_key_bit(generation)].open, blk, cipher, plain);
}

int block_zero_entry(struct block_crypto *bc, uint64_t blk, uint32_t generation, uint8_t *ret_entry)
{
	return block_make_entry(bc, blk, BLOCK_ZEROS, generation, NULL, ret_entry);
}

int block_zero_verify(struct block_crypto *bc, uint64_t blk, const uint8_t *entry)
{
	return block_check_entry(bc, blk, BLOCK_ZEROS, entry, NULL);
}
