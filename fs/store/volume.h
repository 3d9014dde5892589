/* volume: an open store: its keys, its epoch, its health. One process at a time holds it (OFD lock on STORE/lock).
 *
 * V1. Opening verifies everything, the wanted minimum epoch included, before it changes anything.
 * V2. Opening for writing makes epoch+1 durable with clean = false before the first other write; what was unclean before
 *     joins the list of unclean epochs. Closing seals, syncs, then makes clean = true durable.
 * V3. Once poisoned (a failed sync, or a failed change that could not be taken back: what is on the disk is unknown) it refuses every change with -EROFS and is not
 *     marked clean; only opening again ends that.
 * Thread safe, but for open and close. */
#pragma once
#include "base/secret.h"
#include "store/envheader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/vfs.h>

struct filehead;
struct journal;

struct volume_options {
	uint64_t min_epoch; /* refuse a header older than this with -ESTALE: an old copy was put back */
	bool min_clean;     /* that epoch ended cleanly: a header that says otherwise is a copy from while it lasted */
	bool read_only;     /* changes nothing, takes the lock all the same */
	/* Told about each piece of damage, each re-sealed file and the poisoning, in one line without secrets; may be NULL. */
	void (*report)(void *ctx, const char *line);
	void *report_ctx;
};

struct volume_stats {
	atomic_uint_fast64_t refused;   /* blocks, headers, names refused as tampered */
	atomic_uint_fast64_t resealed;  /* blocks accepted and tagged again after a crash */
	atomic_uint_fast64_t intents;   /* durable intent writes */
	atomic_uint_fast64_t syncs;     /* lower flushes asked for by fsync above */
	atomic_uint_fast64_t read_bytes, written_bytes;
};

struct volume {
	char *path;
	int fd, root_fd, tmp_fd, lock_fd;
	/* Everything secret below is in secret memory, but for what OpenSSL keeps of the names key, in memory that is wiped when
	 * freed. A rotation replaces the first four: keys_lock. */
	pthread_rwlock_t keys_lock;
	struct env_key *ek;
	uint32_t ek_version;
	struct wrap_key *fw;      /* wraps file keys */
	struct wrap_key *fw_previous; /* while a rotation lasts: of the version before; else NULL */
	uint32_t data_version;    /* data rotations begun; keys_lock, as the next two */
	bool data_rotating, paused; /* as in the header */
	struct names_crypto *names;
	struct mac_key *dir_mac;
	struct envheader header;  /* header_lock; epoch and unclean list do not change after open */
	pthread_mutex_t header_lock;
	uint64_t first_epoch;     /* earlier ones began where this is a copy of (place.h) */
	atomic_bool forgotten;    /* the unclean list counts no more, and is written no more */
	struct journal *journal; /* owned; journal.h */
	struct volume_options options;
	bool small_blocks; /* the lower file system allocates less than a block of ours at a time; set by open */
	atomic_bool poisoned;
	atomic_uint_fast64_t tmp_serial; /* names in tmp/ */
	struct volume_stats stats;
};

int volume_open(const char *path, const struct env_key *ek, const struct volume_options *options, struct volume **ret) MUST_CHECK;
/* Every content must be closed before. Returns 0 when the volume is now clean. Frees v and wipes its keys always. */
int volume_close(struct volume *v);

/* Whether a slot of this epoch may describe what a crash interrupted. */
bool volume_epoch_unclean(const struct volume *v, uint64_t epoch);
/* Whether it began before this copy was made: what it left in flux has to verify all the same. */
bool volume_epoch_copied(const struct volume *v, uint64_t epoch);
/* Of one that was just opened: whether it is a copy that was made while it was mounted. */
bool volume_is_copy(const struct volume *v);
/* The newest epoch that ended uncleanly, 0: nothing may be excused by a crash. */
uint64_t volume_last_unclean(const struct volume *v);
/* For who has opened, and so recovered, everything that was there when the volume was opened: makes that durable, then a header
 * without unclean epochs. From then on nothing is accepted as if it were in flux from one of them. */
int volume_forget_unclean(struct volume *v) MUST_CHECK;
/* Decodes a key sector with the keys there are; errors of filehead_decode. */
int volume_open_head(struct volume *v, const uint8_t *sector, struct filehead *ret) MUST_CHECK;

/* Rotation of the environment key. begin makes next the key, durably: from here on new files are under it, and content_rotate
 * moves the others. end destroys the key before; every file must have been moved. With data, a rotation of the data begins
 * too: every file is to get a new key of its own (recrypt.h), before volume_data_end says that all have. -EALREADY: one is
 * under way. */
int volume_rotate_begin(struct volume *v, const struct env_key *next, const struct env_wrap *wraps, size_t n, bool data) MUST_CHECK;
int volume_rotate_end(struct volume *v) MUST_CHECK;
int volume_data_end(struct volume *v) MUST_CHECK;
/* Whether rotations are to wait; kept in the header. */
int volume_rotate_pause(struct volume *v, bool paused) MUST_CHECK;
bool volume_rotating(struct volume *v);
uint32_t volume_key_version(struct volume *v);
uint32_t volume_data_version(struct volume *v);
bool volume_data_rotating(struct volume *v);
bool volume_paused(struct volume *v);
int volume_rewrap(struct volume *v, const struct env_wrap *wraps, size_t n) MUST_CHECK;
/* 0, or -EROFS when poisoned or read-only. Ask before each change. */
int volume_writable(const struct volume *v) MUST_CHECK;
/* Passes an error of a sync on, poisoning the volume when there is one. */
int volume_synced(struct volume *v, int rc);
/* For a failing change that could not be taken back: what is on the disk is in doubt. why: in the report. Passes rc on. */
int volume_poison(struct volume *v, const char *why, int rc);
void volume_report(struct volume *v, const char *format, ...) PRINTF(2, 3);
/* As statfs(2) on the store, with sizes that say what can be stored in it. */
int volume_statfs(struct volume *v, struct statfs *ret) MUST_CHECK;
/* A name in tmp/ that nobody else uses; ret needs 32 bytes. */
void volume_tmp_name(struct volume *v, char ret[static 32]);
