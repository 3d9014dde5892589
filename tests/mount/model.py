#!/usr/bin/python3
"""Random operations on the mount and on a plain ext4 directory: results, errnos, contents, attributes must agree.

    model.py [SEED [OPERATIONS]]        TDEFS_SEED and TDEFS_LONG do the same for ctest

An operation is drawn without looking at the state, so any part of a sequence can be run alone: a failing one is cut
down to the operations that it needs and printed as Python; REGRESSIONS below keeps those that once failed.
"""
import fcntl
import mmap
import os
import random
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs
from sidebyside import (EXCHANGE, FALLOC_COLLAPSE, FALLOC_KEEP, FALLOC_PUNCH, FALLOC_ZERO, NOREPLACE, call, fallocate,
                        renameat2)

BLOCK, GROUP = 4096, 4096 * 128
DIRS = ["", "d0", "d1", "d0/e", "d1/" + "n" * 250]
LEAVES = ["a", "b", "c", "x" * 200]
PATHS = [os.path.join(d, leaf) for d in DIRS for leaf in LEAVES] + DIRS[1:] + ["missing/a"]
SLOTS = 6
XATTRS = ["user.a", "user.b", "trusted.c"]
MODES = [0, FALLOC_KEEP, FALLOC_PUNCH | FALLOC_KEEP, FALLOC_ZERO, FALLOC_ZERO | FALLOC_KEEP]
FLAGS = [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_APPEND,
         os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_APPEND, os.O_RDWR | os.O_DIRECT]
REGRESSIONS = [
    # entries of blocks that a truncation removed came back with the next extension
    [("create", "a", 15000, 1), ("truncate", "a", 4096), ("truncate", "a", 4097), ("content", "a")],
    # the sparse tail past block 127 kept a piece of the next tag block
    [("open", "c", 2, os.O_RDWR | os.O_CREAT), ("pwrite", 2, 615058, 1, 146), ("ftruncate", 2, 523614),
     ("pwrite", 2, 835584, 4096, 195), ("close", 2)],
    # a last block that became full kept the length of its former tail
    [("open", "a", 5, os.O_RDWR | os.O_CREAT), ("pwrite", 5, 1572865, 16384, 99), ("fsync", 5, True), ("write", 5, 4095, 59),
     ("remount",)],
    # fallocate by root cleared suid
    [("open", "c", 3, os.O_RDWR | os.O_CREAT), ("chmod", "c", 0o4755), ("fallocate", 3, 0, 524285, 11749), ("stat", "c")],
]


def offset(r):
    kind = r.random()
    if kind < 0.35:
        return r.randrange(20000)
    if kind < 0.6:
        return max(0, r.choice([BLOCK, 2 * BLOCK, GROUP, 2 * GROUP, 3 * GROUP]) + r.randint(-3, 3))
    if kind < 0.8:
        return r.randrange(300) * BLOCK
    return r.randrange(3 * GROUP)


def length(r):
    return r.choice([1, 2, 511, 512, 4095, 4096, 4097, 8192, 16384, 65536, r.randrange(1, 20000), r.randrange(1, 200000), GROUP])


