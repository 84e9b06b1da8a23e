#!/usr/bin/env python3
"""System and library calls that fail, one at a time, in either monitor of a live move at several of its stages.

Real processes over the fake hypervisor. preload.c makes the first call of a name fail once the stage is reached. What
must hold, whichever it is: exactly one side ends up with the guest running, or the move is in a named state that a
person can end; no monitor crashes; and when the guest stayed or moved, it can be moved again.
"""
import concurrent.futures
import errno
import functools
import os
import signal
import subprocess
import sys

from harness import BUILD, Failed, Host, Relay, check, process_exists, wait_for

CALLS = {"memfd_create": "ENOMEM", "ftruncate64": "ENOSPC", "mmap64": "ENOMEM", "eventfd": "EMFILE",
         "timerfd_create": "EMFILE",
         "epoll_ctl": "ENOMEM", "socket": "EMFILE", "setsockopt": "ENOBUFS", "send": "ENOBUFS", "recv": "ECONNRESET",
         "readv": "ENOMEM", "write": "ENOSPC", "writev": "ENOBUFS", "pwrite64": "ENOSPC", "lseek64": "EIO",
         "fsync": "EIO",
         "rename": "ENOSPC", "renameat": "ENOSPC", "renameat2": "ENOSPC", "fallocate64": "ENOSPC",
         "pthread_create": "EAGAIN",
         "open64": "EMFILE", "openat64": "EMFILE", "aligned_alloc": "ENOMEM", "realloc": "ENOMEM",
         "getrandom": "EAGAIN",
         **{f"{name}+{n}": "ENOMEM" for name, counts in (("malloc", (0, 1, 2, 3, 5, 8, 13, 21)), ("calloc", (0, 1, 2, 3, 5)))
            for n in counts}}
STAGES = [("there", "hello"), ("there", "round"), ("there", "state-done"), ("back", "prepared")]
LANES = 6
PRELOAD = os.path.join(BUILD, "tests/system/libpreload.so")


class FailingHost(Host):
    """A host whose next monitor fails one call, if `env` says so."""

    env = None

    def argv(self, *args):
        return [*(["env", *self.env] if self.env else []), *super().argv(*args)]


class Move:
    def __init__(self, side, call, stage):
        self.side, self.call, self.stage = side, call, stage
        self.a, self.b = FailingHost(insecure=True), FailingHost(insecure=True)
        self.trigger = os.path.join(self.a.base, ".fail")
        fail = [f"LD_PRELOAD={PRELOAD}", f"GODWIT_FAIL={call}:{getattr(errno, CALLS[call])}:{self.trigger}"]
        self.a.env = fail if side == "source" else None
        self.vm = self.a.vm("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
        self.a.env = None
        self.b.env = fail if side == "target" else None
        self.to = self.b.receive("--fake")
        self.b.env = None

    def at(self, direction, name, count):
        if (direction, name) == self.stage and not count:
            with open(self.trigger, "w", encoding="utf-8"):
                pass

    @staticmethod
    def state(host, pid):
        if not process_exists(pid):
            return "dead"
        try:
            if not os.path.exists(os.path.join(host.base, "vm")):
                return "waiting"
            with host.control("vm") as control:
                return control.call("vm.info")["result"]["state"]
        except (OSError, Failed, KeyError, ValueError):
            return "busy"

    def outcome(self):
        source, target = self.state(self.a, self.vm.pid), self.state(self.b, self.to.pid)
        check(not source == target == "running", "two owners")
        return {("running", "dead"): "stayed", ("running", "waiting"): "stayed", ("dead", "running"): "moved",
                ("dead", "uncertain"): "target uncertain", ("uncertain", "dead"): "source uncertain",
                ("dead", "dead"): "lost"}.get((source, target))

    def monitors_ended_well(self):
        for vm in (self.vm, self.to):
            check("signal" not in vm.err.text and "died" not in vm.err.text, vm.err.text)

    def run(self):
        try:
            with Relay(self.to.address, self.at) as relay:
                done = self.a.run("migrate", "vm", relay.address, "--stall-limit", "1s", "--progress", "none",
                                  check=False)
                outcome = wait_for(lambda: f"an end: source {self.state(self.a, self.vm.pid)}, target "
                                   f"{self.state(self.b, self.to.pid)}; {done.stderr.strip()}", self.outcome)
            struck = not os.path.exists(self.trigger)
            check(outcome != "lost", f"the guest is lost: {done.stderr.strip()}")
            self.monitors_ended_well()
            if outcome == "stayed":
                self.moves_after_all()
            return outcome if struck else f"{outcome} (not called)"
        finally:
            self.a.close()
            self.b.close()

    def moves_after_all(self):
        if os.path.exists(self.trigger):
            os.unlink(self.trigger)
        with Host(insecure=True) as c:
            to = c.receive("--fake")
            self.a.run("migrate", "vm", to.address, "--progress", "none")
            wait_for("the guest at its new host", lambda: c.names() == ["vm"] and c.state("vm") == "running")


def one(move, case):
    """What came of `move` (a class) of that case."""
    try:
        return move(*case).run()
    except (Failed, subprocess.TimeoutExpired) as e:
        return f"BROKEN: {e}"


def main():
    if not os.path.exists(PRELOAD):
        print(f"skipped: {PRELOAD} is not built (sanitizers come first in a process)")
        return 77
    cases = [(side, call, stage) for side in ("source", "target") for call in CALLS for stage in STAGES
             if not sys.argv[1:] or call in sys.argv[1:]]
    print(f"1..{len(cases)}")
    bad = reached = 0
    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        for number, (case, outcome) in enumerate(zip(cases, pool.map(functools.partial(one, Move), cases)), 1):
            side, call, (_, stage) = case
            good = not outcome.startswith("BROKEN")
            bad += not good
            reached += "not called" not in outcome
            print(f"{'ok' if good else 'not ok'} {number} - {call} {CALLS[call]} at the {side} after {stage}: "
                  f"{outcome}", flush=True)
    print(f"# {reached} of {len(cases)} were reached")
    return 1 if bad or not reached else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
