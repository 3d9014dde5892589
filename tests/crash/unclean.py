"""Unclean ends are forgotten once everything was looked at, while the environment is in use: until then what is in flux is accepted,
from then on nothing is. Things move meanwhile, the worker dies again, the list is full, a directory cannot be read."""
import os
import re
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from tdefs import *

FILES, DIRS, ROUNDS = 1200, 40, 20 if LONG else 1     # so few files that none is sealed before its worker dies
base = scratch()
allow_in_log("refused:", "do not verify")


def header(env):
    with open(env.store + "/tdefs.env") as f:
        text = f.read()
    epochs = re.search(r"^unclean = \[(.*)\];", text, re.M).group(1)
    return [int(e.rstrip("L")) for e in epochs.split(", ") if e], int(re.search(r"^epoch = (\d+)", text, re.M).group(1))


def forgotten(env):
    return wait_for(lambda: header(env)[0] == [], "that the unclean ends are forgotten")


def move(mnt, stop):
    """Whole directories and single files, to where the walk may have been already, or not come to yet; one over an empty one."""
    turn = moves = 0
    while not stop.is_set():
        turn += 1
        for d in range(DIRS):
            here, there = "%s/%d" % (mnt, d), "%s/%d" % (mnt, (d * 7 + turn) % DIRS)
            try:
                names = os.listdir(here)
                for name in names:
                    os.rename("%s/%s" % (here, name), "%s/%s" % (there, name if turn % 3 else "%s.%d" % (name.split(".")[0], turn)))
                    moves += 1
                for name in os.listdir("%s/%s" % (there, names[0]))[:5]:
                    os.rename("%s/%s/%s" % (there, names[0], name), "%s/%s" % (here, name))
                    moves += 1
            except (OSError, IndexError):
                pass                                # not there just now, or the worker is dead just now
    stop.moves = moves


def looked_at_while_things_move(name):
    worker = Worker(base, name, arguments=["--seal-interval", "1h"]).start()
    mnt = worker.mnt
    for d in range(DIRS):
        os.makedirs("%s/%d/sub" % (mnt, d))
    for k in range(FILES):
        with open("%s/%d/sub/%d" % (mnt, k % DIRS, k), "wb") as f:
            f.write(b"%08d" % k * 700)
    run("sync", "-f", mnt)
    worker.kill()
    # As if the power had gone between a block and its tag, in every file: whichever is not looked at in time is refused for ever.
    for path in lower_files(worker.store):
        with open(path, "r+b") as f:
            f.seek(8192 + 1000)
            f.write(b"half a write")
    stop = threading.Event()
    mover = threading.Thread(target=move, args=(mnt, stop), daemon=True)
    undo(stop.set)
    mover.start()
    for life in range(4):
        worker.start()
        equal(header(worker)[0], list(range(1, life + 2)), "unclean ends so far")
        if life < 3:
            time.sleep(0.05 * life)
            worker.kill()
    forgotten(worker)
    stop.set()
    mover.join()
    numbers = set()
    for where, _, names in os.walk(mnt):
        for n in names:
            with open(os.path.join(where, n), "rb") as f:
                numbers.add(int(f.read()[:8]))
    equal(numbers, set(range(FILES)), "every file is there and can be read")
    status = worker.status()
    print("%d files, %d moves meanwhile, %s re-sealed in the last life, %s refused" % (FILES, stop.moves, status["resealed"], status["refused"]))
    equal(status["refused"], "0", "refused")
    check(stop.moves > 100, "moves")
    worker.stop()


print("everything is looked at, also what moves meanwhile")
for number in range(ROUNDS):
    looked_at_while_things_move("moves%d" % number)

keeper = Keeper(base, 'mount: { restart_limit = 1000; restart_delay = "10ms"; seal_interval = "1h"; };').start()
env = Environment(keeper).start()
mnt = env.mnt
for d in ("a", "b"):
    os.mkdir("%s/%s" % (mnt, d))
    with open("%s/%s/file" % (mnt, d), "wb") as f:
        f.write(b"text" * 5000)
        f.flush()
        os.fsync(f.fileno())


def die():
    pid, epoch = keeper.json("env", "show", "env")["pid"], header(env)[1]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: header(env)[1] > epoch and mounted(mnt) and os.path.exists(mnt + "/b"), "the next worker")


def lower(path):
    ino = os.stat(path).st_ino
    return next(os.path.join(w, n) for w, dirs, names in os.walk(env.store + "/root") for n in dirs + names
                if os.lstat(os.path.join(w, n)).st_ino == ino)


print("from then on nothing is excused, and the next unclean end is one epoch")
die()
forgotten(env)
wait_for(lambda: "everything was looked at" in keeper.log(), "the word on it")
below = lower(mnt + "/a/file")
env.stop()
with open(below, "r+b") as f:
    f.write(bytes(4096))
keeper.keyctl("env", "mount", "env")
try:
    open(mnt + "/a/file", "rb").read()
    fail("a zeroed header is taken for a crash that is forgotten")
except OSError:
    pass
die()
forgotten(env)                                      # what is refused holds nothing up
equal(keeper.json("env", "show", "env")["in_flux"], "", "the state")

print("a directory that cannot be read holds it up, until a repair")
below = lower(mnt + "/a")
env.stop()
os.unlink(below + "/tdefs.dir")
try:
    os.removexattr(below, "user.tdefs.id")
except OSError:
    pass
keeper.keyctl("env", "mount", "env")
before = len(keeper.log())
die()
wait_for(lambda: "not everything could be looked at" in keeper.log()[before:], "the word on it")
check(header(env)[0] != [], "the unclean end is kept in mind")
wait_for(lambda: keeper.json("env", "show", "env")["in_flux"] == "kept", "the state")
check('tdefs_in_flux{environment="env"} 1\n' in keeper.keyctl("status", "--metrics").stdout, "a metric")
env.stop()
check(header(env)[0] != [], "and over a clean end")
run(BIN + "/tdefs-fsck", env.store, "--key-from", keeper.socket, "--repair", "--yes", ok=(0, 1))
equal(header(env)[0], [], "after the repair")
keeper.keyctl("env", "mount", "env")
with open(mnt + "/b/file", "rb") as f:
    check(f.read() == b"text" * 5000, "what was synced")
env.stop()
