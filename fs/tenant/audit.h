/* audit: the append-only log of rule A1. Each entry carries the SHA-256 of its own fields and of the entry before, and the
 * number and hash of the latest are kept beside, so a changed, removed, reordered or cut-off entry is found. Whoever can
 * write the registry could make the whole chain anew: each entry's log line has its hash too, so that a log kept elsewhere
 * tells. */
#pragma once
#include "tenant/registry.h"

/* Before a change: notes role, uid, request and object of the entry that audit_add will make of row, so that there is one
 * also when tdefsd is killed in between. */
int audit_begin(struct registry *r, struct audit_row *row) MUST_CHECK;
/* At the start: entries for what was cut off. */
int audit_recover(struct registry *r) MUST_CHECK;
/* Adds an entry; seq, time and hashes are filled in here. Logs a line as well. */
int audit_add(struct registry *r, struct audit_row *row) MUST_CHECK;
/* 0 and the number of entries, or -EBADMSG and the number of the first that does not fit. */
int audit_verify(struct registry *r, uint64_t *ret_seq) MUST_CHECK;
