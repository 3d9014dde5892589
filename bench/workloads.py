"""What is measured. A workload is prepared once, runs, and gives a rate: higher is better."""
import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import tempfile
import time

from systems import run


def fio(system, quick, rw, bs, *more, size=None, runtime=None, jobs=1):
    size = size or ("64m" if quick else "256m")
    timed = ["--time_based", "--runtime=%d" % (runtime or (2 if quick else 5))] if runtime != 0 else []
    out = run("fio", "--name=w", "--filename=%s/fio" % system.dir, "--rw=" + rw, "--bs=" + bs, "--size=" + size, "--numjobs=%d" % jobs,
              "--group_reporting", "--output-format=json", "--randrepeat=1", "--invalidate=0", *timed, *more)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    return (job["read"]["bw"] + job["write"]["bw"]) / 1024     # MiB/s


def laid_out(system, quick):
    size = (64 if quick else 256) << 20
    path = system.dir + "/fio"
    if not os.path.exists(path) or os.path.getsize(path) != size:
        with open(path, "wb") as f:
            chunk = os.urandom(1 << 20)
            for _ in range(size >> 20):
                f.write(chunk)
            os.fsync(f.fileno())


def seq_write(s, quick):
    if os.path.exists(s.dir + "/fio"):
        os.unlink(s.dir + "/fio")
    return fio(s, quick, "write", "1m", "--end_fsync=1", runtime=0)


def cold(rw, bs, *more, runtime=None, jobs=1):
    def workload(s, quick):
        laid_out(s, quick)
        s.cold()
        return fio(s, quick, rw, bs, *more, runtime=runtime, jobs=jobs)
    return workload


def warm(rw, bs, *more, jobs=1):
    def workload(s, quick):
        laid_out(s, quick)
        with open(s.dir + "/fio", "rb") as f:
            while f.read(1 << 20):
                pass
        return fio(s, quick, rw, bs, *more, jobs=jobs)
    return workload


