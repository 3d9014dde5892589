"""tdefsd killed at every step. K7, L4, L5, U1: the thread that does an operation is killed at each call with which it changes or tells
something, as counted before; every request is killed likewise. The next tdefsd goes on, and at no moment is there a store that no held
key opens. With --long every single write is a step."""
import re
import shutil
import signal
import sqlite3
import sys
import os

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *
from wire import *

base = scratch()
if run("strace", "-o", "/dev/null", "true", ok=None).returncode != 0:
    skip("strace cannot trace here")
allow_in_log("refused:", "died", "worker", "error")
# What changes or tells something; and that part of it with which the store's header is replaced, by a thread that may hang with its disk.
CALLS = "pwrite64,pwritev,write,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdirat,sendmsg,sendto"
STORE_CALLS = "pwritev,fsync,renameat,renameat2"
one, two = KeyFile(base, "one"), KeyFile(base, "two")
tenant = Tenant(base, guards() + ' mount: { restart_delay = "20ms"; };').start()
registry_path = tenant.state + "/registry.db"
environments = [Environment(tenant, "e%d" % k).start() for k in range(3)]
for e in environments:
    with open(e.mnt + "/f", "w") as f:
        f.write("data of " + e.name)
        f.flush()
        os.fsync(f.fileno())
for name, key in (("one", one), ("two", two)):
    tenant.keyctl("key", "upload", name, *key.given())
for e in environments[:2]:                        # the third stays under the platform key
    tenant.keyctl("env", "apply-key", e.name, "--yes")
tenant.keyctl("env", "unmount", "e1")             # its header is replaced by tdefsd itself, the others' by their workers
platform = tenant.json("status")["platform_fingerprint"]


def thread(name, but=()):
    """The only thread of tdefsd of that name."""
    def find():
        task = "/proc/%d/task" % tenant.process.pid
        try:
            found = [int(t) for t in os.listdir(task) if int(t) not in but and open(task + "/%s/comm" % t).read().strip() == name]
        except OSError:                           # one that ended meanwhile
            return None
        return found[0] if len(found) == 1 else None
    return wait_for(find, "one thread " + name)


