"""The power goes in the middle of rotations of both kinds, under PostgreSQL at work. The rotations run on a real mount while every change
below is recorded; of the records crash states are built, cut at random moments of each. Each state opens with the key that it says,
the next worker goes on with the rotation, and PostgreSQL recovers on the mount beside it and works on: every transaction that had been
acknowledged is there, its own checks find nothing, neither does the scrub; and in the end no file is under the old key any more."""
import os
import random
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *
from postgres import Load, Server, make_server
from states import *

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tools")
# By kind: keyctl's arguments, and what half of the cuts come soon after a write to, so that more of them meet it half done.
KINDS = {"rotate": ((), None), "rotate --data": (("--data",), "rotate.journal")}
STATES = int(os.environ.get("TDEFS_STATES") or (200 if LONG else 3))    # of each kind
RECORDING = 25                                      # so many of each kind from one recording
RATE = 300                                          # transactions a second: what is recorded is not to grow without end
FSCK_EACH, TWICE_EACH, READ_EACH = 3, 3, 20        # states of a kind
PLANTS = ("blocks are called the new key's before the journal has them",
          "a record is taken back when its blocks are called the new key's, their data not synced")
need("initdb", "pg_ctl", "pgbench", "psql", "pg_checksums", "pg_amcheck", "pgrep")
seed = random.randrange(1 << 32)
print("seed", seed)
random.seed(seed)
base = scratch()
allow_in_log("not left clean")
memory = memory_directory()
tenant = Tenant(base, 'worker = "%s";\nmount: { seal_interval = "200ms"; };' % Recording.program).start()
env = Environment(tenant).start()
# Little log: what is there is copied for each state, and encrypted again.
server = make_server(env.mnt, "shared_buffers = '16MB'\nmin_wal_size = '2MB'\nmax_wal_size = '8MB'", "--wal-segsize=1")
server.do("pgbench", "-i", "-q", "-s", "1")
server.sql("create extension amcheck")
server.stop()
env.stop()
tenant.stop()


class Recorded:
    """Both kinds of rotation under pgbench."""

    def __init__(self, name):
        self.recording, self.windows, self.old_keys = Recording(memory, name), {}, {}
        self.recording.begin()
        tenant.start()
        tenant.keyctl("env", "mount", "env")
        self.recording.end()
        server.start()
        self.recording.follow()
        self.load = Load(server, RATE)
        for kind, (arguments, _) in KINDS.items():
            before, version = self.recording.recorded(), tenant.env("env")["key_version"]
            self.old_keys[kind] = tenant.environment_key(env.store).hex()
            tenant.keyctl("rotate", "env", *arguments)
            equal(tenant.env("env")["key_version"], version + 1, "the key's version")
            time.sleep(0.1)                       # cuts right after it, too
            self.windows[kind] = (before, self.recording.recorded())
        self.load.end()
        self.recording.unfollow()
        self.acknowledged = acknowledged(self.load, self.recording)
        server.stop()
        env.stop()
        tenant.stop()
        print("%s: %d transactions; changes during rotations: %s" % (name, len(self.acknowledged), ", ".join(
            "%s %d KiB" % (kind, (b - a) >> 10) for kind, (a, b) in self.windows.items())), flush=True)


class Met:
    """What crash states were like."""

    def __init__(self):
        self.states = self.begun = self.half = self.journal = self.twice = self.loose = self.promised = self.resealed = 0


def acknowledged(load, recording):
    return [(what, recording.recorded_at(when)) for what, when in load.acknowledged()]


def header(store, *names):
    """Numbers in the environment header."""
    with open(store + "/tdefs.env") as f:
        text = f.read()
    return [int(found.group(1)) if (found := re.search(r"^%s = (\d+)" % name, text, re.M)) else 0 for name in names]


def under_way(store):
    with open(store + "/tdefs.env") as f:
        text = f.read()
    return "previous_version" in text or "data_rotating = true" in text


def versions(store):
    """By file: of the environment key in both key records, and of the data."""
    found = []
    for path in lower_files(store):
        with open(path, "rb") as f:
            sector = f.read(512)
        found.append(tuple(struct.unpack_from("<I", sector, at)[0] for at in (40, 84, 128)))
    return found


def key_of(store, path):
    with open(path, "w") as f:
        f.write(tenant.environment_key(store).hex())
    return path


def look(store, words, met):
    """At a state as the crash left it."""
    met.states += 1
    met.loose += " loose " in words
    met.begun += under_way(store)
    met.half += under_way(store) and len(set(versions(store))) > 1
    if os.path.exists(store + "/rotate.journal"):
        with open(store + "/rotate.journal", "rb") as f:
            met.journal += f.read(7) == b"TDEFSJ1"


def ended(worker):
    status = worker.status()
    equal(status["rotate_error"], "0", "the rotation's error\n" + worker.log())
    return status["rotating"] == status["rotating_data"] == "0"


