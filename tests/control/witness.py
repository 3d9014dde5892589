"""What nobody asked for is in the audit log all the same (A1): blocks accepted as they stood after an unclean end, and data refused;
one entry for each, also over a restart of tdefsd. And keyctl status --metrics has it, in Prometheus' format."""
import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

base = scratch()
allow_in_log("refused:")
keeper = Keeper(base, 'mount: { restart_delay = "2s"; seal_interval = "1h"; };').start()
env, other = Environment(keeper).start(), Environment(keeper, "other").start()
FILES = 10


def entries(request):
    return [e for e in keeper.json("audit")["entries"] if e["request"] == request]


def metrics():
    """As a scraper reads it: each name has its HELP and TYPE before it, once; labels are quoted."""
    values, types, last = {}, {}, None
    for line in keeper.keyctl("status", "--metrics").stdout.splitlines():
        head = re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line)
        if head:
            kind, last, text = head.groups()
            if kind == "TYPE":
                check(last not in types and text in ("counter", "gauge") and (text == "counter") == last.endswith("_total"), line)
                types[last] = text
            continue
        sample = re.fullmatch(r'([a-z_]+)(\{([a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*)\})? (\d+)', line)
        check(sample and sample.group(1) == last and last in types, "a line of metrics: " + line)
        key = (last, sample.group(3) or "")
        check(key not in values, "twice: " + line)
        values[key] = int(sample.group(5))
    return values


def metric(name, env="env"):
    return metrics()[(name, 'environment="%s"' % env)]


def die(between):
    """The worker is killed; what happens before the next comes is between."""
    pid = keeper.json("env", "show", "env")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not mounted(env.mnt), "the dead mount's end")
    between()
    wait_for(lambda: mounted(env.mnt) and keeper.json("env", "show", "env")["state"] == "mounted", "the next worker")


names = ["%s/%d" % (env.mnt, k) for k in range(FILES)]
for name in names:
    with open(name, "wb") as f:
        f.write(b"text" * 5000)
run("sync", "-f", env.mnt)
equal(metric("tdefs_mounted"), 1, "mounted")
equal((metric("tdefs_resealed_blocks_total"), metric("tdefs_refused_total"), metric("tdefs_in_flux")), (0, 0, 0), "nothing so far")
check(metric("tdefs_written_bytes_total") >= FILES * 20000, "bytes written")
check(("tdefs_attention", "") in metrics() and any(n == "tdefs_info" and 'tenant="test"' in l for n, l in metrics()), "of the tenant")

print("a recovery is one entry")
die(lambda: [flip(p, 8192 + 4096 * k + 5) for p in lower_files(env.store) for k in (0, 2)])
wait_for(lambda: entries("Recovery"), "the entry")
equal([(e["object"], e["outcome"], e["role"], e["uid"]) for e in entries("Recovery")], [("env", "done", "tdefsd", 0)], "A1: one entry")
check("%d blocks" % (2 * FILES) in entries("Recovery")[0]["detail"], "A1: how many: " + entries("Recovery")[0]["detail"])
equal((metric("tdefs_resealed_blocks_total"), metric("tdefs_restarts"), metric("tdefs_in_flux")), (2 * FILES, 1, 0), "in the metrics")
equal(metric("tdefs_resealed_blocks_total", "other"), 0, "of the other one")
equal(keeper.json("env", "show", "env")["resealed"], 2 * FILES, "in the status")
check("re-sealed %d" % (2 * FILES) in keeper.keyctl("status").stdout, "on the screen")
check("re-sealed after crash: 2 blocks" in keeper.log(), "in the log")

print("the next tdefsd does not tell it again")
keeper.stop()
keeper.start()
time.sleep(1.5)                                      # it asks at its start
equal(len(entries("Recovery")), 1, "one entry")

print("what is refused is one entry, told at the latest when the worker ends")
for path in lower_files(env.store):
    flip(path, 8192 + 6)                            # sealed now
for name in names:
    try:
        with open(name, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            f.read()
        fail("a changed block is read")
    except OSError:
        pass
env.stop()
equal([(e["object"], e["outcome"]) for e in entries("Read")], [("env", "refused")], "A1: one entry, however often it is read")
equal(len(entries("Recovery")), 1, "nothing else")
keeper.keyctl("audit", "--verify")
other.stop()
