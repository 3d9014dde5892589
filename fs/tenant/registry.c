/* registry: see registry.h. */
#include "tenant/registry_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SCHEMA_VERSION 4

/* steps[n] brings a database of version n to n + 1. */
static const char *const steps[SCHEMA_VERSION] = {
	"CREATE TABLE environment (name TEXT PRIMARY KEY, type TEXT NOT NULL, region TEXT NOT NULL, store TEXT NOT NULL UNIQUE,"
	" mountpoint TEXT NOT NULL UNIQUE, state INTEGER NOT NULL, epoch INTEGER NOT NULL, created INTEGER NOT NULL,"
	" changed INTEGER NOT NULL) STRICT;"
	"CREATE TABLE audit (seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, uid INTEGER NOT NULL, role TEXT NOT NULL,"
	" request TEXT NOT NULL, object TEXT NOT NULL, rule TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL,"
	" previous TEXT NOT NULL, hash TEXT NOT NULL) STRICT;"
	"CREATE TABLE audit_head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, hash TEXT NOT NULL) STRICT;"
	"PRAGMA user_version = 1;",
	"CREATE TABLE tenant_key (id INTEGER PRIMARY KEY, name TEXT NOT NULL, region TEXT NOT NULL, state INTEGER NOT NULL,"
	" origin TEXT NOT NULL, bits INTEGER NOT NULL, fingerprint TEXT NOT NULL, public TEXT NOT NULL, canary TEXT NOT NULL,"
	" canary_hash TEXT NOT NULL, uid INTEGER NOT NULL, created INTEGER NOT NULL, activated INTEGER NOT NULL,"
	" activated_uid INTEGER NOT NULL, locked INTEGER NOT NULL, locked_uid INTEGER NOT NULL, deleted INTEGER NOT NULL) STRICT;"
	"CREATE UNIQUE INDEX key_name ON tenant_key (name) WHERE state <> 4;"
	"CREATE UNIQUE INDEX key_fingerprint ON tenant_key (fingerprint) WHERE state <> 4;"
	"CREATE UNIQUE INDEX key_active ON tenant_key (region) WHERE state = 2;"
	"CREATE TABLE region (name TEXT PRIMARY KEY, activated INTEGER NOT NULL, changed INTEGER NOT NULL, locked INTEGER NOT NULL) STRICT;"
	"CREATE TABLE operation (region TEXT PRIMARY KEY, kind INTEGER NOT NULL, key_id INTEGER NOT NULL, former_id INTEGER NOT NULL,"
	" uid INTEGER NOT NULL, began INTEGER NOT NULL) STRICT;"
	"CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;"
	"PRAGMA user_version = 2;",
	"CREATE TABLE audit_pending (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, uid INTEGER NOT NULL, role TEXT NOT NULL,"
	" request TEXT NOT NULL, object TEXT NOT NULL) STRICT;"
	"PRAGMA user_version = 3;",
	("ALTER TABLE environment ADD COLUMN clean INTEGER NOT NULL DEFAULT 0;"
	 "PRAGMA user_version = 4;"),
};

int registry_error(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EUCLEAN;
	default:
		return -EIO;
	}
}

const char *env_state_name(enum env_state state)
{
	static const char *const names[] = {"unmounted", "mounted", "locked", "locked"};

	return names[state];
}

void registry_close(struct registry *r)
{
	if (r) {
		owed_clear(r);
		sqlite3_close(r->db);
	}
	free(r);
}
DEFINE_CLEANUP(struct registry *, registry_close);

int registry_exec(struct registry *r, const char *sql)
{
	return registry_error(sqlite3_exec(r->db, sql, NULL, NULL, NULL));
}

int registry_prepare(struct registry *r, sqlite3_stmt **ret, const char *sql, const char *types, ...)
{
	__builtin_va_list ap;
	int rc = sqlite3_prepare_v2(r->db, sql, -1, ret, NULL);

	__builtin_va_start(ap, types);
	for (int k = 1; rc == SQLITE_OK && types[k - 1]; k++)
		rc = types[k - 1] == 's' ? sqlite3_bind_text(*ret, k, __builtin_va_arg(ap, const char *), -1, SQLITE_TRANSIENT)
					 : sqlite3_bind_int64(*ret, k, __builtin_va_arg(ap, int64_t));
	__builtin_va_end(ap);
	if (rc == SQLITE_OK)
		return 0;
	sqlite3_finalize(*ret);
	*ret = NULL;
	return registry_error(rc);
}

int registry_change(struct registry *r, sqlite3_stmt *st, bool wants_row)
{
	int rc = sqlite3_step(st);

	sqlite3_finalize(st);
	if (rc != SQLITE_DONE)
		return registry_error(rc);
	return wants_row && sqlite3_changes(r->db) == 0 ? -ENOENT : 0;
}

int registry_begin(struct registry *r)
{
	return registry_exec(r, "BEGIN IMMEDIATE");
}

int registry_end(struct registry *r, int rc)
{
	if (rc == 0)
		rc = registry_exec(r, "COMMIT");
	if (rc < 0)
		(void)!registry_exec(r, "ROLLBACK");
	return rc;
}

