"""A1: every request that changes something and every refusal is one entry and one log line; the chain shows what was done to it."""
import hashlib
import os
import re
import socket
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from wire import *

base = scratch()
keeper = Keeper(base).start()
os.chmod(keeper.runtime, 0o755)
allow_in_log("refused:")
registry = os.path.join(keeper.state, "registry.db")


def entries():
    return keeper.json("audit")["entries"]


print("what is an entry")
env = Environment(keeper, "shop").start()
keeper.keyctl("status")
keeper.keyctl("env", "list")
keeper.keyctl("env", "show", "nobody", ok=(1,))
keeper.keyctl("lock", "shop", "--dry-run")
keeper.keyctl("env", "delete", "shop", "--confirm", "wrong", ok=(3,))
keeper.keyctl("lock", "shop")
keeper.keyctl("scrub", "shop", ok=(6,))
equal([(e["seq"], e["request"], e["object"], e["outcome"], e["rule"], e["uid"], e["role"]) for e in entries()],
      [(1, "EnvCreate", "shop", "done", "", 0, "tenant_admin"), (2, "EnvDelete", "shop", "refused", "A2", 0, "tenant_admin"),
       (3, "EnvLock", "shop", "done", "", 0, "tenant_admin"), (4, "EnvScrub", "shop", "refused", "L7", 0, "tenant_admin")],
      "changes and refusals, nothing else")
for method in ("KeyActivate", "EnvApply"):
    equal(outcome(call(keeper.socket, method, {"name": "x"})), "A2", "A2: not in silence on the wire either: " + method)
    equal(outcome(call(keeper.socket, method, {"name": "x", "confirmed": "yes"})), "InvalidParameter", "a wrong type")

print("a peer without a role: one entry, however often it asks")
for uid in (12345, 12345, 12345, 12346):
    equal(outcome(as_peer(uid, [], lambda: call(keeper.socket, "Status"))), "PermissionDenied", "a stranger")
equal([(e["uid"], e["outcome"], e["role"]) for e in entries() if e["request"] == "connect"], [(12345, "denied", "none"), (12346, "denied", "none")],
      "strangers")

print("more entries than one reply takes")
for k in range(450):
    equal(call(keeper.socket, "EnvMount", {"name": "nobody%d" % k})["parameters"]["errno"], 2, "a request on nothing")
listed = entries()
equal([e["seq"] for e in listed], list(range(1, len(listed) + 1)), "all pages, each entry once")
check(len(listed) > 450 and len(keeper.keyctl("audit").stdout.splitlines()) == len(listed), "as a list too")
for after in (-1, "1", 1.5):
    equal(outcome(call(keeper.socket, "Audit", {"after": after})), "InvalidParameter", "a wrong type")

print("a log line each, with the entry's hash")
lines = re.findall(r"audit (\d+) ([0-9a-f]{16}): uid (\d+) (\S+) (\S+) ", keeper.log())
equal([(int(n), h, int(u), role, request) for n, h, u, role, request in lines],
      [(e["seq"], e["hash"][:16], e["uid"], e["role"], e["request"]) for e in listed], "lines and entries")

print("an audit log that takes no entry: nothing is done")
blocker = sqlite3.connect(registry, isolation_level=None)
blocker.execute("BEGIN EXCLUSIVE")
keeper.keyctl("unlock", "shop", ok=(3,))
check(not mounted(env.mnt), "not unlocked")
blocker.execute("ROLLBACK")
blocker.close()
keeper.keyctl("unlock", "shop")
allow_in_log("error: the audit log takes no entry")

print("only what can be tried without doing it is no entry then")
for method, parameters, entry in ("EnvLock", {"name": "shop"}, 0), ("EnvUnmount", {"name": "shop"}, 1), ("EnvMount", {"name": "shop"}, 1):
    before = len(entries())
    equal(outcome(call(keeper.socket, method, dict(parameters, dry_run=True))), "ok", method)
    equal(len(entries()) - before, entry, "entries of %s with dry_run" % method)
check(mounted(env.mnt), "mounted")

print("a request that tdefsd did not live to answer")
with sqlite3.connect(registry) as db:
    db.execute("INSERT INTO audit_pending (time, uid, role, request, object) VALUES (1, 77, 'tenant_admin', 'EnvDelete', 'shop')")
db.close()
keeper.stop()
keeper.start()
last = entries()[-1]
equal((last["request"], last["object"], last["uid"], last["outcome"]), ("EnvDelete", "shop", 77, "cut off"), "its entry")
check("1970-01-01" in last["detail"], "when it began: " + last["detail"])

