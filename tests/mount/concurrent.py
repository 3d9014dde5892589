#!/usr/bin/python3
"""Many at once on one mount: nothing deadlocks, no block is torn, no file is confused with another."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs


def together(limit, jobs):
    """Each (function, arguments...) in a process of its own, all at once; every one must end well within the limit."""
    pids = {}
    for function, *arguments in jobs:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                function(*arguments)
                status = 0
            finally:
                os._exit(status)
        pids[pid] = function.__name__
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


def main():
    base = tdefs.scratch()
    worker = tdefs.Worker(base, arguments=["--seal-interval", "1s"]).start()
    together(120, [(seek_dirty, "%s/seek%d" % (worker.mnt, k), 2000 if tdefs.LONG else 60) for k in range(12)])
    worker.stop()


main()
