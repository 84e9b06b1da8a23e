"""From raw data to summary.json: every repetition analysed, cells brought together."""

import concurrent.futures
import json
import math
import os

from . import cell as cells
from . import metrics, stats, words
from .files import write_text
from .raw import Cell, Raw, get, number, objects, text

VERSION = 1
MODES = ("auto", "pre-copy", "post-copy", "stop-copy", "clark05", "none")
SIDES = ("godwit", "qemu")
MOVED = ("moved",)


def analyse_one(job):
    folder, label, loads, place = job
    cell = Cell(folder, label)
    return cells.analyse(cell, loads.get(text(cell.cell.get("load"))) or {}, place)


def read_runs(raw, place):
    loads = {text(load.get("name")): load for load in objects(raw.experiment.get("loads"))}
    jobs = [(folder, os.path.join("cells", os.path.basename(folder)), loads, place) for folder in raw.cells()]
    if len(jobs) < 8:
        return [analyse_one(job) for job in jobs]
    with concurrent.futures.ProcessPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(analyse_one, jobs))


def order(names, known):
    """Known names in their usual order, then the others as they came."""
    names = list(dict.fromkeys(names))
    return [name for name in known if name in names] + [name for name in names if name not in known]


def counts(run):
    """Whether a repetition's figures are among the cell's."""
    return run["outcome"] in MOVED or (run["mode"] == "none" and run["outcome"] == "stayed")


def group(runs, load, mode, side):
    mine = sorted((run for run in runs if (run["load"], run["mode"], run["side"]) == (load, mode, side)),
                  key=lambda run: run["number"])
    used = [run for run in mine if counts(run)]
    outcomes = {}
    for run in mine:
        outcomes[run["outcome"] or "?"] = outcomes.get(run["outcome"] or "?", 0) + 1
    taken = [metrics.of(run) for run in used]
    found = {}
    for name in metrics.METRICS:
        values = [each[name] for each in taken]
        if any(value is not None for value in values):
            spread = stats.spread(values)
            spread["outliers"] = [used[index]["number"] for index in spread["outliers"]]
            found[name] = {"unit": metrics.unit(name), **spread, "values": values}
    return {"load": load, "mode": mode, "side": side, "runs": [run["number"] for run in mine],
            "counted": [run["number"] for run in used], "outcomes": outcomes,
            "representative": representative(used, taken, found), "metrics": found}


def representative(used, taken, found):
    """The repetition whose downtime is nearest to the median of all: the one the figures draw."""
    for name in ("downtime.client", "downtime.monitor", "move.total"):
        middle = get(found, name, "median")
        if middle is not None:
            return min((abs(each[name] - middle), run["number"]) for run, each in zip(used, taken)
                       if each[name] is not None)[1]
    return used[0]["number"] if used else None


def notes_of(raw, runs, place):
    """What limits the figures, in sentences: what the driver wrote, and what the data show."""
    notes = [note for note in get(raw.machine, "notes") or [] if isinstance(note, str)] \
        if isinstance(raw.machine.get("notes"), list) else []
    late = [(number(get(probe, "late", "p99_ns")), number(get(probe, "late", "max_ns")))
            for run in runs for probe in run["probes"].values()]
    late = [pair for pair in late if None not in pair]
    if late:
        notes.append(f"The probes' own timers were late by at most {max(pair[0] for pair in late) / 1e6:.2f} ms in "
                     f"99 of 100 requests, {max(pair[1] for pair in late) / 1e6:.2f} ms at worst. No latency is known "
                     "better than that.")
    if place == "namespaces":
        notes.append("Both hosts are this machine: what belongs to a host is counted once, for both.")
    clocks = [clock["error_ns"] for run in runs for clock in run["clocks"].values() if clock]
    if clocks and max(clocks) > 10**6:
        notes.append(f"The clocks of hosts and guest are known to {max(clocks) / 1e6:.1f} ms: bands and windows of "
                     "resources may be off by that much, latencies are not.")
    unsteady = sum(get(run, "probes", run["service_probe"], "return", "steady") is False for run in runs)
    if unsteady:
        notes.append(f"In {unsteady} of {words.plural(len(runs), 'repetition')} the load alone varied by more than a "
                     "tenth before the move: when it was back at its level says little there.")
    for who, what, why in (("client", "clients' largest gap between answers",
                            "the service was slow or starved then, not stopped"),
                           ("guest", "largest gap in the guest's clock loop", "the guest waited for a processor then")):
        seen = [each for run in runs if (each := get(run, "downtime", who)) and each["at_pause"] is not None]
        away = sum(not each["at_pause"] for each in seen)
        if away:
            notes.append(f"In {away} of {words.plural(len(seen), 'move')} the {what} was not at the pause: {why}. The "
                         "gaps at the pause are among the figures.")
    return notes


