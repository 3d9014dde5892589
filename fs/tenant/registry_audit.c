/* registry_audit: the audit log's rows, and those that are still to come. Contracts: registry.h. */
#include "tenant/registry_internal.h"

#define AUDIT_COLUMNS "seq, time, uid, role, request, object, rule, outcome, detail, previous, hash"

static void audit_from_row(sqlite3_stmt *st, struct audit_row *ret)
{
	*ret = (struct audit_row){.seq = (uint64_t)sqlite3_column_int64(st, 0), .time = sqlite3_column_int64(st, 1),
		.uid = (uint32_t)sqlite3_column_int64(st, 2)};
	column_text(st, 3, ret->role, sizeof(ret->role));
	column_text(st, 4, ret->request, sizeof(ret->request));
	column_text(st, 5, ret->object, sizeof(ret->object));
	column_text(st, 6, ret->rule, sizeof(ret->rule));
	column_text(st, 7, ret->outcome, sizeof(ret->outcome));
	column_text(st, 8, ret->detail, sizeof(ret->detail));
	column_text(st, 9, ret->previous, sizeof(ret->previous));
	column_text(st, 10, ret->hash, sizeof(ret->hash));
}

int registry_audit_add(struct registry *r, const struct audit_row *row)
{
	sqlite3_stmt *st;
	int rc = registry_begin(r);

	if (rc < 0)
		return rc;
	rc = registry_prepare(r, &st, "INSERT INTO audit (" AUDIT_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?)", "iiissssssss",
		(int64_t)row->seq, row->time, (int64_t)row->uid, row->role, row->request, row->object, row->rule, row->outcome,
		row->detail, row->previous, row->hash);
	if (rc == 0)
		rc = registry_change(r, st, false);
	if (rc == 0)
		rc = registry_prepare(r, &st, "INSERT OR REPLACE INTO audit_head (one, seq, hash) VALUES (1, ?, ?)", "is",
			(int64_t)row->seq, row->hash);
	if (rc == 0)
		rc = registry_change(r, st, false);
	if (rc == 0 && row->pending) {
		rc = registry_prepare(r, &st, "DELETE FROM audit_pending WHERE id = ?", "i", row->pending);
		if (rc == 0)
			rc = registry_change(r, st, false);
	}
	return registry_end(r, rc);
}

int registry_audit_pend(struct registry *r, struct audit_row *row)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "INSERT INTO audit_pending (time, uid, role, request, object) VALUES (?,?,?,?,?)", "iisss",
		clock_realtime_s(), (int64_t)row->uid, row->role, row->request, row->object);

	if (rc == 0)
		rc = registry_change(r, st, false);
	if (rc == 0)
		row->pending = sqlite3_last_insert_rowid(r->db);
	return rc;
}

int registry_audit_pending(struct registry *r, struct audit_row *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT id, time, uid, role, request, object FROM audit_pending ORDER BY id LIMIT 1", "");

	if (rc < 0)
		return rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		*ret = (struct audit_row){.pending = sqlite3_column_int64(st, 0), .time = sqlite3_column_int64(st, 1),
			.uid = (uint32_t)sqlite3_column_int64(st, 2)};
		column_text(st, 3, ret->role, sizeof(ret->role));
		column_text(st, 4, ret->request, sizeof(ret->request));
		column_text(st, 5, ret->object, sizeof(ret->object));
	}
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : registry_error(rc);
}

int registry_audit_each(struct registry *r, uint64_t after, int (*fn)(void *ctx, const struct audit_row *row), void *ctx)
{
	struct audit_row row;
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT " AUDIT_COLUMNS " FROM audit WHERE seq > ? ORDER BY seq", "i", (int64_t)after), stop = 0;

	if (rc < 0)
		return rc;
	while (stop == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		audit_from_row(st, &row);
		stop = fn(ctx, &row);
	}
	sqlite3_finalize(st);
	return stop ? stop : rc == SQLITE_DONE ? 0 : registry_error(rc);
}

int registry_audit_last(struct registry *r, struct audit_row *ret)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT " AUDIT_COLUMNS " FROM audit ORDER BY seq DESC LIMIT 1", "");

	if (rc < 0)
		return rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		audit_from_row(st, ret);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : registry_error(rc);
}

int registry_audit_head(struct registry *r, uint64_t *ret_seq, char ret_hash[65])
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "SELECT seq, hash FROM audit_head", "");

	if (rc < 0)
		return rc;
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		*ret_seq = (uint64_t)sqlite3_column_int64(st, 0);
		column_text(st, 1, ret_hash, 65);
	}
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : rc == SQLITE_DONE ? -ENOENT : registry_error(rc);
}
