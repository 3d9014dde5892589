#!/usr/bin/python3
"""LMDB on an environment: mapped files, loaded, copied, compacted, killed while loading, dumped the same; then a writer that
is killed again and again beside readers in other processes, writing with write(2) and through a shared writable mapping."""
import importlib.util
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

RECORDS = 200000 if tdefs.LONG else 20000
KILLS = 100 if tdefs.LONG else 4


def dump_text(first, count):
    head = "VERSION=3\nformat=bytevalue\ntype=btree\nmapsize=1073741824\nmaxreaders=126\nHEADER=END\n"
    lines = []
    for k in range(first, first + count):
        lines.append(" %s\n %s\n" % (("%012d" % k).encode().hex(), (("value %d " % k) * (1 + k % 40)).encode().hex()))
    return head + "".join(lines) + "DATA=END\n"


def records(path):
    """The dump's records without its head."""
    return tdefs.run("mdb_dump", path).stdout.split("HEADER=END\n", 1)[1]


def move(path, writemap, first, say):
    """Moves amounts between accounts, whose sum stays, and adds a value whose size is all over the place; says what is committed."""
    import lmdb
    with lmdb.open(path, map_size=1 << 28, writemap=writemap, max_dbs=2) as env:
        accounts, entries = env.open_db(b"accounts"), env.open_db(b"entries")
        for k in range(first, first + 1000000):
            with env.begin(write=True) as t:
                for account, change in ((k % 10, k), ((k * 7 + 1) % 10, -k)):
                    key = b"%d" % account
                    t.put(key, b"%d" % (int(t.get(key, b"1000", accounts)) + change), db=accounts)
                t.put(b"%012d" % k, value(k), db=entries)
                if k % 3 == 0:
                    t.delete(b"%012d" % (k - 30), db=entries)
            os.write(say, b"%d\n" % k)


def value(k):
    return (b"%08d" % k) * (1 + k * 37 % 900)


def verify(path, last=None):
    """A walk over everything in one snapshot: the sum, every value, and the last that was committed."""
    import lmdb
    with lmdb.open(path, map_size=1 << 28, max_dbs=2, readonly=True, create=False) as env:
        accounts, entries = env.open_db(b"accounts", create=False), env.open_db(b"entries", create=False)
        with env.begin() as t:
            amounts = [int(v) for _, v in t.cursor(accounts)]
            tdefs.equal(sum(amounts) - 1000 * len(amounts), 0, "the sum of %r" % amounts)
            seen = 0
            for key, v in t.cursor(entries):
                tdefs.check(v == value(int(key)), "the value of %r differs" % key)
                seen = int(key)
            tdefs.check(last is None or seen >= last, "the last is %d, but %s was committed" % (seen, last))
            return seen


def read_on(path, rounds):
    for _ in range(rounds):
        verify(path)


def kill_writers(path, writemap):
    """Each writer goes on where the one before was killed, with readers beside it all the time."""
    last = 0
    for kill in range(KILLS):
        hear, say = os.pipe()
        writer = tdefs.fork(move, path, writemap, last + 1, say)
        os.close(say)
        text = b""
        while text.count(b"\n") < 20 + 15 * kill:
            text += os.read(hear, 65536) or tdefs.fail("the writer ended by itself")
            if len(text) < 100 and text.count(b"\n"):
                readers = [tdefs.fork(read_on, path, 5) for _ in range(2)]
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        while True:
            more = os.read(hear, 65536)
            if not more:
                break
            text += more
        os.close(hear)
        for reader in readers:
            tdefs.equal(os.waitpid(reader, 0)[1], 0, "a reader's status")
        last = verify(path, int(text.split()[-1]))
    tdefs.run("mdb_stat", "-e", "-f", "-r", "-a", path)
    copy = path + ".copy"
    os.mkdir(copy)
    tdefs.run("mdb_copy", "-c", path, copy)
    tdefs.equal(verify(copy), last, "the compacted copy")
    return last


def main():
    tdefs.need("mdb_load", "mdb_dump", "mdb_copy", "mdb_stat")
    base = tdefs.scratch()
    environment = tdefs.environment(base)
    path = os.path.join(environment.mnt, "db")
    copy = os.path.join(environment.mnt, "copy")
    for folder in (path, copy):
        os.mkdir(folder)
    text = os.path.join(base, "records")
    with open(text, "w") as f:
        f.write(dump_text(0, RECORDS))
    tdefs.run("mdb_load", "-f", text, path)
    want = dump_text(0, RECORDS).split("HEADER=END\n", 1)[1]
    tdefs.check(records(path) == want, "the dump differs")
    tdefs.run("mdb_copy", "-c", path, copy)
    environment.remount()
    tdefs.check(records(path) == want and records(copy) == want, "the dump differs after remount")
    # Killed in the middle: what was committed is there, and it loads on.
    with subprocess.Popen(["mdb_load", path], stdin=subprocess.PIPE) as loader:
        half = dump_text(RECORDS, RECORDS)
        loader.stdin.write(half[:len(half) // 2].encode())
        loader.stdin.flush()
        loader.send_signal(signal.SIGKILL)
        try:
            loader.stdin.close()
        except BrokenPipeError:
            pass
    kept = records(path)
    tdefs.check(kept.startswith(want[:-len("DATA=END\n")]), "records went with the killed loader")
    tdefs.run("mdb_stat", "-e", "-f", path)
    with open(text, "w") as f:
        f.write(dump_text(0, 2 * RECORDS))
    tdefs.run("mdb_load", "-f", text, path)
    tdefs.check(records(path) == dump_text(0, 2 * RECORDS).split("HEADER=END\n", 1)[1], "the dump differs after the kill")
    if not importlib.util.find_spec("lmdb"):
        tdefs.skip("no python3-lmdb on this machine")
    lasts = {}
    for name, writemap in (("written", False), ("mapped", True)):
        path = os.path.join(environment.mnt, name)
        os.mkdir(path)
        lasts[path] = kill_writers(path, writemap)
    environment.remount()
    for path, last in lasts.items():
        tdefs.equal(verify(path), last, path + " after remount")
    environment.stop()


main()
