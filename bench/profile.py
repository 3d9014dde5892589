"""Where the processors' time goes in a workload, beside bare ext4: of all processors, for each operation. Needs perf (linux-perf)."""
import collections
import os
import re
import subprocess
import sys
import tempfile
import time

from systems import timed

RATE_HZ = 1999
# The first class of which a function is in the sample's stack.
SWITCHING = ("schedule", "try_to_wake_up", "__wake_up", "__wake_up_common", "do_sched_yield", "finish_task_switch.isra.0", "do_idle")
WORKER = [
    ("switching", SWITCHING),
    ("requests", ("fuse_dev_do_read", "fuse_dev_do_write", "fuse_dev_read", "fuse_dev_write")),
    ("lower calls", ("do_pwritev", "ksys_pwrite64", "do_preadv", "ksys_pread64", "do_fsync", "do_sys_openat2", "__x64_sys_close", "__fput",
                     "do_utimes", "__do_sys_newfstatat", "__do_sys_statx", "do_ftruncate", "do_unlinkat", "vfs_getxattr")),
]
COLUMNS = ("program", "switching", "requests", "cryptography", "lower calls", "worker", "kernel's threads", "idle")
KERNEL_THREADS = re.compile(r"^(kworker|ksoftirqd|jbd2|loop|kcompactd|kswapd|rcu_|migration|kdamond)")


def classify(command, is_worker, stack):
    functions = {f for f, _ in stack}
    if command.startswith("swapper"):
        return "idle"
    if KERNEL_THREADS.match(command):
        return "kernel's threads"
    if not is_worker:
        return "switching" if functions & set(SWITCHING) and any("fuse" in f for f in functions) else "program"
    for name, wanted in WORKER:
        if functions & set(wanted):
            return name
    return "cryptography" if stack[0][1].startswith("libcrypto") else "worker"


def samples(data):
    """(command, process, monotonic time, stack) of each."""
    script = subprocess.run(["perf", "script", "-i", data, "-F", "comm,pid,time,ip,sym,dso"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True, check=True).stdout
    for sample in script.split("\n\n"):
        head, *lines = sample.strip().splitlines() or [""]
        found = re.match(r"(.*?)\s+(\d+)\s+([\d.]+):", head)
        stack = []
        for line in lines:
            parts = line.strip().split(None, 1)
            symbol, _, library = (parts[1] if len(parts) > 1 else "").rpartition(" ")
            stack.append((symbol.split("+")[0].strip(), os.path.basename(library.strip("()"))))
        if found and stack:
            yield found[1], int(found[2]), float(found[3]), stack


def one(s, workload, quick, scratch):
    """Rate, and seconds of processor time by class while it was timed."""
    data = scratch + "/data"
    perf = subprocess.Popen(["perf", "record", "-q", "-a", "-g", "-F", str(RATE_HZ), "-k", "mono", "-o", data, "sleep", "1000"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)                               # until it records
    try:
        rate = workload(s, quick)
    finally:
        perf.terminate()
        perf.wait()
    worker = s.daemon()
    counts = collections.Counter(classify(command, pid == worker, stack) for command, pid, at, stack in samples(data)
                                 if timed.begun <= at <= timed.ended)
    total = sum(counts.values())
    return rate, {c: n / total * os.cpu_count() * timed.seconds() for c, n in counts.items()}


def operations(name, unit, rate):
    """A second; what a rate in MiB/s is of is in the workload's name."""
    size = re.search(r"(\d+)k ", name)
    return rate * 1024 / int(size[1]) if unit == "MiB/s" and size else rate


def measure(chosen, live, quick):
    """Table of microseconds an operation (a MiB where the workload names no size); each line adds up to what all processors had."""
    print("| workload | | time | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 3))
    with tempfile.TemporaryDirectory() as scratch:
        for name, unit, workload in chosen:
            for s in live:
                try:
                    rate, spent = one(s, workload, quick, scratch)
                except (RuntimeError, OSError, ZeroDivisionError, subprocess.CalledProcessError) as e:
                    print("%s on %s: %s" % (name, s.name, e), file=sys.stderr)
                    continue
                count = operations(name, unit, rate) * timed.seconds()
                cells = ["%.3g" % (spent.get(c, 0) / count * 1e6) for c in COLUMNS]
                print("| %s | %s | %.3g | %s |" % (name, s.name, timed.seconds() / count * 1e6, " | ".join(cells)), flush=True)
