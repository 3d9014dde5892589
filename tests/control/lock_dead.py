"""A lock that nothing holds up: with a lower disk that does not answer any more (frozen ext4, hung FUSE file system) it is over in
lock.timeout, no key is left in the process that hangs, other environments notice nothing, and what was synced is there again when the
disk is. So for a lock, for a lock of the tenant, and for one that comes while another request hangs, or in a rotation of the data."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *
from memory import *
try:
    import cryptography
except ImportError:
    skip("python3-cryptography is not installed")

need("fsfreeze", "bindfs")
TIMEOUT_S = 3
CANARY = b"plaintext-canary-of-lock-dead-"
base = scratch()
disk = loop_ext4(base, 256 << 20, "disk") or skip("no loop device")
SETTINGS = ' lock: { timeout = "%ds"; }; mount: { seal_interval = "1s"; }; rotate: { max_rate = %d; };'
tenant = Tenant(base, guards() + SETTINGS % (TIMEOUT_S, 8 << 20)).start()
other = Environment(tenant, "other").start()
allow_in_log("not left clean", "poisoned", "refused:")


class Frozen:
    """An ext4 that takes no write any more."""
    name = "frozen"

    def __init__(self):
        self.store = disk + "/store"
        undo(self.thaw)
        self.dead = False

    def freeze(self):
        run("fsfreeze", "-f", disk)
        self.dead = True

    def thaw(self):
        if self.dead:
            run("fsfreeze", "-u", disk)
        self.dead = False


class Hung:
    """A FUSE file system whose server is stopped: whatever asks it waits for ever, not to be killed."""
    name = "hung"

    def __init__(self):
        self.below, self.above = base + "/below", base + "/above"
        os.mkdir(self.below)
        os.mkdir(self.above)
        self.server = subprocess.Popen(["bindfs", "-f", "-o", "allow_other", self.below, self.above], stdin=subprocess.DEVNULL)
        wait_for(lambda: mounted(self.above), "bindfs")
        self.store = self.above + "/store"
        self.dead = False
        undo(self.end)

    def end(self):
        self.thaw()
        run("umount", "-l", self.above, ok=None)
        self.server.kill()
        self.server.wait()

    def freeze(self):
        os.kill(self.server.pid, signal.SIGSTOP)
        self.dead = True

    def thaw(self):
        if self.dead:
            os.kill(self.server.pid, signal.SIGCONT)
        self.dead = False


def start(*arguments):
    return subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def ended(process, limit, what):
    try:
        out = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        fail("%s: not over after %d s" % (what, limit))
    return process.returncode, out


def others_live():
    """What needs the keeper and another environment's worker, in any case long before a dead disk's waits are over."""
    tenant.keyctl("lock", "other", timeout=60)
    tenant.keyctl("unlock", "other", timeout=60)
    with open(other.mnt + "/live", "w") as f:
        f.write("live")


class Writers:
    """Files synced before the disk dies, and a process that goes on writing and syncing."""

    def __init__(self, mnt):
        self.mnt, self.data = mnt, CANARY + os.urandom(200000).hex().encode()
        with open(mnt + "/synced", "wb") as f:
            f.write(self.data)
            f.flush()
            os.fsync(f.fileno())
        self.pid = os.fork()
        if self.pid == 0:
            n = 0
            try:
                while True:
                    with open("%s/w%d" % (mnt, n % 5), "wb") as f:
                        f.write(CANARY * 5000)
                        f.flush()
                        os.fsync(f.fileno())
                    n += 1
            except OSError:
                os._exit(0)
            os._exit(1)

    def stop(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0

    def wait(self):
        if self.pid:
            _, status = os.waitpid(self.pid, 0)
            equal(status, 0, "the writer got an error")

    def verify(self):
        with open(self.mnt + "/synced", "rb") as f:
            check(f.read() == self.data, "what was synced is intact")


def memory_of_what_is_left(pid, needles):
    """A thread that hangs holds the process's memory: there is time to look."""
    try:
        tasks = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return None
    looked = None
    for task in tasks:
        try:
            found = holds("%d/task/%s" % (pid, task), needles)
        except OSError:
            continue
        looked = found | (looked or set())
    return looked


def comes_back(env, w, lower, pid):
    """The disk answers again: the old worker goes, unlocking brings everything back."""
    lower.thaw()
    wait_for(lambda: not os.path.exists("/proc/%d" % pid), "the end of the worker that hung")
    def unlocked():
        done = tenant.keyctl("unlock", env.name, ok=None)
        return done.returncode == 0 or not check("hangs in the kernel" in done.stdout or "another worker" in done.stdout, done.stdout)
    wait_for(unlocked, "unlock")
    w.verify()
    tenant.keyctl("scrub", env.name)


