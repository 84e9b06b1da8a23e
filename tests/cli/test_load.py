#!/usr/bin/env python3
"""The programs that keep the guest image busy, as they run in it, but on ports and files of the test."""
import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

BUILD = os.environ.get("GODWIT_BUILD") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../build")
LOAD = os.path.join(BUILD, "guest/load/godwit-load")
CGI = os.path.join(BUILD, "guest/load/godwit-cgi")
LIMIT_S = 30


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET6, kind) as sock:
        sock.bind(("::", 0))
        return sock.getsockname()[1]


class Load:
    """A load in the foreground, from its word that it serves to the end of the block."""

    def __init__(self, text):
        self.process = subprocess.Popen([LOAD, "--foreground", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout.readline() == b"ready\n", f"{text}: {self.process.stderr.read()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s*(\d+)", file.read())[1]) * 1024

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition, what):
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, f"never: {what}"
        time.sleep(0.02)


def test_wrong_use():
    for text, says in [("", "there is no load"), ("munch", "there is no load munch"), ("muncher,size", "size: want"),
                       ("muncher,size=", "size: want"), ("muncher,size=-1", "size: want"),
                       ("muncher,size=64X", "size: want"),
                       ("muncher,size=64MM", "size: want"), ("muncher,size=1", "size: want 4096"),
                       ("muncher,size=9999999999999", "size: want"), ("muncher,size=1M,size=2M", "twice"),
                       ("muncher,colour=1", "no option colour"), ("quake,tick_ms=0", "tick_ms: want 1 to 1000"),
                       ("echo,port=65536", "port: want"), ("muncher,", "no option "), ("x" * 300, "too long")]:
        done = subprocess.run([LOAD, text], capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, f"{text}: {done}"
    done = subprocess.run([LOAD, "muncher,size=1024G"], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1 and "are available" in done.stderr, f"more than there is: {done}"


def test_background():
    """It goes on by itself, and what cannot start says so in its status."""
    port = free_port()
    before = set(os.listdir("/proc"))
    assert subprocess.run([LOAD, f"echo,port={port}"], timeout=LIMIT_S).returncode == 0
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as sock:
            sock.sendall(b"x")
            assert sock.recv(10) == b"x"
        done = subprocess.run([LOAD, f"echo,port={port}"], capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 1 and "in use" in done.stderr, done
    finally:
        for pid in set(os.listdir("/proc")) - before:
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if file.read() == f"{LOAD}\0echo,port={port}\0".encode():
                        os.kill(int(pid), signal.SIGKILL)
            except (OSError, ValueError):
                pass


def test_echo_stream():
    port = free_port()
    with Load(f"echo,port={port}"):
        data = os.urandom(1 << 20)
        got = bytearray()
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as sock:
            thread = threading.Thread(target=sock.sendall, args=(data,))
            thread.start()
            while len(got) < len(data):
                part = sock.recv(65536)
                assert part, "closed early"
                got += part
            thread.join()
        assert got == data
        # Someone who never reads, and more who never speak, keep nobody else from being served.
        stuck = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        stuck.setblocking(False)
        try:
            while stuck.send(b"x" * 65536):
                pass
        except BlockingIOError:
            pass
        idle = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) for _ in range(100)]
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as sock:
            sock.sendall(b"still there?")
            assert sock.recv(100) == b"still there?"
        for sock in [stuck, *idle]:
            sock.close()


def test_echo_datagrams():
    port = free_port(socket.SOCK_DGRAM)
    with Load(f"echo,port={port}"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(("127.0.0.1", port))
        for size in 0, 1, 64, 1400, 2048:
            data = os.urandom(size)
            sock.send(data)
            assert sock.recv(4096) == data
        sock.send(b"x" * 3000)  # larger than it takes: no answer, and no cut one
        sock.send(b"next")
        assert sock.recv(4096) == b"next"


def test_quake():
    port = free_port(socket.SOCK_DGRAM)
    with Load(f"quake,tick_ms=5,state=64K,packet=120,port={port}") as load:
        players = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(33)]
        for player in players[:32]:
            player.settimeout(LIMIT_S)
            player.connect(("127.0.0.1", port))
            player.send(b"hello")
        last = {}
        for turn in range(20):
            for player in players[:32]:
                data = player.recv(2000)
                number, stamp = struct.unpack_from("<QQ", data)
                assert len(data) == 120
                before = last.get(player, (-1, 0))
                assert number == before[0] + 1, f"{number} after {before[0]}"
                assert before[1] < stamp <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
                last[player] = (number, stamp)
        players[32].settimeout(0.2)
        players[32].connect(("127.0.0.1", port))
        players[32].send(b"me, too")
        try:
            players[32].recv(2000)
            raise AssertionError("there is a 33rd player")
        except TimeoutError:
            pass
        players[0].send(b"again")  # the same player still
        assert struct.unpack_from("<Q", players[0].recv(2000))[0] == last[players[0]][0] + 1
        assert load.process.poll() is None
        for player in players:
            player.close()


def test_muncher():
    with Load("muncher,size=32M") as load:
        assert 32 << 20 <= load.resident() < 40 << 20, load.resident()
        until(lambda: load.cpu_s() > 0.2, "it works as fast as it can")
    with Load("muncher,size=16M,rate=1M") as load:
        before = load.cpu_s()
        dirty = []
        for _ in range(3):  # of the 256 pages a second, by the kernel's count of what was written
            with open(f"/proc/{load.process.pid}/clear_refs", "w") as file:
                file.write("4")
            time.sleep(1)
            with open(f"/proc/{load.process.pid}/maps") as maps:
                spans = [[int(x, 16) for x in line.split()[0].split("-")] for line in maps]
            start, end = next((a, b) for a, b in spans if b - a >= 16 << 20)
            with open(f"/proc/{load.process.pid}/pagemap", "rb", buffering=0) as file:
                file.seek(start // 4096 * 8)
                entries = struct.unpack(f"<{(end - start) // 4096}Q", file.read((end - start) // 4096 * 8))
            dirty.append(sum(entry >> 55 & 1 for entry in entries))
        if dirty[0] != (16 << 20) // 4096 and max(dirty) > 0:  # else this kernel does not track writes
            assert all(100 <= count <= 1024 for count in dirty), dirty
        assert load.cpu_s() - before < 1, "it paces itself"


def test_fill():
    with Load("fill,rate=16M,limit=8M") as load:
        early = load.resident()
        until(lambda: load.resident() >= 8 << 20, "it grew to its limit")
        assert early < 8 << 20
        time.sleep(0.5)
        assert load.resident() < 10 << 20, "and no further"


def redis_server(sock, keys, bad):
    """Takes keys; a bad one refuses each, and is left at once."""
    peer, _ = sock.accept()
    with contextlib.suppress(ConnectionError), peer, peer.makefile("rb") as file:
        while line := file.readline():
            assert line == b"*3\r\n", line
            words = []
            for _ in range(3):
                size = int(file.readline()[1:])
                words.append(file.read(size))
                assert file.read(2) == b"\r\n"
            assert words[0] == b"SET"
            keys[words[1].decode()] = words[2]
            peer.sendall(b"-OOM command not allowed\r\n" if bad else b"+OK\r\n")


def test_redis():
    for bad in False, True:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            keys = {}
            thread = threading.Thread(target=redis_server, args=(sock, keys, bad), daemon=True)
            thread.start()
            done = subprocess.run([LOAD, f"redis,data=100K,port={sock.getsockname()[1]}"], capture_output=True,
                                  text=True,
                                  timeout=LIMIT_S)
            assert (done.returncode == 0) != bad, done
            assert bad or sorted(keys) == sorted(f"key:{i}" for i in range(102400 // 1000)), sorted(keys)
            assert bad or ({len(value) for value in keys.values()} == {1000} and len(set(keys.values())) == len(keys))
            assert not bad or "a key was not taken" in done.stderr


def cgi(method, script, query="", body=b"", length=None):
    env = {"REQUEST_METHOD": method, "SCRIPT_NAME": script, "QUERY_STRING": query, "REMOTE_ADDR": "192.0.2.1",
           "CONTENT_LENGTH": str(len(body)) if length is None else length}
    done = subprocess.run([CGI], env=env, input=body, capture_output=True, timeout=LIMIT_S)
    head, _, data = done.stdout.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    assert int(fields["Content-Length"]) == len(data), done
    return fields.get("Status", "200 OK")[:3], data


def test_cgi():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.makedirs("static/1")
        with open("static/1/5", "wb") as file:
            file.write(b"the file")
        status, data = cgi("GET", "/cgi/dynamic")
        assert status == "200" and b"<pre>the file</pre>" in data and b"192.0.2.1" in data, data
        assert cgi("GET", "/cgi/dynamic")[1] != data, "made anew for each request"
        for query in ("class=4&file=1", "class=0&file=0", "class=1&file=5x", "class=../../etc", "file=5",
                      "class=1&file=55"):
            assert cgi("GET", "/cgi/dynamic", query)[0] == "400", query
        assert cgi("GET", "/cgi/dynamic", "class=2&file=1")[0] == "404"
        assert cgi("GET", "/cgi/post", "1")[0] == "404"
        assert cgi("POST", "/cgi/post", body=b"first") == ("200", b"kept 1\n")
        assert cgi("POST", "/cgi/post", body=b"\0" * 4080) == ("200", b"kept 2\n")
        assert cgi("POST", "/cgi/post", body=b"") == ("200", b"kept 3\n")
        assert [cgi("GET", "/cgi/post", str(i))[1] for i in (1, 2, 3)] == [b"first", b"\0" * 4080, b""]
        assert cgi("POST", "/cgi/post", body=b"x" * 4081)[0] == "413"
        assert cgi("POST", "/cgi/post", body=b"x", length="")[0] == "413"
        assert cgi("POST", "/cgi/post", body=b"x", length="2")[0] == "400"
        for query in "0", "4", "-1", "1x", "", "99999999999999999999999", "1025":
            assert cgi("GET", "/cgi/post", query)[0] == "404", query
        assert cgi("DELETE", "/cgi/post")[0] == "405"
        assert cgi("GET", "/cgi/other")[0] == "405"
        for i in range(4, 1026):
            assert cgi("POST", "/cgi/post", body=b"%d" % i) == ("200", b"kept %d\n" % i)
        assert cgi("GET", "/cgi/post", "1")[0] == "404" and cgi("GET", "/cgi/post", "1025")[1] == b"1025"
        assert os.path.getsize("posts") <= 1025 * 4096, "the file of posts is bounded"
        os.chdir("/")


def main():
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    failed = 0
    print(f"1..{len(tests)}")
    for number, (name, test) in enumerate(tests, 1):
        try:
            test()
            print(f"ok {number} - {name[5:]}", flush=True)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"not ok {number} - {name[5:]}\n# {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
