"""What the system tests share: hosts (runtime directories of one machine), VMs, their consoles and sockets.

A Host is a runtime directory: two of them on one machine are two hosts to godwit. A Vm is one attached
`godwit run`, `receive` or `restore`, whose exit status is that of the monitor and whose standard output is
the console, from its first byte to its last. So the consoles of a guest's places, one after the other, are
all it ever said, and Transcript checks that nothing of it was lost or said twice.

Every test program prints TAP, exits 0, 1 or 77 (skipped, with the reason as its last line), and leaves no
process behind.
"""
import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
BUILD = os.environ.get("GODWIT_BUILD") or os.path.join(ROOT, "build")
GODWIT = os.path.join(BUILD, "src/cmd/godwit")
TINY = os.path.join(BUILD, "guest/tiny")
LIMIT = 30  # seconds for anything to happen that does happen; only a failing test waits so long


class Failed(Exception):
    pass


def check(good, text):
    if not good:
        raise Failed(text)


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def need_kvm():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        skip(f"/dev/kvm: {e.strerror}")


def wait_for(what, poll, limit=LIMIT):
    """Polls until there is something true; polling, since what is awaited is another process."""
    end = time.monotonic() + limit
    while True:
        got = poll()
        if got:
            return got
        if time.monotonic() > end:
            raise Failed(f"waited {limit} s for {what() if callable(what) else what}")
        time.sleep(0.01)


