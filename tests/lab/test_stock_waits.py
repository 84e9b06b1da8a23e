#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stock guest that could not run for longer than its kernel's watchdogs allow goes on without a complaint."""
import sys
import time

from stock import VM, check_faults, expect, main, told
from stock_load import Between, Kept, Writer

LONG_S = 30     # a soft lockup is noticed after 20 s, a stall of RCU after 21


def test_boot(stock):
    stock.run()
    limits = stock.shell("cat /proc/sys/kernel/watchdog_thresh "
                         "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout").split()
    expect(2 * int(limits[0]) < LONG_S and int(limits[1]) < LONG_S, f"the guest's watchdogs wait longer: {limits}")


def test_long_pause(stock):
    """By its user, and at home: nothing is loaded anew."""
    clock, log = stock.times(), stock.log_lines()
    stock.writer = Writer(stock, hot_mib=2, dense_mib=24, looks=4)      # whoever idles is not watched
    stock.godwit(stock.here, "pause", VM)
    time.sleep(LONG_S)
    stock.godwit(stock.here, "resume", VM)
    stock.ping()
    stock.writer.await_pass()
    stock.expect_same_guest(clock)
    stock.expect_calm_kernel(log)


def test_long_strand(stock):
    """Between two hosts that do not reach each other."""
    clock, log = stock.times(), stock.log_lines()
    kept = Kept(stock.lab.netns)
    with Between(stock) as between:
        stock.lab.cut(between.source.host.name, silent=True)
        between.stranded()
        time.sleep(LONG_S)
        stock.lab.join(between.source.host.name)
        check_faults(told(stock.expect_moved(between.move)), interrupted=1)
    kept.ask()
    kept.close()
    stock.writer.await_pass()
    stock.writer.end()
    stock.expect_same_guest(clock)
    stock.expect_calm_kernel(log)


def test_kill(stock):
    stock.godwit(stock.here, "kill", VM)
    stock.expect_nothing(stock.here, "the host of the killed VM")


if __name__ == "__main__":
    sys.exit(main("waits", [test_boot, test_long_pause, test_long_strand, test_kill]))
