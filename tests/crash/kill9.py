"""Worker, keeper, or both killed at random moments under load, that of SQLite and PostgreSQL among it: the engines recover, and what
was acknowledged is there afterwards. Then an old header is put
back, which the keeper's memory of epochs refuses."""
import os
import random
import shutil
import signal
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

KILLS = int(os.environ.get("TDEFS_KILLS") or (300 if LONG else 15))
PIECE = 30                                          # after so many kills everything is verified and begins anew: what is checked stays small
base = scratch()
allow_in_log("not left clean")
seed_chance()
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


class PostgreSQL:
    """A cluster on the environment; none of it outlives a death of the worker."""

    def __init__(self, data):
        self.data, self.sockets = data, tempfile.mkdtemp(prefix="tdefs-pg-")
        undo(shutil.rmtree, self.sockets, True)
        shutil.chown(self.sockets, "postgres")
        os.mkdir(data)
        shutil.chown(data, "postgres")
        self.do("initdb", "-D", data, "-k", "--no-sync", "--locale=C")
        self.settings = "-c listen_addresses='' -c unix_socket_directories=%s -c checkpoint_timeout=30s" % self.sockets
        self.pids, self.safe = [], set()
        undo(self.end)

    def how(self, **more):
        return dict(more, preexec_fn=as_user("postgres"), cwd="/", env=dict(os.environ, LC_ALL="C", PGHOST=self.sockets, PGUSER="postgres"))

    def do(self, *argv, **more):
        return run(*argv, **self.how(**more))

    def start(self):
        log = open(self.sockets + "/start", "a")
        self.do("pg_ctl", "-D", self.data, "-w", "-l", self.sockets + "/log", "-o", self.settings, "start", stdout=log, stderr=log)
        with open(self.data + "/postmaster.pid") as f:
            self.pids = [int(f.readline())]

    def write(self, first):
        """Commits row after row; the rows come back as they are safe."""
        with open(self.sockets + "/rows", "w") as f:
            f.write("create table if not exists t (k integer primary key, b text);\n")
            f.writelines("insert into t values (%d, repeat('%d ', 300)) returning k;\n" % (k, k) for k in range(first, first + 5000))
        return subprocess.Popen(["psql", "-X", "-q", "-A", "-t", "-d", "postgres", "-f", self.sockets + "/rows"],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **self.how())

    def end(self):
        for pid in self.pids + [int(p) for p in run("pgrep", "-P", self.pids[0], ok=None).stdout.split()] if self.pids else []:
            try:
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: not os.path.exists("/proc/%d" % pid), "the server's end")
            except ProcessLookupError:
                pass
        self.pids = []

    def check(self, where):
        rows = {int(k) for k in self.do("psql", "-X", "-q", "-A", "-t", "-d", "postgres", "-c", "select k from t").stdout.split()}
        check(self.safe <= rows, "%s: committed rows are gone: %s" % (where, sorted(self.safe - rows)[:5]))
        return max(rows) + 1


def writer(source, path, first):
    return subprocess.Popen([sys.executable, "-c", source, path, str(first)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)


log_next = sql_next = 1
log_safe = {}                                     # record number -> acknowledged
sql_safe = set()
need("initdb", "pg_ctl", "psql")
pg = PostgreSQL(env.mnt + "/pg")
pg.start()
pg_next = 1
totals = [0, 0, 0]


def tally():
    for k, safe in enumerate((log_safe, sql_safe, pg.safe)):
        totals[k] += len(safe)
        safe.clear()


for kill in range(KILLS):
    if kill and kill % PIECE == 0:
        tally()
        run(BIN + "/keyctl", "--socket", keeper.socket, "scrub", "env")
        for name in os.listdir(env.mnt):
            if name.split("-")[0] in ("log", "db"):
                os.unlink(env.mnt + "/" + name)
        pg.do("psql", "-X", "-q", "-d", "postgres", "-c", "drop table t")
        log_next = sql_next = pg_next = 1
        print("%d kills, %d synced records, %d rows committed to SQLite, %d to PostgreSQL, none lost" % (kill, *totals), flush=True)
    writers = [writer(LOG, env.mnt + "/log", log_next), writer(SQL, env.mnt + "/db", sql_next)]
    writers.append(pg.write(pg_next))
    seen = [w.stdout.readline() for w in writers]
    time.sleep(random.random() * 0.3)             # the moment is random, nothing depends on it
    what = ("worker", "keeper", "both")[kill % 3]
    pid = keeper.json("env", "show", "env")["pid"] if what != "keeper" else 0
    lives = what == "keeper"
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
    pg.safe.update(done[2])
    if not lives:
        pg.end()
    wait_for(lambda: keeper.json("env", "show", "env")["state"] == "mounted" and mounted(env.mnt) and os.path.exists(env.mnt + "/pg"),
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
    if not lives:
        pg.start()
    pg_next = pg.check("kill %d of %s" % (kill, what))
    log_next = max([*log_safe, *counted, 0]) + 1
    sql_next = max(there | {0}) + 1
tally()
print("%d kills, %d synced records, %d rows committed to SQLite, %d to PostgreSQL, none lost" % (KILLS, *totals))
pg.do("pg_ctl", "-D", env.mnt + "/pg", "-m", "fast", "-w", "stop")
pg.do("pg_checksums", "--check", "-D", env.mnt + "/pg")
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