def process_exists(pid):
    """A zombie is no process any more: it only waits to be asked for its status."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_open(address):
    host, _, port = address.rpartition(":")
    with socket.socket() as s:
        return s.connect_ex((host, int(port))) == 0


# ------------------------------------------------------------------------------------------- hosts and VMs


CONFIG = tempfile.mkdtemp(prefix="godwit-config-")  # this machine's: its hosts share one key
atexit.register(shutil.rmtree, CONFIG, ignore_errors=True)


class Host:
    """`insecure`: moves to and from it are plain, for tests that read or change what passes."""

    def __init__(self, config=CONFIG, insecure=False):
        self.base, self.config, self.insecure = tempfile.mkdtemp(prefix="godwit-test-"), config, insecure
        self.vms = []
        atexit.register(self.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if not os.path.isdir(self.base):
            return
        for name in os.listdir(self.base):
            pid = self.pid(name)
            if pid and process_exists(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for vm in self.vms:
            vm.close()
        shutil.rmtree(self.base, ignore_errors=True)

    def pid(self, name):
        try:
            with open(os.path.join(self.base, name, "lock")) as f:
                return int(f.read().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def argv(self, *args):
        plain = ["--insecure"] if self.insecure and args[0] in ("migrate", "receive", "resolve") else []
        return [GODWIT, "--runtime-dir", self.base, "--config-dir", self.config, *args, *plain]

    def run(self, *args, status=0, check=True, **kwargs):
        """Runs a command to its end; unless not to be checked, its exit status must be `status`."""
        done = subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=120, check=False,
                              stdin=subprocess.DEVNULL, **kwargs)
        if check and done.returncode != status:
            raise Failed(f"godwit {' '.join(args)}: exit status {done.returncode}, not {status}: "
                         f"{done.stderr.strip()}")
        return done

    def json(self, *args, **kwargs):
        return json.loads(self.run(*args, "--json", **kwargs).stdout)

    def start(self, *args, **kwargs):
        return subprocess.Popen(self.argv(*args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **kwargs)

    def vm(self, command, *args, **kwargs):
        return Vm(self, [command, *args], **kwargs)

    def guest(self, name, kernel, cmdline="", *args, memory="64M"):
        """A tiny guest, ready."""
        vm = self.vm("run", "--name", name, "--kernel", os.path.join(TINY, f"{kernel}.elf"), "--memory", memory,
                     "--cmdline", cmdline, *args)
        vm.expect(rf"ready {kernel}\n")
        return vm

    def receive(self, *args, once=True):
        """A receiver on a free port, which is its .address."""
        return self.vm("receive", "--listen", "127.0.0.1:0", *(["--once"] if once else []), *args)

    def migrate(self, name, to, *args, status=0):
        """Moves a VM, also in vain, and returns the bill, checked."""
        done = self.run("migrate", name, to, "--json", *args, status=status)
        return check_bill(json.loads(done.stdout))

    def names(self):
        return [vm["name"] for vm in self.json("ps")]

    def state(self, name):
        return self.json("info", name)["state"]

    def is_empty(self):
        """No VM, and no directory of one that died."""
        return not [name for name in os.listdir(self.base) if not name.startswith(".")]

    def control(self, name):
        return Control(os.path.join(self.base, name, "control.sock"))


class Reader(threading.Thread):
    """Reads a pipe to its end, so that no writer ever waits for the test."""

    def __init__(self, pipe):
        super().__init__(daemon=True)
        self.pipe, self.data = pipe, b""
        self.start()

    def run(self):
        with contextlib.suppress(ValueError, OSError):  # closed by a test that has seen enough
            while data := os.read(self.pipe.fileno(), 65536):
                self.data += data

    @property
    def text(self):
        return self.data.decode("utf-8", "replace")


class Vm:
    """An attached VM: see above. Waits until the command says that it runs, or waits for its guest."""

    def __init__(self, host, args, limits=None):
        self.host = host
        self.process = subprocess.Popen(host.argv(*args), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, preexec_fn=limits)
        host.vms.append(self)
        self.out, self.err = Reader(self.process.stdout), Reader(self.process.stderr)
        said = wait_for(lambda: f"{args[0]} to say that it is there: {self.err.text!r}",
                        lambda: re.search(r"(\S+) (runs|waits for its guest on (\S+)|is restored, paused)",
                                          self.err.text) or self.process.poll() is not None)
        check(said is not True, f"godwit {' '.join(args)}: {self.err.text.strip()}")
        self.name, self.address = said[1], said[3]
        self.pid = host.pid(self.name)

    @property
    def text(self):
        return self.out.text

    def expect(self, pattern, start=0, limit=LIMIT):
        return wait_for(lambda: f"{pattern!r} on the console; last: {self.text[-300:]!r}; {self.err.text!r}",
                        lambda: re.compile(pattern).search(self.text, start), limit)

    def progress(self):
        """The guest goes on from here, and finds nothing wrong."""
        start = len(self.text)
        self.expect(r"(tick|seq) \d+(?s:.*)\n(tick|seq) \d+", start)
        check("BAD" not in self.text, self.text[self.text.find("BAD"):][:200])

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def ended(self, status=0):
        """Waits until the monitor has ended by itself, and all it said has come."""
        got = self.process.wait(LIMIT)
        self.out.join(LIMIT)
        check(got == status, f"exit status {got}, not {status}: {self.err.text.strip()}")
        wait_for(f"process {self.pid} to end", lambda: not process_exists(self.pid))
        return self.text

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """As a crash of the monitor would end it."""
        self.signal(signal.SIGKILL)
        wait_for(f"process {self.pid} to die", lambda: not process_exists(self.pid))

    def stop(self):
        """Lets the guest verify everything once more, and switch itself off."""
        self.send("stop\n")
        text = self.ended()
        check(re.search(r"done ok\n", text), f"no 'done ok' but {text[-300:]!r}")
        check("BAD" not in text, text)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


class Transcript:
    """All a guest has said, over all its places."""

    def __init__(self):
        self.text = ""

    def add(self, vm):
        self.text += vm.text

    def verify(self):
        """Ticks (serial.c: its lines) count from 1 without a gap: nothing lost, nothing twice; and nothing bad."""
        check("BAD" not in self.text, self.text[self.text.find("BAD"):][:200])
        for word in ("tick", "seq"):
            numbers = [int(n) for n in re.findall(rf"^{word} (\d+).*\n", self.text, re.M)]
            for want, got in enumerate(numbers, 1):
                check(want == got, f"{word} {got} where {want} was due")
        for line in self.text.splitlines()[:-1]:
            check(re.match(r"(info|ready|tick|ok|seq|echo|part|done) ", line), f"a torn line: {line!r}")


class Control:
    """A connection to a control socket, used as a script would."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LIMIT)
        self.sock.connect(path)
        self.lines = self.sock.makefile("rb")
        self.last_id, self.events = 0, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.lines.close()
        self.sock.close()

    def raw(self, data):
        self.sock.sendall(data)

    def message(self):
        """The next answer or event; None: the monitor closed."""
        try:
            line = self.lines.readline()
        except ConnectionError:
            return None
        return json.loads(line) if line else None

    def call(self, method, **params):
        """The whole answer: it has `result` or `error`."""
        self.last_id += 1
        self.raw(json.dumps({"jsonrpc": "2.0", "id": self.last_id, "method": method,
                             "params": params}).encode() + b"\n")
        while (got := self.message()) is not None:
            if got.get("id") == self.last_id or ("error" in got and got.get("id") is None):
                return got  # no id: of what could not be read, or there is no memory
            self.events.append(got)
        raise Failed(f"no answer to {method}")

    def event(self, wanted):
        """Waits for an event for which wanted(method, params) holds."""
        while True:
            got = self.events.pop(0) if self.events else self.message()
            if got is None:
                raise Failed("the events ended")
            if "method" in got and wanted(got["method"], got.get("params", {})):
                return got["params"]


