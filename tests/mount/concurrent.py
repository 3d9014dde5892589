#!/usr/bin/python3
"""Many at once on one mount (tools/hammer.c): nothing deadlocks, no block is torn, no write is lost, no file is taken for
another; and all of it is the same after a remount."""
import hashlib
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

SECONDS = 300 if tdefs.LONG else 6


def hammer(what, path, threads, seed):
    """The limit is one for deadlocks: however slow, it ends soon after its time."""
    try:
        done = tdefs.run(tdefs.BIN + "/hammer", what, path, threads, SECONDS, seed, ok=None, timeout=SECONDS + 120)
    except subprocess.TimeoutExpired:
        tdefs.fail("deadlock: hammer %s (seed %d) did not end" % (what, seed))
    print(done.stdout.strip())
    tdefs.equal(done.returncode, 0, "hammer %s, seed %d: %s" % (what, seed, done.stdout))


def contents(top):
    out = {}
    for folder, _, files in os.walk(top):
        for name in files:
            with open(os.path.join(folder, name), "rb") as f:
                out[os.path.relpath(f.name, top)] = hashlib.sha256(f.read()).hexdigest()
    return out


def together(limit, jobs):
    """Each (function, arguments...) in a process of its own, all at once; every one must end well within the limit."""
    pids = {tdefs.fork(*job): job[0].__name__ for job in jobs}
    end = time.monotonic() + limit
    while pids and time.monotonic() < end:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            tdefs.equal(status, 0, pids.pop(pid) + "'s status")
        else:
            time.sleep(0.05)
    for pid in pids:
        os.kill(pid, 9)
    tdefs.check(not pids, "deadlock: %s did not end within %d s" % (sorted(pids.values()), limit))


def seek_dirty(path, rounds):
    """SEEK_DATA on a file that has dirty pages: the worker has the kernel write them first, which takes a thread."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    for k in range(rounds):
        os.pwrite(fd, b"x" * 65536, k % 20 * 262144)
        at = k % 20 * 262144
        tdefs.equal(os.lseek(fd, at, os.SEEK_DATA), at, "SEEK_DATA")
    os.close(fd)


def make_files(folder, count):
    os.mkdir(folder)
    for k in range(count):
        with open("%s/%d" % (folder, k), "wb") as f:
            f.write(b"%d" % k * 100)


def many_files_between_seals(base):
    """Each written file keeps a descriptor and key memory until it is sealed, beside its inode's: there are not enough of both."""
    worker = tdefs.Worker(base, "few", arguments=["--seal-interval", "1h"])
    worker.launch()
    tdefs.run("prlimit", "--pid", worker.process.pid, "--nofile=2600:2600")
    worker.client("start", worker.key)
    together(300, [(make_files, "%s/%d" % (worker.mnt, k), 375) for k in range(4)])
    for k in range(4):
        for n in range(375):
            with open("%s/%d/%d" % (worker.mnt, k, n), "rb") as f:
                tdefs.equal(f.read(), b"%d" % n * 100, "a file's content")
    worker.stop()


def main():
    base = tdefs.scratch()
    seed = int(os.environ.get("TDEFS_SEED") or random.randrange(2**32))
    many_files_between_seals(base)
    worker = tdefs.Worker(base, arguments=["--seal-interval", "100ms"]).start()
    together(120, [(seek_dirty, "%s/seek%d" % (worker.mnt, k), 2000 if tdefs.LONG else 60) for k in range(12)])
    hammer("file", worker.mnt + "/file", 8, seed)
    hammer("names", worker.mnt, 8, seed)
    before = contents(worker.mnt)
    worker.remount()
    tdefs.equal(contents(worker.mnt), before, "contents after a remount")
    worker.stop()


main()
