"""Worker, keeper, or both killed at random moments under load: what was acknowledged is there afterwards. Then an old header is put
back, which the keeper's memory of epochs refuses."""
import os
import random
import shutil
import signal
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

KILLS = 150 if os.environ.get("TDEFS_LONG") else 9
base = scratch()
allow_in_log("not left clean")
seed = random.randrange(1 << 32)
print("seed", seed)
random.seed(seed)
keeper = Keeper(base, 'mount: { restart_limit = 1000; restart_delay = "10ms"; seal_interval = "200ms"; };').start()
env = Environment(keeper).start()

# Two writers, each a process: an append log with fsync, and SQLite with synchronous=FULL. Each says on its pipe what is safe.
LOG = r'''
import os, sys
path, first = sys.argv[1], int(sys.argv[2])
fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, b"\n")                               # what was cut off before stays a line of its own
for k in range(first, first + 1000000):
    os.write(fd, b"%015d\n" % k * (1 + k % 40))
    os.fsync(fd)
    print(k, flush=True)
'''
SQL = r'''
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL" if int(sys.argv[2]) % 2 else "PRAGMA journal_mode = DELETE")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, b BLOB)")
for k in range(int(sys.argv[2]), 1000000000):
    db.execute("INSERT INTO t VALUES (?, randomblob(3000))", (k,))
    print(k, flush=True)
'''


def writer(source, path, first):
    return subprocess.Popen([sys.executable, "-c", source, path, str(first)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)


log_next = sql_next = 1
log_safe = {}                                     # record number -> acknowledged
sql_safe = set()
for kill in range(KILLS):
    writers = [writer(LOG, env.mnt + "/log", log_next), writer(SQL, env.mnt + "/db", sql_next)]
    seen = [writers[0].stdout.readline(), writers[1].stdout.readline()]
    time.sleep(random.random() * 0.3)             # the moment is random, nothing depends on it
    what = ("worker", "keeper", "both")[kill % 3]
    pid = keeper.json("env", "show", "env")["pid"] if what != "keeper" else 0
    if what != "worker":
        keeper.process.kill()
        keeper.process.wait()
    if pid:
        os.kill(pid, signal.SIGKILL)
    else:
        time.sleep(0.05)
    if what != "worker":
        keeper.start()
    for w in writers:                             # a keeper's death alone nobody notices
        if what == "keeper":
            check(w.poll() is None, "the writers go on without a keeper")
            w.kill()
        w.wait(WAIT_S)
    done = [[int(line) for line in ([first] + w.stdout.readlines()) if line.endswith("\n")] for first, w in zip(seen, writers)]
    for k in done[0]:
        log_safe[k] = True
    sql_safe.update(done[1])
    wait_for(lambda: keeper.json("env", "show", "env")["state"] == "mounted" and mounted(env.mnt) and os.path.exists(env.mnt + "/log"),
             "the environment after the %s was killed" % what)
    with open(env.mnt + "/log", "rb") as f:
        found = f.read().split(b"\n")
    counted = {}
    for record in found:
        if len(record) == 15 and record.isdigit():
            counted[int(record)] = counted.get(int(record), 0) + 1
    for k in log_safe:
        check(counted.get(k, 0) >= 1 + k % 40, "kill %d of %s: record %d was synced and is not whole" % (kill, what, k))
    db = sqlite3.connect(env.mnt + "/db")
    equal(db.execute("PRAGMA integrity_check").fetchone()[0], "ok", "kill %d: SQLite's own check" % kill)
    there = {row[0] for row in db.execute("SELECT k FROM t")}
    check(sql_safe <= there, "kill %d of %s: committed rows are gone: %s" % (kill, what, sorted(sql_safe - there)[:5]))
    db.close()
    log_next = max([*log_safe, *counted, 0]) + 1
    sql_next = max(there | {0}) + 1
print("%d kills, %d synced records, %d committed rows" % (KILLS, len(log_safe), len(sql_safe)))
run(BIN + "/keyctl", "--socket", keeper.socket, "scrub", "env")
equal(keeper.json("env", "show", "env")["refused"], 0, "nothing was taken for tampering")

# The registry remembers the epoch, and whether it ended cleanly. Put back are the header of an epoch ago, and the header from
# while the last epoch lasted: with that one, slots and blocks of that time would pass for what a crash left.
def put_back(header, why):
    shutil.copy(header, env.store + "/tdefs.env")
    done = keeper.keyctl("env", "mount", "env", ok=None)
    check(done.returncode == 1 and "older" in done.stdout, why + ": " + done.stdout)


shutil.copy(env.store + "/tdefs.env", base + "/old")
env.remount()
shutil.copy(env.store + "/tdefs.env", base + "/during")
env.stop()
shutil.copy(env.store + "/tdefs.env", base + "/new")
put_back(base + "/old", "the header of an epoch ago is refused")
put_back(base + "/during", "the header from while the epoch lasted is refused")
shutil.copy(base + "/new", env.store + "/tdefs.env")
keeper.keyctl("env", "mount", "env")
env.stop()
put_back(base + "/old", "and again")
done = keeper.keyctl("env", "mount", "env", "--accept-older", "", ok=None)
check(done.returncode == 1 and "reason" in done.stdout, "no acceptance without a reason: " + done.stdout)
keeper.keyctl("env", "mount", "env", "--accept-older", "the backup of Monday")
check("the backup of Monday" in keeper.keyctl("audit").stdout, "the reason is in the audit log")
with open(env.mnt + "/log", "rb") as f:
    f.read()
env.remount()                                     # from here on that is what is remembered
