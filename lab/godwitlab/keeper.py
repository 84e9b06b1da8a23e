# SPDX-License-Identifier: Apache-2.0
"""The keeper: the one process that owns a lab from its first namespace to its last file.

Whoever starts a lab starts a keeper, with two pipes:

    its input, the leash     the end of it ends the lab; the line "free" first makes it let go
    its output, reports      JSON lines: {"event": "up"|"booted"|"died"|"failed", ...}

It starts the hosts, reads their consoles into logs, and waits. A host that dies stays dead and is
recorded as such; the lab goes on without it (a host that dies while booting fails the lab).
Requests (boot a dead host, cut the power of one, end the lab) come over the socket `keeper` in the
lab's folder, one JSON line each way.

Nothing may survive it. Hosts get SIGKILL from the kernel when the keeper dies; for the rest, a
janitor process waits for the keeper's lock, and clears away what it then finds. If even that is
killed, the next `lab up`, `status` or `down` does (state.sweep).
"""
import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time

from . import net, qemu, state
from .errors import LabError

_READY = b"godwit-host: ready"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class _Machine:
    """A host as the keeper sees it."""

    def __init__(self, name, index):
        self.name = name
        self.index = index
        self.state = "dead"         # dead, booting, up
        self.process = None
        self.started = 0.0
        self.console = b""          # the last of it
        self.log = None

    def record(self):
        return {"name": self.name, "state": self.state, "address": net.data_address(self.index),
                "mgmt": net.mgmt_address(self.index), "pid": self.process and self.process.pid}


