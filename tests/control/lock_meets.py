"""A lock that comes in the middle of everything else, under a PostgreSQL at work where there is one: it ends locked, with no worker and no
mount, whatever it met; nothing that was acknowledged as synced is lost; and lock.on_lock is run, as whom and for as long as it says."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *
from postgres import balanced, make_server

ROUNDS = int(os.environ.get("TDEFS_ROUNDS") or (20 if LONG else 6))
need("pgrep")
base = scratch()
allow_in_log("not left clean", "refused:", "loop ended")
flags = tempfile.mkdtemp(prefix="tdefs-flags-")
os.chmod(flags, 0o777)
undo(shutil.rmtree, flags, True)
HOOK = ("case $TDEFS_ENVIRONMENT in slow) sleep 1000 ;; fails) exit 3 ;; who) id -u >%(f)s/who; env >%(f)s/env ;; "
        "db) [ ! -e %(f)s/stop ] || /usr/lib/postgresql/15/bin/pg_ctl -D $TDEFS_MOUNTPOINT/data -m fast -w -t 60 stop ;; esac" % {"f": flags})
user = "postgres" if run("id", "postgres", ok=None).returncode == 0 else "nobody"
tenant = Tenant(base, guards() + ' lock: { timeout = "20s"; on_lock = "%s"; on_lock_user = "%s"; on_lock_timeout = "60s"; };\n'
                'mount: { restart_limit = 1000; restart_delay = "10ms"; };' % (HOOK, user)).start()


def start(*arguments):
    return subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def ended(process, *statuses):
    out = process.communicate(timeout=150)[0]
    check(process.returncode in statuses, "%s: exit status %d: %s" % (" ".join(process.args[3:]), process.returncode, out))
    return out


def locked(env, what):
    e = tenant.env(env.name)
    equal((e["state"], e["pid"], mounted(env.mnt)), ("locked", 0, False), "after a lock that met " + what)
    equal(run("pgrep", "-f", "tdefs-mount --name %s --store %s" % (env.name, e["store"]), ok=None).stdout, "", "workers left after " + what)


class Files:
    """Where there is no PostgreSQL: a process that writes, syncs, and says what is synced."""

    def __init__(self, mnt):
        self.mnt, self.ledger = mnt, tempfile.TemporaryFile()
        self.pid = os.fork()
        if self.pid == 0:
            n, held = 0, os.open(mnt, os.O_RDONLY)
            try:
                while True:
                    with open("%s/f%d" % (mnt, n % 7), "wb") as f:
                        f.write(b"%d " % n * 3000)
                        f.flush()
                        os.fsync(f.fileno())
                    os.pwrite(self.ledger.fileno(), b"%10d" % n, 0)
                    n += 1
            except OSError:
                os._exit(0)
            finally:
                os._exit(1)

    def end(self):
        """The lock ended it; returns how far it was."""
        equal(os.waitpid(self.pid, 0)[1], 0, "the writer got an error")
        return int(os.pread(self.ledger.fileno(), 10, 0) or b"-1")

    def verify(self, last):
        """Write n went to file n % 7, whole; a later one to the same file may have cut it off, unsynced."""
        for n in range(max(0, last - 3), last + 1):
            with open("%s/f%d" % (self.mnt, n % 7), "rb") as f:
                data = f.read()
            equal(data, b"%d " % n * 3000, "the file of write %d" % n)


# ---- under PostgreSQL ----

def meet(what, env):
    """One lock, and what it meets. Whether the tenant's lock was it."""
    if what == "two locks":
        both = [start("lock", env.name) for _ in range(2)]
        out = [ended(p, 0, 6) for p in both]
        check(any(p.returncode == 0 for p in both), "one of two locks: %s" % out)
    elif what == "a rotation":
        rotation = start("rotate", env.name)
        time.sleep(0.05)
        ended(start("lock", env.name), 0)
        ended(rotation, 0, 1, 6)
    elif what == "a scrub":
        scrub = start("scrub", env.name)
        time.sleep(0.05)
        ended(start("lock", env.name), 0)
        ended(scrub, 0, 1, 6)
    elif what == "a keeper's kill":
        lock = start("lock", env.name)
        wait_for(lambda: tenant.env(env.name)["state"] == "locked", "the lock to begin")
        tenant.process.kill()
        tenant.process.wait()
        ended(lock, 0, 1, 5)
        tenant.start()
    elif what == "a worker's kill":
        lock = start("lock", env.name)
        pid = tenant.env(env.name)["pid"]
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        ended(lock, 0)
    elif what == "lock.on_lock":
        open(flags + "/stop", "w").close()
        out = ended(start("lock", env.name), 0)
        os.unlink(flags + "/stop")
        check("had files open" not in out, "the engine was stopped first: " + out)
    elif what == "an activation":
        tenant.keyctl("env", "apply-key", env.name, "--yes", ok=(0, 1, 3))
        name = "two" if tenant.key("one")["state"] == "Active" else "one"
        activation = start("key", "activate", name, "--yes")
        time.sleep(0.05)
        ended(start("lock", env.name), 0)
        ended(activation, 0, 3)
    elif what == "the tenant's lock":
        active = next(k for k in KEYS if tenant.key(k)["state"] == "Active")
        tenant.lock(KEYS[active])
        return active
    else:
        ended(start("lock", env.name), 0)


