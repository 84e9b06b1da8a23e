"""What the probe's tests share: running it, reading what it wrote, servers whose faults are known, TAP.

A server is a process of its own that logs, by the same clock as the probe's, when it received each request and when
it answered (before and after the call), so that what the probe says is compared with what happened and not with what
was planned: on a busy machine those differ.
"""
import bisect
import contextlib
import csv
import ctypes
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

BUILD = os.environ.get("GODWIT_BUILD") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../build")
PROBE = os.path.join(BUILD, "measure/probe/godwit-probe")
LIMIT = 60      # seconds for anything to happen that does happen; only a failing test waits so long
MS = 1_000_000
now_ns = time.monotonic_ns


class Failed(Exception):
    pass


class Late(Failed):
    """Something came later than the probe knew of. So it does when the machine stood still for others in between, which
    nobody here can tell from a probe that is at fault; but that one is at fault each time."""


class Skipped(Exception):
    pass


def check(good, text):
    if not good:
        raise Failed(text)


class Run:
    """One run of the probe in a directory of its own, started at once."""

    def __init__(self, *argv, late=False, limit_bytes=None, out=None, env=None):
        self.dir = tempfile.mkdtemp(prefix="probe-")
        self.out = out or os.path.join(self.dir, "rows.csv")
        self.facts_path = os.path.join(self.dir, "facts.json")
        self.late_path = os.path.join(self.dir, "late.csv") if late else None
        command = [PROBE, *map(str, argv), "--out", self.out, "--facts", self.facts_path]
        command += ["--late", self.late_path] if late else []

        def limits():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        preexec_fn=limits if limit_bytes else None, env=env)
        self.status = self.stdout = self.stderr = None

    def wait(self, status=0):
        try:
            self.stdout, self.stderr = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise Failed("the probe does not end") from None
        self.status = self.process.returncode
        check(self.status == status, f"exit status {self.status}: {self.stderr}")
        return self

    def rows(self):
        with open(self.out, encoding="utf-8", newline="") as f:
            text = f.read()
        check(text.endswith("\n"), "half a line at the end")
        rows = list(csv.DictReader(text.splitlines()))
        numbers = "seq", "connection", "due_ns", "sent_ns", "done_ns", "bytes"
        return [{key: (int(value) if value else None) if key in numbers else value for key, value in row.items()}
                for row in rows]

    def facts(self):
        with open(self.facts_path, encoding="utf-8") as f:
            return json.load(f)

    def lateness(self):
        """(due, late) of each time its timer was to fire, in order."""
        with open(self.late_path, encoding="utf-8") as f:
            return [(int(row["due_ns"]), int(row["late_ns"])) for row in csv.DictReader(f)]


def probe(*argv, status=0, **kwargs):
    return Run(*argv, **kwargs).wait(status)


def statuses(rows):
    found = {}
    for row in rows:
        found[row["status"]] = found.get(row["status"], 0) + 1
    return found


class Server:
    """Runs `serve(log)` in a process of its own until told to stop; its log is a list of what it passed to `log`."""

    def __init__(self, serve):
        self.path = tempfile.mktemp(prefix="server-")
        ready, child = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with the test
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
                os.close(ready)
                entries = []
                try:
                    try:
                        os.write(child, b"x")
                        serve(entries.append)
                    finally:
                        signal.signal(signal.SIGTERM, signal.SIG_IGN)
                except SystemExit:
                    pass
                with open(self.path, "w", encoding="utf-8") as f:
                    json.dump(entries, f)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(child)
        os.read(ready, 1)
        os.close(ready)

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        _, status = os.waitpid(self.pid, 0)
        check(status == 0, f"the server ended with {status}")
        with open(self.path, encoding="utf-8") as f:
            return json.load(f)


def listen(port=0):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen(256)
    return server


def target(server):
    return f"127.0.0.1:{server.getsockname()[1]}"


