"""Key files as administrators have them, made by openssl: so that no test reads only what tdefs wrote."""
import os
import pty
import re
import select
import termios

from tdefs import *


class KeyFile:
    """A PFX of few iterations beside its password file."""

    def __init__(self, base, name, bits=2048, password="pw of the test", arguments=()):
        self.pem, self.pfx, self.password = (os.path.join(base, name + end) for end in (".pem", ".pfx", ".pw"))
        with open(self.password, "w") as f:
            f.write(password + "\n")
        run("openssl", "genrsa", "-out", self.pem, bits)
        run("openssl", "pkcs12", "-export", "-inkey", self.pem, "-nocerts", "-passout", "file:" + self.password, "-out", self.pfx,
            *arguments)

    def given(self):
        return self.pfx, "--password-file", self.password

    def fingerprint(self):
        der = run("sh", "-c", "openssl pkey -in %s -pubout -outform DER | sha256sum" % self.pem).stdout
        return der.split()[0]


class Tenant(Keeper):
    def refused(self, rule, *arguments, status=3):
        """The command is refused, by that rule."""
        done = self.keyctl(*arguments, ok=None, stdin=subprocess.DEVNULL)
        equal(done.returncode, status, "keyctl %s: %s" % (" ".join(arguments), done.stdout))
        check(rule in done.stdout, "rule %s is named: %s" % (rule, done.stdout))
        return done.stdout

    def patiently(self, *arguments):
        """As keyctl, but waits for guard times: also the shortest is a second. What is printed on stdout."""
        def attempt():
            done = self.keyctl(*arguments, ok=None, stderr=subprocess.PIPE)
            if done.returncode == 3 and "must pass first" in done.stderr:
                return None
            equal(done.returncode, 0, "keyctl %s: %s" % (" ".join(arguments), done.stderr))
            return done
        return wait_for(attempt, "a guard time").stdout.strip()

    def key(self, name):
        return self.json("key", "show", name)

    def env(self, name):
        return self.json("env", "show", name)

    def environment_key(self, store):
        """What the platform key's wrap in the store's header gives, by an independent implementation."""
        from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
        with open(self.state + "/platform.key", "rb") as f:
            platform = f.read()[-32:]
        with open(store + "/tdefs.env") as f:
            blob = re.search(r'blob = "([0-9a-f]+)"', f.read()).group(1)
        return aes_key_unwrap_with_padding(platform, bytes.fromhex(blob))

    def lock(self, key, *more):
        text = self.patiently("tenant", "lock", "--key", *key.given(), *more)
        return self.keyctl("tenant", "lock", "--key", *key.given(), *more, "--confirm", text)

    def at_terminal(self, arguments, typed=()):
        """keyctl at a pseudo-terminal; typed: (what to wait for, what to type then: a text, or what makes it of what was shown, or
        bytes as they are). All that was shown, and the exit status, negative for a signal."""
        pid, fd = pty.fork()
        if pid == 0:
            os.execv(BIN + "/keyctl", ["keyctl", "--socket", self.socket, *arguments])
        shown, seen, steps = "", 0, list(typed)
        while True:
            if not select.select([fd], [], [], WAIT_S)[0]:
                fail("keyctl waits for something: " + shown)
            try:
                data = os.read(fd, 4096).decode()
            except OSError:
                data = ""
            if not data:
                break
            shown += data
            if steps and steps[0][0] in shown[seen:]:
                wanted, text = steps.pop(0)
                seen = shown.index(wanted, seen) + len(wanted)
                text = text(shown) if callable(text) else text
                os.write(fd, text if isinstance(text, bytes) else (text + "\n").encode())
        self.echo = bool(termios.tcgetattr(fd)[3] & termios.ECHO)
        os.close(fd)
        check(not steps, "never asked for %s: %s" % (steps, shown))
        return shown, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def guards(**values):
    names = ("activation_interval", "lock_after_key_change", "unlock_after_lock")
    return "guard: { %s };" % " ".join('%s = "%s";' % (n, values[n]) for n in values) if values else \
        "guard: { %s };" % " ".join('%s = "1ms";' % n for n in names)
