/* audit: the append-only log of rule A1. Each entry carries the SHA-256 of its own fields and of the entry before, and the
 * number and hash of the latest are kept beside, so a changed, removed, reordered or cut-off entry is found. */
#pragma once
#include "tenant/registry.h"

/* Adds an entry; seq, time and hashes are filled in here. Logs a line as well. */
int audit_add(struct registry *r, struct audit_row *row) MUST_CHECK;
/* 0 and the number of entries, or -EBADMSG and the number of the first that does not fit. */
int audit_verify(struct registry *r, uint64_t *ret_seq) MUST_CHECK;
