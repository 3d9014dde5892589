"""A PostgreSQL on an environment, and what pgbench left in it."""
import os
import shutil
import signal
import tempfile

import tdefs


class Server:
    """One cluster of its own; it listens on a Unix socket only."""

    def __init__(self, data, runtime):
        self.data, self.runtime = data, runtime
        self.log = os.path.join(runtime, "log")

    def do(self, *argv, **more):
        environment = dict(os.environ, PGHOST=self.runtime, PGUSER="postgres", PGDATABASE="postgres", LC_ALL="C")
        return tdefs.run(*argv, preexec_fn=tdefs.as_user("postgres"), cwd=self.runtime, env=environment, **more)

    def start(self):
        with open(self.log + ".start", "a") as log:
            done = self.do("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "120", "start", ok=None,
                           stdout=log, stderr=log)
        if done.returncode != 0:
            tdefs.fail("PostgreSQL does not start\n" + self.text())
        tdefs.undo(self.stop, "immediate", None)

    def stop(self, how="fast", ok=(0,)):
        self.do("pg_ctl", "-D", self.data, "-m", how, "-w", "-t", "120", "stop", ok=ok)

    def pids(self):
        with open(os.path.join(self.data, "postmaster.pid")) as f:
            pid = int(f.readline())
        return [pid] + [int(p) for p in tdefs.run("pgrep", "-P", pid, ok=None).stdout.split()]

    def kill(self, pids=None):
        """pids: as they were while the environment could still be asked."""
        pids = pids or self.pids()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        tdefs.wait_for(lambda: not any(os.path.exists("/proc/%d" % pid) for pid in pids), "the server's end")

    def sql(self, text):
        return self.do("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", text).stdout.strip()

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()


def balanced(server):
    """pgbench's invariant: every transaction adds the same to four tables."""
    sums = server.sql("select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),"
                      "(select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history),"
                      "(select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)")
    tdefs.equal(sums, "t|t|t", "pgbench's sums")


def make_server(mnt, settings, *initdb):
    """A cluster in mnt/data, made with these arguments beside the usual ones, with these lines in its configuration; started."""
    runtime = tempfile.mkdtemp(prefix="tdefs-pg-")
    tdefs.undo(shutil.rmtree, runtime, True)
    tdefs.run("chown", "postgres:", runtime, mnt)
    os.chmod(mnt, 0o700)
    server = Server(mnt + "/data", runtime)
    server.do("initdb", "-D", server.data, "--data-checksums", "--locale=C", "--encoding=UTF8", "--auth=trust", "-U", "postgres", *initdb)
    with open(server.data + "/postgresql.conf", "a") as f:
        f.write("listen_addresses = ''\nunix_socket_directories = '%s'\nmax_connections = 20\nmax_wal_size = '64MB'\n%s\n" % (runtime, settings))
    server.start()
    return server
