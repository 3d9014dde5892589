/* registry: what a tenant has, in SQLite (WAL, synchronous=FULL) under the state directory. The one door to SQLite.
 *
 * It holds no key material: wraps live with the stores. Used by one thread at a time (the keeper's big lock).
 * Errors: -ENOENT, -EEXIST, -EUCLEAN a damaged database, -ENOTSUP a newer one, -EIO, -ENOSPC. */
#pragma once
#include "base/util.h"

struct registry;

enum env_state {
	ENV_UNMOUNTED, /* nobody wants it mounted */
	ENV_MOUNTED,   /* it should be mounted; whether a worker serves it, the supervisor knows */
	ENV_LOCKED,    /* by keyctl lock: only unlock ends that */
	ENV_TENANT_LOCKED, /* by the lock of its region (rule L4): only with the locking key */
};
struct registry_env {
	char name[64], type[16], region[64];
	char store[1024], mountpoint[1024];
	enum env_state state;
	uint64_t epoch; /* the highest that its header was seen with */
	bool clean;     /* that epoch ended cleanly */
	int64_t created, changed; /* seconds since 1970 */
};
const char *env_state_name(enum env_state state);

int registry_open(const char *path, struct registry **ret) MUST_CHECK;
void registry_close(struct registry *r);

/* A change of several rows: begin, changes, and end with their result, which commits (0) or rolls back. */
int registry_begin(struct registry *r) MUST_CHECK;
int registry_end(struct registry *r, int rc) MUST_CHECK;

int registry_env_add(struct registry *r, const struct registry_env *env) MUST_CHECK;
int registry_env_get(struct registry *r, const char *name, struct registry_env *ret) MUST_CHECK;
/* All, by name, in an array the caller frees. */
int registry_env_list(struct registry *r, struct registry_env **ret, size_t *ret_n) MUST_CHECK;
int registry_env_set_state(struct registry *r, const char *name, enum env_state state) MUST_CHECK;
/* ENV_LOCKED. With an error other than -ENOENT the disk does not know it, but here it is locked all the same: registry_tend writes it. */
int registry_env_lock(struct registry *r, const char *name) MUST_CHECK;
/* Writes what is owed to the disk, and fills the reserve that lets changes be made when it is full. An error: that is still to do. */
int registry_tend(struct registry *r) MUST_CHECK;
/* An epoch began. */
int registry_env_set_epoch(struct registry *r, const char *name, uint64_t epoch) MUST_CHECK;
/* The epoch ended cleanly. */
int registry_env_set_clean(struct registry *r, const char *name) MUST_CHECK;
/* Whatever the header says next is believed. */
int registry_env_forget_epoch(struct registry *r, const char *name) MUST_CHECK;
int registry_env_remove(struct registry *r, const char *name) MUST_CHECK;

/* The audit log's rows; audit.h gives them meaning. */
struct audit_row {
	uint64_t seq;
	int64_t pending; /* the note of registry_audit_pend that adding the row takes away; 0: none */
	int64_t time;
	uint32_t uid;
	char role[32], request[48], object[128], rule[8], outcome[16];
	char detail[512];
	char previous[65], hash[65];
};
int registry_audit_add(struct registry *r, const struct audit_row *row) MUST_CHECK;
int registry_audit_last(struct registry *r, struct audit_row *ret) MUST_CHECK;
/* Those with a number above after, oldest first; fn's non-zero result ends the walk and is returned. */
int registry_audit_each(struct registry *r, uint64_t after, int (*fn)(void *ctx, const struct audit_row *row), void *ctx) MUST_CHECK;
/* Notes that a row is to come: time, uid, role, request, object. Sets row->pending. */
int registry_audit_pend(struct registry *r, struct audit_row *row) MUST_CHECK;
/* The oldest such note. -ENOENT: none. */
int registry_audit_pending(struct registry *r, struct audit_row *ret) MUST_CHECK;
/* The hash and number of the latest entry as kept beside the log, so that a cut-off end is seen. */
int registry_audit_head(struct registry *r, uint64_t *ret_seq, char ret_hash[65]) MUST_CHECK;

/* Tenant keys. States are rule K4's; a removed key's row stays. */
enum key_state { KEY_AVAILABLE, KEY_INSTALLING, KEY_ACTIVE, KEY_LOCKED, KEY_DELETED };
const char *key_state_name(enum key_state state);
struct registry_key {
	int64_t id;
	char name[64], region[64];
	enum key_state state;
	char origin[16];         /* "generated", "pfx", "byok" */
	unsigned bits;
	char fingerprint[65];
	char public_hex[2049];   /* SubjectPublicKeyInfo */
	char canary[1025], canary_hash[65]; /* 32 random bytes wrapped to it, and their SHA-256 */
	int64_t created, activated, locked, deleted; /* seconds since 1970; 0: never */
	uint32_t uid, activated_uid, locked_uid;
};
/* -EEXIST: a key of this name or fingerprint that is not deleted is there. ret_id may be NULL. */
int registry_key_add(struct registry *r, const struct registry_key *key, int64_t *ret_id) MUST_CHECK;
/* The one that is not deleted, else the latest. */
int registry_key_by_name(struct registry *r, const char *name, struct registry_key *ret) MUST_CHECK;
int registry_key_by_fingerprint(struct registry *r, const char *fingerprint, struct registry_key *ret) MUST_CHECK;
int registry_key_by_id(struct registry *r, int64_t id, struct registry_key *ret) MUST_CHECK;
/* The region's key of this state. */
int registry_key_of_region(struct registry *r, const char *region, enum key_state state, struct registry_key *ret) MUST_CHECK;
int registry_key_list(struct registry *r, struct registry_key **ret, size_t *ret_n) MUST_CHECK;
/* Notes time and uid where the state has such (active, locked, deleted). */
int registry_key_set_state(struct registry *r, int64_t id, enum key_state state, uint32_t uid) MUST_CHECK;

/* What guard times count from; zeros for a region that nothing happened in. */
struct registry_region {
	char name[64];
	int64_t activated, changed, locked;
};
int registry_region_get(struct registry *r, const char *name, struct registry_region *ret) MUST_CHECK;
int registry_region_set(struct registry *r, const struct registry_region *region) MUST_CHECK;
/* What guard times count from, of regions and environments: times after now become now. */
int registry_cut_times(struct registry *r, int64_t now) MUST_CHECK;

/* Work that spans registry and stores, at most one a region; its row is there until it is done, through any crash. */
enum operation_kind { OPERATION_ACTIVATE, OPERATION_LOCK, OPERATION_UNLOCK };
struct registry_operation {
	char region[64];
	enum operation_kind kind;
	int64_t key_id, former_id; /* former: 0 for none */
	uint32_t uid;
	int64_t began;
};
int registry_operation_add(struct registry *r, const struct registry_operation *o) MUST_CHECK;
int registry_operation_get(struct registry *r, const char *region, struct registry_operation *ret) MUST_CHECK;
/* The first whose region's name is greater than after. */
int registry_operation_next(struct registry *r, const char *after, struct registry_operation *ret) MUST_CHECK;
int registry_operation_remove(struct registry *r, const char *region) MUST_CHECK;

/* Single values: the highest time seen, those disowned since, the key-exchange key's fingerprint. */
int registry_meta_get(struct registry *r, const char *name, char *ret, size_t size) MUST_CHECK;
int registry_meta_set(struct registry *r, const char *name, const char *value) MUST_CHECK;
