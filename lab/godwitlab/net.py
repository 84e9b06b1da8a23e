# SPDX-License-Identifier: Apache-2.0
"""The lab's network: one namespace with two bridges, and a tap on each for every host.

    lan   10.77.0.0/24   the data network: hosts, their guests, and the outside client (10.77.0.1)
    mgmt  10.78.0.0/24   commands; never cut, never shaped, not reachable from the data network

Host number i (from 0) is .11+i on both. Addresses are the same in every lab: namespaces keep labs,
and the machine's own network, apart.
"""
import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess

from .errors import LabError

CLIENT = "10.77.0.1"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def data_address(index):
    return f"10.77.0.{11 + index}"


def mgmt_address(index):
    return f"10.78.0.{11 + index}"


def mac(network, index):
    return f"52:54:00:{77 if network == 'data' else 78}:00:{11 + index}"


def tap(host, network):
    return f"{host}-{network}"


def _ip(*args, commands=None):
    done = subprocess.run(["ip", *args], input=commands, text=True, capture_output=True)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def create(netns, hosts):
    """Makes the namespace with its bridges, and the taps of the named hosts."""
    _ip("netns", "add", netns)
    lines = ["link set lo up"]
    for bridge, address in ("lan", CLIENT), ("mgmt", "10.78.0.1"):
        lines += [
            f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"address add {address}/24 dev {bridge}",
            f"link set {bridge} up",
        ]
    for host in hosts:
        for network, bridge in ("data", "lan"), ("mgmt", "mgmt"):
            name = tap(host, network)
            lines += [f"tuntap add {name} mode tap", f"link set {name} master {bridge} up"]
    _ip("-n", netns, "-batch", "-", commands="\n".join(lines) + "\n")


def set_tap(netns, host, up):
    _ip("-n", netns, "link", "set", tap(host, "data"), "up" if up else "down")


def destroy(netns):
    """Ends every process in the namespace, then the namespace. Harmless when it is gone already."""
    while pids := _pids(netns):         # again, for what they forked meanwhile
        for pid in pids:
            _kill(pid)
    if os.path.exists(_path(netns)):
        _ip("netns", "delete", netns)


def _path(netns):
    return f"/run/netns/{netns}"


def _pids(netns):
    """Who lives in the namespace. (`ip netns pids` fails when a process ends while it looks.)"""
    found = []
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(_path(netns))
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), there):
                    found.append(int(pid))
    return found


def _kill(pid):
    try:
        fd = os.pidfd_open(pid)
    except OSError:             # ended already; a dying process gives more errors than ESRCH
        return
    try:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], 10)
    finally:
        os.close(fd)


def socket_in(netns, kind=socket.SOCK_STREAM):
    """A socket, TCP unless told otherwise, that lives in the namespace, made without moving the caller there for good."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            there = os.open(_path(netns), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LabError(f"the lab's network {netns} is gone") from None
        try:
            _setns(there)
            try:
                return socket.socket(socket.AF_INET, kind)
            finally:
                _setns(here)
        finally:
            os.close(there)
    finally:
        os.close(here)


def _setns(fd):
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise LabError(f"setns: {os.strerror(ctypes.get_errno())}: the lab needs root")
