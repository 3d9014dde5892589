#!/usr/bin/python3
"""MariaDB's InnoDB with O_DIRECT on an environment: concurrent load, hole punching, kill -9, recovery, check table."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs

CLIENTS, ROWS = 4, 200000 if tdefs.LONG else 1500


class Server:
    def __init__(self, data, runtime):
        self.data, self.runtime = data, runtime
        self.socket, self.log, self.process = runtime + "/sock", runtime + "/log", None

    def options(self):
        return ["--no-defaults", "--datadir=" + self.data, "--user=mysql", "--innodb_flush_method=O_DIRECT",
                "--innodb_buffer_pool_size=32M", "--innodb_log_file_size=16M", "--innodb_use_native_aio=0"]

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


def main():
    os.environ["PATH"] += ":/usr/sbin"
    tdefs.need("mariadbd", "mariadb", "mariadb-install-db")
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
    client, text = load(server, "plain", 10000000)
    client.stdin.write(text[:len(text) // 2])
    client.stdin.flush()
    server.sql("insert into t.plain values (-1, 'acknowledged just before the kill')")
    server.kill()
    server.start()
    tdefs.equal(server.sql("select body from t.plain where id = -1").stdout.strip(), "acknowledged just before the kill",
                "after recovery")
    checked = server.sql("check table t.plain, t.packed extended").stdout
    tdefs.equal([line.split("\t")[-1] for line in checked.strip().splitlines()], ["OK", "OK"], "check table\n" + checked)
    server.stop()
    for bad in ("corrupt", "Corrupt", "checksum mismatch", "signal 6", "signal 11"):
        tdefs.check(bad not in server.text(), "in MariaDB's log: %s\n%s" % (bad, server.text()))
    environment.stop()


main()
