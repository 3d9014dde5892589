"""Who may ask what: roles by Unix group, root included where the configuration says so."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from tdefs import *

# Groups that every Debian has; users are only numbers to the kernel.
import grp
GROUPS = {"tenant_admin": "games", "platform_operator": "news", "vault_admin": "mail", "auditor": "irc"}
base = scratch()
keeper = Keeper(base, "roles: { root_is_all = false; %s };" % " ".join('%s = "%s";' % r for r in GROUPS.items()))
allow_in_log("refused:")


# Another user must be able to run keyctl where it lies.
copy = os.path.join(base, "keyctl")
run("cp", BIN + "/keyctl", copy)
os.chmod(copy, 0o755)
BIN_KEYCTL = copy


def keyctl(role, *arguments):
    gid = grp.getgrnam(GROUPS[role]).gr_gid if role else 65534

    def become():
        os.setgroups([gid])
        os.setgid(65534)
        os.setuid(12345)
    return subprocess.run([BIN_KEYCTL, "--socket", keeper.socket, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, preexec_fn=become, timeout=WAIT_S)


with open(keeper.log_path, "ab") as log:
    keeper.process = subprocess.Popen([BIN + "/tdefsd", "--config", keeper.config, "--foreground"], stdin=subprocess.DEVNULL,
                                      stdout=log, stderr=log)
os.chmod(keeper.runtime, 0o755)
wait_for(lambda: keyctl("auditor", "status").returncode == 0, "tdefsd")
mnt = os.path.join(base, "m")
os.mkdir(mnt)

equal(keeper.keyctl("status", ok=None).returncode, 4, "root has no role here")
equal(keyctl(None, "status").returncode, 4, "a stranger has no role")

# command -> roles that may; the others get 4
ALL = set(GROUPS)
ADMINS = {"tenant_admin", "platform_operator"}
TABLE = [(("status",), ALL), (("env", "list"), ALL), (("env", "show", "x"), ALL),
         (("env", "create", "x", "--mountpoint", base + "/missing"), ADMINS), (("env", "mount", "x"), ADMINS),
         (("env", "unmount", "x"), ADMINS), (("env", "delete", "x", "--confirm", "x"), {"tenant_admin"}), (("lock", "x"), ADMINS),
         (("unlock", "x"), {"tenant_admin"}), (("env", "apply-key", "x", "--yes"), {"tenant_admin"}),
         (("env", "attach", "x", "--store", base + "/missing", "--mountpoint", base), {"tenant_admin"}),
         (("env", "unlock", "x", "--yes"), {"tenant_admin"}), (("key", "list"), ALL), (("key", "show", "x"), ALL),
         (("key", "activate", "x", "--yes"), {"tenant_admin"}), (("kek", "show"), {"tenant_admin", "vault_admin"}),
         (("scrub", "x"), ADMINS), (("audit",), ADMINS | {"auditor"})]
for command, allowed in TABLE:
    for role in sorted(ALL):
        done = keyctl(role, *command)
        if role in allowed:
            check(done.returncode in (0, 1), "%s as %s: %d %s" % (command, role, done.returncode, done.stdout))
        else:
            equal(done.returncode, 4, "%s as %s: %s" % (command, role, done.stdout))
            check(role in done.stdout, "the role is named: " + done.stdout)
entries = keyctl("auditor", "audit").stdout
check("denied" in entries and "vault_admin" in entries, "A1: refusals for lack of a role are entries")
