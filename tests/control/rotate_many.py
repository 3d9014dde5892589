"""Many small files and a large dense one: both kinds of rotation beside reads and writes, cut off by kill -9. They come to their end, what
is read is what was written, the scrub finds nothing, and the worker's memory does not grow with what there is."""
import os
import random
import re
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *

FILES = int(os.environ.get("TDEFS_FILES") or (50000 if LONG else 2000))
LARGE_MIB = int(os.environ.get("TDEFS_LARGE_MIB") or (1024 if LONG else 32))
MORE_KIB = 48 << 10                               # the journal's buffer, the crypto of a batch, and what the reads and writes need
base = scratch()
allow_in_log("not left clean")
tenant = Tenant(base, 'mount: { restart_limit = 1000; restart_delay = "10ms"; };').start()
env = Environment(tenant).start()
large = env.mnt + "/large"


def small(k):
    return "%s/small/%d/%d" % (env.mnt, k // 200, k)


def content(k):
    return b"%d " % k * (1 + k % 500)


def mebibyte(k):
    return b"%016d" % k * (1 << 16)


for k in range(FILES):
    if k % 200 == 0:
        os.makedirs(os.path.dirname(small(k)))
    with open(small(k), "wb") as f:
        f.write(content(k))
with open(large, "wb") as f:
    for k in range(LARGE_MIB):
        f.write(mebibyte(k))
env.remount()


class Load:
    """Reads, writes and syncs of what there is, now and then: a rotation beside them takes a twentieth of the time only."""

    def __init__(self):
        self.stop, self.count, self.problems, self.random = threading.Event(), 0, [], random.Random(4)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def one(self):
        k, m, at = self.random.randrange(FILES), self.random.randrange(LARGE_MIB), self.random.randrange(255) * 4096
        with open(small(k), "r+b", buffering=0) as f, open(large, "r+b", buffering=0) as g:
            check(f.read() == content(k), "a small file reads as it was written: %d" % k)
            check(os.pread(g.fileno(), 8192, (m << 20) + at) == mebibyte(m)[:8192], "the large file reads as it was written: %d MiB" % m)
            if self.count % 3 == 0:
                os.pwrite(f.fileno(), content(k), 0)
                os.pwrite(g.fileno(), mebibyte(m)[:8192], (m << 20) + at)
            if self.count % 12 == 0:
                os.fsync(f.fileno())
                os.fsync(g.fileno())
        self.count += 1

    def run(self):
        while not self.stop.wait(0.2):
            try:
                for _ in range(3):
                    self.one()
            except OSError:
                pass                              # between a worker's death and the next mount
            except AssertionError as e:
                self.problems.append(str(e))
                return

    def end(self):
        self.stop.set()
        self.thread.join()
        check(not self.problems, "%s" % self.problems)
        check(self.count > 0, "nothing was read meanwhile")


def resident(pid):
    """The most that the process ever had in memory, in KiB."""
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"^VmHWM:\s+(\d+)", f.read(), re.M).group(1))


def serving():
    e = tenant.env("env")
    return e if e["state"] == "mounted" and e["key_version"] and e["pid"] else None


def half(e):
    return e["rotate_phase"] in ("key", "data") and e["rotate_percent"] >= 40


for kind in (), ("--data",):
    before, load = serving(), Load()
    start, begun = resident(before["pid"]), time.monotonic()
    asked = subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, "rotate", "env", *kind], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: half(tenant.env("env")) or asked.poll() is not None, "the half of the rotation", 3600)
    met = asked.poll() is None
    grown = resident(before["pid"]) - start
    os.kill(before["pid"], signal.SIGKILL)
    asked.communicate(timeout=WAIT_S)
    wait_for(lambda: serving() and serving()["pid"] != before["pid"], "the environment to be back")
    start = resident(serving()["pid"])
    wait_for(lambda: serving() and not serving()["rotating"] and not serving()["rotating_data"], "the rotation to end", 3600)
    load.end()
    after = serving()
    grown = max(grown, resident(after["pid"]) - start)
    equal((after["key_version"], after["rotate_error"], after["refused"]), (before["key_version"] + 1, "", 0), "version, error, refused blocks")
    print("rotate %s: %.0f s, %s; memory grew by %d KiB; blocks withheld %.1f ms at most" % (
        " ".join(kind), time.monotonic() - begun, "cut off" if met else "over before the kill", grown, after["rotate_held_us"] / 1000))
    if "san" not in run("ldd", BIN + "/tdefs-mount").stdout:
        check(grown < MORE_KIB, "the worker's memory grew by %d KiB" % grown)
check(met, "the kill met the rotation of the data")
env.remount()
for k in range(FILES):
    with open(small(k), "rb") as f:
        check(f.read() == content(k), "small file %d" % k)
with open(large, "rb") as f:
    for k in range(LARGE_MIB):
        check(f.read(1 << 20) == mebibyte(k), "the large file at %d MiB" % k)
out = tenant.keyctl("scrub", "env").stdout
check("0 damaged" in out, out)
