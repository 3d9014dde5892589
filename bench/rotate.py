"""Rotations: how fast they are by themselves, and what a database and an fsync notice of one."""
import json
import mmap
import os
import random
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
    """What others notice, a hundred times a second: (when, milliseconds) of each write of 8 KiB with its fsync, or of each read of 8 KiB
    past the cache from the largest file that the database has."""

    def __init__(self, s, begun, reads):
        self.begun, self.took, self.stop = begun, [], False
        if reads:
            files = [os.path.join(d, n) for d, _, names in os.walk(s.dir + "/pg/data/base") for n in names]
            self.fd = os.open(max(files, key=os.path.getsize), os.O_RDONLY | os.O_DIRECT)
        else:
            self.fd = os.open(s.dir + "/probe", os.O_RDWR | os.O_CREAT)
        self.buf, self.reads = mmap.mmap(-1, 8192), reads
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        blocks = max(os.fstat(self.fd).st_size // 8192, 1)
        while not self.stop:
            start = time.monotonic()
            if self.reads:
                os.preadv(self.fd, [self.buf], random.randrange(blocks) * 8192)
            else:
                os.pwrite(self.fd, self.buf, len(self.took) % 1000 * 8192)
                os.fsync(self.fd)
            self.took.append((start - self.begun, (time.monotonic() - start) * 1000))
            time.sleep(0.01)

    def end(self):
        self.stop = True
        self.thread.join()
        os.close(self.fd)
        return self.took


class AtWork:
    """A rotation of the data, begun or gone on with, until end(): then it is paused."""

    def __init__(self, s):
        self.s = s
        order = "--resume" if self.state()["rotating_data"] else "--data"
        self.asked = subprocess.Popen([s.bin + "/keyctl", "--socket", s.state + "/run/keyctl.sock", "rotate", "b", order],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.asked.poll() is None and self.state()["rotate_phase"] != "data":
            time.sleep(0.02)

    def state(self):
        return json.loads(self.s.keyctl("env", "show", "b", "--json"))

    def end(self):
        """What env show said just before: of one that came to its end meanwhile nothing."""
        state = self.state()
        if self.asked.poll() is None:
            self.s.keyctl("rotate", "b", "--pause")
        self.asked.wait()
        return [state] if state["rotating_data"] else []


TURN_S = 4


def of_turns(samples, turns):
    """Values of (when, value), by turn; the first second of a turn is the switching's."""
    return [[v for when, v in samples if start + 1 <= when <= end] for start, end, _ in turns]


def beside_pgbench(s, quick, repeat):
    """A pgbench during which a rotation rests and works in turns of some seconds, for what a database does in a minute changes more than
    the rotation changes it. By whether it works: tps of each turn, then milliseconds of what the probes of writes and of reads saw. Then
    the bytes that were encrypted again in a second, and the longest that blocks were withheld, in ms, as the worker counts them."""
    pgbench = Pgbench("read-write")
    pgbench.init(s, quick)
    pgbench.start(s)
    load = "pgbench", "-n", "-c", 4, "-j", 2, "-P", 1, "-T"
    pgbench.do(s, *load, 3, "postgres")
    AtWork(s).end()
    count = 8 if quick else 16 * repeat
    out, turns, states, rotation = [], [], [], None
    thread = threading.Thread(target=lambda: out.append(pgbench.do(s, *load, (count + 2) * (TURN_S + 1), "postgres")))
    begun = time.monotonic()
    thread.start()
    probes = [Probe(s, begun, reads) for reads in (False, True)]
    for turn in range(count):
        works = turn % 4 in (1, 2)
        if works and not rotation:
            rotation = AtWork(s)
        elif not works and rotation:
            states += rotation.end()
            rotation = None
        start = time.monotonic() - begun
        time.sleep(TURN_S)
        turns.append((start, time.monotonic() - begun, works))
    if rotation:
        states += rotation.end()
    samples = [probe.end() for probe in probes]
    thread.join()
    pgbench.stop(s)
    samples.insert(0, [(float(t), float(v)) for t, v in re.findall(r"^progress: ([\d.]+) s, ([\d.]+) tps", out[0], re.M)])
    tps, writes, reads = ({w: [v for v, turn in zip(of_turns(one, turns), turns) if turn[2] == w] for w in (False, True)} for one in samples)
    return tps, writes, reads, statistics.median(e["rotate_rate"] for e in states), max(e["rotate_held_us"] for e in states) / 1000


def measure(s, quick, repeat):
    """The table, as Markdown."""
    size, mib = mib_a_second(s, quick, repeat)
    count, files = files_a_second(s, quick, repeat)
    tps, writes, reads, rate, held = beside_pgbench(s, quick, repeat)
    mean = {w: [statistics.mean(v) for v in tps[w]] for w in tps}
    ratios = [w / wo for w, wo in zip(mean[True], mean[False])]
    line = "| %s | %s |\n"
    text = line % ("rotation", "") + line % ("---", "---")
    text += line % ("rotate, {:,} files of 3,000 bytes".format(count), "{:,.0f} files/s".format(files))
    text += line % ("rotate --data, a file of %d MiB, nothing else at work" % size, "%.0f MiB/s" % mib)
    text += line % ("pgbench read-write, 4 clients: rotation paused; at work", "%.0f; %.0f tps" % (
        statistics.mean(mean[False]), statistics.mean(mean[True])))
    text += line % ("the ratio: of the means; median of %d pairs of turns, its standard error" % len(ratios), "%.3f; %.3f, %.3f" % (
        statistics.mean(mean[True]) / statistics.mean(mean[False]), statistics.median(ratios), statistics.stdev(ratios) / len(ratios) ** 0.5))
    text += line % ("encrypted again meanwhile", "%.1f MiB/s" % (rate / MIB))
    for what, seen in ("8 KiB write + fsync", writes), ("8 KiB read", reads):
        took = {w: sorted(v for turn in seen[w] for v in turn) for w in seen}
        for name, value in ("median", statistics.median), ("one in a hundred", lambda v: v[len(v) * 99 // 100]), ("longest", max):
            text += line % ("%s meanwhile, %s: rotation paused; at work" % (what, name), "%.1f; %.1f ms" % (value(took[False]), value(took[True])))
    return text + line % ("longest that the rotation withheld blocks", "%.1f ms" % held)
