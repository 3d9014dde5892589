"""What tampering with a store is refused, row by row, by somebody who can write the disk and has no key. README has the same
table; a row that is open is there with its reason, and a test holds it to that too."""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

base = scratch()
allow_in_log("refused:", "do not verify", "not left clean")
B = 4096
worker = Worker(base).start()
other = Worker(base, "other").start()


def put(path, size, fill, rewrite=True):
    data = b"".join(bytes([fill + k % 50]) * B for k in range(size // B)) + bytes([fill]) * (size % B)
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return data


def lower(w, name):
    """The lower path of a plain one: inode numbers are the same."""
    wanted = os.lstat(os.path.join(w.mnt, name)).st_ino
    for where, dirs, names in os.walk(w.store + "/root"):
        for n in names + dirs:
            if os.lstat(os.path.join(where, n)).st_ino == wanted:
                return os.path.join(where, n)
    fail("no lower file for " + name)


os.mkdir(worker.mnt + "/d")
os.mkdir(worker.mnt + "/e")
plain = {"a": put(worker.mnt + "/a", 20 * B + 100, 1), "b": put(worker.mnt + "/b", 20 * B + 100, 101), "d/c": put(worker.mnt + "/d/c", B, 7),
         "e/x": put(worker.mnt + "/e/x", B, 9)}
put(other.mnt + "/a", 20 * B + 100, 1)
with open(worker.mnt + "/sparse", "wb") as f:      # not dense: its holes have no entries
    f.seek(20 * B)
    f.write(b"s" * 4 * B)
plain["sparse"] = bytes(20 * B) + b"s" * 4 * B
os.symlink("t" * 20, worker.mnt + "/link")
os.symlink("u" * 20, worker.mnt + "/link2")
LONG = "l" * 200
plain[LONG] = put(worker.mnt + "/" + LONG, B, 11)
for name, value in (("a", b"red"), ("b", b"blue")):
    os.setxattr(worker.mnt + "/" + name, "user.colour", value)
path = {name: lower(worker, name) for name in list(plain) + ["d", "e", "link", "link2"]}
foreign = lower(other, "a")
worker.stop()
before = base + "/before"                          # as it was an epoch ago
shutil.copy(path["a"], before)
shutil.copy(worker.store + "/tdefs.env", base + "/before.env")
worker.start()
with open(worker.mnt + "/a", "r+b") as f:
    f.seek(5 * B)
    f.write(b"N" * B)
plain["a"] = plain["a"][:5 * B] + b"N" * B + plain["a"][6 * B:]
worker.stop()
other.stop()
saved = base + "/saved"
shutil.copytree(worker.store, saved, symlinks=True)


def data_off(k):
    return B + (k // 128 + 1 + k) * B


def entry_off(k):
    return B + k // 128 * 129 * B + k % 128 * 32


def read(p, off, n):
    with open(p, "rb") as f:
        f.seek(off)
        return f.read(n)


def write(p, off, data):
    with open(p, "r+b") as f:
        f.seek(off)
        f.write(data)


def swap(p, off1, q, off2, n):
    one, two = read(p, off1, n), read(q, off2, n)
    write(p, off1, two)
    write(q, off2, one)


def exchange(p, q):
    os.rename(p, p + ".t")
    os.rename(q, p)
    os.rename(p + ".t", q)


def zero(p, off, n):
    write(p, off, bytes(n))


def block_and_entry(source, k, target, j):
    write(target, data_off(j), read(source, data_off(k), B))
    write(target, entry_off(j), read(source, entry_off(k), 32))


def copy_over(source, target):
    with open(target, "r+b") as f:
        f.write(open(source, "rb").read())
        f.truncate(os.path.getsize(source))


def append(p, data):
    with open(p, "ab") as f:
        f.write(data)


def long_object():
    return os.path.dirname(path[LONG]) + "/n" + os.path.basename(path[LONG])[1:]


def attribute(p):
    return [n for n in os.listxattr(p) if n.startswith("user.t.")][0]


a, b = path["a"], path["b"]
# name, what is done, which file is read; refused: some block gives EIO (or the name is gone) and no wrong byte is read; shorter: as
# refused, or only the end is missing; whole: it does no harm; open: accepted, as README says. What is read with "link" is its
# target, with "user.colour" that attribute of a.
TABLE = [
    ("a bit of a data block flipped", lambda: flip(a, data_off(3) + 77), "a", "refused"),
    ("a bit of a block's tag flipped", lambda: flip(a, entry_off(3) + 20), "a", "refused"),
    ("a bit of a block's nonce flipped", lambda: flip(a, entry_off(3) + 5), "a", "refused"),
    ("a data block zeroed", lambda: zero(a, data_off(3), B), "a", "refused"),
    ("a data block and its entry zeroed", lambda: (zero(a, data_off(3), B), zero(a, entry_off(3), 32)), "a", "refused"),
    ("a whole tag block zeroed", lambda: zero(a, B, B), "a", "refused"),
    ("two blocks swapped", lambda: swap(a, data_off(3), a, data_off(4), B), "a", "refused"),
    ("two blocks swapped with their entries", lambda: (swap(a, data_off(3), a, data_off(4), B), swap(a, entry_off(3), a, entry_off(4), 32)),
     "a", "refused"),
    ("a block and its entry from another file", lambda: block_and_entry(b, 3, a, 3), "a", "refused"),
    ("a block and its entry from another environment", lambda: block_and_entry(foreign, 3, a, 3), "a", "refused"),
    ("the header from another file", lambda: write(a, 0, read(b, 0, B)), "a", "refused"),
    ("the header from another environment", lambda: write(a, 0, read(foreign, 0, B)), "a", "refused"),
    ("a whole file from another environment", lambda: copy_over(foreign, a), "a", "refused"),
    ("a bit of the key sector flipped", lambda: flip(a, 200), "a", "refused"),
    ("the key sector zeroed", lambda: zero(a, 0, 512), "a", "refused"),
    ("the state slots zeroed", lambda: zero(a, 1024, 1024), "a", "refused"),
    ("the whole header zeroed", lambda: zero(a, 0, B), "a", "refused"),
    ("bits of both state slots flipped", lambda: (flip(a, 1024 + 30), flip(a, 1536 + 30)), "a", "refused"),
    ("cut off within the sealed blocks", lambda: os.truncate(a, data_off(10)), "a", "shorter"),
    ("cut off within its last block", lambda: os.truncate(a, os.path.getsize(a) - 60), "a", "open"),
    ("made longer within its last block", lambda: os.truncate(a, os.path.getsize(a) + 60), "a", "open"),
    ("another file's blocks appended", lambda: append(a, read(b, data_off(0), 3 * B)), "a", "refused"),
    ("bytes appended", lambda: append(a, b"x" * (2 * B + 5)), "a", "refused"),
    ("cut off to nothing", lambda: os.truncate(a, 0), "a", "open"),
    ("made longer", lambda: os.truncate(a, os.path.getsize(a) + 3 * B), "a", "refused"),
    ("a block of a sparse file zeroed with its entry", lambda: (zero(path["sparse"], data_off(21), B), zero(path["sparse"], entry_off(21), 32)),
     "sparse", "open"),
    ("a block of a sparse file zeroed", lambda: zero(path["sparse"], data_off(21), B), "sparse", "refused"),
    ("a sparse file made longer", lambda: os.truncate(path["sparse"], os.path.getsize(path["sparse"]) + 3 * B), "sparse", "open"),
    ("a hole of a sparse file filled", lambda: block_and_entry(path["sparse"], 21, path["sparse"], 3), "sparse", "refused"),
    ("data under a hole of a sparse file", lambda: write(path["sparse"], data_off(3), b"x" * B), "sparse", "whole"),
    ("a long name's side file gone", lambda: os.unlink(long_object()), LONG, "whole"),
    ("a bit of a long name's side file flipped", lambda: flip(long_object(), 5), LONG, "whole"),
    ("a bit of a link's target flipped", lambda: (lambda t: (os.unlink(path["link"]), os.symlink(
        t[:5] + ("A" if t[5] != "A" else "B") + t[6:], path["link"])))(os.readlink(path["link"])), "link", "refused"),
    ("targets of two links exchanged", lambda: exchange(path["link"], path["link2"]), "link", "open"),
    ("a bit of an extended attribute flipped", lambda: (lambda n, v: os.setxattr(a, n, v[:9] + bytes([v[9] ^ 1]) + v[10:]))(
        attribute(a), os.getxattr(a, attribute(a))), "user.colour", "refused"),
    ("an extended attribute of another file", lambda: os.setxattr(a, attribute(a), os.getxattr(b, attribute(b))), "user.colour", "open"),
    ("a name carried into another directory", lambda: os.rename(path["d/c"], os.path.join(path["e"], os.path.basename(path["d/c"]))), "d/c",
     "refused"),
    ("a directory's id replaced by another's", lambda: shutil.copy(path["e"] + "/tdefs.dir", path["d"] + "/tdefs.dir"), "d/c", "refused"),
    ("a bit of both sectors of a directory's id flipped", lambda: (flip(path["d"] + "/tdefs.dir", 10), flip(path["d"] + "/tdefs.dir", 522)),
     "d/c", "whole"),
    ("a directory's id gone", lambda: os.unlink(path["d"] + "/tdefs.dir"), "d/c", "whole"),
    ("a directory's id and its copy gone", lambda: (os.unlink(path["d"] + "/tdefs.dir"), os.removexattr(path["d"], "user.tdefs.id")), "d/c",
     "refused"),
    ("a directory's id gone, its copy another's", lambda: (os.unlink(path["d"] + "/tdefs.dir"), os.setxattr(
        path["d"], "user.tdefs.id", os.getxattr(path["e"], "user.tdefs.id"))), "d/c", "refused"),
    ("a bit of a name flipped", lambda: os.rename(path["d/c"], path["d/c"][:-2] + ("A" if path["d/c"][-2] != "A" else "B") + path["d/c"][-1]),
     "d/c", "refused"),
    ("two names of a directory exchanged", lambda: exchange(a, b), "a", "open"),
    ("a file replaced by a hard link to another", lambda: (os.unlink(a), os.link(b, a)), "a", "open"),
    ("mode and owner changed", lambda: (os.chmod(a, 0o777), os.chown(a, 1000, 1000)), "a", "open"),
    ("an older copy of the header with its slots", lambda: write(a, 0, read(before, 0, B)), "a", "open"),
    ("an older copy of the whole file", lambda: copy_over(before, a), "a", "open"),
    ("an older copy of a block with its entry", lambda: (write(a, data_off(5), read(before, data_off(5), B)),
                                                         write(a, entry_off(5), read(before, entry_off(5), 32))), "a", "open"),
    ("an older copy of a block alone", lambda: write(a, data_off(5), read(before, data_off(5), B)), "a", "refused"),
    ("an older copy of a tag block alone", lambda: write(a, B, read(before, B, B)), "a", "refused"),
    ("a file unlinked", lambda: os.unlink(a), "a", "open"),
    ("the environment's header with a bit flipped", lambda: flip(worker.store + "/tdefs.env", 120), None, "refused"),
    ("an older header of the environment", lambda: shutil.copy(base + "/before.env", worker.store + "/tdefs.env"), None, "refused"),
    ("the environment's header cut in half", lambda: os.truncate(worker.store + "/tdefs.env", 300), None, "refused"),
    ("the environment's header gone", lambda: os.unlink(worker.store + "/tdefs.env"), None, "refused"),
    ("a line of the environment's header changed", lambda: write(worker.store + "/tdefs.env", 0, b"% tdefs"), None, "refused"),
    ("the environment's header of another environment", lambda: shutil.copy(other.store + "/tdefs.env", worker.store + "/tdefs.env"), None,
     "refused"),
]


def outcome(name):
    """What a reader gets: refused, gone, shorter, longer (by zeros), wrong, whole."""
    if name in ("link", "user.colour"):
        try:
            got = os.readlink(worker.mnt + "/link") if name == "link" else os.getxattr(worker.mnt + "/a", name)
        except OSError:
            return "refused"
        return "whole" if got in ("t" * 20, b"red") else "wrong"
    try:
        fd = os.open(os.path.join(worker.mnt, name), os.O_RDONLY)
    except FileNotFoundError:
        return "gone"
    except OSError:
        return "refused"
    bad = wrong = longer = 0
    size = os.fstat(fd).st_size
    whole = plain[name]
    for off in range(0, max(size, len(whole)), B):
        try:
            got = os.pread(fd, B, off)
        except OSError:
            bad += 1
            continue
        want = whole[off:off + B]
        wrong += got != want[:len(got)] if len(got) < len(want) else got[:len(want)] != want or got[len(want):].strip(b"\0") != b""
        longer += len(got) > len(want)
    os.close(fd)
    return "wrong" if wrong else "refused" if bad else "shorter" if size < len(whole) else "longer" if longer else "whole"


epoch = int(re.search(r"^epoch = (\d+)L", open(worker.store + "/tdefs.env").read(), re.M).group(1))     # what the registry remembers
failed = []
for name, damage, target, expected in TABLE:
    for entry in ("root", "tmp", "tdefs.env"):
        where = os.path.join(worker.store, entry)
        if os.path.lexists(where):
            shutil.rmtree(where) if os.path.isdir(where) else os.unlink(where)
        origin = os.path.join(saved, entry)
        shutil.copytree(origin, where, symlinks=True) if os.path.isdir(origin) else shutil.copy(origin, where)
    damage()
    if target is None:
        worker.launch()
        done = worker.client("start", worker.key, str(epoch), ok=None)
        got = "refused" if done.returncode != 0 else "whole"
        check(not mounted(worker.mnt) or got == "whole", "not mounted when refused")
        if got == "whole":
            worker.stop()
        else:
            worker.process.wait(WAIT_S)
            worker.process = None
    else:
        worker.start()
        got = outcome(target)
        if expected == "refused" and got == "refused":
            check(outcome("e/x") == "whole", "%s: takes other files with it" % name)
        worker.stop()
    fits = {"refused": ("refused", "gone"), "whole": ("whole",), "shorter": ("refused", "shorter"), "open": ("whole", "wrong", "shorter", "longer", "gone")}[expected]
    print("%-55s %s%s" % (name, got, "" if got in fits else "   expected: " + expected))
    if got not in fits:
        failed.append(name)
check(not failed, "accepted: %s" % ", ".join(failed))
