# SPDX-License-Identifier: Apache-2.0
"""Two hosts and an outside client, real or emulated, behind one interface: for demonstrations, measurements, tests.

A place is made by open() and cleared away by close(), whatever became of open(). It has two hosts, .source and
.target (Host), one network that joins them, their guests and the client, and:

    files(name)             where the guest image's file is, on a host
    client_argv(argv)       the command as the outside client on the guest's network
    client_socket()         a TCP socket of the client's
    forget_guest()          a new guest has the address: its predecessor's hardware address is not asked any more
    shape(rate, delay)      limits the link between the hosts: bytes a second, ns; None: as it is
    notes()                 what limits figures taken here, in sentences
    rate, download_rate     a load that it bears without suffering from it: requests and bytes a second
"""
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from . import net
from .errors import LabError, LabTimeout

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUEST_ADDRESS = "10.77.0.100"


class Done:
    def __init__(self, status, out, err):
        self.status, self.stdout, self.stderr = status, out, err


class Talk:
    """A process, or a socket, that answers lines with lines."""

    def __init__(self):
        self.lines, self.rest = queue.Queue(), b""     # (when it came by our CLOCK_MONOTONIC, line); None: it ended

    def take(self, data):
        now = time.monotonic_ns()
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            self.lines.put((now, line))

    def next(self, limit):
        """The next line, and when it came; LabTimeout after `limit` seconds."""
        try:
            found = self.lines.get(timeout=limit)
        except queue.Empty:
            raise LabTimeout(f"no answer within {limit} s") from None
        if found is None:
            self.lines.put(None)
            raise LabError("it ended instead of answering")
        return found

    def ask(self, line=b"", limit=10.0):
        self.send(line + b"\n")
        return self.next(limit)[1]

    def send(self, data):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


class _LabTalk(Talk):
    def __init__(self, host, argv):
        super().__init__()
        self.input, self.output = os.pipe()
        self.session = host.session(argv)
        self.thread = threading.Thread(target=self._pump, daemon=True)
        self.thread.start()

    def _pump(self):
        with contextlib.suppress(LabError, OSError, ValueError):
            self.session.pump(self.take, lambda data: None, input=self.input)
        self.lines.put(None)

    def send(self, data):
        os.write(self.output, data)

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self.output)
        with contextlib.suppress(OSError):
            self.session.abandon()
        self.thread.join(10)
        with contextlib.suppress(OSError):
            os.close(self.input)


class LocalTalk(Talk):
    def __init__(self, argv):
        super().__init__()
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        process_group=0)
        self.thread = threading.Thread(target=self._pump, daemon=True)
        self.thread.start()

    def _pump(self):
        while data := self.process.stdout.read1(65536):
            self.take(data)
        self.lines.put(None)

    def send(self, data):
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError as error:
            raise LabError(f"it is gone: {error.strerror}") from None

    def close(self):
        self.process.kill()
        self.process.wait()
        self.thread.join()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()


class SocketTalk(Talk):
    """With whoever listens at a Unix socket of this machine."""

    def __init__(self, path):
        super().__init__()
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.connect(path)
        except OSError as error:
            self.sock.close()
            raise LabError(f"{path}: {error.strerror}") from None
        self.thread = threading.Thread(target=self._pump, daemon=True)
        self.thread.start()

    def _pump(self):
        with contextlib.suppress(OSError):
            while data := self.sock.recv(65536):
                self.take(data)
        self.lines.put(None)

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise LabError(f"it is gone: {error.strerror}") from None

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.sock.close()


class LabHost:
    meter_interval = "250ms"    # a tenth of a second would be a seventh of an emulated processor

    def __init__(self, host):
        self.host, self.name, self.address = host, f"host {host.name}", host.address
        self.godwit, self.runtime_dir, self.interfaces = "/usr/local/bin/godwit", "/run/godwit", ("data0", "tap0")
        self.config_dir = "/etc/godwit"

    def prepare(self, godwit):
        self.host.push(godwit, self.godwit)
        for argv in (["modprobe", "-a", "tun"], ["ip", "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"],
                     ["ip", "link", "set", "tap0", "master", "br0", "up"]):
            self.host.run(argv, check=argv[0] == "ip")

    def push(self, local):
        """Brings a program over; returns where it is."""
        remote = f"/usr/local/bin/{os.path.basename(local)}"
        self.host.push(local, remote)
        return remote

    def run(self, argv, timeout=60):
        done = self.host.run(argv, timeout=timeout, check=False)
        return Done(done.status, done.stdout, done.stderr)

    def start(self, argv, on_out, on_err):
        return self.host.start(argv, on_out=on_out, on_err=on_err)

    def talk(self, argv):
        """Starts what answers lines with lines."""
        return _LabTalk(self.host, argv)

    def talk_at(self, path):
        """The same with whoever listens at a Unix socket of the host."""
        return _LabTalk(self.host, ["socat", "-", f"UNIX-CONNECT:{path}"])

    def scratch(self):
        """A folder for files of the day."""
        return "/tmp"

    def tools(self, name):
        """Where the place's tools of that name are, or None: the host has them installed."""
        return f"/{name}"


