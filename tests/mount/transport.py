"""FUSE over io_uring: what the mount tests see through /dev/fuse they see through it, and where it cannot be had the mount works all the
same. A seek finds no holes there (README, differences)."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import tdefs

PARAMETER = "/sys/module/fuse/parameters/enable_uring"
HERE = os.path.dirname(os.path.abspath(__file__))


def allow(word):
    with open(PARAMETER, "w") as f:
        f.write(word)


def not_to_be_had(base):
    """Asked for and refused by the kernel: a warning that says what is missing, and a mount."""
    worker = tdefs.Worker(base, "none", arguments=["--transport", "io_uring"])
    worker.start()
    tdefs.equal(worker.status()["rings"], "0", "queues where there is no io_uring")
    with open(worker.mnt + "/f", "w") as f:
        f.write("x")
    with open(worker.log_path) as f:
        tdefs.check("requests come through /dev/fuse" in f.read(), "the log says that io_uring could not be had")
    worker.stop()


def holes_and_direct_writes(base):
    """Requests that wait for other requests: a seek on a file with dirty pages, and more O_DIRECT writes at once than a queue has
    entries, to a file that others read through the page cache meanwhile."""
    worker = tdefs.Worker(base, "wait", arguments=["--transport", "io_uring"])
    worker.start()
    tdefs.equal(worker.status()["rings"], str(os.cpu_count()), "a queue for each CPU")
    path = worker.mnt + "/f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"a" * 8192, 0)
    os.pwrite(fd, b"b", 1 << 20)
    tdefs.equal([os.lseek(fd, 0, w) for w in (os.SEEK_DATA, os.SEEK_HOLE)], [0, (1 << 20) + 1], "a file is data, and then a hole")
    os.close(fd)
    tdefs.need("fio")
    reader = ["--name=r", "--rw=randread", "--bs=4k", "--numjobs=4"]
    writer = ["--name=w", "--rw=randwrite", "--bs=16k", "--direct=1", "--ioengine=libaio", "--iodepth=64"]
    tdefs.run("fio", "--filename=" + path, "--size=16m", "--runtime=5", "--time_based", "--invalidate=1", "--minimal", *reader, *writer, timeout=120)
    worker.stop()


def by_setting(base):
    """mount.transport, what keyctl says of it, and a lock of what comes through rings."""
    for setting, allowed, used in (("auto", "N", "device"), ("auto", "Y", "io_uring"), ("device", "Y", "device"), ("io_uring", "Y", "io_uring")):
        allow(allowed)
        where = os.path.join(base, setting + allowed)
        os.mkdir(where)
        keeper = tdefs.Keeper(where, 'mount: { transport = "%s"; };' % setting).start()
        env = tdefs.Environment(keeper).start()
        with open(env.mnt + "/f", "w") as f:
            f.write("secret" * 1000)
        tdefs.equal(keeper.json("env", "show", "env")["transport"], used, "transport %s where the kernel says %s" % (setting, allowed))
        keeper.keyctl("lock", "env")
        tdefs.check(not tdefs.mounted(env.mnt), "locked")
        keeper.keyctl("unlock", "env")
        with open(env.mnt + "/f") as f:
            tdefs.equal(f.read(), "secret" * 1000, "after the unlock")
        env.stop()
        keeper.stop()


def main():
    base = tdefs.scratch()
    if not os.path.exists(PARAMETER):
        not_to_be_had(base)
        tdefs.skip("this kernel has no FUSE over io_uring (Linux 6.14)")
    with open(PARAMETER) as f:
        tdefs.undo(allow, f.read().strip())
    allow("N")
    not_to_be_had(base)
    allow("Y")
    holes_and_direct_writes(base)
    by_setting(base)
    for script in ("posix_tree", "model", "concurrent"):
        done = subprocess.run([sys.executable, "%s/%s.py" % (HERE, script)], env=dict(os.environ, TDEFS_TRANSPORT="io_uring"))
        tdefs.equal(done.returncode, 0, "exit status of %s over io_uring" % script)


main()
