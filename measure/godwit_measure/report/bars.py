"""The figures that set cells side by side: three observers, parts of the downtime, CPU, every repetition, the
matrix."""

import math

from . import metrics, svg, words
from .figures import RIGHT, WIDTH, Figure, label, side_colour, slug
from .raw import get

NAMES = 132  # room for a cell's name
CPU_PARTS = (("cpu.mover", "movers", "c1"), ("cpu.loop", "loops", "c6"),
             ("cpu.vcpu", "vCPU threads, outside the guest", "c4"),
             ("cpu.other", "other threads", "c7"), ("cpu.irq", "interrupts", "c2"),
             ("cpu.beyond", "hosts beyond", "c5"))
OBSERVERS = (("downtime.monitor", "monitor", "c1"), ("downtime.guest", "guest", "c3"),
             ("downtime.client", "client", "c2"))
PANELS = {"downtime.client": "away: client", "move.total": "the move", "latency.move.p99": "p99 in the move",
          "cpu.all": "extra CPU", "net.bytes": "on the network"}


def middle(group, name):
    value = get(group, "metrics", name, "median")
    return value if value is not None and value != math.inf else None


def mark(shape, x, y, classes, title):
    """A circle, square or triangle: told apart without colour."""
    if shape == "monitor":
        data = f"M{svg.num(x - 4)} {svg.num(y - 4)}h8v8h-8z"
    elif shape == "guest":
        data = f"M{svg.num(x)} {svg.num(y - 5)}l5 9h-10z"
    else:
        data = f"M{svg.num(x - 4.5)} {svg.num(y)}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z"
    return f'<path d="{data}" class="{classes} f"><title>{svg.escape(title)}</title></path>'


def observers(load, groups):
    """Three downtimes of each cell."""
    groups = [group for group in groups if any(middle(group, name) is not None for name, _, _ in OBSERVERS)]
    values = [value for group in groups for name, _, _ in OBSERVERS if (value := middle(group, name))]
    if not values:
        return None
    top, line = 34, 24
    height = top + line * len(groups) + 40
    x = svg.Scale(min(values) * 0.7, max(values) * 1.3, NAMES, WIDTH - RIGHT, log=True)
    bottom = top + line * len(groups)
    inner = svg.axis_x(x, bottom, svg.short_time, "away for, medians, logarithmic", bottom - top)
    at = NAMES
    for shape, (_, name, colour) in zip(("monitor", "guest", "client"), OBSERVERS):
        inner += mark(shape, at, 14, colour, name) + svg.text(at + 10, 18, f"as the {name} saw it")
        at += 150
    for index, group in enumerate(groups):
        y = top + line * (index + 0.5)
        inner += svg.text(NAMES - 10, y + 4, label(group), "e")
        seen = [x(value) for name, _, _ in OBSERVERS if (value := middle(group, name))]
        if seen:
            inner += svg.path(f"M{svg.num(min(seen))} {svg.num(y)}H{svg.num(max(seen))}", "ax")
        for name, shape, colour in OBSERVERS:
            if value := middle(group, name):
                inner += mark(shape, x(value), y, colour, f"{shape}: {words.duration(value)}")
    return Figure(slug("observers", load), "Three observers of the downtime",
                  "How long the guest was away, as its monitor, the guest itself and its clients saw it.",
                  inner, WIDTH, height, ["cell", "monitor_ns", "guest_ns", "client_ns"],
                  [(label(group), *(middle(group, name) for name, _, _ in OBSERVERS)) for group in groups], None, load)