class Trace:
    """strace of one thread, or (with all of them) of every thread that is there and comes; step is (call, n): tdefsd is killed where a
    thread makes that call for the n-th time. Without a step the calls are written down only."""

    def __init__(self, tid, calls, step=None, all_threads=False):
        self.path = base + "/trace"
        inject = ["-e", "inject=%s:signal=SIGKILL:when=%d" % step] if step else []
        self.strace = subprocess.Popen(["strace", "-qq", "-o", self.path, "-e", "trace=" + calls, *inject, *(["-f"] if all_threads else []),
                                        "-p", str(tid)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: self.strace.poll() is not None or "TracerPid:\t0" not in
                 open("/proc/%d/task/%d/status" % (tenant.process.pid, tid)).read(), "strace to attach")
        if self.strace.poll() is not None:
            skip("strace cannot attach here: " + self.strace.stderr.read())

    def end(self):
        """The calls that were made: (thread, call)."""
        if self.strace.poll() is None:
            self.strace.send_signal(signal.SIGINT)
        try:
            self.strace.wait(3)
        except subprocess.TimeoutExpired:         # it waits now and then for the leader of what was killed
            self.strace.kill()
            self.strace.wait(WAIT_S)
        self.strace.stderr.close()
        with open(self.path) as f:
            return re.findall(r"^(\d*) *(\w+)\(", f.read(), re.M)


def steps_of(calls):
    """(call, how many-th of its thread) to be killed at; normally of a run of writes to the database's log the first alone, and not
    where a line of the log is written."""
    steps, counts = [], {}
    for k, (tid, call) in enumerate(calls):
        counts[tid, call] = counts.get((tid, call), 0) + 1
        if LONG or call != "write" and (call != "pwrite64" or k == 0 or calls[k - 1] != (tid, call)):
            steps.append((call, counts[tid, call]))
    return list(dict.fromkeys(steps))


def held():
    return {platform} | {n[:64] for n in os.listdir(tenant.state + "/vault") if n.endswith(".key")}


def check_stores(locking=None):
    """Each store opens with a key that is held now, or with the one that locks."""
    for e in environments:
        with open(e.store + "/tdefs.env") as f:
            wraps = re.findall(r'fingerprint = "([0-9a-f]{64})"', f.read())
        check(wraps and (set(wraps) & held() or wraps == [locking]), "%s: no held key opens %s" % (e.name, wraps))


def check_registry():
    db = sqlite3.connect(registry_path)
    equal(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "the registry")
    db.close()
    check("whole" in tenant.keyctl("audit", "--verify").stdout, "A1: the chain")


def wait_quiet(*guard):
    wait_for(lambda: not any(r[g] for r in tenant.json("key", "list")["regions"] for g in ("operation",) + guard), "quiet")


def dead():
    try:
        tenant.process.wait(0.2)
        return True
    except subprocess.TimeoutExpired:
        return False


def log_written_back():
    """The database's log, so that no run of an operation writes it back in the middle: its calls would not be those that were counted."""
    db = sqlite3.connect(registry_path)
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    db.close()


def ask(method, parameters, key=None, connected=None):
    fds = ()
    if key:
        with open(key.pfx, "rb") as f, open(key.password, "rb") as p:
            fds = memfd(f.read()), memfd(p.read().strip())
        parameters = dict(parameters, key=0, password=1)
    try:
        return call(tenant.socket, method, parameters, fds, connected=connected)
    except Ended:
        return None
    finally:
        for fd in fds:
            os.close(fd)


def states():
    return {k["name"]: k["state"] for k in tenant.json("key", "list")["keys"] if k["state"] != "Deleted"}


def operation(prepare, request, done, locking=None, begun=lambda: True):
    """Kills tdefsd at each step of the operation that request begins; done() says that all is as it should be at its end."""
    for all_threads, calls in ((False, CALLS), (True, STORE_CALLS)):
        made = [(None, "ftruncate")]
        while any(call == "ftruncate" for _, call in made):     # it holds a write-back all the same
            prepare()
            log_written_back()
            trace = Trace(thread("steward"), calls, None, all_threads)
            equal(outcome(request()), "ok", "without a kill")
            made = trace.end()
            done()
        steps, hit = steps_of(made), []
        for step in steps:
            prepare()
            log_written_back()
            trace = Trace(thread("steward"), calls, step, all_threads)
            reply = request()
            trace.end()
            if dead():
                hit.append(step[0])
                tenant.process.wait(WAIT_S)
                check_stores(locking and locking())
                tenant.start()
                wait_quiet()
                check_stores(locking and locking())
                if not begun():                   # the request itself was cut off, and it changed nothing: once more
                    equal(outcome(request()), "ok", "again")
            else:                                 # the log was written back at another time: fewer calls than were counted
                equal(outcome(reply), "ok", "not killed")
            done()
            check_registry()
        # Where the database's log is written back, and how the log's lines fall, differs a little from run to run.
        check(len(hit) * 5 >= len(steps) * 4 and set(hit) == {c for c, _ in steps}, "killed at %s, not at %s" % (hit, steps))
        print("  %s: %d calls; killed at %d of %d steps: %s" % ("its helpers" if all_threads else "its thread", len(made), len(hit), len(steps),
              ", ".join("%s %d" % (c, hit.count(c)) for c in sorted(set(hit)))))


print("K7: an activation")
other = {"one": "two", "two": "one"}


def other_key():
    return other[[n for n, s in states().items() if s == "Active"][0]]


def activated():
    name = wanted[0]
    equal(states(), {name: "Active", other[name]: "Available"}, "K7")
    equal([tenant.env(e.name)["key"] for e in environments], [name, name, "platform"], "K7: what each is under")
    equal([open(e.mnt + "/f").read() for e in environments if mounted(e.mnt)], ["data of e0", "data of e2"], "data")


wanted = [None]


def prepare_activation():
    wait_quiet("activation_from")
    wanted[0] = other_key()


operation(prepare_activation, lambda: ask("KeyActivate", {"name": wanted[0], "confirmed": True}), activated)

print("L4, L5: a lock")
files = {"one": one, "two": two}
locker = [n for n, s in states().items() if s == "Active"][0]
text = [None]


def prepare_lock():
    """Everything unlocked, and one of the three under the platform key."""
    if states()[locker] == "Locked":
        wait_quiet("unlock_from")
        equal(outcome(ask("KeyUnlock", {"name": locker}, files[locker])), "ok", "U1")
        for e in environments:
            tenant.keyctl("env", "unlock", e.name, "--yes")
        tenant.keyctl("env", "return-key", "e2", "--confirm", "e2")
        tenant.keyctl("env", "unmount", "e1")
    if other[locker] not in states():
        equal(outcome(ask("KeyUpload", {"name": other[locker]}, files[other[locker]])), "ok", "another key, for L5 to delete")
    wait_quiet("lock_from")
    text[0] = ask("TenantLock", {}, files[locker])["parameters"]["confirm"]


def locked():
    equal(states(), {locker: "Locked"}, "L5")
    equal(held(), {platform}, "L5: private keys are gone")
    for e in environments:
        shown = tenant.env(e.name)
        equal((shown["state"], shown["fingerprint"]), ("locked", files[locker].fingerprint()), "L4: " + e.name)
        check(not mounted(e.mnt), "L7")


operation(prepare_lock, lambda: ask("TenantLock", {"confirm": text[0]}, files[locker]), locked, files[locker].fingerprint)

print("U1: an unlock")


def prepare_unlock():
    if states()[locker] != "Locked":
        for e in environments:
            tenant.keyctl("env", "unlock", e.name, "--yes")
        wait_quiet("lock_from")
        text[0] = ask("TenantLock", {}, files[locker])["parameters"]["confirm"]
        equal(outcome(ask("TenantLock", {"confirm": text[0]}, files[locker])), "ok", "L4")
    wait_quiet("unlock_from")


def unlocked():
    equal(states(), {locker: "Active"}, "U1")
    equal([tenant.env(e.name)["state"] for e in environments], ["locked"] * 3, "U3")


operation(prepare_unlock, lambda: ask("KeyUnlock", {"name": locker}, files[locker]), unlocked, files[locker].fingerprint,
          lambda: states() != {locker: "Locked"})
for e in environments:
    tenant.keyctl("env", "unlock", e.name, "--yes")
    equal(open(e.mnt + "/f").read(), "data of " + e.name, "data")

print("every request")
for name in ("new", "att"):
    os.makedirs(base + "/" + name, exist_ok=True)
tenant.keyctl("env", "unmount", "e1")
shutil.copytree(environments[1].store, base + "/plain")
tenant.keyctl("env", "mount", "e1")


def rows():
    db = sqlite3.connect(registry_path)
    found = [db.execute("SELECT * FROM " + t + " ORDER BY 1").fetchall() for t in ("environment", "tenant_key", "region", "operation")]
    db.close()
    return found, sorted(held()), [open(e.store + "/tdefs.env").read() for e in environments if os.path.exists(e.store + "/tdefs.env")]


def state_of(name):
    return {e["name"]: e["state"] for e in tenant.json("env", "list")}.get(name)


def reset_new():
    if state_of("new"):
        tenant.keyctl("env", "unmount", "new", ok=None)
        tenant.keyctl("env", "delete", "new", "--confirm", "new")
    check(not os.path.exists(tenant.state + "/stores/new"), "nothing is left of it")


def reset_att():
    if state_of("att"):
        tenant.keyctl("env", "unmount", "att", ok=None)
        tenant.keyctl("env", "delete", "att", "--confirm", "att")
    shutil.rmtree(base + "/carried", ignore_errors=True)
    run("cp", "-a", base + "/plain", base + "/carried")


def env_state(name, state):
    got = state_of(name)
    if got != state:
        tenant.keyctl(*{"mounted": ("unlock" if got == "locked" else "env mount", name), "unmounted": ("env unmount", name),
                        "locked": ("lock", name)}[state][0].split(), name)


def source(name, key):
    if tenant.env(name)["key_source"] != key:
        tenant.keyctl("env", *(("apply-key", name, "--yes") if key == "tenant" else ("return-key", name, "--confirm", name)))


count = [0]


def next_key():
    count[0] += 1
    return KeyFile(base, "k%d" % count[0], 2048)


fresh = [None]
# request: what it starts from; the request; whether it was done
REQUESTS = {
    "EnvCreate": (reset_new, lambda c: ask("EnvCreate", {"name": "new", "mountpoint": base + "/new"}, connected=c),
                  lambda: state_of("new") == "mounted"),
    "EnvAttach": (reset_att, lambda c: ask("EnvAttach", {"name": "att", "mountpoint": base + "/att", "store": base + "/carried"},
                                           files[locker], connected=c), lambda: state_of("att") == "mounted" and open(base + "/att/f").read() == "data of e1"),
    "EnvDelete": (lambda: (reset_new(), tenant.keyctl("env", "create", "new", "--mountpoint", base + "/new")),
                  lambda c: ask("EnvDelete", {"name": "new", "confirm": "new"}, connected=c),
                  lambda: state_of("new") is None),
    "EnvUnmount": (lambda: env_state("e1", "mounted"), lambda c: ask("EnvUnmount", {"name": "e1"}, connected=c),
                   lambda: state_of("e1") == "unmounted"),
    "EnvMount": (lambda: env_state("e1", "unmounted"), lambda c: ask("EnvMount", {"name": "e1"}, connected=c),
                 lambda: state_of("e1") == "mounted"),
    "EnvLock": (lambda: env_state("e1", "mounted"), lambda c: ask("EnvLock", {"name": "e1"}, connected=c),
                lambda: state_of("e1") == "locked" and not mounted(environments[1].mnt)),
    "EnvUnlock": (lambda: env_state("e1", "locked"), lambda c: ask("EnvUnlock", {"name": "e1", "confirmed": True}, connected=c),
                  lambda: state_of("e1") == "mounted"),
    "EnvReturn": (lambda: source("e1", "tenant"), lambda c: ask("EnvReturn", {"name": "e1", "confirm": "e1"}, connected=c),
                  lambda: tenant.env("e1")["key_source"] == "platform"),
    "EnvApply": (lambda: source("e1", "platform"), lambda c: ask("EnvApply", {"name": "e1", "confirmed": True}, connected=c),
                 lambda: tenant.env("e1")["key_source"] == "tenant"),
    "KeyUpload": (lambda: fresh.__setitem__(0, next_key()), lambda c: ask("KeyUpload", {"name": "k%d" % count[0]}, fresh[0], connected=c),
                  lambda: states().get("k%d" % count[0]) == "Available"),
}
total = 0
for method, (prepare, request, is_done) in REQUESTS.items():
    traces = []

    def traced(step):
        """The reply of a request whose thread is traced."""
        others = [int(t) for t in os.listdir("/proc/%d/task" % tenant.process.pid)]
        return request(lambda: traces.append(Trace(thread("peer", others), CALLS, step)))

    prepare()
    log_written_back()
    equal(outcome(traced(None)), "ok", method)
    check(is_done(), method + " is done")
    calls = traces[-1].end()
    steps, hit = steps_of(calls), 0
    if not LONG:
        steps = steps[::max(len(steps) // 4, 1)]
    for step in steps:
        prepare()
        log_written_back()
        before = rows()
        seq = tenant.json("audit")["entries"][-1]["seq"]
        reply = traced(step)
        traces[-1].end()
        if not dead():
            equal(outcome(reply), "ok", method + " that was not killed")
        else:
            hit += 1
            tenant.process.wait(WAIT_S)
            check_stores()
            tenant.start()
            wait_quiet()
            entries = [e for e in tenant.json("audit")["entries"] if e["seq"] > seq and e["request"] == method]
            check(entries or rows()[0] == before[0], "A1: %s changed something and is no entry (step %s)" % (method, step))
            check(len(entries) < 2, "A1: one entry: %s" % entries)
            if not is_done():                     # cut off; asked again, it is done
                if method == "EnvCreate" and state_of("new"):
                    reset_new()
                equal(outcome(request(None)), "ok", "%s again, after step %s" % (method, step))
        check(is_done(), "%s is done, step %s" % (method, step))
        check_registry()
        check_stores()
    check(hit * 2 > len(steps), "%s: killed %d times" % (method, hit))
    total += hit
    print("  %s: %d calls; killed at %d of %d steps" % (method, len(calls), hit, len(steps)))
equal(open(environments[1].mnt + "/f").read() if mounted(environments[1].mnt) else "data of e1", "data of e1", "data")
print("killed %d times" % total)