class Lab:
    """Two emulated hosts, each a Debian kernel with a KVM of its own."""
    kind, one_machine, fake = "lab", False, False
    clock_note = "emulated hosts: every time is some 20 to 50 times what hardware would take"

    memory, ready_limit = "192M", 120
    rate, download_rate = 10, 0.5e6

    def __init__(self, *, memory_mib=1536, tools=()):
        """`tools`: further disks for the hosts, of those images/build makes (tools-NAME), each at /NAME there."""
        self.lab, self.memory_mib, self.tools, self.guest_address = None, memory_mib, tools, GUEST_ADDRESS

    def open(self, say):
        from .lab import Lab as Emulated
        say("building images (cached after the first time) and starting two emulated hosts")
        self.lab = Emulated.up(hosts=2, memory_mib=self.memory_mib, tools=self.tools)
        self.source, self.target = LabHost(self.lab["a"]), LabHost(self.lab["b"])

    def files(self, name):
        return f"/images/web/{name}"

    def client_argv(self, argv):
        return self.lab.client_argv(argv)

    def client_socket(self):
        return net.socket_in(self.lab.netns)

    def forget_guest(self):
        subprocess.run(self.client_argv(["ip", "neigh", "flush", "to", self.guest_address]), check=False, capture_output=True)

    def shape(self, rate, delay):
        for host in "a", "b":
            self.lab.shape(host, rate=f"{rate * 8}bit" if rate else None, delay=f"{delay // 1000}us" if delay else None)

    def notes(self):
        return ["The hosts are emulated, processors and all (QEMU's TCG, AMD-V included): every time is some 20 to 50 times "
                "what hardware would take. Compare times with others from the lab only.",
                "Both emulators, the client and its probes share this machine's processors."]

    def close(self):
        if self.lab:
            self.lab.down()


class Running:
    """A command of this machine that goes on beside us."""

    def __init__(self, argv, on_out, on_err, env=None):
        # Not of our process group: a ^C at the terminal is for us to act on.
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        process_group=0, env=env)
        self.threads = [threading.Thread(target=self._pump, args=pair, daemon=True)
                        for pair in ((self.process.stdout, on_out), (self.process.stderr, on_err))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _pump(stream, on_data):
        with stream:
            while data := stream.read1(65536):
                on_data(data)

    def done(self):
        return self.process.poll() is not None

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=None):
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabTimeout(f"not ended after {timeout} s") from None
        for thread in self.threads:
            thread.join()
        return Done(status if status >= 0 else 128 - status, b"", b"")

    def stop(self):
        self.process.kill()
        self.wait()


class LocalHost:
    """A host that is this machine, with a runtime directory of its own."""
    interfaces, meter_interval = (), "100ms"      # all interfaces

    def __init__(self, name, address, base):
        self.name, self.address, self.runtime_dir, self.godwit = name, address, base, None
        self.config_dir = self.runtime_dir + "-config"

    def prepare(self, godwit):
        self.godwit = godwit

    def push(self, local):
        return local

    def argv(self, argv):
        if argv[0] == self.godwit:  # a host of its own has a key of its own
            return [argv[0], "--runtime-dir", self.runtime_dir, "--config-dir", self.config_dir, *argv[1:]]
        return argv

    def run(self, argv, timeout=60):
        try:
            done = subprocess.run(self.argv(argv), capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False)
        except subprocess.TimeoutExpired:
            raise LabTimeout(f"no end after {timeout} s; the command was stopped") from None
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, argv, on_out, on_err):
        return Running(self.argv(argv), on_out, on_err)

    def talk(self, argv):
        return LocalTalk(self.argv(argv))

    def talk_at(self, path):
        return SocketTalk(path)

    def scratch(self):
        os.makedirs(self.runtime_dir + "-scratch", exist_ok=True)
        return self.runtime_dir + "-scratch"

    def tools(self, name):
        return None


class NetnsHost(LocalHost):
    interfaces = ("data0", "tap0")

    def __init__(self, name, netns, address, base):
        super().__init__(name, address, base)
        self.netns = netns

    def prepare(self, godwit):
        super().prepare(godwit)
        for argv in (["tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"], ["link", "set", "tap0", "master", "br0", "up"]):
            subprocess.run(["ip", "-n", self.netns, *argv], check=True)

    def argv(self, argv):
        return ["ip", "netns", "exec", self.netns, *super().argv(argv)]


