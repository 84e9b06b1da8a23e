#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""godwit measure in the lab: the presets web, quake and muncher at scale small, from the command to the report.

What is looked at is that everything was measured and kept, never how long something took."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("GODWIT_BUILD", os.path.join(ROOT, "build"))
GODWIT = os.path.join(BUILD, "src", "cmd", "godwit")
PRESETS = ("web", "quake", "muncher")
LIMIT_S = 600       # against hanging only


class Failure(Exception):
    pass


def expect(truth, what):
    if not truth:
        raise Failure(what)


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file) if path[-1].endswith(".json") else file.read()


def check_probe(cell, spec):
    """Rows as documented, from before the baseline to the end, and something came."""
    name = spec["name"]
    rows = list(csv.DictReader(read(cell, f"probe-{name}.csv").splitlines()))
    expect(rows and set(rows[0]) == {"seq", "kind", "connection", "due_ns", "sent_ns", "done_ns", "bytes", "status"},
           f"{name}: {rows[:1]}")
    came = [row for row in rows if row["status"] == "ok"]
    expect(came, f"{name}: nothing came in {len(rows)} rows")
    facts = read(cell, f"probe-{name}.json")
    expect(facts["late"] is not None, f"{name}: the probe's own error: {facts}")


def check_meter(cell, host):
    lines = [json.loads(line) for line in read(cell, f"meter-{host}.jsonl").splitlines()]
    expect(lines[0].get("meter") == 1 and lines[0]["pid"], f"{host}: {lines[0]}")
    samples = [line for line in lines if "at_ns" in line]
    expect(len(samples) > 10, f"{host}: {len(samples)} samples")
    cpu = [sample["process"]["cpu_ns"] for sample in samples if sample["process"]]
    expect(cpu == sorted(cpu) and cpu[-1] > cpu[0], f"{host}: CPU time of the monitor")


def check_guest(cell):
    clock, work = read(cell, "guest-clock.csv").splitlines(), read(cell, "guest-work.csv").splitlines()
    expect(clock[0].startswith("# period_ns=") and clock[1] == "at_ns,gap_ns" and len(clock) > 10,
           f"the guest's clock: {clock[:3]}")
    expect(work[0] == "at_ns,units,busy_ns" and len(work) > 10, f"the guest's work: {work[:2]}")


def check_move(cell):
    move, bill = read(cell, "move.json"), read(cell, "bill.json")
    expect(move["outcome"] == "completed" and move["downtime_ns"] == bill["downtime"]["total_ns"] > 0,
           f"the move: {move}")
    expect(move["bytes"]["total"] > 1 << 20 and move["rounds"], f"bytes and rounds: {move['bytes']}")
    error = sum(read(cell, "clocks.json")[host]["error_ns"] for host in ("source", "target"))
    edges = [move["from_ns"], *(stage["from_ns"] for stage in move["stages"]), move["stages"][-1]["to_ns"]]
    expect(all(a <= b + error for a, b in zip(edges, edges[1:])),
           f"the stages are in order, and within the move: {edges}")
    expect(move["pause"]["to_ns"] - move["pause"]["from_ns"] == move["downtime_ns"], f"the pause: {move['pause']}")


def check_report(out):
    if not os.path.isdir(os.path.join(ROOT, "measure", "godwit_measure", "report")):
        raise Failure("there is no godwit_measure.report to make a report with")
    summary = read(out, "summary.json")
    expect(summary["runs"] and summary["runs"][0]["outcome"] == "moved", f"the summary: {summary['runs']}")
    expect("<svg" in read(out, "index.html"), "the page has figures")


def measure(preset, folder):
    out = os.path.join(folder, preset)
    done = subprocess.run([GODWIT, "measure", "--preset", preset, "--scale", "small", "--place", "lab", "--repeat", "1",
                           "--seed", "1",
                           "-o", out], capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL,
                          check=False)
    said = f"{done.stdout}\n{done.stderr}"
    expect(done.returncode == 0, f"exit {done.returncode}: {said}")
    wanted, facts = read(out, "raw", "experiment.json"), read(out, "raw", "machine.json")
    expect(wanted["name"] == preset and wanted["scale"] == "small" and facts["place"] == "lab", f"{wanted}, {facts}")
    expect(facts["guest_kernel"] and facts["host_kernel"] and facts["notes"], f"the machine: {facts}")
    cells = sorted(os.listdir(os.path.join(out, "raw", "cells")))
    expect(len(cells) == len(wanted["modes"]) * len(wanted["loads"]), f"cells: {cells}")
    for number in cells:
        cell = os.path.join(out, "raw", "cells", number)
        facts = read(cell, "cell.json")
        expect((facts["outcome"], facts["error"]) == ("moved", None), f"{facts}; {said}")
        edges = [edge for name in ("baseline", "before", "move", "after") for edge in facts["windows"][name]]
        expect(edges == sorted(edges), f"windows: {facts['windows']}")
        for spec in wanted["loads"][0]["probes"]:
            check_probe(cell, spec)
        for host in "source", "target":
            check_meter(cell, host)
        check_guest(cell)
        check_move(cell)
        expect("godwit-guest: ready" in read(cell, "log-console.txt"), "the guest's console")
    check_report(out)


def main():
    if os.geteuid() != 0:
        print("skipped: the lab needs root")
        return 77
    for tool in "qemu-system-x86_64", "ip", "mmdebstrap":
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed (scripts/packages.txt names its package)")
            return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = 0
    with tempfile.TemporaryDirectory(prefix="godwit-test-") as folder:
        for preset in sys.argv[1:] or PRESETS:
            try:
                measure(preset, folder)
                print(f"{preset}: ok", flush=True)
            except (Failure, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"{preset}: FAILED: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
