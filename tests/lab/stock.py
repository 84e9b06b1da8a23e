# SPDX-License-Identifier: Apache-2.0
"""What the tests that move a stock Debian guest between two emulated hosts share.

A test file has a list of functions that take a Stock: the lab, its hosts, and where the guest is. One lab and one
guest serve them all, in their order; the guest is wherever the test before left it. main() runs them. Nothing here
judges how fast anything is: LIMIT_S is against hanging only.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("GODWIT_BUILD", os.path.join(ROOT, "build"))
GODWIT = os.path.join(BUILD, "src", "cmd", "godwit")
for folder in "lab", "demo":
    sys.path.insert(0, os.path.join(ROOT, folder))

from godwitlab import Lab, LabError, net  # noqa: E402
from places import GUEST_ADDRESS, LabHost  # noqa: E402

PORT = 7000
VM = "web"
LIMIT_S = 120           # no answer of an emulated host takes so long
STALL_LIMIT = "--stall-limit=5s"
SILENCE = "nothing moved", "no progress", "stall", "timed out", "no answer"
RUN = "/run/godwit"
DISK = "/images/web/root.squashfs"
IDENTITY = "cat /proc/sys/kernel/random/boot_id /sys/devices/system/clocksource/clocksource0/current_clocksource"
KERNEL_WORRIES = re.compile(r"lockup|stall|hung|blocked for|BUG|WARNING|Call Trace|Oops|unstable|marking|I/O error|"
                            r"timed? ?out|clocksource|NETDEV WATCHDOG", re.IGNORECASE)
# Not one: the guest did not run for a while, and two of its clocks agree on how long that was.
LONG_READOUT = re.compile(r"Long readout interval, skipping watchdog check: cs_nsec: (\d+) wd_nsec: (\d+)$")


class Failure(Exception):
    pass


def expect(truth, what):
    if not truth:
        raise Failure(what)


def eventually(truth, what, limit_s=LIMIT_S):
    end = time.monotonic() + limit_s
    while not (value := truth()):
        expect(time.monotonic() < end, f"not within {limit_s} s: {what}")
        time.sleep(0.1)
    return value


def is_agreement(line):
    found = LONG_READOUT.search(line)
    return found and abs(int(found[1]) - int(found[2])) < 1e-3 * int(found[1])


class Move:
    """A `godwit migrate` under way."""

    def __init__(self, source, target, *options):
        self.out, self.err = bytearray(), bytearray()
        self.running = source.start([source.godwit, "migrate", VM, f"{target.address}:{PORT}", "--json", *options],
                                    self.out.extend, self.err.extend)

    def await_pages(self):
        """Returns when memory is on its way."""
        eventually(lambda: b"pages sent" in self.err or self.running.done(), "memory is sent")
        expect(not self.running.done(), f"ended before it was to be disturbed: {self.text()}")

    def end(self):
        """Its exit status and bill."""
        status = self.running.wait(LIMIT_S).status
        return status, json.loads(self.out) if self.out.strip() else None

    def text(self):
        return self.err.decode(errors="replace")


class Stock:
    """The lab, its hosts, and where the guest is."""

    def __init__(self, lab):
        self.lab = lab
        self.hosts = {name: LabHost(lab[name]) for name in "ab"}
        for host in self.hosts.values():
            host.prepare(GODWIT)
        a, b = self.hosts.values()
        self.introduce(a, b)
        self.introduce(b, a)
        self.at = "a"
        self.boot_id = self.clocksource = None
        self.mark = 0

    @property
    def here(self):
        return self.hosts[self.at]

    @property
    def other(self):
        return self.hosts["b" if self.at == "a" else "a"]

    def godwit(self, host, *args, check=True, timeout=LIMIT_S):
        done = host.run([host.godwit, *args], timeout=timeout)
        expect(done.status == 0 or not check,
               f"{host.name}: godwit {' '.join(args)}: exit {done.status}: {done.stderr.decode(errors='replace')}")
        return done

    def introduce(self, host, other, *options, address=None):
        """As someone at both keyboards would: `host` trusts the key that `other` has now."""
        own = json.loads(self.godwit(other, "trust", "--self", "--json").stdout)
        self.godwit(host, "trust", address or other.address, own["fingerprint"], *options)

    # The guest

    def run(self, *options, cpus=1):
        """Starts a new guest here; returns when it serves."""
        self.godwit(self.here, "run", "--name", VM, "--memory", "192M", "--cpus", str(cpus),
                    "--kernel", "/images/web/vmlinuz", "--initrd", "/images/web/initrd",
                    "--cmdline", f"console=ttyS0 panic=-1 reboot=t quiet godwit.ip={GUEST_ADDRESS}/24",
                    "--disk", f"root={DISK},ro,serial=root", "--net", "eth0=tap0", *options, "--detach")
        url = f"http://{GUEST_ADDRESS}/ping"
        eventually(lambda: self.lab.client(["curl", "-s", "-m", "5", url], capture_output=True).stdout == b"pong\n",
                   "the guest serves")
        self.boot_id, self.clocksource = self.shell(IDENTITY).split()

    def restore(self, file):
        """A guest out of a checkpoint, here."""
        self.godwit(self.here, "restore", file, "--disk", f"root={DISK}", "--net", "eth0=tap0", "--detach")
        self.ping()

    def ping(self):
        done = self.lab.client(["curl", "-sS", "-m", str(LIMIT_S // 2), f"http://{GUEST_ADDRESS}/ping"],
                               capture_output=True)
        expect(done.stdout == b"pong\n", f"the guest does not answer: {done.stderr.decode(errors='replace').strip()}")

    def shell(self, command):
        """What a command prints in the guest, typed at its console by way of `godwit console`."""
        self.mark += 1
        begin, end = f"begin-{self.mark}-", f"end-{self.mark}-"
        typed = f"echo be''gin-{self.mark}-; {command}; echo e''nd-{self.mark}-\n"   # so that its echo is no mark
        out, err = bytearray(), bytearray()
        console = self.here.start(["sh", "-c", 'printf %s "$1" | exec "$2" console "$3"', "sh", typed, self.here.godwit,
                                   VM],
                                  out.extend, err.extend)

        def answer():
            text = out.decode(errors="replace").replace("\r", "")
            found = re.search(rf"{begin}\n(.*?)^{end}$", text, re.DOTALL | re.MULTILINE)
            if not found and console.done():
                raise Failure(f"the console ended: {err.decode(errors='replace')}")
            return found
        try:
            return eventually(answer, f"the guest's shell answers to: {command}")[1]
        except Failure as failure:
            raise Failure(f"{failure}; its console, in the end: {bytes(out[-500:])}") from None
        finally:
            console.signal(signal.SIGTERM)
            console.wait(LIMIT_S)

    def times(self):
        """The guest's uptime and date, in seconds, and ours."""
        uptime, date = self.shell("cut -d' ' -f1 /proc/uptime; date +%s").split()
        return float(uptime), int(date), time.monotonic()

    def expect_same_guest(self, before):
        """Not a rebooted one, and its clocks have moved on, as ours have since `before`, of times()."""
        uptime, date, now = self.times()
        boot_id, source = self.shell(IDENTITY).split()
        expect(boot_id == self.boot_id, "it is still the same boot")
        expect(uptime > before[0], f"the uptime went from {before[0]} to {uptime}")
        expect(date >= before[1], f"the date went from {before[1]} to {date}")
        gone = now - before[2]
        expect(uptime - before[0] < gone + 60 and date - before[1] < gone + 60,
               f"in {gone:.0f} s, the guest's uptime went from {before[0]} to {uptime} and its date from {before[1]} "
               f"to {date}")
        expect(source == self.clocksource, f"the clocksource was {self.clocksource} and is {source}")

    def log_lines(self):
        """How many there are in the guest's kernel log; the console is slow, so the log itself stays there."""
        return int(self.shell("dmesg | wc -l"))

    def expect_calm_kernel(self, before):
        new = self.shell(f"dmesg | tail -n +{before + 1}").split("\n")
        worries = [line for line in new if KERNEL_WORRIES.search(line) and not is_agreement(line)]
        expect(not worries, "the guest's kernel complains:\n" + "\n".join(worries))

    # The monitors

    def states(self, host):
        """{name: state} of the VMs that a host knows of, those that moved away left out."""
        vms = json.loads(self.godwit(host, "ps", "--json").stdout)
        return {vm["name"]: vm["state"] for vm in vms if vm["state"] != "moved"}

    def await_state(self, host, *states):
        """What the VM is to be at a host; returns which of them it is."""
        def there():
            state = self.states(host).get(VM)
            return state if state in states else None
        return eventually(there, f"{host.name}: {VM} is {' or '.join(states)}")

    def info(self, host):
        return json.loads(self.godwit(host, "info", VM, "--json").stdout)

    def pid(self, host):
        """Of the one monitor there."""
        return next(vm["pid"] for vm in json.loads(self.godwit(host, "ps", "--json").stdout) if vm["pid"] > 0)

    def kill_monitor(self, host):
        """The VM's process, by SIGKILL."""
        host.run(["kill", "-KILL", str(self.pid(host))])

    def end_receiver(self, host):
        """One that waits in vain."""
        host.run(["kill", str(self.pid(host))])
        self.expect_nothing(host, "the receiver that was ended")

    def expect_nothing(self, host, what):
        """No VM, no monitor's process and no file is left in a host."""
        def left():
            listed = host.run(["sh", "-c", f"ls {RUN} 2>/dev/null; pgrep -a godwit"]).stdout.decode().split("\n")
            return [line for line in listed if line and not line.startswith((".", "records", "store"))]
        end = time.monotonic() + LIMIT_S
        while found := left():
            expect(time.monotonic() < end, f"{what} still has {found}")
            time.sleep(0.2)

    # Moves

    def receive(self, *more, disk=DISK, listen=None):
        self.godwit(self.other, "receive", "--listen", listen or f"{self.other.address}:{PORT}", "--once",
                    "--disk", f"root={disk}", "--net", "eth0=tap0", *more, "--detach")

    def begin(self, *options):
        self.receive()
        return Move(self.here, self.other, *options)

    def migrate(self, *options):
        """A whole move, to the other host. Returns the bill."""
        return self.expect_moved(self.begin(*options))

    def expect_moved(self, move):
        """A move ends well: the other host runs the guest, and this one has nothing, no process and no file."""
        status, bill = move.end()
        expect(status == 0, f"godwit migrate: exit {status}: {move.text()}")
        self.moved()
        check_bill(bill)
        expect((bill["outcome"], bill["owner"]) == ("completed", "target"),
               f"the bill: {bill['outcome']}, {bill['owner']}")
        return bill

    def moved(self):
        self.await_state(self.other, "running", "paused")
        expect(list(self.states(self.other)) == [VM], f"at the target: {self.states(self.other)}")
        self.expect_nothing(self.here, "the source")
        self.at = "b" if self.at == "a" else "a"

    def expect_failed(self, move, *words):
        """The move failed and says why in these words; the guest goes on at the source, and its bill says so too."""
        status, bill = move.end()
        text = move.text()
        expect(status == 1, f"a disturbed move: exit {status}: {text}")
        expect(bill is not None, f"a failed move has a bill: {text}")
        check_bill(bill)
        expect(bill["owner"] == "source", f"the bill's owner: {bill['owner']}")
        last = text.strip().split("\n")[-1]
        expect(any(word in last for word in words), f"the reason should speak of {' or '.join(words)}: '{last}'")
        print(f"  the reason given: {last}", flush=True)
        expect(self.states(self.here) == {VM: "running"}, f"after a failed move: {self.states(self.here)}")
        self.ping()
        return bill


