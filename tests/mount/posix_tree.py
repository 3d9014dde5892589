#!/usr/bin/python3
"""Names, links, owners, permissions, attributes, times: the mount beside ext4 (see sidebyside.py)."""
import mmap
import os
import socket
import stat
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs
from sidebyside import (EXCHANGE, NOREPLACE, as_ids, brief, call, compare, fallocate, link_fd, make, read, renameat2)

USER, OTHER = 12345, 23456      # need no account


def create_flags(d):
    yield call(os.open, "a", os.O_RDONLY)
    fd = os.open("a", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
    os.write(fd, b"x" * 5000)
    yield brief("a")
    yield call(os.open, "a", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.close(os.open("a", os.O_TRUNC | os.O_WRONLY))
    yield os.fstat(fd).st_size
    os.close(fd)
    yield call(os.open, "a", os.O_DIRECTORY)
    yield call(os.open, "a/b", os.O_CREAT | os.O_RDWR)
    yield call(os.open, ".", os.O_RDWR)
    yield call(os.open, ".", os.O_CREAT | os.O_RDONLY)
    os.symlink("a", "l")
    yield call(os.open, "l", os.O_NOFOLLOW)
    yield call(os.open, "l", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.symlink("to", "dangling")
    make("dangling", b"new")
    yield brief("to"), read("to")
    for mask in (0, 0o22, 0o77, 0o777):
        old = os.umask(mask)
        make("m%o" % mask, mode=0o666)
        os.mkdir("d%o" % mask, 0o777)
        os.umask(old)
        yield brief("m%o" % mask), brief("d%o" % mask)


def unlinked_but_open(d):
    make("a", b"one")
    fd = os.open("a", os.O_RDWR)
    os.unlink("a")
    yield os.fstat(fd).st_nlink, os.pread(fd, 10, 0)
    os.pwrite(fd, b"two", 8192)
    yield os.fstat(fd).st_size, os.pread(fd, 9000, 0)
    os.ftruncate(fd, 4)
    os.fchmod(fd, 0o600)
    os.fsync(fd)
    yield os.fstat(fd).st_size, os.pread(fd, 10, 0), stat.filemode(os.fstat(fd).st_mode)
    make("b", b"old")
    g = os.open("b", os.O_RDWR)
    make("c", b"new")
    os.rename("c", "b")
    yield os.pread(g, 10, 0), os.fstat(g).st_nlink, read("b")
    os.pwrite(g, b"OLD", 0)
    yield os.pread(g, 10, 0), read("b")
    yield sorted(os.listdir("."))
    os.mkdir("sub")
    h = os.open("sub", os.O_RDONLY)
    os.rmdir("sub")
    yield os.fstat(h).st_nlink, call(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=h), os.listdir(h)
    for f in (fd, g, h):
        os.close(f)


def nameless(d):
    os.chmod(".", 0o777)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
    s = os.fstat(fd)
    yield s.st_nlink, stat.filemode(s.st_mode), s.st_uid, s.st_gid, s.st_size
    os.write(fd, b"x" * 5000)
    os.fsync(fd)
    yield os.pread(fd, 10, 4995), os.listdir(".")
    link_fd(fd, "named")
    yield brief("named"), read("named") == b"x" * 5000, os.fstat(fd).st_nlink, os.listdir(".")
    os.pwrite(fd, b"y", 0)
    yield read("named")[:2], call(link_fd, fd, "named"), call(link_fd, fd, "second"), brief("second")
    os.unlink("named")
    os.unlink("second")
    yield os.fstat(fd).st_nlink, call(link_fd, fd, "again")
    os.close(fd)
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
    yield call(link_fd, fd, "x")
    os.close(fd)
    yield call(os.open, ".", os.O_TMPFILE | os.O_RDONLY), call(os.open, "none", os.O_TMPFILE | os.O_RDWR)

    def made(folder, mode):
        s = os.stat(os.open(folder, os.O_TMPFILE | os.O_WRONLY, mode))
        return stat.filemode(s.st_mode), s.st_uid, s.st_gid

    os.mkdir("sg")
    os.chown("sg", 0, OTHER)
    os.chmod("sg", 0o2777)
    os.mkdir("closed", 0o700)
    yield [as_ids(USER, USER, made, f, mode) for f in (".", "sg", "closed") for mode in (0o600, 0o777, 0o6755)]


def hard_links(d):
    make("a", b"abc")
    os.link("a", "b")
    os.mkdir("d")
    os.link("b", "d/c")
    yield [brief(p) for p in ("a", "b", "d/c")]
    yield len({os.stat(p).st_ino for p in ("a", "b", "d/c")})
    make("b", b"changed")
    yield read("a"), read("d/c")
    os.chmod("d/c", 0o600)
    yield brief("a")
    os.unlink("a")
    yield brief("b"), os.path.samefile("b", "d/c")
    yield call(os.link, "b", "d/c"), call(os.link, "d", "e"), call(os.link, "none", "e")
    os.rename("b", "d/c")               # two names of one file: nothing happens
    yield sorted(os.listdir(".")), sorted(os.listdir("d")), brief("b")
    os.symlink("nowhere", "s")
    os.link("s", "s2", follow_symlinks=False)
    yield brief("s"), os.readlink("s2")


def renames(d):
    make("a", b"a")
    make("b", b"b")
    os.makedirs("d/e/f")
    os.mkdir("empty")
    yield call(os.rename, "none", "x"), call(os.rename, "a", "d"), call(os.rename, "d", "a")
    yield call(os.rename, "d", "d/e/g"), call(os.rename, "d", "d"), call(os.rename, "empty", "d")
    yield call(os.rename, "d", "empty"), sorted(os.listdir(".")), os.stat("empty").st_nlink
    os.rename("empty/e", "moved")
    yield sorted(os.listdir("empty")), sorted(os.listdir("moved")), os.stat("empty").st_nlink, os.stat(".").st_nlink
    make("moved/f/deep", b"deep")
    os.rename("moved", "again")
    yield read("again/f/deep")
    yield call(renameat2, "a", "b", NOREPLACE), read("b")
    yield call(renameat2, "a", "c", NOREPLACE), read("c")
    yield call(renameat2, "c", "b", EXCHANGE), read("c"), read("b")
    yield call(renameat2, "c", "again", EXCHANGE), brief("again"), sorted(os.listdir("c"))
    yield call(renameat2, "c", "none", EXCHANGE), call(renameat2, "c", "b", NOREPLACE | EXCHANGE)
    yield call(renameat2, "b", "b", NOREPLACE), call(renameat2, "b", "b", EXCHANGE)
    make("big", b"z" * 300000)
    fd = os.open("big", os.O_RDONLY)
    os.rename("big", "c/f/bigger")
    yield os.pread(fd, 10, 299995), read("c/f/bigger") == b"z" * 300000
    os.close(fd)


def directories(d):
    os.mkdir("a")
    yield call(os.mkdir, "a"), call(os.mkdir, "none/b"), call(os.rmdir, "none"), call(os.unlink, "a")
    make("f")
    yield call(os.rmdir, "f"), call(os.mkdir, "f/x"), call(os.listdir, "f")
    make("a/x")
    yield call(os.rmdir, "a")
    os.unlink("a/x")
    yield call(os.rmdir, "a/."), call(os.rmdir, "a"), call(os.stat, "a"), call(os.rmdir, ".")
    for k in range(30):
        os.mkdir("n%d" % k)
    yield os.stat(".").st_nlink
    fd = os.open(".", os.O_RDONLY)
    os.fsync(fd)
    os.fdatasync(fd)
    yield call(os.read, fd, 10), call(os.write, fd, b"x")
    os.close(fd)


def names(d):
    yield call(make, "x" * 255, b"1"), call(make, "x" * 256), call(os.mkdir, "y" * 255), call(os.mkdir, "y" * 256)
    yield call(os.stat, "z" * 256), call(os.stat, "x" * 255 + "/a"), call(os.rename, "x" * 255, "q" * 256)
    long = "y" * 255
    for n in (127, 128, 175, 176, 177, 190, 191, 192, 200, 254, 255):
        make("%s/%s" % (long, "n" * n), b"%d" % n)
    yield [(len(p), read(long + "/" + p)) for p in sorted(os.listdir(long))]
    for n in (176, 200, 255):
        os.rename("%s/%s" % (long, "n" * n), "%s/%s" % (long, "m" * n))
        os.link("%s/%s" % (long, "m" * n), "%s/%s" % (long, "l" * n))
        os.symlink("t" * n, "%s/%s" % (long, "s" * n))
        os.rename("%s/%s" % (long, "l" * n), "short%d" % n)
    yield sorted(os.listdir(long)), sorted(os.listdir(".")), [os.readlink(long + "/" + "s" * n) for n in (176, 200, 255)]
    for n in (176, 200, 255):
        os.unlink("%s/%s" % (long, "m" * n))
        os.unlink("%s/%s" % (long, "s" * n))
    yield sorted(os.listdir(long)), call(os.rmdir, long)
    for p in os.listdir(long):
        os.unlink(long + "/" + p)
    yield call(os.rmdir, long)
    for p in (b"\xff\xfe", b"a\nb", b" ", b"-rf", b"\x01", b"tdefs.dir", b"tdefs.env", b".tdefs", b"\xc3\xa9", b"e\xcc\x81",
              b"A", b"...", b"x=y", b"tdefs.long", b"lock", b"tmp"):
        make(p, p)
    yield sorted(os.listdir(b".")), [read(p) for p in sorted(os.listdir(b".")) if len(p) < 20 and os.path.isfile(p)]
    os.mkdir("deep")
    os.chdir("deep")
    for k in range(120):
        os.mkdir("k" * 60)
        os.chdir("k" * 60)
    make("bottom", b"here")
    yield read("bottom"), call(os.stat, d + ("/" + "k" * 60) * 120)
    os.chdir(d)
    yield call(os.stat, "a" * 5000)


def symlinks(d):
    for n in (1, 59, 60, 61, 255, 1000, 2000, 3000):
        os.symlink("t" * n, "s%d" % n)
        yield brief("s%d" % n), os.readlink("s%d" % n) == "t" * n
    yield call(os.symlink, "", "empty"), call(os.symlink, "x", "s1"), call(os.symlink, "t" * 4096, "toolong")
    make("f", b"f")
    os.symlink("loop", "loop")
    os.symlink("f", "good")
    os.symlink("/", "root")
    yield call(os.stat, "loop"), read("good"), os.listdir("root") == os.listdir("/"), call(os.readlink, "f")
    os.lchown("good", USER, USER)
    yield brief("good"), brief("f")
    os.utime("good", ns=(10**18, 10**18 + 1), follow_symlinks=False)
    yield os.lstat("good").st_mtime_ns, os.lstat("good").st_atime_ns
    os.symlink(b"\xff\xfe/\n", "bytes")
    yield os.readlink(b"bytes")


def special_files(d):
    os.mkfifo("fifo", 0o600)
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod("blk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.mknod("plain", stat.S_IFREG | 0o640)
    s = socket.socket(socket.AF_UNIX)
    s.bind("sock")
    yield [brief(p) for p in ("fifo", "null", "blk", "plain", "sock")]
    s.listen(1)
    c = socket.socket(socket.AF_UNIX)
    c.connect("sock")
    c.send(b"x")
    yield s.accept()[0].recv(1)
    r = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    w = os.open("fifo", os.O_WRONLY)
    os.write(w, b"through")
    yield os.read(r, 10)
    os.close(r)
    os.close(w)
    os.chmod("fifo", 0o644)
    os.rename("fifo", "pipe")
    os.link("null", "null2")
    yield brief("pipe"), brief("null2")
    yield [(e.name, e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False)) for e in
           sorted(os.scandir("."), key=lambda e: e.name)]


def owners(d):
    os.chmod(".", 0o777)
    yield as_ids(USER, USER, make, "u"), brief("u")
    yield as_ids(USER, USER, os.mkdir, "ud"), brief("ud")
    yield as_ids(USER, USER, os.symlink, "x", "ul"), brief("ul")
    yield as_ids(USER, USER, os.mkfifo, "uf"), brief("uf")
    yield as_ids(OTHER, OTHER, make, "ud/x"), as_ids(OTHER, OTHER, make, "u"), as_ids(OTHER, OTHER, os.chmod, "u", 0o777)
    yield as_ids(OTHER, OTHER, os.chown, "u", OTHER, OTHER), as_ids(USER, USER, os.chown, "u", OTHER, -1)
    yield as_ids(USER, USER, os.chown, "u", -1, OTHER), brief("u")
    yield as_ids(USER, USER, os.chown, "u", -1, OTHER, groups=(OTHER,)), brief("u")
    os.mkdir("closed", 0o700)
    make("closed/f", b"secret", 0o644)
    yield as_ids(USER, USER, read, "closed/f"), as_ids(USER, USER, os.listdir, "closed"), as_ids(USER, USER, os.stat, "closed/f")
    os.mkdir("search", 0o711)
    make("search/f", b"found", 0o644)
    yield as_ids(USER, USER, read, "search/f"), as_ids(USER, USER, os.listdir, "search")
    make("g", b"group", 0o640)
    os.chown("g", 0, OTHER)
    yield as_ids(USER, USER, read, "g"), as_ids(USER, USER, read, "g", groups=(OTHER,)), as_ids(USER, OTHER, read, "g")
    for mode in (os.R_OK, os.W_OK, os.X_OK, os.F_OK):
        yield as_ids(USER, USER, os.access, "g", mode), as_ids(OTHER, OTHER, os.access, "g", mode), os.access("g", mode)
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    yield as_ids(USER, USER, make, "sticky/mine"), as_ids(OTHER, OTHER, os.unlink, "sticky/mine")
    yield as_ids(OTHER, OTHER, os.rename, "sticky/mine", "sticky/yours"), as_ids(OTHER, OTHER, make, "sticky/his")
    yield as_ids(OTHER, OTHER, os.rename, "sticky/his", "sticky/mine"), as_ids(USER, USER, os.unlink, "sticky/mine")
    os.mkdir("sg")
    os.chown("sg", USER, OTHER)
    os.chmod("sg", 0o2777)
    yield as_ids(USER, USER, make, "sg/f"), as_ids(USER, USER, os.mkdir, "sg/d"), brief("sg/f"), brief("sg/d")
    yield as_ids(USER, USER, os.mkfifo, "sg/p"), as_ids(USER, USER, os.symlink, "x", "sg/s"), brief("sg/p"), brief("sg/s")
    yield as_ids(USER, USER, make, "sg/x", b"", 0o2775), brief("sg/x")
    yield as_ids(USER, USER, make, "sx", b"", 0o6775), brief("sx")


def suid_clearing(d):
    def setup(name, mode):
        make(name, b"#" * 100)
        os.chown(name, USER, USER)
        os.chmod(name, mode)

    def writes(name, flags=0):
        fd = os.open(name, os.O_WRONLY | flags)
        with mmap.mmap(-1, 4096) as m:
            os.writev(fd, [m])
        os.close(fd)

    def allocates(name):
        fd = os.open(name, os.O_WRONLY)
        fallocate(fd, 0, 0, 10000)
        os.close(fd)

    os.chmod(".", 0o777)
    for mode in (0o4777, 0o2777, 0o6777, 0o2767, 0o6755):
        n = "%o" % mode
        for what in "wtocrghsdfkD":
            setup(what + n, mode)
        yield as_ids(USER, USER, writes, "w" + n), brief("w" + n)
        yield as_ids(OTHER, USER, writes, "g" + n), brief("g" + n)
        yield as_ids(OTHER, OTHER, writes, "h" + n, groups=(1, USER)), brief("h" + n)
        yield as_ids(OTHER, OTHER, writes, "w" + n), brief("w" + n)
        yield as_ids(OTHER, OTHER, os.truncate, "s" + n, 5), brief("s" + n)
        yield as_ids(USER, USER, os.truncate, "t" + n, 5), brief("t" + n)
        yield as_ids(USER, USER, os.open, "o" + n, os.O_WRONLY | os.O_TRUNC) != "", brief("o" + n)
        yield as_ids(USER, USER, os.chown, "c" + n, USER, USER), brief("c" + n)
        os.chown("c" + n, OTHER, OTHER)
        yield brief("c" + n)
        for name, who in (("f", USER), ("k", OTHER)):
            yield as_ids(who, who, allocates, name + n), brief(name + n)
        yield as_ids(USER, USER, writes, "D" + n, os.O_DIRECT), brief("D" + n)
        yield as_ids(USER, OTHER, os.chown, "d" + n, -1, OTHER), brief("d" + n)
        writes("r" + n)
        yield brief("r" + n)
    setup("m", 0o755)
    yield as_ids(USER, OTHER, os.chmod, "m", 0o2755), brief("m")
    os.chmod("m", 0o7777)
    yield brief("m")


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)      # version 2, effective: cap_net_bind_service


def capabilities(d):
    """Who changes a file takes its capabilities away, root too."""
    def has(name):
        value = call(os.getxattr, name, "security.capability")
        return value if isinstance(value, str) else len(value)

    def opened(name, flags, change=lambda fd: None):
        fd = os.open(name, flags)
        change(fd)
        os.close(fd)

    def writes(name, flags=0):
        with mmap.mmap(-1, 4096) as m:
            opened(name, os.O_WRONLY | flags, lambda fd: os.writev(fd, [m]))

    def maps(fd):
        with mmap.mmap(fd, 10) as m:
            m[0] = 65

    changes = {"write": writes, "direct": lambda n: writes(n, os.O_DIRECT), "append": lambda n: writes(n, os.O_APPEND),
               "truncate": lambda n: os.truncate(n, 3), "trunc": lambda n: opened(n, os.O_WRONLY | os.O_TRUNC),
               "allocate": lambda n: opened(n, os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 100000)),
               "map": lambda n: opened(n, os.O_RDWR, maps), "open": lambda n: opened(n, os.O_RDWR),
               "chown": lambda n: os.chown(n, USER, USER), "same": lambda n: os.chown(n, -1, -1), "chmod": lambda n: os.chmod(n, 0o755)}
    os.chmod(".", 0o777)
    for who in (0, USER):
        for what, change in changes.items():
            name = "%s%d" % (what, who)
            make(name, b"x" * 5000)
            os.chown(name, USER, USER)
            os.chmod(name, 0o777)
            os.setxattr(name, "security.capability", CAPABILITY)
            yield what, who, has(name), as_ids(who, who, change, name), has(name)
            yield as_ids(who, who, writes, name), has(name)
    make("t", b"1")
    os.setxattr("t", "security.capability", CAPABILITY)
    yield call(os.setxattr, "t", "security.capability", b"junk"), has("t")
    yield as_ids(USER, USER, os.setxattr, "t", "security.capability", CAPABILITY), as_ids(USER, USER, os.listxattr, "t")


def xattrs(d):
    make("f")
    os.mkdir("sub")
    os.symlink("f", "l")
    yield call(os.getxattr, "f", "user.none"), call(os.removexattr, "f", "user.none"), os.listxattr("f")
    for name in ("user.a", "trusted.b", "security.c", "user." + "n" * 150):
        os.setxattr("f", name, b"value of " + name.encode())
    yield sorted(os.listxattr("f")), [os.getxattr("f", n) for n in sorted(os.listxattr("f"))]
    yield call(os.setxattr, "f", "user.a", b"", os.XATTR_CREATE), call(os.setxattr, "f", "user.z", b"", os.XATTR_REPLACE)
    os.setxattr("f", "user.a", b"", os.XATTR_REPLACE)
    os.setxattr("f", "user.bin", bytes(range(256)))
    yield os.getxattr("f", "user.a"), os.getxattr("f", "user.bin")
    yield call(os.setxattr, "f", "user." + "n" * 251, b"x"), call(os.setxattr, "f", "user.", b"x")
    os.symlink("f", "long")
    for n in (167, 168, 170, 171, 200, 255):
        for path, prefix in (("f", "user."), ("f", "security."), ("long", "trusted."), ("long", "security.")):
            name = prefix.ljust(n, "x")
            os.setxattr(path, name, b"of %d" % n, follow_symlinks=False)
            yield os.getxattr(path, name, follow_symlinks=False), name in os.listxattr(path, follow_symlinks=False)
            yield call(os.setxattr, path, name, b"", os.XATTR_CREATE, follow_symlinks=False)
            os.setxattr(path, name, b"", os.XATTR_REPLACE, follow_symlinks=False)
            yield os.getxattr(path, name, follow_symlinks=False)
            os.removexattr(path, name, follow_symlinks=False)
            yield call(os.getxattr, path, name, follow_symlinks=False)
            yield call(os.setxattr, path, name, b"", os.XATTR_REPLACE, follow_symlinks=False)
    yield call(os.setxattr, "f", "nonsense", b"x"), call(os.setxattr, "f", "system.nonsense", b"x")
    os.setxattr("sub", "user.d", b"directory")
    yield os.getxattr("sub", "user.d"), call(os.setxattr, "l", "user.x", b"", follow_symlinks=False)
    os.setxattr("l", "trusted.x", b"on the link", follow_symlinks=False)
    yield os.getxattr("l", "trusted.x", follow_symlinks=False), call(os.getxattr, "f", "trusted.x")
    os.mkfifo("p")
    yield call(os.setxattr, "p", "user.x", b"")
    os.chmod(".", 0o755)
    yield as_ids(USER, USER, os.setxattr, "f", "user.u", b""), as_ids(USER, USER, os.setxattr, "f", "trusted.u", b"")
    yield as_ids(USER, USER, os.listxattr, "sub"), as_ids(USER, USER, os.getxattr, "f", "trusted.b")
    os.setxattr("f", "user.large", b"v" * 2000)
    yield len(os.getxattr("f", "user.large"))
    yield call(os.setxattr, "f", "user.huge", b"v" * 70000)
    os.rename("f", "g")
    yield sorted(os.listxattr("g"))
    for name in os.listxattr("g"):
        os.removexattr("g", name)
    yield os.listxattr("g")


def acl(*entries):
    tags = {"u": 1, "U": 2, "g": 4, "G": 8, "m": 16, "o": 32}
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tags[t], p, i) for t, p, i in entries)


