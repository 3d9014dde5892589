/* audit: see audit.h. */
#include "tenant/audit.h"

#include "base/log.h"
#include "store/crypto.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const char first_hash[] = "0000000000000000000000000000000000000000000000000000000000000000";

/* Every field with its length before it: no two entries have the same text. */
static int audit_hash(const struct audit_row *row, char ret[65])
{
	uint8_t digest[32];
	CLEANUP_FREE char *text = str_format("%llu %lld %u %zu:%s %zu:%s %zu:%s %zu:%s %zu:%s %zu:%s %s", (unsigned long long)row->seq,
		(long long)row->time, row->uid, strlen(row->role), row->role, strlen(row->request), row->request,
		strlen(row->object), row->object, strlen(row->rule), row->rule, strlen(row->outcome), row->outcome,
		strlen(row->detail), row->detail, row->previous);

	if (!text)
		return -ENOMEM;
	int rc = crypto_sha256(text, strlen(text), digest);
	if (rc == 0)
		hex_encode(digest, sizeof(digest), ret);
	return rc;
}

int audit_begin(struct registry *r, struct audit_row *row)
{
	return registry_audit_pend(r, row);
}

int audit_recover(struct registry *r)
{
	struct audit_row row;
	int rc;

	while ((rc = registry_audit_pending(r, &row)) == 0) {
		time_t began = (time_t)row.time;

		strcpy(row.outcome, "cut off");
		strftime(row.detail, sizeof(row.detail), "it began at %F %T, and tdefsd ended before it did", localtime(&began));
		rc = audit_add(r, &row);
		if (rc < 0)
			return rc;
	}
	return rc == -ENOENT ? 0 : rc;
}

int audit_add(struct registry *r, struct audit_row *row)
{
	struct audit_row last;
	int rc = registry_audit_last(r, &last);

	if (rc < 0 && rc != -ENOENT)
		return rc;
	row->seq = rc == 0 ? last.seq + 1 : 1;
	row->time = clock_realtime_s();
	strcpy(row->previous, rc == 0 ? last.hash : first_hash);
	rc = audit_hash(row, row->hash);
	if (rc == 0)
		rc = registry_audit_add(r, row);
	log_info("audit %llu %.16s: uid %u %s %s %s: %s%s%s%s%s", (unsigned long long)row->seq, row->hash, row->uid, row->role, row->request,
		row->object, row->outcome, row->rule[0] ? " by rule " : "", row->rule, row->detail[0] ? ": " : "", row->detail);
	return rc;
}

struct verify {
	uint64_t seq;
	char hash[65];
};

static int verify_row(void *ctx, const struct audit_row *row)
{
	struct verify *v = ctx;
	char hash[65];

	if (row->seq != ++v->seq || strcmp(row->previous, v->hash) != 0 || audit_hash(row, hash) < 0 || strcmp(hash, row->hash) != 0)
		return -EBADMSG;
	strcpy(v->hash, hash);
	return 0;
}

int audit_verify(struct registry *r, uint64_t *ret_seq)
{
	struct verify v = {0};
	char head[65];
	uint64_t head_seq;

	strcpy(v.hash, first_hash);
	int rc = registry_audit_each(r, 0, verify_row, &v);
	*ret_seq = v.seq;
	if (rc < 0)
		return rc;
	rc = registry_audit_head(r, &head_seq, head);
	if (rc == -ENOENT)
		return v.seq == 0 ? 0 : -EBADMSG;
	if (rc == 0 && (head_seq != v.seq || strcmp(head, v.hash) != 0)) {
		*ret_seq = v.seq + 1;
		return -EBADMSG;
	}
	return rc;
}
