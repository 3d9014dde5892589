"""README's first command, as a newcomer types it: from nothing to a locked and unlocked database, and away again."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

need("sqlite3")
base = scratch()
script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../conf/quickstart.sh")
where = ["--dir", base + "/qs", "--build-dir", os.path.dirname(BIN.rstrip("/"))]
undo(lambda: run("bash", script, "--clean", *where, ok=None))
for n in range(2):      # the second time on what the first left
    out = run("bash", script, "--no-install", *where).stdout
    for text in ("Ada Lovelace|difference engine", "anywhere in the store", "shop is locked", "orders.db is gone",
                 "shop is unlocked", "Nothing needs attention"):
        check(text in out, "it does not say %r:\n%s" % (text, out))
equal(out.count("Alan Turing|bombe"), 2, "the rows before and after the lock")
run("bash", script, "--clean", *where)
check(not os.path.exists(base + "/qs"), "nothing is left")
check(not mounted(base + "/qs/shop"), "nothing is mounted")
