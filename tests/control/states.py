"""The whole state machine: every request in every state of keys and environments, done or refused by which rule; a refusal changes
nothing; and in each state the roles that may not ask are told so, whatever the state."""
import shutil
import sqlite3
import sys
import os

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *
from wire import *

base = scratch()
allow_in_log("refused:", "error", "deleted")
one, two, three = (KeyFile(base, n) for n in ("one", "two", "three"))
SOON, LATE = dict.fromkeys(("activation_interval", "lock_after_key_change", "unlock_after_lock"), "1ms"), {}
tenant = Tenant(base)
settings = role_settings(True) + " mount: { unmount_on_stop = true; };"
state_dir, away, snapshots = tenant.state, base + "/away", base + "/snapshots"
os.mkdir(snapshots)
for name in ("db", "app", "off", "new", "att", "far"):
    os.mkdir(base + "/" + name)


def stop():
    if tenant.process:
        tenant.stop()


def start(guard_values, tenant_name="test"):
    with open(tenant.config, "w") as f:
        f.write('tenant = "%s";\nstate_dir = "%s";\nruntime_dir = "%s";\n%s\n%s\n' %
                (tenant_name, tenant.state, tenant.runtime, settings, guards(**guard_values) if guard_values else ""))
    tenant.start()
    os.chmod(tenant.runtime, 0o755)


def copy(source, to):
    shutil.rmtree(to, ignore_errors=True)
    run("cp", "-a", source, to)


# ---- the states, each made from one before it by real requests ----

STATES = []             # name, guard times


def state(name, guard_values):
    stop()
    copy(state_dir, snapshots + "/%d" % len(STATES))
    STATES.append((name, guard_values))


def go_on(guard_values, k=-1):
    stop()
    copy(snapshots + "/%d" % (len(STATES) + k if k < 0 else k), state_dir)
    start(guard_values)


def stuck(method, parameters, fds=()):
    """An operation that waits for a store: its disk is away."""
    os.rename(state_dir + "/stores/off", away)
    equal(outcome(call(tenant.socket, method, parameters, fds)), "-", "it waits")
    wait_for(lambda: "waits" in str(call(tenant.socket, "Status")["parameters"]["attention"]), "attention to it")


def lock_text():
    reply = wait_for(lambda: (lambda r: r if outcome(r) == "ok" else None)(call(tenant.socket, "TenantLock", {"key": 0, "password": 1}, pfx(one))), "L3")
    return reply["parameters"]["confirm"]


def pfx(key):
    with open(key.pfx, "rb") as f, open(key.password, "rb") as p:
        return memfd(f.read()), memfd(p.read().strip())


# A store of another tenant's, under its platform key, to attach.
tenant.state = base + "/far-state"
start(SOON, "far")
tenant.keyctl("env", "create", "far", "--mountpoint", base + "/far")
stop()
with open(tenant.state + "/platform.key", "rb") as f:
    far_key = f.read()
tenant.state = state_dir

start(SOON)
for name, more in (("db", ()), ("app", ("--type", "sandbox")), ("off", ())):
    tenant.keyctl("env", "create", name, "--mountpoint", base + "/" + name, *more)
tenant.keyctl("env", "unmount", "off")
state("no key", LATE)
go_on(SOON)
tenant.keyctl("key", "upload", "one", *one.given())
tenant.keyctl("env", "apply-key", "db", "--yes")
tenant.keyctl("env", "apply-key", "off", "--yes")
state("one Active, times run", LATE)
go_on(SOON)
tenant.keyctl("key", "upload", "two", *two.given())
wait_for(lambda: not any(r["activation_from"] or r["lock_from"] for r in tenant.json("key", "list")["regions"]), "guard times")
state("two Available, times over", SOON)
FREE = len(STATES) - 1
go_on(SOON, FREE)
tenant.keyctl("lock", "db")
state("db locked by keyctl", SOON)
go_on(SOON, FREE)
stuck("KeyActivate", {"name": "two", "confirmed": True})
state("two Installing", SOON)
os.rename(away, base + "/off.store")
go_on(SOON, FREE)
text = lock_text()
stuck("TenantLock", {"key": 0, "password": 1, "confirm": text}, pfx(one))
state("being locked", SOON)
shutil.rmtree(away)
go_on(SOON, FREE)
tenant.lock(one)
state("one Locked, time runs", dict(SOON, unlock_after_lock="1h"))
state("one Locked, time over", SOON)
go_on(SOON)
wait_for(lambda: not any(r["unlock_from"] for r in tenant.json("key", "list")["regions"]), "L6")
stuck("KeyUnlock", {"name": "one", "key": 0, "password": 1}, pfx(one))
state("one Installing again", SOON)
shutil.rmtree(away)
go_on(SOON, len(STATES) - 2)
tenant.patiently("key", "unlock", "one", *one.given())
state("one Active again, environments locked", SOON)
go_on(SOON, FREE)
stop()
with sqlite3.connect(state_dir + "/registry.db") as db:
    db.execute("UPDATE meta SET value = value + 100000 WHERE name = 'clock'")
