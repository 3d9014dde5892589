"""K7, L4, L5, U1 cut off anywhere: tdefsd is killed at every n-th call of a kind, the next one goes on, and no store is ever left
that no held key opens."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *

base = scratch()
if run("strace", "-o", "/dev/null", "true", ok=None).returncode != 0:
    skip("strace cannot trace here")
LONG = bool(os.environ.get("TDEFS_LONG"))
allow_in_log("refused:", "died", "worker", "error")
key_files = {name: KeyFile(base, name) for name in ("one", "two")}
tenant = Tenant(base, guards()).start()
environments = [Environment(tenant, "e%d" % k).start() for k in range(3)]
for e in environments:
    with open(e.mnt + "/f", "w") as f:
        f.write("data of " + e.name)
        f.flush()
        os.fsync(f.fileno())
for name in ("one", "two"):
    tenant.keyctl("key", "upload", name, *key_files[name].given())
for e in environments[:2]:                        # the third stays under the platform key
    tenant.keyctl("env", "apply-key", e.name, "--yes")
cut = 0


def killed_at(call, n, *command):
    """Whether tdefsd died on the n-th such call of one of its threads while it did command."""
    global cut
    trace = subprocess.Popen(["strace", "-f", "-qq", "-o", base + "/trace", "-e", "trace=" + call, "-e", "inject=%s:signal=SIGKILL:when=%d" %
                              (call, n), "-p", str(tenant.process.pid)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
    wait_for(lambda: trace.poll() is not None or "TracerPid:\t0" not in open("/proc/%d/status" % tenant.process.pid).read(), "strace to attach")
    if trace.poll() is not None:
        skip("strace cannot attach here: " + trace.stderr.read())
    done = tenant.keyctl(*command, ok=None)
    dead = done.returncode == 5
    if dead:
        tenant.process.wait(WAIT_S)
        cut += 1
    trace.send_signal(signal.SIGINT)
    trace.wait(WAIT_S)
    if dead:
        tenant.start()
    else:
        check(done.returncode == 0 or "under way" in done.stdout or "must pass" in done.stdout, done.stdout)
    wait_for(lambda: not any(r["operation"] for r in tenant.json("key", "list")["regions"]), "the operation to go on to its end")
    return dead


def check_all(locked, active):
    keys = {k["name"]: k for k in tenant.json("key", "list")["keys"]}
    equal([k["name"] for k in keys.values() if k["state"] == "Active"], [active] if active else [], "K5")
    for k, e in enumerate(environments):
        shown = tenant.env(e.name)
        if locked:
            equal((shown["state"], shown["key"]), ("locked", locked), "L4: " + e.name)
            check(not mounted(e.mnt), "L7")
        else:
            equal(shown["state"], "mounted", e.name)
            equal(shown["key"], active if k < 2 or tenant.was_locked else "platform", "which key " + e.name + " is under")
            equal(open(e.mnt + "/f").read(), "data of " + e.name, "its data")
    if locked:
        equal([n for n in os.listdir(tenant.state + "/vault")], [], "L5")


tenant.was_locked = False
now, other = "one", "two"
# Calls that make something durable, send or replace. A thread's count begins with strace.
for call, numbers in (("pwrite64", range(1, 200)), ("fdatasync", range(1, 60)), ("fsync", range(1, 20)), ("sendto,sendmsg", range(1, 20))):
    misses = 0
    for n in numbers if LONG else list(numbers)[::9][:4] + [2]:
        end = tenant.patiently("key", "list")
        before = {k["name"]: k["state"] for k in tenant.json("key", "list")["keys"]}
        wait_for(lambda: not any(r["activation_from"] for r in tenant.json("key", "list")["regions"]), "K8")
        dead = killed_at(call, n, "key", "activate", other, "--yes")
        after = {k["name"]: k["state"] for k in tenant.json("key", "list")["keys"]}
        # Cut off before its first transaction, it never was.
        check(after == before or after == {now: "Available", other: "Active"}, "%s %d: %s" % (call, n, after))
        if after != before:
            now, other = other, now
        else:
            check(dead, "%s %d: nothing came of it" % (call, n))
        check_all(None, now)
        misses = 0 if dead else misses + 1
        if misses > 2:
            break
check(cut > 3, "tdefsd was cut off %d times only" % cut)
print("activation: cut off %d times" % cut)

# The lock, cut off; then the unlock, cut off.
cut = 0
for call, n in [("pwrite64", 3), ("fdatasync", 4), ("fsync", 2), ("sendmsg", 2)] if not LONG else \
        [(c, n) for c in ("pwrite64", "fdatasync", "fsync", "sendmsg", "unlinkat") for n in range(1, 16)]:
    text = tenant.patiently("tenant", "lock", "--key", *key_files[now].given())
    dead = killed_at(call, n, "tenant", "lock", "--key", *key_files[now].given(), "--confirm", text)
    state = tenant.key(now)["state"]
    if state == "Active":
        check(dead, "%s %d: not locked" % (call, n))
        tenant.lock(key_files[now])
    check_all(now, None)
    tenant.was_locked = True
    wait_for(lambda: not any(r["unlock_from"] for r in tenant.json("key", "list")["regions"]), "L6")
    killed_at(call, n, "key", "unlock", now, *key_files[now].given())
    if tenant.key(now)["state"] == "Locked":
        tenant.patiently("key", "unlock", now, *key_files[now].given())
    equal(tenant.key(now)["state"], "Active", "U1")
    for e in environments:
        tenant.keyctl("env", "unlock", e.name, "--yes")
    check_all(None, now)
check(cut > 1, "tdefsd was cut off %d times only" % cut)
print("lock and unlock: cut off %d times" % cut)
check("whole" in tenant.keyctl("audit", "--verify").stdout, "A1")
