#!/usr/bin/python3
"""LMDB on an environment: mapped files, loaded, copied, compacted, killed while loading, dumped the same."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

RECORDS = 200000 if tdefs.LONG else 20000


def dump_text(first, count):
    head = "VERSION=3\nformat=bytevalue\ntype=btree\nmapsize=1073741824\nmaxreaders=126\nHEADER=END\n"
    lines = []
    for k in range(first, first + count):
        lines.append(" %s\n %s\n" % (("%012d" % k).encode().hex(), (("value %d " % k) * (1 + k % 40)).encode().hex()))
    return head + "".join(lines) + "DATA=END\n"


def records(path):
    """The dump's records without its head."""
    return tdefs.run("mdb_dump", path).stdout.split("HEADER=END\n", 1)[1]


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
    environment.stop()


main()
