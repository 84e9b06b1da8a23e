"""The figures over time: requests, throughput, arrivals, rounds, and small multiples of all cells of a load.

Each figure is a Figure: a picture, what it shows in words, the table behind it, and perhaps what the page's script
needs to draw it anew with zoom.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from . import svg, words
from .raw import get

WIDTH = 920
LEFT, RIGHT = 66, 14


@dataclass
class Figure:
    name: str            # of files, and in the page
    title: str
    caption: str
    inner: str           # the SVG's contents
    width: int
    height: int
    header: list
    rows: list           # or a function that makes them, where they are many
    live: dict = field(default=None)
    load: str = None

    def table(self):
        return self.rows() if callable(self.rows) else self.rows


def label(run_or_group):
    return f"{run_or_group['mode'][:12]}, {run_or_group['side'][:8]}"


def side_colour(side):
    return {"godwit": "c1", "qemu": "c2"}.get(side, "c3")


def slug(*parts):
    """A file's name from texts of the raw data."""
    made = "-".join(parts)
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "_" for char in made)[:80]


def bands(course, scale, top, height, names=True):
    """The stages behind a plot, the pause outlined, and their names above where there is room."""
    found, last = [], -1e9
    for name, low, high in course.stages:
        x, end = scale(low), scale(high)
        title = f"{name}: {words.duration(high - low)}"
        found.append(svg.rect(x, top, max(end - x, 0.8), height, svg.STAGE.get(name, "b1"), title))
    if names:
        for name, low, high in course.stages:
            x, end = scale(low), scale(high)
            if end - x > 5.6 * len(name) and x > last:
                found.append(svg.text((x + end) / 2, top - 4, name, "mid m"))
                last = end
    if course.pause and names:
        x, end = scale(course.pause[0]), scale(course.pause[1])
        found.append(svg.path(f"M{svg.num(x)} {top}v{height}M{svg.num(end)} {top}v{height}", "ax"))
        if x > last + 40 or not last > 0:
            found.append(svg.text((x + end) / 2, top - 4, "pause", "mid m"))
    return "".join(found)


def limits(values, floor=1e4):
    """A range for a logarithmic axis: whole powers of ten would waste the height."""
    if not len(values):
        return floor, floor * 100
    return max(float(np.min(values)) * 0.8, 1.0), float(np.max(values)) * 1.25


def seconds_axis(course):
    return svg.Scale(*course.near, LEFT, WIDTH - RIGHT)


def within(course, at):
    """Which of these times are drawn."""
    return (at >= course.near[0]) & (at <= course.near[1])


def x_axis(scale, y, height):
    """Seconds since the move began. Ticks in seconds, though the scale is in nanoseconds."""
    plain = svg.Scale(scale.low / 1e9, scale.high / 1e9, scale.start, scale.end)
    return svg.axis_x(plain, y, svg.short_seconds, "since the move was asked for", height, 12)


def timeline(load, course):
    """Every request as a point."""
    height, top = 300, 26
    bottom = height - 42
    x = seconds_axis(course)
    y = svg.Scale(*limits(course.latency), bottom, top + 14, log=True)
    inner = bands(course, x, top, bottom - top) + svg.axis_y(y, LEFT, svg.short_time, WIDTH - LEFT - RIGHT)
    inner += x_axis(x, bottom, 0)
    near = within(course, course.due)
    inner += svg.dots([(x(at), y(each)) for at, each in zip(course.due[near].tolist(), course.latency[near].tolist())],
                      side_colour(course.run["side"]) + " fine")
    failed = course.failed[within(course, course.failed)]
    inner += svg.crosses([(x(at), top + 7) for at in failed.tolist()], "c8")
    lost = f" {len(failed)} that failed are crosses at the top." if len(failed) else " None failed."
    return Figure(
        slug("latency", load), "Every request's latency",
        f"Each of {int(near.sum()) + len(failed)} requests around the move ({label(course.run)}, the repetition whose "
        "downtime is the median) is a point at the time it was due, as high as its answer took from then on; "
        f"logarithmic. Bands are the stages of the move.{lost}",
        inner, WIDTH, height, ["due_s", "latency_ms"],
        lambda: [(f"{at / 1e9:.6f}", f"{each / 1e6:.4f}") for at, each in zip(course.due.tolist(),
                                                                             course.latency.tolist())]
        + [(f"{at / 1e9:.6f}", "failed") for at in course.failed.tolist()], {"kind": "latency"}, load)