class Small:
    """Small files, in folders of a hundred."""

    def __init__(self, step):
        self.step = step

    def paths(self, s, quick):
        return ["%s/small/%d/%d" % (s.dir, k // 100, k) for k in range(1000 if quick else 5000)]

    def create(self, s, quick):
        paths = self.paths(s, quick)
        for folder in sorted({os.path.dirname(p) for p in paths}):
            os.makedirs(folder)
        start = time.monotonic()
        for p in paths:
            with open(p, "wb") as f:
                f.write(b"x" * 3000)
        return len(paths) / (time.monotonic() - start)

    def each(self, what, s, quick):
        paths = self.paths(s, quick)
        start = time.monotonic()
        for p in paths:
            what(p)
        return len(paths) / (time.monotonic() - start)

    def __call__(self, s, quick):
        if self.step == "create" or not os.path.exists(s.dir + "/small"):
            shutil.rmtree(s.dir + "/small", ignore_errors=True)
            rate = self.create(s, quick)
            if self.step == "create":
                return rate
        if self.step == "delete":
            return self.each(os.unlink, s, quick), shutil.rmtree(s.dir + "/small")
        if self.step.endswith("cold"):
            s.cold()

        def read(path):
            with open(path, "rb") as f:
                f.read()
        if self.step == "read warm":
            self.each(read, s, quick)
        return self.each(os.stat if self.step == "stat cold" else read, s, quick)


def sqlite_inserts(s, quick):
    path = s.dir + "/sqlite.db"
    for end in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(path + end):
            os.unlink(path + end)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, b BLOB)")
    start, n = time.monotonic(), 0
    while time.monotonic() - start < (1.5 if quick else 4):
        db.execute("INSERT INTO t VALUES (?, randomblob(500))", (n,))
        n += 1
    db.close()
    return n / (time.monotonic() - start)


class Pgbench:
    clusters = {}

    def __init__(self, step):
        self.step = step

    def do(self, s, *argv):
        user = pwd.getpwnam("postgres")

        def become():
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        return run(*argv, preexec_fn=become, cwd="/", env=dict(os.environ, PGHOST=self.clusters[s.name], PGUSER="postgres", LC_ALL="C"))

    def start(self, s):
        self.do(s, "pg_ctl", "-D", s.dir + "/pg/data", "-l", self.clusters[s.name] + "/log", "-w", "start", "-o",
                "-k %s -c listen_addresses=''" % self.clusters[s.name])

    def stop(self, s):
        self.do(s, "pg_ctl", "-D", s.dir + "/pg/data", "-m", "fast", "-w", "stop")

    def init(self, s, quick):
        os.chmod(s.dir, 0o755)
        shutil.rmtree(s.dir + "/pg", ignore_errors=True)
        os.mkdir(s.dir + "/pg")
        self.clusters[s.name] = tempfile.mkdtemp(prefix="tdefs-bench-pg-")
        for path in (s.dir + "/pg", self.clusters[s.name]):
            shutil.chown(path, "postgres", "postgres")
        self.do(s, "initdb", "-D", s.dir + "/pg/data", "--auth=trust", "-U", "postgres", "--locale=C", "--encoding=UTF8")
        with open(s.dir + "/pg/data/postgresql.conf", "a") as f:
            f.write("shared_buffers = '64MB'\nmax_wal_size = '1GB'\n")
        self.start(s)
        scale = 5 if quick else 20
        start = time.monotonic()
        self.do(s, "pgbench", "-i", "-q", "-s", scale, "postgres")
        rate = scale * 100000 / (time.monotonic() - start)
        self.stop(s)
        return rate

    def __call__(self, s, quick):
        if self.step == "init":
            return self.init(s, quick)
        if s.name not in self.clusters:
            self.init(s, quick)
        if self.step == "read-only cold":
            s.cold()
        self.start(s)
        options = [] if self.step == "read-write" else ["-S"]
        if self.step == "read-only warm":
            self.do(s, "pgbench", "-n", "-S", "-c", 4, "-j", 2, "-T", 2, "postgres")
        out = self.do(s, "pgbench", "-n", *options, "-c", 4, "-j", 2, "-T", 3 if quick else 8, "postgres")
        self.stop(s)
        return float([line for line in out.splitlines() if line.startswith("tps =")][0].split()[2])


WORKLOADS = [
    ("sequential write + fsync", "MiB/s", seq_write),
    ("sequential read cold", "MiB/s", cold("read", "1m", runtime=0)),
    ("random 8k read cold", "MiB/s", cold("randread", "8k")),
    ("random 8k read cold, 4 jobs", "MiB/s", cold("randread", "8k", jobs=4)),
    ("random 8k read warm", "MiB/s", warm("randread", "8k")),
    ("random 8k write + fsync each", "MiB/s", warm("randwrite", "8k", "--fsync=1")),
    ("random 8k write", "MiB/s", warm("randwrite", "8k", "--end_fsync=1")),
    ("O_DIRECT 16k random read, depth 8", "MiB/s", warm("randread", "16k", "--direct=1", "--ioengine=libaio", "--iodepth=8")),
    ("O_DIRECT 16k random write, depth 8", "MiB/s", warm("randwrite", "16k", "--direct=1", "--ioengine=libaio", "--iodepth=8")),
    ("small files: create", "files/s", Small("create")),
    ("small files: stat cold", "files/s", Small("stat cold")),
    ("small files: read cold", "files/s", Small("read cold")),
    ("small files: read warm", "files/s", Small("read warm")),
    ("small files: delete", "files/s", lambda s, quick: Small("delete")(s, quick)[0]),
    ("SQLite insert, synchronous=FULL", "tps", sqlite_inserts),
    ("pgbench init", "rows/s", Pgbench("init")),
    ("pgbench read-write, 4 clients", "tps", Pgbench("read-write")),
    ("pgbench read-only warm", "tps", Pgbench("read-only warm")),
    ("pgbench read-only cold", "tps", Pgbench("read-only cold")),
]
