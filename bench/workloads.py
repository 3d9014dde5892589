"""What is measured of files. A workload is prepared once, runs, and gives a rate: higher is better. Databases: databases.py."""
import json
import os
import shutil
import subprocess

from systems import run, timed

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def file_size(quick):
    return (64 if quick else 256) << 20


def fio(system, quick, rw, bs, *more, size=None, runtime=None, jobs=1):
    """MiB/s. runtime 0: once over the file."""
    limit = ["--time_based", "--runtime=%d" % (runtime or (1 if quick else 5))] if runtime != 0 else []
    with timed:
        out = run("fio", "--name=w", "--filename=%s/fio" % system.dir, "--rw=" + rw, "--bs=" + bs, "--size=%d" % (size or file_size(quick)),
                  "--numjobs=%d" % jobs, "--group_reporting", "--output-format=json", "--randrepeat=1", "--invalidate=0",
                  "--fallocate=none", *limit, *more)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    timed.begun = timed.ended - job["job_runtime"] / jobs / 1000        # without its own start
    return (job["read"]["bw"] + job["write"]["bw"]) / 1024


def laid_out(system, quick):
    size = file_size(quick)
    path = system.dir + "/fio"
    if not os.path.exists(path) or os.path.getsize(path) != size:
        with open(path, "wb") as f:
            chunk = os.urandom(1 << 20)
            for _ in range(size >> 20):
                f.write(chunk)
            os.fsync(f.fileno())


def seq_write(s, quick):
    if os.path.exists(s.dir + "/fio"):
        os.unlink(s.dir + "/fio")
    return fio(s, quick, "write", "1m", "--end_fsync=1", runtime=0)


def cold(rw, bs, jobs=1):
    """Every block once, so that none is warm; jobs have a part of the file each."""
    def workload(s, quick):
        laid_out(s, quick)
        s.cold()
        part = file_size(quick) // jobs
        return fio(s, quick, rw, bs, "--offset_increment=%d" % part, size=part, runtime=0, jobs=jobs)
    return workload


def warm(rw, bs, *more, jobs=1):
    def workload(s, quick):
        laid_out(s, quick)
        with open(s.dir + "/fio", "rb") as f:
            while f.read(1 << 20):
                pass
        return fio(s, quick, rw, bs, *more, jobs=jobs)
    return workload


class Small:
    """Small files, in folders of a hundred, with the system calls that a program in C makes: Python's open() asks each file with an
    ioctl whether it is a terminal."""

    def __init__(self, step):
        self.step = step

    def paths(self, s, quick):
        return ["%s/small/%d/%d" % (s.dir, k // 100, k) for k in range(1000 if quick else 5000)]

    def create(self, s, quick):
        paths = self.paths(s, quick)
        for folder in sorted({os.path.dirname(p) for p in paths}):
            os.makedirs(folder)
        with timed:
            for p in paths:
                fd = os.open(p, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(fd, b"x" * 3000)
                os.close(fd)
        return len(paths) / timed.seconds()

    def each(self, what, s, quick):
        paths = self.paths(s, quick)
        with timed:
            for p in paths:
                what(p)
        return len(paths) / timed.seconds()

    def __call__(self, s, quick):
        if self.step == "create" or not os.path.exists(s.dir + "/small"):
            shutil.rmtree(s.dir + "/small", ignore_errors=True)
            rate = self.create(s, quick)
            if self.step == "create":
                return rate
        if self.step == "delete":
            rate = self.each(os.unlink, s, quick)
            shutil.rmtree(s.dir + "/small")
            return rate
        if self.step.endswith("cold"):
            s.cold()

        def read(path):
            fd = os.open(path, os.O_RDONLY)
            while os.read(fd, 1 << 17):
                pass
            os.close(fd)
        if self.step == "read warm":
            self.each(read, s, quick)
        return self.each(os.stat if self.step == "stat cold" else read, s, quick)


class Tree:
    """A source tree: this one's sources, several times over, as one archive that is made once."""
    archive = None
    files = 0

    def __init__(self, step):
        self.step = step

    @classmethod
    def make(cls, base, quick):
        top = os.path.join(base, "tree")
        for k in range(4 if quick else 20):
            for part in ("fs", "keyctl", "conf", "tests", "bench"):
                shutil.copytree("%s/%s" % (HERE, part), "%s/%d/%s" % (top, k, part), ignore=shutil.ignore_patterns("__pycache__"))
        cls.files = sum(len(names) for _, _, names in os.walk(top))
        cls.archive = top + ".tar"
        run("tar", "-C", base, "-cf", cls.archive, "tree")
        shutil.rmtree(top)

    def __call__(self, s, quick):
        if not self.archive:
            self.make(s.base, quick)
        if self.step == "unpack":
            shutil.rmtree(s.dir + "/tree", ignore_errors=True)
        elif not os.path.exists(s.dir + "/tree"):
            run("tar", "-C", s.dir, "-xf", self.archive)
        if self.step == "search":
            s.cold()
        argv = {"unpack": ["tar", "-C", s.dir, "-xf", self.archive], "search": ["grep", "-rc", "nobody writes this", s.dir + "/tree"],
                "remove": ["rm", "-r", s.dir + "/tree"]}[self.step]
        with timed:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=self.step != "search")
        return self.files / timed.seconds()


WORKLOADS = [
    ("sequential write + fsync", "MiB/s", seq_write),
    ("sequential read cold", "MiB/s", cold("read", "1m")),
    ("random 8k read cold", "MiB/s", cold("randread", "8k")),
    ("random 8k read cold, 4 jobs", "MiB/s", cold("randread", "8k", jobs=4)),
    ("random 8k read warm", "MiB/s", warm("randread", "8k")),
    ("random 8k write + fsync each", "MiB/s", warm("randwrite", "8k", "--fsync=1")),
    ("random 8k write", "MiB/s", warm("randwrite", "8k", "--end_fsync=1")),
    ("O_DIRECT 16k random read, depth 8", "MiB/s", warm("randread", "16k", "--direct=1", "--ioengine=libaio", "--iodepth=8")),
    ("O_DIRECT 16k random write, depth 8", "MiB/s", warm("randwrite", "16k", "--direct=1", "--ioengine=libaio", "--iodepth=8")),
    ("small files: create", "files/s", Small("create")),
    ("small files: stat cold", "files/s", Small("stat cold")),
    ("small files: read cold", "files/s", Small("read cold")),
    ("small files: read warm", "files/s", Small("read warm")),
    ("small files: delete", "files/s", Small("delete")),
    ("source tree: unpack", "files/s", Tree("unpack")),
    ("source tree: search cold", "files/s", Tree("search")),
    ("source tree: remove", "files/s", Tree("remove")),
]