# ------------------------------------------------------------------------------------------------- the wire

HEADER_BYTES = 40   # of a stream: docs/stream.md
SECTION_BYTES = 24
MESSAGES = ["hello", "verdict", "reserve", "reserved", "round", "round-done", "round-ack", "state-done", "prepared",
            "commit", "committed", "activated", "abort", "resolve", "status", "settled", "facts", "probe",
            "lane", "pull", "pulled"]  # from type 64 on
NAMES = {4: "pages", 32: "absent"}
LANE_KIND_AT, LANES = 16, {1: "bulk-lane", 2: "urgent-lane"}  # in the body of "lane", behind the move's token


class Relay:
    """The network between two hosts: passes the stream on, section by section, and does what a test asks.

    `at(direction, name, count)` is called before each section is passed on: direction is "there" (source to
    target) or "back", name that of a message, "pages", "absent" or the type's number, count how many of that name came
    before on this connection. What it returns decides: None, pass it on; "cut", lose it and the connection;
    "flip", damage its last byte; "half", pass half of it and cut. It may also take its time.

    The first message of a lane is "urgent-lane" or "bulk-lane". What follows on the urgent one has no sections: each
    request (back) or reply (there) is "request" or "reply".
    """

    def __init__(self, to, at):
        self.to, self.at = to.rpartition(":"), at
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listening.getsockname()[1]
        self.connections = 0
        self.socks = []
        threading.Thread(target=self.serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for sock in self.socks:
            self.cut(sock)

    @staticmethod
    def cut(*socks):
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def serve(self):
        while True:
            try:
                source, _ = self.listening.accept()
            except OSError:
                return
            self.connections += 1
            try:
                target = socket.create_connection((self.to[0], int(self.to[2])))
            except OSError:
                source.close()
                continue
            self.socks += [source, target]
            for a, b, direction in ((source, target, "there"), (target, source, "back")):
                threading.Thread(target=self.pump, args=(a, b, direction), daemon=True).start()

    @staticmethod
    def take(sock, count):
        data = bytearray()
        while len(data) < count:
            part = sock.recv(min(count - len(data), 1 << 20))
            if not part:
                raise EOFError
            data += part
        return data

    def take_section(self, a):
        """Its name, and all of it."""
        head = self.take(a, SECTION_BYTES)
        kind, length = struct.unpack_from("<H6xI", head)
        section = head + self.take(a, length)
        name = NAMES.get(kind) or (MESSAGES[kind - 64] if 64 <= kind < 64 + len(MESSAGES) else str(kind))
        if name == "lane":
            name = LANES[struct.unpack_from("<I", section, SECTION_BYTES + LANE_KIND_AT)[0]]
        return name, section

    def take_urgent(self, a, direction):
        """The same on the urgent lane: docs/stream.md."""
        if direction == "back":
            return "request", self.take(a, 8)
        head = self.take(a, 16)
        return "reply", head + self.take(a, 0 if head[7] & 0x80 else 4096)

    def pump(self, a, b, direction):
        seen, urgent = {}, False
        try:
            b.sendall(self.take(a, HEADER_BYTES))
            while True:
                name, section = self.take_urgent(a, direction) if urgent else self.take_section(a)
                urgent |= name == "urgent-lane"
                order = self.at(direction, name, seen.get(name, 0))
                seen[name] = seen.get(name, 0) + 1
                if order == "flip":
                    section[-1] ^= 1
                elif order == "half":
                    b.sendall(section[:len(section) // 2])
                if order in ("half", "cut"):
                    break
                b.sendall(section)
        except (OSError, EOFError):
            pass
        self.cut(a, b)


# ------------------------------------------------------------------------------------------------- the bill

with open(os.path.join(ROOT, "docs/bill.schema.json")) as schema_file:
    BILL_SCHEMA = json.load(schema_file)
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}


def conforms(value, schema, where):
    """As much of JSON Schema as bill.schema.json uses."""
    if "$ref" in schema:
        return conforms(value, BILL_SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], where)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    check(not kinds or any(isinstance(value, TYPES[kind]) for kind in kinds), f"{where}: {value!r} is no {kinds}")
    check("const" not in schema or value == schema["const"], f"{where}: {value!r}")
    check("enum" not in schema or value in schema["enum"], f"{where}: {value!r}")
    if isinstance(value, dict):
        check(not set(schema.get("required", [])) - set(value), f"{where}: incomplete: {list(value)}")
        for key, item in value.items():
            check(key in schema["properties"], f"{where}.{key}: unknown")
            conforms(item, schema["properties"][key], f"{where}.{key}")
    elif isinstance(value, list):
        check(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30),
              f"{where}: {len(value)} items")
        for i, item in enumerate(value):
            conforms(item, schema["items"], f"{where}[{i}]")
    elif isinstance(value, int):
        check(value >= schema.get("minimum", value), f"{where}: {value}")
    return value


