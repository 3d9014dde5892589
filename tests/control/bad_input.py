"""Bad input, each with a specific error, and nothing left behind."""
import json
import os
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

base = scratch()
keeper = Keeper(base).start()
mnt = os.path.join(base, "m")
os.mkdir(mnt)
stores = os.path.join(keeper.state, "stores")
allow_in_log("refused:")


def refused(text, *arguments, code=1):
    done = keeper.keyctl(*arguments, ok=(code,))
    check(text in done.stdout, "%s: says %r, not %r" % (" ".join(arguments), done.stdout, text))
    equal(os.listdir(stores), [], "a store was left behind by " + " ".join(arguments))
    equal(keeper.json("env", "list"), [], "an environment was left behind")


print("names")
for name, text in (("a/b", "'/'"), ("..", "begin with"), (".", "begin with"), ("a\nb", "control character"), ("", "empty"),
                   ("x" * 64, "64 bytes"), ("-x", "keyctl --help"), ("a b", "' '"), ("\u00e9", "only letters")):
    if name == "-x":
        continue
    refused(text, "env", "create", name, "--mountpoint", mnt)

print("mount points")
os.mkdir(base + "/full")
open(base + "/full/x", "w").close()
refused("No such file", "env", "create", "e", "--mountpoint", base + "/missing")
refused("not empty", "env", "create", "e", "--mountpoint", base + "/full")
refused("Not a directory", "env", "create", "e", "--mountpoint", base + "/full/x")
os.mkdir(base + "/outer")
os.mkdir(base + "/outer/inner")
refused("inside its own store", "env", "create", "e", "--store", base + "/outer", "--mountpoint", base + "/outer/inner")
refused("under its own mount point", "env", "create", "e", "--store", mnt + "/s", "--mountpoint", mnt)
refused("not empty", "env", "create", "e", "--store", base + "/full", "--mountpoint", mnt)
refused("parent directory", "env", "create", "e", "--store", base + "/no/such", "--mountpoint", mnt)
refused("neither production nor sandbox", "env", "create", "e", "--mountpoint", mnt, "--type", "test")
refused("there is no environment", "env", "show", "nobody")
refused("there is no command", "frobnicate", code=2)
refused("usage: keyctl lock NAME", "lock", code=2)
refused("another set of options", "lock", "x", "--region", "r", code=2)
refused("no tdefsd answers", "--socket", base + "/nothing", "status", code=5)

print("messages")


def talk(data, shut=False):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(WAIT_S)
    s.connect(keeper.socket)
    try:
        s.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    if shut:
        s.shutdown(socket.SHUT_WR)
    answer = b""
    try:
        while not answer.endswith(b"\0"):
            more = s.recv(65536)
            if not more:
                break
            answer += more
    except ConnectionResetError:
        pass
    s.close()
    return answer.decode(errors="replace")


