"""What figures draw of one repetition, taken from its raw data again: each request, and courses over time."""

import base64
import zlib

import numpy as np

from . import service
from .cell import stages_of
from .raw import STATUSES, Cell



class Course:
    """One repetition, times in nanoseconds since its move began."""

    def __init__(self, folder, run):
        self.run = run
        cell = Cell(folder, run["folder"])
        self.zero = run["windows"]["move"][0]
        self.move = (0, run["windows"]["move"][1] - self.zero)
        shown = [bounds for name, bounds in run["windows"].items() if name in ("before", "move", "after")]
        self.shown = (min(low for low, _ in shown) - self.zero, max(high for _, high in shown) - self.zero)
        # The figures show so much of the quiet before and after that the move does not drown in it.
        margin = max(3 * 10**9, self.move[1])
        self.near = (max(self.shown[0], -margin), min(self.shown[1], self.move[1] + margin))
        self.stages = [(name, low - self.zero, high - self.zero) for name, low, high in stages_of(cell.move)]
        self.pause = tuple(at - self.zero for at in run["move"]["pause"]) if run["move"]["pause"] else None
        self.probes = cell.probes()
        self.service = self.probes.get(run["service_probe"])
        self.due, self.latency, self.failed = self._requests(self.service)

    def _requests(self, probe):
        """Times and latencies of what was answered, and times of what was not."""
        empty = np.empty(0, np.int64)
        if probe is None or probe.unasked:
            return empty, empty, empty
        bounds = (self.shown[0] + self.zero, self.shown[1] + self.zero)
        low, high = np.searchsorted(probe.due, bounds)
        due, ok = probe.due[low:high] - self.zero, probe.ok[low:high]
        lost = ~ok & (probe.status[low:high] != STATUSES.index("unsent"))
        return due[ok], (probe.done - probe.due)[low:high][ok], due[lost]

    def throughput(self, probe):
        """Beginnings of bins, answers a second, bytes a second."""
        at, answers, amount = service.over_time(probe, (self.shown[0] + self.zero, self.shown[1] + self.zero))
        return at - self.zero, answers, amount

    def arrivals(self):
        """Of the first probe of arrivals: when each packet came, and how long after the one before it."""
        for probe in self.probes.values():
            if probe.kind != "arrival":
                continue
            at, gap = [], []
            for connection in np.unique(probe.connection):
                done = np.sort(probe.done[(probe.connection == connection) & probe.ok])
                at.append(done[1:] - self.zero)
                gap.append(np.diff(done))
            if at:
                at, gap = np.concatenate(at), np.concatenate(gap)
                shown = (at >= self.shown[0]) & (at <= self.shown[1])
                order = np.argsort(at[shown], kind="stable")
                return at[shown][order], gap[shown][order]
        return None

    def rounds(self):
        """What each round sent, with the dirty rate in bytes as well."""
        return [dict(each, dirty_bytes=None if each["dirty_pages_per_s"] is None else each["dirty_pages_per_s"] * 4096)
                for each in self.run["move"]["rounds"] if each["pages"] is not None]

    def packed_arrivals(self):
        """As packed(), of arrivals: when, and how long after the one before. None: there are none."""
        found = self.arrivals()
        if found is None or not len(found[0]):
            return None
        at, gap = found
        return {"n": len(at), "first_us": int(at[0] // 1000), "data": pack(_deltas(at), gap // 1000)}

    def packed(self):
        """Every request for the page's script: see unpack() in page.js."""
        return {"n": len(self.due), "failed": len(self.failed),
                "first_us": int(self.due[0] // 1000) if len(self.due) else 0,
                "data": pack(_deltas(self.due), self.latency // 1000, self.failed // 1000)}


def _deltas(values):
    return np.diff(values // 1000, prepend=values[0] // 1000) if len(values) else values


def pack(*columns):
    """Columns of 32-bit integers, one after another, compressed, in base64."""
    raw = b"".join(np.clip(column, -2**31, 2**31 - 1).astype("<i4").tobytes() for column in columns)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.b64encode(squeeze.compress(raw) + squeeze.flush()).decode()


