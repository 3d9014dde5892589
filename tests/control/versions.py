"""tdefsd and workers of different versions: an earlier and a later worker, one that speaks another language, one that says nothing.
Nothing is unmounted by a restart, a lock reaches all of them, and what one cannot do is refused in words."""
import os
import signal
import socket
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *
from memory import LastMoment, holds, need_other_memory

THIS, EARLIER, ALIEN = "this", "earlier", "alien"
PROGRAM = {("tdefsd", THIS): BIN + "/tdefsd", ("worker", THIS): BIN + "/tdefs-mount"}
for kind in EARLIER, ALIEN:
    PROGRAM["tdefsd", kind], PROGRAM["worker", kind] = TEST_BIN + "/%s_tdefsd" % kind, TEST_BIN + "/%s_mount" % kind
SANITIZED = "san" in run("ldd", BIN + "/tdefs-mount").stdout

base = scratch()
need_other_memory(os.getpid())
allow_in_log("refused:", "loop ended")
key = KeyFile(base, "key")
tenant = Tenant(base, guards()).start()
tenant.keyctl("key", "upload", "key", *key.given())
env = Environment(tenant, "env").start()
data = os.urandom(3 << 20)


def restart(keeper, worker):
    """Another tdefsd, which starts such workers from now on. What is mounted stays so."""
    if tenant.process:
        tenant.process.kill()
        tenant.process.wait()
    with open(tenant.config, "w") as f:
        f.write('tenant = "test";\nstate_dir = "%s";\nruntime_dir = "%s";\nworker = "%s";\nlock: { timeout = "4s"; };\n%s\n' % (
            tenant.state, tenant.runtime, PROGRAM["worker", worker], guards()))
    tenant.program = PROGRAM["tdefsd", keeper]
    tenant.start()


def write(name="f"):
    with open(env.mnt + "/" + name, "wb") as f:
        f.write(data)               # not synced: whoever ends the mount writes it out


def intact(name="f"):
    equal(open(env.mnt + "/" + name, "rb").read(), data, "the content")


def gone(pid):
    """Or a zombie, which whoever inherited it may leave."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def attention():
    return "\n".join(tenant.json("status")["attention"])


def meet(keeper, worker, found_by):
    """Mounted by a tdefsd and a worker of the given versions, then taken over by found_by's. The worker's pid."""
    restart(keeper, worker)
    if tenant.env("env")["state"] == "mounted":
        tenant.keyctl("env", "unmount", "env")
    tenant.keyctl("env", "mount", "env")
    write()
    pid = tenant.env("env")["pid"]
    equal(os.readlink("/proc/%d/exe" % pid), os.path.realpath(PROGRAM["worker", worker]), "the worker's program")
    held = open(env.mnt + "/f", "rb")
    restart(found_by, found_by)
    equal(os.read(held.fileno(), 100), data[:100], "what was open is open")
    held.close()
    equal((tenant.env("env")["pid"], tenant.env("env")["state"]), (pid, "mounted"), "taken back")
    check(mounted(env.mnt), "mounted")
    intact()
    return pid


def busy():
    with open(env.mnt + "/f", "rb"):
        done = tenant.keyctl("env", "unmount", "env", ok=(1,))
    check("in use by" in done.stdout and str(os.getpid()) in done.stdout, "who uses it: " + done.stdout)
    intact()


def unmounts(pid):
    """Unless it is used; and the store is left clean."""
    busy()
    write("late")
    tenant.keyctl("env", "unmount", "env")
    check(not mounted(env.mnt) and gone(pid), "unmounted, the worker gone")
    check("clean" in run(BIN + "/tdefs-fsck", env.store, "--key-from", tenant.state + "/platform.key", ok=None).stdout, "the store is clean")
    tenant.keyctl("env", "mount", "env")
    intact()
    intact("late")


def locks(pid, lock):
    """Also while it is used; the worker's memory is wiped; unlocked again it is of this version."""
    write("late")
    held = open(env.mnt + "/f", "rb")
    needle = {"environment key": ek}
    equal(set(holds(pid, needle)), {"environment key"}, "the search finds what is there")
    moment = LastMoment(pid, lambda pid: holds(pid, needle))
    out = lock()
    equal(moment.wait() if not SANITIZED else moment.wait() and set(), set(), "at the worker's last moment")
    check(not mounted(env.mnt) and tenant.env("env")["state"] == "locked", "locked")
    try:
        os.pread(held.fileno(), 100, 0)
        fail("a held file is read after the lock")
    except OSError:
        pass
    held.close()
    return out


