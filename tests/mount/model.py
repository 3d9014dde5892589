#!/usr/bin/python3
"""Random operations on the mount and on a plain ext4 directory: results, errnos, contents, attributes must agree.

    model.py [SEED [OPERATIONS]]        TDEFS_SEED and TDEFS_LONG do the same for ctest

An operation (tests/lib/side.py) is drawn without looking at the state, so any part of a sequence can be run alone: a
failing one is cut down to the operations that it needs and printed as Python; REGRESSIONS below keeps those that once
failed. A round of 500 operations has an unmount in it, a forgetting of all names, and a worker killed after everything
was synced; it ends with another unmount.
"""
import fcntl
import os
import random
import stat
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs
from side import BLOCK, MAPS, SLOTS, Side, short
from sidebyside import EXCHANGE, FALLOC_COLLAPSE, FALLOC_KEEP, FALLOC_PUNCH, FALLOC_ZERO, NOREPLACE, call

ROUND = 500
GROUP = BLOCK * 128
DIRS = ["", "d0", "d1", "d0/e", "d1/" + "n" * 250]
LEAVES = ["a", "b", "c", "x" * 200, "\udcff\udcfe\u00e4\t", "y" * 255]
# Drawn alike: few names that are there often, and many that are odd.
PATHS = LEAVES[:3] * 8 + ["d0/a", "d0/b", "d1/a"] * 4 + [os.path.join(d, leaf) for d in DIRS for leaf in LEAVES] + DIRS[1:]
PATHS += ["missing/a", "a/b", "z" * 256, "d0/../a"]
XATTRS = ["user.a", "user." + "b" * 60, "trusted.c", "security.d", "nonsense", "user."]
MODES = [0, 0, FALLOC_KEEP, FALLOC_PUNCH | FALLOC_KEEP, FALLOC_PUNCH | FALLOC_KEEP, FALLOC_ZERO, FALLOC_ZERO | FALLOC_KEEP, FALLOC_PUNCH]
FLAGS = [os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL,
         os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_APPEND, os.O_RDWR | os.O_DIRECT,
         os.O_RDWR | os.O_CREAT | os.O_DSYNC, os.O_RDONLY | os.O_DIRECTORY, os.O_RDWR | os.O_NOFOLLOW, os.O_RDONLY | os.O_TRUNC,
         os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_TRUNC]
FAR = [(1 << 31) - 2500, (1 << 32) - 4096, 3392 * GROUP - 4100, 3392 * GROUP * 4, (1 << 40) + 7, (15 << 40) - 4097]
TIMED = ["nothing", "write", "sync", "map", "allocate", "read", "truncate", "chmod", "xattr", "rename", "link", "unlink", "entry"]
AS_USER = ("create", "open", "truncate", "rename", "link", "symlink", "unlink", "mkdir", "rmdir", "list", "chmod", "chown", "setxattr",
           "xattrs", "content", "pwrite", "set_acl", "write", "utime", "mknod")
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
    # chown(-1, -1) took sgid from the kernel's copy of the mode alone, or not at all
    [("create", "a", 1, 25), ("chmod", "a", 0o2777), ("chown", "a", -1, -1), ("stat", "a"), ("remount",),
     ("mknod", "b", stat.S_IFCHR | 0o6666, os.makedev(1, 3)), ("chown", "b", -1, -1), ("stat", "b"), ("remount",)],
    # chown(-1, -1) by a stranger took suid
    [("create", "c", 4097, 156), ("chmod", "c", 0o4711), ("as_user", 2, 1, 63, "chown", "c", -1, -1), ("stat", "c"), ("remount",)],
    # a stranger who may write was refused when that took suid
    [("open", "a", 1, os.O_RDWR | os.O_CREAT), ("fchmod", 1, 0o4711), ("open", "a", 3, os.O_RDWR),
     ("as_user", 2, 1, 18, "pwrite", 3, 884736, 16384, 243), ("stat", "a"), ("remount",)],
    # written within the tick in which it was made, a file's mtime was that of its write-back after the kernel forgot it
    [("create", "a", 4096, 18), ("kill",), ("create", "b", 4096, 19), ("remount",)],
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