def check_bill(bill):
    stages = [stage["stage"] for stage in bill["stages"]]
    expect(stages ==
           ["pre-migration", "reservation", "pre-copy", "stop-and-copy", "commitment", "activation", "pulling"],
           f"the bill's stages: {stages}")
    expect(sum(stage["ns"] for stage in bill["stages"]) == bill["total_ns"], "the stages sum up to the total")
    if bill["downtime"]:
        expect(sum(part["ns"] for part in bill["downtime"]["parts"]) == bill["downtime"]["total_ns"],
               "the parts of the downtime sum up")
    kinds = {kind: count for kind, count in bill["bytes"].items() if kind != "total"}
    expect(sum(kinds.values()) == bill["bytes"]["total"], f"the kinds of bytes sum up: {bill['bytes']}")


def check_faults(bill, interrupted=0):
    """Of a post-copy that ended well: every page came, none twice."""
    faults = bill["faults"]
    expect(faults is not None, "no post-copy")
    expect(faults["pages_missing"] == 0 and faults["duplicates"] == 0, f"pages missing, or twice: {faults}")
    expect(faults["interrupted"] == interrupted, f"interrupted {faults['interrupted']} times, not {interrupted}")
    came = faults["pages_pushed"] + faults["answered"]
    expect(faults["pages_absent"] == came if not interrupted else faults["pages_absent"] <= came,
           f"not each page once: {faults}")
    print(f"  {bill['mode']}: {faults['pages_absent']} pages followed, {faults['count']} faults, interrupted "
          f"{faults['interrupted']} times, {faults['stranded_ns'] / 1e9:.1f} s stranded", flush=True)


