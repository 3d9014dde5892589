/* gaps: a short sorted list of block ranges. Pure; the caller locks.
 *
 * content keeps in one which blocks below a file's size nobody has written yet: several threads write one stream, so a later
 * part of it may come first. */
#pragma once
#include "base/util.h"

#define GAPS_MAX 16u

struct gaps {
	unsigned count;
	struct {
		uint64_t first, end; /* end is not part of it */
	} at[GAPS_MAX];          /* sorted; none touches the next */
};

/* false: there is no room for one range more, and nothing was changed. */
bool gaps_add(struct gaps *g, uint64_t first, uint64_t end) MUST_CHECK;
bool gaps_remove(struct gaps *g, uint64_t first, uint64_t end) MUST_CHECK;
bool gaps_has(const struct gaps *g, uint64_t blk);
/* Whether all of first..end is in it. */
bool gaps_cover(const struct gaps *g, uint64_t first, uint64_t end);
/* Whether a block is in both. */
bool gaps_meet(const struct gaps *a, const struct gaps *b);
