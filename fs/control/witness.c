/* witness: see witness.h. */
#include "control/witness.h"

#include "base/log.h"
#include "mount/link.h"
#include "tenant/audit.h"

#include <stdio.h>
#include <string.h>

#define ROUND_S 10
#define STATUS_LIMIT_MS 2000

void witness_init(struct witness *w, struct supervisor *s, pthread_mutex_t *lock)
{
	pthread_condattr_t attr;

	*w = (struct witness){.supervisor = s, .lock = lock};
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attr);
	pthread_condattr_destroy(&attr);
}

static void witness_audit(struct tenant *t, const char *request, const char *name, const char *outcome, const char *detail)
{
	struct audit_row row = {.uid = 0, .role = "tdefsd"};

	snprintf(row.request, sizeof(row.request), "%s", request);
	snprintf(row.object, sizeof(row.object), "%s", name);
	snprintf(row.outcome, sizeof(row.outcome), "%s", outcome);
	snprintf(row.detail, sizeof(row.detail), "%s", detail);
	if (audit_add(t->registry, &row) < 0)
		log_error("the audit log takes no entry");
}

void witness_note(struct tenant *t, const char *name, const struct link_status *st)
{
	unsigned long long epoch = 0, resealed = 0, refused = 0;
	char key[80], noted[80], uuid[33], known[33], text[160];

	if (st->resealed == 0 && st->refused == 0)
		return;
	/* An environment of that name may have been another one. */
	hex_encode(st->uuid, sizeof(st->uuid), uuid);
	snprintf(key, sizeof(key), "witness.%s", name);
	if (registry_meta_get(t->registry, key, noted, sizeof(noted)) < 0 ||
		sscanf(noted, "%32s %llu %llu %llu", known, &epoch, &resealed, &refused) != 4 || strcmp(known, uuid) != 0 || epoch != st->epoch)
		resealed = refused = 0;
	if (st->resealed == resealed && (st->refused == 0) == (refused == 0))
		return;
	if (st->resealed > resealed) {
		snprintf(text, sizeof(text), "%llu blocks were accepted as they stood after an unclean end and tagged again, in epoch %llu",
			(unsigned long long)st->resealed - resealed, (unsigned long long)st->epoch);
		witness_audit(t, "Recovery", name, "done", text);
	}
	if (st->refused > 0 && refused == 0) {
		snprintf(text, sizeof(text), "data that does not verify was found in epoch %llu: keyctl scrub names it", (unsigned long long)st->epoch);
		witness_audit(t, "Read", name, "refused", text);
	}
	snprintf(noted, sizeof(noted), "%s %llu %llu %llu", uuid, (unsigned long long)st->epoch, (unsigned long long)st->resealed,
		(unsigned long long)st->refused);
	if (registry_meta_set(t->registry, key, noted) < 0)
		log_error("the registry does not remember what was noted of %s", name);
}

/* The next name in the list after that one, in no order but each once; false: there is none. The list may change between two. */
static bool witness_next(const struct supervisor *s, char name[64])
{
	const struct supervised *next = NULL;

	for (const struct supervised *e = s->list; e; e = e->next)
		if (strcmp(e->name, name) > 0 && (!next || strcmp(e->name, next->name) < 0))
			next = e;
	if (next)
		strcpy(name, next->name);
	return next != NULL;
}

static void witness_round(struct witness *w)
{
	char name[64] = "";

	while (!w->stopping && witness_next(w->supervisor, name)) {
		const struct supervised *e = supervisor_find(w->supervisor, name);
		struct link_message m = {.type = LINK_STATUS};

		/* One that ends tells with its answer. While it goes through everything more is to come. */
		if (e->pid > 0 && !e->locking && !e->left && supervisor_call(w->supervisor, name, STATUS_LIMIT_MS, &m) == 0 &&
			m.status.in_flux != LINK_FLUX_LOOKED_AT)
			witness_note(w->supervisor->tenant, name, &m.status);
	}
}

void *witness_run(void *arg)
{
	struct witness *w = arg;
	struct timespec until;

	pthread_setname_np(pthread_self(), "witness");
	pthread_mutex_lock(w->lock);
	while (!w->stopping) {
		witness_round(w);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += ROUND_S;
		if (!w->stopping)
			(void)pthread_cond_timedwait(&w->wake, w->lock, &until);
	}
	pthread_mutex_unlock(w->lock);
	return NULL;
}
