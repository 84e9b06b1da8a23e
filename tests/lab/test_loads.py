#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The web guest's loads, each in a guest of its own (QEMU's microvm, emulated): ready means that it serves.

`test_loads.py NAME...` tries some of them only."""
import os
import re
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from test_web_image import ADDRESS, LIMIT_S, MEMORY_MIB, Guest, Http, get, in_network  # noqa: E402

from godwitlab import net  # noqa: E402


def dial(netns, port, kind=socket.SOCK_STREAM):
    sock = net.socket_in(netns, kind)
    sock.settimeout(LIMIT_S)
    sock.connect((ADDRESS, port))
    return sock


def ask(netns, port, line):
    """Sends a line and reads to the end of file."""
    with dial(netns, port) as sock:
        sock.sendall(line)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def rows(text, columns):
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    assert lines[0] == columns, lines[0]
    return [[int(cell) for cell in line.split(",")] for line in lines[1:]]


def shell(guest, command, pattern):
    """What a command in the guest prints between two words that only its output has."""
    guest.type(f"echo be''gin; {command}; echo e''nd")
    said = guest.expect(rb"(?s)begin\r?\n(.*?)end\r?\n", f"an answer to {command}")[1]
    match = re.search(pattern, said)
    assert match, f"{command} says {said}"
    return match


def check_common(guest, netns):
    """What is everywhere."""
    web = Http(netns)
    assert get(web, "/ping").read() == b"pong\n"
    web.close()
    with dial(netns, 7) as sock:
        sock.sendall(b"over TCP")
        assert sock.recv(100) == b"over TCP"
    with dial(netns, 7, socket.SOCK_DGRAM) as sock:
        sock.send(b"over UDP")
        assert sock.recv(100) == b"over UDP"
    ping = subprocess.run(["ip", "netns", "exec", netns, "ping", "-c", "1", "-W", "20", ADDRESS],
                          stdout=subprocess.DEVNULL,
                          check=False) if os.path.exists("/bin/ping") else None
    assert not ping or ping.returncode == 0, "no answer to ICMP"
    first = int(ask(netns, 7099, b"now\n"))
    time.sleep(1)
    second = int(ask(netns, 7099, b"now\n"))
    assert second - first > 500_000_000, f"the guest's clock: {first}, {second}"
    clock = ask(netns, 7099, b"clock\n")
    assert clock.startswith(b"# period_ns=5000000\n"), clock[:100]
    gaps, work = rows(clock, "at_ns,gap_ns"), rows(ask(netns, 7099, b"work\n"), "at_ns,units,busy_ns")
    assert len(gaps) > 5 and len(work) > 2, f"{len(gaps)} gaps, {len(work)} bursts"
    assert all(a[0] < b[0] for a, b in zip(gaps, gaps[1:])) and all(a[0] < b[0] for a, b in zip(work, work[1:]))
    assert len({row[1] for row in work}) == 1, "bursts are of one size"
    duty = sum(row[2] for row in work) / (work[-1][0] - work[0][0] + 1)
    print(f"  clock: median gap {sorted(gap for _, gap in gaps)[len(gaps) // 2] / 1e6:.1f} ms; "
          f"work: {work[-1][1]} units a burst, {duty:.1%} of the time")


def check_idle(guest, netns):
    pass


def check_web(guest, netns):
    web = Http(netns)
    assert len(get(web, "/512k.bin").read()) == 512 << 10
    web.close()


def check_specweb(guest, netns):
    web = Http(netns)
    seen = set()
    for cls in range(4):
        for number in range(1, 10):
            data = get(web, f"/static/{cls}/{number}").read()
            assert len(data) == number * 1024 * 10 ** cls // 10, f"class {cls}, file {number}: {len(data)} bytes"
            seen.add(data)
    assert len(seen) == 36
    whole = get(web, "/static/1/5").read()
    assert b"<pre>" + whole + b"</pre>" in get(web, "/cgi/dynamic").read()
    assert get(web, "/static/2/9").read() in get(web, "/cgi/dynamic?class=2&file=9").read()
    for number in 1, 2:
        body = f"post {number}".encode() * 100
        web.request("POST", "/cgi/post", body)
        answer = web.getresponse()
        assert (answer.status, answer.read()) == (200, f"kept {number}\n".encode())
        assert get(web, f"/cgi/post?{number}").read() == body
    began = time.monotonic()
    for _ in range(20):
        get(web, "/cgi/dynamic").read()
    print(f"  a dynamic page takes {(time.monotonic() - began) / 20 * 1000:.0f} ms")
    web.close()


def check_quake(guest, netns):
    with dial(netns, 27960, socket.SOCK_DGRAM) as player:
        player.send(b"join")
        packets = [struct.unpack_from("<QQ", player.recv(2000)) for _ in range(20)]
    assert [number for number, _ in packets] == list(range(20)), "every tick's packet, in order"
    print(f"  a tick of {(packets[-1][1] - packets[0][1]) / 19e6:.1f} ms")


def check_muncher(guest, netns):
    found = shell(guest, "grep VmRSS /proc/$(busybox pidof -s godwit-load)/status /proc/[0-9]*/status",
                  rb"VmRSS:\s*(6[5-9]\d{3}) kB")
    assert found, "its 64 MiB are not there"


def check_redis(guest, netns):
    with dial(netns, 6379) as sock:
        sock.sendall(b"DBSIZE\r\nGET key:33553\r\n")
        answer = b""
        while len(answer) < 8 + 7 + 1002:
            data = sock.recv(65536)
            assert data, answer
            answer += data
    assert answer.startswith(b":33554\r\n$1000\r\n"), answer[:100]


def check_compile(guest, netns):
    def count():
        return int(shell(guest, "echo count $(cat /run/compile.count /run/compile.log)", rb"count (\d*)")[1] or 0)

    began, first, last = time.monotonic(), count(), 0
    while (last := count()) < first + 5:  # more files than one
        assert time.monotonic() - began < LIMIT_S, f"files compiled: {first}, {last}; console: {guest.console.decode()}"
        time.sleep(1)
    print(f"  {(last - first) / (time.monotonic() - began):.1f} files a second")


def check_fill(guest, netns):
    figures = []
    for _ in range(2):
        figures.append(int(shell(guest, "grep MemAvailable /proc/meminfo", rb"MemAvailable:\s*(\d+) kB")[1]))
        time.sleep(5)
    assert figures[0] - figures[1] > 5 * 4096 // 3, f"available KiB: {figures}"


CHECKS = [("idle", check_idle), ("web", check_web), ("specweb", check_specweb),
          ("quake,tick_ms=50,state=2M", check_quake),
          ("muncher,size=64M", check_muncher), ("redis,data=32M", check_redis), ("compile", check_compile),
          ("fill,rate=4M,limit=64M", check_fill)]


def check(netns, image, folder):
    for text, check_load in CHECKS:
        name = text.partition(",")[0]
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        own = os.path.join(folder, name)
        os.mkdir(own)
        guest = Guest(netns, image, own, f"godwit.load={text}")
        try:
            start = time.monotonic()
            said = guest.expect(rb"godwit-guest: (.*?)\r?\n", "word from the guest")[1]
            print(f"{text}: {said.decode()} after {time.monotonic() - start:.1f} s", flush=True)
            assert said == b"ready", guest.console
            check_common(guest, netns)
            check_load(guest, netns)
            spare = int(shell(guest, "grep MemAvailable /proc/meminfo", rb"MemAvailable:\s*(\d+) kB")[1]) // 1024
            print(f"  {spare} of {MEMORY_MIB} MiB available", flush=True)
        finally:
            guest.process.kill()
            guest.process.wait()
    refused(netns, image, folder)


def refused(netns, image, folder):
    """A load that there is not is said, and nothing is ready."""
    guest = Guest(netns, image, folder, "godwit.load=muncher,size=1T")
    try:
        said = guest.expect(rb"godwit-guest: (.*?)\r?\n", "word from the guest")[1]
        assert said == b"no load muncher,size=1T", said
    finally:
        guest.process.kill()
        guest.process.wait()


if __name__ == "__main__":
    sys.exit(in_network("loads", check))
