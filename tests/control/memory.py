"""Keys where they may be and nowhere else: the memory of keeper and worker is searched, as root, for environment key, private keys and
passwords, while mounted, after a lock, and after a tenant's lock. The search first proves that it finds what is there."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
from keys import *
try:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
except ImportError:
    skip("python3-cryptography is not installed")

base = scratch()


def holds(pid, needles):
    """Which of the needles (name -> bytes) lie in the process's memory."""
    found = set()
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", 0) as mem:
        for line in maps:
            where, mode, *_ = line.split()
            if "r" not in mode or "[v" in line:
                continue
            start, end = (int(x, 16) for x in where.split("-"))
            if end - start > 1 << 32:             # a sanitizer's shadow
                continue
            while start < end:
                try:
                    mem.seek(start)
                    data = mem.read(min(end - start, 16 << 20))
                except (OSError, ValueError, OverflowError):
                    break
                if not data:
                    break
                found.update(name for name, needle in needles.items() if needle in data)
                start += max(len(data) - 64, 1) if start + len(data) < end else len(data)
    return found


def wrapped(store):
    """The blob of the first wrap in a store's header."""
    text = open(store + "/tdefs.env").read()
    return bytes.fromhex(re.search(r'blob = "([0-9a-f]+)"', text).group(1))


password = "a password that nothing else contains 4711"
key = KeyFile(base, "key", password=password)
private = serialization.load_pem_private_key(open(key.pem, "rb").read(), None).private_numbers()
prime, exponent = (n.to_bytes((n.bit_length() + 7) // 8, "big") for n in (private.p, private.d))
tenant = Tenant(base, guards()).start()
env = Environment(tenant).start()
with open(tenant.state + "/platform.key", "rb") as f:
    platform = f.read()[-32:]
secrets = {"environment key": aes_key_unwrap_with_padding(platform, wrapped(env.store)), "password": password.encode(),
           "prime": prime[:64], "prime as OpenSSL has it": prime[::-1][:64], "private exponent": exponent[-64:],
           "private exponent as OpenSSL has it": exponent[::-1][:64]}
worker = tenant.env("env")["pid"]
try:
    open("/proc/%d/mem" % tenant.process.pid, "rb", 0).close()
except OSError as e:
    skip("another process's memory cannot be read here: %s" % e)
equal(holds(tenant.process.pid, {"platform key": platform}), {"platform key"}, "the search finds what is there: the keeper's own key")
equal(holds(worker, secrets) - {"environment key"}, set(), "the worker knows its environment key alone")
check("environment key" in holds(worker, secrets), "the search finds what is there: the worker's environment key")
equal(holds(tenant.process.pid, secrets), set(), "the keeper forgets the environment key once it is handed on")

tenant.keyctl("key", "upload", "key", *key.given())
tenant.keyctl("key", "upload", "wrong", key.pfx, "--password-file", "/dev/null", ok=(3,))
tenant.keyctl("env", "apply-key", "env", "--yes")
equal(holds(tenant.process.pid, secrets), set(), "after upload and apply")
worker = tenant.env("env")["pid"]
tenant.keyctl("lock", "env")
check(not os.path.exists("/proc/%d" % worker), "the worker's memory is gone with it")
equal(holds(tenant.process.pid, secrets), set(), "after the lock")
tenant.keyctl("unlock", "env")
equal(holds(tenant.process.pid, secrets), set(), "after the unlock with the vault's key")
tenant.lock(key)
equal(holds(tenant.process.pid, secrets), set(), "after the tenant's lock")

# Who may look: not another user; and no core is written.
limits = open("/proc/%d/limits" % tenant.process.pid).read()
check(re.search(r"Max core file size\s+0\s+0", limits), "no cores: " + limits)
done = subprocess.run(["cat", "/proc/%d/environ" % tenant.process.pid], preexec_fn=lambda: os.setuid(65534), stdin=subprocess.DEVNULL,
                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
check(done.returncode != 0, "another user reads nothing of the keeper")