class Keeper:
    def __init__(self, name, config, reports):
        self.name = name
        self.config = config
        self.reports = reports
        self.netns = f"godwit-lab-{name}-{os.getpid()}"
        self.folder = state.folder(name)
        self.machines = [_Machine(chr(ord("a") + i), i) for i in range(config["hosts"])]
        self.selector = selectors.DefaultSelector()
        self.ending = False
        self.failed = False
        self.tethered = True
        self.announced = False

    def run(self):
        self._open()
        try:
            net.create(self.netns, [m.name for m in self.machines])
            for machine in self.machines:
                self._boot(machine)
            while not self.ending:
                for key, _ in self.selector.select(self._patience()):
                    key.data(key.fileobj)
                self._check_limits()
        except LabError as err:
            self._fail(str(err))
        finally:
            self._close()
        return 1 if self.failed else 0

    # The lab's folder, its lock, its socket, and the janitor

    def _open(self):
        with state.locked():
            state.sweep()
            try:
                os.mkdir(self.folder, 0o700)
            except FileExistsError:
                raise LabError(f"a lab named '{self.name}' is running already") from None
            self.lock = state.hold(self.folder)
            self._record()
        self._start_janitor()
        for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
            signal.signal(number, lambda *_: self._end())
        wake_read, wake_write = socket.socketpair()     # makes select() return after a signal
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno())
        self.wake = wake_write
        self._watch(wake_read, lambda sock: sock.recv(64))
        os.set_blocking(0, False)
        self._watch(0, self._on_leash)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path("keeper"))
        listener.listen(16)
        self._watch(listener, self._on_connect)

    def _close(self):
        for machine in self.machines:
            if machine.process:
                machine.process.kill()
                machine.process.wait()
        with state.locked():
            state.remove(self.folder)
        os.close(self.lock)
        os.waitpid(self.janitor, 0)

    def _start_janitor(self):
        self.janitor = os.fork()
        if self.janitor:
            return
        os.setsid()
        for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        os.close(self.lock)
        os.close(self.reports.fileno())
        null = os.open("/dev/null", os.O_RDWR)
        for fd in 0, 1, 2:
            os.dup2(null, fd)
        with contextlib.suppress(Exception):
            state.await_end(self.folder)
            if os.path.exists(self.folder):
                with state.locked():
                    state.sweep()
        os._exit(0)

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _record(self):
        state.write(self.folder, {"name": self.name, "keeper": os.getpid(), "netns": self.netns,
                                  "client": net.CLIENT,
                                  "hosts": [m.record() for m in self.machines]})

    def _report(self, event, **facts):
        try:
            self.reports.write(json.dumps({"event": event, **facts}) + "\n")
            self.reports.flush()
        except BrokenPipeError:
            pass                    # nobody listens any more; the leash says whether that matters

    def _watch(self, fileobj, handler):
        self.selector.register(fileobj, selectors.EVENT_READ, handler)

    def _end(self):
        self.ending = True

    def _fail(self, text):
        self.failed = True
        self._report("failed", text=text)
        self._end()

    # Hosts

    def _boot(self, machine):
        path = self._path(f"{machine.name}.qmp")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        command = qemu.command(machine.name, machine.index, lab=self.netns,
                               image=self.config["image"], bundle=self.config["bundle"], qmp=path,
                               memory_mib=self.config["memory_mib"], cpus=self.config["cpus"],
                               disks=self.config["disks"])
        machine.log = open(self._path(f"{machine.name}.console"), "ab", buffering=0)
        machine.console = b""
        machine.state = "booting"
        machine.started = time.monotonic()
        keeper = os.getpid()

        def die_with_keeper():
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)

        machine.process = subprocess.Popen(
            ["ip", "netns", "exec", self.netns, *command], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=die_with_keeper)
        os.set_blocking(machine.process.stdout.fileno(), False)
        self._watch(machine.process.stdout, lambda file: self._on_console(machine, file))
        self._record()

    def _on_console(self, machine, file):
        data = os.read(file.fileno(), 1 << 16)
        if not data:
            self._on_death(machine, file)
            return
        machine.log.write(data)
        machine.console = (machine.console + data)[-4096:]
        if machine.state == "booting" and _READY in machine.console:
            machine.state = "up"
            self._record()
            self._report("booted", host=machine.name,
                         seconds=round(time.monotonic() - machine.started, 1))
            if not self.announced and all(m.state == "up" for m in self.machines):
                self.announced = True
                self._report("up")

    def _on_death(self, machine, file):
        self.selector.unregister(file)
        file.close()
        machine.process.wait()
        machine.process = None
        machine.log.close()
        booting = machine.state == "booting"
        machine.state = "dead"
        self._record()
        self._report("died", host=machine.name)
        if booting and not self.announced:
            self._fail(f"host {machine.name} died while booting{self._last_words(machine)}")

    def _last_words(self, machine):
        lines = machine.console.decode(errors="replace").replace("\r", "").strip().split("\n")[-15:]
        return "; the end of its console:" + "".join(f"\n  {machine.name}| {l}" for l in lines)

    def _patience(self):
        """Seconds until the first boot limit, or None."""
        limits = [m.started + self.config["boot_seconds"] for m in self.machines
                  if m.state == "booting"]
        return max(0.0, min(limits) - time.monotonic()) if limits else None

    def _check_limits(self):
        for machine in self.machines:
            waited = time.monotonic() - machine.started
            if machine.state == "booting" and waited >= self.config["boot_seconds"]:
                words = self._last_words(machine)
                text = f"host {machine.name} was not up after {waited:.0f} s{words}"
                if not self.announced:
                    raise LabError(text)
                machine.process.kill()      # a host booted again: the lab goes on without it

    # Requests

    def _on_leash(self, fd):
        data = os.read(fd, 4096)
        if b"free" in data:
            self.tethered = False
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, 2)        # or whoever reads our starter's errors would wait for our end
            os.close(null)
        if not data:
            self.selector.unregister(fd)
            if self.tethered:
                self._end()

    def _on_connect(self, listener):
        sock, _ = listener.accept()
        sock.settimeout(5)          # who connects and says nothing must not hold us up
        with contextlib.closing(sock), sock.makefile("rw") as file:
            try:
                answer = self._obey(json.loads(file.readline()))
            except (LabError, ValueError, KeyError, TypeError) as err:
                answer = {"error": str(err)}
            except OSError:
                return
            with contextlib.suppress(OSError):
                file.write(json.dumps(answer) + "\n")
                file.flush()

    def _obey(self, request):
        if request["do"] == "down":
            self._end()
            return {}
        machine = next((m for m in self.machines if m.name == request["host"]), None)
        if machine is None:
            raise LabError(f"no host '{request['host']}' in this lab")
        if request["do"] == "boot":
            if machine.process:
                raise LabError(f"host {machine.name} is running")
            self._boot(machine)
        elif request["do"] == "kill":
            if machine.process:
                machine.state = "killed"
                machine.process.kill()
                self._on_death(machine, machine.process.stdout)
        else:
            raise LabError(f"unknown request '{request['do']}'")
        return {}


def main(name, config):
    """Runs as a process of its own, on a session of its own: see Lab.up()."""
    reports = os.fdopen(fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3), "w")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    try:
        return Keeper(name, json.loads(config), reports).run()
    except LabError as err:
        print(json.dumps({"event": "failed", "text": str(err)}), file=reports, flush=True)
        return 1
    except BrokenPipeError:
        return 1
    finally:
        sys.stderr.flush()
