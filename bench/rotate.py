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


def state(s):
    return json.loads(s.keyctl("env", "show", "b", "--json"))


class AtWork:
    """A rotation of the data, begun or gone on with, until end(): then it is paused."""

    def __init__(self, s):
        self.s = s
        order = "--resume" if state(s)["rotating_data"] else "--data"
        self.asked = subprocess.Popen([s.bin + "/keyctl", "--socket", s.state + "/run/keyctl.sock", "rotate", "b", order],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.asked.poll() is None and state(s)["rotate_phase"] != "data":
            time.sleep(0.02)

    def end(self):
        """What env show said just before: of one that came to its end meanwhile nothing."""
        said = state(self.s)
        if self.asked.poll() is None:
            self.s.keyctl("rotate", "b", "--pause")
        self.asked.wait()
        return [said] if said["rotating_data"] else []


TURN_S = 4
NONE, PAUSED, WORKS = "none", "paused", "at work"


def of_turns(samples, turns):
    """Values of (when, value), by turn; the first second of a turn is the switching's."""
    return [[v for when, v in samples if start + 1 <= when <= end] for start, end, _ in turns]


def beside_pgbench(s, quick, repeat):
    """A pgbench in rounds of three turns of some seconds (and one before that does not count), for what a database does in a minute changes more than a rotation changes it:
    without a rotation, with one that is paused, and with one at work, which then comes to its end while nothing else is done. By turn: tps,
    then milliseconds of what the probes of writes and of reads saw. Then the bytes that were encrypted again in a second, and the longest
    that blocks were withheld, in ms, as the worker counts them."""
    pgbench = Pgbench("read-write")
    pgbench.init(s, quick)
    pgbench.start(s)
    load = "pgbench", "-n", "-c", 4, "-j", 2, "-P", 1, "-T"
    pgbench.do(s, *load, 3, "postgres")
    begun, turns, states, samples = time.monotonic(), [], [], ([], [], [])
    for number in range(3 if quick else 5 * repeat):
        out, rotation = [], None
        thread = threading.Thread(target=lambda: out.append(pgbench.do(s, *load, 4 * (TURN_S + 1), "postgres")))
        offset = time.monotonic() - begun
        thread.start()
        probes = [Probe(s, begun, reads) for reads in (False, True)]
        time.sleep(TURN_S)                        # the first one would find a clean disk
        for kind in (NONE, WORKS, PAUSED) if number % 2 else (NONE, PAUSED, WORKS):
            if kind != NONE and not rotation:
                rotation = AtWork(s)
            if kind == PAUSED:
                states += rotation.end()
                rotation = None
            start = time.monotonic() - begun
            time.sleep(TURN_S)
            turns.append((start, time.monotonic() - begun, kind))
        if rotation:
            states += rotation.end()
        for seen, probe in zip(samples[1:], probes):
            seen += probe.end()
        thread.join()
        samples[0].extend((offset + float(t), float(v)) for t, v in re.findall(r"^progress: ([\d.]+) s, ([\d.]+) tps", out[0], re.M))
        if state(s)["rotating_data"]:
            s.keyctl("rotate", "b", "--resume")
        os.sync()
    pgbench.stop(s)
    tps, writes, reads = ({kind: [v for v, turn in zip(of_turns(one, turns), turns) if turn[2] == kind] for kind in (NONE, PAUSED, WORKS)}
                          for one in samples)
    return tps, writes, reads, statistics.median(e["rotate_rate"] for e in states), max(e["rotate_held_us"] for e in states) / 1000


def ratio(tps, kind):
    """Of each round's turn to that without a rotation: of the means, the median, and its standard error."""
    mean = {k: [statistics.mean(v) for v in tps[k]] for k in (kind, NONE)}
    each = [a / b for a, b in zip(mean[kind], mean[NONE])]
    return "%.3f; %.3f, %.3f" % (statistics.mean(mean[kind]) / statistics.mean(mean[NONE]), statistics.median(each),
                                 statistics.stdev(each) / len(each) ** 0.5)


def measure(s, quick, repeat):
    """The table, as Markdown."""
    size, mib = mib_a_second(s, quick, repeat)
    count, files = files_a_second(s, quick, repeat)
    tps, writes, reads, rate, held = beside_pgbench(s, quick, repeat)
    line = "| %s | %s |\n"
    text = line % ("rotation", "") + line % ("---", "---")
    text += line % ("rotate, {:,} files of 3,000 bytes".format(count), "{:,.0f} files/s".format(files))
    text += line % ("rotate --data, a file of %d MiB, nothing else at work" % size, "%.0f MiB/s" % mib)
    text += line % ("pgbench read-write, 4 clients: no rotation; paused; at work", "%s tps" % "; ".join(
        "%.0f" % statistics.mean(v for turn in tps[kind] for v in turn) for kind in (NONE, PAUSED, WORKS)))
    text += line % ("paused to none: of the means; median of %d rounds, its standard error" % len(tps[NONE]), ratio(tps, PAUSED))
    text += line % ("at work to none, likewise", ratio(tps, WORKS))
    text += line % ("encrypted again meanwhile", "%.1f MiB/s" % (rate / MIB))
    for what, seen in ("8 KiB write + fsync", writes), ("8 KiB read", reads):
        took = {kind: sorted(v for turn in seen[kind] for v in turn) for kind in seen}
        for name, value in ("median", statistics.median), ("one in a hundred", lambda v: v[len(v) * 99 // 100]), ("longest", max):
            text += line % ("%s meanwhile, %s: no rotation; paused; at work" % (what, name), "%s ms" % "; ".join(
                "%.1f" % value(took[kind]) for kind in (NONE, PAUSED, WORKS)))
    return text + line % ("longest that the rotation withheld blocks", "%.1f ms" % held)
