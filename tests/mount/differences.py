#!/usr/bin/python3
"""README's table of what differs from ext4: each row is as it says, no worse."""
import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs
from sidebyside import (FALLOC_COLLAPSE, FALLOC_INSERT, WHITEOUT, call, fallocate, libc, make, read, renameat2)
from tdefs import check, equal

MiB = 1 << 20
FIEMAP, GETFLAGS, SETFLAGS, FICLONE = 0xC020660B, 0x80086601, 0x40086602, 0x40049409


class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]


def calls(mnt):
    make(mnt + "/f", b"x" * 100000)
    fd = os.open(mnt + "/f", os.O_RDWR)
    for mode in (FALLOC_COLLAPSE, FALLOC_INSERT):
        equal(call(fallocate, fd, mode, 0, 4096), "ENOTSUP", "fallocate mode %d" % mode)
    equal(call(os.preadv, fd, [bytearray(1)], 0, os.RWF_NOWAIT), "ENOTSUP", "RWF_NOWAIT")
    equal(call(renameat2, mnt + "/f", mnt + "/g", WHITEOUT), "EINVAL", "RENAME_WHITEOUT")
    for request, argument in ((FIEMAP, bytearray(32)), (GETFLAGS, bytearray(8)), (SETFLAGS, struct.pack("q", 0x10)), (FICLONE, fd)):
        answer = call(fcntl.ioctl, fd, request, argument)
        check(answer in ("ENOTTY", "ENOTSUP"), "ioctl %x: %s" % (request, answer))
    tdefs.run("cp", "--reflink=auto", mnt + "/f", mnt + "/copy")
    equal(read(mnt + "/copy"), b"x" * 100000, "cp --reflink=auto")
    os.unlink(mnt + "/copy")
    direct = os.open(mnt + "/f", os.O_RDWR | os.O_DIRECT)
    equal((os.pwrite(direct, b"odd", 7), os.pread(direct, 5, 6)), (3, b"xoddx"), "O_DIRECT at odd places")
    equal(tdefs.run("stat", "-c", "%w", mnt + "/f").stdout.strip(), "-", "birth time")
    with mmap.mmap(fd, 4096) as m:
        os.ftruncate(fd, 10)
        m[20] = 65
        os.ftruncate(fd, 5000)
    behind = os.pread(fd, 5000, 10)
    check(behind.strip(b"\0") in (b"", b"A"), "behind the end of the file: %r" % behind.strip(b"\0"))
    os.close(direct)
    os.close(fd)


def handles(mnt):
    """There are none where the kernel lets us say so; else one of a forgotten file, or made up, is refused, and the worker lives."""
    make(mnt + "/h", b"handle")
    handle, where, fd = Handle(size=128), ctypes.c_int(), os.open(mnt, os.O_RDONLY)
    refused = libc.name_to_handle_at(-100, os.fsencode(mnt + "/h"), ctypes.byref(handle), ctypes.byref(where), 0) < 0
    if refused:
        equal(ctypes.get_errno(), errno.EOPNOTSUPP, "name_to_handle_at")
        handle = Handle(24, 0x81)
    else:
        got = libc.open_by_handle_at(fd, ctypes.byref(handle), os.O_RDONLY)
        equal(os.read(got, 10), b"handle", "a handle of a known file")
        os.close(got)
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("2")
    os.unlink(mnt + "/h")
    for made_up in (bytes(handle.bytes), struct.pack("QII", 0x7f0000001000, 0, 0), struct.pack("QII", 2**63, 1, 1), b"\xff" * 24):
        ctypes.memmove(handle.bytes, made_up.ljust(128, b"\0"), 128)
        equal(libc.open_by_handle_at(fd, ctypes.byref(handle), os.O_RDONLY), -1, "open_by_handle_at of nothing")
    os.close(fd)
    make(mnt + "/h", b"alive")
    equal(read(mnt + "/h"), b"alive", "the mount afterwards")


