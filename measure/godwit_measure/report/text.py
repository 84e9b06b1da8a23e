"""The report in the terminal: verdict, tables of at most 80 columns, what limits it. Plain text."""

import textwrap

from . import metrics, words
from .raw import get

WIDTH = 80
TITLE = 35  # of a row in the tables of one figure a line


def clean(text):
    """A text from raw data, fit for a terminal: no control characters."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def cut(text, width):
    text = clean(text)
    return text if len(text) <= width else text[:width - 1] + "~"


def lines_of(header, rows, widths):
    """A table: the columns with negative width are flush left. No line ends in blanks."""
    def line(cells):
        return " ".join(cut(cell, -width).ljust(-width) if width < 0 else cut(cell, width).rjust(width)
                        for cell, width in zip(cells, widths)).rstrip()
    return [line(each) for each in header] + [line(row) for row in rows]


def wrap(text, first="", then=""):
    return textwrap.wrap(clean(text), WIDTH, initial_indent=first, subsequent_indent=then or " " * len(first),
                         break_long_words=True) or [first.rstrip()]


def middle(group, name, show):
    return show(get(group, "metrics", name, "median"))


def cpu_of(group):
    name = "cpu.all" if get(group, "metrics", "cpu.all") else "cpu.monitors"
    return middle(group, name, words.seconds)


def network_of(group):
    return middle(group, "net.bytes" if get(group, "metrics", "net.bytes") else "move.bytes", words.size)


def name_load(load, groups):
    counts = {len(group["counted"]) for group in groups}
    of = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(max(counts))
    return clean(f"{load}: medians of {of}")


def overview(groups):
    rows = []
    for group in groups:
        lost = get(group, "metrics", "failed", "median")
        rows.append((group["mode"], group["side"], middle(group, "downtime.monitor", words.duration),
                     middle(group, "downtime.guest", words.duration), middle(group, "downtime.client", words.duration),
                     middle(group, "latency.move.max", words.duration), words.count(lost),
                     middle(group, "move.total", words.duration), cpu_of(group), network_of(group)))
    return lines_of((("", "", "away as", "seen by", "", "slowest", "req.", "the", "extra", "on the"),
                     ("mode", "side", "monitor", "guest", "client", "request", "lost", "move", "CPU", "network")),
                    rows, (-10, -6, 7, 7, 7, 7, 5, 7, 7, 8))


def latencies(groups):
    rows = [(group["mode"], group["side"], *(middle(group, "latency." + name, words.duration) for name in
             ("before.p50", "before.p99", "move.p50", "move.p99", "move.p999", "after.p99")),
             middle(group, "return", words.duration)) for group in groups]
    return lines_of((("latency", "", "before", "", "in move", "", "", "after", "back"),
                     ("mode", "side", "p50", "p99", "p50", "p99", "p99.9", "p99", "after")),
                    rows, (-10, -6, 8, 8, 8, 8, 8, 8, 8))


def spreads(groups, name="downtime.client"):
    rows = []
    for group in groups:
        found = get(group, "metrics", name)
        if found:
            rows.append((group["mode"], group["side"], str(found["n"]),
                         *(words.duration(found[key]) for key in ("min", "q1", "median", "q3", "max")),
                         str(len(found["outliers"])) if found["n"] >= 5 else words.NOTHING))
    if not rows:
        return []
    return lines_of((("mode", "side", "n", "least", "quarter", "median", "3/4", "most", "outliers"),), rows,
                    (-10, -6, 3, 8, 8, 8, 8, 8, 8))


def blocks(groups, size):
    return [groups[at:at + size] for at in range(0, len(groups), size)]


EXTRA = ("cpu.all", "cpu.monitors", "cpu.mover", "cpu.vcpu", "cpu.loop", "cpu.other", "cpu.irq", "cpu.beyond",
         "cpu.guest",
         "net.bytes", "net.packets", "net.retransmitted", "net.lanes", "disk.read", "disk.written", "memory.peak",
         "memory.monitor", "memory.integral", "switches", "tlp.baseline", "tlp.source", "tlp.target", "guest.slowdown",
         "downtime.client_at_pause", "downtime.guest_at_pause", "quality.before", "quality.move", "quality.move.least",
         "move.rounds", "faults.count", "faults.wait_p99")


def extras(groups):
    """What it cost beyond the baseline: a line for each figure, a column for each cell."""
    found = []
    for some in blocks(groups, 4):
        names = [name for name in EXTRA if any(get(group, "metrics", name) for group in some)]
        if not names:
            continue
        rows = [(metrics.title(name), *(words.seconds(get(group, "metrics", name, "median"))
                                        if name.startswith("cpu.") else
                                        words.show(get(group, "metrics", name, "median"), metrics.unit(name))
                                        for group in some)) for name in names]
        header = (("extra, above the baseline", *(group["mode"] for group in some)),
                  ("", *(group["side"] for group in some)))
        found += lines_of(header, rows, (-TITLE, *(10 for _ in some))) + [""]
    return found[:-1]


def matrix(summary, name, show):
    """One figure of every cell: loads down, modes across; a line for each side."""
    groups = [group for group in summary["cells"] if group["mode"] != "none"]
    modes = list(dict.fromkeys(group["mode"] for group in groups))[:6]
    of = {(group["load"], group["mode"], group["side"]): group for group in groups}
    rows = []
    for load in summary["loads"]:
        for side in dict.fromkeys(group["side"] for group in groups if group["load"] == load):
            rows.append((load, side, *(show(get(of.get((load, mode, side)), "metrics", name, "median"))
                                       for mode in modes)))
    return [f"{metrics.title(name)}, medians"] + lines_of((("load", "side", *modes),), rows,
                                                          (-12, -6, *(9 for _ in modes)))


def _numbers(each, *keys):
    return isinstance(each, dict) and all(isinstance(each.get(key), (int, float)) for key in keys)


def working_sets(summary):
    """What was recorded: written in the shortest and the longest window, and the downtime to expect at each bandwidth."""
    rows, speeds = [], []
    for load in summary["loads"]:
        recorded = summary["wws"].get(load)
        unique = sorted((each["window_ns"], each["pages"]) for each in get(recorded, "unique") or []
                        if _numbers(each, "window_ns", "pages"))
        if not unique:
            continue
        predicted = {each["bytes_per_s"]: each["downtime_ns"] for each in get(recorded, "predictions") or []
                     if _numbers(each, "bytes_per_s", "downtime_ns") and get(each, "mode") == "pre-copy"}
        speeds = speeds or sorted(predicted)[:4]
        rows.append((load, words.size(unique[0][1] * 4096), words.size(unique[-1][1] * 4096),
                     *(words.duration(predicted.get(speed)) for speed in speeds)))
    if not rows:
        return []
    names = [words.rate(speed) for speed in speeds]
    return (wrap("the writable working set: written in the shortest window recorded and in the longest, and the "
                 "downtime of pre-copy to expect at a bandwidth")
            + lines_of((("load", "shortest", "longest", *names),), rows, (-10, 10, 10, *(11 for _ in speeds))))


def paper(summary):
    found = summary.get("paper")
    if not found or not found["figures"]:
        return []
    lines = wrap(found["source"] or "The paper", "as published: ")
    rows = []
    for figure in found["figures"]:
        theirs = f"{figure['value'] if figure['value'] is not None else '-'} {figure['unit']}"
        ours = figure["ours"] or [None]
        for index, each in enumerate(ours):
            rows.append((figure["what"] if not index else "", theirs if not index else "",
                         words.show(each["median"], each["unit"]) if each else words.NOTHING,
                         f"{each['mode']}, {each['side']}" if each else ""))
    lines += lines_of((("", "published", "here", ""),), rows, (-30, 15, 12, -19))
    for line in found["differs"]:
        lines += wrap(line, "  differs: ")
    return lines


def machine(summary):
    known = summary["machine"]
    experiment = summary["experiment"]
    parts = [("place", get(known, "place")), ("", get(known, "processor")),
             ("processors", get(known, "processors")), ("kernel", get(known, "host_kernel") or get(known, "kernel")),
             ("godwit", get(known, "godwit")), ("QEMU", get(known, "qemu")), ("scale", get(experiment, "scale")),
             ("started", get(known, "started"))]
    return wrap("; ".join(f"{name} {value}".strip() for name, value in parts if value not in (None, "")))


def render(summary, full=True):
    """The whole text. `full` leaves out nothing; else only verdict and first tables."""
    lines = []
    if summary["title"]:
        lines += wrap(summary["title"]) + [""]
    for sentence in summary["verdict"]:
        lines += wrap(sentence)
    groups = summary["cells"]
    moved = [group for group in groups if group["mode"] != "none"]
    if moved and len(summary["loads"]) > 1:
        for name in ("downtime.client", "move.total", "latency.move.p99"):
            lines += [""] + matrix(summary, name, words.duration)
    for load in summary["loads"]:
        mine = [group for group in moved if group["load"] == load and group["counted"]]
        if not mine:
            continue
        lines += [""] + wrap(name_load(load, mine)) + overview(mine)
        if full:
            if any(get(group, "metrics", "latency.before.p50") for group in mine):
                lines += [""] + latencies(mine)
            told = spreads(mine)
            lines += ["", "away as clients saw it, over the repetitions"] + told if told else []
            more = extras(mine)
            lines += [""] + more if more else []
    for said in working_sets(summary), paper(summary):
        lines += [""] + said if said else []
    lines += [""] + machine(summary) if summary["machine"] else []
    for note in summary["notes"]:
        lines += wrap(note, "note: ")
    failures = [run for run in summary["runs"] if run["outcome"] not in ("moved", "stayed") or run["error"]]
    for run in failures[:8]:
        reason = run["error"] or run["move"]["failure"] or "no reason given"
        lines += wrap(f"{run['load']}, {run['mode']}, {run['side']}: {run['outcome']}: {reason}",
                      f"cell {run['number']}: ")
    if len(failures) > 8:
        lines.append(f"and {len(failures) - 8} more that did not succeed")
    for problem in summary["problems"][:12]:
        lines += wrap(problem, "missing: ")
    if len(summary["problems"]) > 12:
        lines.append(f"and {len(summary['problems']) - 12} more, all in summary.json")
    return "\n".join(lines) + "\n"
