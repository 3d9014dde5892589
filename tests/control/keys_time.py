"""The times of the rules at their defaults of hours and days, under a clock of the test's own: K8, L2, L3, L6, L8, A3. At each turn tdefsd
is restarted, once before and once after the moment; the clock is set back and forth while it runs, too."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *

HOUR, DAY = 3600, 86400
base = scratch()
allow_in_log("refused:", "deleted", "the clock is behind")
one, two = KeyFile(base, "one"), KeyFile(base, "two")
clock_file = base + "/clock"
offset = 0


def clock(seconds, passed=None):
    """Sets tdefsd's clock so much after the true one; passed: how much of it really passed, where not all."""
    global offset
    offset = seconds
    with open(clock_file + ".new", "w") as f:
        f.write("%d %d" % (seconds, seconds if passed is None else passed))
    os.rename(clock_file + ".new", clock_file)


class TenantInTime(Tenant):
    def start(self):
        os.environ.update(LD_PRELOAD=TEST_BIN + "/libtest_clock.so", TDEFS_TEST_CLOCK=clock_file,
                          ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
        try:
            return super().start()
        finally:
            del os.environ["LD_PRELOAD"]

    def keyctl(self, *arguments, **more):
        return super().keyctl(*arguments, env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}, **more)

    def restart(self):
        self.stop()
        self.start()


def region(name="default"):
    return [r for r in tenant.json("key", "list")["regions"] if r["name"] == name][0]


def attention():
    return " ".join(tenant.json("status")["attention"])


def lock(key, confirm=True):
    text = tenant.keyctl("tenant", "lock", "--key", *key.given(), stderr=subprocess.DEVNULL).stdout.strip()
    if confirm:
        tenant.keyctl("tenant", "lock", "--key", *key.given(), "--confirm", text)
    return text


clock(0)
tenant = TenantInTime(base).start()
envs = [Environment(tenant, n).start() for n in ("db", "app")]
tenant.keyctl("key", "upload", "one", *one.given())
tenant.keyctl("key", "upload", "two", *two.given())

print("K8: 24 h from one activation to the next")
for at in (0, 23 * HOUR, DAY - 60):
    clock(at)
    tenant.restart()
    tenant.refused("K8", "key", "activate", "two", "--yes")
shown = tenant.keyctl("status").stdout
check("next activation is possible" in shown, "status says when: " + shown)
clock(DAY + 60)
tenant.keyctl("key", "activate", "two", "--yes")
equal(region()["activation_from"] > 0, True, "K8 begins again")
tenant.refused("K8", "key", "activate", "one", "--yes")

print("L3: 72 h from a key change to a lock; A3: a clock set back shortens nothing, and while it is behind nothing goes")
begun = DAY + 60
for at in (begun + DAY, begun + 3 * DAY - 60):
    clock(at)
    tenant.restart()
    tenant.refused("L3", "tenant", "lock", "--key", *two.given())
clock(begun + DAY)                                  # back while it runs
tenant.refused("A3", "tenant", "lock", "--key", *two.given())
tenant.refused("A3", "key", "activate", "one", "--yes")
check("A3" in attention(), "status says that the clock is behind: " + attention())
tenant.restart()                                    # and over a restart
tenant.refused("A3", "tenant", "lock", "--key", *two.given())
tenant.keyctl("env", "unmount", "app")              # what has no guard time goes on
tenant.keyctl("env", "mount", "app")
clock(begun + 3 * DAY + 60)
check("A3" not in attention(), "the clock is right again")

print("L2: the text is good for minutes, and not over a restart")
text = lock(two, confirm=False)
tenant.stop()
with open(tenant.config, "a") as f:
    f.write('guard: { confirm_text = "1s"; };\n')
tenant.start()
tenant.refused("L2", "tenant", "lock", "--key", *two.given(), "--confirm", text)       # a restart forgets it
text = lock(two, confirm=False)
time.sleep(1.2)
check("too old" in tenant.refused("L2", "tenant", "lock", "--key", *two.given(), "--confirm", text), "L2: too old")
tenant.stop()
with open(tenant.config) as f:
    settings = f.read()
with open(tenant.config, "w") as f:
    f.write(settings.replace('guard: { confirm_text = "1s"; };\n', ""))
tenant.start()
locked_at = begun + 3 * DAY + 60
lock(two)
equal([tenant.env(e.name)["state"] for e in envs], ["locked", "locked"], "L4")

print("L6: an hour until its key can be unlocked")
for at in (locked_at, locked_at + HOUR - 60):
    clock(at)
    tenant.restart()
    tenant.refused("L6", "key", "unlock", "two", *two.given())
    check("unlocking its key is possible" in tenant.keyctl("status").stdout, "status says when")
clock(locked_at - HOUR)
tenant.refused("A3", "key", "unlock", "two", *two.given())

print("L8: 28 days to the deletion, warnings from 7 days before")
for days, warned in ((20, False), (20.9, False), (21.004, True), (27.9, True)):
    clock(int(locked_at + days * DAY))
    tenant.restart()
    check(all(os.path.exists(e.store) for e in envs), "L8: nothing is deleted after %s days" % days)
    check(("L8" in attention()) == warned, "L8: warned after %s days: %s" % (days, attention()))
check("app, db are deleted from" in attention(), "L8: which, and when: " + attention())
day = tenant.env("db")["deleted_at"]
check(abs(day - (time.time() + offset + 0.1 * DAY)) < 600, "L8: the day")

