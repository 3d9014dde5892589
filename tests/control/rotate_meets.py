"""What a rotation meets: each of the two kinds, held in the middle, and everything else that can be asked of an environment or done to it
then. A row of the table each; afterwards the rotation has gone on to its end, the data is what it was, what was the key before opens
nothing, and the environment key is wrapped by the key that it should be and by no other."""
import errno
import os
import random
import shutil
import signal
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *
from opens import *

KINDS = {"key": (), "data": ("--data",)}
FILES, LARGE = 40, 2 << 20
FAST, SLOW = (0, 0), {"key": (160000, 0), "data": (0, 12000)}        # microseconds, see tests/tools/slow.c
only = sys.argv[1:]                         # rows, where not all are wanted

base = scratch()
allow_in_log("not left clean", "refused:", "deleted")
random.seed(9)
with open(base + "/slow", "wb") as f:
    f.write(struct.pack("<II", *FAST))


def pace(us):
    """How long the workers take over their calls from now on."""
    with open(base + "/slow", "r+b") as f:
        f.write(struct.pack("<II", *us))


class SlowTenant(Tenant):
    def start(self):
        os.environ.update(LD_PRELOAD=TEST_BIN + "/libtest_slow.so", TDEFS_TEST_SLOW=base + "/slow",
                          ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
        try:
            return super().start()
        finally:
            del os.environ["LD_PRELOAD"]

    def keyctl(self, *arguments, **more):
        return super().keyctl(*arguments, env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}, **more)

    def configure(self, more=""):
        with open(self.config, "w") as f:
            f.write('tenant = "test";\nstate_dir = "%s";\nruntime_dir = "%s";\n%s\n%s\n' % (self.state, self.runtime, guards(), more))

    def kill(self):
        self.process.kill()
        self.process.wait()


class Rotation:
    """An environment of its own with some files, and a rotation of it that is in the middle."""

    def __init__(self, kind, row):
        self.kind, self.name, self.region = kind, "%s-%s" % (row, kind), REGION.get(row, "default")
        self.env = Environment(tenant, self.name)
        self.store, self.mnt, self.pem = self.env.store, self.env.mnt, None
        tenant.keyctl("env", "create", self.name, "--mountpoint", self.mnt, "--region", self.region)
        for k in range(FILES):
            os.makedirs("%s/%d" % (self.mnt, k % 5), exist_ok=True)
            with open("%s/%d/%s" % (self.mnt, k % 5, "long" * 60 if k % 9 == 0 else k), "wb") as f:
                f.write(random.randbytes(1 + 97 * k))
        with open(self.mnt + "/large", "wb") as f:
            f.write(random.randbytes(LARGE))
            os.fsync(f.fileno())
        self.env.remount()                  # a lock has nothing to seal then
        self.under = None                   # the tenant's key that it is under, else the platform key

    def begin(self):
        self.before, self.was = self.tree(), self.key()
        self.file_keys = file_keys(self.store, self.was)
        pace(SLOW[self.kind])
        done = subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, "rotate", self.name, *KINDS[self.kind]],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.asked, self.said = done, None
        wait_for(lambda: self.shown()["rotate_phase"] == self.kind or done.poll() is not None, "the rotation to begin")
        self.middle()

    def key(self):
        return environment_key_by(self.store, self.under) if self.under else tenant.environment_key(self.store)

    def tree(self, where=None):
        found, where = {}, where or self.mnt
        for folder, _, names in os.walk(where):
            for name in names:
                with open(os.path.join(folder, name), "rb") as f:
                    found[os.path.relpath(f.name, where)] = f.read()
        return found

    def shown(self):
        return tenant.env(self.name)

    def ask(self, *arguments, **more):
        return tenant.keyctl(*arguments, **more).stdout

    def middle(self, store=None):
        """The store says so, whoever serves it: the key before is held still, or data is being encrypted."""
        text = header(store or self.store)
        check(("previous_key" if self.kind == "key" else "data_rotating = true") in text, "it is not in the middle of a rotation")

    def follower(self):
        """What the one said that followed the rotation, once it has ended."""
        if self.said is None:
            self.said = self.asked.communicate(timeout=WAIT_S)[0]
        return self.said

    def end(self):
        pace(FAST)
        wait_for(lambda: (lambda e: e["state"] == "mounted" and e["key_version"] == 2 and not e["rotating"] and not e["rotating_data"])
                 (self.shown()), "the rotation to go on to its end")
        self.follower()
        equal(self.shown()["rotate_error"], "", "the rotation's error")
        equal(self.shown()["rotate_left"], 0, "files that were left")
        self.right()

    def right(self):
        equal(self.tree() == self.before, True, "the data is what it was")
        os.sync()
        equal(wrapped_by(self.store), {self.under.fingerprint()} if self.under else {tenant.json("status")["platform_fingerprint"]},
              "what the environment key is wrapped by")
        now = self.key()
        files = len(list(lower_files(self.store)))
        equal((count_keys(self.store, self.was), count_keys(self.store, now)), (0, files), "file keys that the key before and the new one open")
        if self.kind == "data":
            equal(blocks_opened(self.store, self.file_keys)[0], 0, "blocks that the file keys before open")
        check("previous_key" not in header(self.store), "the key before is gone from the header")
        tenant.keyctl("scrub", self.name)


