"""What documents repeat must be what the code says: format tables, settings and defaults, help that fits a screen."""
import os
import re
import subprocess
import sys

source, binaries = sys.argv[1:3]
bad = []


def text(path):
    with open(os.path.join(source, path)) as f:
        return f.read()


def between(s, begin, end):
    return s.split(begin, 1)[1].split(end, 1)[0]


header = [re.sub(r"^ \* ?", "", l) for l in between(text("fs/store/format.h"), "format:begin\n", "* format:end").splitlines()]
readme = between(text("README.md"), "<!-- format:begin -->", "<!-- format:end -->").replace("```", "").strip().splitlines()
if [l.strip() for l in header if l.strip()] != [l.strip() for l in readme if l.strip()]:
    bad.append("README's format chapter and fs/store/format.h differ")

table = dict(re.findall(r'\{"([a-z_.]+)", [A-Z]+, OFF\(\w+\), (NULL|"[^"]*")', text("fs/control/config.c")))
group, settings = "", {}
for line in text("conf/tdefs.conf").splitlines():
    line = line.split("#")[0].strip()
    if line.endswith("{"):
        group = line.split(":")[0] + "."
    elif line.startswith("}"):
        group = ""
    elif "=" in line:
        name, value = (part.strip() for part in line.rstrip(";").split("=", 1))
        settings[group + name] = value
if set(table) != set(settings):
    bad.append("conf/tdefs.conf and the table differ in: %s" % sorted(set(table) ^ set(settings)))
for name in set(table) & set(settings):
    if table[name] != "NULL" and table[name].strip('"') != settings[name].strip('"'):
        bad.append("%s: the default is %s, conf/tdefs.conf says %s" % (name, table[name], settings[name]))

for program in ("tdefsd", "keyctl", "tdefs-mount", "tdefs-fsck"):
    done = subprocess.run([os.path.join(binaries, program), "--help"], stdout=subprocess.PIPE, text=True, timeout=30)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not 3 < len(lines) <= 24 or max(map(len, lines)) > 100:
        bad.append("%s --help: exit %d, %d lines, %d columns" % (program, done.returncode, len(lines), max(map(len, lines))))
    if subprocess.run([os.path.join(binaries, program), "--no-such"], stderr=subprocess.PIPE, timeout=30).returncode != 2:
        bad.append("%s --no-such is not exit status 2" % program)

# The manual pages have what --help has.
for program, page in (("keyctl", "tdefs-keyctl.1"), ("tdefsd", "tdefsd.8")):
    manual = re.sub(r"\\f[BIRP]|\\", "", text("conf/man/" + page)).replace('"', "")
    manual = " ".join(re.sub(r"^\.[A-Z]+ ?", "", line) for line in manual.splitlines())
    done = subprocess.run([os.path.join(binaries, program), "--help"], stdout=subprocess.PIPE, text=True, timeout=30)
    wanted = set(re.findall(r"--[a-z-]+", done.stdout)) - {"--help", "--version"}
    commands = re.findall(r'^\t\{"([a-z -]+)", "', text("keyctl/main.c"), re.M) if program == "keyctl" else []
    for word in sorted(wanted) + commands:
        if not re.search(r"(?<![a-z-])" + word + r"(?![a-z-])", manual):
            bad.append("conf/man/%s does not have %s" % (page, word))
with open(os.path.join(source, "fs/control/request.c")) as f:
    handled = set(re.findall(r'^\t\{"(\w+)", ', f.read(), re.M))
if set(re.findall(r"^method (\w+)", text("fs/control/io.tdefs.Keeper.varlink"), re.M)) != handled:
    bad.append("the interface and the request table differ")

print("\n".join(bad) or "documents and code agree on %d settings and the format" % len(settings))
sys.exit(1 if bad else 0)
