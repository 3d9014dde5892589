#!/usr/bin/python3
"""The bytes of files: holes, sizes, edges, O_DIRECT, mappings, locks, notification; the mount beside ext4 (see sidebyside.py)."""
import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
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
    for turn in range(1, 150):
        pieces = [(buffer(n, bytes([turn])), n * k) for k in range(parts)]
        for got in aio.write(fd, pieces):
            tdefs.equal(got, n, "an asynchronous write")
        stale += os.pread(cached, n * parts, 0) != bytes([turn]) * (n * parts)
    stop.set()
    for t in threads:
        t.join()
    aio.end()
    os.close(fd)
    os.close(cached)
    yield stale


def main():
    base = tdefs.scratch()
    worker = tdefs.Worker(base).start()
    plain = os.path.join(base, "plain")
    os.mkdir(plain)
    os.chmod(worker.mnt, 0o755)
    compare([direct_beside_cached], worker.mnt, plain)
    worker.stop()


main()
