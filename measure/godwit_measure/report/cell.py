"""One repetition, from its raw files to an object of numbers. Whatever a file did not give is null."""

import numpy as np

from . import resources, service
from .raw import HOSTS, NONE, get, number, objects, text

GUEST_SLACK_NS = 5 * 10**8  # the guest's clock is mapped roughly while it stands still: look a little further
PAUSE_SLACK_NS = 10**8      # between the guest's rows
STAGES = ("pre-migration", "reservation", "pre-copy", "stop-and-copy", "commitment", "activation", "pulling")


def stages_of(move):
    """The stages that lasted: name, from, to, by the client's clock."""
    found = []
    for entry in objects(move.get("stages")):
        name, start, end = text(entry.get("stage")), number(entry.get("from_ns")), number(entry.get("to_ns"))
        if name and start is not None and end is not None and end > start:
            found.append((name, int(start), int(end)))
    return found


def pause_of(move):
    start, end = number(get(move, "pause", "from_ns")), number(get(move, "pause", "to_ns"))
    return (int(start), int(end)) if start is not None and end is not None and end >= start else None


def windows_of(cell):
    """All windows: of the experiment, and of each stage."""
    return {**cell.windows(), **{"stage:" + name: (start, end) for name, start, end in stages_of(cell.move)}}


def guest_gap(cell, windows, pause):
    """The downtime as the guest saw it: the largest gap between two looks at its clock, less their period; and the
    largest of those that the pause falls into, as far as clocks can tell."""
    table = cell.guest_clock()
    if table is None or "move" not in windows:
        return None
    period = next((int(value) for line in table["#"] if line.startswith("period_ns=")
                   and (value := line[10:].strip()).isdigit()), 0)
    good = (table["at_ns"] != NONE) & (table["gap_ns"] != NONE)
    at, gap = table["at_ns"][good], table["gap_ns"][good]
    offset = cell.offset("guest")
    if offset is None or not len(at):
        return None
    at = at + offset[0]
    slack = GUEST_SLACK_NS + offset[1]
    near = (at >= windows["move"][0] - slack) & (at <= windows["move"][1] + slack)
    calm = np.zeros(len(at), bool)
    if "before" in windows:
        calm = (at >= windows["before"][0]) & (at < min(windows["before"][1], windows["move"][0] - slack))
    if not near.any():
        return None
    slack = PAUSE_SLACK_NS + offset[1]
    paused = near & (at >= pause[0] - slack) & (at - gap <= pause[1] + slack) \
        if pause else np.zeros(len(at), bool)
    most = int(gap[near].max())
    return {"ns": max(0, most - period), "at_pause": bool(gap[paused].max() == most) if paused.any() else None,
            "at_pause_ns": max(0, int(gap[paused].max()) - period) if paused.any() else None,
            "before_ns": max(0, int(gap[calm].max()) - period) if calm.any() else None, "period_ns": period}


def guest_speed(cell, windows):
    """The guest's speed while it works, and work done a second of the client's time, in each window; and how much
    slower than before it was during the move."""
    table, offset = cell.guest_work(), cell.offset("guest")
    if table is None or offset is None:
        return None
    good = (table["at_ns"] != NONE) & (table["units"] != NONE) & (table["busy_ns"] > 0)
    at, units, busy = (table[key][good] for key in ("at_ns", "units", "busy_ns"))
    at = at + offset[0]
    found = {}
    for name, bounds in windows.items():
        part = (at > bounds[0]) & (at <= bounds[1])
        if part.any():
            found[name] = {"units_per_busy_s": float(units[part].sum() / busy[part].sum() * 1e9),
                           "units_per_s": float(units[part].sum() / (bounds[1] - bounds[0]) * 1e9)}
    before, during = (get(found, name, "units_per_busy_s") for name in ("before", "move"))
    slower = 1 - during / before if before and during is not None else None
    return {"windows": found, "slowdown": slower}


