"""After a lock nobody reads on (L7): not through what was open, mapped, executed, passed on or asked for before, not from any cache; what
lies on the device and in the lower file system's cache is ciphertext; nothing can be written beneath, on whatever file system."""
import array
import ctypes
import mmap
import os
import shutil
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

CANARY = b"plaintext-canary-of-lock-proof-"
base = scratch()
disk = loop_ext4(base, 256 << 20, "disk") or skip("no loop device")
keeper = Keeper(base).start()
env = Environment(keeper, "vault")
keeper.keyctl("env", "create", "vault", "--mountpoint", env.mnt, "--store", disk + "/store")
path = env.mnt + "/secret"
with open(path, "wb") as f:
    f.write(CANARY * 30000)
    os.fsync(f.fileno())
shutil.copy("/bin/sleep", env.mnt + "/sleep")
SIZE = os.path.getsize(path)
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def resident(mapping):
    """How many pages of a mapping are in the page cache."""
    pages = (len(mapping) + 4095) // 4096
    vector = ctypes.create_string_buffer(pages)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping)) if mapping_is_writable(mapping) else None
    if address is None:
        return None
    equal(libc.mincore(address, len(mapping), vector), 0, "mincore")
    return sum(b & 1 for b in vector.raw)


def mapping_is_writable(mapping):
    try:
        ctypes.c_char.from_buffer(mapping)
        return True
    except TypeError:
        return False


def errs(what, function):
    try:
        got = function()
    except OSError:
        return
    fail("after the lock one can still %s: %r" % (what, got))


# Each holder: prepare() before the lock, after(what prepare gave) when it is over; a Python process of its own.
def fd_prepare():
    fd = os.open(path, os.O_RDWR)
    equal(os.pread(fd, len(CANARY), 0), CANARY, "before")
    return fd


def fd_after(fd):
    errs("read what was cached", lambda: os.pread(fd, 100, 0))
    errs("read the rest", lambda: os.pread(fd, 100, SIZE - 100))
    errs("write", lambda: (os.pwrite(fd, b"x", 0), os.fsync(fd)))
    errs("stat", lambda: os.fstat(fd) and os.pread(fd, 1, 0))


def direct_prepare():
    fd, buffer = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
    os.preadv(fd, [buffer], 0)
    equal(buffer[:len(CANARY)], CANARY, "before")
    return fd, mmap.mmap(-1, 4096)


def direct_after(held):
    errs("read uncached", lambda: os.preadv(held[0], [held[1]], 0))
    equal(held[1][:], bytes(4096), "what a refused read left in the buffer")