KEYS = {}
MEETINGS = ["pgbench", "a rotation", "lock.on_lock", "a keeper's kill", "a scrub", "two locks", "a worker's kill", "an activation"]
for name in "one", "two":
    KEYS[name] = KeyFile(base, name)
    tenant.keyctl("key", "upload", name, *KEYS[name].given())
db = Environment(tenant, "db").start()
if shutil.which("pgbench") or os.path.exists("/usr/lib/postgresql/15/bin/pgbench"):
    need("initdb", "pg_ctl", "pgbench", "psql")
    server = make_server(db.mnt, "shared_buffers = '16MB'")
    server.do("pgbench", "-i", "-q", "-s", "2")
    server.sql("create table acked (n int primary key)")
    for n in range(ROUNDS):
        what = MEETINGS[n % len(MEETINGS)]
        if n == ROUNDS - 1:
            what = "the tenant's lock"
        load = threading.Thread(target=server.do, args=("pgbench", "-n", "-c", "4", "-j", "2", "-T", 600), kwargs={"ok": None})
        before = int(server.sql("select count(*) from pgbench_history"))
        load.start()
        wait_for(lambda: int(server.sql("select count(*) from pgbench_history")) > before + 100, "pgbench at work")
        server.sql("insert into acked values (%d)" % n)
        counted = int(server.sql("select count(*) from pgbench_history"))
        pids = server.pids()
        active = meet(what, db)
        locked(db, what)
        server.kill(pids)        # what the lock took the files from would end by itself in time; nothing else may wait for that
        load.join()
        if active:
            tenant.patiently("key", "unlock", active, *KEYS[active].given())
            tenant.keyctl("env", "unlock", "db", "--yes")
        else:
            tenant.keyctl("unlock", "db")
        server.start()
        shut_down = "database system was shut down at" in server.text().rsplit("starting PostgreSQL", 1)[-1]
        equal(shut_down, what == "lock.on_lock", "whether PostgreSQL had been stopped before the lock")
        equal(server.sql("select count(*) from acked"), str(n + 1), "what was acknowledged")
        check(int(server.sql("select count(*) from pgbench_history")) >= counted, "transactions that others had seen are gone")
        balanced(server)
        print("round %d under pgbench: met %s" % (n + 1, what), flush=True)
    server.stop("fast")
    tenant.keyctl("scrub", "db")

# ---- one beside another ----

print("what lock.on_lock is told, as whom it runs, and what is said when it fails")
for name in "who", "fails":
    env = Environment(tenant, name).start()
    out = tenant.keyctl("lock", name).stdout
    locked(env, "on_lock")
    equal("lock.on_lock ended with status 3" in out, name == "fails", "what the lock says: " + out)
with open(flags + "/who") as f:
    equal(f.read().strip(), run("id", "-u", user).stdout.strip(), "the user that it runs as")
with open(flags + "/env") as f:
    told = dict(line.split("=", 1) for line in f.read().splitlines())
equal({k: told.get(k) for k in ("TDEFS_ENVIRONMENT", "TDEFS_MOUNTPOINT")},
      {"TDEFS_ENVIRONMENT": "who", "TDEFS_MOUNTPOINT": base + "/who.mnt"}, "its variables")
check(set(told) <= {"TDEFS_ENVIRONMENT", "TDEFS_MOUNTPOINT", "PATH", "PWD", "SHLVL", "_"}, "no others: %r" % told)
entry = [e for e in tenant.json("audit")["entries"] if e["request"] == "EnvLock" and e["object"] == "fails"]
check(any("lock.on_lock ended with status 3" in e["detail"] for e in entry), "the audit entry says so: %r" % entry)

