/* registry_key: keys, regions, operations and single values of the registry. Contracts: registry.h. */
#include "tenant/registry_internal.h"

#include <stdio.h>
#include <string.h>

#define KEY_COLUMNS                                                                                                             \
	"name, region, state, origin, bits, fingerprint, public, canary, canary_hash, uid, created, activated, activated_uid, " \
	"locked, locked_uid, deleted"

const char *key_state_name(enum key_state state)
{
	static const char *const names[] = {"Available", "Installing", "Active", "Locked", "Deleted"};

	return names[state];
}

static void key_from_row(sqlite3_stmt *st, struct registry_key *ret)
{
	int state = sqlite3_column_int(st, 3);

	*ret = (struct registry_key){.id = sqlite3_column_int64(st, 0)};
	column_text(st, 1, ret->name, sizeof(ret->name));
	column_text(st, 2, ret->region, sizeof(ret->region));
	/* What cannot be is taken for what allows least. */
	ret->state = state >= KEY_AVAILABLE && state <= KEY_DELETED ? (enum key_state)state : KEY_DELETED;
	column_text(st, 4, ret->origin, sizeof(ret->origin));
	ret->bits = (unsigned)sqlite3_column_int(st, 5);
	column_text(st, 6, ret->fingerprint, sizeof(ret->fingerprint));
	column_text(st, 7, ret->public_hex, sizeof(ret->public_hex));
	column_text(st, 8, ret->canary, sizeof(ret->canary));
	column_text(st, 9, ret->canary_hash, sizeof(ret->canary_hash));
	ret->uid = (uint32_t)sqlite3_column_int64(st, 10);
	ret->created = sqlite3_column_int64(st, 11);
	ret->activated = sqlite3_column_int64(st, 12);
	ret->activated_uid = (uint32_t)sqlite3_column_int64(st, 13);
	ret->locked = sqlite3_column_int64(st, 14);
	ret->locked_uid = (uint32_t)sqlite3_column_int64(st, 15);
	ret->deleted = sqlite3_column_int64(st, 16);
}

int registry_key_add(struct registry *r, const struct registry_key *k, int64_t *ret_id)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "INSERT INTO tenant_key (" KEY_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
		"ssisissssiiiiiii", k->name, k->region, (int64_t)k->state, k->origin, (int64_t)k->bits, k->fingerprint, k->public_hex,
		k->canary, k->canary_hash, (int64_t)k->uid, clock_realtime_s(), k->activated, (int64_t)k->activated_uid, k->locked,
		(int64_t)k->locked_uid, k->deleted);

	if (rc == 0)
		rc = registry_change(r, st, false);
	if (rc == 0 && ret_id)
		*ret_id = sqlite3_last_insert_rowid(r->db);
	return rc;
}

/* The one row of a prepared query, or -ENOENT. Ends st. */
static int key_one(sqlite3_stmt *st, struct registry_key *ret)
{
	int rc = sqlite3_step(st);

	if (rc == SQLITE_ROW)
		key_from_row(st, ret);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : registry_error(rc);
}

int registry_key_by_name(struct registry *r, const char *name, struct registry_key *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT id, " KEY_COLUMNS " FROM tenant_key WHERE name = ? ORDER BY state = 4, id DESC LIMIT 1",
		"s", name);

	return rc < 0 ? rc : key_one(st, ret);
}

int registry_key_by_fingerprint(struct registry *r, const char *fingerprint, struct registry_key *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st,
		"SELECT id, " KEY_COLUMNS " FROM tenant_key WHERE fingerprint = ? ORDER BY state = 4, id DESC LIMIT 1", "s", fingerprint);

	return rc < 0 ? rc : key_one(st, ret);
}

int registry_key_by_id(struct registry *r, int64_t id, struct registry_key *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT id, " KEY_COLUMNS " FROM tenant_key WHERE id = ?", "i", id);

	return rc < 0 ? rc : key_one(st, ret);
}

int registry_key_of_region(struct registry *r, const char *region, enum key_state state, struct registry_key *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT id, " KEY_COLUMNS " FROM tenant_key WHERE region = ? AND state = ? ORDER BY id LIMIT 1",
		"si", region, (int64_t)state);

	return rc < 0 ? rc : key_one(st, ret);
}

int registry_key_list(struct registry *r, struct registry_key **ret, size_t *ret_n)
{
	CLEANUP_FREE struct registry_key *list = NULL;
	sqlite3_stmt *st;
	size_t n = 0;
	int rc = registry_prepare(r, &st, "SELECT id, " KEY_COLUMNS " FROM tenant_key ORDER BY id", "");

	if (rc < 0)
		return rc;
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct registry_key *more = realloc(list, (n + 1) * sizeof(*list));

		if (!more) {
			sqlite3_finalize(st);
			return -ENOMEM;
		}
		list = more;
		key_from_row(st, &list[n++]);
	}
	sqlite3_finalize(st);
	if (rc != SQLITE_DONE)
		return registry_error(rc);
	*ret = TAKE_PTR(list);
	*ret_n = n;
	return 0;
}

