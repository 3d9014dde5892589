"""Rotations of both kinds under PostgreSQL at work, half of them cut off by kill -9 at a random moment: each comes to its end by itself,
and PostgreSQL, which recovers meanwhile, has all that was acknowledged."""
import os
import random
import signal
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *
from postgres import Load, make_server

ROUNDS = int(os.environ.get("TDEFS_ROUNDS") or (40 if LONG else 4))
need("initdb", "pg_ctl", "pgbench", "psql", "pg_checksums", "pg_amcheck", "pgrep")
base = scratch()
allow_in_log("not left clean")
seed_chance()
tenant = Tenant(base, 'mount: { restart_limit = 1000; restart_delay = "10ms"; };').start()
env = Environment(tenant).start()
# Little log: what is there is encrypted again as often as there are rounds.
server = make_server(env.mnt, "shared_buffers = '16MB'\nmin_wal_size = '2MB'\nmax_wal_size = '8MB'", "--wal-segsize=1")
server.do("pgbench", "-i", "-q", "-s", "1")
server.sql("create extension amcheck")


def rows():
    return int(server.sql("select count(*) from pgbench_history"))


def under_way(e):
    return e["rotating"] or e["rotating_data"]


def back(pid):
    """The environment is mounted again after that worker's death: what it says."""
    def look():
        e = tenant.env("env")
        return e if e["state"] == "mounted" and e["key_version"] and e["pid"] not in (0, pid) else None
    return wait_for(look, "the environment to be back")


def over():
    e = tenant.env("env")
    return e["state"] == "mounted" and e["key_version"] and not under_way(e)


def at_a_random_moment(kind, asked):
    """In a rotation of the data: by how far it is, for how long it takes depends on what else goes on. The other kind is too short to
    be asked: some time within what it took before."""
    if not kind:
        time.sleep(random.random() * 0.8 * took[kind])
        return
    percent = random.randrange(80)
    wait_for(lambda: asked.poll() is not None or (tenant.env("env")["rotate_phase"] == "data" and
                                                  tenant.env("env")["rotate_percent"] >= percent), "the moment to kill", 600)


took = {}                                         # seconds that the last rotation of that kind took, uncut
cut = 0                                           # kills that met a rotation
for n in range(ROUNDS):
    kind = ("--data",) if n % 2 else ()
    killed = n % 4 >= 2
    before, mark, load = tenant.env("env"), len(server.text()), Load(server)
    pids = server.pids()
    asked = subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, "rotate", "env", *kind], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    begun = time.monotonic()
    wait_for(lambda: under_way(tenant.env("env")) or asked.poll() is not None, "the rotation to begin")
    if killed:
        at_a_random_moment(kind, asked)
        os.kill(before["pid"], signal.SIGKILL)
        now = back(before["pid"])
        asked.communicate(timeout=WAIT_S)
        cut += under_way(now) or asked.returncode != 0
        server.kill(pids)
        server.start()
        load.verify()
        load = Load(server)                       # beside what is left of the rotation
    else:
        out = asked.communicate(timeout=600)[0]
        took[kind] = time.monotonic() - begun
        equal(asked.returncode, 0, "keyctl rotate: " + out)
    wait_for(over, "the rotation to end", 600)
    load.end()
    after = tenant.env("env")
    equal((after["key_version"], after["rotate_error"]), (before["key_version"] + 1, ""), "the key's version, and the rotation's error")
    equal(tenant.keyctl("rotate", "env", "--status").stdout.strip(), "env: no rotation is under way", "the status")
    equal(after["restarts"] - before["restarts"], int(killed), "restarts of the worker")
    if not killed:
        for bad in ("PANIC", "ERROR", "could not"):
            check(bad not in server.text()[mark:], "in PostgreSQL's log: %s\n%s" % (bad, server.text()[mark:]))
    print("round %d: rotate %s %s, %d rows" % (n + 1, " ".join(kind), "cut off" if killed else "took %.1f s" % took[kind], rows()), flush=True)
if ROUNDS >= 4:
    check(cut > 0, "no kill met a rotation")
    print("%d of %d kills met a rotation" % (cut, sum(n % 4 >= 2 for n in range(ROUNDS))))
server.do("pg_amcheck", "--all", "--heapallindexed")
server.stop()
server.do("pg_checksums", "--check", "-D", server.data)
tenant.keyctl("scrub", "env")
equal(tenant.env("env")["refused"], 0, "nothing was taken for tampering")
env.stop()
for path in lower_files(env.store):
    with open(path, "rb") as f:
        sector = f.read(512)
    equal([struct.unpack_from("<I", sector, at)[0] for at in (40, 84, 128)], [1 + ROUNDS, 0, ROUNDS // 2],
          "versions of the environment key in both records, and the rotation of the data, in " + path)
