# SPDX-License-Identifier: Apache-2.0
"""A bill (docs/bill.md) as move.json: the same names for either side, instants by the client's clock. Unknown is
null."""


def _get(tree, *keys):
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _instants(bill, source):
    """A function from "ns since the move began" to the client's clock, or None."""
    began = bill.get("started_monotonic_ns")
    if source is None or began is None:
        return None
    return lambda at_ns: source.ours(began + at_ns)


def _stages(bill, at):
    found, passed = [], 0
    for entry in bill.get("stages") or []:
        if entry["ns"] > 0:
            found.append({"stage": entry["stage"], "from_ns": at(passed) if at else None,
                          "to_ns": at(passed + entry["ns"]) if at else None, "ns": entry["ns"]})
        passed += entry["ns"]
    return found


def _rounds(bill, at):
    found = []
    for entry in _get(bill, "rounds", "list") or []:
        begin = entry.get("at_ns")
        known = at and begin is not None
        found.append({"from_ns": at(begin) if known else None,
                      "to_ns": at(begin + entry["duration_ns"]) if known else None,
                      "pages": entry["pages_data"] + entry["pages_zero"], "bytes": entry["bytes"],
                      "dirty_pages_per_s": entry["dirty_pages_per_s"], "bytes_per_s": entry["bytes_per_s"],
                      "paused": entry["paused"]})
    return found


def _cpu(bill):
    found = {}
    for side in "source", "target":
        groups = _get(bill, "monitors", side, "cpu_ns")
        found[side] = {name: ns for name, ns in groups.items() if name != "total"} if groups else None
    return found


def normalise(moved, source):
    """`source`: the Offset of the source's clock, or None."""
    bill = moved.says
    at = _instants(bill, source)
    downtime, faults = bill.get("downtime"), bill.get("faults")
    pause = None
    if downtime and at and downtime.get("at_ns") is not None:
        pause = {"from_ns": at(downtime["at_ns"]), "to_ns": at(downtime["at_ns"] + downtime["total_ns"])}
    return {
        "from_ns": moved.from_ns, "to_ns": moved.to_ns,
        "outcome": bill.get("outcome"), "failure": _get(bill, "failure", "text") or moved.error or None,
        "total_ns": bill.get("total_ns"), "downtime_ns": _get(downtime, "total_ns"),
        "stages": _stages(bill, at), "pause": pause,
        "downtime_parts": [{"part": part["part"], "ns": part["ns"]} for part in (downtime or {}).get("parts", [])],
        "rounds": _rounds(bill, at), "bytes": bill.get("bytes"), "cpu_ns": _cpu(bill),
        "faults": {"count": faults["count"], "wait_p50_ns": _get(faults, "wait_ns", "p50"),
                   "wait_p99_ns": _get(faults, "wait_ns", "p99"), "wait_max_ns": _get(faults, "wait_ns", "max")}
        if faults else None,
    }