print("the chain")
count = len(entries())
check("%d entries, the chain is whole" % count == keeper.keyctl("audit", "--verify").stdout.strip(), "whole")
env.stop()
keeper.stop()


def entry_hash(seq, time, uid, role, request, object_, rule, outcome, detail, previous, _):
    """The hash of a row, made independently."""
    text = "%d %d %d %s %s" % (seq, time, uid, " ".join("%d:%s" % (len(t.encode()), t) for t in (role, request, object_, rule, outcome, detail)),
                               previous)
    return hashlib.sha256(text.encode()).hexdigest()


with sqlite3.connect(registry) as db:
    rows = db.execute("SELECT * FROM audit ORDER BY seq").fetchall()
db.close()
for row, before in zip(rows, [[None] * 10 + ["0" * 64]] + rows):
    equal((row[-1], row[-2]), (entry_hash(*row), before[-1]), "the hash of entry %d" % row[0])
# Forged well: its own hash is right, the next entry tells.
forged = list(rows[2])
forged[8] = "nothing happened"
CHANGES = [("UPDATE audit SET detail = '%s', hash = '%s' WHERE seq = 3" % (forged[8], entry_hash(*forged)), 4), ("UPDATE audit SET detail = detail || 'x' WHERE seq = 3", 3), ("UPDATE audit SET uid = 1 WHERE seq = 1", 1),
           ("UPDATE audit SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE seq = 2", 2),
           ("DELETE FROM audit WHERE seq = 4", 4), ("DELETE FROM audit WHERE seq = 1", 1),
           ("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)", "the last"), ("DELETE FROM audit", 1),
           ("UPDATE audit SET seq = -1 WHERE seq = 5; UPDATE audit SET seq = 5 WHERE seq = 6; UPDATE audit SET seq = 6 WHERE seq = -1", 5),
           ("UPDATE audit SET seq = 100000 WHERE seq = 7", 7),
           ("DELETE FROM audit WHERE seq > 8; UPDATE audit_head SET seq = 8", 9)]
for change, where in CHANGES:
    db = sqlite3.connect(registry)
    saved = db.execute("SELECT * FROM audit").fetchall(), db.execute("SELECT * FROM audit_head").fetchall()
    db.executescript(change)
    db.commit()
    keeper.start()
    done = keeper.keyctl("audit", "--verify", ok=(3,))
    check("A1" in done.stdout, "found: " + change)
    check("entry %s does" % where in done.stdout or where == "the last", "which: %s: %s" % (change, done.stdout))
    keeper.stop()
    db.execute("DELETE FROM audit")
    db.executemany("INSERT INTO audit VALUES (%s)" % ",".join("?" * len(saved[0][0])), saved[0])
    db.execute("UPDATE audit_head SET seq = ?, hash = ?", saved[1][0][1:])
    db.commit()
    db.close()
keeper.start()
keeper.keyctl("audit", "--verify")
keeper.stop()

print("syslog and journal")
with open(keeper.config, "a") as f:
    f.write("log: { syslog = true; };\n")
made = not os.path.exists("/dev/log")
if made:
    open("/dev/log", "w").close()
    undo(os.unlink, "/dev/log")
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind(keeper.runtime + "/log")
log.settimeout(WAIT_S)
with open(keeper.log_path, "ab") as f:
    keeper.process = subprocess.Popen(["unshare", "-m", "sh", "-c", 'mount --bind "$1" /dev/log && exec "$2" --config "$3" --foreground', "sh",
                                       keeper.runtime + "/log", BIN + "/tdefsd", keeper.config], stdin=subprocess.DEVNULL, stdout=f,
                                      stderr=f, env=dict(os.environ, JOURNAL_STREAM="1:2"))
wait_for(lambda: keeper.keyctl("status", ok=None).returncode == 0, "tdefsd")
keeper.keyctl("env", "mount", "nobody", ok=(1,))
last = entries()[-1]
line = "audit %d %.16s: uid 0 tenant_admin EnvMount nobody: refused: there is no environment nobody" % (last["seq"], last["hash"])
got = []
wait_for(lambda: got.append(log.recv(65536).decode()) or line in got[-1], "the line in syslog")
check(re.match(r"<30>.*tdefsd\[\d+\]: " + re.escape(line), got[-1]), "daemon.info, by tdefsd: " + got[-1])
check("\n<6>" + line in keeper.log(), "the journal's priority")
keeper.stop()