def throughput(load, course):
    """Answers a second, or bytes where a stream or files are served."""
    streams = [probe for probe in course.probes.values() if probe.kind == "stream"]
    probe = streams[0] if streams else course.service
    if probe is None:
        return None
    at, answers, amount = course.throughput(probe)
    if streams:
        values, show, what = amount, lambda value: svg.short_size(value) + "/s" if value else "0", "bytes a second"
    else:
        values, show, what = answers, lambda value: f"{value:g}", "answers a second"
    if not len(at):
        return None
    height, top = 200, 26
    bottom = height - 42
    x, y = seconds_axis(course), svg.Scale(0, max(float(np.nanmax(values)) * 1.1, 1), bottom, top, binary=bool(streams))
    inner = bands(course, x, top, bottom - top) + svg.axis_y(y, LEFT, show, WIDTH - LEFT - RIGHT)
    inner += x_axis(x, bottom, 0)
    near = within(course, at) & within(course, at + 10**8)
    edges = [x(value) for value in at[near].tolist()]
    edges += [edges[-1] + x(10**8) - x(0)] if edges else []
    inner += svg.steps(edges, values[near].tolist(), y, side_colour(course.run["side"]))
    return Figure(
        slug("throughput", load), f"Throughput: {what}",
        f"Probe {probe.name}, {label(course.run)}, in tenths of a second.",
        inner, WIDTH, height, ["from_s", what.replace(" ", "_")],
        [(f"{when / 1e9:.1f}", f"{value:.1f}") for when, value in zip(at.tolist(), values.tolist())],
        {"kind": "throughput", "unit": "B/s" if streams else "/s", "what": what}, load)


def arrivals(load, course):
    """Time between packets that come unasked."""
    found = course.arrivals()
    if found is None or not len(found[0]):
        return None
    at, gap = found
    height, top = 230, 26
    bottom = height - 42
    x, y = seconds_axis(course), svg.Scale(0, float(gap.max()) * 1.1, bottom, top)
    inner = bands(course, x, top, bottom - top) + svg.axis_y(y, LEFT, svg.short_time, WIDTH - LEFT - RIGHT)
    inner += x_axis(x, bottom, 0)
    near = within(course, at)
    inner += svg.dots([(x(when), y(each)) for when, each in zip(at[near].tolist(), gap[near].tolist())],
                      side_colour(course.run["side"]) + " fine")
    return Figure(
        slug("arrivals", load), "Packets from the server: time since the one before",
        f"Each of {int(near.sum())} packets to all players around the move ({label(course.run)}): when it came, and "
        "how long after the one before it to the same player.",
        inner, WIDTH, height, ["at_s", "since_last_ms"],
        lambda: [(f"{when / 1e9:.6f}", f"{each / 1e6:.4f}") for when, each in zip(at.tolist(), gap.tolist())],
        {"kind": "arrivals"}, load)


