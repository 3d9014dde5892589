"""The wire as any Varlink client has it, without keyctl; and peers of other users and groups."""
import array
import fcntl
import grp
import json
import os
import socket

from tdefs import *

INTERFACE = "io.tdefs.Keeper"
SEALS = 0x0002 | 0x0004 | 0x0008        # F_SEAL_SHRINK, GROW, WRITE
F_ADD_SEALS = 1033

# Which roles may ask for what: the contract, one line a request. Everybody else is told PermissionDenied.
ALL = {"tenant_admin", "platform_operator", "vault_admin", "auditor"}
ADMINS = {"tenant_admin", "platform_operator"}
TENANT = {"tenant_admin"}
ROLES = {
    "Status": ALL, "EnvList": ALL, "EnvShow": ALL, "KeyList": ALL, "KeyShow": ALL, "Audit": ADMINS | {"auditor"},
    "EnvCreate": ADMINS, "EnvMount": ADMINS, "EnvUnmount": ADMINS, "EnvLock": ADMINS, "EnvRotate": ADMINS, "EnvScrub": ADMINS,
    "EnvRotatePause": ADMINS,
    "EnvKey": ADMINS, "EnvDelete": TENANT, "EnvUnlock": TENANT, "EnvApply": TENANT, "EnvReturn": TENANT, "EnvAttach": TENANT,
    "KeyGenerate": TENANT, "KeyUpload": TENANT, "KeyActivate": TENANT, "KeyUnlock": TENANT, "TenantLock": TENANT,
    "ClockAccept": {"platform_operator"}, "KekShow": {"tenant_admin", "vault_admin"},
}
# Groups that every Debian has; users are only numbers to the kernel.
GROUPS = {"tenant_admin": "games", "platform_operator": "news", "vault_admin": "mail", "auditor": "irc"}


class Ended(AssertionError):
    """No answer came: tdefsd is dead, or closed the connection."""


def role_settings(root_is_all):
    return "roles: { root_is_all = %s; %s };" % (str(root_is_all).lower(), " ".join('%s = "%s";' % r for r in GROUPS.items()))


def memfd(data, seals=SEALS):
    fd = os.memfd_create("secret", os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    if seals:
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


def talk(path, message, fds=(), connected=None):
    """Sends one message, bytes or what json makes of it; all replies up to the last, as objects. connected is called in between."""
    if not isinstance(message, bytes):
        message = json.dumps(message).encode() + b"\0"
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(WAIT_S * 2)
        s.connect(path)
        if connected:
            connected()
        try:
            s.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        except BrokenPipeError:
            pass                        # turned away before a byte was read: the answer is there
        answers = b""
        while True:
            try:
                piece = s.recv(1 << 20)
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Ended("tdefsd ended the conversation after %r" % answers[-200:])
            answers += piece
            if answers.endswith(b"\0"):
                replies = [json.loads(a) for a in answers.split(b"\0")[:-1]]
                if not replies[-1].get("continues"):
                    return replies


def call(path, method, parameters=None, fds=(), more=False, connected=None):
    return talk(path, {"method": INTERFACE + "." + method, "parameters": parameters or {}, "more": more}, fds, connected)[-1]


def outcome(reply):
    """"ok", the id of the rule that refuses, the name of another error, or "-" for a failure without a rule."""
    name = reply.get("error", "").split(".")[-1]
    if name in ("Refused", "Locked"):
        return reply["parameters"]["rule"] or name
    return {"": "ok", "Failed": "-"}.get(name, name)


def as_peer(uid, groups, function):
    """What function returns (JSON) in a process of that uid, in those groups alone; the last is its own."""
    gids = [grp.getgrnam(g).gr_gid for g in groups]
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(gids[:-1])
            os.setgid(gids[-1] if gids else 65534)
            os.setuid(uid)
            with os.fdopen(write_end, "w") as f:
                json.dump(function(), f)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as f:
        text = f.read()
    os.waitpid(pid, 0)
    check(text, "a peer of uid %d got no answer" % uid)
    return json.loads(text)
