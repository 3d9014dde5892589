"""The tenant's keys, rule by rule: groups K, E, L, U and A of the key service, by real programs and openssl's key files."""
import os
import re
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *
from wire import *

base = scratch()
allow_in_log("refused:")
first, second, other = (KeyFile(base, name) for name in ("first", "second", "other"))
legacy = KeyFile(base, "legacy", 3072, arguments=("-legacy",))
tenant = Tenant(base).start()                     # the guard times of the defaults
db, app = (Environment(tenant, name) for name in ("db", "app"))
db.start()
tenant.keyctl("env", "create", "app", "--mountpoint", app.mnt, "--type", "sandbox")
open(db.mnt + "/f", "w").write("what was there before")
kept = open(db.mnt + "/f")                        # E4: stays open over everything but a lock


def restart(settings):
    if tenant.process:
        tenant.stop()
    with open(tenant.config, "w") as f:
        f.write('tenant = "test";\nstate_dir = "%s";\nruntime_dir = "%s";\n%s\n%s\n' % (tenant.state, tenant.runtime, role_settings(True), settings))
    tenant.start()


def states(*names):
    return [tenant.key(n)["state"] for n in names]


def vault():
    return sorted(n[:64] for n in os.listdir(tenant.state + "/vault"))


# E1, E2 without a key
equal((tenant.env("db")["key_source"], tenant.env("db")["state"]), ("platform", "mounted"), "E1")
tenant.refused("E2", "env", "apply-key", "db", "--yes")
equal(tenant.keyctl("env", "apply-key", "db", ok=None).returncode, 2, "A2: apply wants confirmed")

# K1, K2, K6, K11
tenant.refused("K2", "key", "upload", "first", first.pfx, "--password-file", "/dev/null")
equal(tenant.json("key", "list")["keys"], [], "a refused key leaves nothing")
tenant.keyctl("key", "upload", "first", *first.given())
shown = tenant.key("first")
equal({k: shown[k] for k in ("state", "region", "algorithm", "bits", "fingerprint", "origin", "created_uid", "activated_uid", "environments")},
      dict(state="Active", region="default", algorithm="RSA", bits=2048, fingerprint=first.fingerprint(), origin="pfx", created_uid=0,
           activated_uid=0, environments=[]), "K6, K11")
check(shown["created"] and shown["activated"] and not shown["locked"], "K11: times")
equal(tenant.keyctl("key", "upload", "again", *first.given(), ok=None).returncode, 1, "the same key twice")
equal(tenant.keyctl("key", "upload", "first", *second.given(), ok=None).returncode, 1, "the same name twice")
tenant.keyctl("key", "upload", "second", *second.given())
tenant.keyctl("key", "upload", "legacy", *legacy.given())
equal(states("first", "second", "legacy"), ["Active", "Available", "Available"], "K6: later ones wait; RC2 and 3DES are read")

# K2: each case has its own words
def made(name, command):
    run("sh", "-e", "-c", command.replace("PW", "file:" + first.password), cwd=base)
    return base + "/" + name


os.symlink(first.pem, base + "/k.pem")
run("sh", "-e", "-c", "openssl req -x509 -new -key k.pem -subj /CN=a -days 9 -out k.crt; openssl req -x509 -new -key second.pem -subj /CN=b -days 9 "
    "-out other.crt", cwd=base)
FAULTS = [("open.pfx", "openssl pkcs12 -export -inkey k.pem -in k.crt -passout pass: -out open.pfx", "not protected by a password"),
          ("nomac.pfx", "openssl pkcs12 -export -inkey k.pem -in k.crt -nomac -passout PW -out nomac.pfx", "not protected by a password"),
          ("clear.pfx", "openssl pkcs12 -export -inkey k.pem -in k.crt -keypbe NONE -certpbe NONE -passout PW -out clear.pfx", "not protected by"),
          ("wrong.pfx", "openssl pkcs12 -export -inkey k.pem -in k.crt -passout pass:other -out wrong.pfx", "password is wrong"),
          ("cert.pfx", "openssl pkcs12 -export -nokeys -in k.crt -passout PW -out cert.pfx", "no private key"),
          ("ec.pfx", "openssl ecparam -name prime256v1 -genkey -noout -out ec.pem; openssl pkcs12 -export -inkey ec.pem -nocerts -passout PW -out ec.pfx",
           "not an RSA key"),
          ("small.pfx", "openssl genrsa -out s.pem 1024; openssl pkcs12 -export -inkey s.pem -nocerts -passout PW -out small.pfx", "2048, 3072 or 4096"),
          ("odd.pfx", "openssl genrsa -out o.pem 2560; openssl pkcs12 -export -inkey o.pem -nocerts -passout PW -out odd.pfx", "2048, 3072 or 4096"),
          ("other.pfx2", "openssl pkcs12 -export -inkey k.pem -nocerts -certfile other.crt -passout PW -out other.pfx2", "certificate belongs to another key"),
          ("text.pfx", "cp k.crt text.pfx", "not a PFX"), ("none.pfx", ": >none.pfx", "not a PFX"),
          ("long.pfx", "cat first.pfx k.crt >long.pfx", "bytes behind the PFX's end")]
