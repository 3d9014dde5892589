"""What an administrator sees: keyctl status of a tenant where something is wrong with every second environment, and key show."""
import fcntl
import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *

base = scratch()
allow_in_log("refused:", "died", "poisoned", "not left clean")
bad_disk = loop_ext4(base, 64 << 20, "bad") or skip("no loop device")
tenant = Tenant(base, "mount: { restart_delay = \"50ms\"; };" + guards(activation_interval="24h", lock_after_key_change="72h")).start()


check("No environments yet" in tenant.keyctl("status").stdout, "an empty tenant is told what to do")
names = ("well", "off", "locked", "dead", "silent", "damaged", "poisoned", "gone", "abroad")
envs = {n: Environment(tenant, n) for n in names}
for n, e in envs.items():
    more = ("--store", bad_disk + "/store") if n == "poisoned" else ("--region", "abroad") if n == "abroad" else ()
    tenant.keyctl("env", "create", n, "--mountpoint", e.mnt, *more)
    with open(e.mnt + "/f", "wb") as f:
        f.write(os.urandom(40000))
        f.flush()
        os.fsync(f.fileno())
one, two = KeyFile(base, "one"), KeyFile(base, "two", 3072)
tenant.keyctl("key", "upload", "one", *one.given())
tenant.keyctl("key", "upload", "two", *two.given())
tenant.keyctl("env", "apply-key", "well", "--yes")
check("Nothing needs attention." in tenant.keyctl("status").stdout, "all is well")

tenant.keyctl("env", "unmount", "off")
tenant.keyctl("lock", "locked")
pid = tenant.env("dead")["pid"]
os.kill(pid, signal.SIGKILL)
wait_for(lambda: tenant.env("dead")["restarts"] == 1 and tenant.env("dead")["state"] == "mounted", "the restart")
envs["damaged"].remount()
for root, _, files in os.walk(envs["damaged"].store + "/root"):
    for f in files:
        if os.path.getsize(os.path.join(root, f)) > 40000:
            with open(os.path.join(root, f), "r+b") as store:
                store.seek(20000)
                store.write(b"changed by somebody")
try:
    open(envs["damaged"].mnt + "/f", "rb").read()
    fail("a changed block is read")
except OSError:
    pass
file = os.open(envs["poisoned"].mnt + "/f", os.O_RDWR)
disk = os.open(bad_disk, os.O_RDONLY)
fcntl.ioctl(disk, 0x8004587d, b"\2\0\0\0")                  # EXT4_IOC_SHUTDOWN, nothing is written any more
try:
    os.pwrite(file, b"x" * 4096, 0)
    os.fsync(file)
    fail("a sync to a dead disk succeeds")
except OSError:
    pass
try:
    os.close(file)
except OSError:
    pass
os.close(disk)
os.rename(envs["gone"].store, base + "/elsewhere")
os.kill(tenant.env("gone")["pid"], signal.SIGKILL)
wait_for(lambda: tenant.env("gone")["restarts"] > 0 and tenant.env("gone")["state"] == "failed", "the failure")
platform = tenant.json("status")["platform_fingerprint"][:16]
silent = tenant.env("silent")["pid"]
os.kill(silent, signal.SIGSTOP)
try:
    shown = tenant.keyctl("status").stdout
finally:
    os.kill(silent, signal.SIGCONT)
print(shown)
table = {l.split()[0]: " ".join(l.split()) for l in shown.split("Needs attention:")[0].splitlines() if l.split() and l.split()[0] in names}
equal(sorted(table), sorted(names), "one line an environment")
for name, words in (("well", "default production mounted ok one " + one.fingerprint()[:16]), ("off", "unmounted - platform " + platform),
                    ("locked", "locked by keyctl lock platform"), ("dead", "mounted restarted 1"), ("silent", "mounted NO ANSWER"),
                    ("damaged", "mounted REFUSED"), ("poisoned", "mounted READ-ONLY"), ("gone", "failed restarted"), ("abroad", "abroad production mounted ok")):
    check(words in table[name] and (envs[name].mnt in table[name]), "%s: %s, not %s" % (name, table[name], words))
wanted = {"dead": "started again, 1 time", "silent": "does not answer", "damaged": "keyctl scrub damaged", "poisoned": "read-only", "gone": "is not mounted"}
needs = shown.split("Needs attention:")[1]
for name, words in wanted.items():
    check(any(name in l and words in l for l in needs.splitlines()), "attention to %s: %s" % (name, needs))
check("well" not in needs and "abroad" not in needs, "nothing else needs attention")
check("possible from" in shown and "in 23h 59m" in shown and "a lock is possible" in shown and "in 2d 23h" in shown, "guard times and their ends")
check("9 environments: 6 mounted, 1 unmounted, 1 locked, 1 failed" in shown, "how many: " + shown.splitlines()[0])
tenant.keyctl("env", "delete", "poisoned", "--confirm", "poisoned", ok=None)

print("K11: key show")
shown = tenant.keyctl("key", "show", "one").stdout
for words in ("Name +one", "Region +default", "State +Active", "Origin +pfx", "Fingerprint +" + one.fingerprint(), "Algorithm +RSA of 2048 bits",
              r"Came +20\S+ \S+ by uid 0", r"Activated +20\S+ \S+ by uid 0", "Locked +never", "Needed by +well\n"):
    check(re.search(words, shown), "K11: %s in %s" % (words, shown))
shown = tenant.keyctl("key", "show", "two").stdout
check("never" in shown and "RSA of 3072" in shown and "no environment" in shown, "K11: one that nobody needs: " + shown)
