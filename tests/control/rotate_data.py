"""keyctl rotate --data: all content under new keys while the environment works. Afterwards neither the old environment key nor any file
key that it gave opens a block; what is read is what it was, holes are holes. Paused, resumed, cut off by kill -9; and it meets
everything else that can be asked of an environment meanwhile."""
import hashlib
import os
import random
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *
from opens import *

MIB = 1 << 20
base = scratch()
allow_in_log("not left clean", "rotation")
SETTINGS = 'mount: { restart_limit = 1000; restart_delay = "10ms"; };\nrotate: { max_rate = %d; };\n' + guards()
tenant = Tenant(base, SETTINGS % (12 * MIB)).start()
env = Environment(tenant).start()
random.seed(8)


def seek(fd, whence):
    try:
        return os.lseek(fd, 0, whence)
    except OSError:
        return -1                                 # there is none


def tree():
    found = {}
    for where, _, names in os.walk(env.mnt + "/still"):
        for name in names:
            path = os.path.join(where, name)
            st = os.lstat(path)
            with open(path, "rb") as f:
                data = hashlib.sha256()
                if st.st_size > 1 << 30:
                    f.seek(-MIB, 2)
                data.update(f.read())
                holes = seek(f.fileno(), os.SEEK_HOLE), seek(f.fileno(), os.SEEK_DATA)
            found[os.path.relpath(path, env.mnt)] = (st.st_mtime_ns, st.st_mode, st.st_nlink, st.st_blocks, holes, data.hexdigest())
    return found


def unchanged(when, times=True):
    now = tree()
    bad = ["%s: %s, was %s" % (n, now.get(n), before.get(n)) for n in sorted(set(now) | set(before))
           if n not in now or n not in before or now[n][not times:] != before[n][not times:]]
    check(not bad, "%s: %d files changed, as %s" % (when, len(bad), bad[:2]))


def ended(what="the rotation to end"):
    wait_for(lambda: (lambda e: e["state"] == "mounted" and e["key_version"] and not e["rotating"] and not e["rotating_data"])(tenant.env("env")), what)
    equal(tenant.env("env")["rotate_error"], "", "the rotation's error")


def begin():
    asked = subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, "rotate", "env", "--data"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: tenant.env("env")["rotate_phase"] == "data" or asked.poll() is not None, "the rotation to begin")
    return asked