def told(bill):
    """One line about a move, for whoever reads the log."""
    print(f"  {bill['mode']}: {bill['total_ns'] / 1e9:.1f} s, still for {bill['downtime']['total_ns'] / 1e6:.0f} ms, "
          f"{bill['bytes']['total'] / 2**20:.0f} MiB", flush=True)
    return bill


class Pinger(threading.Thread):
    """Asks the guest over and over, each time by a new connection; any that fails is kept."""

    def __init__(self, stock):
        super().__init__(daemon=True)
        self.stock, self.asked, self.failure, self.stopped = stock, 0, None, threading.Event()

    def run(self):
        while not self.stopped.is_set() and not self.failure:
            try:
                self.stock.ping()
                self.asked += 1
            except Failure as failure:
                self.failure = failure
            self.stopped.wait(0.5)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.stopped.set()
        self.join()
        if kind is None:
            expect(not self.failure, f"in the middle of it: {self.failure}")
            expect(self.asked > 0, "the guest was never asked")


def show_logs(stock):
    for host in stock.hosts.values():
        for command in f"tail -n 40 {RUN}/*/log", f"{host.godwit} ps", "dmesg | tail -n 5":
            try:
                text = host.run(["sh", "-c", command]).stdout.decode(errors="replace").strip()
            except LabError as error:
                text = str(error)
            if text:
                print(f"--- {host.name}: {command}\n{text}", flush=True)


def attempt(test, stock):
    start = time.monotonic()
    try:
        test(stock)
        failure = None
    except (Failure, LabError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        failure = f"{type(error).__name__}: {error}" if not isinstance(error, Failure) else str(error)
        show_logs(stock)
    print(f"{test.__name__}: {'FAILED: ' + failure if failure else 'ok'} ({time.monotonic() - start:.1f} s)",
          flush=True)
    return failure is None


def main(name, tests, kind=Stock):
    """Runs a file's tests, or, of those, the first, the last and the ones named; returns the exit status."""
    if os.geteuid() != 0:
        print("skipped: the lab needs root")
        return 77
    for tool in "qemu-system-x86_64", "ip", "mmdebstrap", "curl", "musl-gcc", "openssl":
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed (scripts/packages.txt names its package)")
            return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    named = sys.argv[1:]
    wanted = [test for test in tests if not named or test in (tests[0], tests[-1]) or test.__name__ in named]
    with Lab.up(f"{name}-{os.getpid()}") as lab:
        stock = kind(lab)
        for test in wanted:
            # What follows relies on a guest that is well, and where it should be.
            if not attempt(test, stock):
                print(f"the tests after {test.__name__} were not run")
                return 1
    return 0
