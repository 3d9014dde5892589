"""Crash states of a store whose worker was a recording_mount (tests/crash/record.h says what they are)."""
import bisect
import os
import random
import shutil
import tempfile
import threading
import time

from tdefs import *


def memory_directory():
    """A directory in memory where there is one, for others to search; it goes with the test."""
    path = tempfile.mkdtemp(prefix="tdefs-states-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    os.chmod(path, 0o755)
    undo(shutil.rmtree, path, True)
    return path


class Recording:
    """Of whichever recording_mount is started next by this process or its children. key: a file with the environment key."""
    program = TEST_BIN + "/recording_mount"

    def __init__(self, memory, name, key="-"):
        self.memory, self.name, self.key = memory, name, key
        self.log, self.before = os.path.join(memory, name + ".record"), os.path.join(memory, name + ".base")
        self.times, self.sizes, self.ended = [], [], threading.Event()

    def begin(self):
        self.remove()
        os.environ.update(TDEFS_RECORD_LOG=self.log, TDEFS_RECORD_BASE=self.before)

    def end(self):
        """Workers that are started from now on are not recorded."""
        os.environ.pop("TDEFS_RECORD_LOG", None)
        os.environ.pop("TDEFS_RECORD_BASE", None)

    def remove(self):
        shutil.rmtree(self.before, ignore_errors=True)
        if os.path.exists(self.log):
            os.unlink(self.log)

    def recorded(self):
        return os.stat(self.log).st_size if os.path.exists(self.log) else 0

    def follow(self):
        """Notes how long the log is, until unfollow, for recorded_at."""
        def look():
            while not self.ended.wait(0.001):
                self.times.append(time.time())
                self.sizes.append(self.recorded())
        self.follower = threading.Thread(target=look, daemon=True)
        self.follower.start()

    def unfollow(self):
        self.ended.set()
        self.follower.join()

    def recorded_at(self, when):
        """How long the log was at most at that time; never less than it was."""
        k = bisect.bisect_left(self.times, when)
        return self.sizes[k] if k < len(self.sizes) else self.recorded()


class States:
    """Crash states of a recording, one at a time, of cuts after its first bytes and within its last; with name, soon after a write to
    the file of that name."""

    def __init__(self, recording, platform_key, first, last=None, name=None):
        self.recording, self.platform_key, self.name, self.seed = recording, platform_key, name, random.randrange(1 << 32)
        self.range = str(first) + ("-%d" % last if last else "") + ("@" + name if name else "")
        self.store, self.plain = recording.memory + "/store", recording.memory + "/plain"
        self.resealed, self.loose = 0, set()

    def make(self, number, plain, *plant):
        for path in (self.store, self.plain):
            shutil.rmtree(path, ignore_errors=True)
        return run(TEST_BIN + "/crash_state", self.recording.before, self.recording.log, self.recording.key, self.seed + number, self.range,
                   self.store, plain, *plant, ok=None)

    def _made(self, number, plain, *plant):
        done = self.make(number, plain, *plant)
        check(done.returncode == 0, "state %d of %s: %s" % (self.seed + number, self.recording.name, done.stdout))
        words = done.stdout.split()
        self.resealed += int(words[1])
        self.loose.update([number] * (words[2] == "loose"))
        return int(words[0]), "state %d of %s: %s" % (self.seed + number, self.recording.name, done.stdout.strip())

    def build(self, number, *plant):
        """Opened, verified, and written out to plain: bytes of the log before the cut, and a name for the state."""
        return self._made(number, self.plain, *plant)

    def leave(self, number, *plant):
        """As the crash leaves it."""
        return self._made(number, "-", *plant)

    def fsck(self, *repair):
        """The program, on a state as it is, and what it left."""
        run(BIN + "/tdefs-fsck", self.store, "--key-from", self.platform_key, *repair)
        run(BIN + "/tdefs-fsck", self.store, "--key-from", self.platform_key)


def promised(acknowledged, cut):
    """acknowledged: (what, bytes of the log by then)."""
    return {what for what, at in acknowledged if at <= cut}
