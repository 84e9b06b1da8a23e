#!/usr/bin/env python3
"""Measures godwit side by side with QEMU: the same guest, the same /dev/kvm, turn about in one run.

Each run of a cell starts a guest of 1 GiB, moves it once over TCP on loopback, and has it verify
its memory at the target. Medians over the runs are printed as a table, ratio first, and written as
JSON: a list of objects with name, unit, godwit and peer (medians), ratio (godwit / peer), runs (all
values of both), required (in words, null if nothing is) and met.
"""

import argparse
import collections
import dataclasses
import json
import mmap
import os
import platform
import signal
import statistics
import sys

from godwit import Godwit
from measure import BenchError, Move, Start, adopt_orphans
from qemu import Qemu

MEMORY_BYTES = 1 << 30
MIB = 1 << 20


@dataclasses.dataclass
class Cell:
    name: str
    cmdline: str
    peer_downtime_limit_ms: int = None
    godwit_as: str = None  # the cell with godwit's values, if only the peer's settings differ
    encrypted: bool = False  # godwit alone, as it moves between hosts; QEMU's connections are plain, and so are the others


CELLS = [
    Cell("idle dense", "dense=1G idle=1"),
    Cell("idle dense, peer limited", "dense=1G idle=1", 1, "idle dense"),
    Cell("idle dense, encrypted", "dense=1G idle=1", encrypted=True),
    Cell("64 MiB hot", "dense=1G hot=64M verify=0"),
    Cell("64 MiB hot, peer limited", "dense=1G hot=64M verify=0", 1, "64 MiB hot"),
    Cell("idle sparse", "dense=4M zero=0 idle=1"),
]


@dataclasses.dataclass
class Row:
    """One line of the result. `required` tells from the medians (godwit, peer) if it is met."""
    name: str
    unit: str
    values: dict
    words: str = None
    required: object = None

    def result(self):
        medians = {side: statistics.median(v) if v else None for side, v in self.values.items()}
        ours, peer = medians["godwit"], medians["peer"]
        known = ours is not None and peer is not None
        return {
            "name": self.name,
            "unit": self.unit,
            "godwit": ours,
            "peer": peer,
            "ratio": ours / peer if known and peer else None,
            "runs": self.values,
            "required": self.words,
            "met": bool(self.required(ours, peer)) if self.required and known else None,
        }


