"""What is not a rate: memory, space, processor time, and what the disk below sees. Lower is better. Each gives None where the
system has no such thing."""
import os
import shutil
import time

import workloads
from systems import drop_caches, run


def status(pid, field):
    with open("/proc/%d/status" % pid) as f:
        return int([line for line in f if line.startswith(field + ":")][0].split()[1])


def cpu(pid):
    with open("/proc/%d/stat" % pid) as f:
        parts = f.read().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def disk(s):
    """(bytes written, flushes) of the block device so far; Documentation/block/stat."""
    device = os.stat(s.base).st_dev
    with open("/sys/dev/block/%d:%d/stat" % (os.major(device), os.minor(device))) as f:
        parts = [int(p) for p in f.read().split()]
    return parts[6] * 512, parts[15]


def memory_at_rest(s, quick):
    if not s.daemon():
        return None
    s.cold()
    os.listdir(s.dir)
    time.sleep(1)
    return status(s.daemon(), "VmRSS") / 1024


def memory_under_load(s, quick):
    if not s.daemon():
        return None
    workloads.seq_write(s, quick)
    workloads.Small("create")(s, quick)
    return status(s.daemon(), "VmRSS") / 1024


def cpu_per_gib(workload):
    def cost(s, quick):
        pid = s.daemon()
        if not pid:
            return None
        workloads.laid_out(s, quick)
        if workload == "read":
            s.cold()
            pid = s.daemon()
        before = cpu(pid)
        if workload == "read":
            workloads.fio(s, quick, "read", "1m", runtime=0)
        else:
            workloads.seq_write(s, quick)
        return (cpu(pid) - before) / workloads.file_size(quick) * (1 << 30)
    return cost


def cached_twice(s, quick):
    """Page cache in use after a file was read, here and in the store below, as a multiple of the file."""
    workloads.laid_out(s, quick)
    s.cold()
    with open(s.dir + "/fio", "rb") as f:
        while f.read(1 << 20):
            pass
    files = {s.dir + "/fio"}
    for top, _, names in os.walk(s.store()) if s.store() != s.dir else []:
        files |= {os.path.join(top, n) for n in names}
    pages = run("fincore", "--bytes", "--noheadings", "--output", "RES", *sorted(files)).split()
    return sum(map(int, pages)) / workloads.file_size(quick)


def below(which, workload):
    def cost(s, quick):
        workloads.laid_out(s, quick)
        count = 4096
        drop_caches()
        with open(s.dir + "/fio", "r+b" if workload == "random" else "wb") as f:
            fd, chunk = f.fileno(), os.urandom(8192 if workload == "random" else 1 << 20)
            if workload == "stream":
                count = workloads.file_size(quick) >> 20
            # The marks that a file's first changes need come before what is counted: a steady stream is asked for.
            steps = [(7919 * k % (workloads.file_size(quick) // 8192) if workload == "random" else k) * len(chunk) for k in range(count)]
            if workload == "random":
                for off in steps:
                    os.pwrite(fd, chunk, off)
                os.fsync(fd)
            before = disk(s)
            for off in steps[:count if workload == "stream" else 1000]:
                os.pwrite(fd, chunk, off)
                if workload == "random":
                    os.fsync(fd)
            os.fsync(fd)
            after = disk(s)
        if which == "bytes":
            return (after[0] - before[0]) / (len(chunk) * (count if workload == "stream" else 1000))
        return (after[1] - before[1]) / 1001
    return cost


def space(kind):
    def used(s):
        os.sync()
        return int(run("du", "-s", "--block-size=1", s.store()).split()[0])

    def cost(s, quick):
        for name in ("fio", "small"):
            path = s.dir + "/" + name
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)
        os.sync()
        before = used(s)
        if kind == "large":
            workloads.laid_out(s, quick)
            return ((used(s) - before) / workloads.file_size(quick) - 1) * 100
        os.mkdir(s.dir + "/small")
        for k in range(500):
            with open("%s/small/%d" % (s.dir, k), "wb") as f:
                f.write(b"x" * 4096)
        return ((used(s) - before) / 500 - 4096) / 1024
    return cost


COSTS = [
    ("daemon's memory at rest", "MiB", memory_at_rest),
    ("daemon's memory under load", "MiB", memory_under_load),
    ("daemon's CPU time, sequential write", "s/GiB", cpu_per_gib("write")),
    ("daemon's CPU time, sequential read cold", "s/GiB", cpu_per_gib("read")),
    ("page cache after a file was read", "times", cached_twice),
    ("bytes written below, stream", "times", below("bytes", "stream")),
    ("bytes written below, 8k + fsync each", "times", below("bytes", "random")),
    ("flushes below per fsync", "times", below("flushes", "random")),
    ("space, a large file", "% more", space("large")),
    ("space, a file of 4 KiB", "KiB more", space("small")),
]