def roomy(sock):
    """Room for what comes while a server stalls: SO_RCVBUFFORCE, for root."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    return sock


# How each protocol cuts a request off the front of a buffer: (its number or None, its length, the answer) or None.

def cut_echo(size):
    def cut(data):
        if len(data) < size:
            return None
        return struct.unpack_from("<Q", data, 8)[0], size, data[:size]
    return cut


def cut_http(data):
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return None
    length = re.search(rb"Content-Length: (\d+)", data[:head])
    total = head + 4 + (int(length[1]) if length else 0)
    if len(data) < total:
        return None
    number = re.search(rb"seq=(\d+)", data[head:total])
    return int(number[1]) if number else None, total, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npong\n"


def cut_ping(data):
    return (None, 14, b"+PONG\r\n") if len(data) >= 14 else None


def answer_all(sockets, delay, stalls, send, receive, log):
    """One thread for all: answers each request after delay(n) seconds, and before the answer to request n sleeps
    stalls[n] seconds with everybody waiting."""
    waiting, count = [], 0  # (when, number, where to, answer, received)
    while True:
        timeout = max(0, (waiting[0][0] - now_ns()) / 1e9) if waiting else None
        if timeout != 0:
            for sock in select.select(list(sockets), [], [], timeout)[0]:
                for number, where, answer in receive(sock):
                    received = now_ns()
                    number = count if number is None else number
                    count += 1
                    if number in stalls:
                        began = now_ns()
                        time.sleep(stalls[number])
                        log({"stall": number, "from": began, "to": now_ns()})
                    bisect.insort(waiting,
                                  (received + int(delay(number) * 1e9), number, id(where), where, answer, received),
                                  key=lambda entry: entry[:3])
        while waiting and waiting[0][0] <= now_ns():
            _, number, _, where, answer, received = waiting.pop(0)
            before = now_ns()
            send(where, answer)
            log({"seq": number, "received": received, "before": before, "after": now_ns()})


def serve_stream(server, cut, log, delay=lambda n: 0, stalls=None):
    buffers, sockets = {}, {server}

    def receive(sock):
        if sock is server:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffers[connection] = b""
            sockets.add(connection)
            return
        data = b""
        with contextlib.suppress(ConnectionError):
            data = sock.recv(65536)
        if not data:
            sockets.discard(sock)
            return
        buffers[sock] += data
        while got := cut(buffers[sock]):
            number, length, answer = got
            buffers[sock] = buffers[sock][length:]
            yield number, sock, answer

    def send(sock, answer):
        with contextlib.suppress(ConnectionError):
            sock.sendall(answer)
    answer_all(sockets, delay, stalls or {}, send, receive, log)


def serve_datagrams(sock, cut, log, delay=lambda n: 0, stalls=None):
    def receive(_):
        data, sender = sock.recvfrom(65536)
        got = cut(data)
        if got:
            yield got[0], sender, got[2]
    answer_all({sock}, delay, stalls or {}, lambda sender, answer: sock.sendto(answer, sender), receive, log)


@contextlib.contextmanager
def scratch():
    """Temporary files of a test, and a look at whether it left a process."""
    before = tempfile.tempdir
    tempfile.tempdir = tempfile.mkdtemp(prefix="godwit-probe-test-", dir=os.environ.get("TMPDIR"))
    try:
        yield tempfile.tempdir
    finally:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)
        tempfile.tempdir = before


ATTEMPTS = 3  # of a test that found the probe late


def main(tests):
    """Runs functions `test_...` and prints TAP."""
    wanted = sys.argv[1:]
    failed = 0
    chosen = [test for test in tests if not wanted or test.__name__ in wanted]
    print(f"1..{len(chosen)}", flush=True)
    for number, test in enumerate(chosen, 1):
        name = test.__name__.removeprefix("test_").replace("_", " ")
        try:
            for left in reversed(range(ATTEMPTS)):
                try:
                    with scratch():
                        test()
                    break
                except Late as e:
                    if not left:
                        raise
                    print(f"# again: {e}", flush=True)
            print(f"ok {number} - {name}", flush=True)
        except Skipped as e:
            print(f"ok {number} - {name} # SKIP {e}", flush=True)
        except Exception as e:
            failed += 1
            print("\n".join(f"# {line}" for line in traceback.format_exc().splitlines()))
            print(f"not ok {number} - {name}: {e}", flush=True)
    return 1 if failed else 0
