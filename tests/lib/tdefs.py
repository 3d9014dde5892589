"""What every mounted test needs: a private directory on ext4, a worker or a keeper of its own, and their end.

A test imports this, calls scratch() once, and starts what it needs. Everything started here ends with the test,
also when it fails or is interrupted; then the logs are searched for words that no good run has. Skipping is exit 77.
The checks are check() and equal(); the first that fails ends the test with status 1.
"""
import atexit
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

BIN = os.environ.get("TDEFS_BIN") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../build/bin")
TEST_BIN = os.environ.get("TDEFS_TEST_BIN") or os.path.join(BIN, "../tests/bin")
LONG = bool(os.environ.get("TDEFS_LONG"))
WAIT_S = 60
SUSPICIOUS = ("Sanitizer", "runtime error:", "assert", "Assertion", "corrupt", "SIGSEGV", "stack smashing",
              "refused:", "poisoned", "Segmentation", "bad system call", "do not verify", "not left clean", "loop ended")

_undo = []
_logs = []
_allowed = set()
_failed = False


def skip(reason):
    print("SKIP:", reason)
    sys.exit(77)


def fail(text):
    raise AssertionError(text)


def check(condition, text):
    if not condition:
        fail(text)


def equal(got, want, text):
    if got != want:
        fail("%s: got %r, not %r" % (text, got, want))


def need(*programs):
    """Finds programs, Debian's PostgreSQL folder included; skips where one is missing."""
    os.environ["PATH"] += ":/usr/lib/postgresql/15/bin"
    for p in programs:
        if not shutil.which(p):
            skip("no %s on this machine" % p)


def run(*argv, ok=(0,), quiet=False, timeout=600, **more):
    """Runs a program; its whole output is in the failure when the exit status is not in ok."""
    more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.STDOUT)
    done = subprocess.run([str(a) for a in argv], timeout=timeout, text=True, errors="replace", **more)
    if ok is not None and done.returncode not in ok:
        fail("%s: exit status %d\n%s" % (" ".join(map(str, argv)), done.returncode, done.stdout))
    return done


def flip(path, off):
    """Turns one bit of a byte over, as a disk or somebody else may."""
    with open(path, "r+b") as f:
        f.seek(off)
        byte = f.read(1)[0]
        f.seek(off)
        f.write(bytes([byte ^ 4]))


