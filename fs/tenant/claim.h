/* claim: who works on an environment.
 *
 * One request works on an environment at a time, and holds a claim on its name meanwhile. Whatever may wait for a disk or a
 * worker is done with the keeper's big lock let go, so that requests on other environments go on. A lock does not wait for a
 * claim before it ends the worker (environment_take_down): whoever holds one gets an error then.
 *
 * Lock order: a claim, then the big lock. Nobody takes a second claim. After the big lock was let go, rows of the registry that
 * the claim does not cover are read again. */
#pragma once
#include "tenant/environment.h"

struct claim {
	struct claim *next;
	struct tenant *tenant;
	char name[64];
	const char *what; /* "is being mounted" */
	bool ends;        /* by ending its worker: nothing is won by doing so twice */
};
/* Waits for whoever has it; -EBUSY when that takes longer than CLAIM_LIMIT_S. The big lock is let go meanwhile. */
#define CLAIM_LIMIT_S 90
int claim_take(struct tenant *t, const char *name, const char *what, struct claim *ret, struct refusal *ret_refusal) MUST_CHECK;
/* NULL for none. */
const struct claim *claim_find(const struct tenant *t, const char *name);
void claim_done(struct claim *c); /* for CLEANUP(claim_done); zeroed ones are fine */

/* Around what may wait. */
void tenant_let_go(struct tenant *t);
void tenant_take_again(struct tenant *t);
/* From here on the calling thread, which has the big lock, lets it go no more: whoever else wants it waits until the process ends. */
void tenant_keep(void);
