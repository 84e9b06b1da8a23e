"""What is measured, and what the values must be.

A cell is one kind of guest, moved in one way by either side. A row is one line of the result, made from
the values of one or two cells.
"""

import dataclasses
import statistics

from qemu import Settings

MIB = 1 << 20
GIB = 1 << 30

GOAL_MS = 300  # the downtime asked for in the busy cells: the default of both sides
GBIT = {"max-bandwidth": 125000000, "max-postcopy-bandwidth": 125000000}
BUSY_GUEST = "dense=192M hot=128M verify=0"
BUSY_LIMIT_S = 10  # time for the link to take the guest six times over
FETCH_GUEST = "dense=200M long=25000 still=500"


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    cmdline: str
    guest: str = "writer"
    memory: int = GIB
    options: tuple = ()     # of `godwit migrate`
    encrypted: bool = False  # godwit alone, as it moves between hosts: QEMU is plain, and so is what is beside it
    peer: Settings = None    # None: godwit alone
    godwit_as: str = None    # the cell with godwit's values, if only the peer's settings differ
    note: str = None         # what the reader must know of the values


POST_COPY = ("postcopy-ram", "postcopy-preempt")

CELLS = [
    Cell("idle dense", "dense=1G idle=1", peer=Settings()),
    Cell("idle dense, peer limited", "dense=1G idle=1", godwit_as="idle dense",
         peer=Settings(parameters={"downtime-limit": 1}), note="QEMU with downtime-limit=1"),
    Cell("idle dense, multifd", "dense=1G idle=1", godwit_as="idle dense",
         peer=Settings(("multifd",), {"multifd-channels": 4}), note="QEMU with 4 multifd channels"),
    Cell("idle dense, encrypted", "dense=1G idle=1", encrypted=True),
    Cell("idle dense, post-copy", "dense=1G idle=1", options=("--mode", "post-copy"),
         peer=Settings(POST_COPY, post_copy=True), note="QEMU with postcopy-preempt"),
    Cell("64 MiB hot", "dense=1G hot=64M verify=0", peer=Settings()),
    Cell("64 MiB hot, peer limited", "dense=1G hot=64M verify=0", godwit_as="64 MiB hot",
         peer=Settings(parameters={"downtime-limit": 1}), note="QEMU with downtime-limit=1"),
    Cell("idle sparse", "dense=4M zero=0 idle=1", peer=Settings()),
    Cell("fetching", FETCH_GUEST, "fetch", 256 * MIB, ("--mode", "post-copy"),
         peer=Settings(POST_COPY, post_copy=True), note="QEMU with postcopy-preempt"),
    Cell("fetching, encrypted", FETCH_GUEST, "fetch", 256 * MIB, ("--mode", "post-copy"), encrypted=True),
    Cell("busy at 1 Gbit/s", BUSY_GUEST, memory=256 * MIB,
         options=("--bandwidth", "1Gbit/s", "--max-downtime", f"{GOAL_MS}ms"),
         peer=Settings(parameters={**GBIT, "downtime-limit": GOAL_MS}, limit_s=BUSY_LIMIT_S)),
    Cell("busy at 1 Gbit/s, auto-converge", BUSY_GUEST, memory=256 * MIB, godwit_as="busy at 1 Gbit/s",
         peer=Settings(("auto-converge", "xbzrle"),
                       {**GBIT, "downtime-limit": GOAL_MS, "xbzrle-cache-size": 256 * MIB}, limit_s=BUSY_LIMIT_S),
         note="QEMU with auto-converge and xbzrle, its cache as large as the guest"),
    Cell("busy at 1 Gbit/s, peer post-copy", BUSY_GUEST, memory=256 * MIB, godwit_as="busy at 1 Gbit/s",
         peer=Settings(POST_COPY, GBIT, post_copy=True),
         note="QEMU with postcopy-preempt; godwit with pre-copy"),
]


@dataclasses.dataclass
class Row:
    """One line of the result. `required` tells from the medians (godwit, peer) if it is met; `values` may hold None
    for a move that did not end."""
    name: str
    unit: str
    values: dict
    words: str = None
    required: object = None
    alone: bool = False  # the requirement can be told without the peer
    note: str = None

    def result(self):
        known = {side: [v for v in values if v is not None] for side, values in self.values.items()}
        # A median of those that came to an end would tell a fairer tale than what was seen.
        medians = {side: statistics.median(v) if v and len(v) == len(self.values[side]) else None
                   for side, v in known.items()}
        ours, peer = medians["godwit"], medians["peer"]
        note = self.note
        unfinished = {side: len(self.values[side]) - len(v) for side, v in known.items()}
        for side, count in unfinished.items():
            if count:
                note = (f"{note}; " if note else "") + \
                    f"{side}: {count} of {len(self.values[side])} moves did not end within {BUSY_LIMIT_S} s"
        judged = self.required and ours is not None and (peer is not None or self.alone)
        return {
            "name": self.name,
            "unit": self.unit,
            "godwit": ours,
            "peer": peer,
            "ratio": ours / peer if ours is not None and peer else None,
            "spread": {side: [min(v), max(v)] if v else None for side, v in known.items()},
            "runs": self.values,
            "required": self.words,
            "met": bool(self.required(ours, peer)) if judged else None,
            "note": note,
        }


