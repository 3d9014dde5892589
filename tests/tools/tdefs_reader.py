#!/usr/bin/python3
"""An independent reader of tdefs stores, written from the format chapter alone, on Debian's python3-cryptography.

    tdefs_reader.py STORE KEYFILE       KEYFILE holds the environment key, 64 hex digits

Prints one line an object, sorted: type, mode, size, SHA-256 of the content (or the target), plain path; and for extended
attributes their name and value's SHA-256. Ends with an error on anything that does not verify.
"""
import base64
import hashlib
import hmac
import os
import re
import stat
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

BLOCK, GROUP = 4096, 128


def derive(key, label, length, context=0):
    info = label.encode() + b"\0" + struct.pack("<I", context)
    return HKDF(hashes.SHA256(), length, None, info).derive(key)


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), "sha256").digest()


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Store:
    def __init__(self, path, ek):
        self.path = path
        with open(os.path.join(path, "tdefs.env"), "rb") as f:
            text = f.read()
        body, line = text[:-74], text[-74:]
        want = re.fullmatch(rb'mac = "([0-9a-f]{64})";\n', line).group(1)
        assert mac(derive(ek, "tdefs v1 environment header", 32), body).hex().encode() == want, "header MAC"
        wrapped = bytes.fromhex(re.search(rb'names_key = "([0-9a-f]+)"', body).group(1).decode())
        self.names = keywrap.aes_key_unwrap(derive(ek, "tdefs v1 names wrap", 32), wrapped)
        self.dir_mac = derive(self.names, "tdefs v1 directory id", 32)
        self.wrap = derive(ek, "tdefs v1 file wrap", 32)

    def open_name(self, sealed, *associated):
        return AESSIV(self.names).decrypt(sealed, list(associated))

    def directory_id(self, path):
        with open(os.path.join(path, "tdefs.dir"), "rb") as f:
            copy = f.read()[:512]
        assert copy[:8] == b"TDEFSD1\0" and mac(self.dir_mac, copy[:24]) == copy[24:56], "directory id"
        return copy[8:24]

    def name(self, directory, ident, lower):
        if lower.startswith("l."):
            with open(os.path.join(directory, "n." + lower[2:]), "rb") as f:
                sealed = f.read()
            assert hashlib.sha256(sealed).digest() == unbase64(lower[2:]), "side file"
        else:
            sealed = unbase64(lower)
        return os.fsdecode(self.open_name(sealed, ident))

    def content(self, path):
        with open(path, "rb") as f:
            lower = f.read()
        if not lower:
            return b""
        head = lower[:512]
        version, flags = struct.unpack_from("<II", head, 8)
        assert head[:8] == b"TDEFSF1\0" and version in (1, 2) and flags <= version - 1, "key sector"
        file_id, records = head[16:32], [head[44:84]] + ([head[88:128]] if head[84:88] != bytes(4) else [])
        files_keys = [keywrap.aes_key_unwrap(self.wrap, wrapped) for wrapped in records]
        header_macs = [derive(fk, "tdefs v1 file header", 32) for fk in files_keys]
        assert mac(header_macs[0], head[:480]) == head[480:], "key sector's MAC"
        slots = [lower[o:o + 512] for o in (1024, 1536)]
        slots = [s for s in slots if any(mac(key, file_id, s[:480]) == s[480:] for key in header_macs)]
        slot = max(slots, key=lambda s: struct.unpack_from("<Q", s, 8))
        dense = struct.unpack_from("<I", slot, 32)[0] & 1
        by_bit = {flags ^ k: fk for k, fk in enumerate(files_keys)}         # record 0's blocks have the key bit that flags say
        xts, keys = {bit: derive(fk, "tdefs v1 content", 64) for bit, fk in by_bit.items()}, {}
        out, at, number = [], 4096, 0
        while at + BLOCK + BLOCK <= len(lower):
            tags = lower[at:at + BLOCK]
            at += BLOCK
            for i in range(GROUP):
                cipher = lower[at:at + BLOCK]
                if len(cipher) < BLOCK:
                    break
                entry = tags[32 * i:32 * i + 32]
                generation = struct.unpack_from("<I", entry)[0]
                zero, bit, generation = generation >> 31, generation >> 30 & 1, generation & 0x3fffffff
                if entry == bytes(32):
                    assert not dense, "a hole in a dense file"
                    out.append(bytes(BLOCK))
                else:
                    if (bit, generation) not in keys:
                        keys[bit, generation] = AESGCM(derive(by_bit[bit], "tdefs v1 block mac", 32, generation))
                    about = file_id + struct.pack("<QQ", number, 2 if zero else 1) + (b"" if zero else cipher)
                    keys[bit, generation].decrypt(entry[4:16], entry[16:], about)    # InvalidTag where it does not verify
                    plain = Cipher(algorithms.AES(xts[bit]), modes.XTS(struct.pack("<QQ", number, 0))).decryptor()
                    out.append(bytes(BLOCK) if zero else plain.update(cipher) + plain.finalize())
                at += BLOCK
                number += 1
        tail = len(lower) - (4096 + (number + GROUP - 1) // GROUP * BLOCK + number * BLOCK)
        data = b"".join(out)
        return data[:len(data) - BLOCK + tail] if tail else data

    def target(self, path):
        text = os.readlink(path)
        sealed = unbase64(text.lstrip("+"))
        if text.startswith("+"):
            sealed += os.getxattr(path, "trusted.t.target", follow_symlinks=False)
        return self.open_name(sealed, b"symlink\0")

    def attributes(self, path, kind):
        prefix = "user.t." if kind in "fd" else "trusted.t."
        for lower in os.listxattr(path, follow_symlinks=False):
            if lower.startswith(prefix) and lower != "trusted.t.target":
                rest, sealed = lower[len(prefix):], os.getxattr(path, lower, follow_symlinks=False)
                if rest.startswith("+"):
                    value = self.open_name(sealed, rest.encode())
                    name, value = value[1:1 + value[0]], value[1 + value[0]:]
                    digest = hashlib.sha256(AESSIV(self.names).encrypt(name, [b"xattr name\0"])).digest()
                    assert unbase64(rest[1:]) == digest, "a long name that is not its hash's"
                else:
                    name = self.open_name(unbase64(rest), b"xattr name\0")
                    value = self.open_name(sealed, name)
                    assert value[:1] == b"\0"
                    value = value[1:]
                yield os.fsdecode(name), value

    def walk(self, lower, plain):
        ident = self.directory_id(lower)
        for entry in os.scandir(lower):
            if entry.name == "tdefs.dir" or entry.name.startswith("n."):
                continue
            name = plain + "/" + self.name(lower, ident, entry.name)
            st = entry.stat(follow_symlinks=False)
            kind = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}.get(stat.S_IFMT(st.st_mode), "o")
            data = self.content(entry.path) if kind == "f" else self.target(entry.path) if kind == "l" else b""
            yield "%s %04o %d %s %s" % (kind, st.st_mode & 0o7777, len(data), hashlib.sha256(data).hexdigest(), name)
            for attribute, value in self.attributes(entry.path, kind):
                yield "x %s %s %s" % (attribute, hashlib.sha256(value).hexdigest(), name)
            if kind == "d":
                yield from self.walk(entry.path, name)


def main():
    with open(sys.argv[2]) as f:
        store = Store(sys.argv[1], bytes.fromhex(f.read(64)))
    sys.stdout.reconfigure(errors="surrogateescape")
    print("\n".join(sorted(store.walk(os.path.join(sys.argv[1], "root"), ""))))


if __name__ == "__main__":
    main()
