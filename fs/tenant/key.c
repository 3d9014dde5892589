/* key: see key.h. */
#include "tenant/key.h"

#include "store/crypto.h"
#include "tenant/guard.h"
#include "tenant/operation.h"

#include <stdio.h>
#include <string.h>

#define CANARY_LEN 32u
#define EXCHANGE_BITS 3072u
#define EXCHANGE_META "exchange_key"

/* ---- conditions ---- */

static int none_locked(struct tenant *t, const char *region, const char *rule, const char *what, struct refusal *ret)
{
	CLEANUP_FREE struct registry_env *list = NULL;
	size_t n = 0;
	int rc = registry_env_list(t->registry, &list, &n);

	if (rc < 0)
		return registry_refusal(rc, ret);
	for (size_t k = 0; k < n; k++)
		if (strcmp(list[k].region, region) == 0 && (list[k].state == ENV_LOCKED || list[k].state == ENV_TENANT_LOCKED))
			return refuse(ret, -EBUSY, rule, "%s while the environment %s of region %s is locked: unlock or delete it first", what,
				list[k].name, region);
	return 0;
}

static int key_get(struct tenant *t, const char *name, struct registry_key *ret_key, struct refusal *ret)
{
	int rc = check_name("key's name", name, ret);

	if (rc < 0)
		return rc;
	rc = registry_key_by_name(t->registry, name, ret_key);
	if (rc == -ENOENT)
		return refuse(ret, rc, "", "there is no key %s: keyctl key list shows those that there are", name);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

int key_check_new(struct tenant *t, const char *name, const char *region, struct refusal *ret)
{
	struct registry_key there;
	int rc = check_name("key's name", name, ret);

	if (rc == 0)
		rc = check_name("region's name", region, ret);
	if (rc == 0)
		rc = operation_none(t, region, ret);
	if (rc == 0)
		rc = none_locked(t, region, "K10", "no key can be generated or uploaded", ret);
	if (rc < 0)
		return rc;
	rc = registry_key_by_name(t->registry, name, &there);
	if (rc == 0 && there.state != KEY_DELETED)
		return refuse(ret, -EEXIST, "", "there is a key %s already: choose another name", name);
	return rc < 0 && rc != -ENOENT ? registry_refusal(rc, ret) : 0;
}

/* ---- coming ---- */

/* Public half and canary. */
static int key_describe(const struct rsa_key *k, struct registry_key *row)
{
	uint8_t public[RSA_PUBLIC_MAX], blob[RSA_BLOB_MAX], canary[CANARY_LEN], hash[32];
	size_t public_len, blob_len;
	int rc = rsa_public(k, public, &public_len);

	if (rc == 0)
		rc = secret_random(canary, sizeof(canary));
	if (rc == 0)
		rc = rsa_wrap(k, canary, sizeof(canary), blob, &blob_len);
	if (rc == 0)
		rc = crypto_sha256(canary, sizeof(canary), hash);
	if (rc < 0)
		return rc;
	hex_encode(public, public_len, row->public_hex);
	hex_encode(blob, blob_len, row->canary);
	hex_encode(hash, sizeof(hash), row->canary_hash);
	strcpy(row->fingerprint, rsa_fingerprint(k));
	row->bits = rsa_bits(k);
	return 0;
}

static bool region_had_a_key(struct tenant *t, const char *region)
{
	CLEANUP_FREE struct registry_key *list = NULL;
	size_t n = 0;

	if (registry_key_list(t->registry, &list, &n) < 0)
		return true;
	for (size_t k = 0; k < n; k++)
		if (strcmp(list[k].region, region) == 0)
			return true;
	return false;
}

int key_add(struct tenant *t, const char *name, const char *region, const struct rsa_key *k, const char *origin, uint32_t uid,
	struct refusal *ret)
{
	struct registry_key row = {.uid = uid}, there;
	struct registry_region times;
	int64_t now, id;
	int rc = key_check_new(t, name, region, ret);

	if (rc == 0)
		rc = guard_clock(t, &now, ret);
	if (rc < 0)
		return rc;
	if (registry_key_by_fingerprint(t->registry, rsa_fingerprint(k), &there) == 0 && there.state != KEY_DELETED)
		return refuse(ret, -EEXIST, "", "this key is there already, as %s in region %s (%s)%s", there.name, there.region,
			key_state_name(there.state), there.state == KEY_LOCKED ? ": keyctl key unlock takes it" : "");
	bool first = !region_had_a_key(t, region);
	snprintf(row.name, sizeof(row.name), "%s", name);
	snprintf(row.region, sizeof(row.region), "%s", region);
	snprintf(row.origin, sizeof(row.origin), "%s", origin);
	rc = key_describe(k, &row);
	if (rc == 0)
		rc = vault_import(t->vault, k);
	if (rc < 0)
		return refuse(ret, rc, "", "the vault does not take the key: %s", strerror(-rc));
	rc = registry_region_get(t->registry, region, &times);
	if (rc == 0)
		rc = registry_begin(t->registry);
	if (rc == 0) {
		rc = registry_key_add(t->registry, &row, &id);
		if (rc == 0 && first) /* K6; nothing is under a former key, so there is nothing to wrap again */
			rc = registry_key_set_state(t->registry, id, KEY_ACTIVE, uid);
		times.changed = now;
		times.activated = first ? now : times.activated;
		if (rc == 0)
			rc = registry_region_set(t->registry, &times);
		rc = registry_end(t->registry, rc);
	}
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

/* ---- activation ---- */

int key_activate(struct tenant *t, const char *name, uint32_t uid, struct refusal *ret)
{
	struct registry_key key, former;
	struct registry_region times;
	int rc = key_get(t, name, &key, ret);

	if (rc < 0)
		return rc;
	if (key.state == KEY_ACTIVE)
		return refuse(ret, -EALREADY, "K5", "%s is the active key of region %s already", name, key.region);
	if (key.state == KEY_LOCKED)
		return refuse(ret, -EPERM, "U1", "%s is locked: keyctl key unlock %s FILE brings it back", name, name);
	rc = operation_none(t, key.region, ret);
	if (rc < 0)
		return rc;
	if (key.state != KEY_AVAILABLE)
		return refuse(ret, -EPERM, "K4", "%s is %s: only an Available key can be activated", name, key_state_name(key.state));
	rc = registry_region_get(t->registry, key.region, &times);
	if (rc < 0)
		return registry_refusal(rc, ret);
	rc = none_locked(t, key.region, "K9", "no key can be activated", ret);
	if (rc == 0)
		rc = guard_wait(t, "K8", "the last activation", times.activated, t->guards.activation_interval_ns, ret);
	if (rc < 0)
		return rc;
	rc = registry_key_of_region(t->registry, key.region, KEY_ACTIVE, &former);
	if (rc < 0 && rc != -ENOENT)
		return registry_refusal(rc, ret);
	struct registry_operation o = {.kind = OPERATION_ACTIVATE, .key_id = key.id, .former_id = rc == 0 ? former.id : 0, .uid = uid};
	strcpy(o.region, key.region);
	rc = registry_begin(t->registry);
	if (rc == 0) {
		rc = registry_key_set_state(t->registry, key.id, KEY_INSTALLING, uid);
		if (rc == 0)
			rc = registry_operation_add(t->registry, &o);
		rc = registry_end(t->registry, rc);
	}
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

/* ---- the tenant's lock ---- */

int key_check_lock(struct tenant *t, const char *region, const struct rsa_key *k, struct registry_key *ret_key, struct refusal *ret)
{
	uint8_t public[RSA_PUBLIC_MAX];
	CLEANUP(rsa_key_freep) struct rsa_key *active = NULL;
	struct registry_region times;
	int rc = check_name("region's name", region, ret);

	if (rc == 0)
		rc = operation_none(t, region, ret);
	if (rc < 0)
		return rc;
	rc = registry_key_of_region(t->registry, region, KEY_ACTIVE, ret_key);
	if (rc == -ENOENT)
		return refuse(ret, -EPERM, "L1", "region %s has no active key to lock with: generate or upload one", region);
	if (rc < 0)
		return registry_refusal(rc, ret);
	size_t len = strlen(ret_key->public_hex) / 2;
	rc = len <= sizeof(public) ? hex_decode(ret_key->public_hex, public, len) : -EUCLEAN;
	if (rc == 0)
		rc = rsa_from_public(public, len, &active);
	if (rc < 0)
		return registry_refusal(rc, ret);
	if (strcmp(rsa_fingerprint(k), ret_key->fingerprint) != 0)
		return refuse(ret, -EPERM, "L1", "this is not the active key of region %s: its fingerprint is %.16s, and that of %s is %.16s",
			region, rsa_fingerprint(k), ret_key->name, ret_key->fingerprint);
	if (rsa_prove(k, active) < 0)
		return refuse(ret, -EPERM, "L1", "the file's private key does not sign for the active key %s", ret_key->name);
	rc = registry_region_get(t->registry, region, &times);
	return rc < 0 ? registry_refusal(rc, ret)
		      : guard_wait(t, "L3", "the last key change", times.changed, t->guards.lock_after_key_change_ns, ret);
}

int key_lock_text(struct tenant *t, const char *region, uint32_t uid, char ret_text[128], struct refusal *ret)
{
	static const char letters[] = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"; /* 32 that are not taken for each other */
	struct lock_text *text = &t->lock_text;
	uint8_t random[8];
	char word[10];
	int rc = secret_random(random, sizeof(random));

	if (rc < 0)
		return refuse(ret, rc, "", "no random bytes: %s", strerror(-rc));
	for (size_t k = 0; k < 8; k++)
		word[k + (k > 3)] = letters[random[k] % 32];
	word[4] = '-';
	word[9] = '\0';
	snprintf(text->text, sizeof(text->text), "lock %s %s", region, word);
	snprintf(text->region, sizeof(text->region), "%s", region);
	text->uid = uid;
	text->until_ns = clock_monotonic_ns() + t->guards.confirm_text_ns;
	strcpy(ret_text, text->text);
	return 0;
}

/* Good once, whether it fits or not. */
static int lock_text_take(struct tenant *t, const char *region, const char *confirm, uint32_t uid, struct refusal *ret)
{
	struct lock_text issued = t->lock_text;

	t->lock_text = (struct lock_text){0};
	if (!issued.text[0])
		return refuse(ret, -EPERM, "L2", "no text is waiting to be typed: ask for one by leaving --confirm out");
	if (clock_monotonic_ns() > issued.until_ns)
		return refuse(ret, -EPERM, "L2", "the text is too old: ask for a new one by leaving --confirm out");
	if (issued.uid != uid || strcmp(issued.region, region) != 0)
		return refuse(ret, -EPERM, "L2", "the text was issued to another administrator or for another region: ask for a new one");
	if (strcmp(issued.text, confirm) != 0)
		return refuse(ret, -EPERM, "L2", "that is not the text that was issued; it is void now: ask for a new one");
	return 0;
}

int key_lock(struct tenant *t, const char *region, const struct rsa_key *k, const char *confirm, uint32_t uid, struct refusal *ret)
{
	CLEANUP_FREE struct registry_key *list = NULL;
	struct registry_key key;
	size_t n = 0;
	int rc = key_check_lock(t, region, k, &key, ret);

	if (rc == 0)
		rc = lock_text_take(t, region, confirm, uid, ret);
	if (rc < 0)
		return rc;
	rc = registry_key_list(t->registry, &list, &n);
	struct registry_operation o = {.kind = OPERATION_LOCK, .key_id = key.id, .uid = uid};
	snprintf(o.region, sizeof(o.region), "%s", region);
	if (rc == 0)
		rc = registry_begin(t->registry);
	if (rc < 0)
		return registry_refusal(rc, ret);
	/* L5: in the registry they are gone from now on; the operation destroys them in the vault. */
	for (size_t i = 0; rc == 0 && i < n; i++)
		if (strcmp(list[i].region, region) == 0 && list[i].state == KEY_AVAILABLE)
			rc = registry_key_set_state(t->registry, list[i].id, KEY_DELETED, uid);
	if (rc == 0)
		rc = registry_key_set_state(t->registry, key.id, KEY_LOCKED, uid);
	if (rc == 0)
		rc = registry_operation_add(t->registry, &o);
	rc = registry_end(t->registry, rc);
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

/* ---- unlocking the key ---- */

/* The canary was wrapped when the key came: only its private half opens it. */
static int key_opens_canary(const struct registry_key *key, const struct rsa_key *k)
{
	uint8_t blob[RSA_BLOB_MAX], hash[32], canary[CANARY_LEN];
	char hex[65];
	size_t len = strlen(key->canary) / 2, n = 0;
	int rc = len <= sizeof(blob) ? hex_decode(key->canary, blob, len) : -EUCLEAN;

	if (rc == 0)
		rc = rsa_unwrap(k, blob, len, canary, sizeof(canary), &n);
	if (rc == 0)
		rc = crypto_sha256(canary, n, hash);
	if (rc < 0)
		return rc;
	hex_encode(hash, sizeof(hash), hex);
	return strcmp(hex, key->canary_hash) == 0 ? 0 : -EKEYREJECTED;
}

int key_unlock(struct tenant *t, const char *name, const struct rsa_key *k, uint32_t uid, struct refusal *ret)
{
	struct registry_key key;
	struct registry_region times;
	int rc = key_get(t, name, &key, ret);

	if (rc < 0)
		return rc;
	rc = registry_region_get(t->registry, key.region, &times);
	if (rc < 0)
		return registry_refusal(rc, ret);
	rc = operation_none(t, key.region, ret);
	if (rc < 0)
		return rc;
	if (key.state != KEY_LOCKED)
		return refuse(ret, -EPERM, "U1", "%s is %s, not Locked", name, key_state_name(key.state));
	if (strcmp(rsa_fingerprint(k), key.fingerprint) != 0)
		return refuse(ret, -EPERM, "U2", "this is another key than %s: its fingerprint is %.16s, and %.16s locked the region", name,
			rsa_fingerprint(k), key.fingerprint);
	if (key_opens_canary(&key, k) < 0)
		return refuse(ret, -EPERM, "U2", "the file's private key does not open what was wrapped to %s", name);
	rc = guard_wait(t, "L6", "the lock", times.locked, t->guards.unlock_after_lock_ns, ret);
	if (rc < 0)
		return rc;
	rc = vault_import(t->vault, k);
	if (rc < 0)
		return refuse(ret, rc, "", "the vault does not take the key: %s", strerror(-rc));
	struct registry_operation o = {.kind = OPERATION_UNLOCK, .key_id = key.id, .uid = uid};
	strcpy(o.region, key.region);
	rc = registry_begin(t->registry);
	if (rc == 0) {
		rc = registry_key_set_state(t->registry, key.id, KEY_INSTALLING, uid);
		if (rc == 0)
			rc = registry_operation_add(t->registry, &o);
		rc = registry_end(t->registry, rc);
	}
	return rc < 0 ? registry_refusal(rc, ret) : 0;
}

/* ---- the key-exchange key ---- */

int key_exchange(struct tenant *t, struct registry_key *ret, char *ret_kid, struct refusal *ret_refusal)
{
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	char value[2048 + 80] = "";
	uint8_t public[RSA_PUBLIC_MAX];
	size_t len;
	int rc = registry_meta_get(t->registry, EXCHANGE_META, value, sizeof(value));

	if (rc == -ENOENT) {
		rc = rsa_generate(EXCHANGE_BITS, &k);
		if (rc == 0)
			rc = rsa_public(k, public, &len);
		if (rc == 0)
			rc = vault_import(t->vault, k);
		if (rc < 0)
			return refuse(ret_refusal, rc, "", "no key-exchange key could be made: %s", strerror(-rc));
		snprintf(value, sizeof(value), "%s ", rsa_fingerprint(k));
		hex_encode(public, len, value + strlen(value));
		rc = registry_meta_set(t->registry, EXCHANGE_META, value);
	}
	if (rc < 0)
		return registry_refusal(rc, ret_refusal);
	*ret = (struct registry_key){.bits = EXCHANGE_BITS};
	snprintf(ret->fingerprint, sizeof(ret->fingerprint), "%.64s", value);
	snprintf(ret->public_hex, sizeof(ret->public_hex), "%.2048s", strlen(value) > 65 ? value + 65 : "");
	snprintf(ret_kid, 160, "tdefs/%.80s/kek/%.32s", t->name, ret->fingerprint);
	return 0;
}

struct sweep {
	struct tenant *t;
	char exchange[65];
};

static bool sweep_keep(void *ctx, const char *fingerprint)
{
	struct sweep *s = ctx;
	struct registry_key key;

	if (strcmp(fingerprint, s->exchange) == 0)
		return true;
	int rc = registry_key_by_fingerprint(s->t->registry, fingerprint, &key);
	/* What the registry cannot say anything about now is kept. */
	return rc == 0 ? key.state != KEY_LOCKED && key.state != KEY_DELETED : rc != -ENOENT;
}

int key_sweep(struct tenant *t)
{
	struct sweep s = {.t = t};
	char value[2048 + 80] = "";
	int rc = registry_meta_get(t->registry, EXCHANGE_META, value, sizeof(value));

	if (rc < 0 && rc != -ENOENT)
		return rc;
	snprintf(s.exchange, sizeof(s.exchange), "%.64s", value);
	return vault_sweep(t->vault, sweep_keep, &s);
}
