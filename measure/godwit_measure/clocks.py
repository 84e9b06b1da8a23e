# SPDX-License-Identifier: Apache-2.0
"""How other clocks run against ours.

An exchange is: our clock, the question, the other's clock, the answer, our clock. The other clock was read somewhere
between, so the offset is known to half of the time between. Of several exchanges the fastest counts."""
import time
from dataclasses import dataclass

EXCHANGES = 12


@dataclass
class Offset:
    """`ours = theirs + offset_ns`, to `error_ns`."""
    offset_ns: int
    error_ns: int

    def ours(self, theirs_ns: int) -> int:
        return theirs_ns + self.offset_ns

    def json(self):
        return {"offset_ns": self.offset_ns, "error_ns": self.error_ns}


def compare(ask, exchanges=EXCHANGES) -> Offset:
    """`ask()` asks for the other clock, in ns; what it raises passes through."""
    best = None
    for _ in range(exchanges):
        before = time.monotonic_ns()
        theirs = ask()
        after = time.monotonic_ns()
        found = Offset((before + after) // 2 - theirs, (after - before + 1) // 2)
        if best is None or found.error_ns < best.error_ns:
            best = found
    return best


def better(first, second):
    """Of two looks at one clock, the one that knows more; either may be None."""
    known = [look for look in (first, second) if look]
    return min(known, key=lambda look: look.error_ns) if known else None