NOBODY = 0xffffffff


def acls(d):
    make("f", b"text", 0o640)
    os.setxattr("f", "system.posix_acl_access",
                acl(("u", 6, NOBODY), ("U", 4, USER), ("g", 4, NOBODY), ("m", 4, NOBODY), ("o", 0, NOBODY)))
    os.chmod(".", 0o755)
    yield brief("f"), os.getxattr("f", "system.posix_acl_access"), os.listxattr("f")
    yield as_ids(USER, USER, read, "f"), as_ids(OTHER, OTHER, read, "f"), as_ids(USER, USER, make, "f")
    os.chmod("f", 0o600)
    yield os.getxattr("f", "system.posix_acl_access"), as_ids(USER, USER, read, "f")
    os.mkdir("sub")
    os.setxattr("sub", "system.posix_acl_default",
                acl(("u", 7, NOBODY), ("U", 7, USER), ("g", 5, NOBODY), ("m", 7, NOBODY), ("o", 0, NOBODY)))
    for mask in (0o22, 0o77):
        old = os.umask(mask)
        make("sub/f%o" % mask, b"", 0o666)
        os.mkdir("sub/d%o" % mask, 0o777)
        os.mkfifo("sub/p%o" % mask, 0o666)
        os.umask(old)
        yield [brief("sub/%s%o" % (k, mask)) for k in "fdp"]
        yield [call(os.getxattr, "sub/%s%o" % (k, mask), "system.posix_acl_access") for k in "fdp"]
        yield call(os.getxattr, "sub/d%o" % mask, "system.posix_acl_default"), call(
            os.getxattr, "sub/f%o" % mask, "system.posix_acl_default")
    os.chown("sub", USER, OTHER)
    os.chmod("sub", 0o2777)
    for maker in ((USER, USER), (USER, OTHER)):
        n = "%d" % maker[1]
        yield as_ids(*maker, os.mkdir, "sub/sgd" + n), brief("sub/sgd" + n), call(os.getxattr, "sub/sgd" + n, "system.posix_acl_access")
        yield as_ids(*maker, make, "sub/sgf" + n, b"", 0o6777), brief("sub/sgf" + n)
        for p, mode in (("f" + n, 0o2777), ("d" + n, 0o2755)):
            make(p) if p[0] == "f" else os.mkdir(p)
            os.chown(p, USER, OTHER)
            os.chmod(p, mode)
            yield as_ids(*maker, os.setxattr, p, "system.posix_acl_access", acl(("u", 7, NOBODY), ("U", 5, 3), ("g", 7, NOBODY),
                         ("m", 7, NOBODY), ("o", 5, NOBODY))), brief(p)
    yield call(os.setxattr, "f", "system.posix_acl_default", acl(("u", 6, NOBODY), ("g", 4, NOBODY), ("o", 0, NOBODY)))
    yield call(os.setxattr, "f", "system.posix_acl_access", b"rubbish")
    yield call(os.removexattr, "f", "system.posix_acl_access"), call(os.getxattr, "f", "system.posix_acl_access"), brief("f")
    yield as_ids(OTHER, OTHER, os.setxattr, "f", "system.posix_acl_access",
                 acl(("u", 6, NOBODY), ("g", 4, NOBODY), ("o", 7, NOBODY)))


