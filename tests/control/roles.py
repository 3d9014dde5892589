"""A2's first half: who may ask what, by Unix group; the whole table of requests, each as each role. Root has roles only where the
configuration says so."""
import re
import sys
import os

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from wire import *

base = scratch()
allow_in_log("refused:")
keeper = Keeper(base, role_settings(False))
with open(keeper.log_path, "ab") as log:
    keeper.process = subprocess.Popen([BIN + "/tdefsd", "--config", keeper.config, "--foreground"], stdin=subprocess.DEVNULL,
                                      stdout=log, stderr=log)
wait_for(lambda: os.path.exists(keeper.socket), "tdefsd")
os.chmod(keeper.runtime, 0o755)
UID = 12345


def every_request(methods):
    return {m: call(keeper.socket, m, {"name": "x"}) for m in methods}


print("the table here has every request of the interface, and no other")
description = as_peer(UID, ["irc"], lambda: talk(keeper.socket, {"method": "org.varlink.service.GetInterfaceDescription",
                                                                 "parameters": {"interface": INTERFACE}})[0]["parameters"]["description"])
methods = set(re.findall(r"^method (\w+)", description, re.M))
equal(methods, set(ROLES), "the requests")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../fs/control/request.c")) as f:
    equal(set(re.findall(r'^\t\{"(\w+)", ', f.read(), re.M)), methods, "the interface and tdefsd's own table")

print("each request as each role")
for role, group in GROUPS.items():
    for groups in ([group], [group, "nogroup"]):                # its own group, or a further one
        for method, reply in as_peer(UID, groups, lambda: every_request(methods)).items():
            if role in ROLES[method]:
                check(outcome(reply) != "PermissionDenied", "%s as %s: %s" % (method, role, reply))
            else:
                equal(outcome(reply), "PermissionDenied", "%s as %s" % (method, role))
                check(role in reply["parameters"]["message"] and method in reply["parameters"]["message"], "says who and what: %s" % reply)
print("two roles together")
replies = as_peer(UID, [GROUPS["vault_admin"], GROUPS["auditor"]], lambda: every_request(methods))
for method, reply in replies.items():
    equal(outcome(reply) == "PermissionDenied", not ROLES[method] & {"vault_admin", "auditor"}, method + " as both")
print("strangers, and root that has no role")
for uid, groups in ((UID, ["nogroup"]), (0, ["nogroup"]), (UID, ["root"])):
    for method, reply in as_peer(uid, groups, lambda: every_request(methods)).items():
        equal(outcome(reply), "PermissionDenied", "%s as uid %d in %s" % (method, uid, groups))
equal(keeper.keyctl("status", ok=None).returncode, 4, "keyctl's exit status")

print("A1: every denial is an entry")
entries = as_peer(UID, ["irc"], lambda: call(keeper.socket, "Audit"))["parameters"]["entries"]
denied = {(e["request"], e["uid"]) for e in entries if e["outcome"] == "denied"}
check({(m, UID) for m in ROLES if ROLES[m] != ALL} <= denied, "denials: %s" % denied)
check({("connect", UID), ("connect", 0)} <= denied, "strangers: %s" % denied)

print("root_is_all: root has every role, nobody else more than before")
keeper.stop()
with open(keeper.config) as f:
    text = f.read()
with open(keeper.config, "w") as f:
    f.write(text.replace("root_is_all = false", "root_is_all = true"))
keeper.start()
check("PermissionDenied" not in [outcome(r) for r in every_request(methods).values()], "root")
for method, reply in as_peer(UID, ["nogroup"], lambda: every_request(methods)).items():
    equal(outcome(reply), "PermissionDenied", method + " as a stranger")