def client_downtime(probes, windows, pause, error):
    """Of the probe that would see it best: the one whose answers were closest together before. Else nothing. `error` is
    how well the pause is known by the client's clock."""
    best = None
    for name, probe in probes.items():
        gap = service.largest_gap(probe, windows["move"])
        calm = service.largest_gap(probe, windows["before"]) if "before" in windows else None
        if gap is None:
            continue
        usual = service.in_window(probe, windows["before"]) if "before" in windows else None
        spacing = 1e9 / usual["answers_per_s"] if usual and usual.get("answers_per_s") else None
        if probe.kind == "arrival" and usual and usual.get("p50_ns"):
            spacing = usual["p50_ns"]
        paused = service.largest_gap(probe, (pause[0] - error, pause[1] + error)) if pause else None
        entry = {"ns": gap[0], "from_ns": gap[1], "probe": name, "usual_ns": spacing,
                 "at_pause": paused[0] == gap[0] if paused else None, "at_pause_ns": paused[0] if paused else None,
                 "before_ns": calm[0] if calm else None, "open_ns": service.never_again(probe)}
        # A stream is seen in tenths of a second only.
        order = (probe.kind == "stream", spacing if spacing is not None else float("inf"))
        if best is None or order < best[0]:
            best = (order, entry)
    if best is None:
        return None
    entry = best[1]
    if entry["open_ns"] is not None:
        entry["ns"] = None  # it has no end
    return entry


def probe_summary(probe, windows, resumed):
    found = {"kind": probe.kind, "kinds": probe.kinds,
             "windows": {name: service.in_window(probe, bounds) for name, bounds in windows.items()},
             "late": {key: number(get(probe.about, "late", key)) for key in ("p50_ns", "p99_ns", "max_ns")},
             "processor": number(probe.about.get("processor")), "cpu_ns": number(probe.about.get("cpu_ns")),
             "return": None, "delay": None, "failed": {}}
    if "move" not in windows:
        return found
    end = windows["after"][1] if "after" in windows else windows["move"][1]
    if "before" in windows and not probe.unasked:
        found["return"] = service.come_back(probe, windows["before"], resumed, end)
        back = get(found, "return", "ns")
        over = min(end, max(windows["move"][1], resumed + (back or 0)))
        found["delay"] = service.delay(probe, windows["before"], (windows["move"][0], over))
    for name in ("move", "after"):
        for status, count in (get(found, "windows", name, "failed") or {}).items():
            found["failed"][status] = found["failed"].get(status, 0) + count
    return found


def silences(probes, windows):
    """Probes that got no answer any more up to the end, each with where that began: `when` is `before`, `move` or
    `after`, `off_ns` the time to the move's beginning, since it, or since its end; without a move `rest`, since the
    baseline's beginning."""
    if not windows:
        return []
    start, stop = min(low for low, _ in windows.values()), max(high for _, high in windows.values())
    found = []
    for name, probe in probes.items():
        silent = service.silence(probe, start, stop) if len(probe) else None
        if not silent:
            continue
        at, move = silent["from_ns"], windows.get("move")
        when, off = ("rest", at - start) if not move else ("before", move[0] - at) if at < move[0] else \
            ("move", at - move[0]) if at < move[1] else ("after", at - move[1])
        found.append({"probe": name, "when": when, "off_ns": off, **silent})
    return found


def move_facts(move):
    """What the mover said, numbers checked to be numbers."""
    def duration(entry):
        start, end = number(entry.get("from_ns")), number(entry.get("to_ns"))
        return end - start if start is not None and end is not None else None

    rounds = [{**{key: number(entry.get(key)) for key in
                  ("from_ns", "to_ns", "pages", "bytes", "dirty_pages_per_s", "bytes_per_s")},
               "ns": duration(entry), "paused": entry.get("paused") is True} for entry in objects(move.get("rounds"))]
    start, end = number(move.get("from_ns")), number(move.get("to_ns"))
    total = number(move.get("total_ns"))
    return {
        "outcome": text(move.get("outcome")), "failure": text(move.get("failure")),
        "from_ns": start, "to_ns": end,
        "total_ns": total if total is not None else end - start if None not in (start, end) else None,
        "stages": [{"stage": text(entry.get("stage")) or "?", "from_ns": number(entry.get("from_ns")),
                    "to_ns": number(entry.get("to_ns")),
                    "ns": number(entry.get("ns")) if number(entry.get("ns")) is not None else duration(entry)}
                   for entry in objects(move.get("stages"))],
        "pause": pause_of(move),
        "downtime_parts": [{"part": text(part.get("part")) or "?", "ns": value}
                           for part in objects(move.get("downtime_parts"))
                           if (value := number(part.get("ns"))) is not None],
        "rounds": rounds,
        "bytes": {key: value for key, entry in (move.get("bytes") or {}).items()
                  if (value := number(entry)) is not None} if isinstance(move.get("bytes"), dict) else {},
        "cpu_ns": {host: {key: value for key, entry in (get(move, "cpu_ns", host) or {}).items()
                          if (value := number(entry)) is not None}
                   for host in HOSTS if isinstance(get(move, "cpu_ns", host), dict)},
        "faults": {key: number(get(move, "faults", key)) for key in
                   ("count", "wait_p50_ns", "wait_p99_ns", "wait_max_ns")}
        if isinstance(move.get("faults"), dict) else None,
    }