int registry_key_set_state(struct registry *r, int64_t id, enum key_state state, uint32_t uid)
{
	const char *sql = state == KEY_ACTIVE	 ? "UPDATE tenant_key SET state = ?, activated = ?, activated_uid = ? WHERE id = ?"
			  : state == KEY_LOCKED	 ? "UPDATE tenant_key SET state = ?, locked = ?, locked_uid = ? WHERE id = ?"
			  : state == KEY_DELETED ? "UPDATE tenant_key SET state = ?, deleted = ? WHERE id = ?"
						 : "UPDATE tenant_key SET state = ? WHERE id = ?";
	int64_t now = clock_realtime_s();
	sqlite3_stmt *st;
	int rc;

	if (state == KEY_ACTIVE || state == KEY_LOCKED)
		rc = registry_prepare(r, &st, sql, "iiii", (int64_t)state, now, (int64_t)uid, id);
	else if (state == KEY_DELETED)
		rc = registry_prepare(r, &st, sql, "iii", (int64_t)state, now, id);
	else
		rc = registry_prepare(r, &st, sql, "ii", (int64_t)state, id);
	return rc < 0 ? rc : registry_change(r, st, true);
}

/* ---- regions ---- */

int registry_region_get(struct registry *r, const char *name, struct registry_region *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT activated, changed, locked FROM region WHERE name = ?", "s", name);

	if (rc < 0)
		return rc;
	*ret = (struct registry_region){0};
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		ret->activated = sqlite3_column_int64(st, 0);
		ret->changed = sqlite3_column_int64(st, 1);
		ret->locked = sqlite3_column_int64(st, 2);
	}
	sqlite3_finalize(st);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : registry_error(rc);
}

int registry_region_set(struct registry *r, const struct registry_region *region)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "INSERT OR REPLACE INTO region (name, activated, changed, locked) VALUES (?,?,?,?)", "siii",
		region->name, region->activated, region->changed, region->locked);

	return rc < 0 ? rc : registry_change(r, st, false);
}

int registry_cut_times(struct registry *r, int64_t now)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "UPDATE region SET activated = min(activated, ?1), changed = min(changed, ?1), locked = min(locked, ?1)",
		"i", now);

	if (rc == 0)
		rc = registry_change(r, st, false);
	if (rc == 0)
		rc = registry_prepare(r, &st, "UPDATE environment SET changed = min(changed, ?)", "i", now);
	return rc < 0 ? rc : registry_change(r, st, false);
}

/* ---- operations ---- */

#define OPERATION_COLUMNS "region, kind, key_id, former_id, uid, began"

int registry_operation_add(struct registry *r, const struct registry_operation *o)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "INSERT INTO operation (" OPERATION_COLUMNS ") VALUES (?,?,?,?,?,?)", "siiiii", o->region,
		(int64_t)o->kind, o->key_id, o->former_id, (int64_t)o->uid, clock_realtime_s());

	return rc < 0 ? rc : registry_change(r, st, false);
}

static int operation_one(sqlite3_stmt *st, struct registry_operation *ret)
{
	int rc = sqlite3_step(st);

	if (rc == SQLITE_ROW) {
		int kind = sqlite3_column_int(st, 1);

		*ret = (struct registry_operation){.kind = kind >= OPERATION_ACTIVATE && kind <= OPERATION_UNLOCK
								   ? (enum operation_kind)kind
								   : OPERATION_LOCK,
			.key_id = sqlite3_column_int64(st, 2), .former_id = sqlite3_column_int64(st, 3),
			.uid = (uint32_t)sqlite3_column_int64(st, 4), .began = sqlite3_column_int64(st, 5)};
		column_text(st, 0, ret->region, sizeof(ret->region));
	}
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : registry_error(rc);
}

int registry_operation_get(struct registry *r, const char *region, struct registry_operation *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT " OPERATION_COLUMNS " FROM operation WHERE region = ?", "s", region);

	return rc < 0 ? rc : operation_one(st, ret);
}

int registry_operation_next(struct registry *r, const char *after, struct registry_operation *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT " OPERATION_COLUMNS " FROM operation WHERE region > ? ORDER BY region LIMIT 1", "s", after);

	return rc < 0 ? rc : operation_one(st, ret);
}

int registry_operation_remove(struct registry *r, const char *region)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "DELETE FROM operation WHERE region = ?", "s", region);

	return rc < 0 ? rc : registry_change(r, st, true);
}

/* ---- single values ---- */

int registry_meta_get(struct registry *r, const char *name, char *ret, size_t size)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT value FROM meta WHERE name = ?", "s", name);

	if (rc < 0)
		return rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		column_text(st, 0, ret, size);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : registry_error(rc);
}

int registry_meta_set(struct registry *r, const char *name, const char *value)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "INSERT OR REPLACE INTO meta (name, value) VALUES (?,?)", "ss", name, value);

	return rc < 0 ? rc : registry_change(r, st, false);
}
