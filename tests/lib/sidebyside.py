"""Runs the same calls on a mount and on a plain ext4 directory and compares everything they say.

A case is a function of one directory that yields (or returns a list of) observations. call() turns a refused call
into the name of its errno, so that both results and refusals are compared.
"""
import ctypes
import errno
import os
import stat
import traceback

import tdefs

AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
FALLOC_KEEP, FALLOC_PUNCH, FALLOC_COLLAPSE, FALLOC_ZERO, FALLOC_INSERT = 1, 2, 8, 16, 32
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
libc = tdefs.libc


def name_of(number):
    return errno.errorcode.get(number, str(number))


def call(function, *arguments, **more):
    try:
        return function(*arguments, **more)
    except OSError as e:
        return name_of(e.errno)


def _c(function, *arguments):
    if function(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def renameat2(old, new, flags):
    _c(libc.renameat2, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags))


def fallocate(fd, mode, offset, length):
    _c(libc.fallocate, fd, mode, ctypes.c_long(offset), ctypes.c_long(length))


def link_fd(fd, new):
    """Gives an open file a name, as open(2) shows for O_TMPFILE."""
    _c(libc.linkat, AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(new), AT_SYMLINK_FOLLOW)


def make(path, content=b"", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    try:
        done = 0
        while done < len(content):
            done += os.write(fd, content[done:])
    finally:
        os.close(fd)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def brief(path):
    """What lstat says, without what may differ: numbers of inodes and devices, and times."""
    s = os.lstat(path)
    return (stat.filemode(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, s.st_rdev,
            s.st_size if not stat.S_ISDIR(s.st_mode) else None)


def as_ids(uid, gid, function, *arguments, groups=()):
    """Calls function in a child process of that user; returns what it returns (by its repr) or its errno's name."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(writer, repr(call(function, *arguments)).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        answer = f.read().decode()
    _, status = os.waitpid(pid, 0)
    tdefs.equal(status, 0, "the child's status")
    return answer


def compare(cases, mount, plain):
    """Every case in a folder of its own on both sides; all differences are told before the test fails.
    A case that raises fails, also when it does on both."""
    different = []
    for case in cases:
        seen, failed = [], False
        for side in (mount, plain):
            folder = os.path.join(side, case.__name__)
            os.mkdir(folder)
            try:
                os.chdir(folder)
                seen.append(list(case(folder)))
            except Exception:
                seen.append([traceback.format_exc()])
                failed = True
            finally:
                os.chdir("/")
        if seen[0] != seen[1] or failed:
            different.append(case.__name__)
            print("%s differs:" % case.__name__)
            for k in range(max(map(len, seen))):
                a = seen[0][k] if k < len(seen[0]) else "(nothing)"
                b = seen[1][k] if k < len(seen[1]) else "(nothing)"
                if a != b or failed:
                    print("  observation %d\n    mount %s\n    ext4  %s" % (k, str(a)[:1500], str(b)[:1500]))
        else:
            print("%s: %d observations agree" % (case.__name__, len(seen[0])))
    tdefs.equal(different, [], "cases that differ")
