#!/bin/bash
# run.sh: how fast tdefs is, beside bare ext4 and, where wanted, other encrypters, in one run on one file system.
#
#   sudo bench/run.sh [--quick] [--peers] [--workload REGEX] [--repeat N] [--dir DIR] [--other BIN]
#       [--set TEXT] [--out DIR] [--rotate | --profile]
#
# Makes an ext4 on a loop device in memory (or uses DIR, an ext4 directory), runs every workload on each system in turn,
# N times (3; --quick: peers once), and prints medians as ratios to ext4, then what they cost. --other measures another
# build of tdefs beside this one, --set one with other settings. --out keeps result.json, the tables as result.md and,
# with gnuplot, result.svg. --rotate measures rotations of tdefs instead, --profile where the time of each workload goes.
# bench/README.md has the aims, what was measured, and what was tried.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=${TDEFS_BUILD_DIR:-$here/build}/bench
if [ "$(id -u)" != 0 ]; then
	echo "run.sh: it mounts file systems: run it as root" >&2
	exit 1
fi
"$here/conf/packages.sh" bench
export PATH=$PATH:/usr/sbin:/usr/lib/postgresql/15/bin PYTHONDONTWRITEBYTECODE=1
cmake -S "$here" -B "$build" -G Ninja -DTDEFS_TESTS=OFF >"$here/.bench.log" 2>&1 && ninja -C "$build" >>"$here/.bench.log" 2>&1 || {
	cat "$here/.bench.log" >&2
	exit 1
}
rm -f "$here/.bench.log"
exec python3 "$here/bench/bench.py" --bin "$build/bin" "$@"
