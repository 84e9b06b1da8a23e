"""What the system tests share: hosts (runtime directories of one machine), VMs and their consoles.

Every test program prints TAP-like lines, exits 0, 1 or 77 (skipped, with the reason as its last line), and
leaves no process behind: a Host ends its VMs when it is closed.
"""
import atexit
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD = os.environ.get("GODWIT_BUILD") or os.path.join(os.path.dirname(__file__), "../../build")
GODWIT = os.path.join(BUILD, "src/cmd/godwit")
TINY = os.path.join(BUILD, "guest/tiny")


class Failed(Exception):
    pass


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def need_kvm():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        skip(f"/dev/kvm: {e.strerror}")


def wait_for(what, limit, check):
    """Polls check() until it gives something true; polling, since what is awaited is another process."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        got = check()
        if got:
            return got
        time.sleep(0.02)
    raise Failed(f"waited {limit} s for {what}")


class Console:
    """A VM's serial port, from its scrollback on."""

    def __init__(self, path):
        self.text = ""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.setblocking(False)

    def read(self):
        try:
            while True:
                data = self.sock.recv(65536)
                if not data:
                    break
                self.text += data.decode("utf-8", "replace")
        except BlockingIOError:
            pass
        except ConnectionError:
            pass
        return self.text

    def expect(self, pattern, limit=60):
        return wait_for(f"{pattern!r} on the console; last: {self.text[-300:]!r}", limit,
                        lambda: re.search(pattern, self.read()))

    def send(self, text):
        self.sock.sendall(text.encode())

    def close(self):
        self.sock.close()


class Host:
    """One runtime directory: what a host is to godwit. Two of them on one machine are two hosts."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="godwit-test-")
        atexit.register(self.close)

    def close(self):
        if not os.path.isdir(self.base):
            return
        for name in os.listdir(self.base):
            pid = self.pid(name)
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        shutil.rmtree(self.base, ignore_errors=True)

    def pid(self, name):
        try:
            with open(os.path.join(self.base, name, "lock")) as f:
                return int(f.read().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def argv(self, *args):
        return [GODWIT, "--runtime-dir", self.base, *args]

    def run(self, *args, check=True, limit=120, **kwargs):
        done = subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=limit,
                              stdin=subprocess.DEVNULL, **kwargs)
        if check and done.returncode:
            raise Failed(f"godwit {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def json(self, *args, **kwargs):
        return json.loads(self.run(*args, "--json", **kwargs).stdout)

    def start(self, *args, **kwargs):
        return subprocess.Popen(self.argv(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **kwargs)

    def names(self):
        return [vm["name"] for vm in self.json("ps")]

    def console(self, name):
        return Console(os.path.join(self.base, name, "console.sock"))

    def log(self, name):
        try:
            with open(os.path.join(self.base, name, "log")) as f:
                return f.read()
        except OSError:
            return ""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_tests(tests):
    """Runs functions in order, prints `ok`/`not ok` lines, and exits accordingly."""
    failed = 0
    print(f"1..{len(tests)}")
    for number, (name, test) in enumerate(tests, 1):
        began = time.monotonic()
        try:
            test()
            print(f"ok {number} - {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except (Failed, AssertionError, subprocess.TimeoutExpired, OSError, KeyError, ValueError) as e:
            failed += 1
            print(f"not ok {number} - {name}: {type(e).__name__}: {e}", flush=True)
    sys.exit(1 if failed else 0)
