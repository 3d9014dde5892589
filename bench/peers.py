"""Other encrypters, those that Debian packages and the kernel has, each as its manual wants it for speed; and bindfs."""
import fcntl
import os
import shutil
import struct
import subprocess
import time

from systems import Ext4, drop_caches, run


class Fuse(Ext4):
    """One mount command over a lower directory."""

    def start(self):
        self.lower = self.dir + ".lower"
        os.mkdir(self.lower)
        with open(self.dir + ".pw", "w") as f:
            f.write("bench\n")
        self.first()
        self.mount()

    def first(self):
        pass

    def unmount(self):
        for _ in range(50):
            if subprocess.run(["umount", self.dir], stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        while self.daemon():
            time.sleep(0.05)

    def daemon(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as f:
                    argv = f.read().split(b"\0")
            except OSError:
                continue
            if os.path.basename(argv[0]) == self.name.encode() and self.dir.encode() in argv:
                return int(pid)
        return 0

    def store(self):
        return self.lower

    def end(self):
        super().end()
        shutil.rmtree(self.lower, ignore_errors=True)

    @classmethod
    def missing(cls):
        return None if shutil.which(cls.name) else "%s is not installed" % cls.name


class Gocryptfs(Fuse):
    name = "gocryptfs"

    def first(self):
        run("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self.dir + ".pw", self.lower)

    def mount(self):
        run("gocryptfs", "-q", "-allow_other", "-passfile", self.dir + ".pw", self.lower, self.dir)


class Securefs(Fuse):
    name = "securefs"

    def first(self):
        run("securefs", "create", "--format", "4", "--pass", "bench", self.lower)

    def mount(self):
        run("securefs", "mount", "-b", "--pass", "bench", "-o", "allow_other", self.lower, self.dir)


class Cryfs(Fuse):
    name = "cryfs"

    def first(self):
        self.state = self.dir + ".state"

    def mount(self):
        with open(self.dir + ".pw") as password:
            run("cryfs", "--cipher", "aes-256-gcm", "--blocksize", "16384", "-o", "allow_other", self.lower, self.dir, stdin=password,
                env=dict(os.environ, CRYFS_FRONTEND="noninteractive", CRYFS_NO_UPDATE_CHECK="true", CRYFS_LOCAL_STATE_DIR=self.state))

    def end(self):
        super().end()
        shutil.rmtree(self.state, ignore_errors=True)


class Encfs(Fuse):
    name = "encfs"

    def mount(self):
        run("encfs", "--standard", "--public", "--extpass=echo bench", self.lower, self.dir)


class Bindfs(Fuse):
    """No encryption: what FUSE alone costs."""
    name = "bindfs"

    def mount(self):
        run("bindfs", "--multithreaded", self.lower, self.dir)


class Fscrypt(Ext4):
    """ext4's own encryption (AES-256-XTS, names with CTS): no authentication, no FUSE. linux/fscrypt.h, version 2 policies."""
    name = "fscrypt"
    ADD_KEY, SET_POLICY, REMOVE_KEY = 0xc0506617, 0x800c6613, 0xc0406618
    DESCRIPTOR = struct.Struct("=I4x32s")

    def start(self):
        fd = os.open(self.base, os.O_RDONLY)
        key = bytearray(self.DESCRIPTOR.pack(2, b"") + struct.pack("=II32s", 64, 0, b"") + os.urandom(64))
        fcntl.ioctl(fd, self.ADD_KEY, key)
        identifier = bytes(key[8:24])
        os.close(fd)
        fd = os.open(self.dir, os.O_RDONLY)
        fcntl.ioctl(fd, self.SET_POLICY, struct.pack("=BBBB4x16s", 2, 1, 4, 3, identifier))
        os.close(fd)

    def cold(self):
        drop_caches()

    @classmethod
    def missing(cls):
        return None if os.path.exists("/sys/fs/ext4/features/encryption") else "fscrypt: this kernel's ext4 has no encryption"


PEERS = [Gocryptfs, Securefs, Cryfs, Encfs, Fscrypt, Bindfs]
