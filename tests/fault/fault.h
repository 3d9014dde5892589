/* fault: what the loops (fault.c) know of the operations that they fail (fault_ops.c). */
#pragma once
#include "../unit/store.h"

struct fault_op {
	const char *name;
	/* 0 or the first error. Run without faults on the store of fault_setup it succeeds; and a second time after it failed. */
	int (*run)(struct volume *v);
	/* Names change at once or not at all. Not set: the content of files may be, byte by byte, old or new. */
	bool atomic;
	bool crashed; /* the store before it was not unmounted cleanly, and has writes that were not synced */
};
extern const struct fault_op fault_ops[];
extern const unsigned fault_op_count;

/* The tree that every operation finds: made and left, clean or as a crash leaves it. */
void fault_setup(const char *store, bool crashed);

extern const struct env_key fault_next_key; /* what op "rotate" rotates to */