def rounds(load, course):
    """What each round sent, and the two rates that decide how many there are."""
    known = course.rounds()
    if not known:
        return None
    height, top, half = 300, 24, 128
    count = len(known)
    step = (WIDTH - LEFT - RIGHT) / count
    bar = min(step * 0.7, 70)
    pages = svg.Scale(0, max(each["pages"] for each in known) * 1.12 or 1, half, top)
    inner = svg.text(LEFT, top - 8, "pages sent", "t") + svg.axis_y(pages, LEFT, words.count, WIDTH - LEFT - RIGHT, 4)
    rates = [each[key] for each in known for key in ("dirty_bytes", "bytes_per_s") if each[key]] or [1]
    rate = svg.Scale(0, max(rates) * 1.12, height - 34, half + 42, binary=True)
    inner += svg.axis_y(rate, LEFT, lambda value: svg.short_size(value) + "/s" if value else "0", WIDTH - LEFT - RIGHT,
                        4)
    named, _ = svg.legend(LEFT, half + 32,
                          (("c1 f", "sent a second: bandwidth"), ("c2 f", "written a second: dirty rate")))
    inner += named
    for index, each in enumerate(known):
        middle = LEFT + step * (index + 0.5)
        length = words.duration(each["ns"])
        still = ", guest paused" if each["paused"] else ""
        inner += svg.rect(middle - bar / 2, pages(each["pages"]), bar, half - pages(each["pages"]),
                          ("c2" if each["paused"] else "c1") + " f o",
                          f"round {index + 1}: {each['pages']} pages in {length}{still}")
        if count <= 24:
            inner += svg.text(middle, pages(each["pages"]) - 4, words.count(each["pages"]), "mid")
            inner += svg.text(middle, height - 18, f"{index + 1}{' (paused)' if each['paused'] else ''}", "mid m")
            inner += svg.text(middle, height - 5, length, "mid m")
    for key, colour in (("bytes_per_s", "c1"), ("dirty_bytes", "c2")):
        line = [(LEFT + step * (index + 0.5), rate(each[key]) if each[key] is not None else math.nan)
                for index, each in enumerate(known)]
        inner += svg.polyline(line, colour) + svg.dots([(a, b) for a, b in line if not math.isnan(b)], colour)
    return Figure(
        slug("rounds", load), "The rounds",
        f"Of the move drawn above ({label(course.run)}): pages each round sent, and how fast, beside how fast the "
        "guest wrote pages meanwhile. Pre-copy can only end well while the lower line stays below the upper.",
        inner, WIDTH, height, ["round", "paused", "ns", "pages", "bytes", "bytes_per_s", "dirty_pages_per_s"],
        [(index + 1, each["paused"], each["ns"], each["pages"], each["bytes"], each["bytes_per_s"],
          each["dirty_pages_per_s"]) for index, each in enumerate(known)], {"kind": "rounds"}, load)