def target(r, p):
    """Where a symbolic link at p leads: mostly to something that may be there."""
    kind = r.random()
    if kind < 0.7:
        return os.path.relpath(r.choice(PATHS), os.path.dirname(p) or ".")
    return "t" * r.choice([1, 100, 255, 256, 2000, 4095]) if kind < 0.9 else p


def nanoseconds(r):
    return r.choice([r.randrange(2**33 * 10**9), r.randrange(-2**31 * 10**9, 0), 0, 1, 10**9 - 1, -1, (2**33 + 5) * 10**9 + 999999999])


# (weight, name, the arguments' generator from r, a path, another path and a slot)
KINDS = [
    (14, "create", lambda r, p, q, s: (p, r.choice([0, 1, 100, 4096, 4097, 15000, 300000]), r.randrange(256))),
    (24, "open", lambda r, p, q, s: (p, s, r.choice(FLAGS))),
    (2, "tmpfile", lambda r, p, q, s: (r.choice(DIRS), s, r.random() < 0.2)),
    (3, "publish", lambda r, p, q, s: (s, p)),
    (25, "pwrite", lambda r, p, q, s: (s, offset(r), length(r), r.randrange(256))),
    (20, "pread", lambda r, p, q, s: (s, offset(r), length(r))),
    (4, "direct", lambda r, p, q, s: (p, r.randrange(300) * r.choice([512, BLOCK]), r.choice([1, 2, 16, 130]) * r.choice([512, BLOCK]),
                                      r.randrange(256))),
    (4, "write", lambda r, p, q, s: (s, length(r), r.randrange(256))),
    (6, "ftruncate", lambda r, p, q, s: (s, offset(r))),
    (4, "truncate", lambda r, p, q, s: (p, offset(r))),
    (8, "fallocate", lambda r, p, q, s: (s, r.choice(MODES), offset(r), length(r))),
    (1, "fallocate", lambda r, p, q, s: (s, FALLOC_COLLAPSE | FALLOC_KEEP, 0, BLOCK)),
    (4, "holes", lambda r, p, q, s: (s,)),
    (1, "far", lambda r, p, q, s: (p, r.choice(FAR), r.randrange(256))),
    (4, "map_write", lambda r, p, q, s: (s, r.randrange(300) * BLOCK, length(r), r.randrange(256))),
    (8, "map", lambda r, p, q, s: (s, r.randrange(MAPS), r.choice([0, 0, r.randrange(300) * BLOCK]), length(r) * 4, r.random() < 0.15)),
    (1, "unmap", lambda r, p, q, s: (r.randrange(MAPS),)),
    (6, "map_poke", lambda r, p, q, s: (r.randrange(MAPS), r.randrange(4 * GROUP), length(r), r.randrange(256))),
    (5, "map_peek", lambda r, p, q, s: (r.randrange(MAPS), r.randrange(4 * GROUP), length(r))),
    (1, "map_sync", lambda r, p, q, s: (r.randrange(MAPS),)),
    (3, "fsync", lambda r, p, q, s: (s, r.random() < 0.5)),
    (5, "drop", lambda r, p, q, s: (s,)),
    (3, "fstat", lambda r, p, q, s: (s,)),
    (2, "close", lambda r, p, q, s: (s,)),
    (3, "copy_range", lambda r, p, q, s: (s, r.randrange(SLOTS), offset(r), length(r), offset(r))),
    (1, "send", lambda r, p, q, s: (s, r.randrange(SLOTS), offset(r), length(r))),
    (4, "rename", lambda r, p, q, s: (p, q)),
    (3, "renameat2", lambda r, p, q, s: (p, q, r.choice([NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE]))),
    (4, "link", lambda r, p, q, s: (p, q)),
    (3, "symlink", lambda r, p, q, s: (target(r, p), p)),
    (2, "mknod", lambda r, p, q, s: (p, r.choice([stat.S_IFIFO | 0o640, stat.S_IFSOCK | 0o600, stat.S_IFREG | 0o604, stat.S_IFDIR | 0o700]), 0)),
    (1, "mknod", lambda r, p, q, s: (p, stat.S_IFCHR | 0o666, os.makedev(1, 3))),
    (3, "unlink", lambda r, p, q, s: (p,)),
    (3, "mkdir", lambda r, p, q, s: (r.choice(DIRS[1:]), r.choice([0o777, 0o777, 0o1777, 0o2775]))),
    (2, "rmdir", lambda r, p, q, s: (r.choice(DIRS[1:]),)),
    (2, "chmod", lambda r, p, q, s: (p, r.choice([0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o6711, 0o2777, 0]))),
    (1, "fchmod", lambda r, p, q, s: (s, r.choice([0o600, 0o755, 0o4711]))),
    (2, "chown", lambda r, p, q, s: (p, r.randrange(-1, 3), r.randrange(-1, 3))),
    (2, "utime", lambda r, p, q, s: (p, nanoseconds(r), nanoseconds(r))),
    (0.3, "times", lambda r, p, q, s: (p, q, r.choice(TIMED), r.randrange(20000))),
    (3, "setxattr", lambda r, p, q, s: (p, r.choice(XATTRS), r.choice([0, 1, 15, 100, 300]), r.choice([0, os.XATTR_CREATE, os.XATTR_REPLACE]))),
    (1, "removexattr", lambda r, p, q, s: (p, r.choice(XATTRS))),
    (2, "set_acl", lambda r, p, q, s: (p, r.random() < 0.4, r.randrange(8), r.randrange(8), r.randrange(8),
                                       r.choice([(), ((1, 6),), ((1, 4), (2, 7))]))),
    (0.5, "remove_acl", lambda r, p, q, s: (p, r.random() < 0.5)),
    (2, "xattrs", lambda r, p, q, s: (p,)),
    (4, "stat", lambda r, p, q, s: (p,)),
    (2, "list", lambda r, p, q, s: (r.choice(DIRS),)),
    (1, "sync_dir", lambda r, p, q, s: (r.choice(DIRS),)),
    (3, "content", lambda r, p, q, s: (p,)),
    (1, "ofd_lock", lambda r, p, q, s: (s, r.choice([fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK]), r.randrange(5), r.randrange(5))),
    (1, "flock", lambda r, p, q, s: (s, r.choice([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]))),
]
WEIGHTS = [k[0] for k in KINDS]
BY_USER = [k for k in KINDS if k[1] in AS_USER]


