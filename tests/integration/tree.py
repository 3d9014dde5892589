#!/usr/bin/python3
"""Trees go in with rsync, tar, cp and git, and come out the same, before and after a remount, as on ext4."""
import hashlib
import os
import shutil
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
import tdefs


def sources(top):
    """What a tree can hold, beside some hundred real files."""
    shutil.copytree("/usr/include/linux", top + "/linux", symlinks=True)
    odd = top + "/odd"
    os.mkdir(odd)
    for name, content in ((b"\xff\xfe name", b"x"), (b"n" * 255, b"long"), (b"empty", b""), (b"new\nline", b"y" * 4096)):
        with open(os.fsencode(odd) + b"/" + name, "wb") as f:
            f.write(content)
    with open(odd + "/sparse", "wb") as f:
        f.write(b"begin")
        f.seek(5 << 20)
        f.write(b"middle")
        f.truncate(9 << 20)
    with open(odd + "/full", "wb") as f:
        f.write(os.urandom(3 << 20))
    os.link(odd + "/full", odd + "/second name")
    os.link(odd + "/full", top + "/third name")
    os.symlink("full", odd + "/relative")
    os.symlink("/nowhere/" + "t" * 200, odd + "/dangling")
    os.mkfifo(odd + "/fifo")
    os.mknod(odd + "/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(odd + "/full", "user.comment", b"a value")
    os.setxattr(odd, "user.folder", b"\x00\xff")
    tdefs.run("setfacl", "-m", "u:12345:rw,g:54321:r", odd + "/full")
    tdefs.run("setfacl", "-d", "-m", "u:12345:rwx", odd)
    os.chown(odd + "/empty", 1234, 4321)
    os.chmod(odd + "/empty", 0o4710)
    os.mkdir(odd + "/closed", 0o1700)
    for folder, _, files in os.walk(os.fsencode(top), topdown=False):
        for name in files:
            os.utime(os.path.join(folder, name), ns=(10**18, 10**18 + len(name) * 1000000007), follow_symlinks=False)
        os.utime(folder, ns=(10**18, 10**18 + 987654321))


def describe(top, times=True):
    """Everything that a copy has to keep, by path."""
    out, first = {}, {}
    for folder, dirs, files in os.walk(os.fsencode(top)):
        for name in dirs + files:
            path = os.path.join(folder, name)
            s = os.lstat(path)
            one = [stat.filemode(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns if times else 0, s.st_rdev]
            if not stat.S_ISDIR(s.st_mode):
                one += [s.st_nlink, s.st_size, first.setdefault(s.st_ino, os.path.relpath(path, os.fsencode(top)))]
            if stat.S_ISLNK(s.st_mode):
                one.append(os.readlink(path))
            else:
                one.append({n: os.getxattr(path, n) for n in sorted(os.listxattr(path))})
            if stat.S_ISREG(s.st_mode):
                with open(path, "rb") as f:
                    one.append(hashlib.sha256(f.read()).hexdigest())
            out[os.path.relpath(path, os.fsencode(top))] = one
        dirs.sort()
    return {k: v[:7] + v[8:] if len(v) > 8 else v for k, v in out.items()}, {k: v[7] for k, v in out.items() if len(v) > 8}


def linked(first, top):
    """Which paths are one file, whatever the order of the walk."""
    groups = {}
    for path in first:
        groups.setdefault(os.lstat(os.path.join(os.fsencode(top), path)).st_ino, set()).add(path)
    return sorted(sorted(g) for g in groups.values() if len(g) > 1)


def same(got_top, want, want_links, what):
    got, first = describe(got_top)
    tdefs.equal(sorted(got), sorted(want), what + ": names")
    for path in want:
        tdefs.equal(got[path], want[path], "%s: %r" % (what, path))
    tdefs.equal(linked(first, got_top), want_links, what + ": hard links")


def main():
    tdefs.need("rsync", "tar", "git", "setfacl", "du", "find", "cp")
    if not os.path.isdir("/usr/include/linux"):
        tdefs.skip("no /usr/include/linux")
    base = tdefs.scratch()
    environment = tdefs.environment(base)
    source, mnt = os.path.join(base, "source"), environment.mnt
    os.mkdir(source)
    sources(source)
    want, first = describe(source)
    links = linked(first, source)

    tdefs.run("rsync", "-aHAX", "--sparse", "--numeric-ids", source + "/", mnt + "/rsync/")
    tdefs.run("tar", "-C", source, "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=posix",
              "--sparse", "-cf", base + "/t.tar", ".")
    os.mkdir(mnt + "/tar")
    tdefs.run("tar", "-C", mnt + "/tar", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", base + "/t.tar")
    tdefs.run("cp", "-a", "--reflink=auto", source, mnt + "/cp")
    for remounted in (False, True):
        for how in ("rsync", "tar", "cp"):
            same(mnt + "/" + how, want, links, how + (" after remount" if remounted else ""))
        if not remounted:
            environment.remount()

    # back out of the mount, through tar and rsync
    tdefs.run("tar", "-C", mnt + "/tar", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=posix",
              "--sparse", "-cf", base + "/back.tar", ".")
    os.mkdir(base + "/back")
    tdefs.run("tar", "-C", base + "/back", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", base + "/back.tar")
    same(base + "/back", want, links, "tar and back")
    tdefs.equal(tdefs.run("rsync", "-aHAXni", "--checksum", "--numeric-ids", source + "/", mnt + "/rsync/").stdout, "",
                "rsync finds nothing to do")
    for option in ("-type f", "-newer linux/fs.h -type f", "-size +100k", "-links +1", "-perm -4000", "-empty"):
        found = [sorted(tdefs.run("find", ".", *option.split(), cwd=top).stdout.splitlines()) for top in (source, mnt + "/rsync")]
        tdefs.equal(found[1], found[0], "find " + option)
    for top in ("rsync", "tar"):
        used = [os.stat(p + "/odd/sparse").st_blocks * 512 for p in (source, mnt + "/" + top)]
        tdefs.check(used[1] <= used[0] + 65536, "%s: a sparse file of %d bytes takes %d" % (top, used[0], used[1]))
    full = os.stat(mnt + "/rsync/odd/full").st_blocks * 512
    tdefs.check(3 << 20 <= full <= (3 << 20) + 65536, "du of 3 MiB: %d" % full)
    tdefs.run("df", mnt)

    # git: a repository made, cloned, checked out and verified on the mount
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main", "-c",
           "gc.auto=0", "-c", "protocol.file.allow=always"]
    more = {"env": dict(os.environ, HOME=base, GIT_CONFIG_NOSYSTEM="1", LC_ALL="C")}
    repository = mnt + "/repository"
    shutil.copytree(mnt + "/rsync/linux", repository)
    tdefs.run(*git, "init", "-q", repository, **more)
    tdefs.run(*git, "-C", repository, "add", ".", **more)
    tdefs.run(*git, "-C", repository, "commit", "-qm", "first", **more)
    tdefs.run(*git, "-C", repository, "rm", "-q", "-r", "netfilter", **more)
    tdefs.run(*git, "-C", repository, "commit", "-qm", "second", **more)
    tdefs.run(*git, "-C", repository, "checkout", "-q", "HEAD~1", **more)
    tdefs.run(*git, "-C", repository, "repack", "-adq", **more)
    environment.remount()
    tdefs.run(*git, "-C", repository, "fsck", "--full", **more)
    tdefs.equal(tdefs.run(*git, "-C", repository, "status", "--porcelain", **more).stdout, "", "git status")
    tdefs.run(*git, "clone", "-q", repository, mnt + "/clone", **more)
    trees = [describe(top + "/net" if os.path.isdir(top + "/net") else top + "/usb", times=False)[0]
             for top in (repository, mnt + "/clone")]
    tdefs.equal(trees[1], trees[0], "the clone")
    shutil.rmtree(mnt + "/clone")
    environment.stop()


main()