def multiples(load, courses):
    """A small timeline for each cell, all on the same scales."""
    if len(courses) < 2:
        return None
    columns = min(3, len(courses))
    lines = -(-len(courses) // columns)
    gap, left, high = 14, 50, 120
    width = (WIDTH - left - RIGHT - gap * (columns - 1)) / columns
    shown = (min(course.near[0] for course in courses) / 2, max(course.near[1] for course in courses))
    every = [course.latency for course in courses if len(course.latency)]
    low, top_value = limits(np.concatenate(every)) if every else (1e4, 1e6)
    height = lines * (high + 44) + 16
    inner = ""
    for index, course in enumerate(courses):
        x0, y0 = left + (index % columns) * (width + gap), (index // columns) * (high + 44) + 22
        x = svg.Scale(*shown, x0, x0 + width)
        y = svg.Scale(low, top_value, y0 + high, y0 + 12, log=True)
        some = (course.due >= shown[0]) & (course.due <= shown[1])
        inner += svg.text(x0, y0 - 6, label(course.run), "t")
        inner += "".join(bands_within(course, x, y0, high))
        inner += svg.axis_y(y, x0, svg.short_time if index % columns == 0 else lambda _: "", width)
        plain = svg.Scale(shown[0] / 1e9, shown[1] / 1e9, x0, x0 + width)
        inner += svg.axis_x(plain, y0 + high, svg.short_seconds, most=5)
        inner += svg.dots([(x(at), y(each))
                           for at, each in zip(course.due[some].tolist(), course.latency[some].tolist())],
                          side_colour(course.run["side"]) + " fine", 1)
        inner += svg.crosses([(x(at), y0 + 5) for at in course.failed.tolist() if shown[0] <= at <= shown[1]], "c8", 2)
    return Figure(
        slug("cells", load), "Every mode, on the same scales",
        "Latency of each request around the move, of the median repetition of each cell. All panels have the same "
        "axes: time since the move was asked for, and latency, logarithmic. Crosses are requests that failed.",
        inner, WIDTH, height, ["cell", "due_s", "latency_ms"],
        lambda: [(label(course.run), f"{at / 1e9:.6f}", f"{each / 1e6:.4f}") for course in courses
                 for at, each in zip(course.due.tolist(), course.latency.tolist())], None, load)


def bands_within(course, scale, top, height):
    for name, low, high in course.stages:
        low, high = max(low, scale.low), min(high, scale.high)
        if high > low:
            yield svg.rect(scale(low), top, max(scale(high) - scale(low), 0.6), height, svg.STAGE.get(name, "b1"), name)


def wws(load, recorded):
    """How much is written in windows of each length, and what a move would cost for it."""
    unique = [(get(each, "window_ns"), get(each, "pages")) for each in get(recorded, "unique") or []
              if isinstance(each, dict)]
    unique = [(at, pages) for at, pages in unique if isinstance(at, (int, float)) and isinstance(pages, (int, float))
              and at > 0]
    predicted = [each for each in get(recorded, "predictions") or [] if isinstance(each, dict) and all(
        isinstance(each.get(key), (int, float)) and each[key] > 0 for key in ("bytes_per_s", "downtime_ns"))
        and isinstance(each.get("mode"), str)]
    if not unique:
        return None
    modes = list(dict.fromkeys(each["mode"] for each in predicted))[:6]
    curves = [(mode, sorted((each["bytes_per_s"], each["downtime_ns"]) for each in predicted if each["mode"] == mode))
              for mode in modes]
    height, top, bottom = 270, 30, 228
    middle = WIDTH // 2 - 20 if predicted else WIDTH - RIGHT
    x = svg.Scale(0, max(at for at, _ in unique) / 1e9, LEFT, middle)
    y = svg.Scale(0, max(pages for _, pages in unique) * 4096 * 1.1 or 1, bottom, top, binary=True)
    inner = svg.text(LEFT, top - 12, "different pages written in a window", "t")
    inner += svg.axis_y(y, LEFT, lambda value: svg.short_size(value) if value else "0", middle - LEFT)
    inner += svg.axis_x(x, bottom, svg.short_seconds, "length of the window", 0, 6)
    line = [(x(at / 1e9), y(pages * 4096)) for at, pages in sorted(unique)]
    inner += svg.polyline([(x(0), y(0))] + line, "c1") + svg.dots(line, "c1")
    rows = [("unique", at / 1e9, "", pages, "") for at, pages in sorted(unique)]
    if predicted:
        speeds = sorted({each["bytes_per_s"] for each in predicted})
        start = middle + 96
        across = svg.Scale(speeds[0] * 0.8, speeds[-1] * 1.3, start, WIDTH - RIGHT, log=True)
        times = [each["downtime_ns"] for each in predicted]
        up = svg.Scale(min(times) * 0.7, max(times) * 1.5, bottom, top, log=True)
        inner += svg.axis_y(up, start, svg.short_time, WIDTH - RIGHT - start)
        inner += svg.path(f"M{start} {bottom}H{WIDTH - RIGHT}", "ax")
        for speed in speeds:
            inner += svg.text(across(speed), bottom + 16, words.rate(speed), "mid m")
        inner += svg.text((start + WIDTH - RIGHT) / 2, bottom + 31, "bandwidth of the link", "mid m")
        entries = []
        for index, (mode, mine) in enumerate(curves):
            pairs = [(across(speed), up(down)) for speed, down in mine]
            # Modes with the same downtime lie on one another: dashes let the lower one through.
            inner += svg.polyline(pairs, f"c{index + 1}{' dash' if index > 2 else ''}")
            inner += svg.dots(pairs, f"c{index + 1}")
            entries.append((f"c{index + 1} f", mode))
            rows += [("prediction", "", mode, speed, down) for speed, down in mine]
        named, _ = svg.legend(start, top - 12, entries)
        inner += named
    return Figure(
        slug("wws", load), "The writable working set, and what it predicts",
        "Left: how many different pages the guest wrote in windows of each length, the mean over all of them. Right: "
        "the downtime to expect of each mode at several bandwidths, predicted from it (docs/wws.md); both axes "
        "logarithmic.",
        inner, WIDTH, height, ["series", "window_s", "mode", "pages_or_bytes_per_s", "downtime_ns"], rows,
        {"kind": "wws", "unique": [[0, 0]] + [[at / 1e9, pages * 4096] for at, pages in sorted(unique)],
         "curves": curves}, load)