before = [k["name"] for k in tenant.json("key", "list")["keys"]], vault()
for name, command, says in FAULTS:
    check(says in tenant.refused("K2", "key", "upload", "bad", made(name, command), "--password-file", first.password), "K2: %s says %s" % (name, says))
check("platform key" in tenant.refused("K2", "key", "upload", "bad", tenant.state + "/platform.key"), "K2: the platform key is no tenant's")
equal(([k["name"] for k in tenant.json("key", "list")["keys"]], vault()), before, "K2: nothing is left of them")

# K1: generated; the file is ours alone, opens elsewhere, and is not overwritten
generated = base + "/made.pfx"
tenant.keyctl("key", "generate", "made", "--out", generated, "--password-file", first.password)
equal(os.stat(generated).st_mode & 0o777, 0o600, "K1: the file's mode")
check("PBES2, PBKDF2, AES-256-CBC, Iteration 600000" in run("openssl", "pkcs12", "-in", generated, "-passin", "file:" + first.password, "-info",
      "-noout").stdout, "K1: how it is protected")
run("openssl", "pkcs12", "-in", generated, "-passin", "file:" + first.password, "-noout")
equal((tenant.key("made")["origin"], tenant.key("made")["state"]), ("generated", "Available"), "K1")
equal(tenant.keyctl("key", "generate", "more", "--out", generated, "--password-file", first.password, ok=None).returncode, 1, "K1: no overwriting")
tenant.refused("K1", "key", "generate", "more", "--out", generated + "2", "--password-file", "/dev/null")
check(not os.path.exists(generated + "2"), "nothing is left")

# E2, K8, L3 with the default times
tenant.keyctl("env", "apply-key", "db", "--yes")
equal((tenant.env("db")["key_source"], tenant.env("db")["fingerprint"]), ("tenant", first.fingerprint()), "E2")
equal(tenant.key("first")["environments"], ["db"], "K11: who needs it")
check("1d after" in tenant.refused("K8", "key", "activate", "second", "--yes"), "K8 says how long")
check("3d after" in tenant.refused("L3", "tenant", "lock", "--key", *first.given()), "L3 says how long")
tenant.refused("L1", "tenant", "lock", "--key", *second.given())
tenant.refused("E3", "env", "return-key", "db")
tenant.refused("E3", "env", "return-key", "db", "--confirm", "app")

# K7: activation, nobody notices; A2 before it
restart(guards())
equal(tenant.keyctl("key", "activate", "second", ok=None).returncode, 2, "A2")
tenant.patiently("key", "activate", "second", "--yes")
equal(states("first", "second"), ["Available", "Active"], "K7")
equal(tenant.env("db")["fingerprint"], second.fingerprint(), "K7: wrapped again")
equal(tenant.env("app")["key_source"], "platform", "K7: only what was under the former key")
tenant.refused("K5", "key", "activate", "second", "--yes", status=3)
equal(kept.read(), "what was there before", "E4")

# E3
tenant.keyctl("env", "return-key", "db", "--confirm", "db")
equal(tenant.env("db")["key_source"], "platform", "E3")
tenant.keyctl("env", "apply-key", "app", "--yes")
tenant.keyctl("env", "return-key", "app", "--yes")
tenant.keyctl("env", "apply-key", "db", "--yes")

# A single lock: K9, K10, L7
tenant.keyctl("lock", "app")
tenant.refused("K9", "key", "activate", "first", "--yes")
tenant.refused("K10", "key", "upload", "other", *other.given())
tenant.refused("K10", "key", "generate", "other", "--out", base + "/no.pfx", "--password-file", first.password)
tenant.refused("L7", "env", "apply-key", "app", "--yes", status=6)
tenant.keyctl("unlock", "app")
open(app.mnt + "/g", "w").write("app's")

# L2: the text is good once, for one region, by one administrator
text = tenant.patiently("tenant", "lock", "--key", *second.given())
check("default" in text, "L2: the text names the region")
tenant.refused("L2", "tenant", "lock", "--key", *second.given(), "--confirm", text + "x")
tenant.refused("L2", "tenant", "lock", "--key", *second.given(), "--confirm", text)
equal((tenant.env("db")["state"], states("second")), ("mounted", ["Active"]), "nothing is locked")

