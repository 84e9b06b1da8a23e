# SPDX-License-Identifier: Apache-2.0
"""Where the demonstration runs: two hosts and an outside client, real or emulated, behind one interface.

A place is made by open() and cleared away by close(), whatever became of open(). It has hosts (.source, .target),
each with run(argv), start(argv, on_out, on_err), an address the other reaches it at, and a tap for the guest;
files(): where the guest image is on a host; client_argv(argv): the command as the outside client on the guest's
network; and the load that it bears without suffering from it: requests a second and bytes a second.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))

GUEST_ADDRESS = "10.77.0.100"


class Done:
    def __init__(self, status, out, err):
        self.status, self.stdout, self.stderr = status, out, err


class LabHost:
    def __init__(self, host):
        self.host, self.name, self.address = host, f"host {host.name}", host.address
        self.godwit, self.runtime_dir = "/usr/local/bin/godwit", "/run/godwit"

    def prepare(self, godwit):
        self.host.push(godwit, self.godwit)
        for argv in (["modprobe", "-a", "tun"], ["ip", "tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"],
                     ["ip", "link", "set", "tap0", "master", "br0", "up"]):
            self.host.run(argv, check=argv[0] == "ip")

    def run(self, argv, timeout=60):
        done = self.host.run(argv, timeout=timeout, check=False)
        return Done(done.status, done.stdout, done.stderr)

    def start(self, argv, on_out, on_err):
        return self.host.start(argv, on_out=on_out, on_err=on_err)


class Lab:
    """Two emulated hosts, each a Debian kernel with a KVM of its own."""
    clock_note = "emulated hosts: every time is some 20 to 50 times what hardware would take"

    memory, ready_limit = "192M", 120
    rate, download_rate = 10, 0.5e6

    def __init__(self):
        self.lab = None

    def open(self, say):
        from godwitlab import Lab as Emulated
        say("building images (cached after the first time) and starting two emulated hosts")
        self.lab = Emulated.up(hosts=2)
        self.source, self.target = LabHost(self.lab["a"]), LabHost(self.lab["b"])

    def files(self, name):
        return f"/images/web/{name}"

    def client_argv(self, argv):
        return self.lab.client_argv(argv)

    def close(self):
        if self.lab:
            self.lab.down()


class NetnsHost:
    def __init__(self, name, netns, address, base):
        self.name, self.netns, self.address, self.runtime_dir = name, netns, address, base
        self.godwit = None

    def prepare(self, godwit):
        self.godwit = godwit
        for argv in (["tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"], ["link", "set", "tap0", "master", "br0", "up"]):
            subprocess.run(["ip", "-n", self.netns, *argv], check=True)

    def _argv(self, argv):
        if argv[0] == self.godwit:  # a host of its own has a key of its own
            argv = [argv[0], "--runtime-dir", self.runtime_dir, "--config-dir", self.runtime_dir + "-config", *argv[1:]]
        return ["ip", "netns", "exec", self.netns, *argv]

    def run(self, argv, timeout=60):
        done = subprocess.run(self._argv(argv), capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, argv, on_out, on_err):
        return Running(self._argv(argv), on_out, on_err)


class Running:
    def __init__(self, argv, on_out, on_err):
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.threads = [threading.Thread(target=self._pump, args=pair, daemon=True)
                        for pair in ((self.process.stdout, on_out), (self.process.stderr, on_err))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _pump(stream, on_data):
        while data := stream.read1(65536):
            on_data(data)

    def wait(self, timeout=None):
        status = self.process.wait(timeout)
        for thread in self.threads:
            thread.join()
        return Done(status, b"", b"")

    def stop(self):
        self.process.kill()
        self.wait()


class Namespaces:
    """Two network namespaces of this machine, joined by a third that also holds the client."""
    clock_note = "two network namespaces of this machine: both monitors share its processors"

    memory, ready_limit = "512M", 60
    rate, download_rate = 100, 8e6

    def __init__(self):
        self.tag = f"godwit-demo-{os.getpid()}"
        self.middle = f"{self.tag}-net"
        self.spaces, self.scratch = [], None

    def open(self, say):
        say("building the guest's image (cached after the first time) and making two network namespaces as hosts")
        with subprocess.Popen([os.path.join(HERE, "../images/build"), "web"], stdout=subprocess.PIPE, text=True) as build:
            self.image = build.communicate()[0].split()[-1:]
        if build.returncode or not self.image:
            raise RuntimeError("the guest's image could not be built (see above)")
        self.image = self.image[0]
        self.scratch = tempfile.mkdtemp(prefix="godwit-demo-")
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

    def _processes(self):
        for netns in self.spaces:
            listed = subprocess.run(["ip", "netns", "pids", netns], capture_output=True, text=True)
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
