#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stock Debian guest with nginx moves between two emulated hosts, and each way to disturb it leaves it alive.

One lab and one guest serve all tests, in this order; the guest is wherever the test before left it. Each test
that disturbs a move also shows that the guest answers, that the target is clean, and that a new move succeeds.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
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
LIMIT_S = 120           # against hanging only: no answer of an emulated host takes so long
STALL_LIMIT_S = 5
RUN = "/run/godwit"
IDENTITY = "cat /proc/sys/kernel/random/boot_id /sys/devices/system/clocksource/clocksource0/current_clocksource"
KERNEL_WORRIES = re.compile(r"lockup|stall|hung|blocked for|BUG|WARNING|Call Trace|Oops|unstable|marking|I/O error|"
                            r"timed? ?out|clocksource|NETDEV WATCHDOG", re.IGNORECASE)


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


class Kept:
    """One TCP connection to the guest's web server, never renewed."""

    def __init__(self, netns):
        self.sock = net.socket_in(netns)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect((GUEST_ADDRESS, 80))
        self.answers = self.sock.makefile("rb")

    def ask(self):
        self.sock.sendall(b"GET /ping HTTP/1.1\r\nHost: guest\r\n\r\n")
        expect(self.answers.readline().startswith(b"HTTP/1.1 200"), "the kept connection was lost")
        while self.answers.readline().strip():
            pass
        expect(self.answers.read(5) == b"pong\n", "the kept connection answers something else")

    def close(self):
        self.answers.close()
        self.sock.close()


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
        for host, other in ((a, b), (b, a)):  # as someone at both keyboards would
            own = other.run([other.godwit, "trust", "--self", "--json"])
            expect(own.status == 0, f"godwit trust --self: {own.stderr.decode(errors='replace')}")
            self.godwit(host, "trust", other.address, json.loads(own.stdout)["fingerprint"])
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

    def states(self, host):
        """{name: state} of the VMs that a host knows of, those that moved away left out."""
        vms = json.loads(self.godwit(host, "ps", "--json").stdout)
        return {vm["name"]: vm["state"] for vm in vms if vm["state"] != "moved"}

    def ping(self):
        done = self.lab.client(["curl", "-sS", "-m", str(LIMIT_S // 2), f"http://{GUEST_ADDRESS}/ping"], capture_output=True)
        expect(done.stdout == b"pong\n", f"the guest does not answer: {done.stderr.decode(errors='replace').strip()}")

    def shell(self, command):
        """What a command prints in the guest, typed at its console by way of `godwit console`."""
        self.mark += 1
        begin, end = f"begin-{self.mark}-", f"end-{self.mark}-"
        typed = f"echo be''gin-{self.mark}-; {command}; echo e''nd-{self.mark}-\n"   # so that its echo is no mark
        out, err = bytearray(), bytearray()
        console = self.here.start(["sh", "-c", 'printf %s "$1" | exec "$2" console "$3"', "sh", typed, self.here.godwit, VM],
                                  out.extend, err.extend)

        def answer():
            text = out.decode(errors="replace").replace("\r", "")
            found = re.search(rf"{begin}\n(.*?)^{end}$", text, re.DOTALL | re.MULTILINE)
            if not found and console.done():
                raise Failure(f"the console ended: {err.decode(errors='replace')}")
            return found
        try:
            return eventually(answer, f"the guest's shell answers to: {command}")[1]
        finally:
            console.signal(signal.SIGTERM)
            console.wait(LIMIT_S)

    def receive(self, *, disk="/images/web/root.squashfs"):
        self.godwit(self.other, "receive", "--listen", f"{self.other.address}:{PORT}", "--once", "--disk", f"root={disk}",
                    "--net", "eth0=tap0", "--detach")

    def migrate(self, *options):
        """A whole move, to the other host. Returns the bill."""
        self.receive()
        move = Move(self.here, self.other, *options)
        status, bill = move.end()
        expect(status == 0, f"godwit migrate: exit {status}: {move.text()}")
        self.moved()
        check_bill(bill)
        expect((bill["outcome"], bill["owner"]) == ("completed", "target"), f"the bill: {bill['outcome']}, {bill['owner']}")
        return bill

    def moved(self):
        """The guest has: the other host runs it, and this one nothing, no process and no file."""
        expect(list(self.states(self.other)) == [VM], f"at the target: {self.states(self.other)}")
        self.expect_nothing(self.here, "the source")
        self.at = "b" if self.at == "a" else "a"

    def expect_nothing(self, host, what):
        """No VM, no monitor's process and no file is left in a host."""
        def left():
            listed = host.run(["sh", "-c", f"ls {RUN} 2>/dev/null; pgrep -a godwit"]).stdout.decode().split("\n")
            return [line for line in listed if line and not line.startswith((".", "records", "store"))]
        end = time.monotonic() + LIMIT_S
        while found := left():
            expect(time.monotonic() < end, f"{what} still has {found}")
            time.sleep(0.2)

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
    expect(stages == ["pre-migration", "reservation", "pre-copy", "stop-and-copy", "commitment", "activation", "pulling"],
           f"the bill's stages: {stages}")
    expect(sum(stage["ns"] for stage in bill["stages"]) == bill["total_ns"], "the stages sum up to the total")
    if bill["downtime"]:
        expect(sum(part["ns"] for part in bill["downtime"]["parts"]) == bill["downtime"]["total_ns"],
               "the parts of the downtime sum up")
    kinds = {kind: count for kind, count in bill["bytes"].items() if kind != "total"}
    expect(sum(kinds.values()) == bill["bytes"]["total"], f"the kinds of bytes sum up: {bill['bytes']}")


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


def test_boot(stock):
    stock.godwit(stock.here, "run", "--name", VM, "--memory", "192M", "--cpus", "2", "--kernel", "/images/web/vmlinuz",
                 "--initrd", "/images/web/initrd",
                 "--cmdline", f"console=ttyS0 panic=-1 reboot=t quiet godwit.ip={GUEST_ADDRESS}/24",
                 "--disk", "root=/images/web/root.squashfs,ro,serial=root", "--net", "eth0=tap0", "--detach")
    url = f"http://{GUEST_ADDRESS}/ping"
    eventually(lambda: stock.lab.client(["curl", "-s", "-m", "5", url], capture_output=True).stdout == b"pong\n",
               "the guest serves")
    expect(stock.shell("grep -c ^processor /proc/cpuinfo").strip() == "2", "two processors")
    stock.boot_id, stock.clocksource = stock.shell(IDENTITY).split()
    print(f"  clocksource: {stock.clocksource}", flush=True)


def times(stock):
    """The guest's uptime and date, in seconds, and ours."""
    uptime, date = stock.shell("cut -d' ' -f1 /proc/uptime; date +%s").split()
    return float(uptime), int(date), time.monotonic()


def expect_same_guest(stock, before):
    """Not a rebooted one, its clocks have moved on, and its kernel has nothing to complain of."""
    uptime, date, now = times(stock)
    boot_id, source = stock.shell(IDENTITY).split()
    expect(boot_id == stock.boot_id, "it is still the same boot")
    expect(uptime > before[0], f"the uptime went from {before[0]} to {uptime}")
    expect(date >= before[1], f"the date went from {before[1]} to {date}")
    gone = now - before[2]
    expect(uptime - before[0] < gone + 60 and date - before[1] < gone + 60,
           f"in {gone:.0f} s, the guest's uptime went from {before[0]} to {uptime} and its date from {before[1]} to {date}")
    expect(source == stock.clocksource, f"the clocksource was {stock.clocksource} and is {source}")


def kernel_log(stock):
    return stock.shell("dmesg").strip().split("\n")


def expect_calm_kernel(stock, before):
    new = [line for line in kernel_log(stock) if line not in before]
    worries = [line for line in new if KERNEL_WORRIES.search(line)]
    expect(not worries, "the guest's kernel complains:\n" + "\n".join(worries))


def test_there_and_back(stock):
    """Under load: by pre-copy and back by stop-copy, each request answered, a download across both."""
    clock, log = times(stock), kernel_log(stock)
    kept = Kept(stock.lab.netns)
    kept.ask()
    with tempfile.TemporaryDirectory(prefix="godwit-test-") as folder:
        report = os.path.join(folder, "report")
        load = subprocess.Popen(stock.lab.client_argv(
            [sys.executable, os.path.join(ROOT, "demo", "load.py"), GUEST_ADDRESS, "--rate", "5",
             "--download-rate", "1.5e6", "--report", report]))
        try:
            for mode in "pre-copy", "stop-copy":
                bill = stock.migrate("--mode", mode)
                expect(bill["mode"] == mode and bill["vcpus"] == 2, f"the bill: {bill['mode']}, {bill['vcpus']}")
                print(f"  {mode}: {bill['total_ns'] / 1e9:.1f} s, still for {bill['downtime']['total_ns'] / 1e6:.0f} ms",
                      flush=True)
                kept.ask()
                expect_same_guest(stock, clock)
        finally:
            load.send_signal(signal.SIGTERM)
            load.wait(LIMIT_S)
        with open(report) as file:
            client = json.load(file)
    kept.ask()
    kept.close()
    expect(stock.at == "a", "there and back")
    probe, download = client["probe"], client["download"]
    expect(probe["requests"] > 0 and probe["answered"] == probe["requests"], f"requests that failed: {probe['failed']}")
    expect(download["bytes_when_told_to_end"] < download["of"], "the download spanned both moves")
    expect(download["complete"] and download["sha256_matches"], f"the download: {download}")
    print(f"  {probe['answered']} requests answered, longest silence {probe['longest_gap_ms']:.0f} ms", flush=True)
    expect_calm_kernel(stock, log)


def test_refused_disks(stock):
    """A target whose disk is another one says so before a page moves."""
    other = stock.other
    for name, change, words in (
            ("shorter", "truncate -s -1M /tmp/disk", "sectors"),
            ("changed", "dd if=/dev/urandom of=/tmp/disk bs=4096 count=1 conv=notrunc 2>/dev/null", "other data"),
            ("changed", "dd if=/dev/urandom of=/tmp/disk bs=4096 seek=$(($(stat -c %s /tmp/disk) / 4096 - 1)) count=1 "
                        "conv=notrunc 2>/dev/null", "other data")):
        done = other.run(["sh", "-c", f"cp /images/web/root.squashfs /tmp/disk && {change}"])
        expect(done.status == 0, f"a {name} disk: {done.stderr}")
        stock.receive(disk="/tmp/disk")
        bill = stock.expect_failed(Move(stock.here, other), words)
        expect(bill["failure"]["stage"] in ("pre-migration", "reservation"), f"refused in {bill['failure']['stage']}")
        expect(bill["bytes"]["page_data"] == 0, "no page had moved")
        stock.expect_nothing(other, "the target that refused")
    other.run(["rm", "/tmp/disk"])


def test_cancel(stock):
    stock.receive()
    with Pinger(stock):
        move = Move(stock.here, stock.other)
        move.await_pages()
        stock.godwit(stock.here, "migrate", VM, "--cancel")
        bill = stock.expect_failed(move, "cancel")
    expect(bill["outcome"] == "cancelled", f"the bill's outcome: {bill['outcome']}")
    stock.expect_nothing(stock.other, "the target")
    stock.migrate()
    stock.ping()


def test_silent_cut(stock):
    stock.receive()
    target = stock.other
    with Pinger(stock):
        move = Move(stock.here, target, "--stall-limit", f"{STALL_LIMIT_S}s")
        move.await_pages()
        stock.lab.cut(target.host.name, silent=True)
        try:
            began = time.monotonic()
            stock.expect_failed(move, "nothing moved", "no progress", "stall", "timed out", "no answer")
            print(f"  {time.monotonic() - began:.1f} s after the cut, with a stall limit of {STALL_LIMIT_S} s", flush=True)
            stock.expect_nothing(target, "the target")
        finally:
            stock.lab.join(target.host.name)
    stock.migrate()
    stock.ping()


def test_paused(stock):
    """A VM that its user paused arrives paused, and goes on when told."""
    clock = times(stock)
    stock.godwit(stock.here, "pause", VM)
    stock.migrate()
    expect(stock.states(stock.here) == {VM: "paused"}, f"arrived as {stock.states(stock.here)}")
    stock.godwit(stock.here, "resume", VM)
    expect(stock.states(stock.here) == {VM: "running"}, f"resumed as {stock.states(stock.here)}")
    stock.ping()
    expect_same_guest(stock, clock)


def test_checkpoint(stock):
    """Into a file, killed, and out of the file in the same host."""
    clock, log, file = times(stock), kernel_log(stock), "/tmp/web.godwit"
    bill = json.loads(stock.godwit(stock.here, "checkpoint", VM, file, "--json").stdout)
    check_bill(bill)
    stock.ping()
    stock.godwit(stock.here, "kill", VM)
    stock.expect_nothing(stock.here, "the host of the killed VM")
    stock.godwit(stock.here, "restore", file, "--disk", "root=/images/web/root.squashfs", "--net", "eth0=tap0", "--detach")
    expect(stock.states(stock.here) == {VM: "running"}, f"restored as {stock.states(stock.here)}")
    stock.ping()
    expect_same_guest(stock, clock)
    expect_calm_kernel(stock, log)
    dump = json.loads(stock.godwit(stock.here, "dump", file).stdout)
    expect(isinstance(dump, dict) and dump.get("sections"), f"the dump's keys: {list(dump)}")
    stock.here.run(["rm", file])


def test_power_cut(stock):
    """The target loses power in the middle; it comes back, and a new move succeeds."""
    stock.receive()
    target = stock.other
    with Pinger(stock):
        move = Move(stock.here, target, "--stall-limit", f"{STALL_LIMIT_S}s")
        move.await_pages()
        stock.lab.kill(target.host.name)
        began = time.monotonic()
        stock.expect_failed(move, "nothing moved", "no progress", "stall", "timed out", "no answer")
        print(f"  {time.monotonic() - began:.1f} s after the power cut, with a stall limit of {STALL_LIMIT_S} s", flush=True)
        stock.lab.boot(target.host.name)
        eventually(lambda: stock.lab.host_record(target.host.name)["state"] == "up", "the host is back")
        target.prepare(GODWIT)
    stock.migrate()
    stock.ping()


def test_stop(stock):
    """The power button: the guest shuts down, and its monitor ends."""
    stock.shell("true")
    said = bytearray()
    console = stock.here.start([stock.here.godwit, "console", VM], said.extend, said.extend)
    eventually(lambda: b"begin-" in said, "the console shows the past")
    stock.godwit(stock.here, "stop", VM, "--timeout", f"{LIMIT_S // 2}s")
    expect(console.wait(LIMIT_S).status == 0, "the console ends with the VM")
    expect(b"godwit-guest: power button" in said, f"the guest heard the power button: {bytes(said[-500:])}")
    stock.expect_nothing(stock.here, "the host of the stopped VM")
    stock.expect_nothing(stock.other, "the other host")


TESTS = [test_boot, test_there_and_back, test_refused_disks, test_cancel, test_silent_cut, test_paused, test_checkpoint,
         test_power_cut, test_stop]


def show_logs(stock):
    for host in stock.hosts.values():
        try:
            log = host.run(["sh", "-c", f"tail -n 40 {RUN}/*/log"]).stdout.decode(errors="replace").strip()
        except LabError as error:
            log = str(error)
        if log:
            print(f"--- {host.name}:\n{log}", flush=True)


def attempt(test, stock):
    start = time.monotonic()
    try:
        test(stock)
        failure = None
    except (Failure, LabError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        failure = f"{type(error).__name__}: {error}" if not isinstance(error, Failure) else str(error)
        show_logs(stock)
    print(f"{test.__name__}: {'FAILED: ' + failure if failure else 'ok'} ({time.monotonic() - start:.1f} s)", flush=True)
    return failure is None


def main():
    if os.geteuid() != 0:
        print("skipped: the lab needs root")
        return 77
    for tool in "qemu-system-x86_64", "ip", "mmdebstrap", "curl":
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed (scripts/packages.txt names its package)")
            return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = [test for test in TESTS if test in (test_boot, test_stop) or not sys.argv[1:] or test.__name__ in sys.argv[1:]]
    with Lab.up(f"stock-{os.getpid()}") as lab:
        stock = Stock(lab)
        for test in wanted:
            # What follows relies on a guest that is well, and where it should be.
            if not attempt(test, stock):
                print(f"the tests after {test.__name__} were not run")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
