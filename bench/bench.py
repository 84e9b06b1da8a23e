#!/usr/bin/env python3
"""Measures godwit side by side with QEMU: the same guest, the same /dev/kvm, turn about in one run.

Each run of a cell (cells.py) starts a guest, moves it once over TCP on loopback, and has it verify its
memory afterwards. Medians over the runs are printed as a table, ratio first, and written as JSON: a list of
objects with name, unit, godwit and peer (medians), ratio (godwit / peer), spread (least and most of either),
runs (all values of both; null: that move did not end), required (in words, null if nothing is), met and note.
Beside it lies the same as a table for docs/bench.md.
"""

import argparse
import collections
import dataclasses
import functools
import json
import mmap
import os
import platform
import signal
import sys
import time

from cells import CELLS, GIB, MIB, rows_of
from godwit import Godwit
from measure import BenchError, Move, Start, Waits, adopt_orphans
from qemu import Qemu
from report import markdown, table


@dataclasses.dataclass
class Run:
    start: Start
    move: Move
    waits: Waits


MADV_POPULATE_WRITE = 23
WARM_FACTOR = 4


def warm_up(size):
    """A virtual machine may get its memory when first touched, and lose it when it lies idle: both at the cost of
    whoever comes next. Takes the memory and gives it back, so that what is allocated next is there already. Several
    times as much as is needed, in large pages: nobody can know which of them come next."""
    with mmap.mmap(-1, WARM_FACTOR * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(MADV_POPULATE_WRITE)
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


def tell(text):
    print(text, file=sys.stderr, flush=True)


def measure(side, cell):
    with side:
        start = side.start()
        warm_up(cell.memory + cell.memory // 4)
        move = side.migrate()
        waits = side.waits() if cell.guest == "fetch" else None
        side.verify()
    ended = "did not end" if move.total_ms is None else \
        f"total {move.total_ms:.0f} ms, downtime {move.downtime_ms:.2f} ms"
    waited = f", {waits.count} waits of {waits.p50_us:.1f} us" if waits else ""
    spent = f"{move.bytes / MIB:.0f} MiB, {move.cpu_s:.2f} CPU s"
    tell(f"  {cell.name}: {side.name}: {ended}, {spent}{waited}")
    return Run(start, move, waits)


def sides_of(args, cell):
    guest = os.path.join(args.guests, cell.guest + ".elf")
    if args.only != "peer" and not cell.godwit_as:
        yield "godwit", functools.partial(Godwit, args.godwit, guest, cell.cmdline, cell.memory, cell.options,
                                          cell.encrypted)
    if args.only != "godwit" and cell.peer:
        yield "peer", functools.partial(Qemu, guest, cell.cmdline, cell.memory, cell.peer)


def run_all(args, cells):
    """values[cell][side] = list of Run, the sides in turn, and in turn first."""
    values = collections.defaultdict(lambda: {"godwit": [], "peer": []})
    began = time.monotonic()
    for number in range(args.runs):
        tell(f"run {number + 1} of {args.runs}, after {time.monotonic() - began:.0f} s")
        for cell in cells:
            sides = list(sides_of(args, cell))
            if number % 2:
                sides.reverse()
            for key, make in sides:
                values[cell.name][key].append(measure(make(), cell))
    for cell in cells:
        if cell.godwit_as in values:
            values[cell.name]["godwit"] = values[cell.godwit_as]["godwit"]
    return values


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file
                      if line.startswith("model name")), "unknown processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{model}, {os.cpu_count()} processors, {memory} GiB, Linux {platform.release()}"


def write_whole(path, text):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--godwit", default="build/src/cmd/godwit", help="the program to measure")
    parser.add_argument("--guests", default="build/guest/tiny", help="where the guests to move are")
    parser.add_argument("--out", default="build/bench/bench.json", help="where the result goes")
    parser.add_argument("--runs", type=int, default=5, help="of each cell (5)")
    parser.add_argument("--cell", action="append", choices=[c.name for c in CELLS],
                        help="only this cell (may be repeated)")
    parser.add_argument("--only", choices=("godwit", "peer"), help="only this side")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs must be at least 1")
    return args


def main():
    args = arguments()
    for path in [args.guests] + ([args.godwit] if args.only != "peer" else []):
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
        tell(machine())
        warm_up(3 * GIB)
        results = [row.result() for row in rows_of(run_all(args, cells))]
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    write_whole(args.out, json.dumps(results, indent=2) + "\n")
    write_whole(os.path.splitext(args.out)[0] + ".md", markdown(results))
    print(table(results))
    print(f"medians (least to most) of {args.runs}; {machine()}; all values in {args.out}")


if __name__ == "__main__":
    main()
