"""What clients saw: latency, throughput, arrivals, quality, downtime and the return to the level before.

All by the client's clock. A request belongs to the window in which it was due, answered or not, so that a stall is
not hidden by what was not sent during it; an arrival or a piece of a stream to the one in which it came.
"""

import numpy as np

from . import stats
from .raw import NONE, STATUSES, number

LEVEL = 0.10                    # how near to the level before counts as back
ROLL_NS, STEP_NS = 10**9, 10**8  # the rolling window and its step
STAY_NS = 3 * 10**9             # for how long it has to stay there
BIN_NS = 10**8                  # throughput over time
SILENT_REQUESTS = 3             # so many without an answer, up to the end, and the load is silent
SILENT_NS, SILENT_TIMES = 10**9, 20  # of what comes unasked: so long, and so often the usual time
SLOT_NS = 10**9                 # quality: what a connection has to keep in each


def latency(probe, bounds):
    """Requests due in a window: how many, how they ended, order statistics. None if there are none."""
    low, high = np.searchsorted(probe.due, bounds)
    part = slice(low, high)
    status = probe.status[part]
    counts = np.bincount(status, minlength=len(STATUSES))
    ok = probe.ok[part]
    unsent = int(counts[STATUSES.index("unsent")])
    total = int(high - low) - unsent
    if total <= 0:
        return None
    values = (probe.done - probe.due)[part][ok]
    failed = {name: int(count) for name, count in zip(STATUSES, counts) if count and name not in ("ok", "unsent")}
    lost = total - int(ok.sum())
    seconds = (bounds[1] - bounds[0]) / 1e9
    return {
        "requests": total, "failed": failed, "failed_total": lost, "unsent": unsent,
        **stats.percentiles(values, lost),
        "mean_ns": float(values.mean()) if len(values) else None,
        "answers_per_s": len(values) / seconds,
        "bytes_per_s": int(probe.bytes[part][ok].sum()) / seconds,
    }


def arrivals(probe, bounds):
    """Packets that came in a window: time between two of the same connection, and how many never came."""
    gaps, lost, count = [], 0, 0
    for connection in np.unique(probe.connection):
        mine = (probe.connection == connection) & probe.ok & (probe.done >= bounds[0]) & (probe.done < bounds[1])
        done, seq = probe.done[mine], probe.seq[mine]
        count += len(done)
        gaps.append(np.diff(done))
        seq = seq[seq != NONE]
        if len(seq):
            lost += max(0, int(seq.max() - seq.min()) + 1 - len(np.unique(seq)))
    gaps = np.concatenate(gaps) if gaps else np.empty(0, np.int64)
    if not count:
        return None
    seconds = (bounds[1] - bounds[0]) / 1e9
    part = probe.ok & (probe.done >= bounds[0]) & (probe.done < bounds[1])
    return {"packets": count, "lost": lost, **stats.percentiles(gaps),
            "mean_ns": float(gaps.mean()) if len(gaps) else None,
            "answers_per_s": count / seconds, "bytes_per_s": int(probe.bytes[part].sum()) / seconds}


def stream(probe, bounds):
    """What came in a window, a piece that reaches over its edge in proportion."""
    received = float(spread_bytes(probe, np.array(bounds))[0])
    seconds = (bounds[1] - bounds[0]) / 1e9
    return {"bytes_per_s": received / seconds} if len(probe) else None


def in_window(probe, bounds):
    if probe.kind == "stream":
        return stream(probe, bounds)
    return arrivals(probe, bounds) if probe.kind == "arrival" else latency(probe, bounds)


def largest_gap(probe, bounds):
    """The largest time between two answers, of those that touch a window: (gap_ns, from_ns). Of arrivals: two
    packets to the same player, so that one who is forgotten is not made up for by another."""
    if probe.kind == "stream":
        some = probe.bytes > 0
        groups = [np.sort(probe.done[some])]
    elif probe.kind == "arrival":
        groups = [np.sort(probe.done[(probe.connection == each) & probe.ok]) for each in np.unique(probe.connection)]
    else:
        groups = [np.sort(probe.done[probe.ok])]
    best = None
    for done in groups:
        gaps = np.diff(done)
        # At least a nanosecond is touched, also by a pause of none.
        touching = (done[1:] > bounds[0]) & (done[:-1] < max(bounds[1], bounds[0] + 1))
        if touching.any():
            at = int(np.argmax(np.where(touching, gaps, -1)))
            if best is None or gaps[at] > best[0]:
                best = (int(gaps[at]), int(done[at]))
    return best