class Namespaces:
    """Two network namespaces of this machine, joined by a third that also holds the client."""
    kind, one_machine, fake = "namespaces", True, False
    clock_note = "two network namespaces of this machine: both monitors share its processors"

    memory, ready_limit = "512M", 60
    rate, download_rate = 100, 8e6

    def __init__(self, **_):
        self.tag = f"godwit-demo-{os.getpid()}"
        self.middle = f"{self.tag}-net"
        self.spaces, self.scratch, self.guest_address = [], None, GUEST_ADDRESS

    def open(self, say):
        say("building the guest's image (cached after the first time) and making two network namespaces as hosts")
        with subprocess.Popen([os.path.join(ROOT, "images/build"), "web"], stdout=subprocess.PIPE, text=True) as build:
            self.image = build.communicate()[0].split()[-1:]
        if build.returncode or not self.image:
            raise LabError("the guest's image could not be built (see above)")
        self.image = self.image[0]
        self.scratch = tempfile.mkdtemp(prefix="godwit-demo-")
        self.join()

    def join(self):
        """Makes the namespaces and the link between them."""
        self._space(self.middle)
        self._bridge(self.middle, "10.77.0.1/24")
        self.source, self.target = self._host("a", 11), self._host("b", 12)

    def _ip(self, netns, *args):
        subprocess.run(["ip", *(["-n", netns] if netns else []), *args], check=True)

    def _space(self, netns):
        self.spaces.append(netns)   # before it is there: an interrupt may come between
        self._ip(None, "netns", "add", netns)
        self._ip(netns, "link", "set", "lo", "up")

    def _bridge(self, netns, address):
        self._ip(netns, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        self._ip(netns, "address", "add", address, "dev", "br0")
        self._ip(netns, "link", "set", "br0", "up")

    def _host(self, name, number):
        netns, address = f"{self.tag}-{name}", f"10.77.0.{number}"
        self._space(netns)
        self._ip(self.middle, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "data0", "netns", netns)
        self._ip(self.middle, "link", "set", f"to-{name}", "master", "br0", "up")
        self._bridge(netns, f"{address}/24")
        self._ip(netns, "link", "set", "data0", "master", "br0", "up")
        return NetnsHost(f"host {name}", netns, address, os.path.join(self.scratch, name))

    def files(self, name):
        return os.path.join(self.image, name)

    def client_argv(self, argv):
        return ["ip", "netns", "exec", self.middle, *argv]

    def client_socket(self):
        return net.socket_in(self.middle)

    def forget_guest(self):
        subprocess.run(self.client_argv(["ip", "neigh", "flush", "to", self.guest_address]), check=False, capture_output=True)

    def shape(self, rate, delay):
        """What leaves a host is delayed and limited at its own end, what comes to it is limited at the other."""
        for name in "a", "b":
            self._queue(f"{self.tag}-{name}", "data0", rate, delay)
            self._queue(self.middle, f"to-{name}", rate, None)

    @staticmethod
    def _queue(netns, device, rate, delay):
        """A limit alone is a token bucket, which more kernels have than netem."""
        tc = ["tc", "-n", netns, "qdisc"]
        subprocess.run([*tc, "del", "dev", device, "root"], check=False, stderr=subprocess.DEVNULL)
        if delay:
            words = ["netem", "limit", "20000", "delay", f"{delay // 1000}us", *(["rate", f"{rate * 8}bit"] if rate else [])]
        elif rate:
            words = ["tbf", "rate", f"{rate * 8}bit", "burst", str(max(65536, rate // 250)), "latency", "500ms"]
        else:
            return
        done = subprocess.run([*tc, "add", "dev", device, "root", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"the link cannot be limited: tc: {words[0]}: {done.stderr.strip()}")

    def notes(self):
        return ["Both hosts are network namespaces of one machine: monitors, client and probes share its processors and its "
                "memory's bandwidth."]

    def _processes(self):
        for netns in self.spaces:
            listed = subprocess.run(["ip", "netns", "pids", netns], capture_output=True, text=True, check=False)
            yield from map(int, listed.stdout.split())

    def close(self):
        for number, limit in (signal.SIGTERM, 5), (signal.SIGKILL, 5):
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + limit
            while any(self._processes()) and time.monotonic() < end:
                time.sleep(0.05)
        for netns in self.spaces:
            subprocess.run(["ip", "netns", "delete", netns], check=False, stderr=subprocess.DEVNULL)
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)


class Local:
    """Two hosts that are this machine, without a network of their own: for tests over the fake hypervisor."""
    kind, one_machine, fake = "local", True, True

    def __init__(self, **_):
        self.scratch, self.guest_address = None, "127.0.0.1"

    def open(self, say):
        say("two runtime directories of this machine as hosts")
        self.scratch = tempfile.mkdtemp(prefix="godwit-place-")
        self.source, self.target = (LocalHost(f"host {name}", "127.0.0.1", os.path.join(self.scratch, name)) for name in "ab")

    def files(self, name):
        return f"/none/{name}"

    def client_argv(self, argv):
        return argv

    def client_socket(self):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def forget_guest(self):
        pass

    def shape(self, rate, delay):
        if rate or delay:
            raise LabError("this place has no link to shape")

    def notes(self):
        return ["Both hosts are this machine."]

    def close(self):
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)


def stock_guests(godwit):
    """Whether this machine's KVM runs stock guests, and why or why not, by `godwit check`."""
    said = subprocess.run([godwit, "check", "--json"], stdout=subprocess.PIPE, check=False).stdout
    facts = json.loads(said or "[]")
    fact = next((fact for fact in facts if fact["fact"] == "stock-guests"), {"ok": False, "reason": "`godwit check` failed"})
    return fact["ok"], fact["reason"]
