/* gaps: see gaps.h. */
#include "store/gaps.h"

/* Rebuilds the list without first..end and, where wanted, with one range around it and all that it touches. */
static bool gaps_replace(struct gaps *g, uint64_t first, uint64_t end, bool with)
{
	struct gaps out = {0};
	uint64_t from = first, to = end;

	if (first >= end)
		return true;
	if (with)
		for (unsigned i = 0; i < g->count; i++)
			if (g->at[i].first <= end && g->at[i].end >= first) {
				from = MIN(from, g->at[i].first);
				to = MAX(to, g->at[i].end);
			}
	/* What ends before, what is wanted itself, what begins after. */
	uint64_t pieces[2 * GAPS_MAX + 1][2];
	unsigned n = 0;
	for (unsigned i = 0; i < g->count && g->at[i].first < from; i++) {
		pieces[n][0] = g->at[i].first;
		pieces[n++][1] = MIN(g->at[i].end, from);
	}
	if (with) {
		pieces[n][0] = from;
		pieces[n++][1] = to;
	}
	for (unsigned i = 0; i < g->count; i++)
		if (g->at[i].end > to) {
			pieces[n][0] = MAX(g->at[i].first, to);
			pieces[n++][1] = g->at[i].end;
		}
	if (n > GAPS_MAX)
		return false;
	for (; out.count < n; out.count++) {
		out.at[out.count].first = pieces[out.count][0];
		out.at[out.count].end = pieces[out.count][1];
	}
	*g = out;
	return true;
}

bool gaps_add(struct gaps *g, uint64_t first, uint64_t end)
{
	return gaps_replace(g, first, end, true);
}

bool gaps_remove(struct gaps *g, uint64_t first, uint64_t end)
{
	return gaps_replace(g, first, end, false);
}

bool gaps_cover(const struct gaps *g, uint64_t first, uint64_t end)
{
	for (unsigned i = 0; i < g->count; i++)
		if (g->at[i].first <= first && end <= g->at[i].end)
			return true;
	return first >= end;
}

bool gaps_has(const struct gaps *g, uint64_t blk)
{
	return gaps_cover(g, blk, blk + 1);
}

bool gaps_meet(const struct gaps *a, const struct gaps *b)
{
	for (unsigned i = 0; i < a->count; i++)
		for (unsigned k = 0; k < b->count; k++)
			if (a->at[i].first < b->at[k].end && b->at[k].first < a->at[i].end)
				return true;
	return false;
}