db.close()
state("the clock behind", SOON)

# ---- the table ----

# The columns are the states in that order. "ok"; the rule that refuses; "-" a failure that is no rule's.
TABLE = """
                  no-key one    two    lckd   instl  lcking run    over   inst2  actv2  clock
Status            ok     ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
EnvList           ok     ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
EnvShow           ok     ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
KeyList           ok     ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
KeyShow           -      ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
Audit             ok     ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
KekShow           ok     ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
EnvScrub          ok     ok     ok     L7     ok     L7     L7     L7     L7     L7     ok
EnvKey            ok     ok     ok     ok     -      L7     L7     L7     L7     L7     ok
EnvCreate         ok     ok     ok     ok     ok     L6     ok     ok     ok     ok     ok
EnvAttach         ok     ok     ok     ok     K7     L6     ok     ok     U1     ok     ok
EnvMount.db       -      -      -      L7     -      L7     L7     L7     L7     L7     -
EnvMount.off      ok     ok     ok     ok     -      L7     L7     L7     L7     L7     ok
EnvUnmount        ok     ok     ok     L7     ok     L7     L7     L7     L7     L7     ok
EnvLock           ok     ok     ok     L7     ok     L7     L7     L7     L7     L7     ok
EnvUnlock         -      -      -      ok     -      L6     U3     U3     U1     ok     -
EnvUnlock.silent  -      -      -      ok     -      L6     U3     U3     U1     U3     -
EnvRotate         ok     ok     ok     L7     K7     L7     L7     L7     L7     L7     ok
EnvRotatePause    -      -      -      L7     -      L7     L7     L7     L7     L7     -
EnvDelete         ok     ok     ok     ok     ok     ok     ok     ok     ok     ok     ok
EnvDelete.wrong   A2     A2     A2     A2     A2     A2     A2     A2     A2     A2     A2
EnvApply.app      E2     ok     ok     ok     K7     L7     L7     L7     L7     L7     ok
EnvApply.db       E2     E2     E2     L7     K7     L7     L7     L7     L7     L7     E2
EnvApply.silent   A2     A2     A2     A2     A2     A2     A2     A2     A2     A2     A2
EnvReturn.db      E3     ok     ok     L7     K7     L7     L7     L7     L7     L7     ok
EnvReturn.wrong   E3     E3     E3     L7     K7     L7     L7     L7     L7     L7     E3
EnvReturn.app     E3     E3     E3     E3     K7     L7     L7     L7     L7     L7     E3
KeyGenerate       ok     ok     ok     K10    K7     L6     K10    K10    U1     K10    ok
KeyUpload         ok     ok     ok     K10    K7     L6     K10    K10    U1     K10    A3
KeyUpload.one     ok     -      -      K10    K7     L6     K10    K10    U1     K10    A3
KeyActivate.one   -      K5     K5     K5     K5     U1     U1     U1     U1     K5     K5
KeyActivate.two   -      -      ok     K9     K7     L6     K4     K4     U1     K4     A3
KeyActivate.quiet A2     A2     A2     A2     A2     A2     A2     A2     A2     A2     A2
KeyUnlock         -      U1     U1     U1     K7     L6     L6     ok     U1     U1     U1
KeyUnlock.other   -      U1     U1     U1     K7     L6     U2     U2     U1     U1     U1
TenantLock        L1     L3     ok     ok     K7     L6     L1     L1     U1     ok     A3
TenantLock.other  L1     L1     L1     L1     K7     L6     L1     L1     U1     L1     L1
ClockAccept       -      -      -      -      -      -      -      -      -      -      ok
ClockAccept.quiet A2     A2     A2     A2     A2     A2     A2     A2     A2     A2     A2
TenantLock.text   L1     L3     L2     L2     K7     L6     L1     L1     U1     L2     A3
"""
REQUESTS = {
    "EnvShow": lambda: ({"name": "db"}, ()), "KeyShow": lambda: ({"name": "one"}, ()),
    "EnvScrub": lambda: ({"name": "db", "start": False}, ()), "EnvKey": lambda: ({"store": state_dir + "/stores/off"}, ()),
    "EnvCreate": lambda: ({"name": "new", "mountpoint": base + "/new"}, ()),
    "EnvAttach": lambda: ({"name": "att", "mountpoint": base + "/att", "store": base + "/carried", "key": 0}, (memfd(far_key),)),
    "EnvMount.db": lambda: ({"name": "db"}, ()), "EnvMount.off": lambda: ({"name": "off"}, ()),
    "EnvUnmount": lambda: ({"name": "db"}, ()), "EnvLock": lambda: ({"name": "db"}, ()),
    "EnvUnlock": lambda: ({"name": "db", "confirmed": True}, ()), "EnvUnlock.silent": lambda: ({"name": "db"}, ()),
    "EnvRotatePause": lambda: ({"name": "db", "paused": True}, ()),
    "EnvRotate": lambda: ({"name": "db"}, ()), "EnvDelete": lambda: ({"name": "db", "confirm": "db"}, ()),
    "EnvDelete.wrong": lambda: ({"name": "db", "confirm": "app"}, ()),
    "EnvApply.app": lambda: ({"name": "app", "confirmed": True}, ()), "EnvApply.db": lambda: ({"name": "db", "confirmed": True}, ()),
    "EnvApply.silent": lambda: ({"name": "app"}, ()), "EnvReturn.db": lambda: ({"name": "db", "confirm": "db"}, ()),
    "EnvReturn.wrong": lambda: ({"name": "db", "confirmed": True}, ()), "EnvReturn.app": lambda: ({"name": "app", "confirmed": True}, ()),
    "KeyGenerate": lambda: ({"name": "new", "password": 0}, (memfd(b"secret"),)),
    "KeyUpload": lambda: ({"name": "three", "key": 0, "password": 1}, pfx(three)),
    "KeyUpload.one": lambda: ({"name": "again", "key": 0, "password": 1}, pfx(one)),
    "KeyActivate.one": lambda: ({"name": "one", "confirmed": True}, ()), "KeyActivate.two": lambda: ({"name": "two", "confirmed": True}, ()),
    "KeyActivate.quiet": lambda: ({"name": "two"}, ()), "KeyUnlock": lambda: ({"name": "one", "key": 0, "password": 1}, pfx(one)),
    "KeyUnlock.other": lambda: ({"name": "one", "key": 0, "password": 1}, pfx(two)),
    "ClockAccept": lambda: ({"reason": "why", "confirmed": True}, ()), "ClockAccept.quiet": lambda: ({"reason": "why"}, ()),
    "TenantLock": lambda: ({"key": 0, "password": 1}, pfx(one)), "TenantLock.other": lambda: ({"key": 0, "password": 1}, pfx(two)),
    "TenantLock.text": lambda: ({"key": 0, "password": 1, "confirm": "x"}, pfx(one)),
}
UNCHANGING = {"Status", "EnvList", "EnvShow", "KeyList", "KeyShow", "Audit", "EnvScrub", "EnvKey", "KekShow", "KeyGenerate", "TenantLock"}
rows = [line.split() for line in TABLE.strip().splitlines()[1:]]
equal({r[0].split(".")[0] for r in rows}, set(ROLES), "the table has every request")
check(all(len(r) == len(STATES) + 1 for r in rows), "the table has every state")


