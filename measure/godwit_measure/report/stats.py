"""Order statistics, repetitions, and the test that tells a difference from noise. Exact; no I/O.

Requests: every one is kept, so percentiles are order statistics of all, without bins (docs/decisions/percentiles.md).
Repetitions: a handful of values; median and quartiles between them, outliers named and never left out.
"""

import math

import numpy as np

PERCENTILES = (("p50", 500), ("p90", 900), ("p99", 990), ("p999", 999))
ALPHA = 0.01        # two-sided: how rarely chance alone may look like a difference
LEAST_EFFECT = 0.05  # and of the smaller median, how large a difference must be to be named


def rank(count, permille):
    """The index of the smallest of `count` sorted values that has `permille` of all at or below it."""
    return max(0, -(-count * permille // 1000) - 1)


def percentiles(values, lost=0):
    """Order statistics of `values` and of `lost` more that are later than all of them: None where one falls
    among those. `max` is of the values alone."""
    values = np.sort(values)
    total = len(values) + lost
    found = {}
    for name, permille in PERCENTILES:
        at = rank(total, permille)
        found[name + "_ns"] = int(values[at]) if at < len(values) else None
    found["max_ns"] = int(values[-1]) if len(values) else None
    return found


def median(values):
    return quantile(sorted(values), 0.5) if values else None


def quantile(ordered, share):
    """Linear between the two neighbours. What never came is infinite, and may be among them."""
    at = (len(ordered) - 1) * share
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    if at == low or ordered[low] == ordered[high]:
        return ordered[low]  # also keeps integers integers
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(values):
    """Median, quartiles, ends, and which are outliers: of five or more, those further than one and a half times
    the distance of the quartiles outside of them (Tukey's rule). They stay in every figure."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"n": 0, "median": None, "q1": None, "q3": None, "min": None, "max": None, "outliers": []}
    q1, q3 = quantile(known, 0.25), quantile(known, 0.75)
    reach = 1.5 * (q3 - q1) if q3 != q1 else 0
    outliers = [index for index, value in enumerate(values)
                if value is not None and len(known) >= 5 and not q1 - reach <= value <= q3 + reach]
    return {"n": len(known), "median": quantile(known, 0.5), "q1": q1, "q3": q3, "min": known[0], "max": known[-1],
            "outliers": outliers}


def ranks(values):
    """Twice the rank of each, ties sharing theirs, so that all are integers."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    found = [0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for index in order[at:end + 1]:
            found[index] = at + end + 2
        at = end + 1
    return found


def rank_test(first, second):
    """Two-sided exact p of the Mann-Whitney test: of all ways to deal the values into two such groups, the share
    whose sum of ranks is at least as far from its mean. Ties share ranks. Counted, not approximated."""
    n, m = len(first), len(second)
    if not n or not m:
        return None
    found = ranks(list(first) + list(second))
    # ways[k][s]: how many subsets of k values have ranks that sum to s (in halves).
    ways = [{} for _ in range(n + 1)]
    ways[0][0] = 1
    for each in found:
        for size in range(n, 0, -1):
            into = ways[size]
            for total, count in ways[size - 1].items():
                into[total + each] = into.get(total + each, 0) + count
    mean = n * (n + m + 1)  # of the doubled ranks
    far = abs(sum(found[:n]) - mean)
    extreme = sum(count for total, count in ways[n].items() if abs(total - mean) >= far)
    return extreme / math.comb(n + m, n)


def least_p(n, m):
    """The smallest p that groups of these sizes can have."""
    return min(1.0, 2 / math.comb(n + m, n)) if n and m else 1.0


def compare(first, second):
    """What changed from `first` to `second`, lists of repetitions: a verdict and its numbers.

    `differs`   the test says so (p <= ALPHA) and the medians are LEAST_EFFECT or more apart
    `same`      it does not, or they are closer than that
    `too few`   no outcome of the test could have said so with so few repetitions
    `no data`   one side has none
    """
    first = [value for value in first if value is not None]
    second = [value for value in second if value is not None]
    a, b = median(first), median(second)
    found = {"n": [len(first), len(second)], "medians": [a, b], "difference": None, "ratio": None, "p": None}
    if a is None or b is None:
        return {**found, "verdict": "no data"}
    if math.inf not in (a, b):
        found["difference"] = b - a
        found["ratio"] = b / a if a else None
    found["p"] = rank_test(first, second)
    smaller = min(abs(a), abs(b))
    far = a != b and (math.inf in (a, b) or abs(b - a) >= LEAST_EFFECT * smaller)
    if least_p(len(first), len(second)) > ALPHA:
        verdict = "too few"
    else:
        verdict = "differs" if found["p"] <= ALPHA and far else "same"
    return {**found, "verdict": verdict}
