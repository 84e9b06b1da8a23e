"""The two sentences that come first: how long clients missed the guest, and what the move cost."""

import math

from . import words
from .raw import get
from .summary import MODES

PEER = {"qemu": "QEMU"}


def middle(group, name):
    return get(group, "metrics", name, "median")


def moved(groups):
    return [group for group in groups if group["mode"] != "none" and away(group) is not None]


def away(group):
    """The downtime that stands for a cell, as the best observer there is saw it."""
    for name in ("downtime.client", "downtime.monitor"):
        if middle(group, name) is not None:
            return middle(group, name)
    return None


def mode_of(groups):
    """The mode that is spoken of: auto where it was tried, else the one whose guests were away for the shortest
    time."""
    modes = {}
    for group in groups:
        modes.setdefault(group["mode"], []).append(away(group))
    most = max(len(values) for values in modes.values())
    full = {mode: values for mode, values in modes.items() if len(values) == most}
    if "auto" in full:
        return "auto"
    return min(full, key=lambda mode: (max(full[mode]), MODES.index(mode) if mode in MODES else len(MODES)))


def cpu(group):
    """Extra CPU without the guest's own: with the hosts' kernels where they are known."""
    value = middle(group, "cpu.all")
    return value if value is not None else middle(group, "cpu.monitors")


def cost(group, took=True):
    """(time of the move, CPU, network) in words, those that are known."""
    found = []
    if took and middle(group, "move.total") is not None:
        found.append(words.duration(middle(group, "move.total")))
    if cpu(group) is not None:
        spent = round(cpu(group) / 1e9, 2)
        found.append(f"{spent:.2f} extra CPU seconds" if spent > 0 else "no more CPU than without it")
    network = middle(group, "net.bytes")
    network = middle(group, "move.bytes") if network is None else network
    if network is not None:
        found.append(f"{words.size(network)} on the network")
    return found


def range_of(pairs, show):
    """`12 ms (idle) to 90 ms (muncher)` of (value, name) pairs."""
    pairs = sorted(pair for pair in pairs if pair[0] is not None)
    if not pairs:
        return None
    low, high = pairs[0], pairs[-1]
    if len(pairs) == 1 or show(low[0]) == show(high[0]):
        return show(low[0])
    return f"{show(low[0])} ({low[1]}) to {show(high[0])} ({high[1]})"


def troubles(summary, group_list):
    """What went wrong in these cells: lost requests, and moves that did not happen."""
    said = []
    lost = [sum(value for value in get(group, "metrics", "failed", "values") or [] if value) for group in group_list]
    if any(get(group, "metrics", "failed") for group in group_list):
        said.append(f"{words.plural(sum(lost), 'request')} failed" if sum(lost) else "no request failed")
    runs = sum(len(group["runs"]) for group in group_list)
    bad = runs - sum(len(group["counted"]) for group in group_list)
    if bad:
        said.append(f"{bad} of {words.plural(runs, 'move')} did not succeed")
    return said


def joined(first, said):
    return ", ".join([first, *said[:-1]]) + (f", and {said[-1]}." if said else ".")


def observer(group):
    return "as its clients saw it" if middle(group, "downtime.client") is not None else "as the monitor saw it"


