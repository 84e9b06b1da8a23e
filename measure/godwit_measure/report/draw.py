"""Everything that is drawn: which figures there are, index.html, and PNG and CSV of each on request."""

import csv as csv_module
import os
import shutil
import subprocess
import sys

from . import bars, figures, page, points, svg, verdict
from .figures import label
from .files import write_text

BUDGET = 400_000  # requests the page carries in all; beyond it only the median repetition of each cell
PNG_SCALE = 2


class LoadFigures:
    """What is drawn of one load: its cells, the one that the first figures show, and all its figures."""

    def __init__(self, load, groups, chosen, courses, made):
        self.load, self.groups, self.chosen, self.courses, self.figures = load, groups, chosen, courses, made


def chosen_of(groups):
    """The cell whose repetition is drawn large: the one the verdict speaks of."""
    able = verdict.moved([group for group in groups if group["side"] == "godwit"]) or verdict.moved(groups)
    if not able:
        return next((group for group in groups if group["representative"] is not None), None)
    mode = verdict.mode_of(able)
    return next(group for group in able if group["mode"] == mode)


def collect(summary, raw):
    """All figures: a list of LoadFigures, and the matrix or None."""
    runs = {run["number"]: run for run in summary["runs"]}
    folders = {os.path.basename(folder): folder for folder in raw.cells()}
    found = []
    for load in summary["loads"]:
        groups = [group for group in summary["cells"] if group["load"] == load and group["mode"] != "none"]
        chosen = chosen_of(groups)
        courses = {}
        for group in groups:
            run = runs.get(group["representative"])
            if run and "move" in run["windows"]:
                courses[group["mode"], group["side"]] = points.Course(folders[os.path.basename(run["folder"])], run)
        made = []
        course = courses.get((chosen["mode"], chosen["side"])) if chosen else None
        if course is not None:
            if len(course.due) or len(course.failed):
                made.append(figures.timeline(load, course))
            made += [figures.throughput(load, course), figures.arrivals(load, course), figures.rounds(load, course)]
        able = [group for group in groups if group["metrics"]]
        if able:
            made += [bars.observers(load, able), bars.parts(load, able, runs), bars.cpu(load, able),
                     bars.strips(load, able)]
        with_points = [each for each in courses.values() if len(each.due)]
        made.insert(3, figures.multiples(load, with_points))
        if load in summary["wws"]:
            made.append(figures.wws(load, summary["wws"][load]))
        found.append(LoadFigures(load, groups, chosen, courses, [figure for figure in made if figure]))
    return found, bars.matrix(summary)


def live_cells(parts, runs, folders):
    """What the page's script draws, by load: every cell's median repetition, the chosen one first, and of that cell
    the other repetitions, as far as the budget goes."""
    spent, found = 0, []
    for part in parts:
        order = sorted(part.courses.items(), key=lambda item: part.chosen is None or
                       item[0] != (part.chosen["mode"], part.chosen["side"]))
        cells = []
        for _, course in order:
            cells.append(live_cell(course, f"{label(course.run)}, cell {course.run['number']} (the median repetition)"))
            spent += points_of(cells[-1])
        found.append((part, cells))
    for part, cells in found:
        for number in part.chosen["counted"] if part.chosen else ():
            run = runs[number]
            if number == part.chosen["representative"] or "move" not in run["windows"]:
                continue
            course = points.Course(folders[os.path.basename(run["folder"])], run)
            cell = live_cell(course, f"{label(run)}, cell {number}")
            spent += points_of(cell)
            if spent > BUDGET:
                break
            cells.append(cell)
    return [{"load": part.load, "cells": cells, "wws": live_wws(part)} for part, cells in found]


def points_of(cell):
    return sum(packed["n"] for packed in (cell["packed"], cell["arrivals"]) if packed)


def live_wws(part):
    """What the script needs of the recording: it belongs to the load and not to a cell."""
    figure = next((each for each in part.figures if (each.live or {}).get("kind") == "wws"), None)
    return figure and {key: figure.live[key] for key in ("unique", "curves")}


def live_cell(course, name):
    streams = [probe for probe in course.probes.values() if probe.kind == "stream"]
    probe = streams[0] if streams else course.service
    through = None
    if probe is not None:
        at, answers, amount = course.throughput(probe)
        values = amount if streams else answers
        if len(at):
            through = {"at": [round(each / 1e9, 1) for each in at.tolist()],
                       "values": [round(each, 1) if each == each else None for each in values.tolist()],
                       "unit": "B/s" if streams else "/s", "what": "bytes a second" if streams else "answers a second"}
    return {"label": name, "side": course.run["side"], "near": [at / 1e9 for at in course.near],
            "stages": [[stage, low / 1e9, high / 1e9, svg.STAGE.get(stage, "b1")]
                       for stage, low, high in course.stages],
            "pause": [at / 1e9 for at in course.pause] if course.pause else None,
            "packed": course.packed() if len(course.due) or len(course.failed) else None, "throughput": through,
            "arrivals": course.packed_arrivals(),
            "rounds": [[each[key] for key in ("pages", "paused", "ns", "bytes_per_s", "dirty_bytes")]
                       for each in course.rounds()]}


def write_png(figure, path):
    """Through rsvg-convert. Raises OSError with the reason."""
    program = shutil.which("rsvg-convert")
    if not program:
        raise OSError("PNG needs rsvg-convert (Debian: librsvg2-bin)")
    done = subprocess.run([program, "--zoom", str(PNG_SCALE), "--output", path], capture_output=True, check=False,
                          input=svg.standalone(figure.inner, figure.width, figure.height, figure.title).encode(
                              errors="replace"))
    if done.returncode:
        raise OSError(f"{path}: rsvg-convert: {done.stderr.decode(errors='replace').strip()[:200]}")


def write(report_dir, summary, raw, png=False, csv=False, page_too=True):
    """index.html, and in figures/ what was asked for."""
    parts, matrix = collect(summary, raw)
    every = ([matrix] if matrix else []) + [figure for part in parts for figure in part.figures]
    if page_too:
        runs = {run["number"]: run for run in summary["runs"]}
        folders = {os.path.basename(folder): folder for folder in raw.cells()}
        html, missing = page.render(summary, parts, matrix, live_cells(parts, runs, folders))
        write_text(os.path.join(report_dir, "index.html"), html)
        if missing:
            print(f"godwit report: figures have no zoom: {missing}", file=sys.stderr)
    if png or csv:
        folder = os.path.join(report_dir, "figures")
        os.makedirs(folder, exist_ok=True)
    used = set()
    for figure in every if png or csv else ():
        name = figure.name
        while name in used:  # two loads may differ only in what no file's name can have
            name += "_"
        used.add(name)
        base = os.path.join(folder, name)
        if csv:
            with open(base + ".csv", "w", encoding="utf-8", errors="replace", newline="") as file:
                out = csv_module.writer(file, lineterminator="\n")
                out.writerow(figure.header)
                out.writerows(figure.table())
        if png:
            write_png(figure, base + ".png")
