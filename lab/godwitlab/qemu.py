# SPDX-License-Identifier: Apache-2.0
"""One emulated host: QEMU's command line and its control socket.

Three settings are musts, found by measuring. `tsc_early_khz`: without it one boot in ten hangs
while the kernel calibrates the TSC against an emulated timer; QEMU shows the machine's own TSC, so
we measure that. `tsc=reliable`: otherwise the only clock steps by 4 ms. `-erms`: string
instructions are emulated byte by byte, and software uses them for every copy when the processor
claims that they are fast.

One processor a host is the default for a reason found the same way. With two, each on a thread of
its own, the emulator now and then lets the host's own registers run as the guest when an interrupt
arrives during VMRUN: the guest takes a page fault on its next instruction and triple-faults, about
once in a hundred seconds of a busy machine (QEMU 7.2; never seen with one processor).
"""
import ctypes
import functools
import json
import mmap
import socket
import time

from . import net
from .errors import LabError

PROGRAM = "qemu-system-x86_64"


@functools.cache
def tsc_khz():
    """The machine's TSC frequency, from two looks at it and the clock, 100 ms apart."""
    # rdtsc; shl rdx, 32; or rax, rdx; ret
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)

    def look():
        best = None
        for _ in range(20):     # keep the look that was disturbed least
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            tsc = rdtsc()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            if best is None or after - before < best[0]:
                best = (after - before, (before + after) // 2, tsc)
        return best[1:]

    ns0, tsc0 = look()
    time.sleep(0.1)
    ns1, tsc1 = look()
    return round((tsc1 - tsc0) * 1_000_000 / (ns1 - ns0))


def command(host, index, *, lab, image, bundle, qmp, memory_mib, cpus, disks):
    """The command that runs the host; its console is on standard output."""
    append = [
        "console=ttyS0", "panic=-1", "reboot=t", "quiet",
        "tsc=reliable", f"tsc_early_khz={tsc_khz()}",
        f"lab.name={host}",
        f"lab.data={net.mac('data', index)},{net.data_address(index)}/24",
        f"lab.mgmt={net.mac('mgmt', index)},{net.mgmt_address(index)}/24",
    ]
    args = [
        PROGRAM, "-name", f"{lab}-{host}", "-M", "microvm", "-accel", "tcg,thread=multi",
        "-cpu", "max,-erms", "-m", str(memory_mib), "-smp", str(cpus),
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-global", "virtio-mmio.force-legacy=false",
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
        "-qmp", f"unix:{qmp},server=on,wait=off",
        "-kernel", f"{image}/vmlinuz", "-initrd", f"{image}/initrd", "-append", " ".join(append),
        "-device", "virtio-rng-device",
    ]
    for name, path in ("root", f"{image}/root.squashfs"), ("images", f"{bundle}/bundle.squashfs"), *disks.items():
        args += ["-drive", f"id={name},if=none,format=raw,readonly=on,file={path}",
                 "-device", f"virtio-blk-device,drive={name},serial={name}"]
    for network in "data", "mgmt":
        args += ["-netdev", f"tap,id={network},ifname={net.tap(host, network)},"
                            "script=no,downscript=no",
                 "-device", f"virtio-net-device,netdev={network},mac={net.mac(network, index)}"]
    return args


def qmp(path, execute, **arguments):
    """One QMP command, on a connection of its own; QEMU serves these one after the other."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(path)
            with sock.makefile("rw") as file:
                file.readline()                             # the greeting
                for request in {"execute": "qmp_capabilities"}, \
                               {"execute": execute, "arguments": arguments}:
                    file.write(json.dumps(request) + "\n")
                    file.flush()
                    answer = {}
                    while not {"return", "error"} & answer.keys():  # events come in between
                        line = file.readline()
                        if not line:
                            raise LabError("the emulator closed its control socket")
                        answer = json.loads(line)
                    if "error" in answer:
                        raise LabError(f"{execute}: {answer['error']['desc']}")
                return answer["return"]
    except OSError as err:
        raise LabError(f"{path}: {err}: the host is not running") from None