class Rows:
    """Makes rows of values[cell][side] = list of Run (bench.py)."""

    def __init__(self, values):
        self.values = values
        self.rows = []

    def take(self, cell, get):
        return {side: [get(run) for run in runs] for side, runs in self.values[cell].items()}

    def add(self, cell, what, unit, get, words=None, required=None, alone=False):
        note = next(c.note for c in CELLS if c.name == cell)
        self.rows.append(Row(f"{cell}: {what}", unit, self.take(cell, get), words, required, alone, note))

    def add_pairs(self, name, unit, cells, get, words=None, required=None):
        """Of each side, one run of the first cell over one of the second."""
        over, under = (self.take(cell, get) for cell in cells)
        self.rows.append(Row(name, unit, {side: [o / u for o, u in zip(over[side], under[side])] for side in over},
                             words, required, True))


def add_cell(rows, cell):
    """What every move has."""
    downtime = {
        "idle dense": ("at most 1.5 ms and a fifth of the peer's", lambda o, p: o <= 1.5 and o <= p / 5),
        "idle dense, encrypted": ("at most 3 ms", lambda o, p: o <= 3, True),
        "busy at 1 Gbit/s": (f"at most {GOAL_MS} ms in every run, where the peer's pre-copy does not end",
                             lambda o, p: max(rows.take(cell, lambda r: r.move.downtime_ms)["godwit"]) <= GOAL_MS,
                             True),
    }
    per_gib = {"idle dense": ("at most half", lambda o, p: o <= p / 2)}
    rows.add(cell, "downtime", "ms", lambda r: r.move.downtime_ms, *downtime.get(cell, ()))
    rows.add(cell, "total time", "ms", lambda r: r.move.total_ms)
    rows.add(cell, "bytes", "MiB", lambda r: r.move.bytes / MIB)
    rows.add(cell, "CPU of both ends", "s", lambda r: r.move.cpu_s)
    if cell.startswith("idle dense"):
        rows.add(cell, "CPU of both ends per GiB moved", "s/GiB", lambda r: r.move.cpu_s / r.move.bytes * GIB,
                 *per_gib.get(cell, ()))


def rows_of(values):
    rows = Rows(values)
    for cell in (c.name for c in CELLS if c.name in values):
        if not cell.startswith("fetching"):
            add_cell(rows, cell)
    if "idle dense" in values:
        rows.add("idle dense", "throughput", "MiB/s", lambda r: GIB / MIB / r.move.total_ms * 1e3,
                 "at least 1.5 times the peer's", lambda o, p: o >= 1.5 * p)
    for cell in ("fetching", "fetching, encrypted"):
        if cell in values:
            words = ("at most 80 us and a third of the peer's", lambda o, p: o <= 80 and o <= p / 3) \
                if cell == "fetching" else ()
            rows.add(cell, "guest's wait for a page, median", "us", lambda r: r.waits.p50_us, *words)
            rows.add(cell, "guest's wait for a page, 99 of 100", "us", lambda r: r.waits.p99_us)
            rows.add(cell, "waits", "", lambda r: r.waits.count)
            rows.add(cell, "downtime", "ms", lambda r: r.move.downtime_ms)
            rows.add(cell, "total time", "ms", lambda r: r.move.total_ms)
    if "idle dense, encrypted" in values and "idle dense" in values:
        cells = ("idle dense, encrypted", "idle dense")
        rows.add_pairs("encrypted over plain, CPU of both ends", "x", cells, lambda r: r.move.cpu_s,
                       "at most 2.5 times", lambda o, p: o <= 2.5)
        rows.add_pairs("encrypted over plain, total time", "x", cells, lambda r: r.move.total_ms)
    if "idle dense" in values and "idle sparse" in values:
        rows.add_pairs("dense over sparse, total time", "x", ("idle dense", "idle sparse"), lambda r: r.move.total_ms,
                       "at least 10", lambda o, p: o >= 10)
    if "idle sparse" in values:
        rows.add("idle sparse", "start to first instruction", "ms", lambda r: r.start.first_ms,
                 "at most 10 ms", lambda o, p: o <= 10, True)
        rows.add("idle sparse", "start to guest ready", "ms", lambda r: r.start.ready_ms)
        rows.add("idle sparse", "monitor's own memory, resident", "MiB", lambda r: r.start.resident_mib,
                 "at most 4 MiB", lambda o, p: o <= 4, True)
        rows.add("idle sparse", "monitor's own memory, private", "MiB", lambda r: r.start.private_mib)
    return rows.rows