def check_bill(bill):
    """The four exact sums of docs/bill.md, and the schema."""
    conforms(bill, BILL_SCHEMA, "bill")

    def sums(total, parts, what):
        check(total == sum(parts), f"{what}: the parts make {sum(parts)}, not {total}")

    sums(bill["total_ns"], [s["ns"] for s in bill["stages"]], "stages")
    if bill["downtime"]:
        sums(bill["downtime"]["total_ns"], [p["ns"] for p in bill["downtime"]["parts"]], "downtime")
    sums(bill["bytes"]["total"], [n for kind, n in bill["bytes"].items() if kind != "total"], "bytes")
    sums(bill["pages"]["total"],
         [n for kind, n in bill["pages"].items() if kind not in ("total", "sent_again", "freed_later")], "pages")
    if bill["kind"] != "restore":  # which sends nothing
        pages, classes = bill["pages"], bill["classes"]
        sums(classes["never_touched"]["pages"], [pages["never_touched"]], "class never_touched")
        sums(classes["free"]["pages"], [pages["free"], pages["freed_later"]], "class free")
    for side, monitor in bill["monitors"].items():
        if monitor and monitor["cpu_ns"]:
            sums(monitor["cpu_ns"]["total"], [n for group, n in monitor["cpu_ns"].items() if group != "total"],
                 f"threads of the {side}")
    return bill


# ------------------------------------------------------------------------------------------------ the runner


def run_tests(tests):
    """Runs (name, function) in order, prints `ok` and `not ok` lines, and exits accordingly. Arguments of
    the program, if any, choose tests by a part of their names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through atexit, which ends the VMs
    tests = [test for test in tests if not sys.argv[1:] or any(word in test[0] for word in sys.argv[1:])]
    failed = 0
    print(f"1..{len(tests)}", flush=True)
    for number, (name, test) in enumerate(tests, 1):
        began = time.monotonic()
        try:
            test()
            result = "ok"
        except Exception as e:  # whatever it is, the next test can run
            failed += 1
            result = "not ok"
            for line in [f"{type(e).__name__}: {e}", *traceback.format_exc().splitlines()]:
                print(f"# {line}")
        print(f"{result} {number} - {name} # {time.monotonic() - began:.1f} s", flush=True)
    sys.exit(1 if failed else 0)
