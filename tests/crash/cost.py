#!/usr/bin/python3
"""What the promise costs: a steady stream of fsyncs on a busy file is one flush each below, counted by strace; a pgbench run makes
a few intent writes per file and sealing interval, none per commit."""
import os
import random
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from tdefs import *

SYNCS = 2000
SECONDS = 120 if LONG else 5
base = scratch()


def numbers(env):
    status = env.status()
    return int(status["syncs"]), int(status["intents"])


def stream():
    """8 KiB here and there in a sealed file of 64 MiB, each with an fdatasync."""
    need("strace")
    env = Worker(base, "stream")
    counts, env.program = base + "/counts", base + "/traced"
    with open(env.program, "w") as f:
        f.write("#!/bin/sh\nexec strace -f -qq -c -e trace=fsync,fdatasync,syncfs -o %s %s/tdefs-mount \"$@\"\n" % (counts, BIN))
    os.chmod(env.program, 0o755)
    env.start()
    with open(env.mnt + "/file", "wb") as f:
        f.write(os.urandom(1 << 20) * 64)
    env.stop()
    env.start()
    random.seed(1)
    before = numbers(env)
    fd = os.open(env.mnt + "/file", os.O_RDWR)
    for _ in range(SYNCS):
        os.pwrite(fd, os.urandom(8192), random.randrange(8192) * 8192)
        os.fdatasync(fd)
    os.close(fd)
    syncs, intents = (b - a for a, b in zip(before, numbers(env)))
    env.stop()
    with open(counts) as f:
        calls = sum(int(line.split()[3]) for line in f if re.search(r" (fsync|fdatasync|syncfs)$", line.rstrip()))
    print("%d fdatasyncs of a busy file: %d flushes below by strace, mount and unmount included; %d of them for intents" % (
        SYNCS, calls, intents))
    check(syncs >= SYNCS, "every fdatasync came to the worker: %d" % syncs)
    # Two flushes for each replacement of the header, a few for the seal at the end.
    check(calls <= SYNCS + intents + 16, "one flush each: %d" % calls)
    check(intents <= 64, "intents: %d" % intents)


def pgbench():
    need("initdb", "pg_ctl", "pgbench")
    env = Worker(base, "pgbench").start()
    sockets = tempfile.mkdtemp(prefix="tdefs-pg-")
    undo(shutil.rmtree, sockets, True)
    shutil.chown(sockets, "postgres")
    data = env.mnt + "/data"
    os.mkdir(data)
    shutil.chown(data, "postgres")
    how = {"preexec_fn": as_user("postgres"), "cwd": "/", "env": dict(os.environ, LC_ALL="C", PGHOST=sockets, PGUSER="postgres")}
    run("initdb", "-D", data, "--no-sync", "--locale=C", **how)

    def start():
        run("pg_ctl", "-D", data, "-w", "-l", sockets + "/log", "-o", "-c listen_addresses='' -c unix_socket_directories=" + sockets,
            "start", stdout=subprocess.DEVNULL, **how)

    start()
    undo(lambda: run("pg_ctl", "-D", data, "-m", "immediate", "stop", ok=None, **how))
    run("pgbench", "-i", "-q", "-s", "5", "postgres", **how)
    run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop", **how)
    env.remount()                                   # everything is sealed now
    start()
    before = numbers(env)
    text = run("pgbench", "-n", "-c", "4", "-j", "2", "-T", SECONDS, "postgres", **how).stdout
    syncs, intents = (b - a for a, b in zip(before, numbers(env)))
    commits = int(re.search(r"transactions actually processed: (\d+)", text).group(1))
    run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop", **how)
    env.stop()
    print("pgbench, 4 clients, %d s: %d commits, %d flushes below for fsyncs and seals, %d intent writes" % (SECONDS, commits, syncs, intents))
    check(intents < 200 + 100 * (SECONDS // 30), "intent writes: %d" % intents)


stream()
pgbench()