def never_again(probe):
    """If answers stopped for good: for how long the probe went on asking without one. Else None."""
    asked = (probe.status != STATUSES.index("unsent")) & (probe.due != NONE)
    if probe.unasked or not probe.ok.any():
        return None
    last = int(probe.done[probe.ok].max())
    after = asked & (probe.due > last) & ~probe.ok
    return int(probe.due[after].max()) - last if after.any() else None


def silence(probe, start, stop):
    """If the load stopped answering within [start, stop) and never did again: since when, and how many requests it owes
    (of what comes unasked: None). One that never answered has not since `start`. Else None."""
    if probe.unasked:
        came = np.sort(probe.done[(probe.bytes > 0) & (probe.done != NONE) & (probe.done < stop)])
        if not len(came):
            return {"from_ns": start, "asked": None, "ever": False}
        usual = float(np.median(np.diff(came))) if len(came) > 1 else 0
        quiet = stop - int(came[-1])
        if quiet < max(SILENT_NS, SILENT_TIMES * usual):
            return None
        return {"from_ns": int(came[-1]), "asked": None, "ever": True}
    asked = (probe.status != STATUSES.index("unsent")) & (probe.due != NONE) & (probe.due >= start) & (probe.due < stop)
    last = int(probe.due[asked & probe.ok].max()) if (asked & probe.ok).any() else None
    owed = probe.due[asked & ~probe.ok & (probe.due > (start - 1 if last is None else last))]
    if len(owed) < SILENT_REQUESTS:
        return None
    return {"from_ns": int(owed.min()), "asked": len(owed), "ever": last is not None}


def rolling(probe, start, stop):
    """Windows of ROLL_NS every STEP_NS whose whole length is in [start, stop]: their ends, the median latency of the
    requests due in each (infinite where half were not answered), and the answers a second."""
    ends = np.arange(start + ROLL_NS, stop + 1, STEP_NS, dtype=np.int64)
    sent = probe.status != STATUSES.index("unsent")
    due = probe.due[sent]
    delay = np.where(probe.ok, probe.done - probe.due, np.inf)[sent]
    done = np.sort(probe.done[probe.ok])
    middles = np.full(len(ends), np.nan)
    for index, end in enumerate(ends):
        low, high = np.searchsorted(due, (end - ROLL_NS, end))
        if high > low:
            middles[index] = np.partition(delay[low:high], stats.rank(high - low, 500))[stats.rank(high - low, 500)]
    rate = (np.searchsorted(done, ends) - np.searchsorted(done, ends - ROLL_NS)) * (1e9 / ROLL_NS)
    return ends, middles, rate


def come_back(probe, before, resumed, stop):
    """How long after `resumed` service was back at the level before: the beginning of the first rolling window from
    which on, for STAY_NS, the median latency of each is at most a tenth above, and its answers a second at most a
    tenth below, those of the window before. `stop` is the end of what was watched.

    `ns` is None if that did not happen while watched. `steady` tells whether the window before keeps that rule
    itself; where it does not, the load is noisier than a tenth and `ns` says little."""
    reference = latency(probe, before)
    if probe.unasked or reference is None or reference["p50_ns"] is None:
        return None
    middle, rate = reference["p50_ns"] * (1 + LEVEL), reference["answers_per_s"] * (1 - LEVEL)

    def inside(start, end):
        ends, middles, rates = rolling(probe, start, end)
        return ends, (middles <= middle) & (rates >= rate)

    _, steady = inside(*before)
    ends, good = inside(resumed, stop)
    needed = (STAY_NS - ROLL_NS) // STEP_NS + 1
    found = None
    run = 0
    for index, each in enumerate(good):
        run = run + 1 if each else 0
        if run == needed:
            found = int(ends[index - needed + 1] - ROLL_NS - resumed)
            break
    return {"ns": found, "watched_ns": int(stop - resumed), "steady": bool(len(steady) and steady.mean() >= 0.9)}


