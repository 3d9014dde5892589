"""What administrators do with keys: carry a store to another machine, ask for two things at once, and hand secrets in by every wrong
way."""
import os
import shutil
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *
from wire import *

base = scratch()
allow_in_log("refused:")
one, two, mine = (KeyFile(base, name, password="of " + name) for name in ("one", "two", "mine"))
tenant = Tenant(base, guards()).start()
db = Environment(tenant, "db").start()
open(db.mnt + "/f", "w").write("carried")
tenant.keyctl("key", "upload", "mine", *mine.given())
tenant.keyctl("env", "apply-key", "db", "--yes")

# The store on another machine: with the key file, with the platform key, with neither.
tenant.keyctl("env", "unmount", "db")
carried, carried_platform = base + "/carried", base + "/carried-platform"
shutil.copytree(db.store, carried)
plain = Environment(tenant, "plain").start()
open(plain.mnt + "/f", "w").write("under the platform key")
tenant.keyctl("env", "unmount", "plain")
shutil.copytree(plain.store, carried_platform)
os.mkdir(base + "/far")
far = Tenant(base + "/far").start()
for name in ("a", "b"):
    os.mkdir(base + "/far/" + name)
attach = ("env", "attach", "db", "--store", carried, "--mountpoint", base + "/far/a")
for wrong in ((), ("--key", *one.given()), ("--key", tenant.state + "/platform.key")):
    done = far.keyctl(*attach, *wrong, ok=None)
    check(done.returncode == 1 and "mine" in done.stdout, "the key that it wants is named: " + done.stdout)
far.keyctl(*attach, "--key", *mine.given())
equal((open(base + "/far/a/f").read(), far.env("db")["key_source"]), ("carried", "platform"), "attached with the key file")
far.keyctl("env", "attach", "plain", "--store", carried_platform, "--mountpoint", base + "/far/b", "--key", tenant.state + "/platform.key")
equal(open(base + "/far/b/f").read(), "under the platform key", "attached with the platform key")
for name in ("db", "plain"):
    far.keyctl("env", "unmount", name)
    far.keyctl("env", "mount", name)
    far.keyctl("env", "unmount", name)
equal(far.keyctl(*attach, ok=None).returncode, 1, "attached twice")

# A store under a key that is held, but not the active one: it must come under one that a lock knows of (L4).
far.keyctl("key", "upload", "old", *one.given())
far.keyctl("key", "upload", "new", *two.given())
shutil.copytree(carried_platform, base + "/third")
os.mkdir(base + "/far/c")
far.keyctl("env", "attach", "third", "--store", base + "/third", "--mountpoint", base + "/far/c")
far.keyctl("env", "apply-key", "third", "--yes")
far.keyctl("env", "unmount", "third")
shutil.copytree(base + "/third", base + "/fourth")
far.keyctl("env", "delete", "third", "--confirm", "third")
far.stop()
with open(far.config, "a") as f:
    f.write(guards())
far.start()
far.patiently("key", "activate", "new", "--yes")
far.keyctl("env", "attach", "fourth", "--store", base + "/fourth", "--mountpoint", base + "/far/c")
equal(far.env("fourth")["key_source"], "platform", "L4: under a key that the rules know")
far.lock(two)
equal(far.env("fourth")["key"], "new", "L4: the locking key alone opens it")
far.patiently("key", "unlock", "new", *two.given())
far.keyctl("env", "unlock", "fourth", "--yes")
equal(open(base + "/far/c/f").read(), "under the platform key", "L4: and it does")
far.stop()
tenant.keyctl("env", "mount", "db")

# tdefs-fsck with each kind of key; the keeper hands it to root alone, and of nothing that is locked.
tenant.keyctl("env", "unmount", "db")
for given in ((tenant.socket,), mine.given()):
    check("0 damaged" in run(BIN + "/tdefs-fsck", db.store, "--key-from", *given).stdout, "tdefs-fsck --key-from " + given[0])
