#!/bin/sh
# packages.sh: the Debian 12 packages of tdefs, in one place; quickstart.sh and tests/run.sh call it.
#
#   conf/packages.sh [build|demo|test|bench]      installs what is missing: to build, run the demonstration, test, measure
#   conf/packages.sh --list [build|demo|test|bench]
#
# Nothing is downloaded where nothing is missing. Services of newly installed packages are not started, and those
# that run already are not touched. A missing database engine is no error: the tests that need it are skipped.
set -eu

BUILD="gcc libc6-dev cmake ninja-build pkg-config libssl-dev libfuse3-dev fuse3 libconfig-dev libsqlite3-dev
libjansson-dev libseccomp-dev liburing-dev"
TEST="clang libclang-rt-14-dev llvm libcmocka-dev python3 python3-cryptography acl attr util-linux mount e2fsprogs procps openssl strace"
ENGINES="sqlite3 postgresql-15 mariadb-server lmdb-utils python3-lmdb git rsync tar bindfs fio"
TOKENS="softhsm2"
BENCH="fio postgresql-15 sqlite3 mariadb-server sysbench gnuplot-nox e2fsprogs gocryptfs securefs cryfs encfs bindfs"

list=0
if [ "${1:-}" = --list ]; then
	list=1
	shift
fi
case "${1:-build}" in
build) required=$BUILD optional= ;;
demo) required=$BUILD optional="sqlite3 postgresql-15" ;;
test) required="$BUILD $TEST" optional="$ENGINES $TOKENS" ;;
bench) required="$BUILD python3" optional="$BENCH" ;;
*)
	sed -n '4,5s/^# //p' "$0" >&2
	exit 2
	;;
esac
if [ $list = 1 ]; then
	printf '%s\n' $required $optional
	exit 0
fi

missing() {
	for p in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || printf '%s ' "$p"
	done
}

required=$(missing $required)
optional=$(missing $optional)
[ -n "$required$optional" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "packages.sh: missing: $required$optional- install them, or run this as root" >&2
	[ -z "$required" ]
	exit
fi

# Debian asks this file whether a maintainer script may start a service.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 1' INT TERM HUP
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false \
		-o Dpkg::Options::=--force-confold -o Acquire::Retries=3 "$@" </dev/null
}

echo "packages.sh: installing $required$optional"
apt update >/dev/null || echo "packages.sh: apt-get update failed, going on with the lists there are" >&2
if [ -n "$required" ]; then
	apt install $required
fi
if [ -n "$optional" ]; then
	apt install $optional || for p in $optional; do
		apt install "$p" || echo "packages.sh: no $p: what needs it is skipped" >&2
	done
fi