def delay(probe, before, affected):
    """What the move added to the latencies of requests due from its beginning until all was over."""
    level, during = latency(probe, before), latency(probe, affected)
    if probe.unasked or level is None or during is None or level["p50_ns"] is None:
        return None
    low, high = np.searchsorted(probe.due, affected)
    ok = probe.ok[low:high]
    values = (probe.done - probe.due)[low:high][ok]
    if not len(values):
        return None
    over = np.maximum(values - level["p50_ns"], 0)
    return {
        "max_ns": int(values.max()) - level["p50_ns"],
        "mean_ns": float(values.mean()) - level["mean_ns"],
        "sum_ns": int(over.sum()),
        "slower": int((values > level["max_ns"]).sum()) + during["failed_total"],
        "requests": during["requests"],
    }


def spread_bytes(probe, edges):
    """Bytes of a stream between each two of `edges`, each piece spread evenly over the time it came in."""
    start, end = probe.sent, np.maximum(probe.done, probe.sent + 1)
    usable = (probe.sent != NONE) & (probe.done != NONE)
    start, end, amount = start[usable], end[usable], probe.bytes[usable].astype(float)
    found = np.zeros(len(edges) - 1)
    for index in range(len(edges) - 1):
        low, high = edges[index], edges[index + 1]
        part = (end > low) & (start < high)
        covered = np.minimum(end[part], high) - np.maximum(start[part], low)
        found[index] = (amount[part] * covered / (end - start)[part]).sum()
    return found


def over_time(probe, bounds):
    """Answers and bytes a second in bins of BIN_NS: the bins' beginnings and both."""
    edges = np.arange(bounds[0], bounds[1] + 1, BIN_NS, dtype=np.int64)
    if len(edges) < 2:
        return edges[:0], np.empty(0), np.empty(0)
    if probe.kind == "stream":
        amount = spread_bytes(probe, edges)
        count = np.full(len(amount), np.nan)
    else:
        done = probe.done[probe.ok]
        count, _ = np.histogram(done, bins=edges)
        amount, _ = np.histogram(done, bins=edges, weights=probe.bytes[probe.ok].astype(float))
    return edges[:-1], count * (1e9 / BIN_NS), amount * (1e9 / BIN_NS)


def quality(probes, bound, bounds):
    """The share of connections that keep the bound in each SLOT_NS of a window: mean and least. A connection that
    was asked for nothing in a slot is not judged in it.

    `bound` has, by kind of request or under `connection` for all of a connection together, `latency_ns` (each
    answer at most so late; none missing) or `bytes_per_s` (while it is served: bytes by the time spent on them)."""
    if not isinstance(bound, dict) or bounds is None:
        return None
    slots = max(1, (bounds[1] - bounds[0]) // SLOT_NS)
    judged, kept = np.zeros(slots, int), np.zeros(slots, int)
    for probe in probes:
        if probe.unasked:
            continue
        low, high = np.searchsorted(probe.due, (bounds[0], bounds[0] + slots * SLOT_NS))
        part = slice(low, high)
        slot = (probe.due[part] - bounds[0]) // SLOT_NS
        sent = probe.status[part] != STATUSES.index("unsent")
        took = probe.done[part] - probe.due[part]
        served = probe.done[part] - probe.sent[part]
        ok, amount, kinds = probe.ok[part], probe.bytes[part], probe.kind_of[part]
        connection = np.where(probe.connection[part] == NONE, -1, probe.connection[part])
        for rule, limits in sorted(bound.items()):
            if not isinstance(limits, dict) or (rule != "connection" and rule not in probe.kinds):
                continue
            mine = sent if rule == "connection" else sent & (kinds == probe.kinds.index(rule))
            least, most = number(limits.get("bytes_per_s")), number(limits.get("latency_ns"))
            for key in np.unique(connection[mine] * slots + slot[mine]) if mine.any() else ():
                at = int(key % slots)
                these = mine & (slot == at) & (connection == key // slots)
                good = bool(ok[these].all())
                if good and most is not None:
                    good = bool((took[these] <= most).all())
                if good and least is not None:
                    spent = int(served[these].sum())
                    good = spent > 0 and amount[these].sum() * 1e9 / spent >= least
                judged[at] += 1
                kept[at] += good
    some = judged > 0
    if not some.any():
        return None
    share = kept[some] / judged[some]
    return {"mean": float(kept.sum() / judged.sum()), "least": float(share.min()), "judged": int(judged.sum())}
