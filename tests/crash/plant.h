/* plant: bugs that the recorder pretends there are, each an ordering or a flush gone wrong in its own way. The harness has to find
 * every one of them, or it proves nothing. */
#pragma once
#include "record.h"

struct plant {
	const char *name;
	void (*workload)(struct recording *r); /* changes the record of a workload */
	void (*recovery)(struct recording *r); /* changes the record of a recovery */
	const char *only;                      /* the workload that it is in; NULL: any */
};
extern const struct plant plants[]; /* ends with one without a name */
