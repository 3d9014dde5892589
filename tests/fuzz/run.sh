#!/bin/bash
# run.sh TARGET: begins with the target's seeds and lets libFuzzer change them for some seconds; an hour with TDEFS_LONG. What breaks it
# is printed in base64. More by hand: build/fuzz/bin/fuzz_TARGET CORPUS_DIR
set -eu
program=$TDEFS_FUZZ_BIN/fuzz_$1
[ -x "$program" ] || { echo "SKIP: no $program: tests/run.sh builds it where there is clang with libFuzzer"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/corpus" "$dir/found"
"$program" --seeds "$dir/corpus"
seconds=4
[ -z "${TDEFS_LONG:-}" ] || seconds=3600
# A PFX may ask for as many iterations as are allowed: that is the longest that one input takes.
if ! "$program" -max_total_time=$seconds -timeout=120 -rss_limit_mb=1024 -max_len=16384 -artifact_prefix="$dir/found/" -print_final_stats=1 \
	"$dir/corpus" >"$dir/log" 2>&1; then
	tail -n 60 "$dir/log"
	for f in "$dir"/found/*; do echo "$f: $(base64 -w 0 "$f")"; done
	exit 1
fi
grep -E 'number_of_executed_units|new_units_added|peak_rss' "$dir/log"
grep -Eq 'cov: [0-9]{2,}' "$dir/log" || { echo "no coverage was seen"; exit 1; }
