"""Keys where they may be and nowhere else. The memory of keeper and worker is searched, as root, for every kind of key: while mounted
(the search finds what is there), at the worker's last moment, after a lock, and after a tenant's lock; for private keys and passwords
too. Then: who may look at all."""
import mmap
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../lib"))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../tools"))
from keys import *
from memory import *
try:
    from cryptography.hazmat.primitives import keywrap, serialization
except ImportError:
    skip("python3-cryptography is not installed")
import tdefs_reader

base = scratch()
CANARY = b"plaintext-canary-of-memory-"


def expand(key):
    """The round keys of AES (FIPS 197), as AES-NI code has them; no library hands them out."""
    sbox, p, q = [0x63] * 256, 1, 1
    while True:
        p = p ^ (p << 1 & 0xff) ^ (0x1b if p & 0x80 else 0)
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q = q & 0xff ^ (0x09 if q & 0x80 else 0)
        sbox[p] = (q ^ (q << 1 | q >> 7) ^ (q << 2 | q >> 6) ^ (q << 3 | q >> 5) ^ (q << 4 | q >> 4)) & 0xff ^ 0x63
        if p == 1:
            break
    words, rcon = [key[i:i + 4] for i in range(0, len(key), 4)], 1
    for i in range(8, 60):
        t = words[-1]
        if i % 8 == 0:
            t = bytes(sbox[b] for b in t[1:] + t[:1])
            t = bytes([t[0] ^ rcon]) + t[1:]
            rcon <<= 1
        elif i % 8 == 4:
            t = bytes(sbox[b] for b in t)
        words.append(bytes(a ^ b for a, b in zip(words[-8], t)))
    return b"".join(words)


equal(expand(bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"))[-16:].hex(),
      "fe4890d1e6188d0b046df344706c631e", "the last round key of FIPS 197's example")


def keys_of(store, ek):
    """Every key that follows from an environment's key; of files: the one in its root."""
    derive, s = tdefs_reader.derive, tdefs_reader.Store(store, ek)
    lower = next(e.path for e in os.scandir(store + "/root") if e.name != "tdefs.dir" and e.is_file())
    with open(lower, "rb") as f:
        fk = keywrap.aes_key_unwrap(s.wrap, f.read(512)[44:84])
    content, block = derive(fk, "tdefs v1 content", 64), derive(fk, "tdefs v1 block mac", 32, 1)
    return {"environment key": ek, "header-MAC key": derive(ek, "tdefs v1 environment header", 32),
            "names-wrap key": derive(ek, "tdefs v1 names wrap", 32), "file-wrap key": s.wrap, "names key": s.names[:32],
            "second half of the names key": s.names[32:], "directory-MAC key": s.dir_mac, "file key": fk,
            "content key": content[:32], "content key's round keys": expand(content[:32])[32:96], "tweak key": content[32:],
            "tweak key's round keys": expand(content[32:])[32:96], "block-MAC key": block,
            "block-MAC key's round keys": expand(block)[32:96], "file-header-MAC key": derive(fk, "tdefs v1 file header", 32),
            "plaintext": CANARY}


password = "a password that nothing else contains 4711"
key = KeyFile(base, "key", password=password)
private = serialization.load_pem_private_key(open(key.pem, "rb").read(), None).private_numbers()
prime, exponent = (n.to_bytes((n.bit_length() + 7) // 8, "big") for n in (private.p, private.d))
tenant = Tenant(base, guards()).start()
env = Environment(tenant).start()
keeper = tenant.process.pid
need_other_memory(keeper)
with open(env.mnt + "/file", "wb") as f:
    f.write(CANARY * 20000)
    os.fsync(f.fileno())
held = os.open(env.mnt + "/file", os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 16)
os.preadv(held, [buffer], 0)
with open(tenant.state + "/platform.key", "rb") as f:
    platform = f.read()[-32:]
ek = tenant.environment_key(env.store)
secrets = {"password": password.encode(), "prime": prime[:64], "prime as OpenSSL has it": prime[::-1][:64],
           "private exponent": exponent[-64:], "private exponent as OpenSSL has it": exponent[::-1][:64], **keys_of(env.store, ek)}


def worker():
    return tenant.env("env")["pid"]


equal(holds(keeper, {"platform key": platform}), {"platform key"}, "the search finds what is there: the keeper's own key")
there = holds(worker(), {**secrets, "platform key": platform})
print("in a worker that serves:", ", ".join(sorted(there)))
must = {"environment key", "file-wrap key", "names key", "second half of the names key", "directory-MAC key", "file key",
        "content key's round keys", "tweak key's round keys", "block-MAC key's round keys", "file-header-MAC key", "plaintext"}
equal(must - there, set(), "the search finds what is there: the worker's keys, as they are and expanded, and what it read last")
equal(there & {"platform key", "password", "prime", "private exponent"}, set(), "the worker knows nothing of the keeper's secrets")
equal(holds(keeper, secrets), set(), "the keeper forgets the environment key once it is handed on")

tenant.keyctl("key", "upload", "key", *key.given())
tenant.keyctl("key", "upload", "wrong", key.pfx, "--password-file", "/dev/null", ok=(3,))
tenant.keyctl("env", "apply-key", "env", "--yes")
equal(holds(keeper, secrets), set(), "after upload and apply")


def at_the_end(how, *arguments):
    """Locks or unmounts, and looks when the worker is about to be gone."""
    pid = worker()

    def look(pid):
        return holds(pid, secrets), sum(len(data) - data.count(0) for writable, data in regions(pid) if writable)

    moment = LastMoment(pid, look)
    tenant.keyctl(*arguments)
    found, rest = moment.wait()
    print("%s: at the worker's last moment %d bytes that are not zero are left in what it may write" % (how, rest))
    if not SANITIZED:
        equal(found, set(), "at the worker's last moment, " + how)
        check(rest < 100000, "all but the last words is zero: %d bytes are not" % rest)
    wait_for(lambda: not os.path.exists("/proc/%d" % pid), "the worker's end")
    equal(holds(keeper, secrets), set(), "in the keeper, " + how)


# A sanitizer's build does not zero its own tables.
SANITIZED = "san" in run("ldd", BIN + "/tdefs-mount").stdout
at_the_end("locked while a file is open", "lock", "env")
os.close(held)
tenant.keyctl("unlock", "env")
equal(holds(keeper, secrets), set(), "after the unlock with the vault's key")
at_the_end("unmounted", "env", "unmount", "env")
tenant.keyctl("env", "mount", "env")
tenant.lock(key)
equal(holds(keeper, secrets), set(), "after the tenant's lock")
tenant.patiently("key", "unlock", "key", *key.given())
tenant.keyctl("env", "unlock", "env", "--yes")

print("who may look")
pid = worker()
status = open("/proc/%d/status" % pid).read()
check(int(re.search(r"VmLck:\s+(\d+)", status).group(1)) > 0, "the worker's memory is locked: " + status)
equal(re.search(r"VmSwap:\s+(\d+)", status).group(1), "0", "nothing of it is in swap")
without = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
for target in pid, keeper:
    check(re.search(r"Max core file size\s+0\s+0", open("/proc/%d/limits" % target).read()), "no cores")
    for who in without, nobody:
        for what in "mem", "environ", "maps":
            done = run(*who, "head", "-c", "1", "/proc/%d/%s" % (target, what), ok=None)
            check(done.returncode != 0, "%s reads %s of %d: %s" % (who, what, target, done.stdout))
        done = run(*who, "/usr/bin/python3", "-c", "import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(16, %d, 0, 0) == 0)" % target, ok=None)
        equal(done.returncode, 0, "%s traces %d" % (who, target))
