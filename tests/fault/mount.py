"""A lower disk that fails while it is used: an ext4 on a sparse image in a tmpfs that is too small for it, so that writing back is
an I/O error of the block device. fsync says so, once and for all; the environment is read-only until it is mounted again; and what
was synced before is there then."""
import errno
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs
from tdefs import check, equal, run

B = 4096


def code(function, *arguments):
    try:
        function(*arguments)
        return "done"
    except OSError as e:
        return errno.errorcode[e.errno]


def main():
    base = tdefs.scratch()
    tdefs.allow_in_log("not left clean")
    small = base + "/small"
    os.mkdir(small)
    run("mount", "-t", "tmpfs", "-o", "size=12m", "none", small)
    tdefs.undo(tdefs._umount, small)
    lower = tdefs.loop_ext4(small, 200 << 20, "disk", ",errors=continue")
    if not lower:
        tdefs.skip("no loop device")
    worker = tdefs.Worker(base, store=lower + "/store").start()
    mnt = worker.mnt

    synced = os.urandom(20 * B)
    with open(mnt + "/kept", "wb") as f:
        f.write(synced)
        f.flush()
        os.fsync(f.fileno())
    d = os.open(mnt, os.O_RDONLY)
    os.fsync(d)
    os.sync()

    fd = os.open(mnt + "/grows", os.O_CREAT | os.O_RDWR)
    how, done = "done", 0
    while how == "done" and done < 100 << 20:
        os.pwrite(fd, os.urandom(1 << 20), done)
        how = code(os.fsync, fd)
        done += 1 << 20
    equal(how, "EIO", "the fsync that finds the disk failing")
    print("%d MiB, then EIO" % (done >> 20))
    for _ in range(3):
        equal(code(os.fsync, fd), "EROFS", "fsync again: what failed is never called synced")
    kept = os.open(mnt + "/kept", os.O_RDWR)
    check(os.pread(kept, len(synced), 0) == synced, "reading goes on")
    check(code(os.open, mnt + "/new", os.O_CREAT | os.O_WRONLY) == "EROFS", "a new file on a poisoned environment")
    check(code(os.mkdir, mnt + "/dir") == "EROFS" and code(os.unlink, mnt + "/kept") == "EROFS", "names on a poisoned environment")
    check(code(os.rename, mnt + "/kept", mnt + "/other") == "EROFS" and code(os.truncate, mnt + "/kept", 5) == "EROFS", "changes")
    os.pwrite(kept, b"x" * B, 0)                    # into the kernel's cache
    equal(code(os.fsync, kept), "EROFS", "and out of it")
    equal(worker.log().count("failed to sync"), 1, "said once\n" + worker.log())
    for one in (fd, kept, d):
        code(os.close, one)

    # The disk is good again. The lower file system has forgotten what it could not write.
    run("mount", "-o", "remount,size=300m", small)
    worker.client("unmount", ok=None)
    worker.process.wait(tdefs.WAIT_S)
    worker.process = None
    run("umount", lower)
    run("e2fsck", "-fy", small + "/disk.img", ok=(0, 1))
    run("mount", "-o", "loop", small + "/disk.img", lower)
    worker.start()
    with open(mnt + "/kept", "rb") as f:
        check(f.read() == synced, "what was synced before, after all of it")
    with open(mnt + "/new", "wb") as f:
        f.write(b"new")
        f.flush()
        os.fsync(f.fileno())
    worker.client("scrub", "start")
    tdefs.wait_for(lambda: worker.status()["scrub"].startswith("0/"), "the scrub")
    print("scrub afterwards: " + worker.status()["scrub"])
    worker.stop()


if __name__ == "__main__":
    main()