int registry_open(const char *path, struct registry **ret)
{
	CLEANUP(registry_closep) struct registry *r = calloc(1, sizeof(*r));
	sqlite3_stmt *st;
	int version = -1;

	if (!r)
		return -ENOMEM;
	mode_t mask = umask(077);
	int rc = registry_error(sqlite3_open(path, &r->db));
	umask(mask);
	/* The log's length is room: it stays when the last connection ends. */
	(void)sqlite3_file_control(r->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &(int){1});
	if (rc == 0)
		rc = registry_exec(r, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;"
				      "PRAGMA wal_autocheckpoint = 100;");
	if (rc == 0)
		rc = registry_prepare(r, &st, "PRAGMA user_version", "");
	if (rc < 0)
		return rc;
	if (sqlite3_step(st) == SQLITE_ROW)
		version = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	if (version < 0 || version > SCHEMA_VERSION)
		return version < 0 ? -EUCLEAN : -ENOTSUP;
	for (; rc == 0 && version < SCHEMA_VERSION; version++) {
		rc = registry_begin(r);
		if (rc == 0)
			rc = registry_end(r, registry_exec(r, steps[version]));
	}
	if (rc < 0)
		return rc;
	(void)!registry_tend(r);
	*ret = TAKE_PTR(r);
	return 0;
}

/* ---- environments ---- */

#define ENV_COLUMNS "name, type, region, store, mountpoint, state, epoch, created, changed, clean"

void column_text(sqlite3_stmt *st, int column, char *ret, size_t size)
{
	const unsigned char *text = sqlite3_column_text(st, column);

	snprintf(ret, size, "%s", text ? (const char *)text : "");
}

static void env_from_row(const struct registry *r, sqlite3_stmt *st, struct registry_env *ret)
{
	*ret = (struct registry_env){0};
	column_text(st, 0, ret->name, sizeof(ret->name));
	column_text(st, 1, ret->type, sizeof(ret->type));
	column_text(st, 2, ret->region, sizeof(ret->region));
	column_text(st, 3, ret->store, sizeof(ret->store));
	column_text(st, 4, ret->mountpoint, sizeof(ret->mountpoint));
	int state = sqlite3_column_int(st, 5);
	ret->state = state > ENV_UNMOUNTED && state <= ENV_TENANT_LOCKED ? (enum env_state)state : ENV_UNMOUNTED;
	if (owed_find(r, ret->name))
		ret->state = ENV_LOCKED;
	ret->epoch = (uint64_t)sqlite3_column_int64(st, 6);
	ret->created = sqlite3_column_int64(st, 7);
	ret->changed = sqlite3_column_int64(st, 8);
	ret->clean = sqlite3_column_int(st, 9) != 0;
}

int registry_env_add(struct registry *r, const struct registry_env *env)
{
	sqlite3_stmt *st;
	int64_t now = clock_realtime_s();
	int rc = registry_prepare(r, &st, "INSERT INTO environment (" ENV_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?)", "sssssiiiii", env->name,
		env->type, env->region, env->store, env->mountpoint, (int64_t)env->state, (int64_t)env->epoch, now, now, (int64_t)env->clean);

	return rc < 0 ? rc : registry_change(r, st, false);
}

int registry_env_get(struct registry *r, const char *name, struct registry_env *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT " ENV_COLUMNS " FROM environment WHERE name = ?", "s", name);

	if (rc < 0)
		return rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		env_from_row(r, st, ret);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : registry_error(rc);
}

int registry_env_list(struct registry *r, struct registry_env **ret, size_t *ret_n)
{
	CLEANUP_FREE struct registry_env *list = NULL;
	sqlite3_stmt *st;
	size_t n = 0;
	int rc = registry_prepare(r, &st, "SELECT " ENV_COLUMNS " FROM environment ORDER BY name", "");

	if (rc < 0)
		return rc;
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct registry_env *more = realloc(list, (n + 1) * sizeof(*list));

		if (!more) {
			sqlite3_finalize(st);
			return -ENOMEM;
		}
		list = more;
		env_from_row(r, st, &list[n++]);
	}
	sqlite3_finalize(st);
	if (rc != SQLITE_DONE)
		return registry_error(rc);
	*ret = TAKE_PTR(list);
	*ret_n = n;
	return 0;
}

int registry_env_set_state(struct registry *r, const char *name, enum env_state state)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "UPDATE environment SET state = ?, changed = ? WHERE name = ?", "iis", (int64_t)state,
		clock_realtime_s(), name);

	if (rc == 0)
		rc = registry_change(r, st, true);
	if (rc == 0)
		owed_remove(r, name);
	return rc;
}

int registry_env_set_epoch(struct registry *r, const char *name, uint64_t epoch)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "UPDATE environment SET epoch = max(epoch, ?), clean = 0 WHERE name = ?", "is", (int64_t)epoch, name);

	return rc < 0 ? rc : registry_change(r, st, true);
}

int registry_env_set_clean(struct registry *r, const char *name)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "UPDATE environment SET clean = 1 WHERE name = ?", "s", name);

	return rc < 0 ? rc : registry_change(r, st, true);
}

int registry_env_forget_epoch(struct registry *r, const char *name)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "UPDATE environment SET epoch = 0, clean = 0 WHERE name = ?", "s", name);

	return rc < 0 ? rc : registry_change(r, st, true);
}

int registry_env_remove(struct registry *r, const char *name)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "DELETE FROM environment WHERE name = ?", "s", name);

	if (rc == 0)
		rc = registry_change(r, st, true);
	if (rc == 0)
		owed_remove(r, name);
	return rc;
}
