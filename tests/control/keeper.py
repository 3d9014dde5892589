"""The keeper's life: environments, kill -9 of tdefsd and of workers, taking back, clean stops."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

base = scratch()
keeper = Keeper(base, 'mount: { restart_delay = "50ms"; };').start()
env = Environment(keeper, "shop").start()


def write(name, data):
    with open(os.path.join(env.mnt, name), "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def read(name):
    with open(os.path.join(env.mnt, name), "rb") as f:
        return f.read()


def show():
    return keeper.json("env", "show", "shop")


data = os.urandom(300000)
write("a", data)
equal([e["name"] for e in keeper.json("env", "list")], ["shop"], "env list")
equal(show()["state"], "mounted", "state")
equal(show()["key_source"], "platform", "E1: a new environment is under the platform key")

print("unmount and mount")
env.remount()
equal(read("a"), data, "content after remount")
equal(keeper.keyctl("env", "mount", "shop", ok=(1,)).returncode, 1, "a second mount is refused")
with open(env.mnt + "/a") as f:
    done = keeper.keyctl("env", "unmount", "shop", ok=(1,))
    check("in use by" in done.stdout and str(os.getpid()) in done.stdout, "busy unmount names the user: " + done.stdout)

print("mounted elsewhere, too: an unmount says where, and is done once that is over; a lock takes it away there at once")


class Namespace:
    """A process in a mount namespace of its own, with the propagation that is given."""

    def __init__(self, propagation):
        self.process = subprocess.Popen(["unshare", "-m", "--propagation", propagation, "sh", "-c", "echo; read x"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        self.inside = "nsenter", "-t", self.process.pid, "-m"

    def end(self):
        self.process.communicate(timeout=WAIT_S)


def refused(*words):
    begun = time.monotonic()
    said = keyctl_unmount(ok=(1,))
    check(all(w in said for w in words), "where else it is mounted: " + said)
    check(time.monotonic() - begun < 10, "it is said at once")
    equal((show()["state"], mounted(env.mnt), read("a")), ("mounted", True, data), "nothing has changed")


def keyctl_unmount(*more, **how):
    return keeper.keyctl("env", "unmount", "shop", *more, **how).stdout


other = Namespace("private")
refused("mount namespace of", "(%d)" % other.process.pid, "nsenter -t %d -m umount %s" % (other.process.pid, env.mnt))
run(*other.inside, "umount", env.mnt)
keyctl_unmount()
keeper.keyctl("env", "mount", "shop")
other.end()
other = Namespace("private")
keeper.keyctl("lock", "shop")
check(run(*other.inside, "cat", env.mnt + "/a", ok=(1,)).stdout.strip().endswith("not connected"), "cut off by the lock")
keeper.keyctl("unlock", "shop")
equal(read("a"), data, "the content after the lock")
other.end()
run("mkdir", base + "/bound")
run("mount", "--bind", env.mnt, base + "/bound")
refused(base + "/bound")
keyctl_unmount("--force")
run("umount", base + "/bound")
keeper.keyctl("env", "mount", "shop")
keyctl_unmount()
run("mount", "--bind", "--make-shared", base, base)        # where unmounts go on to others, there is nothing to say
keeper.keyctl("env", "mount", "shop")
other = Namespace("slave")
keyctl_unmount()
other.end()
run("umount", base)
keeper.keyctl("env", "mount", "shop")

print("kill -9 of tdefsd: the mount serves on and is taken back")
pid = show()["pid"]
held = open(env.mnt + "/held", "wb")
keeper.process.kill()
keeper.process.wait()
equal(read("a"), data, "content without a keeper")
keeper.keyctl("status", ok=(5,))
keeper.start()
equal(show()["pid"], pid, "the same worker after the restart")
held.write(b"x" * 10000)
held.close()
equal(len(read("held")), 10000, "a file held over the restart")

print("an orderly stop of tdefsd unmounts nothing")
keeper.stop()
equal(read("a"), data, "content after a stop")
keeper.start()
equal(show()["pid"], pid, "the same worker after the stop")

print("kill -9 of the worker: noticed, detached, started again, the reason is told")
write("b", data)
for n in range(3):
    os.kill(show()["pid"], signal.SIGKILL)
    wait_for(lambda: show()["restarts"] == n + 1 and show()["state"] == "mounted" and mounted(env.mnt), "the restart")
    equal(read("b"), data, "synced content after kill -9 of the worker")
check("signal 9" in show()["reason"] or "another tdefsd" in show()["reason"], "the reason: " + show()["reason"])
check("its worker died" in keeper.log(), "the death is in the log")

print("kill -9 of both")
write("c", data)
os.kill(show()["pid"], signal.SIGKILL)
keeper.process.kill()
keeper.process.wait()
keeper.start()
wait_for(lambda: show()["state"] == "mounted", "the mount after both died")
equal(read("c"), data, "synced content after both died")
keeper.keyctl("scrub", "shop")

print("two at once")
parallel = [subprocess.Popen([BIN + "/keyctl", "--socket", keeper.socket, "env", "create", "twin", "--mountpoint", m],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for m in [os.path.join(base, "twin.mnt")] * 2 if os.makedirs(m, exist_ok=True) is None]
codes = sorted(p.wait(WAIT_S) for p in parallel)
for p in parallel:
    p.stdout.close()
equal(codes, [0, 1], "one of two equal requests is done")
keeper.keyctl("env", "delete", "twin", ok=(2,))
keeper.keyctl("env", "delete", "twin", "--confirm", "shop", ok=(3,))
keeper.keyctl("env", "delete", "twin", "--confirm", "twin")
check(not os.path.exists(os.path.join(keeper.state, "stores/twin")), "the store is gone")
with open(os.path.join(base, "twin.mnt/x"), "w"):
    pass    # the mount point is an ordinary directory again

print("tdefs-fsck")
env.stop()
key = os.path.join(keeper.state, "platform.key")
run(BIN + "/tdefs-fsck", env.store, "--key-from", key)

print("unmount_on_stop")
keeper.stop()
with open(keeper.config, "a") as f:
    f.write("")
keeper.start()
keeper.keyctl("env", "mount", "shop")
keeper.stop()
with open(keeper.config) as f:
    text = f.read()
with open(keeper.config, "w") as f:
    f.write(text.replace('"50ms";', '"50ms"; unmount_on_stop = true;'))
keeper.start()
check(mounted(env.mnt), "still mounted")
keeper.stop()
check(not mounted(env.mnt), "unmounted at the stop")
keeper.start()
check(mounted(env.mnt), "mounted again at the start")
equal(read("c"), data, "content at the end")
keeper.stop()
allow_in_log("refused:")
