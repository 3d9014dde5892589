"""The calls of the model test, on one of its two directories. Each returns what a program can observe of it.

An operation never looks at what another side did, and draws nothing: the same arguments do the same on both.
"""
import fcntl
import functools
import mmap
import os
import stat
import struct
import time
import zlib

from sidebyside import call, fallocate, renameat2

SECTOR, BLOCK = 512, 4096
SLOTS, MAPS = 6, 2
LONG_AGO = 10**18               # a time that nothing but utime sets
CLOCK_REALTIME_COARSE, F_OFD_SETLK = 5, 37
TICK_S = 0.012                  # more than the grain of the kernel's coarse clock


@functools.lru_cache(maxsize=256)
def _unit(seed):
    return bytes((seed + k * 7 + k // 251) % 256 for k in range(1024)) * 600


def pattern(seed, n):
    unit = _unit(seed)
    return unit[:n] if n <= len(unit) else (unit * (n // len(unit) + 1))[:n]


def acl(owner, group, other, named=()):
    """An access control list as the kernel takes it (posix_acl_xattr.h): named users, and a mask where there are any."""
    entries = [(1, owner, 0xffffffff)] + [(2, perm, uid) for uid, perm in named] + [(4, group, 0xffffffff)]
    if named:
        entries.append((16, 7, 0xffffffff))
    entries.append((32, other, 0xffffffff))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


class Side:
    def __init__(self, top):
        """Makes top, and works in a folder so far below it that a moved symbolic link does not lead out of it."""
        self.top, self.root = top, os.path.join(top, "x/y")
        self.slots, self.maps = [None] * SLOTS, [None] * MAPS
        os.makedirs(self.root)

    def at(self, p):
        return os.path.join(self.root, p)

    def fd(self, slot):
        if self.slots[slot] is None:
            raise OSError(9, "")
        return self.slots[slot]

    def mapping(self, m):
        """A mapping and how much of it lies within the file: beyond that is SIGBUS."""
        if self.maps[m] is None:
            raise OSError(9, "")
        mapped, at = self.maps[m]
        return mapped, max(0, min(len(mapped), mapped.size() - at))

    # ---- files as a whole

    def create(self, p, n, seed):
        fd = os.open(self.at(p), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644)
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

    def tmpfile(self, p, slot, excl):
        """A file without a name (open(2), O_TMPFILE)."""
        fd = os.open(self.at(p), os.O_TMPFILE | os.O_RDWR | (os.O_EXCL if excl else 0), 0o640)
        self.close(slot)
        self.slots[slot] = fd

    def publish(self, slot, p):
        """A name for an open file, which may have none."""
        os.link("/proc/self/fd/%d" % self.fd(slot), self.at(p), follow_symlinks=True)

    def truncate(self, p, n):
        os.truncate(self.at(p), n)

    def content(self, p):
        fd = os.open(self.at(p), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
        finally:
            os.close(fd)

    def far(self, p, at, seed):
        """A write far out, at an edge; then everything is as it was but for what the growing did."""
        fd = os.open(self.at(p), os.O_RDWR | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            size, n = os.fstat(fd).st_size, 5000
            seen = [os.pwrite(fd, pattern(seed, n), at), os.fstat(fd).st_size]
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            seen += [os.pread(fd, n + 9000, max(0, at - 4500)), os.pread(fd, 100, max(0, size - 50))]
            os.ftruncate(fd, at + 1)
            os.ftruncate(fd, at + 4500)
            seen += [os.pread(fd, n, at), os.fstat(fd).st_size]
            os.ftruncate(fd, size)
            return seen
        finally:
            os.close(fd)

    # ---- bytes

    def _direct(self, fd):
        """O_DIRECT handles get only requests that ext4 takes: multiples of the sector."""
        return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT

    def pwrite(self, slot, at, n, seed):
        fd = self.fd(slot)
        if not self._direct(fd):
            return os.pwrite(fd, pattern(seed, n), at)
        at, n = at // SECTOR * SECTOR, (n + SECTOR - 1) // SECTOR * SECTOR
        with mmap.mmap(-1, n) as m:
            m[:] = pattern(seed, n)
            return os.pwritev(fd, [m], at)

    def pread(self, slot, at, n):
        fd = self.fd(slot)
        if not self._direct(fd):
            return os.pread(fd, n, at)
        at, n = at // SECTOR * SECTOR, (n + SECTOR - 1) // SECTOR * SECTOR
        with mmap.mmap(-1, n) as m:
            got = os.preadv(fd, [m], at)
            return m[:got]

    def direct(self, p, at, n, seed):
        """O_DIRECT beside whoever else has the file open or mapped."""
        fd = os.open(self.at(p), os.O_RDWR | os.O_DIRECT | os.O_NONBLOCK)
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

    def fallocate(self, slot, mode, at, n):
        fallocate(self.fd(slot), mode, at, n)

    def holes(self, slot):
        """None, or how SEEK_DATA and SEEK_HOLE lie: bytes in a hole, or an answer that is none. Where holes are may differ."""
        fd = self.fd(slot)
        size, pos = os.fstat(fd).st_size, 0
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        while pos < size:
            data = call(os.lseek, fd, pos, os.SEEK_DATA)
            if data == "ENXIO":
                data = size
            if not isinstance(data, int) or not pos <= data <= size:
                return "SEEK_DATA from %d of %d says %s" % (pos, size, data)
            if self._zeros(fd, pos, data) is not None:
                return "SEEK_DATA from %d says %d, but there are bytes at %d" % (pos, data, self._zeros(fd, pos, data))
            if data == size:
                break
            pos = call(os.lseek, fd, data, os.SEEK_HOLE)
            if not isinstance(pos, int) or not data < pos <= size:
                return "SEEK_HOLE from %d of %d says %s" % (data, size, pos)
        os.lseek(fd, 0, os.SEEK_SET)
        return call(os.lseek, fd, size, os.SEEK_DATA), call(os.lseek, fd, size + 1, os.SEEK_HOLE)

    def _zeros(self, fd, at, end):
        if self._direct(fd) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            return None
        found = os.pread(fd, end - at, at)
        left = found.lstrip(b"\0")
        return at + len(found) - len(left) if left else None

    def copy_range(self, slot, other, at, n, to):
        a, b, done = self.fd(slot), self.fd(other), 0
        if self._direct(a) or self._direct(b):
            return None
        while done < n:
            k = os.copy_file_range(a, b, n - done, at + done, to + done)
            if k == 0:
                break
            done += k
        return done

    def send(self, slot, other, at, n):
        a, b = self.fd(slot), self.fd(other)
        if self._direct(a) or self._direct(b) or os.path.sameopenfile(a, b):
            return None
        os.lseek(b, 0, os.SEEK_SET)
        return os.sendfile(b, a, at, n)

    def fsync(self, slot, data):
        (os.fdatasync if data else os.fsync)(self.fd(slot))

    def drop(self, slot):
        """Out of the kernel's cache: what is read next comes from below."""
        os.fsync(self.fd(slot))
        os.posix_fadvise(self.fd(slot), 0, 0, os.POSIX_FADV_DONTNEED)

    # ---- mappings

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

    def map(self, slot, m, at, n, private):
        fd = self.fd(slot)
        n = min(n, os.fstat(fd).st_size - at)
        if n <= 0:
            return None
        made = mmap.mmap(fd, n, offset=at, flags=mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)
        self.unmap(m)
        self.maps[m] = made, at
        return n

    def unmap(self, m):
        if self.maps[m]:
            self.maps[m][0].close()
            self.maps[m] = None

    def map_poke(self, m, at, n, seed):
        mapped, room = self.mapping(m)
        at = at % max(1, room)
        n = min(n, room - at)
        mapped[at:at + n] = pattern(seed, n)
        return n

    def map_peek(self, m, at, n):
        mapped, room = self.mapping(m)
        at = at % max(1, room)
        return mapped[at:at + min(n, room - at)]

    def map_sync(self, m):
        self.mapping(m)[0].flush()

    # ---- names

    def rename(self, p, q):
        os.rename(self.at(p), self.at(q))

    def renameat2(self, p, q, flags):
        renameat2(self.at(p), self.at(q), flags)

    def link(self, p, q):
        os.link(self.at(p), self.at(q), follow_symlinks=False)

    def symlink(self, target, p):
        os.symlink(target, self.at(p))

    def mknod(self, p, mode, device):
        os.mknod(self.at(p), mode, device)

    def unlink(self, p):
        os.unlink(self.at(p))

    def mkdir(self, p, mode=0o777):
        os.mkdir(self.at(p), mode)

    def rmdir(self, p):
        os.rmdir(self.at(p))

    def list(self, p):
        """Names and what readdir says of each; its number must be stat's."""
        out = []
        with os.scandir(self.at(p)) as entries:
            for e in entries:
                s = e.stat(follow_symlinks=False)
                kind = (e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False), e.is_symlink())
                out.append((e.name, kind, e.inode() == s.st_ino))
        return sorted(out)

    def sync_dir(self, p):
        fd = os.open(self.at(p), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # ---- attributes

    def fstat(self, slot):
        s = os.fstat(self.fd(slot))
        return s.st_size if not stat.S_ISDIR(s.st_mode) else None, s.st_nlink, s.st_mode

    def stat(self, p):
        s = os.lstat(self.at(p))
        return (stat.filemode(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, s.st_rdev,
                None if stat.S_ISDIR(s.st_mode) else s.st_size)

    def chmod(self, p, mode):
        os.chmod(self.at(p), mode)

    def fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def chown(self, p, uid, gid):
        os.chown(self.at(p), uid, gid, follow_symlinks=False)

    def utime(self, p, atime, mtime):
        os.utime(self.at(p), ns=(atime, mtime), follow_symlinks=False)
        s = os.lstat(self.at(p))
        return s.st_atime_ns, s.st_mtime_ns

    def times(self, p, q, what, n):
        """Which times of an object and of its directory a call moves. mtime is exact; ctime cannot be set, so the clock is let
        go on by a tick first."""
        path, folder = self.at(p), os.path.dirname(self.at(p))
        for x in (folder, path):
            os.utime(x, ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
        time.sleep(TICK_S)
        start = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
        said = call(self._timed, path, self.at(q), what, n)
        if not os.path.lexists(path):
            path = folder
        seen = [os.lstat(x) for x in (path, folder)]
        return said, [(s.st_mtime_ns != LONG_AGO, s.st_mtime_ns <= time.time_ns(), s.st_ctime_ns >= start) for s in seen]

    def _timed(self, path, other, what, n):
        if what in ("write", "sync", "map", "allocate", "read", "nothing"):
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                if what in ("write", "sync"):
                    os.pwrite(fd, b"x" * (1 + n % 5000), n)
                if what == "sync":
                    os.fsync(fd)
                if what == "map" and os.fstat(fd).st_size:
                    with mmap.mmap(fd, 1) as m:
                        m[0] = n % 256
                        m.flush()
                if what == "allocate":
                    fallocate(fd, 0, n, 1000)
                if what == "read":
                    os.pread(fd, 1000, n)
            finally:
                os.close(fd)
        elif what == "truncate":
            os.truncate(path, n)
        elif what == "chmod":
            os.chmod(path, 0o600 + n % 64)
        elif what == "xattr":
            os.setxattr(path, "user.time", b"t")
            os.removexattr(path, "user.time")
        elif what == "rename":
            os.rename(path, other)
        elif what == "link":
            os.link(path, other, follow_symlinks=False)
        elif what == "unlink":
            os.unlink(path)
        elif what == "entry":
            os.close(os.open(path + "/time", os.O_CREAT | os.O_WRONLY))
            os.unlink(path + "/time")
        return None

    def setxattr(self, p, name, n, flags):
        os.setxattr(self.at(p), name, pattern(n % 256, n), flags, follow_symlinks=False)

    def removexattr(self, p, name):
        os.removexattr(self.at(p), name, follow_symlinks=False)

    def set_acl(self, p, default, *what):
        os.setxattr(self.at(p), "system.posix_acl_" + ("default" if default else "access"), acl(*what))

    def remove_acl(self, p, default):
        os.removexattr(self.at(p), "system.posix_acl_" + ("default" if default else "access"))

    def xattrs(self, p):
        return {n: os.getxattr(self.at(p), n, follow_symlinks=False) for n in os.listxattr(self.at(p), follow_symlinks=False)}

    # ---- locks, other users

    def ofd_lock(self, slot, kind, at, n):
        fcntl.fcntl(self.fd(slot), F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, at, n, 0))

    def flock(self, slot, kind):
        fcntl.flock(self.fd(slot), kind | fcntl.LOCK_NB)

    def as_user(self, uid, gid, mask, operation, *arguments):
        old = os.umask(mask)
        os.setgroups([])
        os.setegid(gid)
        os.seteuid(uid)
        try:
            return call(getattr(self, operation), *arguments)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.umask(old)

    # ---- the whole tree

    def walk(self):
        for folder, dirs, files in os.walk(self.top):
            for name in dirs + files:
                yield os.path.relpath(os.path.join(folder, name), self.root), name in files

    def everything(self):
        out = {}
        for p, is_file in self.walk():
            out[p] = (call(self.stat, p), call(self.xattrs, p))
            if is_file:
                out[p] += (call(os.readlink, self.at(p)), call(self.content, p))
        return out

    def mtimes(self):
        return {p: os.lstat(self.at(p)).st_mtime_ns for p, _ in self.walk()}

    def sync_all(self):
        for p, is_file in list(self.walk()):
            if is_file and not stat.S_ISREG(os.lstat(self.at(p)).st_mode):
                continue
            fd = os.open(self.at(p), os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        self.sync_dir("")

    def end(self):
        for slot in range(SLOTS):
            self.close(slot)
        for m in range(MAPS):
            self.unmap(m)


def short(value):
    text = repr(value)
    return text if len(text) < 300 else "%s... (%d characters, checksum %x)" % (text[:200], len(text), zlib.crc32(text.encode()))