def draw(r):
    """One operation as plain data."""
    p, q, slot = r.choice(PATHS), r.choice(PATHS), r.randrange(SLOTS)
    kinds = [(6, lambda: ("create", p, r.choice([0, 1, 100, 4096, 4097, 15000, 300000]), r.randrange(256))),
             (10, lambda: ("open", p, slot, r.choice(FLAGS))),
             (25, lambda: ("pwrite", slot, offset(r), length(r), r.randrange(256))),
             (20, lambda: ("pread", slot, offset(r), length(r))),
             (4, lambda: ("direct", p, r.randrange(300) * BLOCK, r.choice([1, 2, 16, 130]) * BLOCK, r.randrange(256))),
             (4, lambda: ("write", slot, length(r), r.randrange(256))),
             (6, lambda: ("ftruncate", slot, offset(r))), (4, lambda: ("truncate", p, offset(r))),
             (6, lambda: ("fallocate", slot, r.choice(MODES), offset(r), length(r))),
             (1, lambda: ("fallocate", slot, FALLOC_COLLAPSE | FALLOC_KEEP, 0, BLOCK)),
             (4, lambda: ("map_write", slot, r.randrange(300) * BLOCK, length(r), r.randrange(256))),
             (3, lambda: ("fsync", slot, r.random() < 0.5)), (3, lambda: ("fstat", slot)), (4, lambda: ("close", slot)),
             (2, lambda: ("copy_range", slot, r.randrange(SLOTS), offset(r), length(r), offset(r))),
             (5, lambda: ("rename", p, q)), (2, lambda: ("renameat2", p, q, r.choice([NOREPLACE, EXCHANGE]))),
             (3, lambda: ("link", p, q)), (2, lambda: ("symlink", r.choice([q, "t" * r.randrange(1, 2000)]), p)),
             (5, lambda: ("unlink", p)), (3, lambda: ("mkdir", r.choice(DIRS[1:]))), (2, lambda: ("rmdir", r.choice(DIRS[1:]))),
             (2, lambda: ("chmod", p, r.choice([0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777]))),
             (1, lambda: ("chown", p, r.randrange(3), r.randrange(3))),
             (2, lambda: ("utime", p, r.randrange(2**33 * 10**9), r.randrange(2**33 * 10**9))),
             (2, lambda: ("setxattr", p, r.choice(XATTRS), r.randrange(100), r.choice([0, os.XATTR_CREATE, os.XATTR_REPLACE]))),
             (1, lambda: ("removexattr", p, r.choice(XATTRS))), (2, lambda: ("xattrs", p)),
             (4, lambda: ("stat", p)), (2, lambda: ("list", r.choice(DIRS))), (3, lambda: ("content", p))]
    return r.choices([k for _, k in kinds], [w for w, _ in kinds])[0]()


