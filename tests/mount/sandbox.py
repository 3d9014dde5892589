"""What a worker and its mounter cannot do any more: each thing is first done outside the sandbox, then refused, or deadly, inside. And
what the processes of a mounted environment have given up is what the sandbox says."""
import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

base = scratch()
if "san" in run("ldd", BIN + "/tdefs-mount").stdout:
    skip("a sanitizer's build has no sandbox")
store, outside = base + "/store", base + "/outside"
os.makedirs(store + "/sub")
os.makedirs(outside + "/dir")
for d in store, outside:
    with open(d + "/file", "w") as f:
        f.write("content")


def attempt(who, what, *path):
    done = run(BIN + "/sandbox_try", who, store, what, *path, ok=None)
    return signal.Signals(-done.returncode).name if done.returncode < 0 else done.stdout


def table(who, rows):
    for what, path, want in rows:
        arguments = [path] if path else []
        got = attempt(who, what, *arguments)
        check(got in want.split("|"), "%s: %s %s: %s, not %s" % (who, what, path, got, want))


OUT, IN = outside + "/file", store + "/file"
# Landlock may be missing; everything else is in every kernel that FUSE and seccomp are in.
landlocked = attempt("worker", "read", OUT) == "EACCES"
print("with Landlock" if landlocked else "this kernel has no Landlock")
for what, path in (("read", OUT), ("write", OUT), ("exec", None), ("inet socket", None), ("unix socket", None), ("signal", None), ("list", outside)):
    equal(attempt("none", what, *([path] if path else [])), "" if what == "exec" else "allowed", "outside the sandbox: " + what)
table("worker", [
    ("read", IN, "allowed"), ("write", IN, "allowed"), ("create", store + "/new", "allowed"), ("unlink", store + "/new", "allowed"),
    ("mknod", store + "/sub/device", "allowed"), ("list", outside, "allowed"),
    ("exec", None, "SIGSYS"), ("ptrace", None, "SIGSYS"), ("other memory", None, "SIGSYS"), ("bpf", None, "SIGSYS"),
    ("unshare", None, "SIGSYS"), ("inet socket", None, "ENOSYS"), ("unix socket", None, "ENOSYS"), ("mount", outside + "/dir", "ENOSYS"),
    ("umount", base, "ENOSYS"), ("signal", None, "ENOSYS"), ("clock", None, "ENOSYS"), ("reboot", None, "ENOSYS"),
    ("setuid", None, "ENOSYS")])
if landlocked:
    table("worker", [
        ("read", OUT, "EACCES"), ("write", OUT, "EACCES"), ("create", outside + "/new", "EACCES"), ("unlink", OUT, "EACCES"),
        ("mknod", outside + "/device", "EACCES"), ("read", "/etc/passwd", "EACCES"), ("write", "/proc/sys/vm/drop_caches", "EACCES"),
        ("read", "/proc/1/environ", "EACCES"), ("read", "/dev/mem", "EACCES|ENOENT"), ("write", store + "/device", "EACCES|ENOENT"),
        ("write", "/proc/%d/mem" % os.getpid(), "EACCES")])
table("mounter", [
    ("umount", base + "/nowhere", "ENOENT"), ("write", OUT, "allowed"), ("exec", None, "SIGSYS"), ("ptrace", None, "SIGSYS"),
    ("other memory", None, "SIGSYS"), ("bpf", None, "SIGSYS"), ("unshare", None, "SIGSYS"), ("inet socket", None, "ENOSYS"),
    ("unix socket", None, "ENOSYS"), ("signal", None, "ENOSYS"), ("setuid", None, "ENOSYS"), ("mknod", outside + "/device", "ENOSYS"),
    ("reboot", None, "ENOSYS")])

print("what runs has given up the same")
CAPS = {name: 1 << bit for name, bit in (("CHOWN", 0), ("DAC_OVERRIDE", 1), ("DAC_READ_SEARCH", 2), ("FOWNER", 3), ("FSETID", 4), ("KILL", 5),
        ("SETGID", 6), ("SETUID", 7), ("SETPCAP", 8), ("LINUX_IMMUTABLE", 9), ("IPC_LOCK", 14), ("SYS_PTRACE", 19), ("SYS_ADMIN", 21),
        ("SYS_RESOURCE", 24), ("MKNOD", 27))}
keeper = Keeper(base).start()
env = Environment(keeper).start()
worker = keeper.json("env", "show", "env")["pid"]
mounter = int(run("pgrep", "-P", worker).stdout)


def status(pid):
    return dict(re.findall(r"^(\w+):\s+(.*)$", open("/proc/%d/status" % pid).read(), re.M))


for pid, most in ((worker, "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID MKNOD SYS_ADMIN IPC_LOCK"),
                  (mounter, "SYS_ADMIN DAC_READ_SEARCH"), (keeper.process.pid, " ".join(CAPS))):
    for task in os.listdir("/proc/%d/task" % pid):
        s = status(int(task))
        for which in "CapEff", "CapPrm", "CapInh", "CapAmb":
            left = int(s[which], 16) & ~sum(CAPS[name] for name in most.split())
            equal(left, 0, "%s of %s (%s)" % (which, s["Name"], most))
        equal((s["NoNewPrivs"], s["Seccomp"]), ("1", "2"), "no new privileges and a filter in %s" % s["Name"])
        if pid != keeper.process.pid:
            equal(int(s["CapBnd"], 16) & ~sum(CAPS[name] for name in most.split()), 0, "CapBnd of " + s["Name"])
equal(status(mounter)["Threads"], "1", "the mounter's threads")
check(not [x for x in os.listdir("/proc/%d/fd" % mounter) if os.readlink("/proc/%d/fd/%s" % (mounter, x)) == "/dev/fuse"],
      "the mounter keeps no connection alive")
keeper.keyctl("lock", "env")
wait_for(lambda: not os.path.exists("/proc/%d" % mounter), "the mounter's end")
