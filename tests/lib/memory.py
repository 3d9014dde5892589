"""The memory of other processes, as root sees it: searched for what must not be there, also at the last moment of their life."""
import ctypes
import os
import signal
import threading

from tdefs import *

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long] * 4
PTRACE_CONT, PTRACE_DETACH, PTRACE_SEIZE = 7, 17, 0x4206
PTRACE_O_TRACEEXIT, PTRACE_EVENT_EXIT = 0x40, 6
WALL = 0x40000000


def regions(task):
    """(writable, bytes) of every readable piece of memory of /proc/`task`."""
    with open("/proc/%s/maps" % task) as maps, open("/proc/%s/mem" % task, "rb", 0) as mem:
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
                yield "w" in mode, data
                start += max(len(data) - 64, 1) if start + len(data) < end else len(data)


def holds(task, needles):
    """Which of the needles (name -> bytes) lie in its memory."""
    found = set()
    for _, data in regions(task):
        found.update(name for name, needle in needles.items() if needle in data)
    return found


def need_other_memory(pid):
    try:
        open("/proc/%d/mem" % pid, "rb", 0).close()
    except OSError as e:
        skip("another process's memory cannot be read here: %s" % e)


class LastMoment:
    """Stops the process in the kernel when it has begun to exit and its memory is still there, however it ends; a release build
    with all its protections. look(pid) is called then."""

    def __init__(self, pid, look):
        self.pid, self.look, self.result, self.error = pid, look, None, None
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.ready.wait()

    def _run(self):
        try:
            if _libc.ptrace(PTRACE_SEIZE, self.pid, 0, PTRACE_O_TRACEEXIT) != 0:
                self.error = "ptrace: " + os.strerror(ctypes.get_errno())
                return
            self.ready.set()
            while True:
                _, status = os.waitpid(self.pid, WALL)
                if not os.WIFSTOPPED(status):
                    self.error = "it ended unseen"
                    return
                if status >> 16 == PTRACE_EVENT_EXIT:
                    break
                _libc.ptrace(PTRACE_CONT, self.pid, 0, os.WSTOPSIG(status))
            self.result = self.look(self.pid)
            _libc.ptrace(PTRACE_DETACH, self.pid, 0, 0)
        except Exception as e:
            self.error = repr(e)
        finally:
            self.ready.set()

    def wait(self):
        self.thread.join()
        check(self.error is None, "at the last moment: %s" % self.error)
        return self.result
