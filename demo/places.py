# SPDX-License-Identifier: Apache-2.0
"""Where the demonstration runs: two hosts and an outside client, real or emulated, behind one interface.

A place has hosts (.source, .target), each with run(argv), start(argv, on_out), an address the other reaches
it at, and a tap for the guest; files(): where the guest image is on a host; client_argv(argv): the command
as the outside client on the guest's network.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))

GUEST_ADDRESS = "10.77.0.100"


class Done:
    def __init__(self, status, out, err):
        self.status, self.stdout, self.stderr = status, out, err


class LabHost:
    def __init__(self, host):
        self.host, self.name, self.address = host, f"host {host.name}", host.address
        self.godwit = "/usr/local/bin/godwit"

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

    def __init__(self, say):
        from godwitlab import Lab as Emulated
        say("building images (cached after the first time) and starting two emulated hosts")
        self.lab = Emulated.up(hosts=2)
        self.source, self.target = LabHost(self.lab["a"]), LabHost(self.lab["b"])
        self.memory, self.ready_limit = "192M", 120

    def files(self, name):
        return f"/images/web/{name}"

    def client_argv(self, argv):
        return self.lab.client_argv(argv)

    def close(self):
        self.lab.down()


class NetnsHost:
    def __init__(self, name, netns, address, base):
        self.name, self.netns, self.address, self.base = name, netns, address, base
        self.godwit = None

    def prepare(self, godwit):
        self.godwit = godwit
        for argv in (["tuntap", "add", "tap0", "mode", "tap", "vnet_hdr"], ["link", "set", "tap0", "master", "br0", "up"]):
            subprocess.run(["ip", "-n", self.netns, *argv], check=True)

    def _argv(self, argv):
        argv = [argv[0], "--runtime-dir", self.base, *argv[1:]] if argv[0] == self.godwit else argv
        return ["ip", "netns", "exec", self.netns, *argv]

    def run(self, argv, timeout=60):
        done = subprocess.run(self._argv(argv), capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, argv, on_out, on_err):
        return Running(self._argv(argv), on_out, on_err)

    def kill_all(self):
        for name in os.listdir(self.base) if os.path.isdir(self.base) else []:
            try:
                with open(os.path.join(self.base, name, "lock")) as f:
                    os.kill(int(f.read().split()[0]), signal.SIGTERM)
            except (OSError, ValueError, IndexError):
                pass


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


class Namespaces:
    """Two network namespaces of this machine, joined by a third that also holds the client."""
    clock_note = "two network namespaces of this machine: both monitors share its processors"

    def __init__(self, say):
        say("making two network namespaces as hosts")
        tag = f"godwit-demo-{os.getpid()}"
        self.scratch = tempfile.mkdtemp(prefix="godwit-demo-")
        self.middle, self.spaces = f"{tag}-net", []
        self.memory, self.ready_limit = "512M", 60
        try:
            self._ip(None, "netns", "add", self.middle)
            self.spaces.append(self.middle)
            self._ip(self.middle, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
            self._ip(self.middle, "address", "add", "10.77.0.1/24", "dev", "br0")
            self._ip(self.middle, "link", "set", "br0", "up")
            self.source, self.target = self._host(tag, "a", 11), self._host(tag, "b", 12)
        except BaseException:
            self.close()
            raise
        self.image = subprocess.run([os.path.join(HERE, "../images/build"), "web"], check=True,
                                    stdout=subprocess.PIPE, text=True).stdout.split()[-1]

    def _ip(self, netns, *args):
        subprocess.run(["ip", *(["-n", netns] if netns else []), *args], check=True)

    def _host(self, tag, name, number):
        netns, address = f"{tag}-{name}", f"10.77.0.{number}"
        self._ip(None, "netns", "add", netns)
        self.spaces.append(netns)
        self._ip(self.middle, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "data0", "netns", netns)
        self._ip(self.middle, "link", "set", f"to-{name}", "master", "br0", "up")
        self._ip(netns, "link", "set", "lo", "up")
        self._ip(netns, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        self._ip(netns, "link", "set", "data0", "master", "br0", "up")
        self._ip(netns, "address", "add", f"{address}/24", "dev", "br0")
        self._ip(netns, "link", "set", "br0", "up")
        return NetnsHost(f"host {name}", netns, address, os.path.join(self.scratch, name))

    def files(self, name):
        return os.path.join(self.image, name)

    def client_argv(self, argv):
        return ["ip", "netns", "exec", self.middle, *argv]

    def close(self):
        for host in (getattr(self, "source", None), getattr(self, "target", None)):
            if host:
                host.kill_all()
        for netns in self.spaces:
            subprocess.run(["ip", "netns", "delete", netns], check=False)
        shutil.rmtree(self.scratch, ignore_errors=True)
