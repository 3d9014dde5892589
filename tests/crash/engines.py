#!/usr/bin/python3
"""SQLite and PostgreSQL commit on a real mount while every change below is recorded; crash states are built from the records, verified
block by block, and each engine's own check is run on what it finds there: every commit that was acknowledged before the power went
has to be there. To some states tdefs-fsck is put as the crash left them; some are read by the independent Python reader, mounted and
scrubbed, too."""
import os
import random
import shutil
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *
from states import *

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tools")
# TDEFS_STATES: so many of PostgreSQL, and as many times more of SQLite as in the normal run.
STATES = {"sqlite": 150, "postgresql": 16}
wanted = int(os.environ.get("TDEFS_STATES") or (500 if LONG else STATES["postgresql"]))
STATES = {engine: n * wanted // STATES["postgresql"] for engine, n in STATES.items()}
SLOW_EACH = 50                                      # of SQLite's states: reader, mount, scrub
FSCK_EACH = 10
seed = random.randrange(1 << 32)
print("seed", seed)
random.seed(seed)
base = scratch()
memory = memory_directory()


class Recorded(Worker):
    """A worker whose store's changes are recorded from its start on."""

    def start(self):
        self.recording = Recording(memory, self.name, self.key)
        self.program = self.recording.program
        self.recording.begin()
        super().start()
        self.recording.end()
        return self


def store_of(name):
    """A store that a tdefsd made: its platform key opens it for tdefs-fsck."""
    env = Environment(tenant, name).start()
    env.stop()
    with open(os.path.join(base, name + ".key"), "w") as f:
        f.write(tenant.environment_key(env.store).hex())
    return env.store


# ---- SQLite ----

def record_sqlite():
    # So short that on a fast machine, too, files are sealed between two commits, and intents needed.
    env = Recorded(base, "sqlite", store=store_of("sqlite"), arguments=["--seal-interval", "5ms"]).start()
    acknowledged, first = [], None
    for name, journal in (("wal", "WAL"), ("rollback", "DELETE")):
        db = sqlite3.connect(env.mnt + "/" + name, isolation_level=None)
        db.execute("PRAGMA journal_mode = " + journal)
        # FULL does not sync the directory after the rollback journal's end: a commit may be undone (sqlite.org/pragma.html).
        db.execute("PRAGMA synchronous = " + ("FULL" if journal == "WAL" else "EXTRA"))
        db.execute("PRAGMA wal_autocheckpoint = 20")
        db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER, b BLOB)")
        for k in range(60):
            first = first or env.recording.recorded()
            db.execute("INSERT INTO t VALUES (?, 0, ?)", (k, bytes([k]) * random.randrange(1, 9000)))
            acknowledged.append(((name, k), env.recording.recorded()))
            if k % 7 == 6:
                db.execute("UPDATE t SET n = n + 1 WHERE k >= ?", (k - 6,))
    env.kill()
    return env, acknowledged, first


def check_sqlite(plain, must, where):
    for name in ("wal", "rollback"):
        path = plain + "/" + name
        want = {k for n, k in must if n == name}
        if not os.path.exists(path):
            check(not want, where + ": the database is gone")
            continue
        db = sqlite3.connect(path)
        equal(db.execute("PRAGMA integrity_check").fetchone()[0], "ok", where + ": SQLite's own check")
        made = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 't'").fetchone()[0]
        there = {k for k, b in db.execute("SELECT k, b FROM t") if b == bytes([k]) * len(b)} if made else set()
        check(want <= there, "%s: committed rows are gone: %s" % (where, sorted(want - there)[:5]))
        db.close()


def is_found(states, acknowledged, number, plant):
    try:
        cut, where = states.build(number, plant)
        check_sqlite(states.plain, promised(acknowledged, cut), where)
    except (AssertionError, sqlite3.DatabaseError):
        return True
    return False


