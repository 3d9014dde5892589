"""Locked means locked (L7): whoever holds a file, mapping or directory gets an error, and nothing can be written beneath."""
import mmap
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

MARK = b"plaintext-marker-" * 256

base = scratch()
keeper = Keeper(base).start()
env = Environment(keeper, "vault").start()
allow_in_log("refused:")
path = env.mnt + "/secret"
with open(path, "wb") as f:
    f.write(MARK * 16)
    f.flush()
    os.fsync(f.fileno())
size = os.path.getsize(path)


def errs(what, function):
    try:
        function()
    except OSError:
        return
    fail("after the lock one can still " + what)


def holder():
    """A process with an fd, an O_DIRECT fd, a mapping and its directory in the mount; returns (pid, go, answers)."""
    to_child, from_child = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            fd = os.open(path, os.O_RDWR)
            direct = os.open(path, os.O_RDWR | os.O_DIRECT)
            mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            equal(mapping[:len(MARK)], MARK, "the mapping")
            equal(os.pread(fd, len(MARK), 0), MARK, "the fd")
            os.chdir(env.mnt)
            os.write(from_child[1], b"r")
            os.read(to_child[0], 1)
            buf = mmap.mmap(-1, 4096)
            errs("read a held file", lambda: os.pread(fd, 10, 0))
            errs("read a held file uncached", lambda: os.preadv(direct, [buf], 0))
            errs("write a held file", lambda: (os.pwrite(fd, b"x", 0), os.fsync(fd)))
            errs("list a held directory", lambda: os.listdir("."))
            errs("open below a held directory", lambda: os.open("secret", os.O_RDONLY))
            os.write(from_child[1], b"1")
            mapping[0:16]       # SIGBUS
            os.write(from_child[1], b"2")
        except BaseException as e:
            os.write(2, str(e).encode() + b"\n")
        os._exit(0)
    equal(os.read(from_child[0], 1), b"r", "the holder is ready")
    return pid, to_child[1], from_child[0]


for n in range(100 if LONG else 5):
    pid, go, answers = holder()
    with open(env.mnt + "/n", "w") as f:
        f.write(str(n))         # acknowledged, not synced: the lock writes it out
    check(str(pid) in keeper.keyctl("lock", "vault", "--dry-run").stdout, "the dry run names the holder")
    check(mounted(env.mnt), "a dry run changes nothing")
    out = keeper.keyctl("lock", "vault").stdout
    check(str(pid) in out, "the holder is named: " + out)
    check("time limit" not in out, "the lock was in time: " + out)
    check(not mounted(env.mnt), "unmounted")
    os.write(go, b"g")
    equal(os.read(answers, 1), b"1", "every call of the holder failed")
    _, ended = os.waitpid(pid, 0)
    check(os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == 7, "touching the mapping is SIGBUS, not %d" % ended)
    os.close(go)
    os.close(answers)
    equal(os.listdir(env.mnt), [], "the mount point is empty")
    if run("lsattr", "-d", env.mnt).stdout.split()[0].count("i"):
        errs("write beneath", lambda: open(env.mnt + "/x", "w"))
    keeper.keyctl("env", "mount", "vault", ok=(6,))
    keeper.keyctl("lock", "vault", ok=(6,))
    keeper.keyctl("scrub", "vault", ok=(6,))
    equal(keeper.json("env", "show", "vault")["pid"], 0, "no worker is left")
    if n == 0:
        keeper.stop()
        keeper.start()
        equal(keeper.json("env", "show", "vault")["state"], "locked", "locked over a restart")
        check(not mounted(env.mnt), "not mounted by a restart")
    keeper.keyctl("unlock", "vault")
    with open(env.mnt + "/n") as f:
        equal(f.read(), str(n), "what was acknowledged before the lock")
    with open(path, "rb") as f:
        equal(f.read(), MARK * 16, "content after unlock")

print("lock under load")
stop = threading.Event()


def load(k):
    while not stop.is_set():
        try:
            with open("%s/load%d" % (env.mnt, k), "wb") as f:
                f.write(os.urandom(200000))
                f.flush()
                os.fsync(f.fileno())
        except OSError:
            pass


threads = [threading.Thread(target=load, args=(k,)) for k in range(3)]
for t in threads:
    t.start()
for _ in range(5):
    out = keeper.keyctl("lock", "vault").stdout
    check(not mounted(env.mnt), "unmounted under load")
    keeper.keyctl("unlock", "vault")
stop.set()
for t in threads:
    t.join()
keeper.keyctl("scrub", "vault")

print("a dead worker's lock: the keys are gone with it")
os.kill(keeper.json("env", "show", "vault")["pid"], 19)     # stopped: it cannot answer
keeper.stop()
with open(keeper.config, "a") as f:
    f.write('lock: { timeout = "1s"; };\n')
os.kill(int(run("pgrep", "-f", "tdefs-mount --name vault --store " + env.store).stdout.split()[0]), 18)
keeper.start()
keeper.keyctl("lock", "vault")
keeper.keyctl("env", "delete", "vault", "--confirm", "vault")