def draw(r):
    """One operation as plain data."""
    p, q, slot = r.choice(PATHS), r.choice(PATHS), r.randrange(SLOTS)
    if r.random() < 0.06:
        _, name, arguments = r.choice(BY_USER)
        return ("as_user", r.randrange(1, 3), r.randrange(1, 3), r.choice([0, 0o22, 0o77]), name) + arguments(r, p, q, slot)
    _, name, arguments = r.choices(KINDS, WEIGHTS)[0]
    return (name,) + arguments(r, p, q, slot)


def draw_round(r):
    operations = [draw(r) for _ in range(ROUND)]
    for special in ("remount", "forget", "kill"):
        operations.insert(r.randrange(len(operations)), (special,))
    begin = [("mkdir", d) for d in DIRS[1:]]
    begin += [("open", LEAVES[slot % 4], slot, r.choice([0, os.O_APPEND, os.O_DIRECT]) | os.O_RDWR | os.O_CREAT) for slot in range(SLOTS)]
    return begin + operations + [("remount",)]


def first_difference(a, b):
    if isinstance(a, bytes) and isinstance(b, bytes):
        at = next((k for k in range(min(len(a), len(b))) if a[k] != b[k]), min(len(a), len(b)))
        return "%d and %d bytes, first difference at %d (block %d): %r %r" % (len(a), len(b), at, at // BLOCK, a[at:at + 8], b[at:at + 8])
    if isinstance(a, dict) and isinstance(b, dict):
        return "; ".join("%s: %s" % (k, first_difference(a.get(k), b.get(k))) for k in sorted(set(a) | set(b)) if a.get(k) != b.get(k))
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
        return ", ".join(first_difference(x, y) for x, y in zip(a, b) if x != y)
    return "mount %s, ext4 %s" % (short(a), short(b))


class Run:
    """One sequence, in a folder of its own on both sides."""
    count = 0

    def __init__(self, worker, plain):
        Run.count += 1
        self.worker, self.name, self.refused = worker, "run%d" % Run.count, 0
        self.sides = [Side(os.path.join(top, self.name)) for top in (worker.mnt, plain)]

    def special(self, what):
        """What the mount alone goes through; ext4's side only loses its descriptors with it."""
        mount = self.sides[0]
        if what == "forget":                            # a remount in place drops every name that nobody uses
            tdefs.run("mount", "-i", "-o", "remount", self.worker.mnt)
        elif what in ("remount", "kill"):
            for s in self.sides:
                s.end()
            if what == "kill":
                mount.sync_all()
                time.sleep(0.03)                        # mtime below is exact with a sync that comes later than a tick (README)
                mount.sync_all()
            before = mount.mtimes()
            if what == "remount":
                self.worker.remount()
            else:
                self.worker.kill()
                self.worker.start()
            after = mount.mtimes()
            if after != before:
                return "mtimes changed: " + first_difference(after, before)
        return None

    def one(self, operation):
        """None, or how the two differ."""
        if operation[0] in ("remount", "forget", "kill", "everything"):
            why = self.special(operation[0])
            if why:
                return why
            seen = [s.everything() for s in self.sides]
        else:
            seen = [call(getattr(s, operation[0]), *operation[1:]) for s in self.sides]
            self.refused += isinstance(seen[0], str)
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

    def remove(self):
        for s in self.sides:
            tdefs.run("rm", "-rf", s.top)


def minimise(worker, plain, operations):
    """Leaves out whatever the failure does not need."""
    size = max(1, len(operations) // 2)
    end = time.monotonic() + 120
    while size and time.monotonic() < end:
        at = 0
        while at < len(operations) and time.monotonic() < end:
            shorter = operations[:at] + operations[at + size:]
            run = Run(worker, plain)
            found = run.all(shorter)
            run.remove()
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
    tdefs.allow_in_log("not left clean")        # each kill
    worker = tdefs.Worker(base, arguments=["--seal-interval", "1s"]).start()
    plain = os.path.join(base, "plain")
    os.mkdir(plain)
    for known in REGRESSIONS:
        tdefs.equal(Run(worker, plain).all(known), None, "a sequence that failed before: %r" % known)
    print("seed", seed, "operations", limit, flush=True)
    done = refused = 0
    while done < limit:
        operations = draw_round(random.Random(seed * 1000003 + done))
        run = Run(worker, plain)
        found = run.all(operations)
        if found:
            k, why = found
            print("seed %d, round at %d, operation %d %r:\n%s" % (
                seed, done, k, operations[k] if k < len(operations) else "end", why))
            print(worker.log()[-3000:], flush=True)
            tdefs.allow_in_log("refused:")
            least = minimise(worker, plain, operations[:k + 1])
            again = Run(worker, plain).all(least)
            print("the least that fails:\n    [%s],\n%s" % (", ".join(map(repr, least)), again and again[1]))
            tdefs.fail("the mount and ext4 differ")
        run.remove()
        done += len(operations)
        refused += run.refused
        if done // 50000 != (done - len(operations)) // 50000:
            print("%d operations" % done, flush=True)
    print("%d operations without a difference, of which %d were refused" % (done, refused))
    worker.stop()


main()
