#!/usr/bin/python3
"""MariaDB's InnoDB with O_DIRECT on an environment, with native asynchronous I/O and without: concurrent load, hole punching,
kill -9 in the middle of it, recovery, check table extended, mariadb-check, innochecksum."""
import os
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

CLIENTS, ROWS, KILLS = 4, 200000 if tdefs.LONG else 1500, 30 if tdefs.LONG else 3


class Server:
    def __init__(self, data, runtime):
        self.data, self.runtime = data, runtime
        self.socket, self.log, self.process = runtime + "/sock", runtime + "/log", None
        self.native = True

    def options(self):
        return ["--no-defaults", "--datadir=" + self.data, "--user=mysql", "--innodb_flush_method=O_DIRECT",
                "--innodb_buffer_pool_size=32M", "--innodb_log_file_size=16M", "--innodb_use_native_aio=%d" % self.native]

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["mariadbd"] + self.options() + ["--skip-networking", "--socket=" + self.socket, "--skip-grant-tables",
                                                 "--pid-file=" + self.runtime + "/pid", "--tmpdir=" + self.runtime],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        tdefs.undo(self.kill)
        tdefs.wait_for(lambda: self.process.poll() is not None or self.sql("select 1", ok=None).returncode == 0, "mariadbd",
                       limit=120)
        if self.process.poll() is not None:
            tdefs.fail("mariadbd ended\n" + self.text())

    def sql(self, text, ok=(0,)):
        return tdefs.run("mariadb", "--no-defaults", "--socket=" + self.socket, "-N", "-B", "-e", text, ok=ok)

    def stop(self):
        self.process.terminate()
        self.process.wait(120)
        self.process = None

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()


def load(server, table, first):
    """One client's inserts and updates, as a process of its own."""
    text = "".join("insert into t.%s values (%d, repeat(md5(%d), 20)); %s" % (
        table, k, k, "update t.%s set body = concat(body, 'x') where id = %d;" % (table, k - 3) if k % 5 == 0 else "")
        for k in range(first, first + ROWS, CLIENTS))
    client = subprocess.Popen(["mariadb", "--no-defaults", "--socket=" + server.socket], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    tdefs.undo(client.kill)
    return client, text.encode()


def kill_under_load(server, n):
    """Killed while four clients write: what was acknowledged is there, and the tables are sound."""
    server.sql("create table if not exists t.marks (n int primary key) engine=innodb")
    clients = [load(server, "plain", 10000000 * (n + 1) + w) for w in range(CLIENTS)]
    for client, text in clients:
        feeder = threading.Thread(target=feed, args=(client, text))
        feeder.start()
    tdefs.wait_for(lambda: int(server.sql("select count(*) from t.plain where id >= %d" % (10000000 * (n + 1))).stdout) > 40, "the load")
    # InnoDB shows a commit before its log is on the disk: sure is only what came before somebody's acknowledged one.
    counted = int(server.sql("select count(*) from t.plain").stdout)
    server.sql("insert into t.marks values (%d)" % n)
    server.kill()
    for client, _ in clients:
        client.wait()
    server.native = not server.native
    server.start()
    tdefs.equal(server.sql("select count(*) from t.marks").stdout.strip(), str(n + 1), "acknowledged before the kills")
    tdefs.check(int(server.sql("select count(*) from t.plain").stdout) >= counted, "rows that others had seen are gone")
    checked = server.sql("check table t.plain, t.packed, t.marks extended").stdout
    tdefs.equal([line.split("\t")[-1] for line in checked.strip().splitlines()], ["OK"] * 3, "check table\n" + checked)


def feed(client, text):
    try:
        client.stdin.write(text)
        client.stdin.close()
    except BrokenPipeError:
        pass


def main():
    os.environ["PATH"] += ":/usr/sbin"
    tdefs.need("mariadbd", "mariadb", "mariadb-install-db", "mariadb-check", "innochecksum")
    base = tdefs.scratch()
    environment = tdefs.environment(base)
    runtime = tempfile.mkdtemp(prefix="tdefs-my-")
    tdefs.undo(tdefs._remove, runtime)
    data = os.path.join(environment.mnt, "data")
    os.mkdir(data)
    tdefs.run("chown", "mysql:", runtime, data)
    server = Server(data, runtime)
    tdefs.run("mariadb-install-db", *server.options(), "--skip-test-db", "--auth-root-authentication-method=normal")
    server.start()
    server.sql("create database t; set global innodb_flush_log_at_trx_commit = 1;"
               "create table t.plain (id int primary key, body longtext, key (body(20))) engine=innodb;"
               "create table t.packed (id int primary key, body longtext) engine=innodb page_compressed=1")
    for table in ("plain", "packed"):
        clients = [load(server, table, w) for w in range(CLIENTS)]
        for client, text in clients:
            client.stdin.write(text)
            client.stdin.close()
        for client, _ in clients:
            said = client.stdout.read()
            tdefs.equal((client.wait(), said), (0, b""), "a client")
    count = server.sql("select (select count(*) from t.plain), (select count(*) from t.packed)").stdout.split()
    tdefs.equal(count, [str(ROWS)] * 2, "rows")
    sums = server.sql("checksum table t.plain, t.packed").stdout
    server.stop()
    environment.remount()
    server.start()
    tdefs.equal(server.sql("checksum table t.plain, t.packed").stdout, sums, "checksum after restart and remount")
    used = os.stat(data + "/t/packed.ibd")
    tdefs.check(used.st_blocks * 512 < used.st_size * 3 // 4, "pages are not punched: %d of %d bytes" % (used.st_blocks * 512, used.st_size))
    for n in range(KILLS):
        kill_under_load(server, n)
    tdefs.equal(server.sql("checksum table t.packed").stdout, sums.splitlines(True)[1], "checksum of a table that nobody wrote")
    said = tdefs.run("mariadb-check", "--no-defaults", "--socket=" + server.socket, "--extended", "--databases", "mysql", "t").stdout
    tdefs.check(all(line.endswith(" OK") for line in said.splitlines()), "mariadb-check: " + said)
    server.stop()
    spaces = [os.path.join(folder, f) for folder, _, files in os.walk(data) for f in files if f.endswith(".ibd") or f.startswith("ibdata")]
    tdefs.check(len(spaces) > 3, "tablespaces: %s" % spaces)
    for space in spaces:
        # From page 64 on the system tablespace has the doublewrite buffer, whose copies of punched pages it does not know.
        tdefs.run("innochecksum", *(["--end-page=63"] if "ibdata" in space else []), space)
    server.start()
    server.stop()
    for bad in ("corrupt", "Corrupt", "checksum mismatch", "signal 6", "signal 11"):
        tdefs.check(bad not in server.text(), "in MariaDB's log: %s\n%s" % (bad, server.text()))
    environment.stop()


main()
