#!/usr/bin/env python3
"""Calls of KVM and of userfaultfd that fail, one at a time, in either monitor of a live move of a tiny guest.

As test_calls.py, on this machine's own KVM: preload.c makes the first such ioctl fail once the stage is reached. What must
hold: exactly one side ends up with the guest, no monitor crashes, and the guest, which verifies its memory, goes on, moves at
the next try if it stayed, and ends content. Only where the guest itself cannot go on (its vCPU does not run, its memory cannot
be put in its place) does it end, and whoever had it says so.
"""
import concurrent.futures
import errno
import functools
import os
import signal
import sys

from harness import Host, Relay, TINY, check, need_kvm, wait_for
from test_calls import PRELOAD, FailingHost, Move, one

LANES = 2
GUEST = ("--kernel", os.path.join(TINY, "writer.elf"), "--memory", "64M", "--cmdline", "dense=8M hot=1M")
HELLO, ROUND, STATE_DONE = ("there", "hello"), ("there", "round"), ("there", "state-done")
PREPARED, COMMITTED = ("back", "prepared"), ("back", "committed")


def kvm(names):
    return [f"KVM_{name}" for name in names.split()]


# (side, mode, stage): calls
CASES = {
    ("source", "pre-copy", HELLO): kvm(
        "SET_USER_MEMORY_REGION GET_DIRTY_LOG CLEAR_DIRTY_LOG GET_CLOCK GET_IRQCHIP GET_LAPIC GET_MP_STATE GET_REGS GET_SREGS "
        "GET_XSAVE GET_XCRS GET_DEBUGREGS GET_VCPU_EVENTS GET_MSRS"),
    ("source", "pre-copy", ROUND): kvm("GET_DIRTY_LOG CLEAR_DIRTY_LOG RUN"),
    ("source", "pre-copy", STATE_DONE): kvm("SET_USER_MEMORY_REGION"),
    ("source", "post-copy", HELLO): kvm("GET_REGS"),
    ("target", "pre-copy", HELLO): kvm(
        "CREATE_VM CREATE_VCPU CREATE_IRQCHIP SET_TSS_ADDR SET_IDENTITY_MAP_ADDR SET_USER_MEMORY_REGION ENABLE_CAP SET_CPUID2 "
        "GET_SUPPORTED_CPUID GET_VCPU_MMAP_SIZE CHECK_EXTENSION SET_REGS SET_SREGS SET_XSAVE SET_XCRS SET_MSRS SET_LAPIC "
        "SET_MP_STATE SET_VCPU_EVENTS SET_DEBUGREGS SET_IRQCHIP SET_CLOCK"),
    ("target", "pre-copy", PREPARED): kvm("RUN KVMCLOCK_CTRL"),
    ("target", "post-copy", HELLO): ["UFFDIO_API", "UFFDIO_REGISTER", "UFFDIO_COPY", "UFFDIO_COPY ENOMEM"],
    ("target", "post-copy", COMMITTED): ["UFFDIO_COPY", "UFFDIO_COPY ENOMEM", "UFFDIO_ZEROPAGE", "UFFDIO_ZEROPAGE ENOMEM",
                                         "UFFDIO_UNREGISTER"],
}
FATAL = {"KVM_RUN", "UFFDIO_COPY", "UFFDIO_ZEROPAGE"}


class TinyMove(Move):
    """A move of a tiny guest. Unlike those of its base, these guests say how they are."""

    def __init__(self, side, mode, stage, call):  # pylint: disable=super-init-not-called
        self.call, self.mode, self.stage = call, mode, stage
        self.a, self.b = FailingHost(insecure=True), FailingHost(insecure=True)
        self.trigger = os.path.join(self.a.base, ".fail")
        name, _, error = call.partition(" ")
        fail = [f"LD_PRELOAD={PRELOAD}", f"GODWIT_FAIL={name}:{getattr(errno, error or 'EIO')}:{self.trigger}"]
        self.a.env = fail if side == "source" else None
        self.vm = self.a.vm("run", "--name", "vm", *GUEST)
        self.a.env = None
        self.b.env = fail if side == "target" else None
        self.to = self.b.receive()
        self.b.env = None
        self.vm.expect(r"ready writer\n")

    def outcome(self):
        """As the base, and a guest that failed. Its source may still be waiting for a target that died without a word."""
        source, target = self.state(self.a, self.vm.pid), self.state(self.b, self.to.pid)
        if (source, target) in (("dead", "dead"), ("serving", "dead"), ("stranded", "dead")):
            return "failed"
        return super().outcome()

    def goes_on(self, outcome):
        place = {"stayed": self.vm, "moved": self.to}.get(outcome)
        check(place or self.call in FATAL, f"the guest ended as {outcome}: {self.vm.err.text} {self.to.err.text}")
        if not place:
            return
        place.progress()
        if outcome == "stayed":
            place = self.moves_after_all()
        place.stop()

    def moves_after_all(self):
        if os.path.exists(self.trigger):
            os.unlink(self.trigger)
        c = Host(insecure=True)
        to = c.receive()
        self.a.run("migrate", "vm", to.address, "--mode", self.mode, "--progress", "none")
        wait_for("the guest at its new host", lambda: c.names() == ["vm"] and c.state("vm") == "running")
        to.progress()
        return to

    def run(self):
        try:
            with Relay(self.to.address, self.at) as relay:
                move = self.a.start("migrate", "vm", relay.address, "--mode", self.mode, "--stall-limit", "2s", "--progress", "none")
                outcome = wait_for(lambda: f"an end: source {self.state(self.a, self.vm.pid)}, target "
                                   f"{self.state(self.b, self.to.pid)}",
                                   lambda: (outcome := self.outcome()) and (move.poll() is not None or outcome == "failed") and
                                   outcome, 60)
                if outcome == "failed":
                    self.a.run("kill", "vm", check=False)
                said = move.communicate(timeout=60)[1].replace("\n", "; ")
            struck = not os.path.exists(self.trigger)
            self.monitors_ended_well()
            self.goes_on(outcome)
            return f"{outcome}: {said}" if struck else f"{outcome} (not called)"
        finally:
            self.a.close()
            self.b.close()


def main():
    need_kvm()
    if not os.path.exists(PRELOAD):
        print(f"skipped: {PRELOAD} is not built (sanitizers come first in a process)")
        return 77
    cases = [(*place, call) for place, calls in CASES.items() for call in calls if not sys.argv[1:] or call in sys.argv[1:]]
    print(f"1..{len(cases)}")
    bad = reached = 0
    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        for number, (case, outcome) in enumerate(zip(cases, pool.map(functools.partial(one, TinyMove), cases)), 1):
            side, mode, (_, stage), call = case
            good = not outcome.startswith("BROKEN")
            bad += not good
            reached += "not called" not in outcome
            print(f"{'ok' if good else 'not ok'} {number} - {call} at the {side} after {stage}, {mode}: {outcome}", flush=True)
    print(f"# {reached} of {len(cases)} were reached")
    return 1 if bad or reached < len(cases) * 0.9 else 0  # which ones this kernel needs is its own affair


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
