"""Numbers as people read them: three digits that matter, and a unit."""

import math

NOTHING = "-"
TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns"))
SIZES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
COUNTS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
NEVER = "never"


def digits(value):
    """Three significant digits, no exponent."""
    size = abs(value)
    places = max(0, 2 - math.floor(math.log10(size))) if size else 0
    # 9.996 has two places, and 10.0 one: as it will be after rounding.
    if places and abs(round(value, places)) >= 10 ** (3 - places):
        places -= 1
    return f"{value:.{min(places, 4)}f}"


def scaled(value, steps):
    size = abs(value)
    factor, name = next(((factor, name) for factor, name in steps if size >= factor * 0.9995), steps[-1])
    whole = factor == 1 and float(value).is_integer()
    return f"{value:.0f} {name}".strip() if whole else f"{digits(value / factor)} {name}".strip()


def duration(ns):
    if ns is None:
        return NOTHING
    if ns == math.inf:
        return NEVER
    if 0 < abs(ns) < 1000:
        return f"{ns:.0f} ns"
    if abs(ns) >= 120e9:
        return f"{ns / 60e9:.1f} min"
    return "0 s" if ns == 0 else scaled(ns, TIMES)


def seconds(ns):
    """CPU time: always in seconds, with two places, since sums of them are compared."""
    return NOTHING if ns is None else f"{round(ns / 1e9, 2) + 0.0:.2f} s"  # + 0.0: there is no -0.00


def size(value):
    return NOTHING if value is None else "0" if value == 0 else scaled(value, SIZES)


def rate(bytes_per_s):
    bits = bytes_per_s * 8
    for factor, name in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= factor:
            return f"{bits / factor:g} {name}"
    return f"{bits:g} bit/s"


def count(value):
    if value is None:
        return NOTHING
    if abs(value) >= 1e4:
        return scaled(value, COUNTS)
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def show(value, unit):
    """A figure of the table of metrics, with its unit."""
    if value is None:
        return NOTHING
    if value == math.inf:
        return NEVER
    if unit == "ns":
        return duration(value)
    if unit == "B":
        return size(value)
    if unit == "B/s":
        return size(value) + "/s" if value else "0"
    if unit == "Bs":
        return size(value) + "s" if value else "0"
    if unit == "share":
        return f"{value * 100:.1f} %"
    if unit == "/s":
        return count(round(value, 1)) + " /s"
    if unit == "tlp":
        return f"{value:.2f}"
    return count(value)


def plural(number, one, many=None):
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(words, last="and"):
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + f" {last} {words[-1]}"
