#!/usr/bin/env python3
"""`godwit resolve` on the host of a source whose monitor died: what its owner record says is settled with the target.

Real processes over the fake hypervisor. A Relay stands between the hosts, loses a message and has the source killed.
"""
import os
import signal

from harness import Host, Relay, check, process_exists, run_tests, wait_for


class Scene:
    """A source that is killed as a message passes, which may be lost with it."""

    def __init__(self, direction, message, lose, *args):
        self.a, self.b = Host(insecure=True), Host(insecure=True)
        self.where, self.lose, self.struck = (direction, message), lose, False
        self.vm = self.a.vm("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
        self.to = self.b.receive("--fake")
        self.relay = Relay(self.to.address, self.at)
        command = self.a.start("migrate", "vm", self.relay.address, "--stall-limit", "2s", "--progress", "none", *args)
        wait_for("the source to be killed", lambda: self.struck and not process_exists(self.vm.pid))
        command.communicate(timeout=30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.relay.__exit__()
        self.a.close()
        self.b.close()

    def at(self, direction, name, _count):
        if (direction, name) != self.where or self.struck:
            return None
        os.kill(self.vm.pid, signal.SIGKILL)
        wait_for("it to die", lambda: not process_exists(self.vm.pid))
        self.struck = True
        return "cut" if self.lose else None

    def target_is(self, state):
        wait_for(f"the target to be {state}", lambda: self.b.names() == ["vm"] and self.b.state("vm") == state)

    def record(self):
        return os.path.exists(os.path.join(self.a.base, "vm", "owner.json"))

    def resolve(self, status):
        return self.a.run("resolve", "vm", status=status).stderr


def the_target_holds_it():
    """The only copy, and it is good: it runs there, once and for all."""
    with Scene("there", "commit", True) as scene:
        scene.target_is("uncertain")
        check(scene.a.json("ps")[0]["state"] == "dead" and scene.record(), "no record of what was handed over")
        check("is the target's" in scene.resolve(0), "not what was said")
        scene.target_is("running")
        check(scene.a.names() == [] and not scene.record(), "a record stays")
        check("no VM named vm" in scene.resolve(2), "resolved twice")
        check(scene.b.state("vm") == "running", "asking did something")


def it_runs_there_already():
    with Scene("back", "committed", True) as scene:
        scene.target_is("running")
        scene.resolve(0)
        check(scene.a.names() == [], "a record stays")
        check(scene.b.state("vm") == "running", "it does not run any more")


def it_was_never_handed_over():
    """The copy there may be stale: nobody runs it on the source's word."""
    with Scene("back", "prepared", False) as scene:
        scene.target_is("uncertain")
        check("was never handed over" in scene.resolve(2), "not what was said")
        check(scene.record(), "a record went without an answer")
        check(scene.b.state("vm") == "uncertain", "the target does something")


def nobody_answers():
    """Then all is as it was, and the next one to ask may be luckier."""
    with Scene("there", "commit", True) as scene:
        scene.target_is("uncertain")
        pid = scene.b.pid("vm")
        os.kill(pid, signal.SIGSTOP)
        try:
            scene.resolve(3)
        finally:
            os.kill(pid, signal.SIGCONT)
        check(scene.record(), "a record went without an answer")
        scene.resolve(0)
        scene.target_is("running")


def the_target_died_too():
    """Another receiver on that host knows from its records that there is nothing: the guest is lost."""
    with Scene("there", "commit", True) as scene:
        scene.target_is("uncertain")
        scene.b.run("kill", "vm")
        scene.relay.to = scene.b.receive("--fake").address.rpartition(":")
        check("is lost" in scene.resolve(1), "not what was said")
        check(scene.a.names() == [] and "vm" not in scene.b.names(), "something stays")


def the_target_died_as_its_owner():
    """No record can tell whether it ran: a person decides, and the record stays until then."""
    with Scene("back", "committed", True) as scene:
        scene.target_is("running")
        os.kill(scene.b.pid("vm"), signal.SIGKILL)
        scene.relay.to = scene.b.receive("--fake", "--name", "other").address.rpartition(":")
        check("its process died" in scene.resolve(3), "not what was said")
        check(scene.record(), "a record went, and nothing is decided")


def its_memory_was_here():
    """Post-copy: what was still at the source died with it, so what is at the target is freed."""
    with Scene("there", "commit", True, "--mode", "post-copy") as scene:
        scene.target_is("uncertain")
        check("is lost" in scene.resolve(1), "not what was said")
        check(scene.a.names() == [], "a record stays")
        wait_for("the target to free it", lambda: "vm" not in scene.b.names())


def it_lives():
    with Host() as host:
        host.vm("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
        check("its monitor lives" in host.run("resolve", "vm", check=False).stderr, "not what was said")
        check(host.state("vm") == "running", "asking did something")
        check("no VM named no" in host.run("resolve", "no", check=False).stderr, "not what was said")
        check(host.names() == ["vm"], "a name was made")


if __name__ == "__main__":
    run_tests([
        ("the target holds it", the_target_holds_it),
        ("it runs there already", it_runs_there_already),
        ("it was never handed over", it_was_never_handed_over),
        ("nobody answers", nobody_answers),
        ("the target died, too", the_target_died_too),
        ("the target died as its owner", the_target_died_as_its_owner),
        ("its memory was here", its_memory_was_here),
        ("it lives", it_lives),
    ])