def expected(experiment):
    """How many repetitions the experiment asked for, or None."""
    loads, modes = objects(experiment.get("loads")), experiment.get("modes")
    repeat, sides = number(experiment.get("repeat")), experiment.get("sides")
    if not loads or not isinstance(modes, list) or repeat is None:
        return None
    return len(loads) * len(modes) * int(repeat) * (len(sides) if isinstance(sides, list) else 1)


def paper_of(experiment, groups):
    """The paper's figures, each beside the median of the same figure of ours where the experiment names it."""
    paper = experiment.get("paper")
    if not isinstance(paper, dict):
        return None
    found = {"source": text(paper.get("source")), "figures": [],
             "differs": [line for line in paper.get("differs") or [] if isinstance(line, str)]
             if isinstance(paper.get("differs"), list) else []}
    for figure in objects(paper.get("figures")):
        entry = {"what": text(figure.get("what")) or "?", "value": figure.get("value"),
                 "unit": text(figure.get("unit")) or "", "metric": text(figure.get("metric")), "ours": []}
        if number(entry["value"]) is None and text(entry["value"]) is None:
            entry["value"] = None
        for each in groups:
            wanted = all(text(figure.get(key)) in (None, each[key]) for key in ("load", "mode", "side"))
            value = get(each, "metrics", entry["metric"], "median") if entry["metric"] else None
            if wanted and value is not None:
                entry["ours"].append({"load": each["load"], "mode": each["mode"], "side": each["side"],
                                      "median": value, "unit": metrics.unit(entry["metric"]),
                                      "n": each["metrics"][entry["metric"]]["n"]})
        found["figures"].append(entry)
    return found


def summarise(report_dir):
    """The summary as an object, and the Raw it came from."""
    raw = Raw(report_dir)
    place = text(raw.machine.get("place"))
    runs = read_runs(raw, place)
    problems = list(raw.reader.problems)
    if not raw.names:
        problems.append("cells: there is no repetition in the raw data")
    for run in runs:
        problems += run.pop("problems")
    loads = order([run["load"] for run in runs],
                  [text(load.get("name")) for load in objects(raw.experiment.get("loads"))])
    groups = [group(runs, load, mode, side) for load in loads
              for mode in order([run["mode"] for run in runs if run["load"] == load], MODES)
              for side in order([run["side"] for run in runs if (run["load"], run["mode"]) == (load, mode)], SIDES)]
    wws = {}
    for folder, run in zip(raw.cells(), runs):
        if run["load"] not in wws:
            recorded = Cell(folder, run["folder"]).wws
            if recorded:
                wws[run["load"]] = recorded
    wanted = expected(raw.experiment)
    if wanted is not None and len(runs) < wanted:
        problems.append(f"{len(runs)} of {wanted} repetitions were carried out")
    return {
        "summary": VERSION,
        "name": text(raw.experiment.get("name")) or os.path.basename(os.path.abspath(report_dir)),
        "title": text(raw.experiment.get("title")),
        "experiment": raw.experiment, "machine": raw.machine,
        "loads": loads, "cells": groups, "runs": sorted(runs, key=lambda run: run["number"]), "wws": wws,
        "paper": paper_of(raw.experiment, groups), "notes": notes_of(raw, runs, place), "problems": problems,
        "percentiles": "order statistics of all requests; one that failed counts as later than all others",
        "outliers": "of 5 or more: beyond 1.5 interquartile ranges from the quartiles; never left out",
    }, raw


def json_ready(value):
    """Without infinities, which JSON does not have: "never". Other numbers it does not have are null."""
    if isinstance(value, dict):
        return {key: json_ready(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "never" if value == math.inf else None
    return value


def from_json(summary):
    """A summary as it was before: its figures may be infinite."""
    for group in objects(summary.get("cells")):
        for figure in (group.get("metrics") or {}).values():
            for key, value in figure.items():
                if key == "values":
                    figure[key] = [math.inf if each == "never" else each for each in value]
                elif value == "never":
                    figure[key] = math.inf
    return summary


def write_json(path, value):
    write_text(path, json.dumps(json_ready(value), indent=1, allow_nan=False) + "\n")