def registry():
    """What the rules are about; guard times, states, operations. Not the audit log and the clock."""
    db = sqlite3.connect(state_dir + "/registry.db")
    found = [db.execute("SELECT * FROM %s ORDER BY 1" % t).fetchall() for t in ("environment", "tenant_key", "region", "operation")]
    db.close()
    return found


def put_back(k):
    stop()
    copy(snapshots + "/%d" % k, state_dir)
    copy(base + "/far-state/stores/far", base + "/carried")
    start(STATES[k][1])


cells = wrong = 0
for k, (name, _) in enumerate(STATES):
    put_back(k)
    for role, group in GROUPS.items():
        denied = as_peer(12345, [group], lambda: {m: outcome(call(tenant.socket, m, {"name": "db"})) for m in ROLES if role not in ROLES[m]})
        equal(set(denied.values()) - {"PermissionDenied"}, set(), "%s: as %s" % (name, role))
    for row in rows:
        method, want = row[0], row[k + 1]
        parameters, fds = REQUESTS.get(method, lambda: ({}, ()))()
        before = registry()
        reply = call(tenant.socket, method.split(".")[0], parameters, fds)
        got = outcome(reply)
        for fd in fds:
            os.close(fd)
        cells += 1
        if got != want:
            wrong += 1
            print("%s: %s: %s, not %s: %s" % (name, method, got, row[k + 1], str(reply)[:300]))
        if got != "ok":
            equal(registry(), before, "%s: %s: a refusal changes nothing" % (name, method))
        elif method.split(".")[0] not in UNCHANGING:
            put_back(k)
check("whole" in tenant.keyctl("audit", "--verify").stdout, "A1")
stop()
check(wrong == 0, "%d of %d" % (wrong, cells))
print("%d requests in %d states" % (len(rows), len(STATES)))
