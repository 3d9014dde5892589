#!/usr/bin/python3
"""PostgreSQL on an environment: data checksums, pgbench with four clients, a tablespace, clean restart, its log synced in
several ways, kill -9 in the middle of pgbench and recovery, pg_amcheck and pg_checksums."""
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import keys
import tdefs
from postgres import balanced, make_server

SECONDS = 300 if tdefs.LONG else 4


def change_keys_under_load(base, tenant, server):
    """E4, K7: keys are applied, activated and returned while pgbench runs; it does not notice."""
    files = [keys.KeyFile(base, name) for name in ("one", "two")]
    load = threading.Thread(target=lambda: done.append(server.do("pgbench", "-n", "-c", "4", "-j", "2", "-T", SECONDS + 4).stdout))
    done = []
    load.start()
    tenant.keyctl("key", "upload", "one", *files[0].given())
    tenant.keyctl("key", "upload", "two", *files[1].given())
    tenant.keyctl("env", "apply-key", "env", "--yes")
    for name in ("two", "one", "two"):
        tenant.patiently("key", "activate", name, "--yes")
        tdefs.equal(tenant.env("env")["key"], name, "the key that it is under")
    load.join()
    tdefs.check(done and "number of failed transactions: 0 " in done[0], "pgbench while keys change: %s" % done)
    tdefs.equal(tenant.env("env")["restarts"], 0, "the worker went on")
    balanced(server)


def kill_under_load(server, n, method):
    """Killed in the middle of pgbench, with the log synced that way: after recovery what was acknowledged is there, and the sums."""
    server.sql("alter system set wal_sync_method = " + method)
    server.sql("select pg_reload_conf()")
    load = threading.Thread(target=server.do, args=("pgbench", "-n", "-c", "4", "-j", "2", "-T", 600), kwargs={"ok": None})
    before = int(server.sql("select count(*) from pgbench_history"))
    load.start()
    tdefs.wait_for(lambda: int(server.sql("select count(*) from pgbench_history")) > before + 200, "pgbench at work")
    tdefs.equal(server.sql("show wal_sync_method"), method, "wal_sync_method")
    mark = "acknowledged just before kill %d" % n
    server.sql("insert into marks values (%d, '%s')" % (-n, mark))
    counted = int(server.sql("select count(*) from pgbench_history"))
    server.kill()
    load.join()
    server.start()
    tdefs.equal(server.sql("select t from marks where n = %d" % -n), mark, "after recovery")
    tdefs.check(int(server.sql("select count(*) from pgbench_history")) >= counted, "transactions that others had seen are gone")
    balanced(server)


def main():
    tdefs.need("initdb", "pg_ctl", "pgbench", "psql", "pg_checksums", "pg_amcheck", "pgrep")
    base = tdefs.scratch()
    tenant = keys.Tenant(base, keys.guards()).start()
    environment = tdefs.Environment(tenant).start()
    server = make_server(environment.mnt, "shared_buffers = '32MB'\nwal_level = minimal\nmax_wal_senders = 0\ncheckpoint_timeout = '30s'")
    data = server.data
    server.do("pgbench", "-i", "-q", "-s", "2")
    server.do("pgbench", "-n", "-c", "4", "-j", "2", "-T", SECONDS)
    balanced(server)
    change_keys_under_load(base, tenant, server)
    server.sql("create extension amcheck; create table marks (n int primary key, t text); "
               "insert into marks select n, repeat(md5(n::text), 40) from generate_series(1, 5000) n; checkpoint")
    want = server.sql("select md5(string_agg(t, '' order by n)) from marks")
    space = os.path.join(environment.mnt, "space")
    os.mkdir(space, 0o700)
    tdefs.run("chown", "postgres:", space)
    server.sql("create tablespace other location '%s'" % space)
    server.sql("create table elsewhere tablespace other as select * from marks; create index on elsewhere (t) tablespace other")
    server.stop()
    server.do("pg_checksums", "--check", "-D", data)
    environment.remount()
    server.start()
    tdefs.equal(server.sql("select md5(string_agg(t, '' order by n)) from marks"), want, "after restart and remount")

    for n, method in enumerate(("open_datasync", "fdatasync") + (("open_sync", "fsync") * 10 if tdefs.LONG else ())):
        kill_under_load(server, n, method)
    server.do("pgbench", "-n", "-c", "4", "-j", "2", "-t", "50")
    server.do("pg_amcheck", "--all", "--heapallindexed")
    server.stop()
    server.do("pg_checksums", "--check", "-D", data)
    for bad in ("PANIC", "could not fsync", "invalid page", "checksum mismatch"):
        tdefs.check(bad not in server.text(), "in PostgreSQL's log: %s\n%s" % (bad, server.text()))
    environment.stop()


if __name__ == "__main__":
    main()