def seed_chance():
    """What is drawn at random can be drawn again: the seed is in the output."""
    seed = int(os.environ.get("TDEFS_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    random.seed(seed)


def wait_for(condition, what, limit=WAIT_S):
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            fail("waited %d s for %s" % (limit, what))
        time.sleep(0.02)


def fork(function, *arguments):
    """Calls function in a child, whose exit status is 0 when it returns."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def undo(function, *arguments):
    _undo.append((function, arguments))


def allow_in_log(*words):
    """The test provokes these on purpose."""
    _allowed.update(words)


def mounted(path):
    path = os.path.realpath(path)
    with open("/proc/self/mountinfo") as f:
        return any(line.split()[4].replace("\\040", " ") == path for line in f)


def _umount(path):
    for _ in range(50):
        if not mounted(path):
            return
        if subprocess.run(["umount", path], stderr=subprocess.DEVNULL).returncode != 0:
            time.sleep(0.1)
    subprocess.run(["umount", "-l", path], stderr=subprocess.DEVNULL)


def _finish():
    global _failed
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.chdir("/")
    for function, arguments in reversed(_undo):
        try:
            function(*arguments)
        except Exception as e:      # the rest must be undone all the same
            print("undo %s: %s" % (function.__name__, e), file=sys.stderr)
    for text in _logs:
        for line in text.splitlines():
            for word in SUSPICIOUS:
                if word in line and word not in _allowed and ": audit " not in line:
                    print("suspicious in a log:", line, file=sys.stderr)
                    _failed = True
    if _failed:
        for text in _logs:
            print("--- log\n" + text[-20000:], file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _hook(kind, value, trace):
    global _failed
    _failed = True
    sys.__excepthook__(kind, value, trace)


def _remove(path):
    with open("/proc/self/mountinfo") as f:
        if any((" " + path + "/") in line for line in f):
            print("something is still mounted under", path, file=sys.stderr)
            return
    shutil.rmtree(path, ignore_errors=True)


def _filesystem(path):
    return run("stat", "-f", "-c", "%T", path).stdout.strip()


def loop_ext4(directory, size, name="loop", options=""):
    """A small ext4 of its own on a loop device at directory/name; None where the machine has no loop devices."""
    image, where = os.path.join(directory, name + ".img"), os.path.join(directory, name)
    with open(image, "wb") as f:
        f.truncate(size)
    if run("mkfs.ext4", "-q", "-F", "-m", "0", image, ok=None).returncode != 0:
        return None
    os.mkdir(where)
    if run("mount", "-o", "loop" + options, image, where, ok=None).returncode != 0:
        return None
    undo(_umount, where)
    return where


def scratch():
    """A private directory on ext4, open to other users for search, removed at the end."""
    if os.geteuid() != 0:
        skip("needs root")
    if not os.path.exists("/dev/fuse"):
        skip("no /dev/fuse")
    atexit.register(_finish)
    sys.excepthook = _hook
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.umask(0o022)
    path = os.path.realpath(tempfile.mkdtemp(prefix="tdefs-test-"))
    os.chmod(path, 0o755)
    undo(_remove, path)
    if _filesystem(path) != "ext2/ext3":
        path = loop_ext4(path, 6 << 30) or skip("%s is not on ext4, and there is no loop device" % path)
    parent = path
    while parent != "/":            # a database user must get through to the mount
        parent = os.path.dirname(parent)
        if not os.stat(parent).st_mode & 1:
            print("note: %s cannot be searched by other users" % parent)
    return path


def _end_process(p, limit=WAIT_S):
    if p.poll() is None:
        p.terminate()
        try:
            p.wait(limit)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


class Worker:
    """One bare worker, driven over its socket without a keeper. Its store is made at the first start."""

    def __init__(self, base, name="env", store=None, mountpoint=None, arguments=()):
        self.name, self.base = name, base
        self.arguments = ["--transport", os.environ.get("TDEFS_TRANSPORT", "device")] + list(arguments)
        self.store = store or os.path.join(base, name + ".store")
        self.mnt = mountpoint or os.path.join(base, name + ".mnt")
        self.socket = os.path.join(base, name + ".sock")
        self.key = os.path.join(base, name + ".key")
        self.log_path = os.path.join(base, name + ".log")
        self.program = BIN + "/tdefs-mount"
        self.process = None
        os.makedirs(self.mnt, exist_ok=True)
        if not os.path.exists(self.key):
            with open(self.key, "w") as f:
                f.write(os.urandom(32).hex())
        if not os.path.exists(self.store):
            run(BIN + "/worker_client", "create", self.store, self.key)
        undo(self._end)

    def client(self, order, *more, ok=(0,)):
        return run(BIN + "/worker_client", order, self.socket, *more, ok=ok)

    def launch(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "--store", self.store, "--name", self.name, "--mountpoint", self.mnt,
                 "--socket", self.socket] + self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self._listens() or self.process.poll() is not None, "the worker's socket")

    def _listens(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            return s.connect_ex(self.socket) == 0

    def start(self):
        self.launch()
        self.client("start", self.key)
        check(mounted(self.mnt), "not mounted after start\n" + self.log())
        return self

    def stop(self):
        self.client("unmount")
        self.process.wait(WAIT_S)
        check(not mounted(self.mnt), "still mounted after unmount")
        equal(self.process.returncode, 0, "the worker's exit status\n" + self.log())
        self.process = None

    def remount(self):
        self.stop()
        return self.start()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None
        _umount(self.mnt)
        os.unlink(self.socket)

    def status(self):
        return dict(pair.split("=") for pair in self.client("status").stdout.split())

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def _end(self):
        if self.process:
            if self.process.poll() is None:
                run(BIN + "/worker_client", "unmount", self.socket, ok=None, timeout=WAIT_S)
                _umount(self.mnt)
            _end_process(self.process)
        _umount(self.mnt)
        if os.path.exists(self.log_path):
            _logs.append(self.log())


class Keeper:
    """A tdefsd of its own with keyctl beside it."""

    def __init__(self, base, settings=""):
        self.base = base
        self.runtime = tempfile.mkdtemp(prefix="tdefs-rt-")     # a socket's path is short
        self.state = os.path.join(base, "state")
        self.socket = self.runtime + "/keyctl.sock"
        self.config = os.path.join(base, "tdefs.conf")
        self.log_path = os.path.join(base, "tdefsd.log")
        self.program = BIN + "/tdefsd"
        self.process = None
        with open(self.config, "w") as f:
            f.write('tenant = "test";\nstate_dir = "%s";\nruntime_dir = "%s";\n%s\n' % (self.state, self.runtime, settings))
        undo(shutil.rmtree, self.runtime, True)
        undo(self._end)

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([self.program, "--config", self.config, "--foreground"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self.process.poll() is not None or self.keyctl("status", ok=None).returncode == 0, "tdefsd")
        check(self.process.poll() is None, "tdefsd ended at start\n" + self.log())
        return self

    def keyctl(self, *arguments, ok=(0,), **more):
        return run(BIN + "/keyctl", "--socket", self.socket, *arguments, ok=ok, **more)

    def json(self, *arguments):
        return json.loads(self.keyctl(*arguments, "--json").stdout)

    def stop(self):
        self.process.terminate()
        self.process.wait(WAIT_S)
        self.process = None

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def _end(self):
        if self.process:
            _end_process(self.process)
        with open("/proc/self/mountinfo") as f:
            left = [line.split()[4] for line in f if (" " + self.base + "/") in line and " fuse.tdefs " in line]
        for path in left:
            _umount(path)
        # Empty mount points are immutable while nothing is mounted there.
        for entry in os.scandir(self.base):
            if entry.is_dir(follow_symlinks=False):
                subprocess.run(["chattr", "-i", entry.path], stderr=subprocess.DEVNULL)
        if os.path.exists(self.log_path):
            _logs.append(self.log())


class Environment:
    """An environment as its user sees it: made with keyctl, run by tdefsd."""

    def __init__(self, keeper, name="env"):
        self.keeper, self.name = keeper, name
        self.mnt = os.path.join(keeper.base, name + ".mnt")
        self.store = os.path.join(keeper.state, "stores", name)
        os.makedirs(self.mnt, exist_ok=True)

    def start(self):
        self.keeper.keyctl("env", "create", self.name, "--mountpoint", self.mnt)
        check(mounted(self.mnt), "env create did not mount")
        return self

    def remount(self):
        self.stop()
        self.keeper.keyctl("env", "mount", self.name)
        check(mounted(self.mnt), "env mount did not mount")
        return self

    def stop(self):
        self.keeper.keyctl("env", "unmount", self.name)
        check(not mounted(self.mnt), "still mounted after env unmount")


def environment(base, name="env"):
    """A mounted environment with start, stop and remount, under a keeper."""
    return Environment(Keeper(base).start(), name).start()


def lower_files(store):
    """The encrypted files below."""
    for where, _, names in os.walk(store + "/root"):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as f:
                if f.read(8) == b"TDEFSF1\0":
                    yield path


def as_user(name):
    """preexec_fn to become that user, with its groups."""
    import pwd
    entry = pwd.getpwnam(name)

    def become():
        os.initgroups(name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    return become


libc = ctypes.CDLL(None, use_errno=True)
