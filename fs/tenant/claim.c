/* claim: see claim.h. */
#include "tenant/claim.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static _Thread_local bool kept;

void tenant_let_go(struct tenant *t)
{
	if (!kept)
		pthread_mutex_unlock(t->lock);
}

void tenant_take_again(struct tenant *t)
{
	if (!kept)
		pthread_mutex_lock(t->lock);
}

void tenant_keep(void)
{
	kept = true;
}

const struct claim *claim_find(const struct tenant *t, const char *name)
{
	const struct claim *c = t->claims;

	while (c && strcmp(c->name, name) != 0)
		c = c->next;
	return c;
}

int claim_take(struct tenant *t, const char *name, const char *what, struct claim *ret, struct refusal *ret_refusal)
{
	const struct claim *other;
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += CLAIM_LIMIT_S;
	while ((other = claim_find(t, name)) && !kept) {
		if (rc == ETIMEDOUT)
			return refuse(ret_refusal, -EBUSY, "", "%s %s: try again when that is done", name, other->what);
		rc = pthread_cond_timedwait(&t->unclaimed, t->lock, &until);
	}
	*ret = (struct claim){.next = t->claims, .tenant = t, .what = what};
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	t->claims = ret;
	return 0;
}

void claim_done(struct claim *c)
{
	struct claim **p = c->tenant ? &c->tenant->claims : NULL;

	if (!p)
		return;
	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	pthread_cond_broadcast(&c->tenant->unclaimed);
	if (c->tenant->workers.released)
		c->tenant->workers.released(c->tenant->workers.ctx);
	c->tenant = NULL;
}
