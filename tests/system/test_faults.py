#!/usr/bin/env python3
"""Each fault at each message of a live move, with real processes over the fake hypervisor, so on any machine.

The network between the two is a Relay, which does at one message what is tried: cut the connection, change a bit, kill
a side, or stop the target for longer than the stall limit. What comes of it must be what docs/faults.md says (--update
writes it there), and never two owners: that is checked all the time.
"""
import concurrent.futures
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../sim"))
from faults import hold  # noqa: E402  pylint: disable=wrong-import-position
from harness import Failed, Host, Relay, check, process_exists, wait_for  # noqa: E402  pylint: disable=wrong-import-position

MESSAGES = [("there", "hello"), ("back", "verdict"), ("there", "reserve"), ("back", "reserved"), ("there", "round"),
            ("there", "round-done"), ("back", "round-ack"), ("there", "state-done"), ("back", "prepared"),
            ("there", "commit"), ("back", "committed"), ("there", "settled"), ("back", "activated")]
FAULTS = ["cut", "flip", "kill source", "lose, kill source", "kill target", "stop target"]
STOPPED_S = 2.5  # longer than the stall limit
LANES = 4


class Move:
    """One move with one fault, and what comes of it."""

    def __init__(self, direction, message, fault):
        self.where, self.fault = (direction, message), fault
        self.a, self.b = Host(insecure=True), Host(insecure=True)
        self.struck = False
        self.vm = self.a.vm("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
        self.to = self.b.receive("--fake")

    def at(self, direction, name, count):
        if (direction, name) != self.where or count or self.struck:
            return None
        self.struck = True
        if self.fault in ("cut", "flip"):
            return self.fault
        pid = self.vm.pid if self.fault.endswith("kill source") else self.to.pid
        if self.fault == "stop target":
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(STOPPED_S, self.go_on, [pid]).start()
        else:
            os.kill(pid, signal.SIGKILL)
            wait_for("it to die", lambda: not process_exists(pid))
        return "cut" if self.fault.startswith("lose") else None

    @staticmethod
    def go_on(pid):
        if process_exists(pid):
            os.kill(pid, signal.SIGCONT)

    @staticmethod
    def state(host, pid):
        """running, uncertain, waiting (for a guest, and has none), dead, or something that will not last."""
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
        """Something that lasts; None: not yet."""
        source, target = self.state(self.a, self.vm.pid), self.state(self.b, self.to.pid)
        check(not source == target == "running", "two owners")
        lasting = {("running", "dead"): "stayed", ("running", "waiting"): "stayed", ("dead", "running"): "moved",
                   ("dead", "uncertain"): "target uncertain", ("uncertain", "dead"): "source uncertain"}
        if (source, target) in (("dead", "dead"), ("dead", "waiting")):  # waiting: it has heard of no move
            return "lost with the " + self.fault.split()[-1]
        return lasting.get((source, target))

    def resolve(self):
        """`godwit resolve`, on the host of a source that died: by its record, the target is asked, or was never to have
        the guest."""
        asked = self.a.run("resolve", "vm", check=False)
        if asked.returncode:
            check("was never handed over" in asked.stderr, asked.stderr)
            check(self.outcome() == "target uncertain", f"not handed over, and {self.outcome()}")
            return "target uncertain"
        check(wait_for("the guest to run", self.outcome) == "moved", f"resolved, and {self.outcome()}")
        check(self.a.names() == [], "a record stays, and all is settled")
        return "target uncertain; resolved: moved"

    def run(self):
        try:
            with Relay(self.to.address, self.at) as relay:
                command = self.a.start("migrate", "vm", relay.address, "--stall-limit", "1s", "--progress", "none")
                wait_for(f"the fault {self.fault} at {self.where[1]}", lambda: self.struck)
                first = wait_for(lambda: f"an end of {self.fault} at {self.where[1]}: source "
                                 f"{self.state(self.a, self.vm.pid)}, target {self.state(self.b, self.to.pid)}",
                                 self.outcome, limit=60)
                time.sleep(0.2)  # what lasts is so for longer than a message takes
                check(self.outcome() == first, f"{first}, and then {self.outcome()}")
                if command.poll() is None:
                    command.kill()
                command.communicate()
                return self.resolve() if first == "target uncertain" else first
        finally:
            self.a.close()
            self.b.close()


def one(case):
    (direction, message), fault = case
    try:
        return Move(direction, message, fault).run()
    except Failed as e:
        return f"BROKEN: {e}"


def main():
    cases = [(where, fault) for where in MESSAGES for fault in FAULTS]
    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        outcomes = dict(zip(cases, pool.map(one, cases)))
    lines = ["| at | " + " | ".join(FAULTS) + " |", "|---|" + "---|" * len(FAULTS)]
    for where in MESSAGES:
        lines.append(f"| {where[1]} | " + " | ".join(outcomes[where, fault] for fault in FAULTS) + " |")
    table = "\n".join(lines) + "\n"
    print(table)
    broken = [f"{case}: {what}" for case, what in outcomes.items() if what.startswith("BROKEN")]
    if broken:
        print("\n".join(broken))
        return 1
    return hold("processes", table, "--update" in sys.argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
