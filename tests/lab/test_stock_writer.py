#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stock guest writes faster than a narrow link carries, or too fast for the downtime that is asked for.

How fast an emulated guest writes depends on the machine, and on what the monitor leaves of the one processor that both
share. So it is measured, and the writer is given as much else to do as it takes to outrun the link when it is left
alone, some times, and not a hundred times. The goal lies between what the writer leaves of each round, all of its pages, and
what it leaves at a tenth of its speed and the rest of the guest does, some 200 to 600.
"""
import sys
import time

from stock import VM, check_faults, expect, main, told
from stock_load import Writer

LINK = 16e6                             # bits a second
OUTRUN = 6                              # so many times that the guest writes, when it is left alone
HOT_MIB = 4
GOAL = "--max-downtime", "1500ms"       # some 700 pages, of the 1024 that the writer writes again and again


def test_boot(stock):
    stock.run()


class Outrun:
    """A link narrower than what the guest writes, while the block lasts."""

    def __init__(self, stock):
        self.stock, self.source = stock, stock.here.host.name

    def __enter__(self):
        self.stock.lab.shape(self.source, rate=f"{LINK:.0f}bit")
        return self

    def __exit__(self, *_):
        self.stock.lab.shape(self.source)


def bits_per_s(writer):
    """How fast it writes its pages, now."""
    first, began = writer.await_pass(), time.monotonic()
    while writer.await_pass() < first + 3:
        pass
    return (writer.passes - first) * HOT_MIB * 2**23 / (time.monotonic() - began)


def test_writer(stock):
    """Finds how much it has to look at for each page that it writes."""
    looks = 32
    writer = Writer(stock, HOT_MIB, dense_mib=4, looks=looks)
    rate = bits_per_s(writer)
    writer.end()
    looks = max(1, round(looks * rate / (OUTRUN * LINK)))
    stock.writer = Writer(stock, HOT_MIB, dense_mib=4, looks=looks)
    print(f"  it writes {bits_per_s(stock.writer) / 1e6:.1f} Mbit/s, the link carries {LINK / 1e6:.1f}", flush=True)


def whys(bill):
    decisions = bill["policy"]["decisions"]
    print("  decided: " + " ".join(f"{d['why']}:{d['pages_left']}" for d in decisions), flush=True)
    return [d["why"] for d in decisions], decisions[-1]


def test_strict(stock):
    """Not allowed to slow anybody, and told not to miss the goal: it gives up with the numbers, and the guest stays."""
    with Outrun(stock):
        move = stock.begin(*GOAL, "--throttle", "never", "--strict")
        bill = stock.expect_failed(move, "cannot be met")
    _, last = whys(bill)
    expect(last["what"] == "abort" and bill["brownout"] is None, f"the last decision: {last}")
    for word in "Mbit/s", "downtime would be", "1500 ms asked":
        expect(word in bill["failure"]["text"], f"no '{word}' in: {bill['failure']['text']}")
    stock.expect_nothing(stock.other, "the target")
    stock.writer.await_pass()


def test_slowed(stock):
    """The goal is met by slowing the writer, who goes on at the target as fast as before."""
    with Outrun(stock):
        bill = told(stock.migrate(*GOAL))
    why, last = whys(bill)
    expect("slowed" in why and bill["brownout"]["held_ns"] > 0, f"nobody was slowed: {why}")
    expect(last["what"] == "stop" and (last["downtime_ns"] <= last["max_downtime_ns"] or last["why"] == "small"),
           f"the goal was not met: {last}")
    stock.writer.await_pass()


def test_goes_on_as_post_copy(stock):
    """Where it may, rather than slow the writer below a half."""
    with Outrun(stock):
        bill = told(stock.migrate(*GOAL, "--post-copy", "allow"))
    _, last = whys(bill)
    expect(last["what"] == "switch", f"the last decision: {last}")
    check_faults(bill)
    stock.writer.await_pass()
    stock.writer.end()


def test_kill(stock):
    stock.godwit(stock.here, "kill", VM)
    stock.expect_nothing(stock.here, "the host of the killed VM")


if __name__ == "__main__":
    sys.exit(main("links", [test_boot, test_writer, test_strict, test_slowed, test_goes_on_as_post_copy,
                            test_kill]))