def downtimes(cell, probes, windows):
    """The three of them, and how far apart they are."""
    move = cell.move
    pause = pause_of(move)
    monitor = number(move.get("downtime_ns"))
    if monitor is None and pause:
        monitor = pause[1] - pause[0]
    guest = guest_gap(cell, windows, pause)
    known = cell.offset("source")
    client = client_downtime(probes, windows, pause, known[1] if known else 0) if "move" in windows else None
    values = {"monitor": monitor, "guest": guest["ns"] if guest else None, "client": client["ns"] if client else None}

    def apart(one, other):
        return values[one] - values[other] if None not in (values[one], values[other]) else None

    return {**{name + "_ns": value for name, value in values.items()}, "guest": guest, "client": client,
            "guest_less_monitor_ns": apart("guest", "monitor"), "client_less_monitor_ns": apart("client", "monitor"),
            "client_less_guest_ns": apart("client", "guest")}


def analyse(cell, load, place):
    """The object of one repetition. `load` is its entry in the experiment, or an empty one."""
    windows, probes, move = windows_of(cell), cell.probes(), cell.move
    pause = pause_of(move)
    resumed = pause[1] if pause else windows["move"][1] if "move" in windows else None
    run = {
        "number": cell.number, "folder": cell.label,
        "load": text(cell.cell.get("load")) or "?", "mode": text(cell.cell.get("mode")) or "?",
        "side": text(cell.cell.get("side")) or "?", "repeat": number(cell.cell.get("repeat")),
        "outcome": text(cell.cell.get("outcome")) if cell.finished else "unfinished",
        "error": text(cell.cell.get("error")), "downtime_asked_ns": number(cell.cell.get("downtime_asked_ns")),
        "windows": {name: list(bounds) for name, bounds in windows.items()},
        "clocks": {who: {"offset_ns": pair[0], "error_ns": pair[1]} if (pair := cell.offset(who)) else None
                   for who in (*HOSTS, "guest")},
        "downtime": downtimes(cell, probes, windows),
        "probes": {name: probe_summary(probe, windows, resumed) for name, probe in probes.items()},
        "move": move_facts(move),
        "guest": guest_speed(cell, windows), "silent": silences(probes, windows),
        "quality": {name: service.quality(probes.values(), load.get("quality"), windows.get(name))
                    for name in ("baseline", "before", "move", "after") if name in windows}
        if isinstance(load.get("quality"), dict) else None,
        "resources": None,
    }
    if "move" in windows and "baseline" in windows:
        meters = {host: resources.Meter(cell.meter(host), cell.offset(host)) for host in HOSTS}
        run["resources"] = resources.account({host: meter for host, meter in meters.items() if meter.samples},
                                             windows["move"], windows["baseline"], place == "namespaces")
        for host, meter in meters.items():
            if meter.samples and not get(run, "resources", "hosts", host):
                cell.reader.problem(f"meter-{host}.jsonl", "does not cover the windows; nothing is counted from it")
    run["service_probe"] = service_probe(probes, load)
    run["problems"] = cell.reader.problems
    return run


def service_probe(probes, load):
    """The probe whose latency stands for the service: of those that ask, the one the experiment has first."""
    listed = [text(entry.get("name")) for entry in objects(load.get("probes"))]
    names = [name for name in listed if name in probes] + [name for name in probes if name not in listed]
    asking = [name for name in names if not probes[name].unasked]
    return (asking or names or [None])[0]