def sqlite_states():
    env, acknowledged, first = record_sqlite()
    states = States(env.recording, tenant.state + "/platform.key", first)
    for number in range(STATES["sqlite"]):
        if number % FSCK_EACH == 0:
            states.leave(number)
            states.fsck(*["--repair", "--yes"][:number // FSCK_EACH % 2 * 2])
        cut, where = states.build(number)
        slow = number % SLOW_EACH == 0
        if slow:
            run(sys.executable, TOOLS + "/tdefs_reader.py", states.store, env.key)
            mount = Worker(base, "again%d" % number, store=states.store)
            shutil.copy(env.key, mount.key)
            mount.start()
            check_sqlite(mount.mnt, promised(acknowledged, cut), "mounted, " + where)
            mount.client("scrub", "start")
            wait_for(lambda: mount.status()["scrub"].startswith("0/"), "the scrub's end")
            check(mount.status()["scrub"].endswith("/0"), where + ": scrub: " + mount.status()["scrub"])
            mount.stop()
        check_sqlite(states.plain, promised(acknowledged, cut), where)
    print("SQLite: %d crash states (%d loose), %d commits, %d blocks re-sealed: 0 violations" % (
        STATES["sqlite"], len(states.loose), len(acknowledged), states.resealed))
    for plant in ("an fsync of content does nothing", "an intent is not made durable"):
        found = next((n for n in range(600) if is_found(states, acknowledged, n, plant)), None)
        check(found is not None, "planted and not found: " + plant)
        print("planted: %s: found in %d states" % (plant, found + 1))


# ---- PostgreSQL ----

def postgres(*argv, **more):
    return run(*argv, preexec_fn=as_user("postgres"), cwd="/", env=dict(os.environ, LC_ALL="C", PGHOST=sockets, PGUSER="postgres"), **more)


def record_postgresql():
    store = store_of("postgresql")
    env = Worker(base, "postgresql", store=store, arguments=["--seal-interval", "200ms"]).start()
    data = env.mnt + "/data"
    os.mkdir(data)
    shutil.chown(data, "postgres")
    postgres("initdb", "-D", data, "-k", "--no-sync", "--locale=C")
    env.stop()
    env = Recorded(base, "postgresql", store=store, arguments=["--seal-interval", "200ms"]).start()
    settings = "-c listen_addresses='' -c unix_socket_directories=%s -c max_wal_size=64MB -c checkpoint_timeout=30s" % sockets
    postgres("pg_ctl", "-D", data, "-w", "-l", sockets + "/log", "-o", settings, "start", stdout=subprocess.DEVNULL)
    with open(data + "/postmaster.pid") as f:
        server = int(f.readline())
    psql = subprocess.Popen(["psql", "-X", "-q", "-A", "-t", "-d", "postgres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            preexec_fn=as_user("postgres"), cwd="/", env=dict(os.environ, PGHOST=sockets, PGUSER="postgres"))

    def ask(sql):
        psql.stdin.write(sql + "\n")
        psql.stdin.flush()
        return psql.stdout.readline()

    equal(ask("create extension amcheck; create table t (k integer primary key, b text); create index on t (b); select 'made';"), "made\n",
          "a table")
    acknowledged, first = [], env.recording.recorded()
    for k in range(200):
        equal(ask("insert into t values (%d, repeat('%d ', 200)) returning k;" % (k, k)), "%d\n" % k, "a row")
        acknowledged.append((k, env.recording.recorded()))
        if k % 50 == 49:
            ask("update t set b = b || '.'; checkpoint; select 1;")
    psql.stdin.close()
    psql.wait()
    env.kill()
    os.kill(server, signal.SIGQUIT)                 # it has lost its files; its children see to themselves
    wait_for(lambda: not os.path.exists("/proc/%d" % server), "the server's end")
    return env, acknowledged, first


def postgresql_states():
    env, acknowledged, first = record_postgresql()
    states = States(env.recording, tenant.state + "/platform.key", first)
    for number in range(STATES["postgresql"]):
        if number % FSCK_EACH < 2:
            states.leave(number)
            states.fsck(*["--repair", "--yes"][:number % 2 * 2])
        cut, where = states.build(number)
        data = states.plain + "/data"
        run("chown", "-R", "postgres", data)
        if os.path.exists(data + "/postmaster.pid"):
            os.unlink(data + "/postmaster.pid")
        # Single-user mode recovers from the log like a server, and takes its questions from stdin.
        asked = subprocess.run(["postgres", "--single", "-D", data, "-c", "fsync=off", "postgres"], input=b"select array_agg(k) from t\n"
                               b"select count(*) from pg_class where pg_relation_size(oid) >= 0\n"
                               b"select bt_index_check(indexrelid, true) from pg_index where indrelid = 't'::regclass\n",
                               capture_output=True, cwd="/", preexec_fn=as_user("postgres"), env=dict(os.environ, LC_ALL="C"))
        text = (asked.stdout + asked.stderr).decode(errors="replace")
        check(asked.returncode == 0 and "PANIC" not in text and "ERROR" not in text, where + ": PostgreSQL: " + text)
        rows = {int(k) for k in text.split("{", 1)[1].split("}", 1)[0].split(",")} if "{" in text else set()
        must = promised(acknowledged, cut)
        check(must <= rows, "%s: committed rows are gone: %s" % (where, sorted(must - rows)[:5]))
        postgres("pg_checksums", "--check", "-D", data)
    print("PostgreSQL: %d crash states (%d loose), %d commits, %d blocks re-sealed: 0 violations" % (
        STATES["postgresql"], len(states.loose), len(acknowledged), states.resealed))


tenant = Tenant(base).start()
sqlite_states()
need("initdb", "pg_ctl", "psql", "pg_checksums")
sockets = tempfile.mkdtemp(prefix="tdefs-pg-")
shutil.chown(sockets, "postgres")
undo(shutil.rmtree, sockets, True)
postgresql_states()