def pattern(seed, n, at=0):
    unit = bytes((seed + k * 7 + k // 251) % 256 for k in range(1024))
    return (unit * (n // 1024 + 2))[at % 1024:][:n]


class Side:
    """The operations on one of the two directories."""

    def __init__(self, root):
        self.root, self.slots, self.set_times = root, [None] * SLOTS, {}

    def at(self, p):
        return os.path.join(self.root, p)

    def fd(self, slot):
        if self.slots[slot] is None:
            raise OSError(9, "")
        return self.slots[slot]

    def create(self, p, n, seed):
        fd = os.open(self.at(p), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            return os.write(fd, pattern(seed, n))
        finally:
            os.close(fd)

    def open(self, p, slot, flags):
        fd = os.open(self.at(p), flags | os.O_NONBLOCK, 0o640)
        self.close(slot)
        self.slots[slot] = fd

    def close(self, slot):
        if self.slots[slot] is not None:
            os.close(self.slots[slot])
            self.slots[slot] = None

    def _direct(self, fd, at=0, n=0):
        """O_DIRECT handles get only aligned requests, from aligned memory."""
        return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT

    def pwrite(self, slot, at, n, seed):
        fd = self.fd(slot)
        if not self._direct(fd):
            return os.pwrite(fd, pattern(seed, n), at)
        at, n = at // BLOCK * BLOCK, (n + BLOCK - 1) // BLOCK * BLOCK
        with mmap.mmap(-1, n) as m:
            m[:] = pattern(seed, n)
            return os.pwritev(fd, [m], at)

    def pread(self, slot, at, n):
        fd = self.fd(slot)
        if not self._direct(fd):
            return os.pread(fd, n, at)
        at, n = at // BLOCK * BLOCK, (n + BLOCK - 1) // BLOCK * BLOCK
        with mmap.mmap(-1, n) as m:
            got = os.preadv(fd, [m], at)
            return m[:got]

    def direct(self, p, at, n, seed):
        fd = os.open(self.at(p), os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, n) as m:
                m[:] = pattern(seed, n)
                done = os.pwritev(fd, [m], at)
                m[:] = b"\xee" * n
                return done, os.preadv(fd, [m], at), m[:]
        finally:
            os.close(fd)

    def write(self, slot, n, seed):
        fd = self.fd(slot)
        if self._direct(fd):
            return None
        os.lseek(fd, 0, os.SEEK_END)
        return os.write(fd, pattern(seed, n)), os.lseek(fd, 0, os.SEEK_CUR)

    def ftruncate(self, slot, n):
        os.ftruncate(self.fd(slot), n)

    def truncate(self, p, n):
        os.truncate(self.at(p), n)

    def fallocate(self, slot, mode, at, n):
        fallocate(self.fd(slot), mode, at, n)

    def map_write(self, slot, at, n, seed):
        fd = self.fd(slot)
        n = min(n, os.fstat(fd).st_size - at)
        if n <= 0:
            return None
        try:
            with mmap.mmap(fd, n, offset=at) as m:
                was = m[:]
                m[n // 2:] = pattern(seed, n - n // 2)
                return was
        except (PermissionError, OSError) as e:
            return type(e).__name__

    def fsync(self, slot, data):
        (os.fdatasync if data else os.fsync)(self.fd(slot))

    def fstat(self, slot):
        s = os.fstat(self.fd(slot))
        return s.st_size, s.st_nlink, s.st_mode

    def copy_range(self, slot, other, at, n, to):
        a, b = self.fd(slot), self.fd(other)
        if self._direct(a) or self._direct(b) or os.path.sameopenfile(a, b):
            return None
        data = os.pread(a, n, at)
        return os.pwrite(b, data, to)

    def rename(self, p, q):
        os.rename(self.at(p), self.at(q))

    def renameat2(self, p, q, flags):
        renameat2(self.at(p), self.at(q), flags)

    def link(self, p, q):
        os.link(self.at(p), self.at(q), follow_symlinks=False)

    def symlink(self, target, p):
        os.symlink(target, self.at(p))

    def unlink(self, p):
        os.unlink(self.at(p))

    def mkdir(self, p):
        os.mkdir(self.at(p))

    def rmdir(self, p):
        os.rmdir(self.at(p))

    def chmod(self, p, mode):
        os.chmod(self.at(p), mode)

    def chown(self, p, uid, gid):
        os.chown(self.at(p), uid, gid, follow_symlinks=False)

    def utime(self, p, atime, mtime):
        os.utime(self.at(p), ns=(atime, mtime), follow_symlinks=False)
        return os.lstat(self.at(p)).st_mtime_ns

    def setxattr(self, p, name, n, flags):
        os.setxattr(self.at(p), name, pattern(n, n), flags)

    def removexattr(self, p, name):
        os.removexattr(self.at(p), name)

    def xattrs(self, p):
        return {n: os.getxattr(self.at(p), n) for n in os.listxattr(self.at(p))}

    def stat(self, p):
        s = os.lstat(self.at(p))
        return stat.filemode(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, None if stat.S_ISDIR(s.st_mode) else s.st_size

    def list(self, p):
        return sorted(os.listdir(self.at(p)))

    def content(self, p):
        fd = os.open(self.at(p), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
        finally:
            os.close(fd)

    def everything(self):
        out = {}
        for folder, dirs, files in os.walk(self.root):
            for name in dirs + files:
                p = os.path.relpath(os.path.join(folder, name), self.root)
                out[p] = (call(self.stat, p), call(self.xattrs, p))
                if name in files:
                    out[p] += (call(os.readlink, self.at(p)), call(self.content, p))
        return out

    def end(self):
        for slot in range(SLOTS):
            self.close(slot)


def short(value):
    text = repr(value)
    return text if len(text) < 300 else "%s... (%d characters, hash %x)" % (text[:200], len(text), hash(text) & 0xffffffff)


def first_difference(a, b):
    if isinstance(a, bytes) and isinstance(b, bytes):
        at = next((k for k in range(min(len(a), len(b))) if a[k] != b[k]), min(len(a), len(b)))
        return "%d and %d bytes, first difference at %d (block %d): %r %r" % (len(a), len(b), at, at // BLOCK, a[at:at + 8], b[at:at + 8])
    if isinstance(a, dict) and isinstance(b, dict):
        return "; ".join("%s: %s" % (k, first_difference(a.get(k), b.get(k))) for k in sorted(set(a) | set(b)) if a.get(k) != b.get(k))
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return ", ".join(first_difference(x, y) for x, y in zip(a, b) if x != y)
    return "mount %s, ext4 %s" % (short(a), short(b))


class Run:
    count = 0

    def __init__(self, worker, plain):
        Run.count += 1
        self.worker, self.name = worker, "run%d" % Run.count
        self.sides = [Side(os.path.join(top, self.name)) for top in (worker.mnt, plain)]
        for s in self.sides:
            os.mkdir(s.root)

    def one(self, operation):
        """None, or how the two differ."""
        if operation[0] == "remount":
            for s in self.sides:
                s.end()
            self.worker.remount()
        if operation[0] in ("remount", "everything"):
            seen = [s.everything() for s in self.sides]
        else:
            seen = [call(getattr(s, operation[0]), *operation[1:]) for s in self.sides]
        return None if seen[0] == seen[1] else first_difference(*seen)

    def all(self, operations):
        try:
            for k, operation in enumerate(operations):
                why = self.one(operation)
                if why:
                    return k, why
            why = self.one(("everything",))
            return (len(operations), why) if why else None
        finally:
            for s in self.sides:
                s.end()


def minimise(worker, plain, operations):
    """Leaves out whatever the failure does not need."""
    size = max(1, len(operations) // 2)
    tries = 0
    while size and tries < 400:
        at = 0
        while at < len(operations) and tries < 400:
            shorter = operations[:at] + operations[at + size:]
            tries += 1
            found = Run(worker, plain).all(shorter)
            if found:
                operations = shorter[:found[0] + 1]
            else:
                at += size
        size //= 2
    return operations


def main():
    seed = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TDEFS_SEED") or random.SystemRandom().randrange(2**32)
               if tdefs.LONG or len(sys.argv) > 1 or os.environ.get("TDEFS_SEED") else 20)
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 1000000 if tdefs.LONG else 4000
    base = tdefs.scratch()
    worker = tdefs.Worker(base, arguments=["--seal-interval", "1s"]).start()
    plain = os.path.join(base, "plain")
    os.mkdir(plain)
    for known in REGRESSIONS:
        tdefs.equal(Run(worker, plain).all(known), None, "a sequence that failed before: %r" % known)
    print("seed", seed, "operations", limit)
    done = 0
    while done < limit:
        r = random.Random(seed * 1000003 + done)
        operations = [("mkdir", d) for d in DIRS[1:]] + [draw(r) for _ in range(500)]
        operations.insert(r.randrange(len(operations)), ("remount",))
        operations.append(("remount",))
        run = Run(worker, plain)
        found = run.all(operations)
        if found:
            k, why = found
            print("seed %d, round at %d, operation %d %r:\n%s" % (
                seed, done, k, operations[k] if k < len(operations) else "end", why))
            print(worker.log()[-3000:])
            tdefs.allow_in_log("refused:")
            least = minimise(worker, plain, operations[:k + 1])
            again = Run(worker, plain).all(least)
            print("the least that fails:\n    [%s],\n%s" % (", ".join(map(repr, least)), again and again[1]))
            tdefs.fail("the mount and ext4 differ")
        for s in run.sides:
            tdefs.run("rm", "-rf", s.root)
        done += len(operations)
    print("%d operations without a difference" % done)
    worker.stop()


main()