def stacked(entries, parts, axis, show, axis_title):
    """Horizontal bars in parts: `entries` of (name, {part: value}). Parts below zero go to the left of it."""
    top, line = 46, 26
    total = max([sum(max(value, 0) for value in values.values()) for _, values in entries] + [axis])
    least = min([sum(min(value, 0) for value in values.values()) for _, values in entries] + [0])
    x = svg.Scale(least, total * 1.04, NAMES, WIDTH - RIGHT - 60)
    bottom = top + line * len(entries)
    named, at, row = "", NAMES, 14
    for key, name, colour in parts:
        if at + 20 + 6.3 * len(name) > WIDTH:
            at, row = NAMES, row + 16
        more, at = svg.legend(at, row, ((colour + " f", name),))
        named += more
    inner = named + svg.axis_x(x, bottom, show, axis_title, bottom - top)
    for index, (name, values) in enumerate(entries):
        y = top + line * index + 4
        right, left = x(0), x(0)
        inner += svg.text(NAMES - 10, y + 13, name, "e")
        for key, title, colour in parts:
            value = values.get(key)
            if not value:
                continue
            wide = abs(x(value) - x(0))
            start = right if value > 0 else left - wide
            inner += svg.rect(start, y, max(wide - 0.8, 0.4), 18, colour + " f",
                              f"{name}: {title}: {show_exact(value, show)}")
            right, left = (right + wide, left) if value > 0 else (right, left - wide)
        inner += svg.text(right + 6, y + 13, show_exact(sum(values.values()), show), "m")
    return inner, bottom + 40


def show_exact(value, show):
    return words.duration(value) if show is svg.short_time else show(value)


def parts(load, groups, runs):
    """What the downtime was made of, in the repetition that stands for each cell."""
    entries, names = [], []
    for group in groups:
        found = get(runs.get(group["representative"]), "move", "downtime_parts")
        if found:
            entries.append((label(group), {part["part"]: part["ns"] for part in found}))
            names += [part["part"] for part in found]
    if not entries:
        return None
    names = list(dict.fromkeys(names))
    colours = [f"c{1 + index % 8}" for index in range(len(names))]
    inner, height = stacked(entries, [(name, name, colour) for name, colour in zip(names, colours)], 1, svg.short_time,
                            "downtime as the monitor saw it")
    return Figure(slug("downtime", load), "What the downtime was made of",
                  "Parts of the pause in the median repetition of each cell, as the mover accounts for them "
                  "(docs/bill.md); they sum to the downtime as the monitor saw it.",
                  inner, WIDTH, height, ["cell", "part", "ns"],
                  [(name, part, value) for name, values in entries for part, value in values.items()], None, load)


def cpu(load, groups):
    entries = []
    for group in groups:
        values = {name: middle(group, name) for name, _, _ in CPU_PARTS}
        if any(value is not None for value in values.values()):
            entries.append((label(group), {name: value for name, value in values.items() if value is not None}))
    if not entries:
        return None
    inner, height = stacked(entries, CPU_PARTS, 1, svg.short_time, "CPU time above the baseline, both hosts")
    return Figure(slug("cpu", load), "Extra CPU",
                  "CPU time of both hosts during the move, above that of as long a time without one; medians of each "
                  "part. The guest's own is left out. What the guest's absence saved shows left of zero.",
                  inner, WIDTH, height, ["cell", "part", "ns"],
                  [(name, part, value) for name, values in entries for part, value in values.items()], None, load)


def strips(load, groups):
    """Every repetition of every cell, as a point."""
    names = [name for name in PANELS if any(middle(group, name) is not None for group in groups)]
    groups = [group for group in groups if group["metrics"]]
    if not names or not groups:
        return None
    line, top = 22, 42
    bottom = top + line * len(groups)
    width = (WIDTH - NAMES - RIGHT - 18 * (len(names) - 1)) / len(names)
    inner, rows = "", []
    for index, group in enumerate(groups):
        inner += svg.text(NAMES - 10, top + line * (index + 0.5) + 4, label(group), "e")
    for panel, name in enumerate(names):
        values = [value for group in groups for value in get(group, "metrics", name, "values") or []
                  if value is not None and value != math.inf]
        x0 = NAMES + panel * (width + 18)
        log = min(values) > 0 and max(values) / min(values) > 8
        x = svg.Scale(min(values) * 0.8, max(values) * 1.2, x0, x0 + width, log=True) if log else \
            svg.Scale(min(0, min(values)), max(values) * 1.08 or 1, x0, x0 + width, binary=metrics.unit(name) == "B")
        unit = metrics.unit(name)
        show = svg.short_time if unit == "ns" else svg.short_size if unit == "B" else words.count
        inner += svg.text(x0, 14, PANELS[name], "t")
        inner += svg.text(x0, 28, "logarithmic" if log else "linear", "m")
        inner += svg.axis_x(x, bottom, lambda value, show=show: show(value) if value else "0", height=bottom - top,
                            most=3)
        for index, group in enumerate(groups):
            figure = get(group, "metrics", name)
            if not figure:
                continue
            y = top + line * (index + 0.5)
            for number, value in zip(group["counted"], figure["values"]):
                if value is None:
                    continue
                odd = number in figure["outliers"]
                rows.append((label(group), number, name, "never" if value == math.inf else value, odd))
                if value == math.inf:
                    inner += svg.text(x0 + width, y + 4, "never", "e m")
                    continue
                shape = f'<circle cx="{svg.num(x(value))}" cy="{svg.num(y)}" r="{4 if odd else 3.2}" class="' \
                        f'{"bgf " if odd else ""}{side_colour(group["side"])} {"s" if odd else "f o"}"><title>' \
                        f'{svg.escape(f"cell {number}: {words.show(value, unit)}")}' \
                        f'{", outlier" if odd else ""}</title></circle>'
                inner += shape
            if (value := middle(group, name)) is not None:
                inner += svg.path(f"M{svg.num(x(value))} {svg.num(y - 8)}v16", "med")
    return Figure(slug("repetitions", load), "Every repetition",
                  "Each point is one repetition, the upright line their median. Outliers, by the rule below, are "
                  "rings; they count like all others.",
                  inner, WIDTH, bottom + 26, ["cell", "number", "figure", "value", "outlier"], rows, None, load)


