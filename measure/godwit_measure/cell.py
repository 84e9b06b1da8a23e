# SPDX-License-Identifier: Apache-2.0
"""One repetition of one cell, from the boot of a guest to its end.

Each boots a guest of its own: what one load or move left behind in a guest or a monitor must not be in the next
one's figures. The order of things:

    boot, receiver        the receiver waits from the beginning, so that its cost is in the baseline too
    clocks                of both hosts and the guest, against ours
    meters, probes        and from then on everything runs to the end
    settle, baseline, before, move, after
    probes stop, the guest's own figures are fetched, clocks again, meters stop, the guest is ended
"""
import time
from dataclasses import dataclass, field

from godwitlab.errors import LabError

from . import clocks, interrupts, units
from .errors import Broken, RunEnds
from .guest import Observer
from .meters import Meter
from .probes import Probes

TICK_S = 0.1
WINDOWS = ("baseline", "before", "move", "after")


@dataclass
class Tools:
    """What cells share: where programs are, on this machine (probe) and on each host (meter)."""
    probe: str
    meter: dict
    sides: dict


@dataclass
class State:
    windows: dict = field(default_factory=lambda: dict.fromkeys(WINDOWS))
    outcome: str = "broken"
    errors: list = field(default_factory=list)
    offsets: dict = field(default_factory=dict)         # source, target, guest: clocks.Offset or None
    guest_later: object = None
    moved: object = None
    options: list = field(default_factory=list)


