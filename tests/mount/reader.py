"""Known answers from an independent implementation: what a mount shows is what tests/tools/tdefs_reader.py, written from the
format chapter on another cryptographic library, reads from the store; and frozen stores of each format are read for ever. That of
format 2 has files whose content is re-encrypted, half of it, or not yet."""
import hashlib
import os
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

HERE = os.path.dirname(os.path.abspath(__file__))
READER = os.path.join(HERE, "../tools/tdefs_reader.py")
GOLDEN = [os.path.join(HERE, "../golden/format-%d.tar.gz" % n) for n in (1, 2)]
try:
    import cryptography
except ImportError:
    if run("/usr/bin/python3", "-c", "import cryptography", ok=None).returncode != 0:
        skip("no python3-cryptography")


def listing(root):
    """The reader's listing, made through the mount."""
    lines = []
    for top, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(top, name)
            plain = path[len(root):]
            st = os.lstat(path)
            kind = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}.get(stat.S_IFMT(st.st_mode), "o")
            data = b""
            if kind == "f":
                with open(path, "rb") as f:
                    data = f.read()
            elif kind == "l":
                data = os.readlink(os.fsencode(path))
            lines.append("%s %04o %d %s %s" % (kind, st.st_mode & 0o7777, len(data), hashlib.sha256(data).hexdigest(), plain))
            for a in os.listxattr(path, follow_symlinks=False):
                if not a.startswith("system."):
                    value = os.getxattr(path, a, follow_symlinks=False)
                    lines.append("x %s %s %s" % (a, hashlib.sha256(value).hexdigest(), plain))
    return sorted(lines)


def reader(store, key):
    return run("/usr/bin/python3", READER, store, key).stdout.strip("\n").split("\n")


def fill(root, sizes=(0, 1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 5, 300 * 4096)):
    os.makedirs(root + "/dir/sub")
    for size in sizes:
        with open("%s/dir/%d" % (root, size), "wb") as f:
            f.write((b"%08d" % size) * (size // 8 + 1))
            f.truncate(size)
    with open(root + "/sparse", "wb") as f:
        f.seek(700 * 4096 + 3)
        f.write(b"end")
    with open(root + "/zeros", "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 50000)
        f.seek(20000)
        f.write(b"middle")
    for n in (1, 175, 176, 255):
        with open(root + "/dir/sub/" + "n" * n, "w") as f:
            f.write(str(n))
    os.symlink("somewhere/else", root + "/link")
    os.symlink("/long" * 800, root + "/longlink")
    os.setxattr(root + "/dir", "user.colour", b"blue")
    os.setxattr(root + "/sparse", "user.empty", b"")
    os.setxattr(root + "/link", "trusted.note", b"n" * 100, follow_symlinks=False)
    for n in (165, 168, 170, 171, 255):
        os.setxattr(root + "/sparse", "user.".ljust(n, "x"), b"long")
        os.setxattr(root + "/link", "trusted.".ljust(n, "x"), b"long", follow_symlinks=False)


if __name__ == "__main__":
    base = scratch()
    worker = Worker(base).start()
    fill(worker.mnt)
    shown = listing(worker.mnt)
    worker.stop()
    equal(reader(worker.store, worker.key), shown, "the reader and the mount")

    for number, frozen_store in enumerate(GOLDEN, 1):
        folder = base + "/format-%d" % number
        os.mkdir(folder)
        run("tar", "-C", folder, "--xattrs", "--xattrs-include=*", "-xzf", frozen_store)
        golden = Worker(folder, "golden").start()
        with open(folder + "/golden.listing", errors="surrogateescape") as f:
            frozen = f.read().strip("\n").split("\n")
        equal(listing(golden.mnt), frozen, "the frozen store of format %d through a mount" % number)
        golden.client("scrub", "start")
        wait_for(lambda: golden.status()["scrub"].startswith("0/"), "the scrub")
        check(golden.status()["scrub"].endswith("/0"), "scrub of the frozen store: " + golden.status()["scrub"])
        golden.stop()
        equal(reader(golden.store, golden.key), frozen, "the frozen store of format %d by the reader" % number)
