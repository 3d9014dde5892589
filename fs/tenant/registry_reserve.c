/* registry_reserve: how a lock stays possible when the disk under the registry is full, or takes no writes at all. Contracts:
 * registry.h.
 *
 * The database keeps pages that hold nothing, and its write-ahead log the length of so many pages, so that what is written when no
 * room is left goes where something was before. Where not even that works the lock is kept in memory, and owed to the disk. */
#include "tenant/registry_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define RESERVE_BYTES 1000000
#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)
#define RESERVE_LOW 128 /* pages of 4 KiB */

struct owed {
	struct owed *next;
	char name[64];
};

bool owed_find(const struct registry *r, const char *name)
{
	for (const struct owed *o = r->owed; o; o = o->next)
		if (strcmp(o->name, name) == 0)
			return true;
	return false;
}

void owed_remove(struct registry *r, const char *name)
{
	for (struct owed **p = &r->owed; *p; p = &(*p)->next) {
		struct owed *o = *p;

		if (strcmp(o->name, name) == 0) {
			*p = o->next;
			free(o);
			return;
		}
	}
}

void owed_clear(struct registry *r)
{
	while (r->owed)
		owed_remove(r, r->owed->name);
}

int registry_env_lock(struct registry *r, const char *name)
{
	int rc = registry_env_set_state(r, name, ENV_LOCKED);

	if (rc < 0 && rc != -ENOENT && !owed_find(r, name)) {
		struct owed *o = calloc(1, sizeof(*o));

		if (o) {
			snprintf(o->name, sizeof(o->name), "%s", name);
			o->next = r->owed;
			r->owed = o;
		}
	}
	return rc;
}

static int reserve_pages(struct registry *r)
{
	sqlite3_stmt *st;
	int rc = registry_prepare(r, &st, "PRAGMA freelist_count", ""), pages = 0;

	if (rc < 0)
		return rc;
	if (sqlite3_step(st) == SQLITE_ROW)
		pages = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return pages;
}

static bool reserve_log_is_short(struct registry *r)
{
	const char *log = sqlite3_filename_wal(sqlite3_db_filename(r->db, "main"));
	struct stat st;

	return !log || stat(log, &st) < 0 || st.st_size < RESERVE_BYTES;
}

/* Makes the reserve, of its full size, where it is not there. */
static int registry_reserve(struct registry *r)
{
	int pages = reserve_pages(r);

	if (pages < 0 || (pages >= RESERVE_LOW && !reserve_log_is_short(r)))
		return MIN(pages, 0);
	/* Filled in one change and emptied in another: so all of it goes through the log, which keeps that length. */
	return registry_exec(r, "DROP TABLE IF EXISTS reserve; CREATE TABLE reserve (b BLOB);"
				"INSERT INTO reserve VALUES (zeroblob(" TEXT_OF(RESERVE_BYTES) ")); DROP TABLE reserve; PRAGMA wal_checkpoint(RESTART);");
}

int registry_tend(struct registry *r)
{
	while (r->owed) {
		char name[sizeof(r->owed->name)];

		strcpy(name, r->owed->name);
		int rc = registry_env_set_state(r, name, ENV_LOCKED);
		if (rc < 0 && rc != -ENOENT)
			return rc;
		owed_remove(r, name);
	}
	return registry_reserve(r);
}
