#!/usr/bin/env python3
"""The command line as a user meets it: help, manual, completion, wrong use, and the lives of VMs.

VMs here run on the fake hypervisor (--fake), so that this passes on any machine; what needs /dev/kvm says so.
"""
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../system"))
from harness import GODWIT, Failed, Host, free_port, run_tests, wait_for  # noqa: E402

COMMANDS = ["run", "ps", "info", "console", "pause", "resume", "stop", "kill", "balloon", "migrate", "receive",
            "checkpoint",
            "restore", "resolve", "bill", "metrics", "agent", "wws", "measure", "report", "dump", "check", "trust",
            "completion"]


def godwit(*args, **kwargs):
    return subprocess.run([GODWIT, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
                          **kwargs)


def expect(condition, what):
    if not condition:
        raise Failed(what)


def refused(host, *args, says=None, status=2):
    """One line on stderr that names the command and the thing, the status, and nothing on stdout."""
    done = host.run(*args, check=False)
    line = done.stderr
    expect(done.returncode == status, f"{args}: exit {done.returncode} instead of {status}: {line}")
    expect(line.count("\n") == 1 and line.startswith("godwit"), f"{args}: not one line: {line!r}")
    expect(not says or says in line, f"{args}: {line!r} does not say {says!r}")
    expect(not done.stdout, f"{args}: prints {done.stdout!r}")
    expect(host.names() == [], f"{args}: left {host.names()} behind")


def start(host, name="vm", *args):
    host.run("run", "--name", name, "--kernel", "/none", "--memory", "64M", "--fake", "--detach", *args)


def state(host, name="vm"):
    return host.json("info", name)["state"]


def alive(pid):
    """Whether a process runs: what has ended and was not yet waited for by init does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------------ help and manual

def test_help():
    top = godwit("help")
    expect(top.returncode == 0 and godwit("--help").stdout == top.stdout, "help")
    listed = re.findall(r"^  ([a-z]+) ", top.stdout, re.M)
    expect(set(COMMANDS) == set(listed), f"commands in the help: {listed}")
    for command in COMMANDS:
        page = godwit(command, "--help")
        expect(page.returncode == 0 and page.stdout.startswith(f"usage: godwit {command}"), f"{command} --help")
        expect(page.stdout == godwit("help", command).stdout, f"help {command}")
        expect(max(map(len, page.stdout.splitlines())) <= 100, f"{command} --help is too wide")
    for args in ([], ["nope"], ["--nope"], ["help", "nope"]):
        done = godwit(*args)
        expect(done.returncode == 2 and not done.stdout and done.stderr, f"{args}: exit {done.returncode}")
    expect(re.fullmatch(r"godwit \d+\.\d+\.\d+\n", godwit("--version").stdout), "version")


def test_full_output():
    """A standard output that takes nothing is a failure, not a success."""
    with open("/dev/full", "w") as full:
        for args in (["help"], ["ps"], ["man", "run"], ["run", "--help"], ["--version"], ["completion", "bash"]):
            done = subprocess.run([GODWIT, *args], stdout=full, stderr=subprocess.PIPE, timeout=60)
            expect(done.returncode == 1, f"{args} into a full disk: exit {done.returncode}")


def test_man_pages():
    pages = godwit("man", "--list").stdout.split()
    expect(set(pages) == set(COMMANDS), f"pages: {pages}")
    mandoc = shutil.which("mandoc")
    if not mandoc:
        print("# mandoc is not installed: the pages' form is not checked")
    for page in [None, *pages]:
        text = godwit("man", *([page] if page else [])).stdout
        for option in re.findall(r"^  --([a-z-]+)", godwit(page, "--help").stdout if page else "", re.M):
            expect(f".It Fl \\-{option.replace('-', chr(92) + '-')}" in text or f".It Fl \\-{option}" in text,
                   f"{page}: --{option} is not in the manual")
        if mandoc:
            done = subprocess.run([mandoc, "-Tlint", "-W", "style"], input=text, text=True, stdout=subprocess.PIPE)
            # Whether the other pages are installed is no matter of this one.
            complaints = [line for line in done.stdout.splitlines() if "referenced manual not found" not in line]
            expect(not complaints, f"{page}: {complaints}")


# ----------------------------------------------------------------------------------------- completion

def complete(host, *words):
    """What bash offers for the last of these words."""
    script = """
        eval "$(%s completion bash)"
        godwit() { %s --runtime-dir %s "$@"; }
        COMP_WORDS=(godwit "$@") COMP_CWORD=$#
        _godwit
        printf '%%s\\n' "${COMPREPLY[@]}"
    """ % (GODWIT, GODWIT, host.base)
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", *words], capture_output=True, text=True, timeout=60)
    # compopt works only where bash itself completes
    errors = [line for line in done.stderr.splitlines() if "compopt" not in line]
    expect(not errors, f"completing {words}: {errors}")
    return done.stdout.split()


def test_bash_completion():
    host = Host()
    start(host, "web1")
    start(host, "web2")
    expect(set(complete(host, "")) == set(COMMANDS) | {"help"}, "commands")
    expect(complete(host, "mi") == ["migrate"], "mi")
    expect(complete(host, "--runtime-dir", "/x", "mi") == ["migrate"], "after --runtime-dir")
    expect(complete(host, "info", "web") == ["web1", "web2"], "names of VMs")
    expect(complete(host, "info", "--j") == ["--json"], "options")
    expect(complete(host, "migrate", "web1", "h:1", "--mode", "") == ["auto", "pre-copy", "stop-copy", "post-copy"],
           "choices")
    expect(complete(host, "migrate", "web1", "") == [], "nothing to offer for an address")
    expect("--fake" not in complete(host, "run", "--"), "hidden options stay hidden")
    expect("vmm" not in complete(host, "v"), "hidden commands stay hidden")
    with tempfile.TemporaryDirectory() as there:
        open(os.path.join(there, "vmlinuz"), "w").close()
        expect(complete(host, "run", "--kernel", there + "/v") == [there + "/vmlinuz"], "files")
        expect(complete(host, "checkpoint", "web1", there + "/v") == [there + "/vmlinuz"], "files as arguments")
    host.close()


def test_zsh_completion():
    if not shutil.which("zsh"):
        print("# zsh is not installed: its completion is not checked")
        return
    done = subprocess.run(["zsh", "-f", "-n", "/dev/stdin"], input=godwit("completion", "zsh").stdout, text=True,
                          capture_output=True, timeout=60)
    expect(done.returncode == 0 and not done.stderr, f"zsh: {done.stderr}")
    load = 'autoload -Uz compinit; compinit -D; eval "$(%s completion zsh)"; print ${_comps[godwit]}' % GODWIT
    done = subprocess.run(["zsh", "-f", "-c", load], text=True, capture_output=True, timeout=60)
    expect(done.stdout.strip() == "_godwit", f"zsh loads it: {done.stdout} {done.stderr}")


# ------------------------------------------------------------------------------------------ wrong use

def test_wrong_use():
    host = Host()
    run = ("run", "--name", "a", "--fake", "--kernel", "/none")
    refused(host, "run", "--kernel", "/none", says="--name NAME is missing")
    refused(host, *run, "--memory", "3K", says="--memory: 3K: want at least 64M")
    refused(host, *run, "--memory", "66M1", says="--memory")
    refused(host, *run, "--cpus", "17", says="--cpus")
    refused(host, *run, "--no-such-thing", says="--no-such-thing")
    refused(host, *run, "--json", says="--detach")
    refused(host, *run, "--escape", "q", says="--escape: 'q'")
    refused(host, *run, "--disk", "root", says="ID=PATH")
    refused(host, *run, "--disk", "r=/nowhere/x.raw", says="/nowhere/x.raw")
    refused(host, *run, "--disk", "r=/etc", says="/etc")
    refused(host, *run, "--net", "n=nosuchtap0", says="nosuchtap0")
    refused(host, *run, "--net", "n=lo", says="lo is no tap")
    refused(host, *run, "--net", "n=tap0,mac=01:00:00:00:00:00", says="multicast")
    refused(host, *run, "--disk", "r=/x", "--net", "r=tap0", says="two devices are called r")
    refused(host, *run, *(["--disk", "x=/y"] * 60), says="more than")
    refused(host, *run, "--cmdline", "x" * 5000, says="--cmdline")
    refused(host, *run, "--cmdline", "a\nb", says="command line")
    refused(host, "run", "--name", "../a", "--kernel", "/none", says="no VM name")
    for command in ("info", "console", "pause", "resume", "stop", "kill"):
        refused(host, command, "ghost", says="no VM named ghost")
    refused(host, "migrate", "ghost", "127.0.0.1:1", says="no VM named ghost")
    refused(host, "migrate", "ghost", says="HOST is missing")
    refused(host, "migrate", "ghost", "::1:7000", says="want HOST, HOST:PORT or [IPV6]:PORT")
    refused(host, "migrate", "ghost", "127.0.0.1:1", "--cancel", says="--cancel takes no")
    refused(host, "checkpoint", "ghost", "/tmp/x", says="no VM named ghost")
    refused(host, "receive", "--fake", says="--listen HOST:PORT is missing")
    refused(host, "receive", "--fake", "--listen", "nowhere", says="no address")
    refused(host, "receive", "--fake", "--listen", "192.0.2.1:7000", says="cannot listen on 192.0.2.1:7000")
    refused(host, "receive", "--fake", "--listen", "127.0.0.1:0", "--disk", "x", says="ID=PATH")
    refused(host, "restore", "--fake", "/nowhere/at/all", says="/nowhere/at/all")
    refused(host, "restore", "--fake", "/etc/passwd", says="/etc/passwd", status=1)
    refused(host, "dump", "/nowhere/at/all", says="/nowhere/at/all")
    refused(host, "vmm", "x", "--config-fd", "77", "--ready-fd", "78", says="options")
    host.close()


def test_bad_kernels():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("# /dev/kvm cannot be opened: kernels are not looked at")
        return
    host = Host()
    refused(host, "run", "--name", "a", "--kernel", "/nowhere/k", says="/nowhere/k")
    refused(host, "run", "--name", "a", "--kernel", "/etc/passwd", says="/etc/passwd: not a kernel")
    refused(host, "run", "--name", "a", "--kernel", "/etc", says="/etc: not a regular file")
    refused(host, "run", "--name", "a", "--kernel", "/dev/zero", says="/dev/zero")
    host.close()


def test_runtime_dir():
    host = Host()
    os.chmod(host.base, 0o777)
    refused(host, "run", "--name", "a", "--kernel", "/none", "--fake", says="writable by you alone", status=1)
    os.chmod(host.base, 0o700)
    deep = os.path.join(host.base, "x" * 200)
    done = godwit("--runtime-dir", deep, "run", "--name", "a" * 63, "--kernel", "/none", "--fake", "--detach")
    expect(done.returncode == 0, f"a path too long for a socket: {done.stderr}")
    expect(json.loads(godwit("ps", "--runtime-dir", deep, "--json").stdout)[0]["state"] == "running", "ps")
    expect(godwit("kill", "a" * 63, "--runtime-dir=" + deep).returncode == 0, "kill")
    host.close()


# -------------------------------------------------------------------------------------- a VM's life

def test_life():
    host = Host()
    started = host.json("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake", "--detach")
    expect(started["name"] == "vm" and alive(started["pid"]), f"started: {started}")
    facts = host.json("info", "vm")
    machine = facts["config"]["machine"]
    expect(facts["state"] == "running" and facts["pid"] == started["pid"], f"info: {facts}")
    expect(machine["memory_bytes"] == 64 << 20 and machine["vcpus"] == 1, f"machine: {machine}")
    expect([d["kind"] for d in machine["devices"]] == ["rng", "balloon"], "devices")
    text = host.run("info", "vm").stdout
    expect("64.0 MiB" in text and "running" in text and machine["uuid"] in text, text)

    again = host.run("run", "--name", "vm", "--kernel", "/none", "--fake", "--detach", check=False)
    expect(again.returncode == 2 and f"process {facts['pid']}" in again.stderr, f"a name in use: {again.stderr}")
    expect(again.stderr.count("\n") == 1, f"not one line: {again.stderr!r}")

    expect("none: nothing is given back" in host.run("balloon", "vm").stdout, "the fake guest drives no balloon")
    set_to = host.json("balloon", "vm", "16M")
    expect((set_to["target_bytes"], set_to["actual_bytes"], set_to["driver"]) == (16 << 20, 0, False),
           f"balloon: {set_to}")
    expect(host.json("info", "vm")["balloon"]["target_bytes"] == 16 << 20, "info knows of the balloon")
    expect("16.0 MiB" in host.run("balloon", "vm").stdout and "0 B of 16.0 MiB" in host.run("info", "vm").stdout,
           "for people")
    larger = host.run("balloon", "vm", "65M", check=False)
    expect(larger.returncode == 2 and "guest's memory" in larger.stderr,
           f"a balloon beyond the memory: {larger.stderr}")
    host.run("balloon", "vm", "0")

    host.run("pause", "vm")
    still = host.run("balloon", "vm", "1M", check=False)
    expect(still.returncode != 0 and "stands still" in still.stderr, f"a paused guest's balloon: {still.stderr}")
    host.run("pause", "vm")
    expect(state(host) == "paused", "paused")
    host.run("resume", "vm")
    expect(state(host) == "running", "resumed")
    line = host.run("ps").stdout.splitlines()[1].split()
    expect(line[:3] == ["vm", "running", str(facts["pid"])], f"ps: {line}")
    expect(host.run("ps", "--names").stdout == "vm\n", "ps --names")

    host.run("kill", "vm")
    start(host, "vm", "--no-balloon")
    none = host.run("balloon", "vm", check=False)
    expect(none.returncode == 2 and "without a balloon" in none.stderr, f"no balloon: {none.stderr}")
    host.run("kill", "vm")
    expect(not alive(facts["pid"]) and host.names() == [], "killed, and gone when kill returns")
    start(host)  # so its name is free at once
    host.run("kill", "vm")
    host.close()


def test_disk_in_use():
    """A disk has one writer, or readers; a checkpoint of a VM that still has its disk is not restored beside it."""
    host = Host()
    disk, file = os.path.join(host.base, "disk.raw"), os.path.join(host.base, "vm.godwit")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)

    def attempt(option):
        done = host.run("run", "--name", "other", "--kernel", "/none", "--memory", "64M", "--fake", "--detach",
                        "--disk", f"d={disk}{option}", check=False)
        expect(done.returncode == 0 or "disk d is in use" in done.stderr, f"another user: {done.stderr}")
        if done.returncode == 0:
            host.run("kill", "other")
        return done.returncode == 0

    start(host, "vm", "--disk", f"d={disk}")
    expect(not attempt("") and not attempt(",ro"), "beside a writer")
    host.run("checkpoint", "vm", file)
    restore = ["restore", file, "--fake", "--name", "again", "--disk", f"d={disk}", "--detach"]
    done = host.run(*restore, check=False)
    expect(done.returncode != 0 and "disk d is in use" in done.stderr, f"a second life: {done.stderr}")
    expect(host.names() == ["vm"], f"left behind: {host.names()}")
    host.run("kill", "vm")
    host.run(*restore)
    expect(not attempt(""), "beside the restored one")
    host.run("kill", "again")
    start(host, "vm", "--disk", f"d={disk},ro")
    expect(attempt(",ro") and not attempt(""), "beside a reader")
    host.run("kill", "vm")
    expect(attempt(""), "given back")
    host.close()


def test_stop():
    host = Host()
    start(host)
    begin = time.monotonic()
    done = host.run("stop", "vm", "--timeout", "200ms", check=False)
    expect(done.returncode == 1 and "within 200ms" in done.stderr and "godwit kill vm" in done.stderr, done.stderr)
    expect(time.monotonic() - begin >= 0.2, "it waited")
    expect(state(host) == "running", "left running")
    done = host.run("stop", "vm", "--timeout", "100ms", "--force")
    expect("was ended" in done.stderr and host.names() == [], done.stderr)
    host.close()


def test_dead_monitor():
    host = Host()
    start(host)
    pid = host.pid("vm")
    os.kill(pid, signal.SIGKILL)
    wait_for("the monitor's death", limit=10, poll=lambda: not alive(pid))
    expect(host.json("ps")[0]["state"] == "dead", "ps says dead")
    done = host.run("info", "vm", check=False)
    expect(done.returncode == 1 and "died" in done.stderr and "/log" in done.stderr, f"info: {done.stderr}")
    start(host)  # takes the name over
    expect(state(host) == "running", "a new one in its place")
    os.kill(host.pid("vm"), signal.SIGKILL)
    wait_for("its death", limit=10, poll=lambda: host.json("ps")[0]["state"] == "dead")
    host.run("kill", "vm")
    expect(host.names() == [] and not os.path.exists(os.path.join(host.base, "vm")), "kill removes the remains")
    host.close()


def test_stuck_monitor():
    host = Host()
    start(host)
    pid = host.pid("vm")
    os.kill(pid, signal.SIGSTOP)
    expect(host.json("ps")[0]["state"] == "unresponsive", "ps says unresponsive")
    done = host.run("kill", "vm")
    expect("by force" in done.stderr and not alive(pid) and host.names() == [], f"killed by force: {done.stderr}")
    host.close()


def test_foreground():
    """run without --detach: ends with the VM, and the VM with it, when it is told to."""
    host = Host()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = host.start("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
        wait_for("the VM", limit=20, poll=lambda: "vm" in host.names() and host.json("ps")[0]["state"] == "running")
        pid = host.pid("vm")
        process.send_signal(number)
        _, notes = process.communicate(timeout=20)
        expect(process.returncode == 1 and "signal" in notes, f"{number}: exit {process.returncode}, {notes!r}")
        expect(not alive(pid) and host.names() == [], f"{number}: left the VM behind")
    process = host.start("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
    wait_for("the VM", limit=20, poll=lambda: "vm" in host.names() and host.json("ps")[0]["state"] == "running")
    host.run("kill", "vm")
    _, notes = process.communicate(timeout=20)
    expect(process.returncode == 0 and "killed" in notes, f"kill: exit {process.returncode}, {notes!r}")
    host.close()


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, argv):
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = b""
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave)
        os.set_blocking(self.master, False)

    def read(self):
        try:
            while data := os.read(self.master, 65536):
                self.text += data
        except (BlockingIOError, OSError):
            pass
        return self.text

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def finish(self):
        wait_for("the end of the command", limit=20, poll=lambda: (self.read(), self.process.poll() is not None)[1])
        expect(termios.tcgetattr(self.slave) == self.before, "the terminal is not as it was")
        self.read()
        os.close(self.slave)
        os.close(self.master)
        return self.process.returncode


def test_console_terminal():
    host = Host()
    start(host)
    console = host.argv("console", "vm")
    terminal = Terminal(console)
    wait_for("raw mode", limit=20, poll=terminal.is_raw)
    os.write(terminal.master, b"\x03\x04\x1c hello")  # for the guest, not for us
    os.write(terminal.master, b"\x1d")
    expect(terminal.finish() == 0, "detached")
    expect(state(host) == "running", "the VM runs on")

    terminal = Terminal([*console, "--escape", "^a"])
    wait_for("raw mode", limit=20, poll=terminal.is_raw)
    os.write(terminal.master, b"\x1d")
    os.write(terminal.master, b"\x01")
    expect(terminal.finish() == 0, "detached by another escape")

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        terminal = Terminal(console)
        wait_for("raw mode", limit=20, poll=terminal.is_raw)
        terminal.process.send_signal(number)
        terminal.finish()
        expect(state(host) == "running", "a signal to a console is none to the VM")

    terminal = Terminal(console)
    wait_for("raw mode", limit=20, poll=terminal.is_raw)
    host.run("kill", "vm")
    expect(terminal.finish() == 0 and b"killed" in terminal.text, f"the VM ended: {terminal.text}")

    terminal = Terminal(host.argv("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake"))
    wait_for("raw mode", limit=20, poll=terminal.is_raw)
    os.write(terminal.master, b"\x1d")
    expect(terminal.finish() == 0 and b"runs on" in terminal.text, f"detached from run: {terminal.text}")
    expect(state(host) == "running", "and it does")
    host.close()


# ------------------------------------------------------------------------------------------- moving

def test_migrate():
    here, there = Host(), Host()
    start(here)
    waiting = there.json("receive", "--listen", "127.0.0.1:0", "--fake", "--detach")
    expect(re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", waiting["listen"]), f"receive: {waiting}")
    bill_file = os.path.join(here.base, "bill.json")
    done = here.run("migrate", "vm", waiting["listen"], "--json", "--bill", bill_file)
    bill = json.loads(done.stdout)
    expect(bill["owner"] == "target" and json.load(open(bill_file)) == bill, "bill")
    expect("pre-copy" in done.stderr, f"progress: {done.stderr!r}")
    expect(there.names() == ["vm"], f"there: {there.names()}")
    wait_for("the source's end", limit=20, poll=lambda: here.names() == [])
    expect(there.json("info", "vm")["pid"] == waiting["pid"], "in the monitor that waited")

    port = free_port()
    done = there.run("migrate", "vm", f"127.0.0.1:{port}", check=False)
    expect(done.returncode == 1 and f"127.0.0.1:{port}" in done.stderr, f"nobody there: {done.stderr}")
    expect(state(there) == "running", "a failed move leaves it running")
    done = there.run("migrate", "vm", "--cancel", check=False)
    expect(done.returncode == 2 and "nothing is moving" in done.stderr, f"nothing to cancel: {done.stderr}")
    here.close()
    there.close()


def test_migrate_interrupted():
    """SIGINT while the other side accepts and says nothing: cancelled, and the VM runs on."""
    host = Host()
    start(host)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = host.start("migrate", "vm", f"127.0.0.1:{silent.getsockname()[1]}", "--stall-limit", "60s")
        peer, _ = silent.accept()
        wait_for("the move", limit=20, poll=lambda: state(host) == "migrating")
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=30)
        peer.close()
    expect(process.returncode == 1 and "cancelling" in notes, f"exit {process.returncode}: {notes}")
    expect(state(host) == "running", "it runs on")
    host.close()


def test_checkpoint():
    host = Host()
    start(host)
    file = os.path.join(host.base, "vm.godwit")
    expect("vm" in host.run("checkpoint", "vm", file).stdout, "a bill")
    host.run("kill", "vm")
    host.run("restore", file, "--fake", "--paused", "--detach")
    expect(state(host) == "paused", "restored, paused")
    host.run("resume", "vm")
    other = host.json("restore", file, "--fake", "--name", "other", "--detach")
    expect(host.names() == ["other", "vm"] and other["name"] == "other", f"{host.names()}")
    dump = host.json("dump", file)
    expect(dump["damage"] == [] and dump["sections"], "dump")
    with open(file, "r+b") as f:
        f.truncate(os.path.getsize(file) - 1)
    done = host.run("restore", file, "--fake", "--name", "torn", "--detach", check=False)
    expect(done.returncode == 1 and file in done.stderr, f"torn: {done.stderr}")
    expect("torn" not in host.names(), "nothing of it is left")
    expect(host.run("dump", file, check=False).returncode == 1, "dump of a torn file")
    done = host.run("checkpoint", "vm", "/nowhere/x", check=False)
    expect(done.returncode != 0 and "/nowhere/x" in done.stderr and state(host) == "running", f"{done.stderr}")
    host.close()


def test_bill():
    host = Host()
    start(host)
    file = os.path.join(host.base, "bill.json")
    page = host.run("checkpoint", "vm", os.path.join(host.base, "vm.godwit"), "--bill", file).stdout
    expect(host.run("bill", file).stdout == page, "the same page from the file")
    expect(host.json("bill", file) == json.load(open(file)), "the same JSON")
    for bad in ("/nowhere/bill", "/etc/passwd", "/etc"):
        done = host.run("bill", bad, check=False)
        expect(done.returncode == 2 and bad in done.stderr and done.stderr.count("\n") == 1, f"{bad}: {done.stderr}")
    host.close()


def test_check():
    done = godwit("check", "--json")
    facts = json.loads(done.stdout)
    expect(facts and all({"fact", "ok", "need", "reason"} <= set(fact) for fact in facts), f"check: {facts}")
    required = all(fact["ok"] for fact in facts if fact["need"] == "required")
    expect(done.returncode == (0 if required else 1), f"exit {done.returncode}")
    text = godwit("check").stdout
    expect(all(fact["fact"] in text for fact in facts if fact["fact"] != "verdict"), "every fact in the text")


# --------------------------------------------------------------------------------- the control socket

def test_control_socket():
    """The protocol as docs/control.md has it, by hand."""
    host = Host()
    start(host)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(os.path.join(host.base, "vm", "control.sock"))
        s.settimeout(20)
        lines = s.makefile("rw")

        def ask(id_, method, **params):
            print(json.dumps({"jsonrpc": "2.0", "id": id_, "method": method, "params": params}), file=lines, flush=True)

        def next_():
            return json.loads(lines.readline())

        ask(1, "events.subscribe")
        expect(next_() == {"jsonrpc": "2.0", "id": 1, "result": {}}, "subscribe")
        host.run("pause", "vm")
        event = next_()
        expect(event["method"] == "vm.state" and event["params"]["state"] == "paused"
               and event["params"]["previous"] == "running", f"{event}")
        ask("two", "vm.info")
        answer = next_()
        expect(answer["id"] == "two" and answer["result"]["state"] == "paused", f"{answer}")
        for method, params, code in (("vm.nothing", {}, -32601), ("vm.pause", {"now": True}, -32602),
                                     ("vm.migrate", {}, -32602), ("vm.migrate", {"to": 7}, -32602),
                                     ("vm.migrate", {"to": "x:1", "mode": "copy"}, -32000),
                                     ("vm.checkpoint", {"file": "relative"}, -32000), ("vm.bill", {}, -32000)):
            ask(3, method, **params)
            answer = next_()
            expect(answer["error"]["code"] == code and answer["error"]["message"], f"{method}: {answer}")
            expect(answer["error"]["data"]["fault"] == "caller", f"{method}: {answer}")
        lines.write("nonsense\n" + "x" * (2 << 20) + "\n[]\n")
        lines.flush()
        expect([next_()["error"]["code"] for _ in range(3)] == [-32700, -32600, -32600], "nonsense")
        ask(4, "vm.kill")
        answers = [json.loads(line) for line in lines]
        expect(any(a.get("id") == 4 and "result" in a for a in answers), f"kill is answered: {answers}")
        expect(answers[-1]["params"]["state"] == "ended", f"and said: {answers}")
    host.close()


if __name__ == "__main__":
    run_tests([(name.removeprefix("test_"), test) for name, test in list(globals().items())
               if name.startswith("test_")])