# L1, L4, L5, L7
restart(guards(activation_interval="1ms", lock_after_key_change="1ms", unlock_after_lock="1h"))
platform = open(tenant.state + "/platform.key", "rb").read()[-32:]
tenant.lock(second)
equal(states("first", "second", "legacy", "made"), ["Deleted", "Locked", "Deleted", "Deleted"], "L5")
equal(vault(), [], "L5: private keys are gone")
for e, name in ((db, "db"), (app, "app")):
    shown = tenant.env(name)
    equal((shown["state"], shown["locked_by"], shown["fingerprint"]), ("locked", "tenant", second.fingerprint()), "L4")
    check(not mounted(e.mnt) and os.listdir(e.mnt) == [], "L7: nothing is mounted")
    check(os.path.getsize(e.store + "/tdefs.env") and b"platform" not in open(e.store + "/tdefs.env", "rb").read(), "L4: no platform wrap")
try:
    kept.seek(0)
    fail("L7: an open file still reads: " + kept.read())
except OSError:
    pass
check("deletion 20" in tenant.keyctl("status").stdout, "L8: status shows the day")
for command in (("env", "mount", "db"), ("env", "apply-key", "db", "--yes"), ("env", "return-key", "db", "--confirm", "db"), ("scrub", "db")):
    tenant.refused("L7", *command, status=6)
tenant.refused("U3", "env", "unlock", "db", "--yes")
tenant.refused("K10", "key", "upload", "other", *other.given())
tenant.refused("U1", "key", "activate", "second", "--yes")
tenant.refused("K4", "key", "activate", "first", "--yes")
tenant.refused("L1", "tenant", "lock", "--key", *second.given())

# U2, L6
tenant.refused("U2", "key", "unlock", "second", *other.given())
tenant.refused("K2", "key", "unlock", "second", second.pfx, "--password-file", "/dev/null")
check("1h" in tenant.refused("L6", "key", "unlock", "second", *second.given()), "L6 says how long")
equal((states("second"), vault()), (["Locked"], []), "U2: nothing changed")

# A3: with the clock behind the highest time seen
tenant.stop()
registry = sqlite3.connect(tenant.state + "/registry.db")
seen = int(registry.execute("SELECT value FROM meta WHERE name = 'clock'").fetchone()[0])
registry.execute("UPDATE meta SET value = ? WHERE name = 'clock'", (str(seen + 1000),))
registry.commit()
tenant.start()
tenant.refused("A3", "key", "unlock", "second", *second.given())
tenant.stop()
registry.execute("UPDATE meta SET value = ? WHERE name = 'clock'", (str(seen),))
registry.commit()
registry.close()
restart(guards())

# U1, U3, U4
tenant.patiently("key", "unlock", "second", *second.given())
equal(states("second"), ["Active"], "U1")
equal(tenant.env("db")["state"], "locked", "U3: not by itself")
equal(tenant.keyctl("env", "unlock", "db", ok=None).returncode, 2, "A2: confirmed each")
tenant.refused("U3", "unlock", "db")
tenant.keyctl("env", "unlock", "db", "--yes")
equal((open(db.mnt + "/f").read(), tenant.env("app")["state"]), ("what was there before", "locked"), "U3: one by one")
tenant.keyctl("env", "unlock", "app", "--yes")
equal(open(app.mnt + "/g").read(), "app's", "U3")
tenant.keyctl("env", "return-key", "app", "--yes")
tenant.keyctl("env", "apply-key", "app", "--yes")
equal(tenant.env("app")["fingerprint"], second.fingerprint(), "U4")

# K3: a .byok made by openssl alone, by the very commands in README; another tenant's is refused by name
kid = tenant.json("kek", "show")["kid"]
check("test" in kid, "K3: the kid carries the tenant's id")
tenant.keyctl("kek", "show", "--out", base + "/kek.pem")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../README.md")) as f:
    commands = re.search(r"^( +openssl pkcs8 .*?>key\.byok)\n", f.read(), re.M | re.S).group(1)