def sizes(mnt):
    largest = (1 << 44) - (1 << 38)
    fd = os.open(mnt + "/large", os.O_CREAT | os.O_RDWR)
    equal((call(os.ftruncate, fd, largest), call(os.ftruncate, fd, largest + 1)), (None, "EFBIG"), "the largest file")
    equal(call(fallocate, fd, 0, largest, 1), "EFBIG", "fallocate beyond")
    direct = os.open(mnt + "/large", os.O_RDWR | os.O_DIRECT)
    equal(call(os.pwritev, direct, [mmap.mmap(-1, 4096)], largest), "EFBIG", "a direct write beyond")
    equal(os.fstat(fd).st_size, largest, "its size afterwards")
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"x" * MiB, 0)
    os.fsync(fd)
    time.sleep(1.1)
    used = os.fstat(fd).st_blocks * 512 - MiB
    check(4096 <= used <= 4096 + MiB // 100, "a MiB takes %d more" % used)
    os.close(direct)
    os.close(fd)
    os.unlink(mnt + "/large")


def attributes(mnt):
    make(mnt + "/a")
    os.setxattr(mnt + "/a", "user.x", b"v" * 3995)
    equal(call(os.setxattr, mnt + "/a", "user.x", b"v" * 4041), "ENOSPC", "more than ext4 takes")
    equal(len(os.getxattr(mnt + "/a", "user.x")), 3995, "the value that was there")
    os.removexattr(mnt + "/a", "user.x")
    for k in range(45):
        os.setxattr(mnt + "/a", "user.attribute_%d" % k, b"value_%d" % k)
    equal(len(os.listxattr(mnt + "/a")), 45, "attributes")


def times(mnt):
    make(mnt + "/t", b"x")
    os.mkdir(mnt + "/folder")
    for name in ("t", "folder"):
        os.utime(mnt + "/" + name, ns=(7, 10**18))
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")
    read(mnt + "/t")
    os.listdir(mnt + "/folder")
    with open(mnt + "/t", "r+b") as f:
        f.seek(5000)
        f.write(b"y")
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")
    read(mnt + "/t")
    equal([os.lstat(mnt + "/" + name).st_atime_ns for name in ("t", "folder")], [7, 7], "atime after reads")
    with open("/proc/self/mounts") as f:
        check([line for line in f if " %s " % mnt in line and ",noatime," in line], "the mount says noatime")
    os.utime(mnt + "/t", ns=(1, 15032385540 * 10**9))
    equal(os.stat(mnt + "/t").st_mtime, 15032385540, "the time that was set")


def damaged(worker):
    """Its header: the file opens, and gives nothing."""
    tdefs.allow_in_log("refused:", "do not verify")
    make(worker.mnt + "/damaged", b"d" * 10000)
    inode = os.stat(worker.mnt + "/damaged").st_ino
    worker.stop()
    lower, = [os.path.join(folder, f) for folder, _, files in os.walk(worker.store) for f in files
              if os.stat(os.path.join(folder, f)).st_ino == inode]
    with open(lower, "r+b") as f:
        f.seek(100)
        f.write(b"changed")
    worker.start()
    fd = os.open(worker.mnt + "/damaged", os.O_RDWR)
    equal((call(os.read, fd, 10), call(os.ftruncate, fd, 5)), ("EIO", "EIO"), "a damaged file")
    os.close(fd)
    os.unlink(worker.mnt + "/damaged")


def full(worker, lower):
    """On a full disk errors come late, but they come; what was allocated and what was synced is there."""
    mnt = worker.mnt
    free = os.statvfs(mnt).f_bavail * os.statvfs(mnt).f_frsize
    kept = os.open(mnt + "/allocated", os.O_CREAT | os.O_RDWR)
    fallocate(kept, 0, 0, 4 * MiB)
    make(mnt + "/synced", b"s" * MiB)
    os.close(os.open(mnt + "/synced", os.O_RDONLY))
    fd = os.open(mnt + "/fills", os.O_CREAT | os.O_RDWR)
    said = []
    for k in range(free // MiB + 8):
        said.append(call(os.pwrite, fd, b"f" * MiB, k * MiB))
    said += [call(os.fsync, fd), call(os.close, fd)]
    check("ENOSPC" in said, "a full disk is told: %s" % set(said))
    for k in range(4):
        equal(os.pwrite(kept, b"k" * MiB, k * MiB), MiB, "a write into what was allocated")
    os.fsync(kept)
    os.close(kept)
    check("ENOSPC" in (call(make, mnt + "/more", b"m" * 4 * MiB), "" if os.stat(mnt + "/more").st_size else "ENOSPC"), "another file")
    stored = free - os.statvfs(mnt).f_bavail * os.statvfs(mnt).f_frsize
    check(stored > free * 9 // 10, "%d of %d that statfs promised could be stored" % (stored, free))
    os.unlink(mnt + "/fills")
    os.unlink(mnt + "/more")
    worker.remount()
    equal((read(mnt + "/synced"), read(mnt + "/allocated")), (b"s" * MiB, b"k" * 4 * MiB), "what was there before")
    make(mnt + "/again", b"a" * MiB)
    equal(read(mnt + "/again"), b"a" * MiB, "a write after room was made")


def main():
    base = tdefs.scratch()
    worker = tdefs.Worker(base).start()
    os.chmod(worker.mnt, 0o755)
    damaged(worker)
    for row in (calls, handles, sizes, attributes, times):
        row(worker.mnt)
        print(row.__name__)
    second = os.path.join(base, "second")
    os.mkdir(second)
    other = tdefs.Worker(base, "other", store=worker.store, mountpoint=second)
    other.key = worker.key
    other.launch()
    check("another worker has the store mounted" in other.client("start", other.key, ok=None).stdout, "one mount at a time")
    tdefs.run("mount", "--bind", worker.mnt, second)
    equal(read(second + "/t")[:1], b"x", "a bind mount")
    tdefs.run("umount", second)
    worker.stop()
    lower = tdefs.loop_ext4(base, 64 * MiB, "small")
    if lower:
        small = tdefs.Worker(base, "small", store=lower + "/store").start()
        full(small, lower)
        small.stop()
    print("full")


main()
