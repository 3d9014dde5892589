"""Database engines as workloads."""
import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time

from systems import run, timed


def sqlite_inserts(s, quick):
    path = s.dir + "/sqlite.db"
    for end in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(path + end):
            os.unlink(path + end)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, b BLOB)")
    n = 0
    with timed:
        while time.monotonic() - timed.begun < (1.5 if quick else 4):
            db.execute("INSERT INTO t VALUES (?, randomblob(500))", (n,))
            n += 1
    db.close()
    return n / timed.seconds()


def as_user(name):
    user = pwd.getpwnam(name)

    def become():
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    return become


def home(s, name, user):
    """Makes an empty directory of the engine's in the system, and one for its socket elsewhere."""
    os.chmod(s.dir, 0o755)
    shutil.rmtree(s.dir + "/" + name, ignore_errors=True)
    os.mkdir(s.dir + "/" + name)
    elsewhere = tempfile.mkdtemp(prefix=name, dir=s.base)
    for path in (s.dir + "/" + name, elsewhere):
        shutil.chown(path, user, user)
    return elsewhere


class Pgbench:
    clusters = {}

    def __init__(self, step):
        self.step = step

    def do(self, s, *argv):
        return run(*argv, preexec_fn=as_user("postgres"), cwd="/",
                   env=dict(os.environ, PGHOST=self.clusters[s.name], PGUSER="postgres", LC_ALL="C"))

    def start(self, s):
        self.do(s, "pg_ctl", "-D", s.dir + "/pg/data", "-l", self.clusters[s.name] + "/log", "-w", "start", "-o",
                "-k %s -c listen_addresses=''" % self.clusters[s.name])

    def stop(self, s):
        self.do(s, "pg_ctl", "-D", s.dir + "/pg/data", "-m", "fast", "-w", "stop")

    def init(self, s, quick):
        self.clusters[s.name] = home(s, "pg", "postgres")
        self.do(s, "initdb", "-D", s.dir + "/pg/data", "--auth=trust", "-U", "postgres", "--locale=C", "--encoding=UTF8")
        with open(s.dir + "/pg/data/postgresql.conf", "a") as f:
            f.write("shared_buffers = '64MB'\nmax_wal_size = '1GB'\n")
        self.start(s)
        scale = 5 if quick else 20
        with timed:
            self.do(s, "pgbench", "-i", "-q", "-s", scale, "postgres")
        self.stop(s)
        return scale * 100000 / timed.seconds()

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
        with timed:
            out = self.do(s, "pgbench", "-n", *options, "-c", 4, "-j", 2, "-T", 2 if quick else 8, "postgres")
        self.stop(s)
        return float([line for line in out.splitlines() if line.startswith("tps =")][0].split()[2])


def sysbench_oltp(s, quick):
    elsewhere = home(s, "my", "mysql")
    data, socket = s.dir + "/my/data", elsewhere + "/sock"
    options = ["--no-defaults", "--datadir=" + data, "--user=mysql", "--innodb_flush_method=O_DIRECT", "--innodb_buffer_pool_size=64M",
               "--innodb_log_file_size=64M"]
    run("mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db")
    with open(elsewhere + "/log", "w") as log:
        server = subprocess.Popen(["mariadbd", *options, "--skip-networking", "--socket=" + socket, "--tmpdir=" + elsewhere,
                                   "--pid-file=" + elsewhere + "/pid"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(600):
            if subprocess.run(["mariadb", "--no-defaults", "--socket=" + socket, "-e", "create database sbtest"],
                              stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        oltp = ["sysbench", "oltp_read_write", "--db-driver=mysql", "--mysql-socket=" + socket, "--mysql-user=root", "--tables=4",
                "--table-size=%d" % (5000 if quick else 50000), "--threads=4", "--time=%d" % (3 if quick else 10)]
        run(*oltp, "prepare")
        with timed:
            out = run(*oltp, "run")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(elsewhere, ignore_errors=True)
    return float(re.search(r"transactions:\s+\d+\s+\(([\d.]+) per sec", out).group(1))


WORKLOADS = [
    ("SQLite insert, synchronous=FULL", "tps", sqlite_inserts),
    ("pgbench init", "rows/s", Pgbench("init")),
    ("pgbench read-write, 4 clients", "tps", Pgbench("read-write")),
    ("pgbench read-only warm", "tps", Pgbench("read-only warm")),
    ("pgbench read-only cold", "tps", Pgbench("read-only cold")),
    ("sysbench OLTP, MariaDB O_DIRECT", "tps", sysbench_oltp),
]
