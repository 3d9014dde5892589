"""A2, K1: what keyctl asks at a terminal, through a pseudo-terminal; what it says where there is none; bars on long work."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *

base = scratch()
allow_in_log("refused:", "deleted")
tenant = Tenant(base, guards()).start()
db, app = Environment(tenant, "db").start(), Environment(tenant, "app")
tenant.keyctl("env", "create", "app", "--mountpoint", app.mnt, "--type", "sandbox")
mine = base + "/mine.pfx"


def asked(arguments, typed, status, *words):
    """What was typed led to this exit status, and to these words."""
    shown, got = tenant.at_terminal(arguments, typed)
    equal(got, status, "%s: %s" % (" ".join(arguments), shown))
    for w in words:
        check(w in shown, "%s: %r in %s" % (" ".join(arguments), w, shown))
    check("secret" not in shown, "passwords are not shown: " + shown)
    check(tenant.echo, "the terminal shows again what is typed")
    return shown


print("K1: the password twice, not shown, the same")
generate = ("key", "generate", "mine", "--out", mine)
asked(generate, [("New password", "secret-1"), ("again", "secret-2")], 1, "differ")
asked(generate, [("New password", ""), ("again", "")], 3, "K1")
asked(generate, [("New password", b"\x03")], -2)                  # ^C
asked(generate, [("New password", "secret-1"), ("again", b"sec\x03")], -2)
check(not os.path.exists(mine) and tenant.json("key", "list")["keys"] == [], "nothing was made")
asked(generate, [("New password", "secret-1"), ("again", "secret-1")], 0, "Active", "safe place")
asked(("key", "upload", "again", mine), [("Password of the key file", "secret-2")], 3, "K2", "password is wrong")
two = KeyFile(base, "two", password="secret-3")
asked(("key", "upload", "two", two.pfx), [("Password of the key file", "secret-3")], 0, "Available")

print("A2: a yes, in full")
for no in ("no", "", "y", "YES", b"\x04"):
    asked(("env", "apply-key", "db"), [("Type yes", no)], 1, "not confirmed, nothing was done")
equal(tenant.env("db")["key_source"], "platform", "nothing was done")
asked(("env", "apply-key", "db"), [("Type yes", "yes")], 0, "under the key mine")
tenant.keyctl("env", "apply-key", "app", "--yes")
asked(("env", "return-key", "app"), [("Type yes", "no")], 1)
asked(("env", "return-key", "app"), [("Type yes", "yes")], 0, "platform key again")
asked(("env", "return-key", "db"), [("Type its name", "bd")], 3, "E3")
asked(("env", "return-key", "db"), [("Type its name", "")], 1, "nothing was done")
equal(tenant.env("db")["key"], "mine", "E3")
asked(("env", "return-key", "db"), [("Type its name", "db")], 0)
tenant.keyctl("env", "apply-key", "db", "--yes")
wait_for(lambda: not any(r["activation_from"] for r in tenant.json("key", "list")["regions"]), "K8")
asked(("key", "activate", "two"), [("Type yes", "no")], 1)
shown = asked(("key", "activate", "two"), [("Type yes", "yes")], 0, "Active")
check("[##############################] 2 of 2 environments" in shown, "a bar: " + shown)
one_line = tenant.keyctl("key", "list").stdout
check("\r" not in one_line and "#" not in one_line, "no bar elsewhere")

print("L2: the text that is shown, typed back")
lock = ("tenant", "lock", "--key", two.pfx)
wait_for(lambda: not any(r["lock_from"] for r in tenant.json("key", "list")["regions"]), "L3")
asked(lock, [("Password", "secret-3"), ("> ", "lock default AAAA-AAAA")], 3, "L2", "offline, for everyone")
asked(lock, [("Password", "secret-3"), ("> ", "")], 1, "nothing was done")
asked(lock, [("Password", "secret-4")], 3, "K2")
equal(tenant.env("db")["state"], "mounted", "L2")
shown = asked(lock, [("Password", "secret-3"), ("\r\n> ", lambda s: s.split("type: ")[1].splitlines()[0].strip())], 0, "is locked")
check("2 of 2 environments" in shown, "a bar: " + shown)
equal((tenant.env("db")["state"], tenant.env("app")["state"]), ("locked", "locked"), "L2 at a terminal")

print("U1, U3 at a terminal")
wait_for(lambda: not any(r["unlock_from"] for r in tenant.json("key", "list")["regions"]), "L6")
asked(("key", "unlock", "two", two.pfx), [("Password", "secret-3")], 0, "Active", "2 of 2 environments")
asked(("env", "unlock", "db"), [("readable again. Type yes", "no")], 1)
equal(tenant.env("db")["state"], "locked", "U3: not confirmed")
asked(("env", "unlock", "db"), [("readable again. Type yes", "yes")], 0)
asked(("env", "delete", "app"), [("Type its name", "db")], 3, "A2")
asked(("env", "delete", "app"), [("Type its name", "")], 1)
equal(len(tenant.json("env", "list")), 2, "A2: nothing was deleted")
asked(("env", "delete", "app"), [("Type its name", "app")], 0)
tenant.keyctl("env", "unmount", "db")
os.rename(db.store, base + "/carried")
tenant.keyctl("env", "delete", "db", "--confirm", "db")
asked(("env", "attach", "db", "--store", base + "/carried", "--mountpoint", db.mnt, "--key", two.pfx), [("Password of", "secret-3")], 0, "attached")

print("A2: where there is no terminal, never in silence: what is missing is said")
for command, says in ((("env", "apply-key", "db"), "--yes"), (("key", "activate", "mine"), "--yes"), (("env", "unlock", "db"), "--yes"),
                      (("env", "delete", "db"), "--confirm db")):
    done = tenant.keyctl(*command, ok=(2,))
    check(says in done.stdout and "A2" in done.stdout, "%s: %s" % (command, done.stdout))
tenant.keyctl("env", "apply-key", "db", "--yes", ok=None)
check("--confirm db" in tenant.refused("E3", "env", "return-key", "db"), "E3 without a terminal")
for command in (("key", "upload", "x", two.pfx), ("key", "generate", "x", "--out", base + "/x.pfx"), ("tenant", "lock", "--key", two.pfx),
                ("key", "unlock", "two", two.pfx)):
    done = tenant.keyctl(*command, ok=(2,), start_new_session=True)
    check("--password-file" in done.stdout, "%s: %s" % (command, done.stdout))

print("files are not overwritten")
tenant.keyctl("kek", "show", "--out", base + "/kek.pem")
for name in ("kek.pem", "two.pfx"):
    with open(base + "/" + name, "rb") as f:
        before = f.read()
    check("not overwritten" in tenant.keyctl("kek", "show", "--out", base + "/" + name, ok=(1,)).stdout, "kek show")
    check("not overwritten" in tenant.keyctl("key", "generate", "y", "--out", base + "/" + name, "--password-file", two.password, ok=(1,)).stdout,
          "key generate")
    with open(base + "/" + name, "rb") as f:
        equal(f.read(), before, name)
os.symlink(base + "/nowhere", base + "/link")
tenant.keyctl("key", "generate", "y", "--out", base + "/link", "--password-file", two.password, ok=(1,))
check(not os.path.exists(base + "/nowhere"), "no file behind a link")
check("y" not in [k["name"] for k in tenant.json("key", "list")["keys"]], "K1: no key whose file could not be written")
