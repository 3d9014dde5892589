#!/usr/bin/python3
"""SQLite on an environment: four writing processes and a reading one in WAL and in DELETE mode, mmap on, kill -9 again and
again, integrity_check."""
import os
import signal
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

ROUNDS = 5000 if tdefs.LONG else 60
WRITERS, KILLS = 4, 50 if tdefs.LONG else 4


def connect(path):
    db = sqlite3.connect(path, timeout=120, isolation_level=None)
    db.execute("pragma busy_timeout = 120000")
    tdefs.equal(db.execute("pragma mmap_size = 67108864").fetchone(), (67108864,), "mapped access")
    db.execute("pragma synchronous = full")
    return db


def write(path, writer, rounds, ready=None):
    """Moves money between accounts: the sum stays. Rows grow, so that pages split and overflow."""
    db = connect(path)
    for k in range(rounds):
        db.execute("begin immediate")
        db.execute("update account set amount = amount - ? where id = ?", (k, k % 10))
        db.execute("update account set amount = amount + ? where id = ?", (k, (k + writer) % 10))
        db.execute("insert into entry (writer, n, body) values (?, ?, ?)", (writer, k, os.urandom(50 + k * 37 % 9000)))
        db.execute("commit")
        if ready is not None and k == 5:
            os.write(ready, b"x")
    db.close()


def read_on(path, rounds):
    """Every snapshot beside the writers has the same sum, in the table and through the index."""
    db = connect(path)
    for _ in range(rounds):
        db.execute("begin")
        tdefs.equal(db.execute("select sum(amount) from account").fetchone()[0], 10000, "the sum in a snapshot")
        counts = [db.execute("select count(*) from entry " + by).fetchone() for by in ("not indexed", "indexed by i where writer >= 0")]
        tdefs.equal(counts[0], counts[1], "entries by the index in a snapshot")
        db.execute("commit")
    db.close()


def verify(path, entries=None):
    db = connect(path)
    tdefs.equal(db.execute("pragma integrity_check").fetchall(), [("ok",)], "integrity_check")
    tdefs.equal(db.execute("select sum(amount) from account").fetchone()[0], 10000, "the sum")
    if entries is not None:
        tdefs.equal(db.execute("select count(*) from entry").fetchone()[0], entries, "entries")
    db.close()


def mode(folder, journal):
    path = os.path.join(folder, journal + ".db")
    db = connect(path)
    tdefs.equal(db.execute("pragma journal_mode = " + journal).fetchone()[0], journal, "journal mode")
    db.executescript("create table account (id integer primary key, amount integer);"
                     "create table entry (id integer primary key, writer, n, body); create index i on entry (writer, n);")
    db.executemany("insert into account values (?, 1000)", [(k,) for k in range(10)])
    db.close()
    for pid in [tdefs.fork(write, path, w, ROUNDS) for w in range(WRITERS)] + [tdefs.fork(read_on, path, ROUNDS)]:
        tdefs.equal(os.waitpid(pid, 0)[1], 0, "a writer's or the reader's status")
    verify(path, WRITERS * ROUNDS)
    for _ in range(KILLS):
        reader, writer = os.pipe()
        pids = [tdefs.fork(write, path, w, 1000000, writer) for w in range(2)]
        os.read(reader, 1)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        verify(path)
    db = connect(path)
    db.execute("delete from entry where id % 2")
    db.execute("vacuum")
    db.close()
    verify(path)
    return path


def main():
    base = tdefs.scratch()
    environment = tdefs.environment(base)
    paths = [mode(environment.mnt, journal) for journal in ("wal", "delete")]
    environment.remount()
    for path in paths:
        verify(path)
    environment.stop()


main()