class Repetition:
    def __init__(self, place, experiment, tools, raw, number, cell, step):
        self.place, self.experiment, self.tools, self.raw = place, experiment, tools, raw
        self.number, self.cell, self.step = number, cell, step
        self.load = next(load for load in experiment["loads"] if load["name"] == cell.load)
        self.folder = raw.cell(number)
        self.state = State()
        self.side = tools.sides[cell.side](place, experiment, number, self.folder)
        self.meters, self.probes, self.talks = {}, None, {}
        self.observer = None if place.fake else Observer(place)
        self.stage = "boot"

    def run(self, wws=None):
        """Carries it out and keeps it. `wws`: record the working set for so long. Returns the outcome; RunEnds and
        KeyboardInterrupt pass, with everything ended."""
        state = self.state
        try:
            self._carry_out(wws)
        except Broken as error:
            state.outcome = "broken"
            state.errors.insert(0, f"{self.stage}: {error}")
        except LabError as error:
            state.outcome = "broken"
            state.errors.insert(0, f"{self.stage}: the host: {error}")
        finally:
            with interrupts.held():
                logs = self._end()
        self.raw.check()
        for name, log in logs.items():
            self.folder.put(name, log)
        self._keep()
        return state.outcome

    # ------------------------------------------------------------------------------------------ in order

    def _carry_out(self, wws):
        state, mode = self.state, self.cell.mode
        self._begin("boot")
        self.side.start(self.load)
        self.place.forget_guest()
        self.side.await_ready(self._tick_boot)
        self._compare_clocks()
        if wws:
            self._begin("recording the working set")
            found = self.side.wws(wws)
            if found is not None:
                self.folder.put_json("wws.json", found)
        for name in "source", "target":
            host = getattr(self.place, name)
            self.meters[name] = Meter(host, self.tools.meter[name], self.side.pids[name],
                                      self.folder.stream(f"meter-{name}.jsonl"))
        self.probes = Probes(self.place, self.tools.probe, self.load, self.folder)
        self._wait("settle", None)
        self._wait("baseline", "baseline")
        if mode != "none":
            self._wait("before", "before")
            self._move()
        else:
            state.outcome = "stayed"
        if mode != "none" and state.outcome != "lost":
            self._wait("after", "after")
        self._begin("collecting")
        state.errors += self.probes.stop()
        if state.outcome != "lost":
            self._fetch_guest()
        self._compare_clocks()
        state.errors += [problem for meter in self.meters.values() if (problem := meter.stop())]

    def _begin(self, stage):
        self.stage = stage
        self.raw.check()
        self.step(stage)

    def _tick_boot(self):
        self.raw.check()
        self.step(self.stage)
        self.side.check()

    def _tick(self, guest=True):
        """While something lasts: is everybody still there?"""
        self.raw.check()
        self.step(self.stage)
        self.probes.check()
        for name, meter in self.meters.items():
            meter.check(gone=self.state.moved is not None and name == "source")
        if guest:
            self.side.check()

    def _wait(self, stage, window):
        self._begin(stage)
        began = time.monotonic_ns()
        end = began + units.duration(self.experiment["windows"][stage])
        while (now := time.monotonic_ns()) < end:
            time.sleep(min(TICK_S, (end - now) / 1e9))
            self._tick(guest=self.state.moved is None)
        if window:
            self.state.windows[window] = [began, time.monotonic_ns()]

    def _move(self):
        state, mode = self.state, self.cell.mode
        self._begin("move")
        state.options = self.side.options(mode)
        # Whose monitor ends in a move is the mover's business, and it ends its own meter.
        state.moved = moved = self.side.move(mode, self._tick_move)
        state.outcome = moved.outcome
        state.windows["move"] = [moved.from_ns, moved.to_ns]
        if moved.error:
            state.errors.append(moved.error)

    def _tick_move(self):
        self.raw.check()
        self.step(self.stage)
        self.probes.check()

    # ------------------------------------------------------------------------------------ clocks and guest

    def _compare_clocks(self):
        """The first time and the last: what knows more is kept. The guest's may have stood still between, so its
        second comparison is kept beside the first."""
        offsets = self.state.offsets
        for name in "source", "target":
            host = getattr(self.place, name)
            try:
                if name not in self.talks:
                    self.talks[name] = host.talk([self.tools.meter[name], "clock"])
                    self.talks[name].ask()
                found = clocks.compare(lambda name=name: int(self.talks[name].ask().split()[0]))
            except (LabError, ValueError, IndexError) as error:
                self.state.errors.append(f"the clock of the {name}: {error}")
                found = None
            offsets[name] = clocks.better(offsets.get(name), found)
        if self.observer and self.state.outcome != "lost":
            try:
                found = clocks.compare(self.observer.now, 6)
            except Broken as error:
                self.state.errors.append(str(error))
                found = None
            if offsets.get("guest"):
                self.state.guest_later = found
            else:
                offsets["guest"] = found

    def _fetch_guest(self):
        if not self.observer:
            return
        for name, ask in (("guest-clock.csv", self.observer.clock_csv), ("guest-work.csv", self.observer.work_csv)):
            try:
                self.folder.put(name, ask())
            except Broken as error:
                self.state.errors.append(str(error))

    # ----------------------------------------------------------------------------------------- and the end

    def _end(self):
        """Ends whatever runs; raises nothing that would hide why."""
        if self.probes:
            self.probes.stop()
            self.probes.kill()
        for meter in self.meters.values():
            meter.kill()
        for talk in self.talks.values():
            talk.close()
        return self.side.stop()

    def _keep(self):
        state, cell = self.state, self.cell
        kept = {name: found.json() if (found := state.offsets.get(name)) else None
                for name in ("source", "target", "guest")}
        if kept["guest"] and state.guest_later:
            kept["guest"]["later"] = state.guest_later.json()
        self.folder.put_json("clocks.json", kept)
        if state.moved:
            if state.moved.says:
                self.folder.put_json("bill.json" if cell.side == "godwit" else "qemu.json", state.moved.says)
            self.folder.put_json("move.json", self.side.describe(state.moved, state.offsets))
        asked = self.experiment["move"].get("max-downtime")
        self.folder.put_json("cell.json", {
            "number": self.number, "load": cell.load, "mode": cell.mode, "side": cell.side, "repeat": cell.repeat,
            "outcome": state.outcome, "error": "; ".join(state.errors) or None, "windows": state.windows,
            "options": state.options, "downtime_asked_ns": units.duration(asked) if asked else None,
        })


__all__ = ["Repetition", "RunEnds", "Tools"]
