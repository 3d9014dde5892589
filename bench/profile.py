"""Where a worker's processor time goes while a command runs: profile.py PID COMMAND...   Needs perf (linux-perf)."""
import collections
import os
import subprocess
import sys
import tempfile

# The first class of which a function is in the sample's stack; what is in none by its innermost library.
CLASSES = [
    ("wake-ups of those who wait for a reply", ("fuse_request_end", "__wake_up", "try_to_wake_up")),
    ("sleeping and being woken", ("schedule", "do_sched_yield", "finish_task_switch", "__x64_sys_poll")),
    ("requests and their data, in", ("fuse_dev_do_read",)),
    ("replies and their data, out", ("fuse_dev_do_write",)),
    ("lower write", ("do_pwritev", "ksys_pwrite64")),
    ("lower read", ("do_preadv", "ksys_pread64")),
    ("lower sync", ("do_fsync",)),
    ("lower open, create, close", ("do_sys_openat2", "__x64_sys_close", "__fput")),
    ("lower times and attributes", ("do_utimes", "__do_sys_newfstatat", "__do_sys_statx", "do_ftruncate", "do_truncate")),
    ("other system calls", ("do_syscall_64", "entry_SYSCALL_64_after_hwframe", "asm_exc_page_fault")),
]


def classify(stack):
    functions = {f for f, _ in stack}
    for name, wanted in CLASSES:
        if any(w in functions for w in wanted):
            return name
    library = os.path.basename(stack[0][1].strip("()"))
    return {"libcrypto.so.3": "cryptography (libcrypto)"}.get(library, "worker, libfuse, libc" if "kernel" not in library else "interrupts")


def cpu(pid):
    with open("/proc/%s/stat" % pid) as f:
        parts = f.read().rsplit(")", 1)[1].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def main():
    pid, command = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as scratch:
        before = cpu(pid)
        subprocess.run(["perf", "record", "-q", "-F", "4000", "-g", "-o", scratch + "/data", "-p", pid, "--"] + command, check=True)
        used = cpu(pid) - before
        script = subprocess.run(["perf", "script", "-i", scratch + "/data", "-F", "ip,sym,dso"], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True, check=True).stdout
    counts = collections.Counter()
    for sample in script.split("\n\n"):
        stack = []
        for line in sample.strip().splitlines():
            parts = line.split(None, 1)[1] if len(line.split(None, 1)) > 1 else ""
            symbol, _, dso = parts.rpartition(" ")
            stack.append((symbol.strip(), dso))
        if stack:
            counts[classify(stack)] += 1
    total = sum(counts.values())
    print("%.2f s of processor time" % used)
    for name, n in counts.most_common():
        print("%5.1f %%  %s" % (100 * n / total, name))


main()
