#!/usr/bin/python3
"""The worker is in the kernel's way to free memory: dirty pages many times a memory cgroup's limit go through it, mapped and
written, from a program under the limit and with the worker under it as well. Nothing deadlocks, nothing is lost. (Where program,
worker and the pages of both file systems share one small limit, the kernel may kill for want of memory: that is told, not failed.)
"""
import mmap
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

PAGE, MIB = 4096, 1 << 20
LIMIT = 48 * MIB             # a program's; with the worker and its lower pages beside it, four times as much
SIZE = (4096 if tdefs.LONG else 320) * MIB
PF_MEMALLOC_NOIO, CAP_SYS_RESOURCE = 0x80000, 24


def memory_groups():
    """The folder of this process's memory cgroup, the name of the file with the limit, and its events' file."""
    with open("/proc/self/cgroup") as f:
        groups = [line.rstrip("\n").split(":", 2) for line in f]
    with open("/proc/self/mountinfo") as f:
        mounts = [line.split() for line in f]
    for _, controllers, path in groups:
        for m in mounts:
            kind, options = m[m.index("-") + 1], m[-1].split(",")
            if "memory" in controllers.split(",") and kind == "cgroup" and "memory" in options:
                return m[4] + path, "memory.limit_in_bytes"
            if controllers == "" and kind == "cgroup2":
                with open(m[4] + path + "/cgroup.controllers") as f:
                    if "memory" in f.read().split():
                        return m[4] + path, "memory.max"
    return None, None


def group(name, size):
    parent, limit = memory_groups()
    folder = os.path.join(parent or "/", "tdefs-test-%d-%s" % (os.getpid(), name))
    try:
        os.mkdir(folder)
        with open(os.path.join(folder, limit), "w") as f:
            f.write(str(size))
    except (OSError, TypeError) as e:
        tdefs.skip("no memory cgroup of our own: %s" % e)
    tdefs.undo(os.rmdir, folder)
    return folder


def enter(folder, pid=0):
    with open(folder + "/cgroup.procs", "w") as f:
        f.write(str(pid))


def page(k):
    return (b"%015d\n" % k) * (PAGE // 16)


def dirty_mapping(path, size):
    with open(path, "wb") as f:
        f.truncate(size)
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), size) as m:
        for k in range(size // PAGE):
            m[k * PAGE:(k + 1) * PAGE] = page(k)


def dirty_writes(path, size):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    for k in range(size // PAGE):
        os.pwrite(fd, page(k), k * PAGE)
    os.close(fd)


def dirty_again(path, size):
    """Over what is sealed, all over the file: every page needs its old block's region marked first."""
    fd = os.open(path, os.O_RDWR)
    for k in range(0, size // PAGE, 7):
        at = k * 7919 % (size // PAGE)
        os.pwrite(fd, page(at), at * PAGE)
    os.fsync(fd)
    os.close(fd)


def whole(path, size):
    with open(path, "rb") as f:
        for k in range(size // PAGE):
            tdefs.check(f.read(PAGE) == page(k), "%s: page %d differs" % (path, k))
        tdefs.equal(f.read(1), b"", "the end")


def killed(folder):
    """How often the kernel killed in this group for want of memory."""
    for name in ("memory.oom_control", "memory.events"):
        try:
            with open(os.path.join(folder, name)) as f:
                return next(int(line.split()[1]) for line in f if line.startswith("oom_kill "))
        except FileNotFoundError:
            pass
    return 0


def under(folder, function, *arguments):
    """In a child under the limit; a deadlock is what does not end. False when the kernel killed it."""
    code = "import sys; sys.argv[0] = 'pressure'; sys.path.insert(0, %r); import pressure; pressure.%s(*%r)" % (
        os.path.dirname(os.path.abspath(__file__)), function.__name__, arguments)
    try:
        done = tdefs.run(sys.executable, "-c", code, ok=None, timeout=240, preexec_fn=lambda: enter(folder))
    except subprocess.TimeoutExpired:
        tdefs.fail("deadlock: %s under the limit did not end" % function.__name__)
    if killed(folder) and done.returncode != 0:
        print("%s: the kernel killed for want of memory" % function.__name__)
        return False
    tdefs.equal(done.returncode, 0, "%s under the limit: %s" % (function.__name__, done.stdout))
    return True


def capable(capability):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1], 16) >> capability & 1 for line in f if line.startswith("CapEff:"))


def resident(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))


def main():
    base = tdefs.scratch()
    alone = group("program", LIMIT)
    worker = tdefs.Worker(base, arguments=["--seal-interval", "1s"]).start()
    pid = worker.process.pid
    both = group("both", 4 * LIMIT + 2 * resident(pid))     # a sanitizer's worker is large from the start
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/stat" % (pid, thread)) as f:
            flags = int(f.read().rsplit(")", 1)[1].split()[6])
        tdefs.check(flags & PF_MEMALLOC_NOIO or not capable(CAP_SYS_RESOURCE), "a thread of the worker may wait for its own write-back")
    for folder in (alone, both):
        if folder == both:
            enter(both, pid)
        path = worker.mnt + "/" + os.path.basename(folder)
        if not under(folder, dirty_mapping, path + ".map", SIZE):
            continue
        once = resident(pid)
        whole(path + ".map", SIZE)
        if under(folder, dirty_writes, path + ".write", SIZE) and under(folder, dirty_again, path + ".write", SIZE):
            whole(path + ".write", SIZE)
            print("worker's memory: %d KiB, then %d KiB" % (once // 1024, resident(pid) // 1024))
            tdefs.check(resident(pid) < once + 16 * MIB, "the worker grew from %d to %d bytes" % (once, resident(pid)))
        tdefs.check(folder == both or not killed(folder), "the kernel killed a program that had the limit to itself")
    if worker.process.poll() is None:
        dirty_writes(worker.mnt + "/after", 10 * PAGE)
        whole(worker.mnt + "/after", 10 * PAGE)
        worker.stop()


if __name__ == "__main__":
    main()
