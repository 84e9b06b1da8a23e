"""What both sides of the benchmark share: results, processes, the guest's serial line.

A side (see qemu.py, godwit.py) is a context manager with
    start()    -> Start   boots the source with the given guest, returns once it printed `ready`
    migrate()  -> Move    moves it to a fresh monitor on this machine, over TCP on loopback
    waits()    -> Waits   of the guest `fetch` after a move: how long it waited for memory
    verify()              asks the guest, wherever it is now, to check its memory and to stop
Leaving the context ends every process the side has started.
"""

import ctypes
import dataclasses
import os
import re
import select
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """A measurement that could not be made, with its reason."""


@dataclasses.dataclass
class Start:
    first_ms: float      # process start -> first instruction, or the first sign of one to be seen
    ready_ms: float      # process start -> the guest's `ready` line is read
    resident_mib: float  # of the monitor, without guest RAM
    private_mib: float   # the part of it that is not shared with other processes


@dataclasses.dataclass
class Move:
    """The first two are None if the move did not come to an end within the cell's time and was cancelled."""
    total_ms: float      # migrate asked for -> completed, guest and all of its memory at the target
    downtime_ms: float   # guest stopped at the source -> resumed at the target
    bytes: int           # what crossed the wire
    cpu_s: float         # user and system time of both monitors, from asking to completion


@dataclasses.dataclass
class Waits:
    """Loads that had to fetch their page, timed by the guest itself."""
    count: int
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float


def die_with_parent():
    """For preexec_fn: the process ends when this one does, however it ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans():
    """Detached monitors become children of this process, so that their exit can be waited for."""
    if LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise BenchError("cannot become a subreaper: " + os.strerror(ctypes.get_errno()))


def cpu_seconds(pid):
    """User and system time of a live process with all its threads; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_memory_mib(pid, guest_bytes):
    """(resident, private) memory of a monitor without the guest's RAM.

    RAM is what is mapped from a memfd, or in one piece at least a quarter as large as the guest.
    """
    resident = private = 0
    ram = False
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)", line)
            if head:
                size = int(head[2], 16) - int(head[1], 16)
                ram = head[3].startswith("/memfd:") or size >= guest_bytes // 4
                continue
            name, value = line.split(":", 1)
            if ram or not value.endswith("kB\n"):
                continue
            if name == "Rss":
                resident += int(value.split()[0])
            elif name in ("Private_Clean", "Private_Dirty"):
                private += int(value.split()[0])
    return resident / 1024, private / 1024


class Serial:
    """The guest's serial line over a pair of pipes to some process."""

    def __init__(self, process):
        self.process = process
        self.pending = b""
        os.set_blocking(process.stdout.fileno(), False)

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def wait(self, prefix, timeout_s):
        """Reads up to a line that starts with `prefix`. A BAD line or the end raises."""
        end = time.monotonic() + timeout_s
        while True:
            while b"\n" in self.pending:
                line, self.pending = self.pending.split(b"\n", 1)
                text = line.decode(errors="replace").strip("\r")
                if text.startswith("BAD"):
                    raise BenchError(f"guest: {text}")
                if text.startswith(prefix):
                    return text
            left = end - time.monotonic()
            if left <= 0:
                raise BenchError(f"guest: no line '{prefix}' within {timeout_s} s")
            if not select.select([self.process.stdout], [], [], left)[0]:
                continue
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise BenchError(f"serial line ended before '{prefix}'")
            self.pending += data


def read_waits(serial, timeout_s):
    """What the guest `fetch` says by itself after it has stood still."""
    line = serial.wait("ok", timeout_s)
    found = dict(re.findall(r"(\w+)=(\d+)", line))
    try:
        return Waits(int(found["waits"]), *(int(found[key]) / 1e3 for key in ("p50", "p90", "p99", "max")))
    except KeyError:
        raise BenchError(f"guest: no waits in '{line}'") from None


def end_process(process, grace_s=2):
    """Ends a child of this process and collects it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            try:
                stream.close()
            except BrokenPipeError:
                pass
