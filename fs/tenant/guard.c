/* guard: see guard.h. */
#include "tenant/guard.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NS UINT64_C(1000000000)

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
		return refuse(ret, -EAGAIN, "A3", "the clock is %" PRId64 " s behind the latest time that tdefsd saw: set it right first",
			highest - now);
	if (now > highest) {
		snprintf(text, sizeof(text), "%" PRId64, now);
		rc = registry_meta_set(t->registry, "clock", text);
		if (rc < 0)
			return registry_refusal(rc, ret);
	}
	*ret_now = now;
	return 0;
}

int64_t guard_end(int64_t since, uint64_t length_ns)
{
	int64_t end = since + (int64_t)((length_ns + NS - 1) / NS);

	return since == 0 || clock_realtime_s() >= end ? 0 : end;
}

int guard_wait(struct tenant *t, const char *rule, const char *what, int64_t since, uint64_t length_ns, struct refusal *ret)
{
	char until[40], length[32];
	int64_t now;
	int rc = guard_clock(t, &now, ret);

	if (rc < 0)
		return rc;
	time_t end = (time_t)guard_end(since, length_ns);
	if (end == 0)
		return 0;
	strftime(until, sizeof(until), "%F %T", localtime(&end));
	duration_format(length_ns, length, sizeof(length));
	return refuse(ret, -EAGAIN, rule, "%s after %s must pass first: possible from %s on", length, what, until);
}