def times(d):
    make("f", b"x" * 10000)
    os.utime("f", ns=(1234567890123456789, 987654321987654321))
    yield os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns
    os.utime("f", ns=(0, 1))
    yield os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns
    os.utime("f", ns=(-1500000000, 2**33 * 10**9))
    yield os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns

    def moved(action, what="mtime", path="f"):
        before = getattr(os.stat(path), "st_%s_ns" % what)
        for _ in range(200):
            action()
            if getattr(os.stat(path), "st_%s_ns" % what) != before:
                return True
            time.sleep(0.005)
        return False

    fd = os.open("f", os.O_RDWR)
    yield moved(lambda: os.pwrite(fd, b"y", 0)), moved(lambda: os.ftruncate(fd, os.fstat(fd).st_size + 1))
    yield moved(lambda: os.chmod("f", 0o600), "ctime"), moved(lambda: os.setxattr("f", "user.x", b""), "ctime")
    yield moved(lambda: (os.link("f", "g"), os.unlink("g")), "ctime")
    yield moved(lambda: os.rename("f", "f2") or os.rename("f2", "f"), "ctime")
    os.mkfifo("fifo")
    yield [moved(lambda: os.chown(p, -1, -1), "ctime", p) for p in ("f", "fifo", ".")]
    yield moved(lambda: (make("n"), os.unlink("n")), "mtime", "."), moved(lambda: os.utime("f"), "mtime")
    os.utime("f", ns=(5, 7))
    os.fsync(fd)
    yield os.fstat(fd).st_mtime_ns, os.stat("f").st_mtime_ns
    os.pwrite(fd, b"before utime", 0)
    os.utime("f", ns=(5, 9))
    os.close(fd)
    yield os.stat("f").st_mtime_ns
    fd = os.open("f", os.O_RDONLY)
    os.close(fd)
    yield os.stat("f").st_mtime_ns
    m = os.stat("f").st_mtime_ns
    os.chmod("f", 0o644)
    os.rename("f", "h")
    yield os.stat("h").st_mtime_ns == m
    os.chmod(".", 0o777)
    yield as_ids(USER, USER, os.utime, "h"), as_ids(USER, USER, os.utime, "h", (1, 2))
    os.chmod("h", 0o666)
    yield as_ids(USER, USER, os.utime, "h"), as_ids(USER, USER, os.utime, "h", (1, 2))
    yield os.stat("h").st_mtime_ns > 10**18


