#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stock guest runs on one emulated host while most of its memory is still on the other, and the link or one of the
hosts' monitors fails.

The link is narrow, so that there is time for that. A lost link only makes the guest wait; the loss of either side is
the loss of the guest, and each side says so.
"""
import sys

from stock import LIMIT_S, PORT, VM, check_faults, expect, main, told
from stock_load import Between, Client, Writer

SAVED = "/tmp/saved.godwit"


def test_boot(stock):
    stock.run()
    stock.writer = Writer(stock, hot_mib=2, dense_mib=24, looks=4)


def test_cut_and_joined(stock):
    """The guest stops where it needs what is missing, and goes on by itself once the cable is back."""
    clock = stock.times()
    with Client(stock, patience=LIMIT_S) as client, Between(stock) as between:
        stock.lab.cut(between.source.host.name, silent=True)
        between.stranded()
        stock.lab.join(between.source.host.name)
        check_faults(told(stock.expect_moved(between.move)), interrupted=1)
        client.ask()
    stock.writer.await_pass()
    stock.expect_same_guest(clock)


def test_recovered_at_a_new_address(stock):
    """The target host gets another address; someone tells the source."""
    clock, old, new = stock.times(), stock.other.address, "10.77.0.22"
    target, source = stock.other, stock.here
    with Client(stock, patience=LIMIT_S), Between(stock, listen=f"0.0.0.0:{PORT}") as between:
        target.run(["sh", "-c", f"ip address del {old}/24 dev br0; ip address add {new}/24 dev br0"])
        target.run(["ss", "-K", "state", "established", "sport",
                    f"= :{PORT}"])     # or it takes half a minute to notice
        try:
            between.stranded()
            stock.introduce(source, target, address=new)
            stock.godwit(source, "migrate", VM, "--recover", f"{new}:{PORT}")
            check_faults(told(stock.expect_moved(between.move)), interrupted=1)
        finally:
            target.run(["sh", "-c", f"ip address del {new}/24 dev br0; ip address add {old}/24 dev br0"])
    stock.writer.await_pass()
    stock.expect_same_guest(clock)
    stock.writer.end()


def test_killed_target(stock):
    """The guest died with its owner: the source never runs it again, and learns why from the next receiver there."""
    stock.godwit(stock.here, "checkpoint", VM, SAVED)
    with Between(stock) as between:
        stock.kill_monitor(between.target)
        stock.await_state(between.source, "stranded")
        expect(stock.states(between.target) == {VM: "dead"}, f"at the target: {stock.states(between.target)}")
        stock.receive()
        stock.godwit(between.source, "migrate", VM, "--recover")
        status, bill = between.move.end()
        expect(status != 0 and "target's process died" in between.move.text(),
               f"status {status}: {between.move.text()}")
        print(f"  status {status}: {between.move.text().strip().splitlines()[-1]}; the bill's owner: {bill['owner']}",
              flush=True)
        stock.expect_nothing(between.source, "the source")
        stock.godwit(between.target, "kill", VM)
        stock.end_receiver(between.target)      # nothing has come to it


def test_killed_source(stock):
    """The rest of its memory is gone: the guest stays stopped where it needs that, never runs on less, and is
    said to."""
    stock.restore(SAVED)
    with Between(stock) as between:
        stock.kill_monitor(between.source)
        stock.await_state(between.target, "stranded", "unresponsive")
        status, _ = between.move.end()
        expect(status not in (0, 1), f"the command does not know what became of it: status {status}")
        stock.godwit(between.target, "kill", VM)
        stock.expect_nothing(between.target, "the target")


if __name__ == "__main__":
    sys.exit(main("post-copy", [test_boot, test_cut_and_joined, test_recovered_at_a_new_address, test_killed_target,
                                test_killed_source]))