def go_on(worker, promises, where):
    """On a state that is mounted: PostgreSQL recovers while the rotation goes on, to its end. What pgbench did meanwhile."""
    after = Server(worker.mnt + "/data", server.runtime)
    if os.path.exists(after.data + "/postmaster.pid"):
        os.unlink(after.data + "/postmaster.pid")     # its process is none of this machine's any more
    mark = len(after.text())
    after.start()
    for load, promise in promises:
        load.holds(after, promise, where)
    load = Load(after, RATE)
    wait_for(lambda: ended(worker), where + ": the rotation to end", 300)
    load.end()
    for other, promise in promises:
        other.holds(after, promise, where)
    after.do("pg_amcheck", "--all", "--heapallindexed")
    after.stop()
    for bad in ("PANIC", "ERROR", "could not open", "could not read", "could not write", "could not create", "could not fsync"):
        check(bad not in after.text()[mark:], "%s: in PostgreSQL's log: %s\n%s" % (where, bad, after.text()[mark:]))
    after.do("pg_checksums", "--check", "-D", after.data)
    worker.client("scrub", "start")
    wait_for(lambda: worker.status()["scrub"].startswith("0/"), "the scrub's end")
    check(worker.status()["scrub"].endswith("/0") and worker.status()["refused"] == "0", "%s: scrub: %s" % (where, worker.status()))
    return load


def over(store, version, data_version, where):
    """Everything is under the last key, and nothing under another."""
    check(not under_way(store) and "rotate.journal" not in os.listdir(store), where + ": the rotation is over")
    equal(set(versions(store)), {(version, 0, data_version)}, where + ": versions of the key in both records, and of the data")


def cut(states, number, promises, met, again):
    """promises: by load, transactions with the bytes of the log by which they were acknowledged. again: the power goes once more
    while the rotation goes on."""
    at, where = states.leave(number)
    print(where, flush=True)
    look(states.store, where, met)
    if number % FSCK_EACH == 0:
        states.fsck(*["--repair", "--yes"][:number // FSCK_EACH % 2 * 2])
        states.leave(number)
    promises = [(load, promised(given, at)) for load, given in promises]
    version, data_version = header(states.store, "key_version", "data_version")
    worker = Worker(base, "state", store=states.store)
    key_of(worker.store, worker.key)
    recording = Recording(memory, "again")
    if again:
        worker.program = recording.program
        recording.begin()
        recording.follow()
    worker.start()
    recording.end()
    load = go_on(worker, promises, where)
    met.promised += sum(len(promise) for _, promise in promises)
    met.resealed += int(worker.status()["resealed"])
    worker.stop()
    over(worker.store, version, data_version, where)
    if again:
        recording.unfollow()
        met.twice += 1
        more = [(other, [(what, 0) for what in promise]) for other, promise in promises] + [(load, acknowledged(load, recording))]
        cut(States(recording, states.platform_key, 0, name=states.name), number, more, met, False)
        recording.remove()
    return worker


def read(worker, old_key):
    """The independent reader opens everything with the key, and nothing with the one before, where there was one."""
    run(sys.executable, TOOLS + "/tdefs_reader.py", worker.store, worker.key)
    with open(worker.key) as f:
        rotated = f.read() != old_key
    with open(worker.key, "w") as f:
        f.write(old_key)
    done = run(sys.executable, TOOLS + "/tdefs_reader.py", worker.store, worker.key, ok=None)
    equal(done.returncode != 0, rotated, "the old key opens nothing: " + done.stdout)


def is_found(recorded, number, plant):
    """Whether this state, with this bug, is noticed by the library alone."""
    states = States(recorded.recording, tenant.state + "/platform.key", *recorded.windows["rotate --data"], "rotate.journal")
    states.leave(number, plant)
    recorded.recording.key = key_of(states.store, os.path.join(base, "planted.key"))
    return states.make(number, states.plain, plant).returncode == 1


tallies = {kind: Met() for kind in KINDS}
for n in range(0, STATES, RECORDING):
    recorded = Recorded("recording %d" % (n // RECORDING))
    for kind, window in recorded.windows.items():
        for number in range(n, min(n + RECORDING, STATES)):
            states = States(recorded.recording, tenant.state + "/platform.key", *window, KINDS[kind][1] if number % 2 else None)
            worker = cut(states, number, [(recorded.load, recorded.acknowledged)], tallies[kind], number % TWICE_EACH == 1)
            if number % READ_EACH == READ_EACH - 1:
                read(worker, recorded.old_keys[kind])
    if n == 0:
        for plant in PLANTS:
            found = next((k for k in range(50) if is_found(recorded, k, plant)), None)
            check(found is not None, "planted and not found: " + plant)
            print("planted: %s: found in %d states" % (plant, found + 1))
    recorded.recording.remove()
for kind, met in tallies.items():
    print("%s: %d crash states, %d of them cut again (%d loose): %d with a rotation under way, %d with files of both keys, "
          "%d with a record of the journal in force; %d transactions promised, %d blocks re-sealed: 0 violations" % (
              kind, met.states, met.twice, met.loose, met.begun, met.half, met.journal, met.promised, met.resealed))
check(all(met.begun for met in tallies.values()), "no cut met a rotation")
