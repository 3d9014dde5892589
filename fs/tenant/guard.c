/* guard: see guard.h. */
#include "tenant/guard.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NS UINT64_C(1000000000)
#define DISOWNED_MAX 16u /* times */

static int guard_highest(struct tenant *t, int64_t *ret)
{
	char text[32] = "0";
	int rc = registry_meta_get(t->registry, "clock", text, sizeof(text));

	*ret = strtoll(text, NULL, 10);
	return rc == -ENOENT ? 0 : rc;
}

/* A time that is believed and when it was, by a clock that nobody sets. */
struct anchor {
	char boot[40]; /* which start of the machine */
	int64_t boottime, realtime;
};

static void anchor_now(struct anchor *ret)
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	*ret = (struct anchor){.boottime = clock_boottime_s(), .realtime = clock_realtime_s()};
	if (!f || fscanf(f, "%39s", ret->boot) != 1)
		strcpy(ret->boot, "unknown");
	if (f)
		fclose(f);
}

static int anchor_drop(struct tenant *t, const struct anchor *now)
{
	char text[100];

	snprintf(text, sizeof(text), "%s %" PRId64 " %" PRId64, now->boot, now->boottime, now->realtime);
	return registry_meta_set(t->registry, "clock_anchor", text);
}

/* How far the clock gained on what passed since then; *ret_known: whether there is an anchor of this start. */
static int64_t anchor_gained(struct tenant *t, const struct anchor *now, bool *ret_known)
{
	struct anchor then = {0};
	char text[100] = "";

	*ret_known = registry_meta_get(t->registry, "clock_anchor", text, sizeof(text)) == 0 &&
		     sscanf(text, "%39s %" SCNd64 " %" SCNd64, then.boot, &then.boottime, &then.realtime) == 3 &&
		     strcmp(then.boot, now->boot) == 0;
	return *ret_known ? now->realtime - then.realtime - (now->boottime - then.boottime) : 0;
}

static int64_t clock_off(const struct anchor *now, int64_t highest, int64_t gained)
{
	return now->realtime < highest ? highest - now->realtime : gained > GUARD_STEP_S && now->realtime > highest ? -gained : 0;
}

int guard_off(struct tenant *t, int64_t *ret_s)
{
	struct anchor now;
	int64_t highest;
	bool known;
	int rc = guard_highest(t, &highest);

	anchor_now(&now);
	*ret_s = rc == 0 ? clock_off(&now, highest, anchor_gained(t, &now, &known)) : 0;
	return rc;
}

int guard_clock(struct tenant *t, int64_t *ret_now, struct refusal *ret)
{
	struct anchor now;
	int64_t highest;
	char text[32];
	bool known;
	int rc = guard_highest(t, &highest);

	if (rc < 0)
		return registry_refusal(rc, ret);
	anchor_now(&now);
	int64_t off = clock_off(&now, highest, anchor_gained(t, &now, &known));
	if (off > 0)
		return refuse(ret, -EAGAIN, "A3", "the clock is %" PRId64 " s behind the latest time that tdefsd saw: set it right first; where it is right, and "
						 "that time was not: keyctl clock accept", off);
	if (off < 0)
		return refuse(ret, -EAGAIN, "A3", "the clock jumped %" PRId64 " s ahead of the time that passed: set it right first; where it is right: "
						 "keyctl clock accept", -off);
	if (!known)
		rc = anchor_drop(t, &now);
	if (rc == 0 && now.realtime > highest) {
		snprintf(text, sizeof(text), "%" PRId64, now.realtime);
		rc = registry_meta_set(t->registry, "clock", text);
	}
	if (rc < 0)
		return registry_refusal(rc, ret);
	*ret_now = now.realtime;
	return 0;
}

int64_t guard_since(struct tenant *t, int64_t since)
{
	char text[DISOWNED_MAX * 21] = "", *p = text;
	int64_t now = clock_realtime_s();

	if (registry_meta_get(t->registry, "disowned", text, sizeof(text)) < 0)
		return since;
	/* Of the times that were disowned, the latest that the clock has passed since. */
	while (*p) {
		int64_t at = strtoll(p, &p, 10);

		if (at <= now)
			since = MAX(since, at);
		p += *p == ' ';
	}
	return since;
}

int64_t guard_due(struct tenant *t, int64_t since, uint64_t length_ns)
{
	return guard_since(t, since) + (int64_t)((length_ns + NS - 1) / NS);
}

int64_t guard_end(struct tenant *t, int64_t since, uint64_t length_ns)
{
	int64_t end = guard_due(t, since, length_ns);

	return since == 0 || clock_realtime_s() >= end ? 0 : end;
}

/* The highest time seen joins those that are disowned. */
static int guard_disown(struct tenant *t, int64_t highest, struct refusal *ret)
{
	char all[DISOWNED_MAX * 21] = "";
	size_t count = 1;
	int rc = registry_meta_get(t->registry, "disowned", all, sizeof(all));

	if (rc < 0 && rc != -ENOENT)
		return rc;
	for (const char *p = all; *p; p++)
		count += *p == ' ';
	if (all[0] && count >= DISOWNED_MAX)
		return refuse(ret, -EOVERFLOW, "A3", "the clock was accepted %u times already: mend what sets it", DISOWNED_MAX);
	snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%" PRId64, all[0] ? " " : "", highest);
	return registry_meta_set(t->registry, "disowned", all);
}

int guard_accept(struct tenant *t, struct refusal *ret)
{
	struct anchor now;
	int64_t highest;
	bool known;
	char one[32];
	int rc = guard_highest(t, &highest);

	anchor_now(&now);
	int64_t off = rc == 0 ? clock_off(&now, highest, anchor_gained(t, &now, &known)) : 0;
	if (rc == 0 && off == 0)
		return refuse(ret, -EALREADY, "", "the clock is neither behind the latest time that tdefsd saw nor ahead of the time that passed: there "
						  "is nothing to accept");
	snprintf(one, sizeof(one), "%" PRId64, now.realtime);
	if (rc == 0)
		rc = registry_begin(t->registry);
	if (rc == 0) {
		rc = off > 0 ? guard_disown(t, highest, ret) : 0;
		if (rc == 0)
			rc = registry_meta_set(t->registry, "clock", one);
		if (rc == 0)
			rc = anchor_drop(t, &now);
		if (rc == 0 && off > 0)
			rc = registry_cut_times(t->registry, now.realtime);
		rc = registry_end(t->registry, rc);
	}
	if (rc < 0)
		return ret->text[0] ? rc : registry_refusal(rc, ret);
	snprintf(ret->text, sizeof(ret->text), off > 0 ? "the time seen before was %" PRId64 " s later" : "the clock had jumped %" PRId64 " s ahead",
		off > 0 ? off : -off);
	return 0;
}

int guard_wait(struct tenant *t, const char *rule, const char *what, int64_t since, uint64_t length_ns, struct refusal *ret)
{
	char until[40], length[32];
	int64_t now;
	int rc = guard_clock(t, &now, ret);

	if (rc < 0)
		return rc;
	time_t end = (time_t)guard_end(t, since, length_ns);
	if (end == 0)
		return 0;
	strftime(until, sizeof(until), "%F %T", localtime(&end));
	duration_format(length_ns, length, sizeof(length));
	return refuse(ret, -EAGAIN, rule, "%s after %s must pass first: possible from %s on", length, what, until);
}
