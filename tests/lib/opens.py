"""What a key opens of a store, by an independent implementation: file keys, and blocks."""
import os
import re
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tools"))
from tdefs import *
try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes, keywrap, serialization
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from tdefs_reader import derive
except ImportError:
    skip("python3-cryptography is not installed")

READ_MAX = 20 << 20     # of a file; the far end of a sparse one is looked at by the mount


def header(store):
    with open(store + "/tdefs.env") as f:
        return f.read()


def wrapped_by(store):
    """The fingerprints of the keys that the store's environment key is wrapped by."""
    return set(re.findall(r'fingerprint = "([0-9a-f]+)"', header(store)))


def environment_key_by(store, key):
    """What the header's first wrap gives with a tenant's key file."""
    blob = bytes.fromhex(re.search(r'blob = "([0-9a-f]+)"', header(store)).group(1))
    with open(key.pem, "rb") as f:
        private = serialization.load_pem_private_key(f.read(), None)
    return private.decrypt(blob, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))


def file_keys(store, ek):
    """By file id: the file keys that ek opens."""
    wrap, keys = derive(ek, "tdefs v1 file wrap", 32), {}
    for path in lower_files(store):
        with open(path, "rb") as f:
            sector = f.read(512)
        for at in (44, 88):
            try:
                keys.setdefault(sector[16:32], []).append(keywrap.aes_key_unwrap(wrap, sector[at:at + 40]))
            except keywrap.InvalidUnwrap:
                pass
    return keys


def count_keys(store, ek):
    """How many file keys of the store ek opens."""
    return sum(map(len, file_keys(store, ek).values()))


def blocks_opened(store, keys):
    """How many of the store's blocks one of these file keys opens, of how many."""
    opened = count = 0
    for path in lower_files(store):
        with open(path, "rb") as f:
            lower = f.read(READ_MAX)
        file_id, macs, at, number = lower[16:32], {}, 4096, 0
        while at + 8192 <= len(lower):
            tags, at = lower[at:at + 4096], at + 4096
            for i in range(128):
                cipher, entry = lower[at:at + 4096], tags[32 * i:32 * i + 32]
                if len(cipher) < 4096:
                    break
                at += 4096
                number += 1
                if entry == bytes(32):
                    continue
                count += 1
                generation = struct.unpack_from("<I", entry)[0]
                zero = generation >> 31
                for fk in keys.get(file_id, ()):
                    mac = macs.setdefault((fk, generation & 0x3fffffff), None) or AESGCM(derive(fk, "tdefs v1 block mac", 32, generation & 0x3fffffff))
                    macs[fk, generation & 0x3fffffff] = mac
                    try:
                        mac.decrypt(entry[4:16], entry[16:], file_id + struct.pack("<QQ", number - 1, 2 if zero else 1) + (b"" if zero else cipher))
                        opened += 1
                        break
                    except InvalidTag:
                        pass
    return opened, count
