#!/usr/bin/python3
"""The bytes of files: holes, sizes, edges, O_DIRECT, mappings, locks, notification; the mount beside ext4 (see sidebyside.py)."""
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import sidebyside
import tdefs
from sidebyside import (FALLOC_COLLAPSE, FALLOC_INSERT, FALLOC_KEEP, FALLOC_PUNCH, FALLOC_ZERO, as_ids, brief, call, compare,
                        fallocate, libc, make, read)

BLOCK, GROUP = 4096, 4096 * 128
USER = 12345


def buffer(n, fill=b"\0"):
    """Memory as O_DIRECT wants it."""
    m = mmap.mmap(-1, n)
    m[:] = (fill * (n // len(fill) + 1))[:n]
    return m


# ---- asynchronous direct I/O, by the system calls: io_setup 206, io_destroy 207, io_getevents 208, io_submit 209 (x86-64) ----

class Iocb(ctypes.Structure):
    _fields_ = [("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("rw_flags", ctypes.c_uint32), ("opcode", ctypes.c_uint16),
                ("prio", ctypes.c_int16), ("fd", ctypes.c_uint32), ("buf", ctypes.c_uint64), ("nbytes", ctypes.c_uint64),
                ("offset", ctypes.c_int64), ("reserved", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("resfd", ctypes.c_uint32)]


class Aio:
    def __init__(self):
        self.context = ctypes.c_ulong(0)
        if libc.syscall(206, 64, ctypes.byref(self.context)) < 0:
            tdefs.skip("no asynchronous I/O")

    def write(self, fd, pieces):
        """Submits all (memory, offset) at once and waits for them; the results in any order."""
        blocks = [Iocb(opcode=1, fd=fd, buf=ctypes.addressof(ctypes.c_char.from_buffer(m)), nbytes=len(m), offset=off)
                  for m, off in pieces]
        pointers = (ctypes.POINTER(Iocb) * len(blocks))(*map(ctypes.pointer, blocks))
        tdefs.equal(libc.syscall(209, self.context, len(blocks), pointers), len(blocks), "io_submit")
        events = (ctypes.c_int64 * (4 * len(blocks)))()
        tdefs.equal(libc.syscall(208, self.context, len(blocks), len(blocks), events, None), len(blocks), "io_getevents")
        return [events[4 * k + 2] for k in range(len(blocks))]

    def end(self):
        libc.syscall(207, self.context)


def direct_beside_cached(d):
    """Asynchronous direct writes while others read through the page cache: nobody reads old bytes afterwards."""
    n, parts = 16 * BLOCK, 4
    make("f", b"\0" * (n * parts))
    fd, cached = os.open("f", os.O_RDWR | os.O_DIRECT), os.open("f", os.O_RDONLY)
    stop, aio, stale = threading.Event(), Aio(), 0

    def reader():
        while not stop.is_set():
            for at in range(0, n * parts, BLOCK):
                os.pread(cached, 100, at)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for t in threads:
        t.start()
    for turn in range(1, 156):
        if turn == 150:
            stop.set()
            for t in threads:
                t.join()
        if turn >= 150:             # and again once they have rested for long
            time.sleep(turn % 2 * 1.1)
        pieces = [(buffer(n, bytes([turn])), n * k) for k in range(parts)]
        for got in aio.write(fd, pieces):
            tdefs.equal(got, n, "an asynchronous write")
        stale += os.pread(cached, n * parts, 0) != bytes([turn]) * (n * parts)
    aio.end()
    os.close(fd)
    os.close(cached)
    yield stale


def in_child(function, *arguments):
    return as_ids(0, 0, function, *arguments)


def segments(fd):
    """Where the data is, as SEEK_DATA and SEEK_HOLE tell it."""
    out, at = [], 0
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            return out + [errno.errorcode[e.errno]]
        end = os.lseek(fd, at, os.SEEK_HOLE)
        out.append((at, end))
        at = end


def holes(d):
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    yield segments(fd), [call(os.lseek, fd, 0, w) for w in (os.SEEK_DATA, os.SEEK_HOLE)]
    for at in (0, 5 * BLOCK + 7, GROUP - 1, GROUP + BLOCK, 3 * GROUP, 9 * GROUP - BLOCK, 20 * GROUP + 1):
        os.pwrite(fd, b"x", at)
        yield segments(fd)
    for sync in (False, True):
        if sync:
            os.fsync(fd)
        yield segments(fd)
        size = os.fstat(fd).st_size
        yield [call(os.lseek, fd, at, w) for at in (-1, 0, 1, BLOCK - 1, BLOCK, 5 * BLOCK, 6 * BLOCK, GROUP - 1, GROUP, 4 * GROUP, size - 1,
               size, size + 1, 1 << 50) for w in (os.SEEK_DATA, os.SEEK_HOLE)]
    os.ftruncate(fd, 40 * GROUP + 5)
    yield segments(fd)
    os.ftruncate(fd, 3 * GROUP + 1)
    yield segments(fd)
    os.pwrite(fd, b"y" * (2 * GROUP), 0)
    for mode, at, n in ((FALLOC_PUNCH | FALLOC_KEEP, BLOCK, 3 * BLOCK), (FALLOC_PUNCH | FALLOC_KEEP, GROUP - BLOCK, 2 * BLOCK),
                        (FALLOC_PUNCH | FALLOC_KEEP, 10 * BLOCK + 5, 100), (0, 3 * GROUP, GROUP), (FALLOC_KEEP, 5 * GROUP, GROUP)):
        fallocate(fd, mode, at, n)
        os.fsync(fd)
        yield mode, segments(fd), os.fstat(fd).st_size
    os.pwrite(fd, b"in what was only allocated", 3 * GROUP + 10 * BLOCK)
    yield segments(fd)
    os.fsync(fd)
    yield segments(fd)
    os.close(fd)
    make("empty")
    fd = os.open("empty", os.O_RDWR)
    os.ftruncate(fd, 1 << 40)
    yield segments(fd), os.fstat(fd).st_blocks < 64
    os.close(fd)


def allocates(d):
    """What fallocate(2) does, and to whom it says no."""
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    modes = [0, FALLOC_KEEP, FALLOC_PUNCH, FALLOC_PUNCH | FALLOC_KEEP, FALLOC_ZERO, FALLOC_ZERO | FALLOC_KEEP,
             FALLOC_ZERO | FALLOC_PUNCH | FALLOC_KEEP, 1 << 20]
    for mode in modes:
        for at, n in ((0, 0), (-1, 5), (5, -1), (0, 1), (BLOCK - 1, 2), (3 * BLOCK, 2 * BLOCK), (GROUP - 5, 10), (1 << 62, 1 << 62)):
            yield mode, at, n, call(fallocate, fd, mode, at, n), os.fstat(fd).st_size
        os.pwrite(fd, b"data" * 5000, 1000)
    yield read("f")
    for mode in (FALLOC_COLLAPSE, FALLOC_INSERT):
        yield call(fallocate, fd, mode, 1, BLOCK) in ("EINVAL", "ENOTSUP")
    os.close(fd)
    r = os.open("f", os.O_RDONLY)
    folder = os.open(".", os.O_RDONLY)
    pipe = os.pipe()
    yield [call(fallocate, x, 0, 0, 10) for x in (r, folder, pipe[1])]
    for x in (r, folder, *pipe):
        os.close(x)
    make("g", b"z" * 10000)
    fd = os.open("g", os.O_RDWR)
    before = os.fstat(fd).st_blocks
    fallocate(fd, FALLOC_KEEP, 0, 4 << 20)
    yield os.fstat(fd).st_size, os.fstat(fd).st_blocks - before > 8000
    fallocate(fd, FALLOC_PUNCH | FALLOC_KEEP, 0, 4 << 20)
    yield read("g") == bytes(10000), os.fstat(fd).st_blocks < 64
    fallocate(fd, 0, 0, 1 << 20)
    yield os.fstat(fd).st_size, read("g") == bytes(1 << 20), os.fstat(fd).st_blocks >= 2048
    os.close(fd)


def edges(d):
    """Sizes and writes at every edge: of blocks, groups, regions, of 31, 32 and 40 bits, and of the largest file."""
    largest = (1 << 44) - (1 << 38)
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    for edge in (BLOCK, GROUP, 2 * GROUP, 128 * GROUP, 3392 * GROUP, 3393 * GROUP, 1 << 31, 1 << 32, 6784 * GROUP, 1 << 40, 10 << 40, largest):
        for at, what in ((edge - 2, b"ab"), (edge - 1, b"c"), (edge - BLOCK, b"d"), (edge, b"e"), (edge - 1, b"fg"), (edge + BLOCK, b"h")):
            yield edge, at, call(os.pwrite, fd, what, at) if at + len(what) <= largest else None, os.fstat(fd).st_size
            yield call(os.pread, fd, 8, max(0, edge - 4)), call(os.pread, fd, 3, edge + BLOCK - 1)
        os.fsync(fd)
        yield os.pread(fd, 3 * BLOCK, max(0, edge - BLOCK - 10)), segments(fd)[-4:]
    yield os.fstat(fd).st_blocks < 4096
    for size in (largest, largest - 1, (10 << 40) + 1, (1 << 40) - 1, GROUP + 1, GROUP, GROUP - 1, BLOCK, 1, 0):
        os.ftruncate(fd, size)
        yield os.fstat(fd).st_size, os.pread(fd, 4, max(0, size - 4)), len(segments(fd))
    os.close(fd)


def direct(d):
    unit = ALIGNMENT
    fd = os.open("f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    memory = buffer(1 << 21, bytes(range(251)))
    view = memoryview(memory)
    for at, n in ((0, unit), (unit, 3 * unit), (BLOCK, 16 * BLOCK), (GROUP - unit, 2 * unit), (GROUP - BLOCK, 3 * BLOCK), (5 * unit, (1 << 20) + unit),
                  (3 * GROUP, unit), (10 * GROUP, 1 << 20)):
        yield at, n, os.pwritev(fd, [view[unit:unit + n]], at), os.fstat(fd).st_size
    for at, n in ((0, 1 << 20), (GROUP, unit), (4 * GROUP, BLOCK), (10 * GROUP + (1 << 20) - unit, 8 * BLOCK), (12 * GROUP, BLOCK)):
        into = buffer(1 << 20, b"?")
        got = os.preadv(fd, [memoryview(into)[:n]], at)
        yield at, got, into[:got], into[n:]
    yield os.pwritev(fd, [view[:unit], view[3 * unit:4 * unit], view[10 * unit:30 * unit]], 0), read("f")[:40 * unit]
    os.ftruncate(fd, 3 * BLOCK + 77)
    into = buffer(1 << 16, b"?")
    yield os.preadv(fd, [into], 2 * BLOCK), into[:BLOCK + 77]
    os.close(fd)
    fd = os.open("f", os.O_WRONLY | os.O_DIRECT | os.O_APPEND)
    os.ftruncate(fd, 2 * BLOCK)
    yield os.writev(fd, [view[:BLOCK]]), os.fstat(fd).st_size
    os.close(fd)
    fd = os.open("f", os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    yield os.pwritev(fd, [view[:BLOCK]], 0), fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT != 0
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    yield os.pwrite(fd, b"odd", 1), read("f")[:8]
    os.close(fd)
    view.release()


def coherence(d):
    """One file by a mapping, by O_DIRECT and by read and write, in three processes."""
    n = 40 * BLOCK
    make("f", b"0" * n)
    fd = os.open("f", os.O_RDWR)
    m = mmap.mmap(fd, n)

    def direct_read(at):
        f = os.open("f", os.O_RDONLY | os.O_DIRECT)
        into = buffer(BLOCK)
        os.preadv(f, [into], at)
        os.close(f)
        return bytes(into[:4])

    def direct_write(at, what):
        f = os.open("f", os.O_WRONLY | os.O_DIRECT)
        os.pwritev(f, [buffer(BLOCK, what)], at)
        os.close(f)

    def write(at, what):
        f = os.open("f", os.O_WRONLY)
        os.pwrite(f, what, at)
        os.close(f)

    def mapped_write(at, what):
        f = os.open("f", os.O_RDWR)
        with mmap.mmap(f, n) as other:
            other[at:at + len(what)] = what
        os.close(f)

    for at in (0, BLOCK, 7 * BLOCK, 39 * BLOCK):
        m[at:at + 4] = b"map1"
        yield os.pread(fd, 4, at), in_child(direct_read, at)
        yield in_child(direct_write, at, b"dir1"), m[at:at + 4], os.pread(fd, 4, at)
        yield in_child(write, at, b"wri1"), m[at:at + 4], in_child(direct_read, at)
        yield in_child(mapped_write, at, b"map2"), os.pread(fd, 4, at), m[at:at + 4], in_child(direct_read, at)
        m[at:at + 4] = b"map3"
        yield in_child(direct_write, at + BLOCK if at < 39 * BLOCK else 0, b"near"), in_child(direct_read, at)
    m.flush()
    os.fsync(fd)
    yield read("f")
    direct_fd = os.open("f", os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(direct_fd, n) as other:
        other[5:9] = b"odir"
        yield os.pread(fd, 9, 0), m[:9]
    os.close(direct_fd)
    private = mmap.mmap(fd, n, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    private[0:4] = b"priv"
    yield os.pread(fd, 4, 0), m[:4]
    os.ftruncate(fd, BLOCK + 10)
    yield m[BLOCK:BLOCK + 12]

    def touch_beyond():
        no_core()
        m[3 * BLOCK]

    pid = os.fork()
    if pid == 0:
        touch_beyond()
        os._exit(0)
    yield os.waitpid(pid, 0)[1]
    os.ftruncate(fd, n)
    yield m[3 * BLOCK:3 * BLOCK + 4], m[n - 1]
    m.close()
    private.close()
    os.close(fd)


def no_core():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def appends(d):
    """Eight processes append to one file: every line is there once, whole."""
    make("log")
    children = []
    for k in range(8):
        pid = os.fork()
        if pid == 0:
            fd = os.open("log", os.O_WRONLY | os.O_APPEND)
            for line in range(200):
                os.write(fd, b"%d %d " % (k, line) + b"x" * (line * 7 % 150) + b"\n")
            os._exit(0)
        children.append(pid)
    yield [os.waitpid(pid, 0)[1] for pid in children]
    lines = read("log").split(b"\n")
    yield len(lines), len(set(lines)), sorted(lines)
    fd = os.open("log", os.O_RDWR | os.O_APPEND)
    yield os.pwrite(fd, b"end", 0), read("log")[-3:], os.lseek(fd, 0, os.SEEK_CUR)
    os.close(fd)


F_OFD_GETLK, F_OFD_SETLK = 36, 37


def lock(fd, command, kind, start, length):
    return fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, 0, start, length, 0))


def owner(fd, command, kind, start, length):
    kind, _, start, length, pid = struct.unpack("hhqqi4x", lock(fd, command, kind, start, length))
    return kind, start, length, {0: 0, -1: -1}.get(pid, "a pid")


def locks(d):
    make("f", b"x" * 100)
    fd = os.open("f", os.O_RDWR)

    def other(command, kind, start, length):
        f = os.open("f", os.O_RDWR)
        return lock(f, command, kind, start, length) is not None

    def ask(command, kind, start, length):
        f = os.open("f", os.O_RDWR)
        return owner(f, command, kind, start, length)

    def flocks(how):
        f = os.open("f", os.O_RDWR)
        return fcntl.flock(f, how | fcntl.LOCK_NB)

    lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 10, 20)
    for start, n in ((0, 10), (0, 11), (29, 1), (30, 5), (0, 0), (15, 1)):
        yield [in_child(other, fcntl.F_SETLK, kind, start, n) for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK)]
        yield in_child(ask, fcntl.F_GETLK, fcntl.F_WRLCK, start, n), in_child(other, F_OFD_SETLK, fcntl.F_RDLCK, start, n)
    lock(fd, fcntl.F_SETLK, fcntl.F_UNLCK, 15, 5)
    lock(fd, fcntl.F_SETLK, fcntl.F_RDLCK, 25, 100)
    yield [in_child(ask, fcntl.F_GETLK, fcntl.F_WRLCK, start, 1) for start in (9, 10, 14, 15, 19, 20, 25, 29, 124, 125)]
    second = os.open("f", os.O_RDWR)
    os.close(second)                    # and with it all POSIX locks of this process are gone
    yield in_child(other, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 0)
    lock(fd, F_OFD_SETLK, fcntl.F_WRLCK, 0, 50)
    second = os.open("f", os.O_RDWR)
    yield call(lock, second, F_OFD_SETLK, fcntl.F_RDLCK, 49, 1), call(lock, second, fcntl.F_SETLK, fcntl.F_RDLCK, 10, 1)
    yield owner(second, F_OFD_GETLK, fcntl.F_RDLCK, 0, 1)
    os.close(second)
    yield in_child(other, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 0), in_child(ask, fcntl.F_GETLK, fcntl.F_WRLCK, 0, 0)
    lock(fd, F_OFD_SETLK, fcntl.F_UNLCK, 0, 0)
    for mine in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        fcntl.flock(fd, mine)
        yield [in_child(flocks, how) for how in (fcntl.LOCK_SH, fcntl.LOCK_EX)]
        second = os.open("f", os.O_RDONLY)
        yield call(fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(second)
        yield in_child(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # inherited: it is the same open file
    fcntl.flock(fd, fcntl.LOCK_UN)
    yield in_child(flocks, fcntl.LOCK_EX)

    for take in (lambda f: fcntl.lockf(f, fcntl.LOCK_EX), lambda f: fcntl.flock(f, fcntl.LOCK_EX)):    # blocking, and interrupted
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            f = os.open("f", os.O_RDWR)
            take(f)
            os.write(writer, b"!")
            time.sleep(0.3)
            os._exit(0)
        os.read(reader, 1)
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError(errno.EINTR, "")))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        yield call(take, fd)
        signal.setitimer(signal.ITIMER_REAL, 0)
        take(fd)
        yield os.waitpid(pid, 0)[1]
        os.close(reader)
        os.close(writer)
    os.close(fd)
    fd = os.open("f", os.O_RDONLY)
    yield call(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB), call(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def notified(d):
    """What inotify(7) tells."""
    fd = libc.inotify_init1(os.O_NONBLOCK)
    os.mkdir("in")
    os.mkdir("in/sub")
    make("in/old", b"old")
    tdefs.check(libc.inotify_add_watch(fd, b"in", 0xfff) >= 0, "a watch on a directory")
    tdefs.check(libc.inotify_add_watch(fd, b"in/old", 0xfff) >= 0, "a watch on a file")

    def events():
        out, cookies = [], {}
        while select.select([fd], [], [], 0.05)[0]:
            data = os.read(fd, 65536)
            while data:
                watch, mask, cookie, n = struct.unpack_from("iIII", data)
                out.append((watch, hex(mask), cookie and cookies.setdefault(cookie, len(cookies) + 1), data[16:16 + n].rstrip(b"\0")))
                data = data[16 + n:]
        return out

    def mapped():
        f = os.open("in/old", os.O_RDWR)
        os.write(f, b"abc")
        with mmap.mmap(f, 3) as m:
            m[0] = 65
        os.close(f)

    for action in (lambda: make("in/new", b"x"), lambda: read("in/new"), lambda: os.chmod("in/new", 0o600), lambda: os.truncate("in/new", 0),
                   lambda: os.utime("in/new"), lambda: os.setxattr("in/new", "user.a", b""), lambda: os.link("in/new", "in/link"),
                   lambda: os.rename("in/new", "in/renamed"), lambda: os.rename("in/renamed", "out"), lambda: os.rename("out", "in/old"),
                   lambda: os.mkdir("in/d"), lambda: os.rmdir("in/d"), lambda: os.symlink("x", "in/l"), lambda: os.mkfifo("in/p"),
                   lambda: os.listdir("in"), lambda: os.unlink("in/link"), mapped, lambda: os.unlink("in/old"), lambda: os.chown("in", 1, 1)):
        action()
        yield events()
    for p in os.listdir("in"):
        os.rmdir("in/" + p) if p == "sub" else os.unlink("in/" + p)
    os.rmdir("in")
    yield sorted(events(), key=str)
    os.close(fd)


def processes(d):
    """Programs on the mount, and files that only descriptors know."""
    make("script", b"#!/bin/sh\necho $1\n", 0o755)
    yield tdefs.run(d + "/script", "ran").stdout, call(os.execv, d + "/none", ["none"])
    tdefs.run("cp", "/bin/sleep", "busy")
    child = os.posix_spawn(d + "/busy", ["busy", "5"], {})
    yield call(os.open, "busy", os.O_WRONLY), call(os.truncate, "busy", 0), call(os.unlink, "busy")
    os.kill(child, signal.SIGKILL)
    yield os.waitpid(child, 0)[1]
    fd = os.open("script", os.O_RDWR)
    yield call(os.execv, d + "/script", ["script"])
    os.chmod("script", 0o644)
    yield call(os.execv, d + "/script", ["script"])
    os.unlink("script")
    again = os.open("/proc/self/fd/%d" % fd, os.O_RDWR)
    os.pwrite(again, b"reopened", 0)
    yield os.pread(fd, 8, 0), os.fstat(again).st_nlink, os.readlink("/proc/self/fd/%d" % fd).endswith("script (deleted)")
    os.close(fd)
    os.close(again)
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir(d + "/gone")
    yield call(os.getcwd), call(os.listdir, "."), call(make, "x"), call(os.mkdir, "x"), call(os.stat, "..")[0] != 0, call(os.rename, ".", d + "/x")
    os.chdir(d)
    path = os.open(".", os.O_PATH)
    make("viapath", b"1")
    yield os.stat("viapath", dir_fd=path).st_size, call(os.read, path, 1), call(os.fchmod, path, 0o755), os.path.samestat(os.fstat(path), os.stat("."))
    os.close(path)


def transfers(d):
    content = bytes(range(256)) * 3000
    make("a", content)
    a, b = os.open("a", os.O_RDONLY), os.open("b", os.O_CREAT | os.O_RDWR)
    yield os.sendfile(b, a, 0, len(content)) > 0, read("b") == content[:os.fstat(b).st_size]
    os.ftruncate(b, 0)
    yield os.copy_file_range(a, b, len(content), 0, 100), os.fstat(b).st_size, read("b")[100:] == content
    yield call(os.copy_file_range, a, b, 10, len(content) + 5, 0), call(os.copy_file_range, b, a, 10, 0, 0)
    r, w = os.pipe()
    yield os.splice(a, w, 30000, offset_src=5), os.splice(r, b, 30000, offset_dst=0), read("b")[:30000] == content[5:30005]
    yield os.preadv(a, [bytearray(3), bytearray(70000)], 10), call(os.preadv, a, [bytearray(1)], -1)
    yield os.pwritev(b, [b"ab", b"", b"cd" * 40000], 1 << 20), os.fstat(b).st_size
    for flags in (os.RWF_DSYNC, os.RWF_SYNC, os.RWF_HIPRI, getattr(os, "RWF_APPEND", 16)):
        yield call(os.pwritev, b, [b"flag"], 3, flags), os.fstat(b).st_size
    yield call(os.posix_fadvise, b, 0, 0, os.POSIX_FADV_DONTNEED), libc.sync_file_range(b, ctypes.c_long(0), ctypes.c_long(0), 7)
    for f in (a, b, r, w):
        os.close(f)
    for flags in (os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_NONBLOCK):
        fd = os.open("b", os.O_RDWR | flags)
        yield os.pwrite(fd, b"sync", 0), os.pread(fd, 4, 0)
        os.close(fd)
    os.chmod("b", 0o666)
    yield as_ids(USER, USER, lambda: os.read(os.open(d + "/b", os.O_RDONLY | os.O_NOATIME), 4))

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        f = os.open("limited", os.O_CREAT | os.O_RDWR)
        return os.write(f, b"x" * 6000), call(os.write, f, b"x"), call(os.ftruncate, f, 5001), call(fallocate, f, 0, 0, 5001)
    yield in_child(limited)


UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def set_times(d):
    """utimensat(2): its special values, and what may not be told."""
    class Pair(ctypes.Structure):
        _fields_ = [("s0", ctypes.c_long), ("n0", ctypes.c_long), ("s1", ctypes.c_long), ("n1", ctypes.c_long)]

    def utimens(path, *values, flags=0):
        if libc.utimensat(-100, os.fsencode(path), ctypes.byref(Pair(*values)) if values else None, flags) < 0:
            raise OSError(ctypes.get_errno(), "")

    def told(path):
        s = os.lstat(path)
        return [t if t < 10**18 else "now" for t in (s.st_atime_ns, s.st_mtime_ns)]

    os.chmod(".", 0o777)
    make("f", b"x", 0o666)
    os.symlink("f", "l")
    os.mkfifo("p")
    os.mkdir("d")
    for path in ("f", "l", "p", "d"):
        for values in ((1, 2, 3, 4), (0, UTIME_OMIT, 5, 6), (7, 8, 0, UTIME_OMIT), (0, UTIME_NOW, 9, 10), (11, 12, 0, UTIME_NOW),
                       (0, UTIME_OMIT, 0, UTIME_OMIT), (13, 999999999, -14, 1), (1, 1000000000, 1, 1), (1, -1, 1, 1), (0, UTIME_NOW, 0, UTIME_NOW), ()):
            yield call(utimens, path, *values, flags=0x100), told(path)
    for values in ((1, 2, 3, 4), (0, UTIME_NOW, 0, UTIME_NOW), (0, UTIME_OMIT, 0, UTIME_NOW), (0, UTIME_OMIT, 0, UTIME_OMIT), ()):
        yield as_ids(USER, USER, utimens, "f", *values), as_ids(USER, USER, utimens, "none", *values)
    os.chmod("f", 0o600)
    for values in ((1, 2, 3, 4), (0, UTIME_NOW, 0, UTIME_NOW), ()):
        yield as_ids(USER, USER, utimens, "f", *values)
    fd = os.open("f", os.O_RDWR)
    for seconds in (1 - (1 << 31), -1, 0, 1 << 32, 1 << 33, 15032385534):   # outside: README, differences
        os.utime("f", ns=(seconds * 10**9 + 5, seconds * 10**9 + 6))
        yield os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns
        os.fsync(fd)
        yield os.stat("f").st_mtime_ns
    os.close(fd)


def entries(fd, size):
    """One getdents64(2): [(name, offset of the next)]."""
    buf = ctypes.create_string_buffer(size)
    n = libc.syscall(217, fd, buf, size)
    out, at = [], 0
    while at < n:
        _, off, length = struct.unpack_from("<QqH", buf.raw, at)
        out.append((buf.raw[at + 19:at + length].split(b"\0")[0], off))
        at += length
    return out


def readdir_of_many(d):
    """Read while every third entry goes and new ones come: who stayed is told once; and a position once told stays good."""
    for k in range(COUNT):
        os.mknod("f%06d" % k, 0o100600)
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    seen, k = [], 0
    while True:
        some = entries(fd, 4096)
        if not some:
            break
        seen += [name for name, _ in some]
        for _ in range(len(some)):
            if k % 30 == 0:
                os.unlink("f%06d" % (COUNT - 1 - k // 30))
                os.mknod("g%06d" % k, 0o100600)
            k += 1
    stayed = {b"f%06d" % n for n in range(COUNT - COUNT // 30 - 2)}
    yield len(stayed - set(seen)), len(seen) - len(set(seen)), len(os.listdir("."))
    os.lseek(fd, 0, os.SEEK_SET)
    whole = []
    while True:
        some = entries(fd, 65536)
        if not some:
            break
        whole += some
    bad = 0
    for at in range(10, len(whole) - 1, max(1, len(whole) // 50)):
        os.lseek(fd, whole[at][1], os.SEEK_SET)
        bad += entries(fd, 4096)[0][0] != whole[at + 1][0]
    yield bad
    os.close(fd)
    with os.scandir(".") as found:
        names = [e.name for e in found]
    for name in names:
        os.unlink(name)
    yield os.listdir("."), call(os.rmdir, d + "/../readdir_of_many/."), os.stat(".").st_nlink


def every_name(d):
    """Every call with names of 255 bytes and of bytes that are no text."""
    for n in (b"\xff" * 255, b"\x80\xfe\n\t\x01\\ '\"*?", b"e\xcc\x81" * 85, b"." + b"\xf0" * 200):
        a, b = n, n[:-1] + b"~"
        make(a, b"content")
        yield os.listdir(b"."), read(a), brief(a)
        os.link(a, b)
        yield os.stat(a).st_nlink, call(os.link, a, b), call(os.mkdir, a), call(os.mkfifo, a), call(os.symlink, a, b)
        os.unlink(b)
        os.rename(a, b)
        yield call(os.stat, a), read(b)
        make(a, b"other")
        sidebyside.renameat2(a, b, sidebyside.EXCHANGE)
        yield read(a), read(b), call(sidebyside.renameat2, a, b, sidebyside.NOREPLACE)
        os.chmod(a, 0o640)
        os.chown(a, 5, 6)
        os.truncate(a, 3)
        os.utime(a, ns=(1, 2))
        yield os.stat(a).st_mtime_ns
        os.setxattr(a, "user.x", b"v")
        yield brief(a), os.listxattr(a), os.access(a, os.R_OK), os.statvfs(a).f_namemax
        os.rename(a, b)
        yield sorted(os.listdir(b".")), read(b)
        os.unlink(b)
        os.symlink(n * 3, a)
        yield os.readlink(a) == n * 3, os.lstat(a).st_size
        os.unlink(a)
        os.mkdir(a)
        make(a + b"/" + a, b"below")
        os.rename(a, b)
        yield read(b + b"/" + a), call(os.rmdir, b)
        os.unlink(b + b"/" + a)
        os.rmdir(b)
        os.mkfifo(a)
        yield brief(a)
        os.unlink(a)
        yield os.listdir(b".")


def deep(d):
    """As deep as PATH_MAX lets a path be, and deeper by steps."""
    path, longest = d, 4095 - 1
    while len(path) + 2 <= longest:
        path += "/" + "d" * min(200, longest - len(path) - 1)
        os.mkdir(path)
    yield len(path), call(os.mkdir, path + "/xx"), os.stat(path).st_nlink
    os.chdir(path)
    for _ in range(50):
        os.mkdir("e" * 255)
        os.chdir("e" * 255)
    make("bottom", b"here")
    yield read("bottom"), call(os.getcwd)[-300:], os.lstat("bottom").st_size
    os.unlink("bottom")
    for _ in range(50):
        os.chdir("..")
        os.rmdir("e" * 255)
    os.chdir(d)
    yield brief(path)


def few_descriptors(base):
    """Three times as many files as the worker may have descriptors."""
    worker = tdefs.Worker(base, "few")
    worker.launch()
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (2000, 2000))
    worker.client("start", worker.key)
    for k in range(6000):
        make("%s/%d" % (worker.mnt, k), b"%d" % k)
    for k in range(0, 6000, 7):
        tdefs.equal(read("%s/%d" % (worker.mnt, k)), b"%d" % k, "a file that was forgotten")
    worker.stop()


def alignment(folder):
    """The smallest unit that O_DIRECT takes in a plain directory."""
    fd = os.open(os.path.join(folder, "unit"), os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    try:
        for unit in (512, 1024, 2048):
            if call(os.pwritev, fd, [memoryview(buffer(2 * BLOCK))[unit:2 * unit]], unit) == unit:
                return unit
        return BLOCK
    finally:
        os.close(fd)


def main():
    global ALIGNMENT, COUNT
    base = tdefs.scratch()
    worker = tdefs.Worker(base).start()
    plain = os.path.join(base, "plain")
    os.mkdir(plain)
    os.chmod(worker.mnt, 0o755)
    ALIGNMENT, COUNT = alignment(base), 100000 if tdefs.LONG else 30000    # more than the descriptors that a process often has
    print("O_DIRECT takes %d bytes" % ALIGNMENT)
    compare([direct_beside_cached, holes, allocates, edges, direct, coherence, appends, locks, notified, processes, transfers, set_times,
             every_name, deep, readdir_of_many], worker.mnt, plain)
    worker.stop()
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 18):
        few_descriptors(base)


main()