print("mounting and unmounting")
env = Environment(tenant, "meets").start()
for n in range(30 if LONG else 6):
    for other, statuses in (("unmount", (0, 1, 6)), ("mount", (0, 1, 6))):
        if tenant.env("meets")["state"] == "locked":
            tenant.keyctl("unlock", "meets")
        if other == "mount":
            tenant.keyctl("env", "unmount", "meets")
        else:
            with open(env.mnt + "/file", "w") as f:
                f.write("round %d" % n)
                os.fsync(f.fileno())
        one = start("env", other, "meets")
        time.sleep(0.004 * n)
        two = start("lock", "meets")
        ended(one, *statuses)
        ended(two, 0)
        locked(env, other)
    tenant.keyctl("unlock", "meets")
    with open(env.mnt + "/file") as f:
        equal(f.read(), "round %d" % n, "what was synced")

print("a worker that was just killed, and one that is stopped")
for sig in signal.SIGKILL, signal.SIGSTOP:
    pid = tenant.env("meets")["pid"]
    os.kill(pid, sig)
    if sig == signal.SIGSTOP:           # its keeper gives up on it after the time limit
        tenant.stop()
        with open(tenant.config) as f:
            text = f.read()
        with open(tenant.config, "w") as f:
            f.write(text.replace('timeout = "20s"', 'timeout = "1s"', 1))
        os.kill(pid, signal.SIGCONT)
        tenant.start()
        os.kill(pid, signal.SIGSTOP)
        waiting = []                    # more than its socket's queue takes: a further connect(2) would not come back
        try:
            for _ in range(100):
                s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                s.setblocking(False)
                s.connect(tenant.runtime + "/meets.worker")
                waiting.append(s)
            fail("the queue of the worker's socket has no end")
        except BlockingIOError:
            pass
    out = ended(start("lock", "meets"), 0)
    if sig == signal.SIGSTOP:
        check("did not answer and was killed" in out, "the lock says what it did: " + out)
        tenant.stop()
        with open(tenant.config, "w") as f:
            f.write(text)
        tenant.start()
    locked(env, sig.name)
    tenant.keyctl("unlock", "meets")

print("a full disk")
full = loop_ext4(base, 48 << 20, "full")
if full:
    env = Environment(tenant, "full")
    tenant.keyctl("env", "create", "full", "--mountpoint", env.mnt, "--store", full + "/store")
    with open(env.mnt + "/synced", "wb") as f:
        f.write(b"synced " * 100000)
        os.fsync(f.fileno())
    run("dd", "if=/dev/zero", "of=" + full + "/ballast", "bs=1M", "count=1", "conv=fsync")
    run("dd", "if=/dev/urandom", "of=" + env.mnt + "/fill", "bs=64k", "count=1200", "conv=fsync", ok=(0, 1))
    tenant.keyctl("lock", "full")
    locked(env, "a full disk")
    if tenant.keyctl("unlock", "full", ok=None).returncode != 0:
        check("the store's disk is full" in tenant.keyctl("unlock", "full", ok=(1,)).stdout, "a full disk is called by its name")
        os.unlink(full + "/ballast")
        tenant.keyctl("unlock", "full")
    with open(env.mnt + "/synced", "rb") as f:
        equal(f.read(), b"synced " * 100000, "what was synced, after a full disk")
    tenant.keyctl("scrub", "full")

print("twenty at once")
MANY = 20
many = [Environment(tenant, "n%02d" % k).start() for k in range(MANY)]
for way in "each", "the tenant":
    writers = [Files(e.mnt) for e in many]
    time.sleep(1)
    if way == "each":
        for p in [start("lock", e.name) for e in many]:
            ended(p, 0)
    else:
        active = next(k for k in KEYS if tenant.key(k)["state"] == "Active")
        tenant.lock(KEYS[active])
    last = [w.end() for w in writers]
    for e in many:
        locked(e, "twenty at once, " + way)
    if way != "each":
        named = {e["object"] for e in tenant.json("audit")["entries"] if e["request"] == "TenantLock" and
                 re.search("had files open: (python3|processes that could not be listed in time)", e["detail"])}
        check({e.name for e in many} <= named, "an audit entry for each, with who had files open: %r" % named)
        tenant.patiently("key", "unlock", active, *KEYS[active].given())
    for e, w, n in zip(many, writers, last):
        tenant.keyctl("env", "unlock", e.name, "--yes") if way != "each" else tenant.keyctl("unlock", e.name)
        check(n >= 0, "the writer of %s wrote" % e.name)
        w.verify(n)