# ---- the rows; True: there is nothing left that could go on ----

def an_activation(r):
    r.ask("key", "activate", "act2" if r.under is KEYS["act1"] else "act1", "--yes")
    r.under = KEYS["act2" if r.under is KEYS["act1"] else "act1"]
    r.middle()


def an_apply(r):
    r.ask("env", "apply-key", r.name, "--yes")
    r.under = KEYS["one"]
    r.middle()


def a_return(r):
    r.ask("env", "return-key", r.name, "--confirm", r.name)
    r.under = None
    r.middle()


def a_tenant_lock(r):
    tenant.keyctl("tenant", "lock", "--key", *KEYS["lock"].given(), "--region", r.region, "--confirm", r.text)
    r.under = KEYS["lock"]
    r.middle()
    equal(wrapped_by(r.store), {r.under.fingerprint()}, "L4: in the middle of a rotation, too")
    locked(r)
    tenant.patiently("key", "unlock", "lock", *r.under.given())
    r.ask("env", "unlock", r.name, "--yes")


def a_lock(r):
    r.ask("lock", r.name)
    r.middle()
    locked(r)
    r.ask("unlock", r.name)


def locked(r):
    equal((r.shown()["state"], mounted(r.mnt)), ("locked", False), "locked")
    for more in (), ("--data",), ("--resume",), ("--pause",):
        tenant.refused("L7", "rotate", r.name, *more, status=6)
    check("is locked" in r.ask("rotate", r.name, "--status"), "the status of what is locked")
    check("goes on" in r.follower(), "who follows it is told")


def an_unmount(r):
    r.ask("env", "unmount", r.name)
    r.middle()
    check("goes on" in r.follower(), "who follows it is told")
    for more in (), ("--data",), ("--resume",), ("--pause",):
        check("is not mounted" in r.ask("rotate", r.name, *more, ok=(1,)), "what is not mounted")
    check("is not mounted" in r.ask("rotate", r.name, "--status"), "the status of what is not mounted")
    check("0 damaged" in run(BIN + "/tdefs-fsck", r.store, "--key-from", tenant.socket).stdout, "tdefs-fsck in the middle")
    r.ask("env", "mount", r.name)


def a_scrub(r):
    check("0 damaged" in r.ask("scrub", r.name), "a scrub in the middle")
    r.middle()


def another(r):
    for more in KINDS.values():
        said = r.ask("rotate", r.name, *more, ok=(1,))
        check("under way" in said and "keyctl rotate %s --status" % r.name in said, "one at a time: " + said)
    check("under key" in r.ask("rotate", r.name, "--status") or r.kind == "data", "how far it is")
    r.middle()


def a_deletion(r):
    r.ask("env", "delete", r.name, "--confirm", r.name)
    check(not os.path.exists(r.store) and not mounted(r.mnt), "deleted")
    pace(FAST)
    check(r.follower() and r.asked.returncode == 1, "who follows it is told")
    return True