def shared_prepare():
    fd = os.open(path, os.O_RDWR)
    mapping = mmap.mmap(fd, SIZE)
    check(bytes(mapping).count(CANARY) == 30000, "before")
    check(resident(mapping) == (SIZE + 4095) // 4096, "all of it is in the page cache before")
    return mapping


def shared_after(mapping):
    equal(resident(mapping), 0, "pages in the page cache after")
    mapping[SIZE // 2]


def private_prepare():
    fd = os.open(path, os.O_RDONLY)
    mapping = mmap.mmap(fd, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    check(mapping[:] .count(CANARY) == 30000, "before")
    return mapping


def private_after(mapping):
    mapping[SIZE // 2]


def directory_prepare():
    os.chdir(env.mnt)
    equal(sorted(os.listdir(".")), ["secret", "sleep"], "before")
    return os.open(".", os.O_RDONLY)


def directory_after(fd):
    errs("list the current directory", lambda: os.listdir("."))
    errs("list a held directory", lambda: os.listdir(fd))
    errs("open below it", lambda: os.open("secret", os.O_RDONLY))
    errs("make a file below it", lambda: os.open("new", os.O_CREAT | os.O_RDWR))
    errs("rename below it", lambda: os.rename("secret", "other"))
    errs("read an attribute below it", lambda: os.listxattr("secret"))


def passed_prepare():
    ours, theirs = socket.socketpair()
    fd = os.open(path, os.O_RDONLY)
    os.pread(fd, SIZE, 0)
    ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    os.close(fd)                    # only the message has it now
    return theirs


def passed_after(theirs):
    _, control, _, _ = theirs.recvmsg(1, 64)
    fd = array.array("i", control[0][2][:4])[0]
    errs("read a descriptor that was under way", lambda: os.pread(fd, 100, 0))


SIGBUS_ENDS = {"a shared mapping", "a private mapping"}
HOLDERS = {"a descriptor": (fd_prepare, fd_after), "O_DIRECT": (direct_prepare, direct_after),
           "a shared mapping": (shared_prepare, shared_after), "a private mapping": (private_prepare, private_after),
           "a current directory": (directory_prepare, directory_after), "a descriptor under way": (passed_prepare, passed_after)}


class Holder:
    def __init__(self, name):
        self.name, (prepare, after) = name, HOLDERS[name]
        to_child, from_child = os.pipe(), os.pipe()
        self.go, self.answers = to_child[1], from_child[0]
        self.pid = os.fork()
        if self.pid == 0:
            libc.prctl(1, signal.SIGKILL)   # PR_SET_PDEATHSIG
            try:
                held = prepare()
                os.write(from_child[1], b"r")
                os.read(to_child[0], 1)
                after(held)
                os._exit(0)
            except BaseException as e:
                os.write(2, ("%s: %s\n" % (name, e)).encode())
                os._exit(1)
        os.close(from_child[1])
        equal(os.read(self.answers, 1), b"r", name + " is ready")

    def end(self):
        os.write(self.go, b"g")
        _, status = os.waitpid(self.pid, 0)
        os.close(self.go)
        os.close(self.answers)
        if self.name in SIGBUS_ENDS:
            check(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS, "%s ends with SIGBUS, not %#x" % (self.name, status))
        else:
            equal(status, 0, self.name)


def reader_of_many(engine):
    """A process that always has reads under way, as many as an engine does."""
    return subprocess.Popen(["fio", "--name=r", "--filename=" + path, "--ioengine=" + engine, "--direct=1", "--rw=randread", "--bs=8k",
                             "--iodepth=16", "--size=512k", "--time_based", "--runtime=60"], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


for n in range(20 if LONG else 2):
    holders = [Holder(name) for name in HOLDERS]
    program = subprocess.Popen([env.mnt + "/sleep", "1"])
    many = [reader_of_many(e) for e in ("libaio", "io_uring")] if shutil.which("fio") else []
    wait_for(lambda: os.readlink("/proc/%d/exe" % program.pid) == env.mnt + "/sleep", "the program")
    program.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    pids = [h.pid for h in holders if h.name != "a descriptor under way"] + [program.pid]
    dry = keeper.keyctl("lock", "vault", "--dry-run").stdout
    for pid in pids:
        check(" %d " % pid in dry, "the dry run names %d: %s" % (pid, dry))
    out = keeper.keyctl("lock", "vault").stdout
    check("time limit" not in out, "in time: " + out)
    for pid in pids:
        check(" %d " % pid in out, "the lock names %d: %s" % (pid, out))
    entry = [e for e in keeper.json("audit")["entries"] if e["request"] == "EnvLock"][-1]
    check("had files open: " in entry["detail"] and "python3 (" in entry["detail"], "the audit entry says who: %r" % entry)
    for h in holders:
        h.end()
    program.send_signal(signal.SIGCONT)
    equal(program.wait(60), -signal.SIGBUS, "what a program on the mount ends with when it goes on")
    for m in many:
        out = m.communicate(timeout=90)[0]
        check(m.returncode != 0 and ("error" in out), "fio got an error: %d\n%s" % (m.returncode, out))
    check(not mounted(env.mnt), "unmounted")
    keeper.keyctl("unlock", "vault")

print("ciphertext alone: in the lower file system's page cache, and on its device")
with open(path, "rb") as f:
    check(f.read().count(CANARY) == 30000, "the file is as it was")
for where, _, names in os.walk(disk + "/store"):
    for name in names:
        with open(os.path.join(where, name), "rb") as f:
            check(CANARY not in f.read(), "plaintext in the lower file " + name)
keeper.keyctl("lock", "vault")
run("umount", disk)
for image in os.listdir(base):
    if image.endswith(".img"):
        with open(os.path.join(base, image), "rb") as f:
            while True:
                at, data = f.tell(), f.read(1 << 24)
                check(CANARY not in data, "plaintext on the device near %d" % at)
                if len(data) < 1 << 24:
                    break
                f.seek(-64, os.SEEK_CUR)
run("mount", "-o", "loop", disk + ".img", disk)
keeper.keyctl("unlock", "vault")
keeper.keyctl("lock", "vault")

print("the empty mount point takes no files")
equal(os.listdir(env.mnt), [], "the mount point is empty")
errs("write beneath, as root", lambda: open(env.mnt + "/x", "w"))
if shutil.which("bindfs"):                   # a file system without the immutable flag
    below, above = base + "/below", base + "/above"
    os.makedirs(below + "/mnt")
    os.mkdir(above)
    run("bindfs", below, above)
    undo(run, "umount", "-l", above)
    os.chmod(above + "/mnt", 0o777)
    keeper.keyctl("env", "create", "onfuse", "--mountpoint", above + "/mnt")
    os.chmod(above + "/mnt", 0o777)
    keeper.keyctl("lock", "onfuse")
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "touch", above + "/mnt/x", ok=None)
    check(done.returncode != 0, "a user writes beneath: " + done.stdout)
    keeper.keyctl("env", "delete", "onfuse", "--confirm", "onfuse")
    check(os.stat(above + "/mnt").st_mode & 0o200, "a deleted environment's mount point is as it was for its owner")
