#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each way to disturb the move of a stock guest before its commitment leaves the guest alive at the source.

All but one, the death of the source itself. Each test also shows that the target is clean, that the guest answers
all along, and most that a new move succeeds.
"""
import sys
import time

from stock import DISK, GODWIT, SILENCE, STALL_LIMIT, VM, Move, Pinger, eventually, expect, main


def test_boot(stock):
    stock.run()


def test_refused_disks(stock):
    """A target whose disk is another one says so before a page moves."""
    other = stock.other
    for name, change, words in (
            ("shorter", "truncate -s -1M /tmp/disk", "sectors"),
            ("changed", "dd if=/dev/urandom of=/tmp/disk bs=4096 count=1 conv=notrunc 2>/dev/null", "other data"),
            ("changed", "dd if=/dev/urandom of=/tmp/disk bs=4096 seek=$(($(stat -c %s /tmp/disk) / 4096 - 1)) count=1 "
                        "conv=notrunc 2>/dev/null", "other data")):
        done = other.run(["sh", "-c", f"cp {DISK} /tmp/disk && {change}"])
        expect(done.status == 0, f"a {name} disk: {done.stderr}")
        stock.receive(disk="/tmp/disk")
        bill = stock.expect_failed(Move(stock.here, other), words)
        expect(bill["failure"]["stage"] in ("pre-migration", "reservation"), f"refused in {bill['failure']['stage']}")
        expect(bill["bytes"]["page_data"] == 0, "no page had moved")
        stock.expect_nothing(other, "the target that refused")
    other.run(["rm", "/tmp/disk"])


def test_cancel(stock):
    with Pinger(stock):
        move = stock.begin()
        move.await_pages()
        stock.godwit(stock.here, "migrate", VM, "--cancel")
        bill = stock.expect_failed(move, "cancel")
    expect(bill["outcome"] == "cancelled", f"the bill's outcome: {bill['outcome']}")
    stock.expect_nothing(stock.other, "the target")


def test_killed_target(stock):
    with Pinger(stock):
        move = stock.begin()
        move.await_pages()
        stock.kill_monitor(stock.other)
        stock.expect_failed(move, "reset", "closed", "broken", "lost", "ended")
    stock.migrate()
    stock.ping()


def test_silent_cut(stock):
    target = stock.other
    with Pinger(stock):
        move = stock.begin(STALL_LIMIT)
        move.await_pages()
        stock.lab.cut(target.host.name, silent=True)
        try:
            began = time.monotonic()
            stock.expect_failed(move, *SILENCE)
            print(f"  {time.monotonic() - began:.1f} s after the cut", flush=True)
            stock.expect_nothing(target, "the target")
        finally:
            stock.lab.join(target.host.name)
    stock.migrate()
    stock.ping()


def test_power_cut(stock):
    """The target loses power in the middle. It comes back with another key, which is refused until someone says that
    it is right; then a new move succeeds."""
    target = stock.other
    with Pinger(stock):
        move = stock.begin(STALL_LIMIT)
        move.await_pages()
        stock.lab.kill(target.host.name)
        began = time.monotonic()
        stock.expect_failed(move, *SILENCE)
        print(f"  {time.monotonic() - began:.1f} s after the power cut", flush=True)
        stock.lab.boot(target.host.name)
        eventually(lambda: stock.lab.host_record(target.host.name)["state"] == "up", "the host is back")
        target.prepare(GODWIT)
        stock.expect_failed(stock.begin(), "--replace")
        stock.end_receiver(target)      # it waits on after a stranger's handshake
        stock.introduce(stock.here, target, "--replace")
        stock.introduce(target, stock.here)
    stock.migrate()
    stock.ping()


def test_killed_source(stock):
    """The guest lived in the process that was killed. The target lets go, and nobody claims that it runs."""
    move = stock.begin()
    move.await_pages()
    stock.kill_monitor(stock.here)
    status, bill = move.end()
    expect(status not in (0, 1) and bill is None, f"the command says that it does not know: {status}, {bill}")
    print(f"  the command ends with status {status}: {move.text().strip().splitlines()[-1]}", flush=True)
    expect(stock.states(stock.here) == {VM: "dead"}, f"at the source: {stock.states(stock.here)}")
    stock.expect_nothing(stock.other, "the target")
    stock.godwit(stock.here, "kill", VM, check=False)
    stock.run()     # its name, tap and disk are free


def test_kill(stock):
    stock.godwit(stock.here, "kill", VM)
    stock.expect_nothing(stock.here, "the host of the killed VM")
    stock.expect_nothing(stock.other, "the other host")


if __name__ == "__main__":
    sys.exit(main("failures", [test_boot, test_refused_disks, test_cancel, test_killed_target, test_silent_cut,
                               test_power_cut, test_killed_source, test_kill]))