def a_killed_keeper(r):
    pid = r.shown()["pid"]
    tenant.kill()
    check("goes on" in r.follower() and r.asked.returncode == 5, "who follows it is told: " + r.follower())
    tenant.start()
    equal((r.shown()["pid"], r.shown()["rotate_phase"]), (pid, r.kind), "it went on without")
    r.middle()


def another_version(r):
    """An earlier tdefsd takes the worker over, which goes on by itself; then this one again."""
    pid, program = r.shown()["pid"], tenant.program
    tenant.kill()
    tenant.program = TEST_BIN + "/earlier_tdefsd"
    tenant.start()
    equal(r.shown()["pid"], pid, "taken over")
    r.middle()
    tenant.kill()
    tenant.program = program
    tenant.start()
    equal(r.shown()["pid"], pid, "taken back")
    r.middle()


def a_clean_stop(r):
    pid = r.shown()["pid"]
    tenant.stop()
    check(mounted(r.mnt), "what is mounted stays so")
    r.middle()
    tenant.start()
    equal((r.shown()["pid"], r.shown()["rotate_phase"]), (pid, r.kind), "it went on without")


def an_unmounting_stop(r):
    tenant.stop()
    tenant.configure("mount: { unmount_on_stop = true; };")
    tenant.start()
    tenant.stop()
    check(not mounted(r.mnt), "mount.unmount_on_stop")
    r.middle()
    tenant.configure()
    tenant.start()


def a_copy(r):
    """By cp, while it goes on; then the copy's rotation does. Each block of it is what it was, or refused, as one that changed key while
    its file was copied; where only the environment key rotates, or the rotation is paused meanwhile, all are there."""
    ways = ("running", "paused") if r.kind == "data" else ("running",)
    for way in ways:
        if way == "paused":
            r.ask("rotate", r.name, "--pause")
        os.sync()
        run("cp", "-a", "--sparse=always", r.store, base + "/" + way)
        r.middle(base + "/" + way)
    r.middle()
    pace(FAST)
    for way in ways:
        copy, mnt = base + "/" + way, base + "/copy.mnt"
        os.makedirs(mnt, exist_ok=True)
        check("this is a copy of a store that was mounted" in r.ask("env", "attach", "copy", "--store", copy, "--mountpoint", mnt), "it is said")
        if way == "paused":
            for name in "copy", r.name:
                check(tenant.env(name)["rotate_paused"], "a paused rotation stays so")
                r.ask("rotate", name, "--resume", ok=(0, 1))
        wait_for(lambda: (lambda e: not e["rotating"] and (not e["rotating_data"] or e["rotate_error"]))(tenant.env("copy")),
                 "the copy's rotation")
        wrong, refused = held_against(r.before, mnt)
        equal(wrong, [], "blocks of the copy that are wrong")
        check(refused == 0 or (r.kind, way) == ("data", "running"), "%d blocks of the copy are refused" % refused)
        equal("0 damaged" in r.ask("scrub", "copy", ok=None), refused == 0, "the copy's scrub")
        if not refused:
            equal(count_keys(copy, r.was), 0, "file keys of the copy that the key before opens")
        r.ask("env", "delete", "copy", "--confirm", "copy")


