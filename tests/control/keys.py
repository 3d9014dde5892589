"""The tenant's keys, rule by rule: groups K, E, L, U and A of the key service, by real programs and openssl's key files."""
import json
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *

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
        f.write('tenant = "test";\nstate_dir = "%s";\nruntime_dir = "%s";\n%s\n' % (tenant.state, tenant.runtime, settings))
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

# K1: generated; the file is ours alone, opens elsewhere, and is not overwritten
made = base + "/made.pfx"
tenant.keyctl("key", "generate", "made", "--out", made, "--password-file", first.password)
equal(os.stat(made).st_mode & 0o777, 0o600, "K1: the file's mode")
run("openssl", "pkcs12", "-in", made, "-passin", "file:" + first.password, "-noout")
equal((tenant.key("made")["origin"], tenant.key("made")["state"]), ("generated", "Available"), "K1")
equal(tenant.keyctl("key", "generate", "more", "--out", made, "--password-file", first.password, ok=None).returncode, 1, "K1: no overwriting")
tenant.refused("K1", "key", "generate", "more", "--out", made + "2", "--password-file", "/dev/null")
check(not os.path.exists(made + "2"), "nothing is left")

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

# K3: a .byok made by openssl alone, after README's commands; another tenant's is refused by name
kid = tenant.json("kek", "show")["kid"]
check("test" in kid, "K3: the kid carries the tenant's id")
tenant.keyctl("kek", "show", "--out", base + "/kek.pem")
script = r'''set -e; cd %s
openssl pkcs8 -topk8 -nocrypt -in other.pem -outform DER -out other.der
openssl rand -out aes.bin 32
openssl pkeyutl -encrypt -pubin -inkey kek.pem -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha1 -in aes.bin -out blob.bin
openssl enc -id-aes256-wrap-pad -iv A65959A6 -K $(od -An -vtx1 aes.bin | tr -d ' \n') -in other.der >>blob.bin
printf '{"schema_version":"1.0.0","header":{"kid":"%%s","alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},"ciphertext":"%%s","generator":"openssl"}' \
  "%s" "$(openssl base64 -A -in blob.bin | tr '+/' '-_' | tr -d =)" >other.byok''' % (base, kid)
run("sh", "-c", script)
blob = open(base + "/other.byok").read()
open(base + "/foreign.byok", "w").write(blob.replace("tdefs/test/", "tdefs/acme/"))
check("tdefs/acme" in tenant.refused("K3", "key", "upload", "brought", base + "/foreign.byok"), "K3: by name")
tenant.keyctl("key", "upload", "brought", base + "/other.byok")
equal((tenant.key("brought")["fingerprint"], tenant.key("brought")["origin"]), (other.fingerprint(), "byok"), "K3")

# Regions apart
east = Environment(tenant, "east")
tenant.keyctl("env", "create", "east", "--mountpoint", east.mnt, "--region", "east")
tenant.keyctl("key", "upload", "eastern", *first.given(), "--region", "east")
equal(states("eastern", "second"), ["Active", "Active"], "K5: one each")
tenant.lock(first, "--region", "east")
equal((tenant.env("east")["state"], tenant.env("db")["state"]), ("locked", "mounted"), "L4: the region alone")
tenant.keyctl("env", "delete", "east", "--confirm", "east")

# L8
restart(guards(activation_interval="1ms", lock_after_key_change="1ms", unlock_after_lock="1ms", delete_locked_after="2s"))
tenant.lock(second)
allow_in_log("deleted")
wait_for(lambda: tenant.json("env", "list") == [], "L8: the deletion of what stays locked")
check(not os.path.exists(db.store), "L8: the store is gone")

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
