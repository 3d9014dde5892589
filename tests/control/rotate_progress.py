"""What is said of a rotation under way: of a sparse file its data counts and not its holes; a mount that goes on with it begins where the
last one was; the time left is about as long as it takes; and what cannot be read by its name is moved to the new key all the same."""
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from keys import *

MIB = 1 << 20
RATE, DATA = 6 * MIB, 24 * MIB
base = scratch()
tenant = Tenant(base, "rotate: { max_rate = %d; };" % RATE).start()
env = Environment(tenant).start()
random.seed(9)
with open(env.mnt + "/sparse", "wb") as f:
    f.truncate(1 << 30)
    for at in (1 << 29, (1 << 30) - DATA // 2):
        f.seek(at)
        f.write(random.randbytes(DATA // 2))
os.makedirs(env.mnt + "/folder/below")
for path in "/folder/a", "/folder/below/b":
    with open(env.mnt + path, "wb") as f:
        f.write(b"small")
env.remount()


def ended(e):
    return e["state"] == "mounted" and e["key_version"] > 1 and not e["rotating"] and not e["rotating_data"]


def at(percent):
    """What is said once it is that far, and when."""
    e = wait_for(lambda: (lambda e: (e["rotate_phase"] == "data" and e["rotate_percent"] >= percent or ended(e)) and e)(tenant.env("env")),
                 "%d %%" % percent)
    check(not ended(e), "over before %d %%: nothing was shown on the way" % percent)
    return e, time.monotonic()


def speaks_true(e, when, over):
    took = over - when
    check(took / 2 - 1 < e["rotate_seconds_left"] < took * 2 + 2, "at %d %%: %d s left, and it took %.1f s" % (
        e["rotate_percent"], e["rotate_seconds_left"], took))


# Bytes that lie below, in a file that is mostly holes.
asked = subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, "rotate", "env", "--data"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
first, _ = at(30)
check(DATA <= first["rotate_total"] < DATA * 1.1, "%d bytes are to be gone through, of %d" % (first["rotate_total"], DATA))
said = [at(p) for p in (50, 60)]
tenant.keyctl("rotate", "env", "--pause")
paused = tenant.env("env")
check(paused["rotate_percent"] >= 60 and paused["rotate_seconds_left"] == 0, "paused, %d %%, %d s left" % (
    paused["rotate_percent"], paused["rotate_seconds_left"]))
tenant.keyctl("env", "unmount", "env", "--force")
asked.wait(WAIT_S)
tenant.keyctl("env", "mount", "env")
subprocess.Popen([BIN + "/keyctl", "--socket", tenant.socket, "rotate", "env", "--resume"], stdout=subprocess.DEVNULL,
                 stderr=subprocess.DEVNULL)
again, _ = at(1)
check(again["rotate_percent"] >= 60, "%d %%, where the last mount was at 60" % again["rotate_percent"])
said += [at(75)]
wait_for(lambda: ended(tenant.env("env")), "its end")
over = time.monotonic()
speaks_true(*said[-1], over)

# Names below that do not verify.
equal(tenant.env("env")["key_version"], 2, "the key's version")
env.stop()
victims = [p for p in lower_files(env.store) if os.path.getsize(p) < MIB]
equal(len(victims), 2, "small files")
deep = max(victims, key=len)
os.rename(os.path.dirname(deep), os.path.dirname(os.path.dirname(deep)) + "/A" + os.path.basename(os.path.dirname(deep))[1:])
victims = [p for p in lower_files(env.store) if os.path.getsize(p) < MIB]
tenant.keyctl("env", "mount", "env")
tenant.keyctl("rotate", "env")
equal(tenant.env("env")["key_version"], 3, "the key's version")
env.stop()
for path in victims:
    with open(path, "rb") as f:
        equal(int.from_bytes(f.read(44)[40:], "little"), 3, "the key's version in " + path)
