"""Full disks: under the stores, and under tdefsd's state. A lock is always taken; what else needs a few KiB has them in reserve."""
import os
import signal
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *

base = scratch()
allow_in_log("refused:", "not left clean")
stores, state = loop_ext4(base, 48 << 20, "stores"), loop_ext4(base, 24 << 20, "state")
if not stores or not state:
    skip("no loop devices")
key = KeyFile(base, "key")
tenant = Tenant(base, guards() + ' mount: { restart_delay = "50ms"; };').start()
tenant.keyctl("key", "upload", "key", *key.given())


class Env(Environment):
    def start(self, where):
        self.store = where + "/" + self.name
        self.keeper.keyctl("env", "create", self.name, "--mountpoint", self.mnt, "--store", self.store)
        return self


def fill(path):
    """To the last block: nothing can be written any more."""
    with open(path, "ab", 0) as f:
        for size in 1 << 20, 4096, 512:
            try:
                while True:
                    f.write(b"x" * size)
            except OSError as e:
                equal(e.errno, 28, "the disk is full")
        os.fsync(f.fileno())


def show():
    return tenant.env("env")


def attention():
    return "\n".join(tenant.json("status")["attention"])


print("a full disk under the stores")
env = Env(tenant, "env").start(stores)
data = os.urandom(1 << 20)
with open(env.mnt + "/f", "wb") as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())


def intact():
    equal(open(env.mnt + "/f", "rb").read(), data, "what was synced")


try:
    with open(env.mnt + "/large", "wb", 0) as f:        # as a database does it: through the mount
        while True:
            f.write(b"y" * (1 << 20))
            os.fsync(f.fileno())
except OSError as e:
    equal(e.errno, 28, "the mount says that the disk is full")
fill(stores + "/rest")
for n in range(3):
    out = tenant.keyctl("lock", "env").stdout
    check("not left clean" not in out and "could not" not in out, "locked, and the store left clean: " + out)
    tenant.keyctl("unlock", "env")
    intact()
    tenant.keyctl("env", "unmount", "env")
    tenant.keyctl("env", "mount", "env")
    intact()
    os.kill(show()["pid"], signal.SIGKILL)              # one mount more, and an unclean one
    wait_for(lambda: show()["state"] == "mounted" and show()["restarts"] == 1 and mounted(env.mnt), "the restart on a full disk")
    intact()
    tenant.keyctl("env", "apply-key", "env", "--yes")
    tenant.keyctl("env", "return-key", "env", "--confirm", "env")
    tenant.keyctl("rotate", "env")
    wait_for(lambda: not show()["rotating"], "the rotation")
    fill(stores + "/rest")
equal(tenant.json("scrub", "env")["bad"], 0, "nothing is damaged")
os.unlink(env.mnt + "/large")
os.truncate(stores + "/rest", 0)
# The room of what is deleted comes back when the kernel has let go of it.
wait_for(lambda: os.statvfs(env.mnt).f_bavail * os.statvfs(env.mnt).f_frsize > 4 * len(data), "room for g")
with open(env.mnt + "/g", "wb") as f:
    f.write(data)
tenant.keyctl("env", "unmount", "env")
run(BIN + "/tdefs-fsck", env.store, "--key-from", tenant.state + "/platform.key")
tenant.keyctl("env", "mount", "env")

print("a full disk under tdefsd's state")
fill(state + "/rest")
for n in range(3):
    tenant.keyctl("lock", "env")
    tenant.keyctl("unlock", "env")
    intact()
    tenant.keyctl("env", "apply-key", "env", "--yes")
    tenant.keyctl("rotate", "env")
    wait_for(lambda: not show()["rotating"], "the rotation")
    tenant.keyctl("env", "return-key", "env", "--confirm", "env")
    if n % 2:
        tenant.stop()
    else:
        tenant.process.kill()
        tenant.process.wait()
    tenant.start()
    fill(state + "/rest")
    intact()
tenant.lock(key)
equal((show()["state"], show()["key_source"]), ("locked", "tenant"), "the tenant's lock")
with open(state + "/rest", "ab") as f:                  # the key's file wants room, and nobody promised it any
    f.truncate(os.path.getsize(state + "/rest") - (64 << 10))
tenant.patiently("key", "unlock", "key", *key.given())
tenant.keyctl("env", "unlock", "env", "--yes")
intact()
check("the chain is whole" in tenant.keyctl("audit", "--verify").stdout, "A1: the audit log missed nothing")

print("not even the reserve is left: a lock is taken all the same, and owed to the disk")
fill(state + "/rest")
other = sqlite3.connect(state + "/registry.db", isolation_level=None)
other.execute("PRAGMA wal_autocheckpoint = 50")
other.execute("CREATE TABLE filler (t TEXT)")
for size in 3000, 10:                                   # to the last page that the log takes
    try:
        while True:
            other.execute("INSERT INTO filler VALUES (?)", ("z" * size,))
    except sqlite3.OperationalError as e:
        check("full" in str(e), str(e))
check("the registry" in attention() and "No space left" in attention(), "status says so: " + attention())
done = tenant.keyctl("rotate", "env", ok=(3,))
check("A1" in done.stdout, "what needs an audit entry is refused: " + done.stdout)
pid = show()["pid"]
with open(env.mnt + "/f", "rb") as held:
    done = tenant.keyctl("lock", "env", ok=(1,))
    check("is locked, its keys wiped" in done.stdout and "No space left" in done.stdout, "words: " + done.stdout)
    try:
        os.pread(held.fileno(), 100, 0)
        fail("a held file is read after the lock")
    except OSError:
        pass
check(not mounted(env.mnt), "not mounted")
wait_for(lambda: not os.path.exists("/proc/%d" % pid), "the worker's end")
equal(show()["state"], "locked", "state")
tenant.keyctl("env", "mount", "env", ok=(3, 6))
tenant.keyctl("unlock", "env", ok=(1, 3))               # that is recorded or not done
check(not mounted(env.mnt), "still locked")
os.truncate(state + "/rest", 0)
other.execute("DROP TABLE filler")
other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
other.close()
wait_for(lambda: sqlite3.connect(state + "/registry.db").execute("SELECT state FROM environment").fetchall() == [(2,)], "the registry's entry")
tenant.process.kill()
tenant.process.wait()
tenant.start()
equal((show()["state"], mounted(env.mnt)), ("locked", False), "locked after a restart")
equal(attention(), "", "nothing is owed")

print("what the registry does not take in the middle of an unlock is not left mounted")
for column in "state", "epoch":
    with sqlite3.connect(state + "/registry.db", isolation_level=None) as other:
        other.execute("CREATE TRIGGER no BEFORE UPDATE OF %s ON environment BEGIN SELECT RAISE(ABORT, 'no'); END" % column)
        check("registry" in tenant.keyctl("unlock", "env", ok=(1,)).stdout, "the registry fails")
        equal((show()["state"], mounted(env.mnt)), ("locked", False), "still locked")
        other.execute("DROP TRIGGER no")
    other.close()
tenant.keyctl("unlock", "env")
intact()
