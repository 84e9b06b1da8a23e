# SPDX-License-Identifier: Apache-2.0
"""A whole run: every repetition of every cell, in shuffled order. One that breaks does not end it; too many in a row
do."""
import subprocess
import time

from godwitlab.errors import LabError

from . import experiment as experiments
from . import interrupts, machine, plan, units
from .cell import Repetition, Tools
from .errors import Broken, RunEnds
from .probes import find
from .progress import Progress
from .sides.godwit import Godwit
from .sides.qemu import Qemu

SIDES = {"godwit": Godwit, "qemu": Qemu}
BROKEN_IN_A_ROW = 3
LEAST_ROOM = 4 << 20


class Run:
    """`place` is opened and closed here."""

    def __init__(self, experiment, place, godwit, sides, seed):
        self.experiment, self.place, self.godwit, self.seed = experiment, place, godwit, seed
        self.sides = {name: SIDES[name] for name in sides}
        self.cells, self.left_out = plan.cells(experiment, sides, lambda side, mode: SIDES[side].refuses(mode), seed)
        wws_s = units.duration(experiment["wws"]) / 1e9 if "wws" in experiment else 0.0
        self.estimate = plan.Estimate(experiment, self.cells, place.kind, wws_s)
        self.progress = Progress(len(self.cells), self.estimate)
        self.outcomes = []

    @property
    def expected_s(self):
        return self.estimate.total + plan.PLACE[self.place.kind]

    def notes(self):
        found = list(self.place.notes())
        if "qemu" in self.sides:
            move = self.experiment["move"]
            limit = "limited to ours" if "bandwidth" in move else "not limited"
            downtime = "ours" if "max-downtime" in move else "its own"
            found.append("QEMU: a microvm with the same kernel, initial RAM disk, disk and tap, on the same KVM. Its "
                         f"bandwidth is {limit}, its downtime limit is {downtime}, and all that is not named here is "
                         "as QEMU has it.")
            found += [Qemu.beside(mode, move) for mode in self.experiment["modes"]
                      if mode != "none" and not Qemu.refuses(mode)]
            if not move.get("insecure"):
                found.append("godwit's moves are encrypted (TLS 1.3), QEMU's are not.")
        return found + self.left_out

    def carry_out(self, raw):
        """Returns why it ended before its end, or None. KeyboardInterrupt passes; everything is cleaned up either
        way."""
        raw.top("experiment.json",
                {**experiments.as_kept(self.experiment), "sides": list(self.sides), "seed": self.seed})
        try:
            self.place.open(self.progress.say)
            tools = self._prepare()
            raw.top("machine.json", machine.describe(self.place, self.godwit, self.sides, self.notes()))
            self._all(raw, tools)
        except RunEnds as error:
            return str(error)
        except (Broken, LabError, OSError, subprocess.SubprocessError) as error:
            return f"the hosts: {error}"
        finally:
            with interrupts.held():
                self.progress.close()
                self.place.close()
        return None

    def _prepare(self):
        """Programs and keys on both hosts, and the link between them."""
        programs = {name: find(self.godwit, f"godwit-{name}") for name in ("probe", "meter")}
        for name, path in programs.items():
            if not path:
                raise RunEnds(f"godwit-{name} is not there, neither beside {self.godwit} nor in its build tree")
        place, meter = self.place, {}
        for name in "source", "target":
            host = getattr(place, name)
            host.prepare(self.godwit)
            meter[name] = host.push(programs["meter"])
        for side in self.sides.values():
            side.setup(place, self.experiment)
        link = self.experiment.get("link", {})
        if link:
            place.shape(units.rate(link["rate"]) if "rate" in link else None,
                        units.duration(link["delay"]) if "delay" in link else None)
        return Tools(probe=programs["probe"], meter=meter, sides=self.sides)

    def _all(self, raw, tools):
        recorded, broken = set(), 0
        for number, cell in enumerate(self.cells, 1):
            name = f"{cell.load}, {cell.mode}, {cell.side}, {cell.repeat} of {self.experiment['repeat']}"
            self.progress.cell(number, name)
            wws = self.experiment.get("wws") if cell.side == "godwit" and cell.load not in recorded else None
            began = time.monotonic()
            repetition = Repetition(self.place, self.experiment, tools, raw, number, cell, self.progress.step)
            outcome = repetition.run(wws)
            self.estimate.finished(time.monotonic() - began)
            self.outcomes.append(outcome)
            if wws and outcome != "broken":
                recorded.add(cell.load)
            errors = f": {'; '.join(repetition.state.errors)}" if repetition.state.errors else ""
            self.progress.say(f"{number}/{len(self.cells)} {name}: {outcome}{errors}")
            if raw.room() < LEAST_ROOM:
                raise RunEnds(f"{raw.folder}: no space left on the disk")
            broken = broken + 1 if outcome == "broken" else 0
            if broken == BROKEN_IN_A_ROW:
                raise RunEnds(f"{broken} repetitions in a row could not be carried out; the last one because of "
                              f"{errors[2:]}")