def read_blocks(path, size):
    """Block by block, None for EIO."""
    found = []
    try:
        with open(path, "rb", buffering=0) as f:
            for at in range(0, size, 4096):
                try:
                    found.append(os.pread(f.fileno(), 4096, at))
                except OSError as e:
                    equal(e.errno, errno.EIO, "reading what was torn")
                    found.append(None)
    except OSError as e:
        equal(e.errno, errno.EIO, "opening what was torn")
        return [None] * ((size + 4095) // 4096)
    return found


def held_against(want, mnt):
    """The blocks under mnt that are neither what is wanted nor refused, and how many are refused."""
    wrong, refused = [], 0
    for name, data in want.items():
        got = read_blocks(mnt + "/" + name, len(data))
        refused += got.count(None)
        wrong += [(name, k) for k, block in enumerate(got) if block not in (None, data[4096 * k:4096 * k + 4096])]
    return wrong, refused


ROWS = {
    "activation": an_activation, "apply": an_apply, "return": a_return, "tenant-lock": a_tenant_lock, "lock": a_lock,
    "unmount": an_unmount, "scrub": a_scrub, "rotation": another, "delete": a_deletion, "killed-keeper": a_killed_keeper,
    "other-keeper": another_version, "stop": a_clean_stop, "unmounting-stop": an_unmounting_stop, "copy": a_copy,
}
REGION = {"activation": "act", "tenant-lock": "lock"}
KEYS = {name: KeyFile(base, name) for name in ("one", "act1", "act2", "lock")}

tenant = SlowTenant(base)
tenant.configure()
tenant.start()
for name, key in KEYS.items():
    tenant.keyctl("key", "upload", name, "--region", {"one": "default", "lock": "lock"}.get(name, "act"), *key.given())
for row, meet in ROWS.items():
    for kind in KINDS:
        if only and row not in only:
            continue
        begun = time.monotonic()
        r = Rotation(kind, row)
        if row == "return":
            tenant.keyctl("env", "apply-key", r.name, "--yes")
            r.under = KEYS["one"]
        if row == "activation":
            r.under = next(KEYS[k] for k in ("act1", "act2") if tenant.key(k)["state"] == "Active")
            tenant.keyctl("env", "apply-key", r.name, "--yes")
            wait_for(lambda: not any(x["activation_from"] for x in tenant.json("key", "list")["regions"]), "K8")
        if row == "tenant-lock":
            r.text = tenant.patiently("tenant", "lock", "--key", *KEYS["lock"].given(), "--region", r.region)
        r.begin()
        if not meet(r):
            r.end()
            tenant.keyctl("env", "delete", r.name, "--confirm", r.name)
        print("%s meets %s: %.1f s" % (kind, row, time.monotonic() - begun), flush=True)


# ---- copies that are torn ----

class Torn:
    """A store of which a slow copier read the first bytes of each file at one time, and the others later."""

    def __init__(self, early, late, cut, head):
        self.store = base + "/torn"
        shutil.rmtree(self.store, ignore_errors=True)
        run("cp", "-a", "--sparse=always", head, self.store)
        for path in lower_files(late):
            at, rest = path[len(late):], open(path, "rb").read()
            with open(self.store + at, "wb") as f:
                first = open(early + at, "rb").read(cut)
                f.write(first + rest[len(first):])


if not only or "torn" in only:
    begun = time.monotonic()
    r = Rotation("data", "torn")
    with open(r.mnt + "/large", "r+b") as f:
        data = f.read()
        for k in range(0, LARGE, 300000):           # these are in flux, and on the disk
            os.pwrite(f.fileno(), data[k:k + 4096], k)
        os.fsync(f.fileno())
    taken = []

    def take():
        taken.append((base + "/taken%d" % len(taken), r.key()))
        run("cp", "-a", "--sparse=always", r.store, taken[-1][0])

    def cursor():
        """How far the largest file is."""
        with open(max(lower_files(r.store), key=lambda p: os.stat(p).st_size), "rb") as f:
            return struct.unpack_from("<Q", f.read(512), 136)[0]

    take()
    r.begin()
    for least in 1, 300:
        wait_for(lambda: cursor() >= least, "the large file to be half done")
        take()
    r.end()
    take()
    tenant.keyctl("env", "delete", r.name, "--confirm", r.name)
    refusals = count = 0
    for early, late in ((a, b) for b in range(len(taken)) for a in range(b)):
        for n, cut in enumerate((4096, 8192, 1 << 20)):
            for head in early, late:
                if not LONG and (early + late + head) % 3 != n:
                    continue
                torn = Torn(taken[early][0], taken[late][0], cut, taken[head][0])
                with open(base + "/torn.key", "w") as f:
                    f.write(taken[head][1].hex())
                worker = Worker(base, "torn", store=torn.store).start()
                wrong, refused = held_against(r.before, worker.mnt)
                equal(wrong, [], "copied from %d to %d, cut at %d, header %d: blocks that are neither what they were nor refused" %
                      (early, late, cut, head))
                refusals += refused
                count += 1
                worker.stop()
    check(refusals > 0, "the copies are torn")
    print("%d torn copies, %d blocks refused: %.1f s" % (count, refusals, time.monotonic() - begun))
