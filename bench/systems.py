"""What is compared: each system gives a directory, `cold()` forgets what is cached of it, `end()` takes it away."""
import os
import shutil
import subprocess
import time


def run(*argv, **more):
    more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("timeout", 600)
    try:
        done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **more)
    except subprocess.TimeoutExpired as e:
        raise RuntimeError("%s: not done in %d s" % (argv[0], e.timeout)) from None
    if done.returncode != 0:
        raise RuntimeError("%s: %d\n%s" % (" ".join(map(str, argv)), done.returncode, done.stdout))
    return done.stdout


class Timed:
    """`with timed:` is around the part of a workload that counts; by the clock that perf can use."""
    begun = ended = 0.0

    def __enter__(self):
        self.begun = time.monotonic()

    def __exit__(self, *_):
        self.ended = time.monotonic()

    def seconds(self):
        return self.ended - self.begun


timed = Timed()


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3\n")


class Ext4:
    name = "ext4"

    def __init__(self, base, bin_dir):
        self.base, self.bin = base, bin_dir
        self.dir = os.path.join(base, self.name)
        os.mkdir(self.dir)
        self.start()

    def start(self):
        pass

    def mount(self):
        pass

    def unmount(self):
        pass

    def cold(self):
        self.unmount()
        drop_caches()
        self.mount()

    def end(self):
        self.unmount()
        subprocess.run(["chattr", "-i", self.dir], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def daemon(self):
        """Process id of what serves the directory, 0 for none."""
        return 0

    def store(self):
        """The directory that the bytes end up in."""
        return self.dir

    @classmethod
    def missing(cls):
        return None


class Tdefs(Ext4):
    name, settings = "tdefs", ""

    def start(self):
        self.state = os.path.join(self.base, self.name + ".state")
        os.makedirs(self.state + "/run")
        with open(self.state + "/conf", "w") as f:
            f.write('tenant = "bench";\nstate_dir = "%s";\nruntime_dir = "%s/run";\n%s\n' % (self.state, self.state, self.settings))
        with open(self.state + "/log", "w") as log:
            self.keeper = subprocess.Popen([self.bin + "/tdefsd", "--config", self.state + "/conf", "--foreground"], stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=log)
        for _ in range(200):
            if os.path.exists(self.state + "/run/keyctl.sock"):
                break
            time.sleep(0.05)
        self.keyctl("env", "create", "b", "--mountpoint", self.dir)

    def keyctl(self, *arguments):
        return run(self.bin + "/keyctl", "--socket", self.state + "/run/keyctl.sock", *arguments)

    def mount(self):
        self.keyctl("env", "mount", "b")

    def unmount(self):
        for _ in range(50):
            try:
                return self.keyctl("env", "unmount", "b")
            except RuntimeError as e:
                if "in use" not in str(e):
                    raise
                time.sleep(0.1)

    def daemon(self):
        return int([line for line in self.keyctl("env", "show", "b").splitlines() if line.startswith("Worker")][0].split()[-1])

    def store(self):
        return self.state + "/stores/b"

    def end(self):
        super().end()
        self.keeper.terminate()
        self.keeper.wait()
        shutil.rmtree(self.state, ignore_errors=True)


def other_tdefs(bin_dir, text):
    """tdefs of another build, or with other settings, to see what a change gives."""
    class Other(Tdefs):
        name, settings = "tdefs-other", text or ""

        def __init__(self, base, this_bin):
            super().__init__(base, bin_dir or this_bin)
    return Other
