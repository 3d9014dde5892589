"""What people do with keys: typing at a terminal, carrying a store to another machine, two of them at once, and asking for
everything in every state."""
import os
import pty
import select
import shutil
import socket
import sys
import threading
import array

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *

base = scratch()
allow_in_log("refused:")
one, two = KeyFile(base, "one"), KeyFile(base, "two")
tenant = Tenant(base, guards()).start()
db = Environment(tenant, "db").start()
open(db.mnt + "/f", "w").write("carried")


def at_terminal(arguments, typed):
    """keyctl at a pseudo-terminal; typed: (what to wait for, what to type then). All that was shown, and the exit status."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(BIN + "/keyctl", ["keyctl", "--socket", tenant.socket, *arguments])
    shown, steps = "", list(typed)
    while True:
        if not select.select([fd], [], [], WAIT_S)[0]:
            fail("keyctl waits for something: " + shown)
        try:
            data = os.read(fd, 4096).decode()
        except OSError:
            data = ""
        if not data:
            break
        shown += data
        if steps and steps[0][0] in shown:
            wanted, text = steps.pop(0)
            if callable(text):
                text = text(shown)
            shown = shown.replace(wanted, "", 1)
            os.write(fd, (text + "\n").encode())
    os.close(fd)
    check(not steps, "never asked for %s: %s" % (steps, shown))
    return shown, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# K1: asked for twice, not shown; A2: typed in full.
shown, status = at_terminal(("key", "generate", "mine", "--out", base + "/mine.pfx"), [("New password", "secret-1"), ("again", "secret-2")])
check(status == 1 and "differ" in shown and not os.path.exists(base + "/mine.pfx"), "two passwords that differ: " + shown)
shown, status = at_terminal(("key", "generate", "mine", "--out", base + "/mine.pfx"), [("New password", "secret-1"), ("again", "secret-1")])
check(status == 0 and "Active" in shown and "secret-1" not in shown, "generated, and the password is not shown: " + shown)
shown, status = at_terminal(("env", "apply-key", "db"), [("Type yes", "no")])
check(status == 1 and tenant.env("db")["key_source"] == "platform", "A2: not confirmed")
shown, status = at_terminal(("env", "apply-key", "db"), [("Type yes", "yes")])
equal((status, tenant.env("db")["key"]), (0, "mine"), "E2 at a terminal")
shown, status = at_terminal(("env", "return-key", "db"), [("Type its name", "bd")])
check(status == 3 and "E3" in shown, "E3: the wrong name: " + shown)
tenant.patiently("key", "list")
wait_for(lambda: not any(r["lock_from"] for r in tenant.json("key", "list")["regions"]), "L3")
shown, status = at_terminal(("tenant", "lock", "--key", base + "/mine.pfx"), [("Password", "secret-1"), ("> ", lambda s: "lock default no")])
check(status == 1 or status == 3, "L2: the wrong text")
equal(tenant.env("db")["state"], "mounted", "L2")


def typed_text(shown):
    return shown.split("type: ")[1].splitlines()[0].strip()


with open(base + "/mine.pw", "w") as f:
    f.write("secret-1")
shown, status = at_terminal(("tenant", "lock", "--key", base + "/mine.pfx", "--password-file", base + "/mine.pw"), [("\r\n> ", typed_text)])
equal((status, tenant.env("db")["state"]), (0, "locked"), "L2 at a terminal: " + shown)
wait_for(lambda: not any(r["unlock_from"] for r in tenant.json("key", "list")["regions"]), "L6")
shown, status = at_terminal(("key", "unlock", "mine", base + "/mine.pfx"), [("Password", "secret-1")])
equal((status, tenant.key("mine")["state"]), (0, "Active"), "U1 at a terminal: " + shown)
tenant.keyctl("env", "unlock", "db", "--yes")

# The store on another machine: with the key file, with the platform key, with neither.
tenant.keyctl("env", "unmount", "db")
carried, carried_platform = base + "/carried", base + "/carried-platform"
shutil.copytree(db.store, carried)
plain = Environment(tenant, "plain").start()
open(plain.mnt + "/f", "w").write("under the platform key")
tenant.keyctl("env", "unmount", "plain")
shutil.copytree(plain.store, carried_platform)
os.mkdir(base + "/far")
far = Tenant(base + "/far").start()
for name in ("a", "b"):
    os.mkdir(base + "/far/" + name)
attach = ("env", "attach", "db", "--store", carried, "--mountpoint", base + "/far/a")
for wrong in ((), ("--key", *one.given()), ("--key", tenant.state + "/platform.key")):
    done = far.keyctl(*attach, *wrong, ok=None)
    check(done.returncode == 1 and "mine" in done.stdout, "the key that it wants is named: " + done.stdout)
far.keyctl(*attach, "--key", base + "/mine.pfx", "--password-file", base + "/mine.pw")
equal((open(base + "/far/a/f").read(), far.env("db")["key_source"]), ("carried", "platform"), "attached with the key file")
far.keyctl("env", "attach", "plain", "--store", carried_platform, "--mountpoint", base + "/far/b", "--key", tenant.state + "/platform.key")
equal(open(base + "/far/b/f").read(), "under the platform key", "attached with the platform key")
for name in ("db", "plain"):
    far.keyctl("env", "unmount", name)
    far.keyctl("env", "mount", name)
    far.keyctl("env", "unmount", name)
equal(far.keyctl(*attach, ok=None).returncode, 1, "attached twice")
far.stop()
tenant.keyctl("env", "mount", "db")

# tdefs-fsck with each kind of key; the keeper hands it to root alone, and of nothing that is locked.
tenant.keyctl("env", "unmount", "db")
for given in ((tenant.socket,), (base + "/mine.pfx", "--password-file", base + "/mine.pw")):
    check("0 damaged" in run(BIN + "/tdefs-fsck", db.store, "--key-from", *given).stdout, "tdefs-fsck --key-from " + given[0])
done = run(BIN + "/tdefs-fsck", db.store, "--key-from", one.pfx, "--password-file", one.password, ok=(3,))
check("mine" in done.stdout, "the key that it wants is named: " + done.stdout)
check("password" in run(BIN + "/tdefs-fsck", db.store, "--key-from", one.pfx, "--password-file", base + "/mine.pw", ok=(3,)).stdout, "why not")
tenant.keyctl("lock", "db")
check("locked" in run(BIN + "/tdefs-fsck", db.store, "--key-from", tenant.socket, ok=(3,)).stdout, "L7: not of a locked one")
tenant.keyctl("unlock", "db")
check("mounted" in run(BIN + "/tdefs-fsck", db.store, "--key-from", tenant.socket, ok=(3,)).stdout, "not of a mounted one")
check("no environment" in run(BIN + "/tdefs-fsck", carried, "--key-from", tenant.socket, ok=(3,)).stdout, "not of another's")

# Two administrators at once: one activation is done, the other refused; no key is lost.
tenant.keyctl("key", "upload", "one", *one.given())
tenant.keyctl("key", "upload", "two", *two.given())
wait_for(lambda: not any(r["activation_from"] for r in tenant.json("key", "list")["regions"]), "K8")
results = {}
threads = [threading.Thread(target=lambda n=n: results.__setitem__(n, tenant.keyctl("key", "activate", n, "--yes", ok=None)))
           for n in ("one", "two")]
for t in threads:
    t.start()
for t in threads:
    t.join()
done = [n for n in results if results[n].returncode == 0]
check(done and all(r.returncode in (0, 3) for r in results.values()), "two at once: %s" % {n: r.stdout for n, r in results.items()})
active = [k["name"] for k in tenant.json("key", "list")["keys"] if k["state"] == "Active"]
check(len(active) == 1 and active[0] in done, "K5: %s, done %s" % (active, done))

# Secrets do not come in another way: unsealed files, pipes, no descriptor at all.
def ask(method, parameters, fds):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(WAIT_S)
        s.connect(tenant.socket)
        message = ('{"method": "io.tdefs.Keeper.%s", "parameters": %s}' % (method, parameters)).encode() + b"\0"
        s.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        answer = b""
        while not answer.endswith(b"\0"):
            more = s.recv(65536)
            check(more, "tdefsd ended the conversation")
            answer += more
        return answer.decode()


# `more`: progress comes before the answer; a peer that does not ask for it gets the answer alone.
def talk(message):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(WAIT_S)
        s.connect(tenant.socket)
        s.sendall(message.encode() + b"\0")
        answers = b""
        while True:
            piece = s.recv(65536)
            check(piece, "tdefsd ended the conversation")
            answers += piece
            if answers.endswith(b"\0") and b'"continues"' not in answers.split(b"\0")[-2]:
                return answers.decode().split("\0")[:-1]


for k, more in enumerate((True, False)):
    wait_for(lambda: not any(r["activation_from"] for r in tenant.json("key", "list")["regions"]), "K8")
    active = [k["name"] for k in tenant.json("key", "list")["keys"] if k["state"] == "Active"]
    name = "two" if active == ["one"] else "one"
    answers = talk('{"method": "io.tdefs.Keeper.KeyActivate", "parameters": {"name": "%s", "confirmed": true}, "more": %s}' % (name, str(more).lower()))
    check('"Active"' in answers[-1], answers[-1])
    check((len(answers) > 1) <= more, "progress only for who asks: %s" % answers)
active = [name]

read_end, write_end = os.pipe()
unsealed = os.memfd_create("key", os.MFD_ALLOW_SEALING)
os.write(unsealed, open(one.pfx, "rb").read())
upload = '{"name": "x", "key": %s, "password": %s}'
check("InvalidParameter" in ask("KeyUpload", upload % (0, 1), []), "no descriptors")
check("InvalidParameter" in ask("KeyUpload", upload % (-1, 9), [unsealed]), "no such descriptor")
check("InvalidParameter" in ask("KeyUpload", '{"name": "x", "key": "0"}', [unsealed]), "not a number")
check("sealed" in ask("KeyUpload", upload % (0, 0), [unsealed]), "not sealed")
check("sealed" in ask("KeyUpload", upload % (0, 0), [read_end]), "a pipe")
check("sealed" in ask("KeyUpload", upload % (0, 0), [os.open("/dev/zero", os.O_RDONLY)] * 9), "more than are taken")
count = len(os.listdir("/proc/%d/fd" % tenant.process.pid))
for _ in range(50):
    ask("Status", "{}", [read_end] * 8)
wait_for(lambda: len(os.listdir("/proc/%d/fd" % tenant.process.pid)) <= count, "descriptors that came with messages to be closed")

# Every request in every state of key and environment: done (0), or which rule refuses it.
REQUESTS = [("key", "activate", "KEY", "--yes"), ("key", "unlock", "KEY", *two.given()), ("env", "apply-key", "db", "--yes"),
            ("env", "mount", "db"), ("env", "unlock", "db", "--yes"), ("lock", "db"), ("key", "upload", "new", *two.given()),
            ("tenant", "lock", "--key", *two.given())]
STATES = {
    # state: what each of the above says
    "key Available, mounted": ("K8|0", "U1", "E2|0", "1", "1", "0", "1", "L1|L3"),
    "key Active, locked by keyctl": ("K5", "U1", "L7", "L7", "0", "L7", "K10", "L3|0"),
    "key Active, mounted": ("K5", "U1", "E2|0", "1", "1", "0", "1", "L3|0"),
    "key Locked, locked": ("U1", "L6|0", "L7", "L7", "U3", "L7", "K10", "L1"),
}


def expect(state, k, name):
    command = [name if word == "KEY" else word for word in REQUESTS[k]]
    done = tenant.keyctl(*command, ok=None)
    wanted = STATES[state][k].split("|")
    got = str(done.returncode) if done.returncode in (0, 1) else done.stdout
    check(any(w == got or (not w.isdigit() and w in got) for w in wanted), "%s: %s: %s, not %s" % (state, " ".join(command), got, wanted))


name = [n for n in ("one", "two") if n not in active][0]
if name == "one":                                 # the one that is not active must be the one whose file is asked with
    REQUESTS = [tuple({two.pfx: one.pfx, two.password: one.password}.get(w, w) for w in r) for r in REQUESTS]
for k in (1, 2, 3, 4, 6, 7):
    expect("key Available, mounted", k, name)
tenant.patiently("key", "activate", name, "--yes")
for k in (0, 1, 2, 3, 4, 6):
    expect("key Active, mounted", k, name)
tenant.keyctl("lock", "db")
for k in (0, 1, 2, 3, 5, 6):
    expect("key Active, locked by keyctl", k, name)
tenant.keyctl("unlock", "db")
tenant.lock({"one": one, "two": two}[name])
for k in (0, 2, 3, 4, 5, 6, 7):
    expect("key Locked, locked", k, name)