print("the clock goes back before the deletion: nothing is deleted; one is unlocked in time, the other is deleted")
clock(int(locked_at + 27 * DAY))
tenant.restart()
check("A3" in attention() and all(os.path.exists(e.store) for e in envs), "A3")
clock(int(locked_at + 27.95 * DAY))
tenant.keyctl("key", "unlock", "two", *two.given())
tenant.restart()
tenant.keyctl("env", "unlock", "db", "--yes")
clock(int(locked_at + 28.1 * DAY))
tenant.restart()                                    # due while no tdefsd ran
wait_for(lambda: [e["name"] for e in tenant.json("env", "list")] == ["db"], "L8: the deletion")
check(not os.path.exists(envs[1].store) and os.path.exists(envs[0].store), "L8: the store of the one alone")
equal(tenant.env("db")["state"], "mounted", "L8: not what was unlocked")
entry = [e for e in tenant.json("audit")["entries"] if e["request"] == "L8 deletion"]
equal([(e["object"], e["outcome"]) for e in entry], [("app", "done")], "A1: the deletion is an entry")

print("A3: a clock far ahead once; the operator disowns that time, and no guard time is shorter for it")
right = int(locked_at + 30 * DAY)
clock(right)
tenant.restart()
tenant.keyctl("key", "upload", "one", *one.given())
tenant.keyctl("key", "activate", "one", "--yes")    # K8, L3 count from here
tenant.keyctl("clock", "accept", "--reason", "x", "--yes", ok=(1,))
clock(right + 3650 * DAY)
check("A3" not in attention(), "the clock is ahead")
tenant.keyctl("key", "activate", "two", "--yes")    # the record of a time that is none
clock(right + HOUR)
check("keyctl clock accept" in tenant.refused("A3", "tenant", "lock", "--key", *two.given()), "A3 says what to do")
equal(tenant.keyctl("clock", "accept", "--yes", ok=None).returncode, 2, "a reason is wanted")
equal(tenant.keyctl("clock", "accept", "--reason", "a wrong time server", ok=None).returncode, 2, "A2: it wants confirmed")
tenant.keyctl("clock", "accept", "--reason", "a wrong time server", "--yes")
check("A3" not in attention(), "accepted")
entry = [e for e in tenant.json("audit")["entries"] if e["request"] == "ClockAccept" and e["outcome"] == "done"]
check(len(entry) == 1 and "a wrong time server" in entry[0]["detail"] and "later" in entry[0]["detail"], "A1: %s" % entry)
for at in (right + 2 * HOUR, right + 3 * DAY):      # from the acceptance on, and not from the wrong time
    clock(at)
    tenant.restart()
    tenant.refused("L3", "tenant", "lock", "--key", *two.given())
clock(right + 3 * DAY + 2 * HOUR)
lock(two, confirm=False)

print("A3: set back, accepted, a key changed, and set right: the change counts from the time that was disowned")
clock(right + DAY)
tenant.restart()
tenant.keyctl("clock", "accept", "--reason", "to cheat", "--yes")
clock(right + DAY + 2 * HOUR)
three = KeyFile(base, "three")
tenant.keyctl("key", "upload", "three", *three.given())
clock(right + 5 * DAY)                              # 96 h after the change, by the clock
tenant.restart()
tenant.refused("L3", "tenant", "lock", "--key", *two.given())
clock(right + 6 * DAY + 3 * HOUR)
lock(two, confirm=False)

print("A3: a clock that jumps ahead while the machine runs ends no guard time and deletes nothing, until it is accepted or right again")
lock(two)
locked_at = right + 6 * DAY + 3 * HOUR
jumped = locked_at + 365 * DAY
clock(jumped, locked_at)
tenant.restart()
for _ in range(2):
    check("keyctl clock accept" in tenant.refused("A3", "key", "unlock", "two", *two.given()), "A3 says what to do")
    check("ahead of the time that passed" in attention() and "nothing deleted" in attention(), "status says so: " + attention())
    check(os.path.exists(envs[0].store), "L8: nothing is deleted")
    tenant.restart()
clock(locked_at + 1800, locked_at)                  # half an hour is believed
check("A3" not in attention(), "a small step: " + attention())
clock(locked_at + 2 * HOUR)
tenant.keyctl("key", "unlock", "two", *two.given())
clock(jumped, locked_at + 2 * HOUR)
tenant.keyctl("clock", "accept", "--reason", "it had been wrong for a year", "--yes")
entry = [e for e in tenant.json("audit")["entries"] if e["request"] == "ClockAccept" and e["outcome"] == "done"]
check("had jumped" in entry[-1]["detail"], "A1: %s" % entry[-1])

print("L8: what was locked for 28 days while the machine was off, or by a clock that was accepted, is warned of for 7 days all the same")
tenant.restart()
wait_for(lambda: "L8" in attention(), "the warning")
equal([e["name"] for e in tenant.json("env", "list")], ["db"], "L8: not deleted yet")
day = tenant.env("db")["deleted_at"]
check(abs(day - (time.time() + offset + 7 * DAY)) < 600, "L8: the day: %d" % (day - time.time() - offset))
clock(jumped + 6.9 * DAY)
tenant.restart()
equal([e["name"] for e in tenant.json("env", "list")], ["db"], "L8: not deleted after 6.9 days of warning")
clock(jumped + 7.1 * DAY)
tenant.restart()
wait_for(lambda: tenant.json("env", "list") == [], "L8: the deletion")
check("whole" in tenant.keyctl("audit", "--verify").stdout, "A1")
