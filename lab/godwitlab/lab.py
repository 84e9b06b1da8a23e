# SPDX-License-Identifier: Apache-2.0
"""A lab as its user sees it."""
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

from . import net, qemu, state
from .errors import LabError
from .host import Host

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_BUILD = os.path.join(os.path.dirname(_HERE), "images", "build")


def build_images(tools=()):
    """Makes sure that the images exist; returns the folders of the host image, of the bundle, and the disk of each
    of the tools."""
    build = subprocess.Popen([_BUILD, "all", *(f"tools-{name}" for name in tools)], stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        output = build.communicate()[0]
    except BaseException:
        os.killpg(build.pid, signal.SIGTERM)    # it has much to clear away, and does
        build.communicate()
        raise
    if build.returncode != 0:
        raise LabError("the images could not be built (see above)")
    host, _, bundle, *disks = output.split()
    return host, bundle, {name: os.path.join(disk, "tools.squashfs") for name, disk in zip(tools, disks)}


class Lab:
    """Use Lab.up() or Lab.attach()."""

    def __init__(self, name, keeper=None):
        self.name = name
        self._keeper = keeper
        self.netns = self._read()["netns"]

    @classmethod
    def up(cls, name=None, *, hosts=2, memory_mib=1536, cpus=1, boot_seconds=120, report=None, tools=()):
        """Starts a lab that lives no longer than this process. Its hosts are called a, b, c, ...
        `report` is called with each event of the start, a dict. `tools` are further read-only disks that
        images/build makes (`tools-NAME`); each is at /NAME in the hosts."""
        cls._check(hosts, memory_mib, cpus)
        name = name or f"py-{os.getpid()}"
        image, bundle, disks = build_images(tools)
        config = {"hosts": hosts, "memory_mib": memory_mib, "cpus": cpus,
                  "boot_seconds": boot_seconds, "image": image, "bundle": bundle, "disks": disks}
        keeper = subprocess.Popen(
            [sys.executable, os.path.join(_HERE, "lab"), "_keeper", name, json.dumps(config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            cls._await(keeper, name, report)
            return cls(name, keeper)
        except BaseException:
            keeper.stdin.close()
            keeper.wait()
            raise

    @staticmethod
    def _check(hosts, memory_mib, cpus):
        if os.geteuid() != 0:
            raise LabError("the lab makes network namespaces and taps: run it as root")
        if not 1 <= hosts <= 8 or not 512 <= memory_mib <= 16384 or not 1 <= cpus <= 8:
            raise LabError("a lab has 1 to 8 hosts, of 512 to 16384 MiB and 1 to 8 processors each")
        for tool in qemu.PROGRAM, "ip":
            if not shutil.which(tool):
                raise LabError(f"{tool} is not installed: scripts/packages.txt names its package")

    @staticmethod
    def _await(keeper, name, report):
        for line in keeper.stdout:
            event = json.loads(line)
            if report:
                report(event)
            if event["event"] == "up":
                return
            if event["event"] == "failed":
                raise LabError(event["text"])
        raise LabError(f"the keeper of lab '{name}' died")

    @classmethod
    def attach(cls, name):
        """Joins a running lab, which then does not end with us."""
        return cls(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def __getitem__(self, host):
        self.host_record(host)
        return Host(self, host)

    @property
    def hosts(self):
        return [Host(self, record["name"]) for record in self._read()["hosts"]]

    def status(self):
        return self._read()

    def host_record(self, host):
        for record in self._read()["hosts"]:
            if record["name"] == host:
                return record
        raise LabError(f"no host '{host}' in lab '{self.name}'")

    def _read(self):
        return state.read(self.name)

    def free(self):
        """Lets the lab outlive us."""
        self._keeper.stdin.write("free\n")
        self._keeper.stdin.flush()
        self._keeper.stdin.close()
        self._keeper = None

    def client_argv(self, argv):
        """The command that runs `argv` on this machine as the outside client, at net.CLIENT."""
        return ["ip", "netns", "exec", self.netns, *argv]

    def client(self, argv, **kwargs):
        """subprocess.run() as the outside client."""
        return subprocess.run(self.client_argv(argv), **kwargs)

    def cut(self, host, silent=False):
        """Pulls the data cable of a host: it sees the carrier go. `silent`: as when a switch beyond
        dies; it sees nothing, packets vanish. Commands still reach it."""
        self.host_record(host)
        if silent:
            net.set_tap(self.netns, host, False)
        else:
            qemu.qmp(self._path(f"{host}.qmp"), "set_link", name="data", up=False)

    def join(self, host):
        """Puts the cable back, whichever way it was cut."""
        self.host_record(host)
        net.set_tap(self.netns, host, True)
        qemu.qmp(self._path(f"{host}.qmp"), "set_link", name="data", up=True)

    def shape(self, host, *, rate=None, delay=None):
        """Limits the data link: `rate` in each direction, `delay` for each packet that leaves the
        host, both as tc(8) writes them ("1gbit", "5ms"); neither: no limits."""
        Host(self, host).run(["lab-shape", rate or "", delay or ""])

    def kill(self, host):
        """Cuts the power of a host, now."""
        self._ask(do="kill", host=host)

    def boot(self, host):
        """Starts a dead host again, as new; returns before it is up."""
        self._ask(do="boot", host=host)

    def down(self):
        """Ends the lab and waits until nothing of it is left."""
        if self._keeper:
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper.stdout.close()
            self._keeper = None
        else:
            down(self.name)

    def _path(self, name):
        return os.path.join(state.folder(self.name), name)

    def _ask(self, **request):
        answer = ask(self.name, request)
        if "error" in answer:
            raise LabError(answer["error"])


def ask(name, request):
    """One request to a lab's keeper."""
    path = os.path.join(state.folder(name), "keeper")
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(path)
            with sock.makefile("rw") as file:
                file.write(json.dumps(request) + "\n")
                file.flush()
                return json.loads(file.readline() or '{"error": "the keeper died"}')
    except OSError as err:
        raise LabError(f"lab '{name}': no answer from its keeper: {err}") from None


def down(name):
    """Ends the lab of that name, also a dead one, and waits until nothing of it is left."""
    path = state.folder(name)
    try:
        keeper = os.pidfd_open(state.read(name)["keeper"])
    except (LabError, ProcessLookupError):
        keeper = None
    if keeper is not None:
        try:
            ask(name, {"do": "down"})
            if not select.select([keeper], [], [], 30)[0]:
                raise LabError(f"the keeper of lab '{name}' does not end")
        finally:
            os.close(keeper)
    with state.locked():
        state.sweep()
        if os.path.exists(path):
            raise LabError(f"lab '{name}' is still there")
