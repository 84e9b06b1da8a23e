#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What stands beside our modes on QEMU's side: the commands it is given, and that a real QEMU carries them out.

That QEMU has no guest and no KVM, only memory and firmware: it moves between two processes of this machine."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
for folder in "tests/system", "measure", "lab":
    sys.path.insert(0, os.path.join(ROOT, folder))

from godwit_measure.sides import qemu as sides  # noqa: E402
from godwit_measure.sides.qemu import Qemu  # noqa: E402
from godwit_measure.sides.qmp import Qmp  # noqa: E402
from godwitlab.places import LocalHost  # noqa: E402
from harness import check, free_port, run_tests  # noqa: E402

PROGRAM = "qemu-system-x86_64"


class Alive:
    """The process, as the driver knows it."""

    def done(self):
        return False


class Scripted:
    """A control socket that says what it was told to; it takes down what it is asked."""

    def __init__(self, asked, name, statuses=()):
        self.asked, self.name, self.statuses, self.events = asked, name, list(statuses), []

    def call(self, command, **arguments):
        self.asked.append((self.name, command, arguments))
        if command == "query-migrate":
            return self.statuses.pop(0)
        return {"running": True} if command == "query-status" else {}

    def listen(self, seconds):
        pass

    def last(self, name):
        return None


def side_of(move, qmp):
    side = Qemu.__new__(Qemu)
    side.experiment, side.qmp, side.looks, side.mode = {"move": move}, qmp, [], None
    side.source, side.target = (LocalHost(name, "127.0.0.1", "/none") for name in ("source", "target"))
    side.machines = {"source": Alive(), "target": Alive()}
    return side


def status(name, passes):
    return {"status": name, "ram": {"dirty-sync-count": passes, "transferred": 4096 * passes, "normal": passes,
                                    "duplicate": 0}}


def asked_in(mode, statuses, **move):
    asked = []
    qmp = {"source": Scripted(asked, "source", statuses), "target": Scripted(asked, "target")}
    moved = side_of(move, qmp).move(mode, lambda: None)
    given = {name: sorted(each["capability"] for each in arguments["capabilities"] if each["state"])
             for name, command, arguments in asked if command == "migrate-set-capabilities"}
    check(given["source"] == given["target"], f"both ends agree: {given}")
    return moved, given["source"], [f"{name} {command}" for name, command, _ in asked
                                    if not command.startswith("query")]


def order(words, commands):
    places = [commands.index(word) for word in words]
    check(places == sorted(places), f"{words} in {commands}")


def test_stop_copy():
    done = [status("active", 1), status("completed", 2)]
    moved, given, commands = asked_in("stop-copy", done)
    check(moved.outcome == "moved" and given == ["events"], f"{moved.outcome}, {given}")
    order(("source stop", "source migrate", "target cont"), commands)
    moved, _, commands = asked_in("stop-copy", [status("failed", 1)])
    check(moved.outcome == "stayed" and "target cont" not in commands, f"{moved.outcome}: {commands}")
    order(("source stop", "source migrate", "source cont"), commands)   # it runs again where it was


def test_auto():
    long = [status("active", passes) for passes in (1, 2, 3, 4, 5)] + [status("completed", 5)]
    for move, wanted, switches in (({}, ["auto-converge", "events"], 0), ({"throttle": "never"}, ["events"], 0), (
            {"post-copy": "allow"}, ["auto-converge", "events", "postcopy-preempt", "postcopy-ram"], 1)):
        moved, given, commands = asked_in("auto", list(long), **move)
        check(moved.outcome == "moved" and given == wanted, f"{move}: {moved.outcome}, {given}")
        check(commands.count("source migrate-start-postcopy") == switches, f"{move}: {commands}")
        check("source stop" not in commands and "target cont" not in commands, f"{move}: {commands}")
    early = [status("active", 1), status("active", 3), status("completed", 3)]
    check("source migrate-start-postcopy" not in asked_in("auto", early, **{"post-copy": "allow"})[2],
          "not before its time")


def test_said():
    """The notes of a report name what stands beside each mode."""
    for mode, move, words in (("stop-copy", {}, ("`stop`", "`cont`", "STOP to RESUME")),
                              ("auto", {}, ("auto-converge",)),
                              ("auto", {"post-copy": "allow"}, ("after 3 passes", "postcopy-ram")),
                              ("post-copy", {}, ("right after the start", "postcopy-preempt"))):
        said = Qemu.beside(mode, move)
        check(said.startswith(f"Beside {mode} ") and all(word in said for word in words), f"{said!r}: {words}")
    check("converge" not in Qemu.beside("auto", {"throttle": "never"}), "slowing was forbidden")


class Pair:
    """Two QEMUs without a guest."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="godwit-qemu-")
        self.running, self.qmp = [], {}
        try:
            for name, more in ("target", ["-incoming", "defer"]), ("source", []):
                path = os.path.join(self.folder, name)
                self.running.append(subprocess.Popen(
                    [PROGRAM, "-M", "microvm", "-accel", "tcg", "-m", "32", "-nodefaults", "-no-user-config",
                     "-display",
                     "none", "-qmp", f"unix:{path},server=on,wait=off", *more], stdin=subprocess.DEVNULL))
                self.qmp[name] = Qmp(LocalHost(name, "127.0.0.1", self.folder), path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for qmp in self.qmp.values():
            qmp.close()
        for process in self.running:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)


def test_real():
    if not shutil.which(PROGRAM):
        print(f"# {PROGRAM} is not installed: not tested")
        return
    sides.PORT = free_port()
    for mode, move in ("pre-copy", {"max-downtime": "200ms"}), ("stop-copy", {"bandwidth": "400Mbit/s"}), ("auto", {}):
        with Pair() as pair:
            side = side_of(move, pair.qmp)
            moved = side.move(mode, lambda: None)
            check(moved.outcome == "moved", f"{mode}: {moved.outcome}: {moved.error}")
            on = {each["capability"] for each in pair.qmp["source"].call("query-migrate-capabilities") if each["state"]}
            check(("auto-converge" in on) == (mode == "auto") and "events" in on, f"{mode}: {on}")
            limits = pair.qmp["source"].call("query-migrate-parameters")
            check(limits["max-bandwidth"] == (50_000_000 if mode == "stop-copy" else sides.NO_LIMIT),
                  f"{mode}: {limits}")
            check(mode != "pre-copy" or limits["downtime-limit"] == 200, f"{mode}: {limits}")
            found = side.describe(moved, {})
            check(found["pause"] and found["pause"]["from_ns"] < found["pause"]["to_ns"] <= time.monotonic_ns(),
                  f"{found}")
            check(found["outcome"] == "completed" and found["bytes"]["total"] > 0, f"{mode}: {found}")
            whole = found["pause"]["to_ns"] - found["pause"]["from_ns"]
            check(mode != "stop-copy" or found["downtime_ns"] == whole, f"all of it stood still: {found}")
            check(pair.qmp["target"].call("query-status")["running"], "it runs there")


if __name__ == "__main__":
    run_tests([(name.removeprefix("test_"), test) for name, test in list(globals().items())
               if name.startswith("test_")])
