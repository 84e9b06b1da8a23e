# SPDX-License-Identifier: Apache-2.0
"""What the figures were taken on: raw/machine.json."""
import datetime
import os
import platform
import struct
import subprocess

from godwitlab.errors import LabError


def _processor():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return None


def _on_host(place, argv):
    try:
        done = place.source.run(argv)
    except LabError:
        return None
    return done.stdout if done.status == 0 else None


def kernel_of(image: bytes):
    """The version of a bzImage, from its header; None if there is none."""
    if len(image) < 0x210 or image[0x202:0x206] != b"HdrS":
        return None
    at = struct.unpack_from("<H", image, 0x20e)[0] + 0x200
    words = image[at:at + 128].split(b"\0")[0].decode(errors="replace").split()
    return words[0] if words else None


def describe(place, godwit, sides, notes):
    host_kernel = _on_host(place, ["uname", "-r"])
    guest = _on_host(place, ["head", "-c", "32768", place.files("vmlinuz")])
    version = subprocess.run([godwit, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return {
        "place": place.kind, "processor": _processor(), "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "kernel": platform.release(),
        "host_kernel": host_kernel.decode().strip() if host_kernel else None,
        "guest_kernel": kernel_of(guest) if guest else None,
        "godwit": version[-1] if version else None, "qemu": sides["qemu"].version(place) if "qemu" in sides else None,
        "started": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "notes": notes,
    }
