#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The web guest's image, on a machine known to be right (QEMU's own microvm, emulated): it boots,
nginx serves, the big file is what it should be, the console has a shell, the power button works."""
import hashlib
import http.client
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "lab"))

from godwitlab import net, qemu  # noqa: E402

ADDRESS = "10.77.0.50"
MEMORY_MIB = 192
LIMIT_S = 120


class Guest:
    def __init__(self, netns, image, folder, more=""):
        self.qmp = os.path.join(folder, "qmp")
        append = ("console=ttyS0 panic=-1 reboot=t quiet tsc=reliable "
                  f"tsc_early_khz={qemu.tsc_khz()} godwit.ip={ADDRESS}/24 {more}")
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", netns, qemu.PROGRAM, "-M", "microvm",
             "-accel", "tcg,thread=multi", "-cpu", "max,-erms", "-m", str(MEMORY_MIB), "-smp", "1",
             "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
             "-global", "virtio-mmio.force-legacy=false",
             "-chardev", "stdio,id=c,signal=off", "-serial", "chardev:c",
             "-qmp", f"unix:{self.qmp},server=on,wait=off",
             "-kernel", f"{image}/vmlinuz", "-initrd", f"{image}/initrd", "-append", append,
             "-device", "virtio-rng-device",
             "-drive", f"id=root,if=none,format=raw,readonly=on,file={image}/root.squashfs",
             "-device", "virtio-blk-device,drive=root",
             "-netdev", "tap,id=n,ifname=guest-data,script=no,downscript=no",
             "-device", "virtio-net-device,netdev=n,mac=52:54:00:12:34:56"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.console = b""

    def expect(self, pattern, what):
        limit = time.monotonic() + LIMIT_S
        while not (match := re.search(pattern, self.console)):
            left = limit - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                sys.exit(f"no {what} within {LIMIT_S} s; console:\n{self.console.decode()}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                sys.exit(f"the guest ended before {what}; console:\n{self.console.decode()}")
            self.console += data
        self.console = self.console[match.end():]
        return match

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()


class Http(http.client.HTTPConnection):
    def __init__(self, netns):
        super().__init__(ADDRESS, timeout=LIMIT_S)
        self.netns = netns

    def connect(self):
        self.sock = net.socket_in(self.netns)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect((ADDRESS, 80))


def get(http_client, path):
    http_client.request("GET", path)
    answer = http_client.getresponse()
    assert answer.status == 200, f"{path}: status {answer.status}"
    return answer


def check(netns, image, folder):
    guest = Guest(netns, image, folder)
    try:
        start = time.monotonic()
        guest.expect(rb"godwit-guest: (.*?)\r?\n", "word from the guest")
        print(f"ready after {time.monotonic() - start:.1f} s")

        web = Http(netns)
        assert get(web, "/ping").read() == b"pong\n"
        assert b"nginx" in get(web, "/").read()

        with open(os.path.join(image, "big.sha256")) as file:
            expected = file.read().strip()
        digest, size = hashlib.sha256(), 0
        answer = get(web, "/big.bin")
        while data := answer.read(1 << 20):
            digest.update(data)
            size += len(data)
        assert size >= 64 << 20, f"big.bin has only {size} bytes"
        assert digest.hexdigest() == expected, "big.bin is not what the image's sum says"
        assert get(web, "/big.sha256").read().decode().strip() == expected
        web.close()

        guest.type("echo sum-$((40 + 2)); grep MemAvailable /proc/meminfo")
        guest.expect(rb"sum-42", "shell on the console")
        spare = int(guest.expect(rb"MemAvailable:\s*(\d+) kB", "memory figure")[1]) // 1024
        print(f"{spare} of {MEMORY_MIB} MiB available after serving")
        assert spare >= MEMORY_MIB // 4, "too little memory left"

        qemu.qmp(guest.qmp, "system_powerdown")
        guest.expect(rb"godwit-guest: power button", "reaction to the power button")
        assert guest.process.wait(LIMIT_S) == 0, "the emulator ended in error"
    finally:
        guest.process.kill()
        guest.process.wait()


def in_network(what, check):
    """Calls check(netns, image, folder) with the image, a network for it and a folder for files; the exit status."""
    if os.geteuid() != 0:
        print("skipped: needs root for a network namespace")
        return 77
    if not shutil.which(qemu.PROGRAM):
        print(f"skipped: {qemu.PROGRAM} is not installed")
        return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    image = subprocess.run([os.path.join(ROOT, "images", "build"), "web"], check=True,
                           stdout=subprocess.PIPE, text=True).stdout.strip()
    netns = f"godwit-web-image-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="godwit-web-") as folder:
        try:
            net.create(netns, ["guest"])
            check(netns, image, folder)
        finally:
            net.destroy(netns)
    print(f"{what}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(in_network("web image", check))
