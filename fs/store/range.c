/* range: see range.h. A range waits for every earlier one that it conflicts with; held or waiting makes no difference. */
#include "store/range.h"

void range_set_init(struct range_set *s)
{
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	s->head = NULL;
	s->tail = &s->head;
}

void range_set_done(struct range_set *s)
{
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
}

static bool range_must_wait(const struct range_set *s, const struct range *r)
{
	for (const struct range *e = s->head; e != r; e = e->next)
		if ((e->exclusive || r->exclusive) && e->first <= r->last && r->first <= e->last)
			return true;
	return false;
}

void range_lock(struct range_set *s, struct range *r, uint64_t first, uint64_t last, bool exclusive)
{
	*r = (struct range){first, last, exclusive, NULL};
	pthread_mutex_lock(&s->lock);
	*s->tail = r;
	s->tail = &r->next;
	while (range_must_wait(s, r))
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

void range_narrow(struct range_set *s, struct range *r, uint64_t first, uint64_t last)
{
	pthread_mutex_lock(&s->lock);
	r->first = first;
	r->last = last;
	bool others = r->next != NULL;
	pthread_mutex_unlock(&s->lock);
	if (others)
		pthread_cond_broadcast(&s->changed);
}

void range_unlock(struct range_set *s, struct range *r)
{
	pthread_mutex_lock(&s->lock);
	struct range **p = &s->head;
	while (*p != r)
		p = &(*p)->next;
	*p = r->next;
	if (s->tail == &r->next)
		s->tail = p;
	bool others = s->head != NULL;
	pthread_mutex_unlock(&s->lock);
	if (others)
		pthread_cond_broadcast(&s->changed);
}
