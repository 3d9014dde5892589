#!/bin/bash
# run.sh: installs what is missing, builds, and runs the tests. What it ends with is ctest's own summary.
#
#   tests/run.sh [--long] [--sanitize address|thread] [-R REGEX] [--no-install]
#
# Without options: everything with gcc, a build with clang (warnings are errors in both), the unit tests once more
# under ASan and UBSan, then every test. --sanitize builds everything with the sanitizer and runs every test on it.
# --long adds the heavy tests and lifts the limits of the others. Builds are in build/ of the tree, or in
# $TDEFS_BUILD_DIR; everything else that a test makes is under $TMPDIR and goes with it.
set -u

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build_dir=${TDEFS_BUILD_DIR:-$source_dir/build}
sanitize=""
regex=""
install=1
while [ $# -gt 0 ]; do
	case $1 in
	--long) export TDEFS_LONG=1 ;;
	--sanitize)
		sanitize=${2:-}
		shift
		;;
	-R)
		regex=${2:-}
		shift
		;;
	--no-install) install=0 ;;
	*)
		sed -n '4s/^# *//p' "${BASH_SOURCE[0]}" >&2
		exit 2
		;;
	esac
	shift
done
case $sanitize in
"" | address | thread) ;;
*)
	echo "run.sh: --sanitize takes address or thread, not '$sanitize'" >&2
	exit 2
	;;
esac

export HOME=${HOME:-/root} LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset TDEFS_SOCKET CDPATH MAKEFLAGS CFLAGS CPPFLAGS LDFLAGS LIBRARY_PATH CPATH
umask 022
cd / || exit 1
exec </dev/null

if [ "$(id -u)" != 0 ]; then
	echo "run.sh: the tests mount file systems: run it as root" >&2
	exit 1
fi
if [ $install = 1 ] && ! "$source_dir/conf/packages.sh" test; then
	echo "run.sh: packages are missing and could not be installed" >&2
	exit 1
fi

# ASan and TSan of this age lose their way under wide address-space randomisation.
fixed=()
setarch -R true 2>/dev/null && fixed=(setarch -R)
export ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

# $1 build folder, $2 compiler, then cmake's arguments.
configure() {
	local dir=$1 compiler=$2
	shift 2
	echo "== configure $dir: $compiler $*"
	mkdir -p "$dir" && cmake -S "$source_dir" -B "$dir" -G Ninja -DCMAKE_C_COMPILER="$compiler" -DWERROR=ON "$@" \
		>"$dir/run.log" 2>&1 || {
		cat "$dir/run.log" >&2
		return 1
	}
}
# $1 build folder, then targets.
build() {
	echo "== build $1"
	ninja -C "$@" >"$1/run.log" 2>&1 || {
		tail -n 200 "$1/run.log" >&2
		return 1
	}
}
main=$build_dir${sanitize:+/$sanitize}
configure "$main" gcc "-DSANITIZE=$sanitize" && build "$main" || exit 1

failed=0
if [ -z "$sanitize" ] && [ -z "$regex" ]; then
	configure "$build_dir/clang" clang && build "$build_dir/clang" || exit 1
	configure "$build_dir/fuzz" clang -DSANITIZE=fuzzer && build "$build_dir/fuzz" fuzz_targets || failed=1
	configure "$build_dir/unit-address" gcc -DSANITIZE=address && build "$build_dir/unit-address" unit_tests || exit 1
	"${fixed[@]}" ctest --test-dir "$build_dir/unit-address" -L '^unit$' -j2 --output-on-failure --timeout 300 || failed=1
fi

run=(ctest --test-dir "$main" -j2 --output-on-failure --no-tests=error)
[ -z "$sanitize" ] || run=("${fixed[@]}" "${run[@]}")
[ -z "$regex" ] || run+=(-R "$regex")
[ $failed = 0 ] || echo "== the fuzzers were not built, or the unit tests failed under ASan: see above" >&2
"${run[@]}" || failed=1
exit $failed
