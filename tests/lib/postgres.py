"""A PostgreSQL on an environment, pgbench beside it, and what that left in it."""
import glob
import os
import re
import shutil
import signal
import tempfile
import threading

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


class Load:
    """pgbench until its sessions end: its own transactions, but each leaves a row that names it, and a log says which of them were
    acknowledged, and when."""
    CLIENTS = 4
    SCRIPT = """\\set n :n + 1
\\set aid random(1, 100000)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler)
    VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP, :load || ' ' || :client_id || ' ' || :n);
END;
"""
    serial = 0

    def __init__(self, server, rate=None):
        """rate: transactions a second, of all clients."""
        Load.serial += 1
        self.server, self.number, self.rate, self.said = server, Load.serial, ["-R", str(rate)] if rate else [], ""
        self.log, self.script = ("%s/load%d%s" % (server.runtime, self.number, end) for end in ("", ".sql"))
        with open(self.script, "w") as f:
            f.write(self.SCRIPT)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        tdefs.wait_for(lambda: len(self.rows()) > 50 or not self.thread.is_alive(), "pgbench at work")

    def _run(self):
        self.said = self.server.do("pgbench", "-n", "-c", self.CLIENTS, "-j", "2", "-T", "600", "-l", "--log-prefix", self.log,
                                   "-f", self.script, "-D", "n=0", "-D", "load=%d" % self.number, *self.rate, ok=None).stdout

    def rows(self, server=None):
        """Its transactions that are there, each as client and number."""
        text = (server or self.server).sql("select filler from pgbench_history where filler like '%d %%'" % self.number)
        return [tuple(map(int, line.split()[1:])) for line in text.splitlines()]

    def acknowledged(self):
        """What was acknowledged, with the time; once it has ended."""
        found = []
        for path in glob.glob(self.log + ".[0-9]*"):
            with open(path) as f:
                for line in f:
                    client, n, _, _, seconds, us = map(int, line.split()[:6])
                    found.append(((client, n), seconds + us / 1e6))
        return found

    def end(self):
        """Its sessions are ended, if they still are."""
        tdefs.check(self.thread.is_alive(), "pgbench ended before: " + self.said)
        self.server.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgbench'")
        self.verify()

    def verify(self):
        """It has ended, or its server has, who is back: all that was acknowledged is there, beyond it not more than each client's last."""
        self.thread.join()
        acknowledged = {what for what, _ in self.acknowledged()}
        said = re.search(r"transactions actually processed: (\d+)", self.said)
        tdefs.equal(said and int(said.group(1)), len(acknowledged), "transactions in pgbench's log, of: " + self.said)
        self.holds(self.server, acknowledged)
        more = len(self.rows()) - len(acknowledged)
        tdefs.check(more <= self.CLIENTS, "%d transactions were acknowledged, and there are %d more" % (len(acknowledged), more))

    def holds(self, server, promised, where=""):
        """What was promised is there, without a gap in a client's, none twice; and pgbench's sums are right."""
        rows = self.rows(server)
        gone = set(promised) - set(rows)
        tdefs.check(not gone, "%s: acknowledged transactions are gone: %s" % (where, sorted(gone)[:5]))
        for client in range(self.CLIENTS):
            numbers = sorted(n for c, n in rows if c == client)
            tdefs.equal(numbers, list(range(1, len(numbers) + 1)), "%s: the transactions of client %d" % (where, client))
        balanced(server)


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
