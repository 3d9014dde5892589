#!/bin/bash
# quickstart.sh: tdefs in two minutes. Installs what is missing from Debian, builds, starts a tdefsd of its own with built-in
# defaults, makes an environment, runs a database on it, shows what lies on the disk, locks it and unlocks it.
#
#   sudo conf/quickstart.sh [--dir DIR] [--build-dir DIR] [--no-install]    DIR: /var/lib/tdefs-quickstart
#   sudo conf/quickstart.sh --clean [--dir DIR]                             stops it and removes DIR
set -euo pipefail
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dir=/var/lib/tdefs-quickstart build=$source_dir/build install=1 clean=
while [ $# -gt 0 ]; do
	case $1 in
	--dir) dir=$(realpath -m "$2"); shift ;;
	--build-dir) build=$(realpath -m "$2"); shift ;;
	--no-install) install= ;;
	--clean) clean=1 ;;
	*) sed -n '5,6s/^# *//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
	esac
	shift
done
[ "$(id -u)" = 0 ] || { echo "quickstart.sh: mounting needs root" >&2; exit 1; }
cd /
bin=$build/bin
export TDEFS_SOCKET=$dir/run/keyctl.sock
say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

if [ -n "$clean" ]; then
	if [ -e "$dir/tdefs.conf" ]; then
		# A tdefsd that was stopped left the environment mounted: the next one takes it back.
		"$bin/keyctl" status >/dev/null 2>&1 || "$bin/tdefsd" --config "$dir/tdefs.conf" 2>>"$dir/tdefsd.log"
		"$bin/keyctl" env unmount shop --force >/dev/null 2>&1 || true
		"$bin/keyctl" env delete shop --confirm shop || true
		kill "$("$bin/keyctl" --json status | sed -n 's/^  "pid": \([0-9]*\),*$/\1/p')"
	fi
	if mountpoint -q "$dir/shop"; then
		echo "quickstart.sh: $dir/shop is still mounted: unmount it first" >&2
		exit 1
	fi
	[ ! -e "$dir/tdefs-quickstart" ] || rm -rf --one-file-system "$dir"
	echo "Stopped; $dir is removed."
	exit 0
fi

say "Packages and build"
[ -z "$install" ] || sh "$source_dir/conf/packages.sh" demo
if [ ! -x "$bin/keyctl" ] || [ -n "$install" ]; then
	cmake -S "$source_dir" -B "$build" -G Ninja -DTDEFS_TESTS=OFF >/dev/null
	ninja -C "$build" | tail -n 1
fi

say "A tdefsd with nothing but a tenant's name and two directories"
mkdir -p "$dir/shop"
: >"$dir/tdefs-quickstart"
printf 'tenant = "quickstart";\nstate_dir = "%s/state";\nruntime_dir = "%s/run";\n' "$dir" "$dir" >"$dir/tdefs.conf"
cat "$dir/tdefs.conf"
"$bin/keyctl" status >/dev/null 2>&1 || "$bin/tdefsd" --config "$dir/tdefs.conf" 2>>"$dir/tdefsd.log"

say "An environment: a store that is encrypted, mounted as a file system"
"$bin/keyctl" env show shop >/dev/null 2>&1 || show "$bin/keyctl" env create shop --mountpoint "$dir/shop"
"$bin/keyctl" unlock shop >/dev/null 2>&1 || true

say "A database on it"
db=$dir/shop/orders.db
rm -f "$db"
show sqlite3 "$db" "PRAGMA journal_mode=WAL; CREATE TABLE orders (customer TEXT, item TEXT);
INSERT INTO orders VALUES ('Ada Lovelace', 'difference engine'), ('Alan Turing', 'bombe'); SELECT * FROM orders;"

say "What the tenant sees, and what lies on the disk"
sync "$db"
ls -l "$dir/shop"
find "$dir/state/stores/shop/root" -type f -printf '%s bytes  %P\n'
head -c 48 "$db" | od -A d -t x1z | head -n 3
lower=$(find "$dir/state/stores/shop/root" -type f -size +8k | head -n 1)
tail -c 2048 "$lower" | head -c 48 | od -A d -t x1z | head -n 3
if grep -rqE 'Lovelace|orders' "$dir/state/stores/shop"; then
	echo "plaintext was found in the store" >&2
	exit 1
fi
echo "Neither 'Lovelace' nor 'orders' is anywhere in the store."

say "Locked: for everyone, root included"
show "$bin/keyctl" lock shop
if ls "$dir/shop/orders.db" 2>/dev/null; then
	echo "the database can still be seen" >&2
	exit 1
fi
echo "orders.db is gone from $dir/shop"

say "Unlocked"
show "$bin/keyctl" unlock shop
show sqlite3 "$db" "SELECT * FROM orders;"
show "$bin/keyctl" status

cat <<END

It runs on. To go on:
  export TDEFS_SOCKET=$TDEFS_SOCKET PATH=$bin:\$PATH
  keyctl --help
  ls $dir/shop
To end it and remove everything:
  sudo $source_dir/conf/quickstart.sh --clean$([ "$dir" = /var/lib/tdefs-quickstart ] || printf ' --dir %s' "$dir")
END
