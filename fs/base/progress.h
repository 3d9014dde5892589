/* progress: how far long work is, on one line of a terminal. */
#pragma once
#include "base/util.h"

struct progress {
	uint64_t done, total; /* bytes */
	uint64_t files, total_files;
	uint64_t bad;
};
/* Writes the line over the one before on stderr, when that is a terminal; last: and ends it. */
void progress_show(const struct progress *p, bool last);