done = run(BIN + "/tdefs-fsck", db.store, "--key-from", one.pfx, "--password-file", one.password, ok=(3,))
check("mine" in done.stdout, "the key that it wants is named: " + done.stdout)
check("password" in run(BIN + "/tdefs-fsck", db.store, "--key-from", one.pfx, "--password-file", mine.password, ok=(3,)).stdout, "why not")
tenant.keyctl("lock", "db")
check("locked" in run(BIN + "/tdefs-fsck", db.store, "--key-from", tenant.socket, ok=(3,)).stdout, "L7: not of a locked one")
tenant.keyctl("unlock", "db")
check("mounted" in run(BIN + "/tdefs-fsck", db.store, "--key-from", tenant.socket, ok=(3,)).stdout, "not of a mounted one")
check("no environment" in run(BIN + "/tdefs-fsck", carried, "--key-from", tenant.socket, ok=(3,)).stdout, "not of another's")

# Two administrators at once: one activation is done, the other refused; no key is lost.
tenant.keyctl("key", "upload", "one", *one.given())
tenant.keyctl("key", "upload", "two", *two.given())
wait_for(lambda: not any(r["activation_from"] for r in tenant.json("key", "list")["regions"]), "K8")
results = {}
threads = [threading.Thread(target=lambda n=n: results.__setitem__(n, tenant.keyctl("key", "activate", n, "--yes", ok=None)))
           for n in ("one", "two")]
for t in threads:
    t.start()
for t in threads:
    t.join()
done = [n for n in results if results[n].returncode == 0]
check(done and all(r.returncode in (0, 3) for r in results.values()), "two at once: %s" % {n: r.stdout for n, r in results.items()})
active = [k["name"] for k in tenant.json("key", "list")["keys"] if k["state"] == "Active"]
check(len(active) == 1 and active[0] in done, "K5: %s, done %s" % (active, done))

# `more`: progress comes before the answer, to its end; a peer that does not ask for it gets the answer alone.
for more in (True, False):
    wait_for(lambda: not any(r["activation_from"] for r in tenant.json("key", "list")["regions"]), "K8")
    active = [k["name"] for k in tenant.json("key", "list")["keys"] if k["state"] == "Active"]
    name = "two" if active == ["one"] else "one"
    replies = talk(tenant.socket, {"method": INTERFACE + ".KeyActivate", "parameters": {"name": name, "confirmed": True}, "more": more})
    equal(replies[-1]["parameters"]["key"]["state"], "Active", "activated")
    equal(len(replies) > 1, more, "progress for who asks: %s" % replies)
    if more:
        equal(replies[-2]["parameters"]["done"], replies[-2]["parameters"]["total"], "progress to its end")

# K1: not even on the wire is there a key without a password.
for password in (b"", b"a\0b"):
    reply = call(tenant.socket, "KeyGenerate", {"name": "x", "password": 0}, [memfd(password)])
    equal(outcome(reply), "K1", "K1: %s" % reply)
equal(outcome(call(tenant.socket, "KeyGenerate", {"name": "x", "password": 0}, [memfd(b"x" * 1025)])), "-", "K1: longer than any")

# Secrets do not come in another way: unsealed files, pipes, no descriptor at all, files without an end.
read_end, write_end = os.pipe()
sealed, unsealed = memfd(open(one.pfx, "rb").read()), memfd(open(one.pfx, "rb").read(), 0)
shrinkable, endless = memfd(b"x", SEALS & ~0x0002), memfd(b"x", 0)
os.ftruncate(endless, 1 << 40)
fcntl.fcntl(endless, F_ADD_SEALS, SEALS)
for key, fds, says in ((0, [], "InvalidParameter"), (-1, [sealed], "InvalidParameter"), ("0", [sealed], "InvalidParameter"),
                       (1 << 62, [sealed], "InvalidParameter"), (0, [unsealed], "sealed"), (0, [shrinkable], "sealed"), (0, [read_end], "sealed"),
                       (0, [os.open("/dev/zero", os.O_RDONLY)] * 9, "sealed"), (0, [endless], "longer than any")):
    reply = call(tenant.socket, "KeyUpload", {"name": "x", "key": key, "password": key}, fds)
    check(says in str(reply), "%s %s: %s" % (key, says, reply))
count = len(os.listdir("/proc/%d/fd" % tenant.process.pid))
for _ in range(50):
    call(tenant.socket, "Status", {}, [read_end] * 8)
wait_for(lambda: len(os.listdir("/proc/%d/fd" % tenant.process.pid)) <= count, "descriptors that came with messages to be closed")
