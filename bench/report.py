"""Result files: JSON, the tables as Markdown, the plot as SVG.

report.py DIR [README]   makes the last two again from DIR/result.json, and puts them into the README and beside this program
"""
import json
import os
import shutil
import subprocess
import sys

# Aims for tdefs, as ratios to ext4.
AIMS = {
    "sequential write + fsync": 0.6, "sequential read cold": 0.5, "random 8k read cold": 0.6, "random 8k read warm": 0.95,
    "random 8k write + fsync each": 0.65, "random 8k write": 0.55, "O_DIRECT 16k random read, depth 8": 0.7,
    "O_DIRECT 16k random write, depth 8": 0.8, "pgbench init": 0.8, "pgbench read-write, 4 clients": 0.93,
    "pgbench read-only warm": 0.98, "pgbench read-only cold": 0.72,
}


def number(x):
    return "%.0f" % x if x >= 100 else "%.3g" % x


def markdown(result):
    names = [s for s in result["systems"] if s != "ext4"]
    lines = ["| workload | ext4 | " + " | ".join(names) + " | aim |", "|---" * (len(names) + 3) + "|"]
    for row in result["rows"]:
        cells = ["{:,.0f} {}".format(row["rate"].get("ext4", 0), row["unit"])]
        for n in names:
            spread = row["spread"].get(n, 0)
            cells.append("%.2f" % row["ratio"][n] + (" ±%.0f %%" % (spread * 50) if n == "tdefs" and spread else "") if n in row["ratio"] else "")
        aim = AIMS.get(row["workload"])
        lines.append("| %s | %s | %s |" % (row["workload"], " | ".join(cells), aim or ""))
    if result.get("costs"):
        lines += ["", "| cost, lower is better | ext4 | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
        for row in result["costs"]:
            lines.append("| %s | %s |" % ("%s, %s" % (row["cost"], row["unit"]),
                                          " | ".join(number(row["value"][n]) if n in row["value"] else "" for n in ["ext4"] + names)))
    return "\n".join(lines) + "\n"


def write_plot(result, path):
    names = [s for s in result["systems"] if s != "ext4"]
    with open(path + ".dat", "w") as f:
        for row in result["rows"]:
            f.write('"%s" %s\n' % (row["workload"], " ".join("%.3f" % row["ratio"].get(n, 0) for n in names)))
    columns = ", ".join('"%s.dat" using %d:xtic(1) title "%s"' % (path, k + 2, n) for k, n in enumerate(names))
    script = """set terminal svg size 1100,540 font "sans,11"; set output "%s"; set style data histograms; set style fill solid 0.8
set xtics rotate by -40; set ylabel "ratio to bare ext4"; set yrange [0:1.5]; set grid ytics; set bmargin 12; plot %s""" % (path, columns)
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    os.unlink(path + ".dat")


def write(result, out):
    os.makedirs(out, exist_ok=True)
    with open(out + "/result.json", "w") as f:
        json.dump(result, f, indent=1)
    with open(out + "/result.md", "w") as f:
        f.write(markdown(result))
    if shutil.which("gnuplot"):
        write_plot(result, out + "/result.svg")


def into_readme(result, out, path):
    """Between the two marks: the table, and how it was made."""
    begin, end = "<!-- bench:begin -->\n", "<!-- bench:end -->\n"
    with open(path) as f:
        before, rest = f.read().split(begin)
    how = "Medians of %d runs%s, kernel %s, %d CPUs; ± is half the spread of tdefs' runs:\n\n" % (
        max(len(r) for r in result["rows"][0]["rates"].values()), " (`--quick`, peers once)" if result["quick"] else "", result["kernel"], result["cpus"])
    with open(path, "w") as f:
        f.write(before + begin + how + markdown(result) + end + rest.split(end)[1])
    if os.path.exists(out + "/result.svg"):
        shutil.copy(out + "/result.svg", os.path.dirname(os.path.abspath(__file__)))


if __name__ == "__main__":
    with open(sys.argv[1] + "/result.json") as saved:
        loaded = json.load(saved)
    write(loaded, sys.argv[1])
    if len(sys.argv) > 2:
        into_readme(loaded, sys.argv[1], sys.argv[2])