def unlocked():
    tenant.keyctl("unlock", "env")
    equal(os.readlink("/proc/%d/exe" % tenant.env("env")["pid"]), os.path.realpath(PROGRAM["worker", THIS]), "the new worker's program")
    intact()
    intact("late")
    tenant.keyctl("rotate", "env")
    wait_for(lambda: not tenant.env("env")["rotating"], "the rotation")
    intact()


def platform_key():
    """Under the platform key, whose wrap this test can open."""
    global ek
    if tenant.env("env")["key_source"] != "platform":
        tenant.keyctl("env", "return-key", "env", "--confirm", "env")
    ek = tenant.environment_key(env.store)


platform_key()

print("an earlier worker under this tdefsd: what it does not know is refused in words")
pid = meet(THIS, EARLIER, THIS)
check("of another version" in tenant.log(), "the log says so")
check("cannot rotate or scrub" in attention(), "status says what it cannot: " + attention())
equal(tenant.env("env")["worker_lacks"], "rotate or scrub", "as JSON")
for command in ("rotate", "env"), ("scrub", "env"):
    done = tenant.keyctl(*command, ok=(1,))
    check("does not know this order" in done.stdout and "unmounted and mounted again" in done.stdout, "words: " + done.stdout)
tenant.keyctl("env", "apply-key", "env", "--yes")
platform_key()                      # both ways, while it serves
unmounts(pid)
pid = meet(THIS, EARLIER, THIS)
platform_key()
out = locks(pid, lambda: tenant.keyctl("lock", "env").stdout)
check("version" not in out, "it takes the order: " + out)
unlocked()
equal(attention(), "", "nothing is left to say")

print("a later worker under an earlier tdefsd")
pid = meet(THIS, THIS, EARLIER)
equal(attention(), "", "nothing to say of a later one")
tenant.keyctl("env", "apply-key", "env", "--yes")
platform_key()
unmounts(pid)
pid = meet(THIS, THIS, EARLIER)
platform_key()
locks(pid, lambda: tenant.keyctl("lock", "env").stdout)
restart(THIS, THIS)
unlocked()

print("a worker of another language: it serves, can be unmounted and locked, and the rest is refused in words")
pid = meet(ALIEN, ALIEN, THIS)
check("it can be locked and unmounted only" in tenant.log(), "the log says so")
check("whose language this tdefsd does not speak" in attention(), "status: " + attention())
check("OTHER VERSION" in tenant.keyctl("status").stdout, "in the table")
for command in ("rotate", "env"), ("scrub", "env"), ("env", "apply-key", "env", "--yes"):
    done = tenant.keyctl(*command, ok=(1,))
    check("of another version" in done.stdout, "words: " + done.stdout)
unmounts(pid)
pid = meet(ALIEN, ALIEN, THIS)
platform_key()
out = locks(pid, lambda: tenant.keyctl("lock", "env").stdout)
check("of another version and ended without an answer" in out, "the lock says what it does not know: " + out)
unlocked()
tenant.keyctl("scrub", "env")

print("the tenant's lock reaches it as well, and wraps its key anew (L4)")
pid = meet(ALIEN, ALIEN, THIS)
platform_key()
locks(pid, lambda: tenant.lock(key))
equal(tenant.env("env")["key_source"], "tenant", "L4")
tenant.patiently("key", "unlock", "key", *key.given())
tenant.keyctl("env", "unlock", "env", "--yes")
intact()
intact("late")
platform_key()

print("a tdefs-mount of another language is not begun with")
tenant.keyctl("env", "unmount", "env")
restart(THIS, ALIEN)
done = tenant.keyctl("env", "mount", "env", ok=(1,))
check("alien_mount is of another version" in done.stdout, "words: " + done.stdout)
restart(THIS, THIS)
tenant.keyctl("env", "mount", "env")
intact()

