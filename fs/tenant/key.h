/* key: a tenant's keys and the rules on them (RULES groups K, L, U).
 *
 *   (absent) --add--> Available --activate--> Installing --operation--> Active --lock--> Locked --unlock--> Installing
 *                     Available <--another is activated-- Active
 *                     Available --the region is locked--> Deleted        (the row stays, the private key does not)
 *
 * What spans registry and stores is begun here, as a row of the registry's operation table in the same transaction as
 * the states it begins with, and done by operation.h. One caller at a time (the keeper's big lock). */
#pragma once
#include "tenant/environment.h"

/* Whether a key may come into the region now under this name (K10); asked before one is made. */
int key_check_new(struct tenant *t, const char *name, const char *region, struct refusal *ret) MUST_CHECK;
/* K1, K6: the private half goes into the vault; the region's first key becomes Active. origin: as registry_key's. */
int key_add(struct tenant *t, const char *name, const char *region, const struct rsa_key *k, const char *origin, uint32_t uid,
	struct refusal *ret) MUST_CHECK;
/* K7, K8, K9: begins the operation. */
int key_activate(struct tenant *t, const char *name, uint32_t uid, struct refusal *ret) MUST_CHECK;
/* L1, L3: whether the region could be locked with this key now. */
int key_check_lock(struct tenant *t, const char *region, const struct rsa_key *k, struct registry_key *ret_key, struct refusal *ret) MUST_CHECK;
/* L2: the text to type, good once until guards.confirm_ns are over; ret needs 128 bytes. */
int key_lock_text(struct tenant *t, const char *region, uint32_t uid, char ret_text[128], struct refusal *ret) MUST_CHECK;
/* L2, L5: begins the operation. */
int key_lock(struct tenant *t, const char *region, const struct rsa_key *k, const char *confirm, uint32_t uid, struct refusal *ret) MUST_CHECK;
/* U1, U2, L6: begins the operation. */
int key_unlock(struct tenant *t, const char *name, const struct rsa_key *k, uint32_t uid, struct refusal *ret) MUST_CHECK;
/* The key-exchange key of this tenant, made at the first call, and the kid that blobs for it carry (K3); ret_kid needs 160 bytes. */
int key_exchange(struct tenant *t, struct registry_key *ret, char *ret_kid, struct refusal *ret_refusal) MUST_CHECK;
/* Destroys what the vault holds and the registry does not want there: after a crash. */
int key_sweep(struct tenant *t) MUST_CHECK;
