"""Damage -> tdefs-fsck finds it, by path and block -> --repair -> the environment mounts, and what could be saved is as it was.
Nothing is ever deleted: what cannot be saved lies in STORE/quarantine. And the same on a mounted environment, with keyctl scrub."""
import json
import os
import re
import shutil
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from tdefs import *

base = scratch()
allow_in_log("refused:", "do not verify")
B = 4096
LONG = "l" * 200
env = environment(base)
mnt, store, keeper = env.mnt, env.store, env.keeper
contents = {}


def put(name, size, fill):
    data = b"".join(bytes([(fill + k) % 251 + 1]) * B for k in range(size // B)) + bytes([fill]) * (size % B)
    with open(os.path.join(mnt, name), "wb") as f:
        f.write(data)
    contents[name] = data


for d in ("d", "d/sub", LONG):
    os.mkdir(os.path.join(mnt, d))
put("a", 200 * B + 7, 1)
put("d/x", 3 * B, 2)
put("d/y", 10, 3)
put("d/sub/z", 2 * B + 1, 4)
put("d/" + LONG, B, 5)
put("d/" + "m" * 255, 0, 6)
put(LONG + "/inside", 100, 7)
put("e", 50 * B, 8)
os.symlink("a/target", mnt + "/link")
os.symlink("t", mnt + "/d/" + "s" * 200)
os.mkfifo(mnt + "/d/" + "p" * 200)
os.setxattr(mnt + "/e", "user.colour", b"blue")
others = {"link": "l", "d/" + "s" * 200: "l", "d/" + "p" * 200: "p"}


def lower(name):
    """A path below, relative to the store: inode numbers are the same."""
    wanted = os.lstat(os.path.join(mnt, name)).st_ino
    for where, dirs, names in os.walk(store + "/root"):
        for n in names + dirs:
            if os.lstat(os.path.join(where, n)).st_ino == wanted:
                return os.path.relpath(os.path.join(where, n), store)
    fail("no lower file for " + name)


path = {name: lower(name) for name in list(contents) + list(others) + ["d", "d/sub", LONG]}
path[""] = "root"
env.stop()
saved = base + "/saved"
run("cp", "-a", store + "/root", saved)


def at(name):
    return os.path.join(store, path[name])


def side(name):
    where, last = os.path.split(at(name))
    check(last.startswith("l."), "not a long name")
    return os.path.join(where, "n" + last[1:])


def forget(p, *names):
    for name in names:
        os.removexattr(p, name, follow_symlinks=False)


def data_off(k):
    return B + (k // 128 + 1 + k) * B


def spoil_ids(name):
    flip(at(name) + "/tdefs.dir", 10)
    flip(at(name) + "/tdefs.dir", 522)


def swap_ids(one, two):
    os.rename(at(one) + "/tdefs.dir", at(one) + "/t")
    os.rename(at(two) + "/tdefs.dir", at(one) + "/tdefs.dir")
    os.rename(at(one) + "/t", at(two) + "/tdefs.dir")


def rename_lower(name, last):
    os.rename(at(name), os.path.join(os.path.dirname(at(name)), last))


class Row:
    """kinds: of the findings, each with the path it names. lost: names that are gone after the repair; they are in quarantine, or, with
    recovered, in the same directory under recovered.N. bad: blocks that are refused for ever."""

    def __init__(self, what, damage, kinds, lost=(), recovered=False, bad=None):
        self.what, self.damage, self.kinds, self.lost, self.recovered, self.bad = what, damage, kinds, lost, recovered, bad or {}


inside_d = [n for n in list(contents) + list(others) + ["d/sub"] if n.startswith("d/") and n.count("/") == 1]
ROWS = [
    Row("nothing", lambda: None, []),
    Row("a block", lambda: flip(at("a"), data_off(150) + 9), [("blocks", "/a", 150, 1)], bad={"a": {150}}),
    Row("blocks of two groups", lambda: [flip(at("a"), data_off(k)) for k in (126, 127, 128, 129, 199)],
        [("blocks", "/a", 126, 4), ("blocks", "/a", 199, 1)], bad={"a": {126, 127, 128, 129, 199}}),
    Row("a file's header", lambda: flip(at("e"), 200), [("header", "/e")], lost=["e"]),
    Row("a file below its sealed length", lambda: os.truncate(at("e"), data_off(20)), [("header", "/e")], lost=["e"]),
    Row("a link's target", lambda: (os.unlink(at("link")), os.symlink("AAAAAAAAAAAAAAAAAAAAAAAAAAAA", at("link"))), [("target", "/link")],
        lost=["link"]),
    Row("one copy of an id", lambda: flip(at("d") + "/tdefs.dir", 522), [("id-copy", "/d")]),
    Row("tdefs.dir", lambda: spoil_ids("d"), [("id-copy", "/d")]),
    Row("tdefs.dir gone", lambda: os.unlink(at("d") + "/tdefs.dir"), [("id-copy", "/d")]),
    Row("tdefs.dir of the root gone", lambda: os.unlink(at("") + "/tdefs.dir"), [("id-copy", "/")]),
    Row("the id's copy", lambda: os.setxattr(at("d"), "user.tdefs.id", b"x" * 56), [("id-copy", "/d")]),
    Row("ids of two directories exchanged", lambda: swap_ids("d", "d/sub"),
        [("id-copy", "/d"), ("name", "/d")]),
    Row("an id and its copy", lambda: (spoil_ids("d"), forget(at("d"), "user.tdefs.id")), [("id", "/d")], lost=inside_d, recovered=True),
    Row("a side file gone", lambda: os.unlink(side("d/" + LONG)), [("side-file", "/d/" + LONG)]),
    Row("side files of a directory, a link, a fifo, an empty file",
        lambda: [os.unlink(side(n)) for n in (LONG, "d/" + "s" * 200, "d/" + "p" * 200, "d/" + "m" * 255)],
        [("side-file", "/" + LONG), ("side-file", "/d/" + "s" * 200), ("side-file", "/d/" + "p" * 200), ("side-file", "/d/" + "m" * 255)]),
    Row("a side file damaged", lambda: flip(side(LONG), 20), [("side-file", "/" + LONG)]),
    Row("a side file and its copy", lambda: (os.unlink(side("d/" + LONG)), forget(at("d/" + LONG), "user.tdefs.name")), [("name", "/d")],
        lost=["d/" + LONG], recovered=True),
    Row("a name", lambda: rename_lower("d/x", "AAAA" + os.path.basename(path["d/x"])[4:]), [("name", "/d")], lost=["d/x"], recovered=True),
    Row("a name carried into another directory", lambda: os.rename(at("d/x"), os.path.join(store, "root", os.path.basename(at("d/x")))),
        [("name", "/")], lost=["d/x"], recovered=True),
    Row("an attribute", lambda: [os.setxattr(at("e"), n, b"y" * 40) for n in os.listxattr(at("e"))], [("attribute", "/e")],
        bad={"e": set()}),
    Row("a file of somebody else's", lambda: shutil.copy("/etc/passwd", at("d") + "/passwd"), [("name", "/d")]),
]


def fsck(*options, ok, key=keeper.socket):
    done = run(BIN + "/tdefs-fsck", store, "--key-from", key, "--json", *options, ok=ok, stderr=None)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


def read(name):
    """Content, or the set of blocks that are refused."""
    fd = os.open(os.path.join(mnt, name), os.O_RDONLY)
    data, bad = [], set()
    for off in range(0, os.fstat(fd).st_size, B):
        try:
            data.append(os.pread(fd, B, off))
        except OSError:
            bad.add(off // B)
            data.append(contents[name][off:off + B])
    os.close(fd)
    return b"".join(data), bad


def look(row):
    """Every object that the row does not name as lost is there, whole."""
    for name in contents:
        if name in row.lost:
            check(not os.path.lexists(os.path.join(mnt, name)), "%s: %s is still there" % (row.what, name))
            continue
        if any(name.startswith(lost + "/") for lost in row.lost):
            continue
        data, bad = read(name)
        equal(bad, row.bad.get(name, set()), "%s: refused blocks of %s" % (row.what, name))
        check(data == contents[name], "%s: content of %s" % (row.what, name))
    for name, kind in others.items():
        if name not in row.lost:
            st = os.lstat(os.path.join(mnt, name))
            check(stat.S_ISLNK(st.st_mode) if kind == "l" else stat.S_ISFIFO(st.st_mode), "%s: %s" % (row.what, name))
    if "link" not in row.lost:
        equal(os.readlink(mnt + "/link"), "a/target", row.what)
    if row.recovered:
        found = {}
        for where, dirs, names in os.walk(mnt):
            for n in names:
                if "recovered." in os.path.join(where, n)[len(mnt):] and stat.S_ISREG(os.lstat(os.path.join(where, n)).st_mode):
                    with open(os.path.join(where, n), "rb") as f:
                        found[f.read()] = n
        for name in row.lost:
            if name in contents:
                check(contents[name] in found, "%s: the content of %s is nowhere" % (row.what, name))


def quarantined():
    where = store + "/quarantine"
    if not os.path.isdir(where):
        return []
    with open(where + "/report") as f:
        report = [json.loads(line) for line in f]
    equal(sorted(r["as"] for r in report), sorted("quarantine/" + n for n in os.listdir(where) if n != "report"), "the report")
    return [r["from"] for r in report]


for row in ROWS:
    shutil.rmtree(store + "/root")
    shutil.rmtree(store + "/quarantine", ignore_errors=True)
    run("cp", "-a", saved, store + "/root")
    row.damage()
    before = run("sh", "-c", "cd %s && find root tdefs.env | sort | xargs ls -ld --time-style=full-iso | sha256sum" % store).stdout
    status, report = fsck(ok=(0, 1))
    equal(status, 1 if row.kinds else 0, "%s: tdefs-fsck's status, with %s" % (row.what, report))
    got = {(f["kind"], f["path"]) + ((f["block"], f["count"]) if f["kind"] == "blocks" else ()) for f in report["findings"]}
    check(set(row.kinds) <= got, "%s: found %s, not %s" % (row.what, got, row.kinds))
    for f in report["findings"]:
        check(f["store_path"].startswith("root"), "the cipher path %r" % f["store_path"])
        if f["kind"] == "blocks":
            equal(f["store_path"], path["a"], "the cipher path")
    equal(fsck("--repair", ok=(2,))[0], 2, "repair without --yes")
    equal(run("sh", "-c", "cd %s && find root tdefs.env | sort | xargs ls -ld --time-style=full-iso | sha256sum" % store).stdout, before,
          row.what + ": a verification changed something")
    status, report = fsck("--repair", "--yes", ok=(0, 1))
    equal(status, 1 if row.bad else 0, "%s: the repair's status, with %s" % (row.what, report))
    check(report["repaired"] > 0 or row.bad or not row.kinds, "%s: nothing repaired" % row.what)
    status, again = fsck(ok=(0, 1))
    equal(status, 1 if row.bad else 0, "%s: verified again, with %s" % (row.what, again))
    lost = [] if row.recovered else row.lost
    check(all(path[n] in quarantined() for n in lost), "%s: not in quarantine: %s" % (row.what, quarantined()))
    keeper.keyctl("env", "mount", "env")
    look(row)
    env.stop()
    print("%-60s %d found, %d repaired, %d left" % (row.what, len(got), report["repaired"], again["damaged"]))

# Mounted: found and repaired while it serves.
shutil.rmtree(store + "/root")
shutil.rmtree(store + "/quarantine", ignore_errors=True)
run("cp", "-a", saved, store + "/root")
spoil_ids("d")
os.unlink(side("d/" + LONG))
flip(at("a"), data_off(150))
keeper.keyctl("env", "mount", "env")
look(Row("mounted, damaged", None, [], bad={"a": {150}}))
scrub = json.loads(keeper.keyctl("scrub", "env", "--json", ok=(1,), stderr=None).stdout)
equal(sorted((f["kind"], f["path"], f["block"]) for f in scrub["findings"]),
      [("blocks", "/a", 150), ("id-copy", "/d", 0), ("side-file", "/d/" + LONG, 0)], "keyctl scrub")
equal((scrub["files"], scrub["bytes"]), (scrub["total_files"], scrub["total_bytes"]), "progress at the end")
check(scrub["bytes"] >= sum(map(len, contents.values())), "bytes verified")
text = keeper.keyctl("scrub", "env", "--repair", ok=(1,)).stdout
check("/a (%s): block 150 does not match its tag" % path["a"] in text and text.count("written again") == 2, text)
text = keeper.keyctl("scrub", "env", ok=(1,)).stdout
check("1 damaged" in text and "id" not in text.split("\n")[0], text)
look(Row("mounted, repaired", None, [], bad={"a": {150}}))
with open(mnt + "/a", "r+b") as f:                  # a block that is written anew is good again
    f.seek(150 * B)
    f.write(contents["a"][150 * B:151 * B])
keeper.keyctl("scrub", "env")
look(Row("written anew", None, []))
env.stop()
equal(fsck(ok=(0,))[1]["damaged"], 0, "in the end")

# After a crash --repair recovers everything, and no epoch is left in which blocks would be accepted as they stand.
def unclean():
    with open(store + "/tdefs.env") as f:
        return re.search(r"^unclean = \[(.*)\];", f.read(), re.M).group(1)


keeper.keyctl("env", "mount", "env")
with open(mnt + "/crashed", "wb") as f:
    f.write(contents["a"])
    f.flush()
    os.fsync(f.fileno())
    f.write(contents["e"])
pid = keeper.json("env", "show", "env")["pid"]
keeper.process.kill()
keeper.process.wait()
os.kill(pid, 9)
wait_for(lambda: not os.path.exists("/proc/%d" % pid), "the worker's end")
run("umount", "-l", mnt, ok=None)
report = fsck("--repair", "--yes", ok=(0,), key=keeper.state + "/platform.key")[1]
equal((unclean(), report["damaged"], report["clean"]), ("", 0, False), "unclean epochs after a repair")
keeper.start()
wait_for(lambda: mounted(mnt) and os.path.exists(mnt + "/crashed"), "the mount")
with open(mnt + "/crashed", "rb") as f:
    check(f.read()[:len(contents["a"])] == contents["a"], "what was synced before the crash")
env.stop()