def call(method, parameters):
    return talk(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")


K = "io.tdefs.Keeper."
for data, text in ((b"x\0", "not JSON"), (b"[]\0", "not a JSON object"), (b"{}\0", "method"), (b"1\0", "not"),
                   (b'{"method":1}\0', "method"), (b'{"method":"a.b.C"}\0', "MethodNotFound"),
                   (b'{"method":"' + K.encode() + b'Status","parameters":[]}\0', "parameters"),
                   (b'{"a":1,"a":2}\0', "not JSON"),
                   (b'{"method":"x","parameters":' + b"[" * 10000 + b"]" * 10000 + b"}\0", "nested deeper"),
                   (b'{"method":"' + b"x" * 300000 + b'"}\0', "longer than"), (b'{"method":"\xff\xfe"}\0', "not JSON")):
    answer = talk(data)
    check(text in answer, "%r: answered %r" % (data[:40], answer[:200]))
talk(b'{"method":', shut=True)
talk(b"", shut=True)
check("name" in call(K + "EnvShow", {"name": 5}), "a wrong type names its parameter")
check("name" in call(K + "EnvShow", {}), "a missing parameter is named")
check("not JSON" in call(K + "EnvShow", {"name": "a\0b"}), "an embedded NUL is refused")
check("start" in call(K + "EnvScrub", {"name": "x", "start": "yes"}), "a wrong type of flag")
check(K[:-1] in call("org.varlink.service.GetInfo", {}), "introspection")
check("method EnvCreate" in call("org.varlink.service.GetInterfaceDescription", {"interface": K[:-1]}), "interface description")
many = []
for _ in range(80):
    s = socket.socket(socket.AF_UNIX)
    s.connect(keeper.socket)
    many.append(s)
for s in many:
    s.close()
wait_for(lambda: keeper.keyctl("status", ok=None).returncode == 0, "tdefsd after too many connections")

print("stores")
env = Environment(keeper, "good").start()
with open(env.mnt + "/f", "w") as f:
    f.write("x")
env.stop()
header = env.store + "/tdefs.env"
with open(header, "rb") as f:
    good = f.read()


def with_header(data, text, code=1):
    with open(header, "wb") as f:
        f.write(data)
    done = keeper.keyctl("env", "mount", "good", ok=(code,))
    check(text in done.stdout, "a damaged header: %r, not %r" % (done.stdout, text))
    check(not mounted(env.mnt), "not mounted")


with_header(b"rubbish\n", "not a tdefs store")
with_header(b"", "not a tdefs store")
check(b"format = 2;" in good, "the header names its format")
with_header(good.replace(b"format = 2;", b"format = 3;"), "newer version")
with_header(good.replace(b"clean = true", b"clean = false"), "changed by somebody")
for at in range(0, len(good), 97):
    with_header(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:], "")
with_header(good[:-1], "not a tdefs store")
os.unlink(header)
check("no store" in keeper.keyctl("env", "mount", "good", ok=(1,)).stdout, "no header")
with open(header, "wb") as f:
    f.write(good)
os.chmod(header, 0o600)
env.keeper.keyctl("env", "mount", "good")
with open(env.mnt + "/f") as f:
    equal(f.read(), "x", "the store is as it was")
# Mounted already: a second worker on the same store.
done = run(BIN + "/tdefs-fsck", env.store, "--key-from", keeper.state + "/platform.key", ok=(3,))
check("it is mounted" in done.stdout, "fsck of a mounted store: " + done.stdout)
env.stop()
# An old header put back: its epoch is behind what the registry remembers.
with open(header, "wb") as f:
    f.write(good)
done = keeper.keyctl("env", "mount", "good", ok=(1,))
check("older than" in done.stdout, "an old header: " + done.stdout)
keeper.keyctl("env", "delete", "good", "--confirm", "good")
keeper.stop()

print("configurations")
for text, says in (("tenant = 5;", "1: tenant: a text"), ("tenant = \"a\"", "state_dir is not set"), ("x = 1;", "1: x: there is no such"),
                   ("tenant = ", "syntax error"), ("\n\nmount: { threads = 0; };", "3: mount.threads: a number"),
                   ("mount = 1;", "mount: a group"), ("lock: { timeout = \"5\"; };", "lock.timeout: a duration"),
                   ("state_dir = \"x\";", "state_dir: an absolute path"), ("log: { syslog = 1; };", "log.syslog: true or false"),
                   ("mount: { what = 1; };", "mount.what: there is no such")):
    with open(base + "/bad.conf", "w") as f:
        f.write(text + "\n")
    done = run(BIN + "/tdefsd", "--config", base + "/bad.conf", "--check", ok=(1,))
    check(says in done.stdout and "bad.conf" in done.stdout, "%r: %r, not %r" % (text, done.stdout, says))
run(BIN + "/tdefsd", "--config", base + "/none.conf", ok=(1,))
run(BIN + "/tdefsd", ok=(2,))
keeper.start()
with open(base + "/second.conf", "w") as f:
    f.write('tenant = "t"; state_dir = "%s"; runtime_dir = "%s/rt2";\n' % (keeper.state, base))
done = run(BIN + "/tdefsd", "--config", base + "/second.conf", "--foreground", ok=(1,))
check("another tdefsd runs" in done.stdout, "a second tdefsd: " + done.stdout)
os.chmod(keeper.state + "/platform.key", 0o644)
keeper.stop()
done = run(BIN + "/tdefsd", "--config", keeper.config, "--foreground", ok=(1,))
check("others than its owner" in done.stdout, "a readable platform key: " + done.stdout)
