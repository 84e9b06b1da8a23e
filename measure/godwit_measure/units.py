# SPDX-License-Identifier: Apache-2.0
"""Times, sizes and rates as people write them, as on godwit's command line (src/cmd/parse.h)."""
import re

from .errors import Wrong

TIMES = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def _number(text, pattern, what):
    match = re.fullmatch(pattern, text, re.ASCII) if isinstance(text, str) else None
    if not match:
        raise Wrong(f"{text!r}: want {what}")
    return float(match[1]), match[2]


def duration(text) -> int:
    """Nanoseconds."""
    if text in ("0", 0):
        return 0
    number, unit = _number(text, r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", "a time, like \"300ms\" or \"10s\"")
    return round(number * TIMES[unit])


def size(text) -> int:
    """Bytes."""
    number, unit = _number(text, r"(\d+(?:\.\d+)?)([KMGT]?)(?:iB)?", "a size, like \"192M\"")
    return round(number * SIZES[unit])


def rate(text) -> int:
    """Bytes a second."""
    number, unit = _number(text, r"(\d+(?:\.\d+)?)((?:[kMGT]?(?:bit|B)|[KMG]iB)/s)",
                           "a rate, like \"100Mbit/s\" or \"4MB/s\"")
    unit = unit[:-2]
    if unit.endswith("bit"):
        return round(number * DECIMAL[unit[:-3]] / 8)
    return round(number * {**DECIMAL, **BINARY}[unit[:-1]])


def show_time(seconds: float) -> str:
    """For a person: "40 s", "3 min", "2 h 10 min"."""
    seconds = max(0, round(seconds))
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
