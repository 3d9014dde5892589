/* envheader: STORE/tdefs.env, what an environment is and how its key is wrapped.
 *
 * libconfig text, so that a person can read it, ending in one line with an HMAC-SHA256 under a key derived from the
 * environment key over everything before it. It is replaced by write, fsync, rename, fsync of the directory: after a cut
 * there is the old one or the new one. The wraps can be read without any key; they are believed only once the key that
 * they give has verified the MAC.
 *
 * Errors: -ENOENT not a store, -EUCLEAN malformed, -ENOTSUP a newer format, -EBADMSG changed by somebody without the
 * key, -EKEYREJECTED not this environment's key, -EBUSY another process holds the store, else of the file system. */
#pragma once
#include "base/secret.h"

#define ENVHEADER_NAME "tdefs.env"
#define ENVHEADER_VERSION 2 /* 1 is read too: it has neither data_version nor what follows it */
#define ENV_WRAPS_MAX 4u
#define ENV_UNCLEAN_MAX 4096u
#define NAMES_WRAPPED_SIZE 72u
#define PREVIOUS_WRAPPED_SIZE 40u

/* One way to the environment key. */
struct env_wrap {
	char source[16];      /* "platform", "tenant", "policy" */
	char fingerprint[65]; /* SHA-256 of the wrapping key (or of its public half), hex */
	char key_name[128];   /* as the vault knows it */
	char algorithm[32];   /* "AES-256-KWP", "RSA-OAEP-SHA256" */
	uint32_t ek_version;
	uint8_t blob[1024];
	size_t blob_len;
};

struct envheader {
	uint8_t uuid[16];
	uint64_t sequence; /* of this header; each replacement counts one up */
	uint64_t epoch;    /* of the latest mount; a mount begins by counting it up */
	bool clean;        /* that mount ended with everything sealed */
	/* Epochs that did not, oldest first, since every file was last looked at (volume_forget_unclean). A full list speaks for
	 * every epoch before its first as well: what was dropped from it is forgotten by nobody. */
	uint64_t *unclean;
	size_t unclean_count; /* ENV_UNCLEAN_MAX: full */
	uint32_t ek_version;
	uint8_t names_wrapped[NAMES_WRAPPED_SIZE]; /* names key, AES-256-KW under a key derived from EK */
	/* While a rotation lasts: the environment key before, which some files are still wrapped under; AES-256-KW under a key
	 * derived from EK. Version 0: none. */
	uint32_t previous_version;
	uint8_t previous_wrapped[PREVIOUS_WRAPPED_SIZE];
	uint32_t data_version; /* data rotations begun so far */
	bool data_rotating;    /* the last of them has not ended */
	bool paused;           /* rotations wait until somebody resumes them */
	struct env_wrap wraps[ENV_WRAPS_MAX];
	size_t wrap_count;
};
void envheader_done(struct envheader *h);

/* Makes a new store in the empty or absent directory path (its parent exists): header, root/, tmp/, lock. What a
 * failure leaves is removed. -ENOTEMPTY when something is there. */
int envheader_create(const char *path, const struct env_key *ek, const struct env_wrap *wraps, size_t n) MUST_CHECK;

/* Reads and decodes; with ek also verifies. ret is a plain struct to be freed with envheader_done. */
int envheader_read(int store_fd, const struct env_key *ek, struct envheader *ret) MUST_CHECK;
int envheader_read_path(const char *path, struct envheader *ret) MUST_CHECK;
/* Counts sequence up and replaces the header on disk, durably. *ret_replaced (may be NULL) with an error: nobody knows which
 * of the two headers is there after a power cut; else the old one is. */
int envheader_write(int store_fd, const struct env_key *ek, struct envheader *h, bool *ret_replaced) MUST_CHECK;

/* Decoding and encoding alone, for tests and fuzzers. text need not end in NUL. */
int envheader_decode(const char *text, size_t len, const struct env_key *ek, struct envheader *ret) MUST_CHECK;
int envheader_encode(const struct envheader *h, const struct env_key *ek, char **ret_text, size_t *ret_len) MUST_CHECK;

/* Puts next in the place of ek: one version up, names key and ek itself wrapped under it, and these wraps. Changes h alone. */
int envheader_rotate(struct envheader *h, const struct env_key *ek, const struct env_key *next, const struct env_wrap *wraps, size_t n) MUST_CHECK;

/* Replaces the wraps of a store that no worker holds. */
int envheader_rewrap(const char *path, const struct env_key *ek, const struct env_wrap *wraps, size_t n) MUST_CHECK;
