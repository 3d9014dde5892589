"""The driver: systems and workloads in turn, medians and spread, costs. Use run.sh."""
import argparse
import mmap
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import costs
import databases
import peers
import profile
import report
import rotate
import systems
import workloads

WORKLOADS = workloads.WORKLOADS + databases.WORKLOADS


def memory_ext4():
    """An ext4 on a loop device whose file is in memory."""
    base = tempfile.mkdtemp(prefix="tdefs-bench-", dir="/dev/shm")
    os.chmod(base, 0o755)
    with open(base + "/image", "wb") as f:
        f.truncate(6 << 30)
    systems.run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "encrypt", base + "/image")
    os.mkdir(base + "/fs")
    systems.run("mount", "-o", "loop", base + "/image", base + "/fs")
    return base, base + "/fs"


def touch_memory():
    """A machine's memory, above all a virtual one's, is slow the first time it is used: that is not what is to be measured."""
    with open("/proc/meminfo") as f:
        available = int([line for line in f if line.startswith("MemAvailable")][0].split()[1]) << 10
    mmap.mmap(-1, min(available // 2, 12 << 30), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def attempt(what, s, f, *arguments):
    try:
        return f(s, *arguments)
    except (RuntimeError, OSError, ValueError, IndexError, AttributeError) as e:
        print("%s on %s: %s" % (what, s.name, " ".join(str(e).split())[:400]), file=sys.stderr)
        return None


def measure(chosen, live, repeat, peer_repeat, quick):
    rows = []
    for name, unit, workload in chosen:
        rates = {s.name: [] for s in live}
        for turn in range(repeat):
            for s in live:
                if turn < (repeat if s.name in ("ext4", "tdefs", "tdefs-other") else peer_repeat):
                    rate = attempt(name, s, workload, quick)
                    rates[s.name] += [rate] if rate else []
        middle = {n: statistics.median(r) for n, r in rates.items() if r}
        rows.append({"workload": name, "unit": unit, "rate": middle, "rates": rates,
                     "spread": {n: (max(r) - min(r)) / statistics.median(r) for n, r in rates.items() if r},
                     "ratio": {n: m / middle["ext4"] for n, m in middle.items()} if "ext4" in middle else {}})
        print("%-36s %9.0f %-8s" % (name, middle.get("ext4", 0), unit) +
              "".join("  %s %5.2f" % (s.name, rows[-1]["ratio"].get(s.name, 0)) for s in live[1:]), flush=True)
    return rows


def measure_costs(chosen, live, quick):
    rows = []
    for name, unit, cost in chosen:
        value = {s.name: attempt(name, s, cost, quick) for s in live}
        rows.append({"cost": name, "unit": unit, "value": {n: v for n, v in value.items() if v is not None}})
        print("%-40s %-8s" % (name, unit) + "".join("  %s %s" % (n, report.number(v)) for n, v in rows[-1]["value"].items()), flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    p.add_argument("--bin", required=True, help=argparse.SUPPRESS)
    p.add_argument("--quick", action="store_true", help="smaller and shorter, peers once: a quarter of an hour with all of them")
    p.add_argument("--peers", action="store_true", help="other encrypters too, those that are installed")
    p.add_argument("--workload", default="", help="those, and the costs, whose name matches this regular expression")
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--dir", help="an ext4 directory to work in instead of memory")
    p.add_argument("--other", metavar="BIN", help="the bin directory of another build of tdefs, to measure beside this one")
    p.add_argument("--set", metavar="TEXT", help="the same with these lines in its configuration, as 'mount: { threads = 2; };'")
    p.add_argument("--rotate", action="store_true", help="rotations instead: how fast, and what pgbench and an fsync notice of one")
    p.add_argument("--profile", action="store_true", help="where the processors' time goes in the workloads instead, beside ext4")
    p.add_argument("--out", help="directory for result.json, result.md and result.svg")
    o = p.parse_args()
    chosen = [w for w in WORKLOADS if re.search(o.workload, w[0])]
    chosen_costs = [c for c in costs.COSTS if re.search(o.workload, c[0])]
    if not chosen and not chosen_costs:
        sys.exit("no workload matches %s; there are:\n  %s" % (o.workload, "\n  ".join(w[0] for w in WORKLOADS + costs.COSTS)))
    kinds = [systems.Tdefs] if o.rotate else [systems.Ext4, systems.Tdefs] + ([systems.other_tdefs(o.other, o.set)] if o.other or o.set else [])
    for peer in peers.PEERS if o.peers and not o.rotate else []:
        print("left out: " + peer.missing(), file=sys.stderr) if peer.missing() else kinds.append(peer)
    touch_memory()
    made, base = memory_ext4() if not o.dir else (None, tempfile.mkdtemp(prefix="tdefs-bench-", dir=o.dir))
    os.chmod(base, 0o755)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    live = []
    try:
        for kind in kinds:
            try:
                live.append(kind(base, o.bin))
            except (RuntimeError, OSError) as e:
                if kind in (systems.Ext4, systems.Tdefs):
                    raise
                print("left out: %s: %s" % (kind.name, str(e)[-300:]), file=sys.stderr)
        if o.rotate:
            print(rotate.measure(live[0], o.quick, o.repeat), end="", flush=True)
            return
        if o.profile:
            profile.measure(chosen, live, o.quick)
            return
        result = {"systems": [s.name for s in live], "quick": o.quick, "kernel": os.uname().release, "cpus": os.cpu_count(),
                  "rows": measure(chosen, live, o.repeat, 1 if o.quick else o.repeat, o.quick),
                  "costs": measure_costs(chosen_costs, live, o.quick)}
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for s in live:
            attempt("the end", s, lambda system: system.end())
        if made:
            systems.run("umount", base)
        shutil.rmtree(made or base, ignore_errors=True)
    if o.out:
        report.write(result, o.out)


main()