print("a tdefs-mount that does not know an option, and one that is given an option of the future")
tenant.keyctl("env", "unmount", "env")
for kind, script in ("older", 'case "$*" in *--transport*) exit 2 ;; esac; exec %s "$@"'), ("future", 'exec %s "$@" --of-the-future=7'):
    PROGRAM["worker", kind] = base + "/%s_mount" % kind
    with open(PROGRAM["worker", kind], "w") as f:
        f.write("#!/bin/sh\n" + script % os.path.realpath(PROGRAM["worker", THIS]) + "\n")
    os.chmod(PROGRAM["worker", kind], 0o755)
    restart(THIS, kind)
    tenant.keyctl("env", "mount", "env")
    intact()
    arguments = open("/proc/%d/cmdline" % tenant.env("env")["pid"]).read()
    equal(("--transport" in arguments, "--of-the-future" in arguments), (kind == "future", kind == "future"), "what it was given")
    tenant.keyctl("env", "unmount", "env")
check("older_mount does not know all settings" in tenant.log(), "the log says so")
for bad in ("--of-the-future", "7"), ("--threads",), ("--threads=0",), ("-x",), ("rest",):
    run(PROGRAM["worker", THIS], "--name", "n", "--store", base, "--mountpoint", base, "--socket", base + "/s", *bad, ok=(2,))
restart(THIS, THIS)
tenant.keyctl("env", "mount", "env")

print("one that says nothing is taken back as well, and locked")
pid = tenant.env("env")["pid"]
os.kill(pid, signal.SIGSTOP)
restart(THIS, THIS)
equal((tenant.env("env")["pid"], tenant.env("env")["silent"]), (pid, True), "silent")
out = tenant.keyctl("lock", "env").stdout
check("was killed" in out and not mounted(env.mnt), "killed: " + out)
tenant.keyctl("unlock", "env")
intact()

print("locked in the registry while tdefsd was away: the next one locks what it finds")
pid = meet(ALIEN, ALIEN, THIS)
tenant.process.kill()
tenant.process.wait()
run("sqlite3", tenant.state + "/registry.db", "UPDATE environment SET state = 2")
tenant.start()
check(not mounted(env.mnt) and gone(pid), "locked at the start")
tenant.keyctl("unlock", "env")
intact()
tenant.keyctl("env", "unmount", "env")

print("messages byte by byte")
MAGIC, STATUS, LOCK, SCRUB, REPLY = b"TDLK", 2, 4, 8, 10
worker = Worker(base, "bare").start()


def field(number, value):
    return struct.pack("<HH", number, len(value)) + value


def say(*messages):
    """The reply to the last of them as (version, type, fields), or None where the worker closes the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(worker.socket)
        s.settimeout(WAIT_S)
        for message in messages:
            s.send(message)
            try:
                got = s.recv(1 << 16)
            except ConnectionResetError:
                return None
        if not got:
            return None
    equal(got[:4], MAGIC, "the magic")
    version, kind = struct.unpack("<II", got[4:12])
    fields, at = {}, 12
    while at < len(got):
        number, n = struct.unpack("<HH", got[at:at + 4])
        fields[number] = got[at + 4:at + 4 + n]
        at += 4 + n
    equal(at, len(got), "whole fields")
    return version, kind, fields


def message(kind, *fields, version=99):
    return MAGIC + struct.pack("<II", version, kind) + b"".join(fields)


UNKNOWN = field(30000, b"x")
version, kind, fields = say(message(STATUS, UNKNOWN))
equal((kind, fields.get(1), int.from_bytes(fields[32], "little"), fields[33]), (REPLY, None, worker.process.pid, b"\1"),
      "a status with an unknown field: done, with pid and state")
ENOTSUP = struct.pack("<i", -95)
equal(say(message(999))[2][1], ENOTSUP, "an unknown order")
equal(say(message(SCRUB, field(2, b"\1"), UNKNOWN))[2][1], ENOTSUP, "an order with an unknown field")
check(1 not in say(message(999), message(STATUS))[2], "the connection goes on after it")
for what in b"", b"x", MAGIC, b"XXXX" + message(STATUS)[4:], message(STATUS, b"\1"), message(STATUS, struct.pack("<HH", 2, 9) + b"x"), \
        message(STATUS, field(8, b"\5")), bytes(6392), message(STATUS, field(4, bytes(20000))):
    if what:
        equal(say(what), None, "no message: %r" % what[:40])
check(1 not in say(message(STATUS))[2], "and it serves on")
kind, fields = say(message(LOCK, field(3, struct.pack("<I", 10000)), UNKNOWN))[1:]
equal((kind, fields.get(1), fields.get(46)), (REPLY, None, b"\1"), "a lock with an unknown field: locked, and left clean")
worker.process.wait(WAIT_S)
worker.process = None
check(not mounted(worker.mnt), "locked")
