#!/usr/bin/python3
"""A lower file system that is full or read-only: ENOSPC and EROFS reach the program, and nothing else breaks."""
import errno
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs
from sidebyside import call, make, read


def fill(path, piece):
    """Writes and syncs until there is no room; the errno's name and how much went in."""
    fd, done = os.open(path, os.O_CREAT | os.O_WRONLY), 0
    try:
        while done < 1 << 30:
            os.pwrite(fd, b"f" * piece, done)
            os.fsync(fd)
            done += piece
        return "no end", done
    except OSError as e:
        return errno.errorcode[e.errno], done
    finally:
        call(os.close, fd)


def main():
    base = tdefs.scratch()
    lower = tdefs.loop_ext4(base, 48 << 20, "small")
    if not lower:
        tdefs.skip("no loop device")
    worker = tdefs.Worker(base, store=lower + "/store").start()
    mnt = worker.mnt
    make(mnt + "/kept", b"kept" * 100000)
    os.sync()
    for piece in (1 << 20, 4096):
        how, done = fill(mnt + "/big%d" % piece, piece)
        tdefs.equal(how, "ENOSPC", "the write that does not fit")
        print("%d bytes in pieces of %d, then ENOSPC" % (done, piece))
        tdefs.check(read(mnt + "/kept") == b"kept" * 100000, "a file from before, on a full file system")
        content = read(mnt + "/big%d" % piece)
        tdefs.check(len(content) >= done and content[:done] == b"f" * done, "what was synced before it was full")
    for k in range(20000):
        if call(os.mkdir, mnt + "/d%d" % k) == "ENOSPC":
            break
    tdefs.check(k < 19999, "mkdir goes on for ever")
    s = os.statvfs(mnt)
    tdefs.check(s.f_bavail * s.f_frsize < 4 << 20, "statfs says that there is room")
    os.unlink(mnt + "/big1048576")
    os.unlink(mnt + "/big4096")
    tdefs.wait_for(lambda: os.statvfs(mnt).f_bavail * s.f_frsize > 20 << 20, "the room of what was deleted")
    make(mnt + "/after", b"after" * 200000)
    fd = os.open(mnt + "/after", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    worker.remount()
    tdefs.check(read(mnt + "/kept") == b"kept" * 100000 and read(mnt + "/after") == b"after" * 200000, "contents after remount")
    for name in os.listdir(mnt):
        if name.startswith("d"):
            os.rmdir(mnt + "/" + name)
    tdefs.equal(sorted(n for n in os.listdir(mnt) if n != "lost+found"), ["after", "kept"], "names")
    worker.stop()

    tdefs.run("mount", "-o", "remount,ro", lower)
    worker.launch()
    said = worker.client("start", worker.key, ok=(1,)).stdout
    tdefs.check("ead-only" in said, "a store on a read-only file system: " + said)
    tdefs._end_process(worker.process)
    tdefs.check(not tdefs.mounted(mnt), "mounted after all")
    worker.arguments.append("--read-only")
    worker.start()
    tdefs.check(read(mnt + "/kept") == b"kept" * 100000, "read-only contents")
    for what in ((make, mnt + "/new"), (os.mkdir, mnt + "/new"), (os.unlink, mnt + "/kept"), (os.truncate, mnt + "/kept", 1),
                 (os.rename, mnt + "/kept", mnt + "/x"), (os.chmod, mnt + "/kept", 0o600)):
        tdefs.equal(call(*what), "EROFS", what[0].__name__)
    worker.stop()


main()
