/* registry_internal: what the registry's files share: statements on one SQLite connection. */
#pragma once
#include "tenant/registry.h"

#include <sqlite3.h>

struct registry {
	sqlite3 *db;
	struct owed *owed; /* environments that are locked, which the disk does not know yet */
};
int registry_error(int sqlite_rc);
int registry_exec(struct registry *r, const char *sql) MUST_CHECK;
/* A statement; types gets one letter per parameter: s const char *, i int64_t. */
int registry_prepare(struct registry *r, sqlite3_stmt **ret, const char *sql, const char *types, ...) MUST_CHECK;
/* Runs a change to its end. wants_row: -ENOENT when it changed nothing. */
int registry_change(struct registry *r, sqlite3_stmt *st, bool wants_row) MUST_CHECK;
/* registry_reserve.c. */
bool owed_find(const struct registry *r, const char *name);
void owed_remove(struct registry *r, const char *name);
void owed_clear(struct registry *r);
void column_text(sqlite3_stmt *st, int column, char *ret, size_t size);
