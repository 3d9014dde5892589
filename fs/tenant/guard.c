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

int guard_behind(struct tenant *t, int64_t *ret_s)
{
	int64_t highest, now = clock_realtime_s();
	int rc = guard_highest(t, &highest);

	*ret_s = rc == 0 ? MAX(highest - now, 0) : 0;
	return rc;
}

int guard_clock(struct tenant *t, int64_t *ret_now, struct refusal *ret)
{
	int64_t highest, now = clock_realtime_s();
	char text[32];
	int rc = guard_highest(t, &highest);

	if (rc < 0)
		return registry_refusal(rc, ret);
	if (now < highest)
		return refuse(ret, -EAGAIN, "A3", "the clock is %" PRId64 " s behind the latest time that tdefsd saw: set it right first; where it is right, and "
						 "that time was not: keyctl clock accept", highest - now);
	if (now > highest) {
		snprintf(text, sizeof(text), "%" PRId64, now);
		rc = registry_meta_set(t->registry, "clock", text);
		if (rc < 0)
			return registry_refusal(rc, ret);
	}
	*ret_now = now;
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

int64_t guard_end(struct tenant *t, int64_t since, uint64_t length_ns)
{
	int64_t end = guard_since(t, since) + (int64_t)((length_ns + NS - 1) / NS);

	return since == 0 || clock_realtime_s() >= end ? 0 : end;
}

int guard_accept(struct tenant *t, struct refusal *ret)
{
	int64_t highest, now = clock_realtime_s();
	char all[DISOWNED_MAX * 21] = "", one[32];
	size_t count = 1;
	int rc = guard_highest(t, &highest);

	if (rc == 0 && now >= highest)
		return refuse(ret, -EALREADY, "", "the clock is not behind the latest time that tdefsd saw: there is nothing to accept");
	if (rc == 0)
		rc = registry_meta_get(t->registry, "disowned", all, sizeof(all));
	if (rc < 0 && rc != -ENOENT)
		return registry_refusal(rc, ret);
	for (const char *p = all; *p; p++)
		count += *p == ' ';
	if (all[0] && count >= DISOWNED_MAX)
		return refuse(ret, -EOVERFLOW, "A3", "the clock was accepted %u times already: mend what sets it", DISOWNED_MAX);
	snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%" PRId64, all[0] ? " " : "", highest);
	snprintf(one, sizeof(one), "%" PRId64, now);
	rc = registry_begin(t->registry);
	if (rc == 0) {
		rc = registry_meta_set(t->registry, "disowned", all);
		if (rc == 0)
			rc = registry_meta_set(t->registry, "clock", one);
		if (rc == 0)
			rc = registry_cut_times(t->registry, now);
		rc = registry_end(t->registry, rc);
	}
	if (rc < 0)
		return registry_refusal(rc, ret);
	snprintf(ret->text, sizeof(ret->text), "the time seen before was %" PRId64 " s later", highest - now);
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
