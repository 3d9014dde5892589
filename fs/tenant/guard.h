/* guard: times that must pass between requests (rules K8, L3, L6, L8), by a clock that going back does not help (A3).
 *
 * A clock that was too far ahead once would block them until that time comes. The way out, guard_accept, shortens nothing either:
 * the time that is disowned is kept, and should the clock pass it after all, what happened before counts from it.
 *
 * Nor does a clock help that jumps ahead while the machine runs: from the first time that was believed since the machine started, it
 * may gain no more than GUARD_STEP_S on the time that really passed, over restarts of tdefsd too, until the operator accepts it. What
 * passed while the machine was off nobody knows: that is believed; but what L8 deletes was warned of first (operation.h). */
#pragma once
#include "tenant/environment.h"

#define GUARD_STEP_S 3600

/* The time now, seconds since 1970; remembers the highest. -EAGAIN and rule A3 while the clock is behind it, or jumped ahead. */
int guard_clock(struct tenant *t, int64_t *ret_now, struct refusal *ret) MUST_CHECK;
/* A3: how many seconds the clock is off: behind that, or, negative, ahead; 0: it is believed. */
int guard_off(struct tenant *t, int64_t *ret_s) MUST_CHECK;
/* Refuses by rule until length_ns have passed since since (0: never happened). what: "the last activation". */
int guard_wait(struct tenant *t, const char *rule, const char *what, int64_t since, uint64_t length_ns, struct refusal *ret) MUST_CHECK;
/* What a guard time counts from that began at since. */
int64_t guard_since(struct tenant *t, int64_t since);
/* When it ends or ended, seconds since 1970. */
int64_t guard_due(struct tenant *t, int64_t since, uint64_t length_ns);
/* The same; 0 when it has or never began. */
int64_t guard_end(struct tenant *t, int64_t since, uint64_t length_ns);
/* The clock is right. Where a later time was seen, that was not: from now on the time now is the highest, and records that lie ahead
 * of it are of now. Refused where the clock is believed as it is. */
int guard_accept(struct tenant *t, struct refusal *ret) MUST_CHECK;