def nothing(summary):
    runs = summary["runs"]
    outcomes = {}
    for run in runs:
        outcomes[run["outcome"] or "?"] = outcomes.get(run["outcome"] or "?", 0) + 1
    if not runs:
        return ["There is nothing to report: no repetition left any data.", "See below what is missing."]
    if all(run["mode"] == "none" for run in runs):
        return ["The guest was not moved: these are its figures at rest.",
                f"{words.plural(len(runs), 'repetition')} came to their end."]
    told = words.listed(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    reason = next((run["error"] or run["move"]["failure"] for run in runs if run["error"] or run["move"]["failure"]),
                  None)
    first = f"No move succeeded: of {words.plural(len(runs), 'repetition')}, {told}."
    return [first, f"The first reason given was: {reason.rstrip('.')}." if reason else "No reason was given."]


def samples(group):
    return get(group, "metrics", "downtime.client", "n") or get(group, "metrics", "downtime.monitor", "n")


def one_load(summary, groups):
    ours = [group for group in groups if group["side"] == "godwit"] or groups
    mode = mode_of(ours)
    chosen = next(group for group in ours if group["mode"] == mode)
    others = [f"{group['mode']}: {words.duration(away(group))}" for group in ours if group is not chosen]
    count = samples(chosen)
    times = f"median of {count}" if count > 1 else "one move"
    first = (f"With {mode} the guest was away for {words.duration(away(chosen))} {observer(chosen)} "
             f"({'; '.join([times, ', '.join(others)] if others else [times])})")
    if away(chosen) == math.inf:
        first = f"With {mode} the guest's clients got no answer any more ({times})"
    said = troubles(summary, [chosen])
    costs = cost(chosen, took=False)
    total = middle(chosen, "move.total")
    second = f"It took {words.duration(total)}" if total is not None else "It was made"
    if costs:
        second += (", and cost " if total is not None else " at the cost of ") + words.listed(costs)
    peers = [group for group in groups if group["side"] != chosen["side"]]
    if peers:
        peer = next((group for group in peers if group["mode"] == mode), None) or min(peers, key=away)
        name = PEER.get(peer["side"], peer["side"])
        named = name if peer["mode"] == mode else f"{name}'s {peer['mode']}"
        spent = cost(peer)
        second += f"; {named} needed {words.listed(spent)}, and was away for {words.duration(away(peer))}" if spent \
            else f"; {named} was away for {words.duration(away(peer))}"
    return [joined(first, said), second + "."]


def many_loads(summary, groups):
    ours = [group for group in groups if group["side"] == "godwit"] or groups
    mode = mode_of(ours)
    chosen = [group for group in ours if group["mode"] == mode]
    clients = all(middle(group, "downtime.client") is not None for group in chosen)
    counts = sorted({samples(group) for group in chosen})
    of = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    spans = range_of([(away(group), group["load"]) for group in chosen], words.duration)
    times = "one move" if of == "1" else f"medians of {of}"
    first = (f"With {mode} the guests were away for {spans} "
             f"{'as their clients saw it' if clients else 'as their monitors saw it'} ({times} for each of "
             f"{words.plural(len(chosen), 'load')})")
    said = troubles(summary, chosen)
    parts = []
    took = range_of([(middle(group, "move.total"), group["load"]) for group in chosen], words.duration)
    spent = range_of([(cpu(group), group["load"]) for group in chosen], words.seconds)
    sent = range_of([(middle(group, "net.bytes") if middle(group, "net.bytes") is not None
                      else middle(group, "move.bytes"), group["load"]) for group in chosen], words.size)
    if took:
        parts.append(f"took {took}")
    if spent:
        parts.append(f"{spent} of extra CPU")
    if sent:
        parts.append(f"{sent} on the network")
    second = f"A move {words.listed(parts)}" if parts else "What it cost is not known"
    peers = [group for group in groups if group["side"] != "godwit" and group["side"] != chosen[0]["side"]]
    if peers:
        best = mode if any(group["mode"] == mode for group in peers) else mode_of(peers)
        theirs = [group for group in peers if group["mode"] == best]
        name = PEER.get(theirs[0]["side"], theirs[0]["side"])
        second += f"; {name}'s {best} was away for " + range_of([(away(group), group["load"]) for group in theirs],
                                                               words.duration)
    return [joined(first, said), second + "."]


SINCE = {"before": "from {} before the move on", "move": "from {} into the move on",
         "after": "from {} after the end of the move on", "rest": "from {} after the baseline began on"}


def silent(summary):
    """A sentence about loads that stopped answering while the guest was there: a list of it, or of nothing."""
    runs = [run for run in summary["runs"] if run["silent"] and run["outcome"] in ("moved", "stayed")]
    if not runs:
        return []
    first = runs[0]
    told = [f"{each['probe']} " + (f"got no answer {SINCE[each['when']].format(words.duration(each['off_ns']))}"
                                   if each["ever"] else "never got one") for each in first["silent"]]
    cell = f"cell {first['number']} ({first['load']}, {first['mode']}, {first['side']})"
    every = words.plural(len(summary["runs"]), "repetition")
    where = f"in {cell}" if len(runs) == 1 else f"in {len(runs)} of {every}, first in {cell}"
    return [f"The load did not answer any more {where}: probe {words.listed(told)}."]


def sentences(summary):
    """Two sentences; a third where a load died."""
    groups = moved(summary["cells"])
    if not groups:
        return nothing(summary) + silent(summary)
    loads = {group["load"] for group in groups}
    return (many_loads if len(loads) > 1 else one_load)(summary, groups) + silent(summary)
