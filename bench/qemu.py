"""The peer: two QEMU microvms on this machine's /dev/kvm, moved over TCP on loopback.

All settings are QEMU's defaults but what a cell names (Settings), and one: the bandwidth cap is
lifted. QEMU's default goal is a downtime of 300 ms, so on a fast link it may stop with much memory
still to send. The machine is the smallest that QEMU has (microvm with qboot), so start and memory
are compared with its best.
"""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time

from measure import (BenchError, Move, Serial, Start, cpu_seconds, die_with_parent, end_process,
                     own_memory_mib, read_waits)

PROGRAM = "qemu-system-x86_64"
# Not every KVM takes the MSR that this feature of `host` needs.
CPU = "host,arch-capabilities=off"
NO_CAP = 1 << 50  # bytes a second
TIMEOUT_S = 60
LOOK_S = 0.05  # how often a move that may not end is asked for its state


@dataclasses.dataclass(frozen=True)
class Settings:
    """How QEMU is to move: of both sides, as QEMU calls them."""
    capabilities: tuple = ()
    parameters: dict = dataclasses.field(default_factory=dict)
    post_copy: bool = False  # the guest goes first, its memory follows
    limit_s: float = None    # then it is cancelled


class Qmp:
    """One QEMU's control socket. Events are kept until asked for."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(TIMEOUT_S)
        self.lines = self.sock.makefile("r")
        self.events = []
        self._read()  # greeting
        self.call("qmp_capabilities")

    def close(self):
        self.lines.close()
        self.sock.close()

    def _read(self):
        try:
            line = self.lines.readline()
        except TimeoutError:
            raise BenchError("QEMU does not answer") from None
        if not line:
            raise BenchError("QEMU is gone")
        return json.loads(line)

    def call(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            reply = self._read()
            if "event" in reply:
                self.events.append(reply)
            elif "error" in reply:
                raise BenchError(f"QEMU: {command}: {reply['error']['desc']}")
            else:
                return reply["return"]

    def wait_event(self, name, status=None):
        """The next event of that name (for MIGRATION: with that status)."""
        while True:
            for i, event in enumerate(self.events):
                if event["event"] != name:
                    continue
                if name == "MIGRATION" and event["data"]["status"] == "failed":
                    raise BenchError("QEMU: migration failed")
                if status in (None, event.get("data", {}).get("status")):
                    return self.events.pop(i)
            self.events = [e for e in self.events if e["event"] != "MIGRATION"]
            event = self._read()
            if "event" in event:
                self.events.append(event)


def event_ms(event):
    stamp = event["timestamp"]
    return stamp["seconds"] * 1e3 + stamp["microseconds"] / 1e3


class Machine:
    """One QEMU process with its QMP connection and serial line."""

    def __init__(self, name, folder, kernel, cmdline, memory_bytes, incoming=False):
        # Our end of the control socket is ready before QEMU starts: no waiting for a file.
        path = os.path.join(folder, name + ".qmp")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(TIMEOUT_S)
            command = [
                PROGRAM, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
                "-machine", "microvm,accel=kvm,auto-kernel-cmdline=off", "-bios", "qboot.rom",
                "-cpu", CPU, "-smp", "1", "-m", f"size={memory_bytes // 1048576}M",
                "-kernel", kernel, "-append", cmdline, "-serial", "stdio",
                "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
                "-qmp", f"unix:{path}",
            ]
            if incoming:
                command += ["-incoming", "defer"]
            self.log = open(os.path.join(folder, name + ".log"), "w+")
            self.started = time.monotonic()
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=self.log, preexec_fn=die_with_parent)
            self.qmp = None
            try:
                self.qmp = Qmp(self._accept(listener))
            except BaseException:
                self.close()
                raise
        self.serial = Serial(self.process)

    def _accept(self, listener):
        """QEMU connects early; one that could not start never does."""
        listener.settimeout(0.2)
        for _ in range(TIMEOUT_S * 5):
            try:
                return listener.accept()[0]
            except TimeoutError:
                if self.process.poll() is not None:
                    break
        self.log.seek(0)
        raise BenchError("QEMU does not start: " + self.log.read().strip())

    def close(self):
        if self.qmp:
            self.qmp.close()
        end_process(self.process)
        self.log.close()


class Qemu:
    """A side of the benchmark, see measure.py."""

    name = "QEMU"

    def __init__(self, kernel, cmdline, memory_bytes, settings):
        self.kernel, self.cmdline, self.memory_bytes = kernel, cmdline, memory_bytes
        self.settings = settings
        self.parameters = {"max-bandwidth": NO_CAP, **settings.parameters}
        self.capabilities = [{"capability": name, "state": True}
                             for name in ("events", *settings.capabilities)]
        self.folder = tempfile.mkdtemp(prefix="godwit-bench-")
        self.source = self.target = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for machine in (self.source, self.target):
            if machine:
                machine.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _machine(self, name, incoming=False):
        return Machine(name, self.folder, self.kernel, self.cmdline, self.memory_bytes, incoming)

    def start(self):
        self.source = self._machine("source")
        self.source.serial.wait("info", TIMEOUT_S)
        first = time.monotonic()
        self.source.serial.wait("ready", TIMEOUT_S)
        ready = time.monotonic()
        resident, private = own_memory_mib(self.source.process.pid, self.memory_bytes)
        began = self.source.started
        return Start((first - began) * 1e3, (ready - began) * 1e3, resident, private)

    def migrate(self):
        self.target = self._machine("target", incoming=True)
        source, target = self.source.qmp, self.target.qmp
        pids = (self.source.process.pid, self.target.process.pid)

        for end in (source, target):
            end.call("migrate-set-capabilities", capabilities=self.capabilities)
            end.call("migrate-set-parameters", **self.parameters)
        target.call("migrate-incoming", uri="tcp:127.0.0.1:0")
        port = target.call("query-migrate")["socket-address"][0]["port"]
        cpu = -sum(cpu_seconds(pid) for pid in pids)
        began = time.monotonic()
        source.call("migrate", uri=f"tcp:127.0.0.1:{port}")
        if self.settings.post_copy:
            source.call("migrate-start-postcopy")
        moved = self._ended(began)
        if moved:
            resumed = target.wait_event("RESUME")
            if self.settings.post_copy:
                target.wait_event("MIGRATION", "completed")
        total = time.monotonic() - began
        cpu += sum(cpu_seconds(pid) for pid in pids)

        moved_bytes = source.call("query-migrate")["ram"]["transferred"]
        if not moved:
            self._cancel()
            return Move(None, None, moved_bytes, cpu)
        downtime = event_ms(resumed) - event_ms(source.wait_event("STOP"))
        return Move(total * 1e3, downtime, moved_bytes, cpu)

    def _ended(self, began):
        """Waits until all is at the target; False: not within the limit."""
        source, limit_s = self.source.qmp, self.settings.limit_s
        if limit_s is None:
            source.wait_event("MIGRATION", "completed")
            return True
        while time.monotonic() - began < limit_s:
            status = source.call("query-migrate")["status"]
            if status in ("completed", "failed"):
                source.wait_event("MIGRATION", "completed")
                return True
            time.sleep(LOOK_S)
        return False

    def _cancel(self):
        """The guest stays where it was."""
        source = self.source.qmp
        source.call("migrate_cancel")
        source.wait_event("MIGRATION", "cancelled")
        self.target.close()
        self.target = None

    def waits(self):
        return read_waits(self.target.serial, TIMEOUT_S)

    def verify(self):
        serial = (self.target or self.source).serial
        serial.send("check")
        serial.wait("ok", TIMEOUT_S)
        serial.send("stop")
        serial.wait("done ok", TIMEOUT_S)
