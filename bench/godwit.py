"""godwit's side of the benchmark, through its command line, as a user would drive it.

Both monitors run detached; measure.adopt_orphans() makes them children of this process, so that
their CPU time counts even if they have ended by the time we look.
"""

import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time

from measure import (BenchError, Move, Serial, Start, cpu_seconds, die_with_parent, end_process,
                     own_memory_mib, read_waits)

TIMEOUT_S = 60
NS_MS = 1e-6

# Where each figure is in what `--json` prints (docs/bill.md): keys from the outside in.
BILL_DOWNTIME_NS = ("downtime", "total_ns")
BILL_BYTES = ("bytes", "total")
INFO_PID = ("pid",)
# From the monitor's start to its first KVM_RUN. Without it, the first serial output is taken.
INFO_FIRST_NS = ("boot", "first_run_ns")


def figure(facts, path, fallback=None):
    for key in path:
        if not isinstance(facts, dict) or key not in facts:
            if fallback is None:
                raise BenchError(f"godwit: no {'.'.join(path)} in its answer")
            return fallback
        facts = facts[key]
    return facts


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Watched:
    """CPU time of a monitor that is our child by adoption, also after it has ended."""

    def __init__(self, pid):
        self.pid, self.ended = pid, None

    def cpu_s(self):
        if self.ended is None:
            try:
                done, _, usage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:  # not ours: only what /proc says
                return cpu_seconds(self.pid) or 0.0
            if done:
                self.ended = usage.ru_utime + usage.ru_stime
        return cpu_seconds(self.pid) if self.ended is None else self.ended

    def wait_end(self):
        """Waits until it is gone, by force after a while."""
        if self.ended is not None:
            return
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        if not select.select([pidfd], [], [], 2)[0]:
            os.kill(self.pid, 9)
            select.select([pidfd], [], [])
        os.close(pidfd)
        self.cpu_s()


class Godwit:
    """A side of the benchmark, see measure.py."""

    name = "godwit"
    count = 0

    def __init__(self, program, kernel, cmdline, memory_bytes, options=(), encrypted=False):
        # Two hosts, for a host has each guest once; one key for both. The owner record is made durable within the
        # downtime. Debian keeps /run, where it is by default, in memory; a machine that does not would measure its
        # disk here.
        self.directories = [tempfile.mkdtemp(prefix="godwit-bench-", dir="/dev/shm") for _ in range(3)]
        config, *hosts = self.directories
        self.kernel, self.cmdline = kernel, cmdline
        self.memory_bytes = memory_bytes
        Godwit.count += 1
        self.names = [f"bench-{os.getpid()}-{Godwit.count}-{end}" for end in ("source", "target")]
        self.program = {name: [program, "--runtime-dir", host, "--config-dir", config]
                        for name, host in zip(self.names, hosts)}
        self.options = list(options)  # of `godwit migrate`
        self.plain = [] if encrypted else ["--insecure"]
        self.begun = []  # names of machines that may exist
        self.watched = []
        self.console = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.console:
            end_process(self.console)
        for name in self.begun:
            subprocess.run([*self.program[name], "kill", name], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False)
        for monitor in self.watched:
            monitor.wait_end()
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)

    def _call(self, name, *args):
        done = subprocess.run([*self.program[name], *args], capture_output=True, text=True,
                              timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise BenchError(f"godwit {args[0]}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def _facts(self, name, *args):
        try:
            return json.loads(self._call(name, *args, "--json"))
        except json.JSONDecodeError as error:
            raise BenchError(f"godwit {args[0]}: its answer is no JSON: {error}") from None

    def _watch(self, name):
        facts = self._facts(name, "info", name)
        self.watched.append(Watched(figure(facts, INFO_PID)))
        return facts

    def _open_console(self, name):
        self.console = subprocess.Popen([*self.program[name], "console", name], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        return Serial(self.console)

    def start(self):
        name = self.names[0]
        began = time.monotonic()
        self.begun.append(name)
        self._call(name, "run", "--name", name, "--memory", f"{self.memory_bytes // 1048576}M",
                   "--kernel", self.kernel, "--cmdline", self.cmdline, "--detach")
        serial = self._open_console(name)
        serial.wait("info", TIMEOUT_S)
        first_ms = (time.monotonic() - began) * 1e3
        serial.wait("ready", TIMEOUT_S)
        ready_ms = (time.monotonic() - began) * 1e3
        facts = self._watch(name)
        first_ms = figure(facts, INFO_FIRST_NS, first_ms / NS_MS) * NS_MS
        end_process(self.console)
        resident, private = own_memory_mib(self.watched[0].pid, self.memory_bytes)
        return Start(first_ms, ready_ms, resident, private)

    def migrate(self):
        source, target = self.names
        address = f"127.0.0.1:{free_port()}"
        self.begun.append(target)
        self._call(target, "receive", "--listen", address, "--once", "--name", target, "--detach", *self.plain)
        self._watch(target)

        cpu = -sum(monitor.cpu_s() for monitor in self.watched)
        began = time.monotonic()
        bill = self._facts(source, "migrate", source, address, *self.options, *self.plain)
        total = time.monotonic() - began
        cpu += sum(monitor.cpu_s() for monitor in self.watched)

        # The outer clock, with the command's own start in it, as QEMU's has the QMP round trip.
        downtime_ms = figure(bill, BILL_DOWNTIME_NS) * NS_MS
        return Move(total * 1e3, downtime_ms, figure(bill, BILL_BYTES), cpu)

    def waits(self):
        waits = read_waits(self._open_console(self.names[1]), TIMEOUT_S)
        end_process(self.console)
        return waits

    def verify(self):
        serial = self._open_console(self.names[1])
        serial.send("check")
        serial.wait("ok", TIMEOUT_S)
        serial.send("stop")
        serial.wait("done ok", TIMEOUT_S)
