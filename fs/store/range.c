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

static bool range_overlaps(const struct range *a, const struct range *b)
{
	return a->first <= b->last && b->first <= a->last;
}

static bool range_must_wait(const struct range_set *s, const struct range *r)
{
	for (const struct range *e = s->head; e != r; e = e->next)
		if (!e->watching && (e->exclusive || r->exclusive) && range_overlaps(e, r))
			return true;
	return false;
}

static void range_join_locked(struct range_set *s, struct range *r)
{
	r->next = NULL;
	*s->tail = r;
	s->tail = &r->next;
	while (range_must_wait(s, r))
		pthread_cond_wait(&s->changed, &s->lock);
}

static void range_leave_locked(struct range_set *s, struct range *r)
{
	struct range **p = &s->head;

	while (*p != r)
		p = &(*p)->next;
	*p = r->next;
	if (s->tail == &r->next)
		s->tail = p;
}

void range_lock(struct range_set *s, struct range *r, uint64_t first, uint64_t last, bool exclusive)
{
	*r = (struct range){.first = first, .last = last, .exclusive = exclusive};
	pthread_mutex_lock(&s->lock);
	for (struct range *e = s->head; exclusive && e; e = e->next)
		e->met |= range_overlaps(e, r);
	range_join_locked(s, r);
	pthread_mutex_unlock(&s->lock);
}

void range_watch(struct range_set *s, struct range *r)
{
	pthread_mutex_lock(&s->lock);
	/* Who waits for it already has told. */
	r->watching = true;
	bool others = r->next != NULL;
	pthread_mutex_unlock(&s->lock);
	if (others)
		pthread_cond_broadcast(&s->changed);
}

bool range_retake(struct range_set *s, struct range *r)
{
	pthread_mutex_lock(&s->lock);
	bool met = r->met;
	if (!met) {
		range_leave_locked(s, r);
		r->watching = false;
		range_join_locked(s, r);
	}
	pthread_mutex_unlock(&s->lock);
	return !met;
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
	range_leave_locked(s, r);
	bool others = s->head != NULL;
	pthread_mutex_unlock(&s->lock);
	if (others)
		pthread_cond_broadcast(&s->changed);
}
