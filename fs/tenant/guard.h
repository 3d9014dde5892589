/* guard: times that must pass between requests (rules K8, L3, L6, L8), by a clock that going back does not help (A3).
 *
 * A clock that was too far ahead once would block them until that time comes. The way out, guard_accept, shortens nothing either:
 * the time that is disowned is kept, and should the clock pass it after all, what happened before counts from it. */
#pragma once
#include "tenant/environment.h"

/* The time now, seconds since 1970; remembers the highest. -EAGAIN and rule A3 while the clock is behind it. */
int guard_clock(struct tenant *t, int64_t *ret_now, struct refusal *ret) MUST_CHECK;
/* A3: how many seconds the clock is behind that; 0 when it is not. */
int guard_behind(struct tenant *t, int64_t *ret_s) MUST_CHECK;
/* Refuses by rule until length_ns have passed since since (0: never happened). what: "the last activation". */
int guard_wait(struct tenant *t, const char *rule, const char *what, int64_t since, uint64_t length_ns, struct refusal *ret) MUST_CHECK;
/* What a guard time counts from that began at since. */
int64_t guard_since(struct tenant *t, int64_t since);
/* When it ends, seconds since 1970; 0 when it has or never began. */
int64_t guard_end(struct tenant *t, int64_t since, uint64_t length_ns);
/* The clock is right, and the later time that was seen was not: from now on the time now is the highest, and records that lie ahead
 * of it are of now. Refused where the clock is not behind. */
int guard_accept(struct tenant *t, struct refusal *ret) MUST_CHECK;
