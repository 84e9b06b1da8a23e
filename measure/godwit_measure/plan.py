# SPDX-License-Identifier: Apache-2.0
"""Which cells there are, in which order, and how long it takes."""
import random
from dataclasses import dataclass

from . import units

# What a repetition takes beyond its windows, by place, in seconds: the boot of the guest, by side; a move; the end.
# Only a first guess: what the finished ones took replaces it.
BOOT = {"lab": {"godwit": 14, "qemu": 40}, "namespaces": {"godwit": 3, "qemu": 6}, "local": {"godwit": 1, "qemu": 1}}
MOVE = {"lab": 15, "namespaces": 5, "local": 1}
END = {"lab": 6, "namespaces": 2, "local": 1}
PLACE = {"lab": 15, "namespaces": 3, "local": 0}
PER_MEMORY = {"lab": 2 ** 24, "namespaces": 2 ** 28, "local": 2 ** 30}   # bytes a second moved, about


@dataclass(frozen=True)
class Cell:
    load: str
    mode: str
    side: str
    repeat: int


def cells(experiment, sides, refuses, seed):
    """The cells in shuffled order, and sentences about those that are left out. A cell without a move is one side's."""
    found, left_out = [], []
    for side in sides:
        for mode in experiment["modes"]:
            why = refuses(side, mode)
            if why:
                left_out.append(f"{side}: {mode} is left out: {why}.")
                continue
            if mode == "none" and side != sides[0]:
                continue
            found += [Cell(load["name"], mode, side, repeat) for load in experiment["loads"]
                      for repeat in range(1, experiment["repeat"] + 1)]
    random.Random(seed).shuffle(found)
    return found, left_out


def windows(experiment, mode):
    """Seconds in the windows of a repetition."""
    names = ("settle", "baseline") if mode == "none" else ("settle", "baseline", "before", "after")
    return sum(units.duration(experiment["windows"][name]) for name in names) / 1e9


def guess(experiment, cell, place):
    """Seconds that a repetition takes."""
    memory = units.size(experiment["guest"]["memory"])
    move = 0 if cell.mode == "none" else MOVE[place] + memory / PER_MEMORY[place]
    return BOOT[place][cell.side] + windows(experiment, cell.mode) + move + END[place]


class Estimate:
    """Time left: guesses, corrected by the ratio of what the finished ones took to what was guessed of them."""

    def __init__(self, experiment, planned, place, wws_s=0.0):
        self.guesses = [guess(experiment, cell, place) for cell in planned]
        self.extra = wws_s * len({cell.load for cell in planned})
        self.took = []

    @property
    def total(self):
        return sum(self.guesses) + self.extra

    def finished(self, seconds):
        self.took.append(seconds)

    def left(self):
        done = len(self.took)
        ratio = sum(self.took) / sum(self.guesses[:done]) if done else 1.0
        return ratio * sum(self.guesses[done:])
