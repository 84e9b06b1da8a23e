"""`godwit report diff A B`: which figures of two reports differ by more than their repetitions do."""

import json
import math
import os

from . import metrics, stats, words
from .raw import get
from .summary import from_json, json_ready, summarise
from .text import clean, lines_of, wrap

# What people compare. Every figure is tested; of the others only those that differ are shown.
FIRST = ("downtime.client", "downtime.monitor", "move.total", "latency.move.p99", "cpu.all", "net.bytes")
MARK = {"differs": "*", "same": "", "too few": "?", "no data": "-"}
SAME_MACHINE = ("place", "processor", "processors", "memory_bytes", "kernel", "host_kernel", "guest_kernel")
SAME_EXPERIMENT = ("guest", "link", "move", "scale", "windows")


class Unreadable(Exception):
    """There is no report there."""


def load(folder):
    """A summary: made from the raw data where there are any, else the summary.json that was made once."""
    if os.path.isdir(os.path.join(folder, "raw")):
        return summarise(folder)[0]
    path = os.path.join(folder, "summary.json")
    try:
        with open(path, encoding="utf-8") as file:
            summary = json.load(file)
    except (OSError, ValueError) as error:
        raise Unreadable(f"{folder}: no raw data, and no summary.json that can be read: {error}") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("cells"), list):
        raise Unreadable(f"{path}: is no summary")
    return from_json(summary)


def cells_of(summary):
    return {(group["load"], group["mode"], group["side"]): group for group in summary["cells"] if group["counted"]}


def unlike(first, second):
    """In which facts the two runs differ that could explain everything else."""
    found = []
    for part, keys in (("machine", SAME_MACHINE), ("experiment", SAME_EXPERIMENT)):
        for key in keys:
            one, other = get(first, part, key), get(second, part, key)
            if one != other:
                found.append({"what": key, "values": [one, other]})
    return found


def compare(first, second, names=("A", "B")):
    """The comparison as an object."""
    ones, others = cells_of(first), cells_of(second)
    cells = []
    for key in [key for key in ones if key in others]:
        figures = {}
        for name in metrics.METRICS:
            one, other = (get(group, "metrics", name, "values") or [] for group in (ones[key], others[key]))
            if one or other:
                figures[name] = {"unit": metrics.unit(name), **stats.compare(one, other)}
        cells.append({"load": key[0], "mode": key[1], "side": key[2], "figures": figures})
    tested = [figure for cell in cells for figure in cell["figures"].values()
              if figure["verdict"] in ("differs", "same")]
    return {
        "diff": 1, "names": list(names), "alpha": stats.ALPHA, "least_effect": stats.LEAST_EFFECT,
        "test": "two-sided exact Mann-Whitney test on the repetitions; ties share ranks",
        "unlike": unlike(first, second), "cells": cells,
        "only": [[list(key) for key in ones if key not in others], [list(key) for key in others if key not in ones]],
        "tested": len(tested), "differ": sum(figure["verdict"] == "differs" for figure in tested),
        "by_chance": round(len(tested) * stats.ALPHA, 2),
    }


def change(figure):
    if figure["ratio"] is not None and figure["ratio"] > 0:
        percent = (figure["ratio"] - 1) * 100
        return f"{percent:+.0f} %" if abs(percent) < 1000 else f"x {words.digits(figure['ratio'])}"
    if figure["difference"] is None:
        return words.NOTHING
    sign = "+" if figure["difference"] > 0 else ""
    return sign + words.show(figure["difference"], figure["unit"])


def better(name, figure):
    way = metrics.METRICS[name][2]
    one, other = figure["medians"]
    if figure["verdict"] != "differs" or not way:
        return figure["verdict"] if figure["verdict"] != "same" else ""
    return "better" if (other > one) == (way > 0) else "worse"


def show(value, name):
    if name.startswith("cpu.") and value is not None and value != math.inf:
        return words.seconds(value)
    return words.show(value, metrics.unit(name))


def render(found):
    """At most 80 columns."""
    a, b = found["names"]
    lines = wrap(f"A = {a}", "", "    ") + wrap(f"B = {b}", "", "    ")
    for each in found["unlike"]:
        one, other = (value if isinstance(value, str) else json.dumps(value, sort_keys=True)
                      for value in each["values"])
        lines += wrap(f"{each['what']} differs: {one} / {other}", "note: ")
    counts = {}
    for cell in found["cells"]:
        rows = []
        for name, figure in cell["figures"].items():
            counts[figure["verdict"]] = counts.get(figure["verdict"], 0) + 1
            if name in FIRST or figure["verdict"] == "differs":
                n = figure["n"]
                rows.append((metrics.title(name), show(figure["medians"][0], name), show(figure["medians"][1], name),
                             change(figure), f"{figure['p']:.4f}" if figure["p"] is not None else words.NOTHING,
                             f"{n[0]},{n[1]}", better(name, figure)))
        lines += ["", clean(f"{cell['load']}, {cell['mode']}, {cell['side']}")]
        lines += lines_of((("median", "A", "B", "change", "p", "n", ""),), rows, (-27, 9, 9, 7, 6, 5, -8))
    for side, only in zip("AB", found["only"]):
        if only:
            lines += [""] + wrap(words.listed(", ".join(key) for key in only), f"only in {side}: ")
    lines.append("")
    if not found["cells"]:
        lines += wrap("The two have no cell in common: nothing can be compared.")
        return "\n".join(lines) + "\n"
    told = f"{words.plural(found['tested'], 'figure')} tested, {found['differ']} of them differ"
    lines += wrap(f"{told}: two-sided exact Mann-Whitney test, p <= {found['alpha']}, and medians at least "
                  f"{found['least_effect'] * 100:.0f} % apart. By chance alone about {found['by_chance']:.1f} would "
                  "seem to.")
    if counts.get("too few"):
        lines += wrap(f"{words.plural(counts['too few'], 'figure')} cannot be told from noise whatever they are: too "
                      "few repetitions (five on each side are enough).")
    return "\n".join(lines) + "\n"


def run(first, second, form="text"):
    found = compare(load(first), load(second), (first, second))
    return json.dumps(json_ready(found), indent=1, allow_nan=False) + "\n" if form == "json" else render(found)
