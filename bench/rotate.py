"""Rotations: how fast they are by themselves, and what a database and an fsync notice of one."""
import json
import os
import re
import shutil
import statistics
import subprocess
import threading
import time

from databases import Pgbench

MIB = 1 << 20


def timed(s, *kind):
    start = time.monotonic()
    s.keyctl("rotate", "b", *kind)
    return time.monotonic() - start


def files_a_second(s, quick, repeat):
    """New environment key for small files, the pass that proves that none is left included."""
    count = 2000 if quick else 10000
    for k in range(count):
        folder = "%s/small/%d" % (s.dir, k // 100)
        os.makedirs(folder, exist_ok=True)
        with open("%s/%d" % (folder, k), "wb") as f:
            f.write(b"x" * 3000)
    os.sync()
    rate = statistics.median(count / timed(s) for _ in range(repeat))
    shutil.rmtree(s.dir + "/small")
    return count, rate


def mib_a_second(s, quick, repeat):
    size = 64 if quick else 256
    with open(s.dir + "/large", "wb") as f:
        for _ in range(size):
            f.write(os.urandom(MIB))
        os.fsync(f.fileno())
    rate = statistics.median(size / timed(s, "--data") for _ in range(repeat))
    os.unlink(s.dir + "/large")
    return size, rate


class Probe:
    """Writes 8 KiB and syncs them, a hundred times a second: milliseconds of each."""

    def __init__(self, s):
        self.path, self.took, self.stop = s.dir + "/probe", [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        with open(self.path, "wb") as f:
            while not self.stop:
                start = time.monotonic()
                os.pwrite(f.fileno(), b"p" * 8192, len(self.took) % 1000 * 8192)
                os.fsync(f.fileno())
                self.took.append((time.monotonic() - start) * 1000)
                time.sleep(0.01)

    def end(self):
        self.stop = True
        self.thread.join()
        return self.took


class AtWork:
    """A rotation of the data that is begun or goes on, until end(): then it is paused."""

    def __init__(self, s, order):
        self.s = s
        self.asked = subprocess.Popen([s.bin + "/keyctl", "--socket", s.state + "/run/keyctl.sock", "rotate", "b", order],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.asked.poll() is None and self.state()["rotate_phase"] != "data":
            time.sleep(0.02)

    def state(self):
        return json.loads(self.s.keyctl("env", "show", "b", "--json"))

    def end(self):
        """What env show said just before."""
        state = self.state()
        if self.asked.poll() is not None:
            raise RuntimeError("the rotation ended before what it was to be beside")
        self.s.keyctl("rotate", "b", "--pause")
        self.asked.wait()
        return state


def beside_pgbench(s, quick, repeat):
    """By whether the rotation is at work, in turns that change their order: tps of each turn, what the probe saw; then the bytes that
    were encrypted again in a second, and the longest that blocks were withheld, in milliseconds, as the worker counts them."""
    pgbench = Pgbench("read-write")
    pgbench.init(s, quick)
    pgbench.start(s)
    seconds = 3 if quick else 15
    load = "pgbench", "-n", "-c", 4, "-j", 2, "-T", seconds, "postgres"
    pgbench.do(s, *load)
    AtWork(s, "--data").end()
    tps, took, rate, held = {False: [], True: []}, {False: [], True: []}, [], []
    for turn in range(2 * repeat):
        works = turn % 4 in (1, 2)
        rotation = AtWork(s, "--resume") if works else None
        probe = Probe(s)
        out = pgbench.do(s, *load)
        took[works] += probe.end()
        tps[works].append(float(re.search(r"^tps = ([\d.]+)", out, re.M).group(1)))
        if works:
            state = rotation.end()
            rate.append(state["rotate_rate"])
            held.append(state["rotate_held_us"] / 1000)
    pgbench.stop(s)
    return tps, took, statistics.median(rate), max(held)


def measure(s, quick, repeat):
    """The table, as Markdown."""
    size, mib = mib_a_second(s, quick, repeat)
    count, files = files_a_second(s, quick, repeat)
    tps, took, rate, held = beside_pgbench(s, quick, repeat)
    ratios = [w / wo for w, wo in zip(tps[True], tps[False])]
    line = "| %s | %s |\n"
    text = line % ("rotation", "") + line % ("---", "---")
    text += line % ("rotate, {:,} files of 3,000 bytes".format(count), "{:,.0f} files/s".format(files))
    text += line % ("rotate --data, a file of %d MiB, nothing else at work" % size, "%.0f MiB/s" % mib)
    text += line % ("pgbench read-write, 4 clients: rotation paused; at work", "%.0f; %.0f tps" % (
        statistics.median(tps[False]), statistics.median(tps[True])))
    text += line % ("the ratio: median of %d pairs; lowest, highest" % len(ratios), "%.2f; %.2f, %.2f" % (
        statistics.median(ratios), min(ratios), max(ratios)))
    text += line % ("encrypted again meanwhile", "%.1f MiB/s" % (rate / MIB))
    for what, value in ("median", statistics.median), ("longest", max):
        text += line % ("8 KiB write + fsync meanwhile, %s: rotation paused; at work" % what, "%.1f; %.1f ms" % (
            value(took[False]), value(took[True])))
    return text + line % ("longest that the rotation withheld blocks", "%.1f ms" % held)