def warm_up(size):
    """A virtual machine may get its memory when first touched, and lose it when it lies idle: both at the cost of
    whoever comes next. Takes the memory and gives it back, so that what is allocated next is there already."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    with mmap.mmap(-1, size, flags=flags):
        pass


def measure(side, cell_name, log):
    with side:
        start = side.start()
        warm_up(MEMORY_BYTES + MEMORY_BYTES // 4)
        move = side.migrate()
        side.verify()
    print(f"  {cell_name}: {side.name}: total {move.total_ms:.0f} ms, "
          f"downtime {move.downtime_ms:.2f} ms, {move.bytes / MIB:.0f} MiB, {move.cpu_s:.2f} CPU s",
          file=log, flush=True)
    return start, move


def run_all(args, cells):
    """values[cell][side] = list of (Start, Move), the sides in turn, and in turn first."""
    values = collections.defaultdict(lambda: {"godwit": [], "peer": []})
    for number in range(args.runs):
        print(f"run {number + 1} of {args.runs}", file=sys.stderr)
        for cell in cells:
            sides = []
            if args.only != "peer" and not cell.godwit_as:
                sides.append(("godwit", lambda: Godwit(args.godwit, args.guest, cell.cmdline,
                                                       MEMORY_BYTES, cell.encrypted)))
            if args.only != "godwit" and not cell.encrypted:
                sides.append(("peer", lambda: Qemu(args.guest, cell.cmdline, MEMORY_BYTES,
                                                   cell.peer_downtime_limit_ms)))
            if number % 2:
                sides.reverse()
            for key, make in sides:
                values[cell.name][key].append(measure(make(), cell.name, sys.stderr))
    for cell in cells:
        if cell.godwit_as in values:
            values[cell.name]["godwit"] = values[cell.godwit_as]["godwit"]
    return values


def rows_of(values):
    def take(cell, get):
        return {side: [get(start, move) for start, move in runs]
                for side, runs in values[cell].items()}

    rows = []
    for cell in [c.name for c in CELLS if c.name in values]:
        rows.append(Row(f"{cell}: downtime", "ms", take(cell, lambda s, m: m.downtime_ms)))
        rows.append(Row(f"{cell}: total time", "ms", take(cell, lambda s, m: m.total_ms)))
        rows.append(Row(f"{cell}: bytes", "MiB", take(cell, lambda s, m: m.bytes / MIB)))
        rows.append(Row(f"{cell}: CPU of both ends", "s", take(cell, lambda s, m: m.cpu_s)))
        if cell == "idle dense":
            rows[-4].words = "at most 3 ms and a fifth of the peer's"
            rows[-4].required = lambda ours, peer: ours <= 3 and ours <= peer / 5
            rows.append(Row("idle dense: throughput", "MiB/s", take(
                cell, lambda s, m: MEMORY_BYTES / MIB / m.total_ms * 1e3),
                "at least 1.5 times the peer's", lambda ours, peer: ours >= 1.5 * peer))
    if "idle dense, encrypted" in values and "idle dense" in values:
        def pairs(get):
            return {"godwit": [get(e) / get(p) for (_, e), (_, p) in zip(
                values["idle dense, encrypted"]["godwit"], values["idle dense"]["godwit"])], "peer": []}
        rows.append(Row("encrypted over plain, CPU of both ends", "x", pairs(lambda m: m.cpu_s)))
        rows.append(Row("encrypted over plain, total time", "x", pairs(lambda m: m.total_ms)))
    if "idle dense" in values and "idle sparse" in values:
        dense = take("idle dense", lambda s, m: m.total_ms)
        sparse = take("idle sparse", lambda s, m: m.total_ms)
        rows.append(Row("dense over sparse, total time", "x", {
            side: [d / s for d, s in zip(dense[side], sparse[side])] for side in dense},
            "at least 10", lambda ours, peer: ours >= 10))
    if "idle sparse" in values:
        cell = "idle sparse"
        rows.append(Row("start: first instruction", "ms", take(cell, lambda s, m: s.first_ms),
                        "at most 10 ms", lambda ours, peer: ours <= 10))
        rows.append(Row("start: guest ready", "ms", take(cell, lambda s, m: s.ready_ms)))
        rows.append(Row("monitor's own memory, resident", "MiB",
                        take(cell, lambda s, m: s.resident_mib),
                        "at most 4 MiB", lambda ours, peer: ours <= 4))
        rows.append(Row("monitor's own memory, private", "MiB",
                        take(cell, lambda s, m: s.private_mib)))
    return rows


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file
                      if line.startswith("model name")), "unknown processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{model}, {os.cpu_count()} processors, {memory} GiB, Linux {platform.release()}"


def table(results):
    def number(value):
        return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"

    lines = [("ratio", "godwit", "peer", "unit", "what", "required")]
    for r in results:
        required = r["required"] or ""
        if required:
            required += {True: ": met", False: ": NOT MET", None: ": not known"}[r["met"]]
        lines.append((number(r["ratio"]), number(r["godwit"]), number(r["peer"]), r["unit"],
                      r["name"], required))
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    for line in lines:
        print("  ".join([line[i].rjust(widths[i]) for i in range(3)] +
                        [line[i].ljust(widths[i]) for i in range(3, 6)]).rstrip())


def write_whole(path, text):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--godwit", default="build/src/cmd/godwit", help="the program to measure")
    parser.add_argument("--guest", default="build/guest/tiny/writer.elf", help="the guest to move")
    parser.add_argument("--out", default="build/bench/bench.json", help="where the result goes")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cell", action="append", choices=[c.name for c in CELLS],
                        help="only this cell (may be repeated)")
    parser.add_argument("--only", choices=("godwit", "peer"), help="only this side")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs must be at least 1")
    return args


def main():
    args = arguments()
    for path in [args.guest] + ([args.godwit] if args.only != "peer" else []):
        if not os.path.exists(path):
            sys.exit(f"bench: {path} is not there; build it first")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        sys.exit("bench: no access to /dev/kvm; nothing can be measured here")
    # As ^C does: unwind, so that every process is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    cells = [c for c in CELLS if not args.cell or c.name in args.cell]
    try:
        adopt_orphans()
        print(machine(), file=sys.stderr)
        warm_up(3 * MEMORY_BYTES)
        results = [row.result() for row in rows_of(run_all(args, cells))]
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    write_whole(args.out, json.dumps(results, indent=2) + "\n")
    table(results)
    print(f"medians of {args.runs}; {machine()}; all values in {args.out}")


if __name__ == "__main__":
    main()