def rotation_of_the_data(env, lower):
    """Cut off a quarter of its way by a disk that dies and the lock: it goes on from there."""
    data = os.urandom(32 << 20)
    with open(env.mnt + "/large", "wb") as f:
        f.write(data)
        os.fsync(f.fileno())
    before, w = tenant.env(env.name), Writers(env.mnt)
    asked = start("rotate", env.name, "--data")
    wait_for(lambda: asked.poll() is not None or tenant.env(env.name)["rotate_percent"] >= 25, "a quarter of the rotation")
    lower.freeze()
    time.sleep(0.5)
    lock = start("lock", env.name)
    others_live()
    status, out = ended(lock, TIMEOUT_S + 25, "the lock")
    equal(status, 0, "the lock: " + out)
    check(not mounted(env.mnt), "detached")
    status, said = ended(asked, 100, "keyctl rotate")
    check(status != 0 and "goes on" in said, "keyctl rotate: %d, %s" % (status, said))
    print("  in a rotation of the data: %s; %s" % (out.strip().replace("\n", " "), said.strip()))
    w.wait()
    comes_back(env, w, lower, before["pid"])
    wait_for(lambda: not tenant.env(env.name)["rotating_data"], "the rotation to end")
    after = tenant.env(env.name)
    equal((after["key_version"], after["rotate_error"]), (before["key_version"] + 1, ""), "the key's version, and the rotation's error")
    check(open(env.mnt + "/large", "rb").read() == data, "what was encrypted again is what it was")
    check("0 damaged" in tenant.keyctl("scrub", env.name).stdout, "the scrub")
    os.unlink(env.mnt + "/large")
    return tenant.environment_key(lower.store)


for lower in Frozen(), Hung():
    print(lower.name, "disk")
    env = Environment(tenant, lower.name)
    tenant.keyctl("env", "create", env.name, "--mountpoint", env.mnt, "--store", lower.store)
    ek = tenant.environment_key(lower.store)
    need_other_memory(tenant.env(env.name)["pid"])

    for hanging in None, ("env", "unmount"), ("rotate",):
        pid = tenant.env(env.name)["pid"]
        needles = {"environment key": ek, "plaintext": CANARY}
        w = Writers(env.mnt)
        time.sleep(0.3)
        check("environment key" in holds(pid, needles), "the search finds the key in a worker that serves")
        if hanging == ("env", "unmount"):             # nobody uses it then; what hangs is the closing of the store
            w.stop()
        lower.freeze()
        time.sleep(0.5)
        request = start(*hanging, env.name) if hanging else None
        if request:
            time.sleep(0.5)
            check(request.poll() is None, "%s hangs" % (hanging,))
        lock = start("lock", env.name)
        others_live()
        check(env.name in [e["name"] for e in tenant.json("status")["environments"]], "status answers meanwhile")
        status, out = ended(lock, TIMEOUT_S + 25, "the lock")
        equal(status, 0, "the lock: " + out)
        if not hanging:
            check("not everything could be written out within the time limit" in out, "the lock says what is lost: " + out)
        check(not mounted(env.mnt), "detached")
        found = memory_of_what_is_left(pid, needles)
        check(found in (None, set()), "in what is left of the worker: %r" % found)
        print("  %s: %s; looked into what was left: %s" % (hanging, out.strip().replace("\n", " "), found is not None))
        # Who waits for a hung FUSE server can be killed, and may be gone; who waits for a frozen disk cannot.
        if not hanging and lower.name == "frozen":
            check(found is not None, "a thread hung, and its memory was looked at")
        w.wait()
        if request:
            ended(request, 100, "the request that hung")
        equal(tenant.env(env.name)["state"], "locked", "locked, whatever hung")
        refused = tenant.keyctl("unlock", env.name, ok=None, timeout=200) if not hanging and lower.name == "frozen" else None
        check(refused is None or refused.returncode != 0, "a dead disk is not mounted")
        comes_back(env, w, lower, pid)
        ek = tenant.environment_key(lower.store)
    others_live()

    if lower.name == "frozen":
        ek = rotation_of_the_data(env, lower)
    print("the tenant's lock,", lower.name, "disk")
    key = KeyFile(base, "key-" + lower.name)
    tenant.keyctl("key", "upload", "key-" + lower.name, *key.given(), ok=(0, 3))
    if lower.name == "frozen":
        pid = tenant.env(env.name)["pid"]
        w = Writers(env.mnt)
        time.sleep(0.3)
        text = tenant.patiently("tenant", "lock", "--key", *key.given())
        lower.freeze()
        lock = start("tenant", "lock", "--key", *key.given(), "--confirm", text)
        wait_for(lambda: not mounted(env.mnt) and not mounted(other.mnt), "everything to be down")
        ended(lock, 100, "the tenant's lock")       # 1: a header cannot be written; it goes on by itself
        w.wait()
        check(memory_of_what_is_left(pid, {"environment key": ek}) in (None, set()), "no key is left")
        lower.thaw()
        wait_for(lambda: tenant.json("status")["regions"][0]["operation"] == "", "the lock to be complete")
        tenant.patiently("key", "unlock", "key-frozen", *key.given())
        for name in env.name, "other":
            wait_for(lambda: tenant.keyctl("env", "unlock", name, "--yes", ok=None).returncode == 0, name)
        w.verify()
    tenant.keyctl("lock", env.name)