for k in range(300):
    folder = "%s/still/%d" % (env.mnt, k // 50)
    os.makedirs(folder, exist_ok=True)
    with open("%s/%s" % (folder, "long" * 60 if k % 50 == 0 else k), "wb") as f:
        f.write(random.randbytes(k % 9000))
os.link(env.mnt + "/still/0/1", env.mnt + "/still/link")
with open(env.mnt + "/still/large", "wb") as f:
    f.write(random.randbytes(16 * MIB))
with open(env.mnt + "/still/sparse", "wb") as f:
    f.truncate(1 << 31)
    f.seek(70 << 20)
    f.write(b"far out")
    f.seek((1 << 31) - 300000)
    f.write(random.randbytes(200000))
with open(env.mnt + "/still/zeros", "wb") as f:
    os.posix_fallocate(f.fileno(), 0, 300000)
env.remount()
before = tree()
env.stop()
copy = base + "/before"
run("cp", "-a", "--sparse=always", env.store, copy)
old_ek = tenant.environment_key(copy)
old = file_keys(copy, old_ek)
opened, count = blocks_opened(copy, old)
check(opened == count > 4000, "the old keys open all of the store before: %d of %d blocks" % (opened, count))
tenant.keyctl("env", "mount", "env")

# A new environment key alone: the copy's file keys still open everything. That is what --data is for.
tenant.keyctl("rotate", "env")
env.stop()
opened, count = blocks_opened(env.store, old)
check(opened == count, "after rotate without --data the old file keys open all: %d of %d" % (opened, count))
tenant.keyctl("env", "mount", "env")

# With --data, while others make, rename, move and write files.
stop, churned, problems = threading.Event(), {}, []


def churn():
    try:
        os.makedirs(env.mnt + "/churn/a", exist_ok=True)
        os.makedirs(env.mnt + "/churn/b", exist_ok=True)
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
            if k % 3 == 0:                        # what is old moves from place to place
                os.rename(env.mnt + "/still/moving", env.mnt + "/churn/b/moving")
                os.rename(env.mnt + "/churn/b/moving", env.mnt + "/still/moving")
            with open(env.mnt + "/growing", "ab") as f:
                f.write(data)
                os.fsync(f.fileno())
            k += 1
    except OSError as e:
        problems.append(e)


with open(env.mnt + "/still/moving", "wb") as f:
    f.write(b"moves" * 30000)
env.remount()
before = tree()
thread = threading.Thread(target=churn)
thread.start()
wait_for(lambda: len(churned) > 5, "the other work to begin")
out = tenant.keyctl("rotate", "env", "--data").stdout
stop.set()
thread.join()
check(not problems, "other work fails while data is encrypted again: %s" % problems)
check("under new keys" in out, out)
for name, data in churned.items():
    equal(open(env.mnt + "/churn/a/" + name, "rb").read(), data, "what was written meanwhile: " + name)
unchanged("after --data")
env.stop()
check("rotate.journal" not in os.listdir(env.store), "the journal is gone")
opened, count = blocks_opened(env.store, old)
equal(opened, 0, "blocks that the old file keys open, of %d" % count)
equal(count_keys(env.store, old_ek), 0, "file keys that the old environment key opens")
opened, count = blocks_opened(env.store, file_keys(env.store, tenant.environment_key(env.store)))
check(opened == count, "the new keys open all: %d of %d" % (opened, count))
check("0 damaged" in run(BIN + "/tdefs-fsck", env.store, "--key-from", tenant.socket).stdout, "tdefs-fsck")
tenant.keyctl("env", "mount", "env")

# Paused it stays, over a remount and another keeper; a copy taken then is whole.
asked = begin()
tenant.keyctl("rotate", "env", "--pause")
check("paused" in asked.communicate(timeout=WAIT_S)[0], "who waits is told")
check("paused" in tenant.keyctl("rotate", "env", "--status").stdout, "the status")
check(tenant.env("env")["rotating_data"], "paused is not ended")
env.remount()
tenant.stop()
tenant.start()
check(tenant.env("env")["rotate_paused"] and tenant.env("env")["rotating_data"], "still paused")
os.sync()
run("cp", "-a", "--sparse=always", env.store, base + "/paused")
check("0 damaged" in run(BIN + "/tdefs-fsck", base + "/paused", "--key-from", tenant.state + "/platform.key").stdout, "a copy of a half-rotated store")
unchanged("paused", False)
tenant.keyctl("rotate", "env", "--resume")
ended()
check("no rotation" in tenant.keyctl("rotate", "env", "--resume", ok=(1,)).stdout, "there is nothing to resume")
unchanged("after pause and resume", False)

# Damage is left as it is, said, and holds the rotation up until it is gone.
env.stop()
victim = max(lower_files(env.store), key=lambda p: (os.stat(p).st_size < 1 << 30, os.stat(p).st_size))
with open(victim, "r+b") as f:
    f.seek(4096 + 4096 + 70 * 4096)
    kept = f.read(1)
    f.seek(-1, 1)
    f.write(bytes([kept[0] ^ 1]))
allow_in_log("refused:", "does not match", "does not verify", "waits")
tenant.keyctl("env", "mount", "env")
out = tenant.keyctl("rotate", "env", "--data", ok=(1,)).stdout
check("1 files do not verify" in out, out)
env.stop()
with open(victim, "r+b") as f:
    f.seek(4096 + 4096 + 70 * 4096)
    f.write(kept)
tenant.keyctl("env", "mount", "env")
ended()
unchanged("after damage was mended", False)

# Cut off by kill -9.
for kill in range(20 if LONG else 3):
    asked = begin()
    time.sleep(random.random() * 0.7)             # the moment is random, nothing depends on it
    pid = tenant.env("env")["pid"]
    if pid:
        os.kill(pid, signal.SIGKILL)
    asked.communicate(timeout=WAIT_S)
    wait_for(lambda: (lambda e: e["state"] == "mounted" and e["pid"] not in (0, pid))(tenant.env("env")), "the environment to be back")
    ended()
    unchanged("after kill %d" % kill, False)
env.stop()
check("0 damaged" in run(BIN + "/tdefs-fsck", env.store, "--key-from", tenant.socket).stdout, "tdefs-fsck at the end")
