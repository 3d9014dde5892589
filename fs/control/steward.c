/* steward: see steward.h. */
#include "control/steward.h"

#include "base/log.h"
#include "tenant/audit.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define IDLE_S 30 /* between looks at what is due */
#define RETRY_S 5 /* after an operation that could not end */

void steward_init(struct steward *s, struct tenant *tenant, pthread_mutex_t *lock)
{
	pthread_condattr_t attr;

	*s = (struct steward){.tenant = tenant, .lock = lock};
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &attr);
	pthread_cond_init(&s->moved, &attr);
	pthread_condattr_destroy(&attr);
}

static void steward_audit(struct steward *s, const char *request, const char *object, const struct refusal *failed)
{
	struct audit_row row = {.uid = 0, .role = "tdefsd"};

	snprintf(row.request, sizeof(row.request), "%s", request);
	snprintf(row.object, sizeof(row.object), "%s", object);
	snprintf(row.outcome, sizeof(row.outcome), "%s", failed ? "failed" : "done");
	snprintf(row.detail, sizeof(row.detail), "%s", failed ? failed->text : "");
	if (audit_add(s->tenant->registry, &row) < 0)
		log_error("the audit log takes no entry");
}

static void steward_between(void *ctx, const struct operation_progress *p)
{
	struct steward *s = ctx;

	s->progress = *p;
	pthread_cond_broadcast(&s->moved);
	/* Whoever waits for the lock gets it here. */
	pthread_mutex_unlock(s->lock);
	sched_yield();
	pthread_mutex_lock(s->lock);
}

/* Every operation once. Whether one could not end. */
static bool steward_operations(struct steward *s)
{
	static const char *const names[] = {"KeyActivate", "TenantLock", "KeyUnlock"};
	struct registry_operation o = {0};
	char after[64] = "";
	bool failed = false;

	while (!s->stopping && registry_operation_next(s->tenant->registry, after, &o) == 0) {
		strcpy(after, o.region);
		strcpy(s->region, o.region);
		s->progress = (struct operation_progress){0};
		struct refusal refusal = {0};
		int rc = operation_run(s->tenant, o.region, steward_between, s, &refusal);
		/* The same failure again is no news. */
		if (rc == 0 || strcmp(refusal.text, s->refusal.text) != 0)
			steward_audit(s, names[o.kind], o.region, rc < 0 ? &refusal : NULL);
		s->result = rc;
		s->refusal = refusal;
		s->rounds++;
		failed = failed || rc < 0;
		pthread_cond_broadcast(&s->moved);
	}
	return failed;
}

static void steward_deleted(void *ctx, const struct registry_env *env, const struct refusal *failed)
{
	log_warn("%s was locked for longer than guard.delete_locked_after (rule L8) and is %s", env->name,
		failed ? "to be deleted, but could not be" : "deleted");
	steward_audit(ctx, "L8 deletion", env->name, failed);
}

void *steward_run(void *arg)
{
	struct steward *s = arg;

	pthread_setname_np(pthread_self(), "steward");
	pthread_mutex_lock(s->lock);
	while (!s->stopping) {
		struct timespec until;
		int64_t next;

		s->asked = false;
		bool failed = steward_operations(s);
		failed = registry_tend(s->tenant->registry) < 0 || failed;
		if (s->stopping)
			break;
		if (s->asked)
			continue;
		if (operation_expire(s->tenant, steward_deleted, s, &next) < 0)
			log_warn("what is locked is not deleted in time: the clock is behind, or the registry fails");
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += MAX(MIN(failed ? RETRY_S : IDLE_S, next - clock_realtime_s()), 0) + (next != INT64_MAX);
		(void)pthread_cond_timedwait(&s->wake, s->lock, &until);
	}
	pthread_mutex_unlock(s->lock);
	return NULL;
}

int steward_wait(struct steward *s, const char *region, void (*progress)(void *ctx, const struct operation_progress *p), void *ctx,
	struct refusal *ret)
{
	uint64_t rounds = s->rounds;
	struct registry_operation o;
	size_t told = 0;
	bool more = true;

	s->asked = true;
	pthread_cond_signal(&s->wake);
	while (more) {
		if (s->rounds != rounds && strcmp(s->region, region) == 0 && s->result < 0)
			return refuse(ret, s->result, "", "%.400s; it goes on as soon as that is mended", s->refusal.text);
		if (s->stopping)
			return refuse(ret, -ESHUTDOWN, "", "tdefsd ends; the next one goes on with it");
		pthread_cond_wait(&s->moved, s->lock);
		more = registry_operation_get(s->tenant->registry, region, &o) == 0;
		/* What went by while others had the lock is not told, but the end always is. */
		if (strcmp(s->region, region) == 0 && s->progress.done != told)
			progress(ctx, &s->progress);
		told = s->progress.done;
	}
	return 0;
}
