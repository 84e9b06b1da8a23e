#!/usr/bin/env python3
"""Each fault at each message of a live move, with real processes over the fake hypervisor, so on any machine.

The network between the two is a Relay, which does at one message what is tried: cut the connection, change a bit, kill
a side, or stop the target for longer than the stall limit. What comes of it must be what docs/faults.md says (--update
writes it there), and never two owners: that is checked all the time. Arguments choose among the tables of that page.
"""
import concurrent.futures
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../sim"))
from faults import hold  # noqa: E402  pylint: disable=wrong-import-position
from harness import (Failed, Host, Relay, check, process_exists,  # noqa: E402  pylint: disable=wrong-import-position
                     wait_for)

MESSAGES = [("there", "hello"), ("back", "verdict"), ("there", "reserve"), ("back", "reserved"), ("there", "round"),
            ("there", "round-done"), ("back", "round-ack"), ("there", "state-done"), ("back", "prepared"),
            ("there", "commit"), ("back", "committed"), ("there", "settled"), ("back", "activated")]
# What is different when memory follows the guest, also when the connection was cut once, and on lanes.
POST_COPY = [("there", "urgent-lane"), ("back", "urgent-lane"), ("there", "absent"), ("there", "round-done"),
             ("there", "state-done"), ("back", "prepared"), ("there", "commit"), ("back", "committed"),
             ("back", "activated"), ("back", "request"), ("there", "reply"), ("there", "bulk-lane"), ("there", "pages"),
             ("back", "pulled"), ("there", "settled")]
AFTER_A_CUT = [("there", "resolve"), ("back", "status"), ("back", "absent"), ("back", "pull"), ("there", "urgent-lane"),
               ("back", "urgent-lane"), ("back", "pulled")]
ON_LANES = [("there", "bulk-lane"), ("there", "pages")]
FAULTS = ["cut", "flip", "kill source", "lose, kill source", "kill target", "stop target"]
STOPPED_S = 2.5  # longer than the stall limit
AT_ONCE = 4
WAYS = {
    "processes": (),
    "post-copy": ("--mode", "post-copy", "--lanes", "1"),
    "after a cut": ("--mode", "post-copy", "--lanes", "1"),
    "lanes": ("--mode", "pre-copy", "--lanes", "2"),
}
# What was on its way already, or which of two connections is heard first, decides between these two.
EITHER = {
    ("absent", "kill source"): ("lost with the source", "target uncertain"),
    ("round-done", "kill source"): ("lost with the source", "target uncertain"),
    ("prepared", "kill target"): ("stayed", "source uncertain"),
    ("committed", "kill target"): ("source stranded", "source uncertain"),
    ("activated", "kill target"): ("source stranded", "source uncertain"),
    ("request", "kill target"): ("source stranded", "source uncertain"),
    ("reply", "kill target"): ("source stranded", "source uncertain"),
    ("pulled", "kill target"): ("lost with the target", "source stranded"),
}
HAS_THE_GUEST = ("running", "pulling", "stranded")  # at the target


class Move:
    """One move with one fault, and what comes of it."""

    def __init__(self, way, where, fault):
        self.way, self.where, self.fault = way, where, fault
        self.memory_follows = "post-copy" in WAYS[way]
        self.cut = way != "after a cut"  # what has to be cut first, has been
        self.a, self.b = Host(insecure=True), Host(insecure=True)
        self.struck = False
        self.vm = self.a.vm("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
        self.to = self.b.receive("--fake")

    def at(self, direction, name, count):
        if not self.cut and (direction, name) == ("there", "pages"):
            self.cut = True
            return "cut"
        if (direction, name) != self.where or (count and self.cut) or self.struck or not self.cut:
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
        check(not (source == "running" and target in HAS_THE_GUEST), "two owners")
        lasting = {("running", "dead"): "stayed", ("running", "waiting"): "stayed", ("dead", "running"): "moved",
                   ("dead", "uncertain"): "target uncertain", ("uncertain", "dead"): "source uncertain",
                   ("dead", "stranded"): "target stranded", ("stranded", "dead"): "source stranded"}
        if (source, target) in (("dead", "dead"), ("dead", "waiting")):  # waiting: it has heard of no move
            return "lost with the " + self.fault.split()[-1]
        return lasting.get((source, target))

    def target_has_it(self):
        return self.state(self.b, self.to.pid) in HAS_THE_GUEST

    def resolve(self):
        """`godwit resolve`, on the host of a source that died: by its record, the target is asked, or was never to have
        the guest."""
        asked = self.a.run("resolve", "vm", check=False)
        if "nobody has all of it" in asked.stderr:
            check(self.memory_follows and not self.target_has_it(), f"lost, and {self.outcome()}")
            return "target uncertain; resolved: lost"
        if asked.returncode:
            check("was never handed over" in asked.stderr, asked.stderr)
            check(self.outcome() == "target uncertain", f"not handed over, and {self.outcome()}")
            return "target uncertain"
        then = wait_for("the guest to run", self.outcome)
        check(then == ("target stranded" if self.memory_follows else "moved"), f"resolved, and {then}")
        check(self.a.names() == [], "a record stays, and all is settled")
        return f"target uncertain; resolved: {then}"

    def run(self):
        try:
            with Relay(self.to.address, self.at) as relay:
                command = self.a.start("migrate", "vm", relay.address, *WAYS[self.way], "--stall-limit", "1s",
                                       "--progress", "none")
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
    way, where, fault = case
    try:
        found = Move(way, where, fault).run()
        either = EITHER.get((where[1], fault), ()) if "post-copy" in WAYS[way] else ()
        return " or ".join(either) if found in either else found
    except Failed as e:
        return f"BROKEN: {e}"


def main():
    rows = {"processes": MESSAGES, "post-copy": POST_COPY, "after a cut": AFTER_A_CUT, "lanes": ON_LANES}
    words = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    rows = {way: wheres for way, wheres in rows.items() if not words or way in words}
    cases = [(way, where, fault) for way in rows for where in rows[way] for fault in FAULTS]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = dict(zip(cases, pool.map(one, cases)))
    status = 0
    for way, wheres in rows.items():
        lines = ["| at | " + " | ".join(FAULTS) + " |", "|---|" + "---|" * len(FAULTS)]
        for where in wheres:
            what = where[1] + (" answered" if where == ("back", "urgent-lane") else "")
            lines.append(f"| {what} | " + " | ".join(outcomes[way, where, fault] for fault in FAULTS) + " |")
        table = "\n".join(lines) + "\n"
        print(table)
        if "BROKEN" in table:
            status = 1
        else:
            status |= hold(way, table, "--update" in sys.argv)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