def truncates(d):
    make("f", b"abc" * 5000)
    for n in (14999, 4096, 4097, 1, 0, 1, 8191, 8192, 100000, 3):
        os.truncate("f", n)
        yield os.stat("f").st_size, read("f")[:20], set(read("f")[9:])
    yield call(os.truncate, "none", 1), call(os.truncate, ".", 1), call(os.truncate, "f", -1)
    fd = os.open("f", os.O_RDONLY)
    yield call(os.ftruncate, fd, 0)
    os.close(fd)
    os.chmod(".", 0o755)
    yield as_ids(USER, USER, os.truncate, "f", 0)


def readdir_stable(d):
    for k in range(3000):
        make("f%05d" % k)
    fd = os.open(".", os.O_RDONLY)
    seen = []
    with os.scandir(fd) as entries:
        for k, e in enumerate(entries):
            seen.append(e.name)
            if k % 3 == 0:
                os.unlink("f%05d" % (2999 - k // 3))
                make("g%05d" % k)
    os.close(fd)
    kept = ["f%05d" % k for k in range(0, 1500)]
    yield [n for n in kept if seen.count(n) != 1], len(seen) == len(set(seen)), len(os.listdir("."))
    for n in os.listdir("."):
        os.unlink(n)
    yield os.listdir("."), os.stat(".").st_nlink


def main():
    base = tdefs.scratch()
    worker = tdefs.Worker(base).start()
    plain = os.path.join(base, "plain")
    os.mkdir(plain)
    os.chmod(worker.mnt, 0o755)
    compare([create_flags, unlinked_but_open, nameless, hard_links, renames, directories, names, symlinks, special_files, owners,
             suid_clearing, capabilities, xattrs, acls, times, truncates, readdir_stable], worker.mnt, plain)
    worker.stop()


main()