os.rename(other.pem, base + "/key.pem")
run("sh", "-e", "-c", commands, cwd=base, env=dict(os.environ, kid=kid))
os.rename(base + "/key.pem", other.pem)
os.rename(base + "/key.byok", base + "/other.byok")
blob = open(base + "/other.byok").read()
open(base + "/foreign.byok", "w").write(blob.replace("tdefs/test/", "tdefs/acme/"))
check("tdefs/acme" in tenant.refused("K3", "key", "upload", "brought", base + "/foreign.byok"), "K3: by name")
tenant.keyctl("key", "upload", "brought", base + "/other.byok")
equal((tenant.key("brought")["fingerprint"], tenant.key("brought")["origin"]), (other.fingerprint(), "byok"), "K3")
for edit, says in ((("1.0.0", "1.0.1"), "schema_version"), (('"dir"', '"none"'), "alg"), (("RSA_AES_KEY_WRAP", "RSA_PKCS"), "enc"),
                   (('"header"', '"head"'), "header"), (("/kek/", "/kek/0"), "made for"), (('"ciphertext":"', '"ciphertext":"AAAA'), "does not open"),
                   (('"ciphertext":"', '"ciphertext":"*'), "base64url"), (('"ciphertext":"', '"ciphertext":5,"x":"'), "base64url")):
    open(base + "/bad.byok", "w").write(blob.replace(*edit))
    check(says in tenant.refused("K3", "key", "upload", "bad", base + "/bad.byok"), "K3: %s: says %s" % (edit, says))
for n in range(0, len(blob), 61):
    open(base + "/bad.byok", "w").write(blob[:n])
    done = tenant.keyctl("key", "upload", "bad", base + "/bad.byok", "--password-file", first.password, ok=(3,))
    check("K3" in done.stdout or n == 0 and "K2" in done.stdout, "K3, cut at %d: %s" % (n, done.stdout))

# Regions apart
east = Environment(tenant, "east")
tenant.keyctl("env", "create", "east", "--mountpoint", east.mnt, "--region", "east")
tenant.keyctl("key", "upload", "eastern", *first.given(), "--region", "east")
equal(states("eastern", "second"), ["Active", "Active"], "K5: one each")
# L2: the text of one region, or of one administrator, is no other's
wait_for(lambda: not any(r["lock_from"] for r in tenant.json("key", "list")["regions"]), "L3")
for region, other_region, key, other_key in (("default", "east", second, first), ("east", "default", first, second)):
    text = tenant.patiently("tenant", "lock", "--key", *key.given(), "--region", region)
    check(region in text, "L2: the text names the region")
    check("another region" in tenant.refused("L2", "tenant", "lock", "--key", *other_key.given(), "--region", other_region, "--confirm", text), "L2")
text = tenant.patiently("tenant", "lock", "--key", *first.given(), "--region", "east")
os.chmod(tenant.runtime, 0o755)


def lock_as_other():
    fds = [memfd(open(first.pfx, "rb").read()), memfd(open(first.password, "rb").read().strip())]
    return as_peer(12345, [GROUPS["tenant_admin"]], lambda: call(tenant.socket, "TenantLock", {"region": "east", "key": 0, "password": 1, "confirm": text}, fds))


check("another administrator" in str(lock_as_other()), "L2: the text is one administrator's: %s" % lock_as_other())
tenant.lock(first, "--region", "east")
equal((tenant.env("east")["state"], tenant.env("db")["state"]), ("locked", "mounted"), "L4: the region alone")
tenant.keyctl("env", "delete", "east", "--confirm", "east")

# L8
restart(guards(activation_interval="1ms", lock_after_key_change="1ms", unlock_after_lock="1ms", delete_locked_after="2s"))
tenant.lock(second)
allow_in_log("deleted")
wait_for(lambda: tenant.json("env", "list") == [], "L8: the deletion of what stays locked")
check(not os.path.exists(db.store), "L8: the store is gone")
tenant.keyctl("key", "upload", "late", *other.given())
equal(states("late", "second"), ["Available", "Locked"], "K6: the region had a key before")
tenant.patiently("key", "activate", "late", "--yes")
equal(states("late", "second"), ["Active", "Locked"], "K9: what was deleted is not locked any more")

# A1
entries = tenant.json("audit")["entries"]
for rule in ("E2", "E3", "K2", "K3", "K4", "K5", "K8", "K9", "K10", "L1", "L2", "L3", "L6", "L7", "U1", "U2", "U3", "A3"):
    check(any(e["rule"] == rule and e["outcome"] == "refused" for e in entries), "A1: a refusal by %s is an entry" % rule)
check(any(e["request"] == "L8 deletion" for e in entries), "A1: deletions too")
check("whole" in tenant.keyctl("audit", "--verify").stdout, "A1: the chain")
secret = open(first.password).read().strip()
for name in ("tdefsd.log", "state/registry.db", "state/registry.db-wal"):
    if os.path.exists(base + "/" + name):
        check(secret not in open(base + "/" + name, errors="replace").read(), "no password in " + name)
