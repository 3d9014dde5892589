"""keyctl rotate: a new environment key while the environment works. Afterwards no file's key opens with the old one; names, links, times and
data are what they were; cut off by kill -9 it goes on. What else it meets: rotate_meets.py."""
import hashlib
import os
import random
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *
from opens import *

FILES = 4000 if LONG else 600
base = scratch()
allow_in_log("not left clean")
tenant = Tenant(base, 'mount: { restart_limit = 1000; restart_delay = "10ms"; };\n' + guards()).start()
env = Environment(tenant).start()
random.seed(7)


def opened_by(ek):
    """How many of the store's files have a file key that ek opens, and how many there are."""
    return count_keys(env.store, ek), len(list(lower_files(env.store)))


def tree():
    """Everything that must not change."""
    found = {}
    for where, dirs, names in os.walk(env.mnt):
        for name in names:
            path = os.path.join(where, name)
            st = os.lstat(path)
            with open(path, "rb") as f:
                found[os.path.relpath(path, env.mnt)] = (st.st_mtime_ns, st.st_mode, st.st_nlink, hashlib.sha256(f.read()).hexdigest())
    return found


def unchanged(when, times=True):
    """A kill may come between a file's new wrap and the restoring of its time."""
    now = {n: t for n, t in tree().items() if n.startswith("still")}
    bad = ["%s: %s, was %s" % (n, now.get(n), before.get(n)) for n in sorted(set(now) | set(before))
           if n not in now or n not in before or now[n][not times:] != before[n][not times:]]
    check(not bad, "%s: %d files changed, as %s" % (when, len(bad), bad[:2]))


for k in range(FILES):
    folder = "%s/still/%d" % (env.mnt, k // 50)
    os.makedirs(folder, exist_ok=True)
    with open("%s/%s" % (folder, "long" * 60 if k % 50 == 0 else k), "wb") as f:
        f.write(random.randbytes(k % 9000))
os.link(env.mnt + "/still/0/1", env.mnt + "/still/link")
with open(env.mnt + "/still/sparse", "wb") as f:
    f.truncate(1 << 30)
    f.seek(700 << 20)
    f.write(b"far out")
env.remount()                                     # times are the disk's from here on, not the kernel's
before, old = tree(), tenant.environment_key(env.store)
equal(opened_by(old)[0], opened_by(old)[1], "every file opens with the key that is")
check(opened_by(old)[1] > FILES * 0.9, "files are counted")

# Meanwhile: files made, written, renamed, linked and removed; directories moved; a file held open and unlinked.
stop, churned, problems = threading.Event(), {}, []
held = open(env.mnt + "/held", "w+b")
held.write(b"held open, unlinked")
held.flush()
os.unlink(env.mnt + "/held")


def churn():
    try:
        os.makedirs(env.mnt + "/churn/a")
        os.makedirs(env.mnt + "/churn/b")
        k = 0
        while not stop.is_set():
            name, data = "f%d" % (k % 40), b"%d" % k * 500
            with open(env.mnt + "/churn/a/new", "wb") as f:
                f.write(data)
            os.rename(env.mnt + "/churn/a/new", env.mnt + "/churn/a/" + name)
            churned[name] = data
            if k % 10 == 0:
                os.rename(env.mnt + "/churn/a", env.mnt + "/churn/c")
                os.rename(env.mnt + "/churn/c", env.mnt + "/churn/a")
            if k % 7 == 0:
                os.link(env.mnt + "/churn/a/" + name, env.mnt + "/churn/b/l%d" % k)
                os.unlink(env.mnt + "/churn/b/l%d" % k)
            k += 1
    except OSError as e:
        problems.append(e)


thread = threading.Thread(target=churn)
thread.start()
wait_for(lambda: len(churned) > 5, "the other work to begin")
out = tenant.keyctl("rotate", "env").stdout
stop.set()
thread.join()
check(not problems, "other work fails while the key rotates: %s" % problems)
check("version 2" in out, out)
held.seek(0)
equal(held.read(), b"held open, unlinked", "the file that was held open")
held.close()
for name, data in churned.items():
    equal(open(env.mnt + "/churn/a/" + name, "rb").read(), data, "what was written meanwhile: " + name)
env.stop()
new = tenant.environment_key(env.store)
check(new != old and "previous" not in open(env.store + "/tdefs.env").read(), "the old key is not in the header any more")
opens, count = opened_by(old)
equal(opens, 0, "of %d files none opens with the old key" % count)
equal(opened_by(new), (count, count), "each opens with the new one")
check("0 damaged" in run(BIN + "/tdefs-fsck", env.store, "--key-from", tenant.socket).stdout, "tdefs-fsck")
tenant.keyctl("env", "mount", "env")
unchanged("nothing else changed")

# Cut off by kill -9, again and again; it goes on by itself.
version = 2
for kill in range(20 if LONG else 4):
    shown = tenant.env("env")
    asked = subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, "rotate", "env"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
    time.sleep(random.random() * 0.15)            # the moment is random, nothing depends on it
    os.kill(shown["pid"], signal.SIGKILL)
    asked.communicate(timeout=WAIT_S)
    wait_for(lambda: (lambda e: e["state"] == "mounted" and e["key_version"] and not e["rotating"] and e["pid"] != shown["pid"])(tenant.env("env")),
             "the environment to be back, and its rotation to end")
    now = tenant.env("env")["key_version"]
    check(now in (version, version + 1), "version %d after %d" % (now, version))
    version = now
    unchanged("after kill %d" % kill, False)

env.stop()
check("not mounted" in tenant.keyctl("rotate", "env", ok=(1,)).stdout, "it is said what to do")
