"""The driver: systems and workloads in turn, medians, table, JSON, plot. Use run.sh."""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import systems
import workloads


def memory_ext4():
    """An ext4 on a loop device whose file is in memory."""
    base = tempfile.mkdtemp(prefix="tdefs-bench-", dir="/dev/shm")
    os.chmod(base, 0o755)
    with open(base + "/image", "wb") as f:
        f.truncate(6 << 30)
    systems.run("mkfs.ext4", "-q", "-F", "-m", "0", base + "/image")
    os.mkdir(base + "/fs")
    systems.run("mount", "-o", "loop", base + "/image", base + "/fs")
    return base, base + "/fs"


def write_plot(result, path):
    names = [s for s in result["systems"] if s != "ext4"]
    with open(path + ".dat", "w") as f:
        for row in result["rows"]:
            f.write('"%s" %s\n' % (row["workload"], " ".join("%.3f" % row["ratio"].get(n, 0) for n in names)))
    columns = ", ".join('"%s.dat" using %d:xtic(1) title "%s"' % (path, k + 2, n) for k, n in enumerate(names))
    script = """set terminal svg size 1000,520 font "sans,11"; set output "%s"; set style data histograms; set style fill solid 0.8
set xtics rotate by -40; set ylabel "ratio to bare ext4"; set yrange [0:*]; set grid ytics; set bmargin 12; plot %s""" % (path, columns)
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    os.unlink(path + ".dat")


def main():
    p = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    p.add_argument("--bin", required=True, help=argparse.SUPPRESS)
    p.add_argument("--quick", action="store_true", help="a tenth of the work, once")
    p.add_argument("--peers", action="store_true", help="other encrypters too, those that are installed")
    p.add_argument("--workload", default="", help="those whose name matches this regular expression")
    p.add_argument("--repeat", type=int, default=0)
    p.add_argument("--dir", help="an ext4 directory to work in instead of memory")
    p.add_argument("--out", help="directory for result.json and result.svg")
    o = p.parse_args()
    chosen = [w for w in workloads.WORKLOADS if re.search(o.workload, w[0])]
    if not chosen:
        sys.exit("no workload matches %s; there are:\n  %s" % (o.workload, "\n  ".join(w[0] for w in workloads.WORKLOADS)))
    kinds = list(systems.BASE)
    for peer in systems.PEERS if o.peers else []:
        print("left out: " + peer.missing(), file=sys.stderr) if peer.missing() else kinds.append(peer)
    made, base = memory_ext4() if not o.dir else (None, tempfile.mkdtemp(prefix="tdefs-bench-", dir=o.dir))
    os.chmod(base, 0o755)
    live, rows = [], []
    try:
        for kind in kinds:
            live.append(kind(base, o.bin))
        for name, unit, workload in chosen:
            rates = {s.name: [] for s in live}
            for _ in range(o.repeat or (1 if o.quick else 3)):
                for s in live:
                    try:
                        rates[s.name].append(workload(s, o.quick))
                    except (RuntimeError, OSError) as e:
                        print("%s on %s: %s" % (name, s.name, str(e)[-300:]), file=sys.stderr)
            middle = {n: statistics.median(r) for n, r in rates.items() if r}
            row = {"workload": name, "unit": unit, "rate": middle, "spread": {n: (max(r) - min(r)) / statistics.median(r) for n, r in rates.items() if r},
                   "ratio": {n: m / middle["ext4"] for n, m in middle.items()} if "ext4" in middle else {}}
            rows.append(row)
            print("%-36s %9.0f %-8s" % (name, middle.get("ext4", 0), unit) +
                  "".join("  %s %5.2f" % (s.name, row["ratio"].get(s.name, 0)) for s in live[1:]), flush=True)
    finally:
        for s in live:
            s.end()
        if made:
            systems.run("umount", base)
        shutil.rmtree(made or base, ignore_errors=True)
    result = {"systems": [s.name for s in live], "rows": rows}
    if o.out:
        os.makedirs(o.out, exist_ok=True)
        with open(o.out + "/result.json", "w") as f:
            json.dump(result, f, indent=1)
        if shutil.which("gnuplot"):
            write_plot(result, o.out + "/result.svg")


main()