def matrix(summary):
    """Away as clients saw it: a panel for each load, modes down, every repetition a point, one scale."""
    groups = [group for group in summary["cells"] if group["mode"] != "none"]
    name = "downtime.client" if any(middle(group, "downtime.client") for group in groups) else "downtime.monitor"
    values = [value for group in groups for value in get(group, "metrics", name, "values") or []
              if value and value != math.inf]
    loads = [load for load in summary["loads"] if any(group["load"] == load and group["metrics"] for group in groups)]
    if len(loads) < 2 or not values:
        return None
    modes = list(dict.fromkeys(group["mode"] for group in groups))
    columns = min(3, len(loads))
    gap, names, line = 18, 70, 24
    width = (WIDTH - names - RIGHT - gap * (columns - 1)) / columns
    tall = line * len(modes) + 52
    inner, rows = "", []
    legend, _ = svg.legend(names, 12, [(side_colour(side) + " f", side) for side in
                                       dict.fromkeys(group["side"] for group in groups)])
    inner += legend
    for index, load in enumerate(loads):
        x0, y0 = names + (index % columns) * (width + gap), 40 + (index // columns) * tall
        x = svg.Scale(min(values) * 0.7, max(values) * 1.4, x0, x0 + width, log=True)
        bottom = y0 + line * len(modes)
        inner += svg.text(x0, y0 - 6, load, "t") + svg.axis_x(x, bottom, svg.short_time, height=bottom - y0)
        for place, mode in enumerate(modes):
            y = y0 + line * (place + 0.5)
            if index % columns == 0:
                inner += svg.text(x0 - 8, y + 4, mode, "e")
            mine = [group for group in groups if (group["load"], group["mode"]) == (load, mode)]
            for row, group in enumerate(mine):
                at = y + (row - (len(mine) - 1) / 2) * 9
                figure = get(group, "metrics", name) or {"values": []}
                for number, value in zip(group["counted"], figure["values"]):
                    if value is None or value == math.inf:
                        continue
                    rows.append((load, mode, group["side"], number, value))
                    told = svg.escape(", ".join((load, mode, group["side"], words.duration(value))))
                    inner += f'<circle cx="{svg.num(x(value))}" cy="{svg.num(at)}" r="3" class="' \
                             f'{side_colour(group["side"])} f o"><title>{told}</title></circle>'
                if middle(group, name):
                    inner += svg.path(f"M{svg.num(x(middle(group, name)))} {svg.num(at - 5)}v10", "med")
    height = 40 + -(-len(loads) // columns) * tall
    return Figure("matrix", "Mode by load",
                  f"{metrics.title(name)}: each repetition a point, medians upright lines. All panels have the same "
                  "scale, logarithmic.", inner, WIDTH, height, ["load", "mode", "side", "number", "ns"], rows)
