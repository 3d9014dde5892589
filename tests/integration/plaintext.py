#!/usr/bin/python3
"""Nothing that a user wrote is readable below: contents, names, targets, attributes; and equal blocks look different."""
import os
import sqlite3
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

MARKER = b"xyzzyPLAINTEXTMARKERplugh"


def search(top):
    """Paths below top that show the marker, in whatever way."""
    shown = []
    for folder, dirs, files in os.walk(os.fsencode(top)):
        for name in dirs + files:
            path = os.path.join(folder, name)
            parts = [path]
            if os.path.islink(path):
                parts.append(os.fsencode(os.readlink(path)))
            for attribute in os.listxattr(path, follow_symlinks=False):
                parts += [os.fsencode(attribute), os.getxattr(path, attribute, follow_symlinks=False)]
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as f:
                    parts.append(f.read())
            if any(MARKER in p or MARKER[5:17] in p for p in parts):
                shown.append(path)
    return shown


def main():
    base = tdefs.scratch()
    environment = tdefs.environment(base)
    mnt, text = environment.mnt, MARKER.decode()
    os.mkdir(mnt + "/" + text)
    os.mkdir(mnt + "/plain")
    for n, content in (("start", MARKER), ("many", MARKER * 40000), ("edge", b"\0" * 4090 + MARKER), ("far", b"")):
        with open("%s/%s/%s-%s" % (mnt, text, n, text), "wb") as f:
            f.write(content)
    with open(mnt + "/plain/sparse", "wb") as f:
        f.seek(700000)
        f.write(MARKER)
        f.truncate(900000)
    with open(mnt + "/plain/long" + text * 9, "wb") as f:
        f.write(b"long name")
    fd = os.open(mnt + "/plain/direct", os.O_CREAT | os.O_RDWR | os.O_DSYNC)
    os.write(fd, MARKER)
    os.pwrite(fd, MARKER, 12345)
    os.close(fd)
    os.symlink(text, mnt + "/link")
    os.symlink("/" + text * 20, mnt + "/long link")
    os.mkfifo(mnt + "/" + text + "-fifo")
    os.setxattr(mnt + "/plain/direct", "user." + text, MARKER)
    os.setxattr(mnt + "/plain", "user.x", MARKER * 5)
    os.setxattr(mnt + "/link", "trusted." + text, MARKER, follow_symlinks=False)
    os.rename(mnt + "/plain/direct", mnt + "/plain/" + text)
    os.link(mnt + "/plain/" + text, mnt + "/linked-" + text)
    db = sqlite3.connect(mnt + "/" + text + ".db")
    with db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table " + text + " (body)")
        db.executemany("insert into %s values (?)" % text, [(text * k,) for k in range(100)])
    db.close()
    with open(mnt + "/same", "wb") as f:
        f.write(b"the same" * 512 * 200)
    os.sync()
    tdefs.check(search(mnt), "the search itself finds nothing")
    state = environment.keeper.state
    tdefs.equal(search(state), [], "shown below while mounted")
    environment.remount()
    tdefs.check(search(mnt), "gone after remount")
    environment.stop()
    for top in (state, environment.keeper.runtime):
        tdefs.equal(search(top), [], "shown below")
    seen, files_seen = set(), set()
    for folder, _, files in os.walk(environment.store):
        for name in files:
            s = os.lstat(os.path.join(folder, name))
            if not stat.S_ISREG(s.st_mode) or s.st_ino in files_seen:
                continue
            files_seen.add(s.st_ino)
            with open(os.path.join(folder, name), "rb") as f:
                data = f.read()
            for at in range(0, len(data) - 4095, 4096):
                block = data[at:at + 4096]
                if block.count(0) < 1000:
                    tdefs.check(block not in seen, "a block of ciphertext appears twice")
                    seen.add(block)
    tdefs.check(len(seen) > 200, "only %d blocks of ciphertext" % len(seen))


main()
