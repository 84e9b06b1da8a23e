#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stock Debian guest with nginx moves between two emulated hosts in every mode, under load from inside and outside.

Two virtual processors, so that the state of more than one travels.
"""
import json
import sys

from stock import LIMIT_S, VM, check_bill, check_faults, eventually, expect, main, told
from stock_load import Client, Writer


def test_boot(stock):
    stock.run(cpus=2)
    expect(stock.shell("grep -c ^processor /proc/cpuinfo").strip() == "2", "two processors")
    print(f"  clocksource: {stock.clocksource}", flush=True)


def test_every_mode(stock):
    """Each request answered, a download across all moves, and what the guest writes all along is what it reads."""
    clock, log = stock.times(), stock.log_lines()
    writer = Writer(stock, hot_mib=2, dense_mib=8, looks=4)
    with Client(stock) as client:
        for mode, *options in ["pre-copy"], ["stop-copy"], ["post-copy"], ["auto", "--post-copy", "allow"]:
            bill = told(stock.migrate("--mode", mode, *options))
            expect(bill["mode"] == mode and bill["vcpus"] == 2, f"the bill: {bill['mode']}, {bill['vcpus']}")
            # Whether auto has to switch is a matter of the machine; test_stock_links.py leaves it no choice.
            switched = mode == "auto" and bill["policy"]["decisions"][-1]["what"] == "switch"
            if mode == "post-copy" or switched:
                check_faults(bill)
            else:
                expect(bill["faults"] is None, f"post-copy, which was not asked for: {bill['faults']}")
            client.ask()
            writer.await_pass()
            stock.expect_same_guest(clock)
    writer.end()
    expect(stock.at == "a", "there and back, twice")
    stock.expect_calm_kernel(log)


def test_narrow_link(stock):
    """Narrow and long, by pre-copy."""
    clock, source = stock.times(), stock.here.host.name
    stock.lab.shape(source, rate="64mbit", delay="5ms")
    try:
        with Client(stock, rate=2) as client:
            told(stock.migrate("--mode", "pre-copy"))
            client.ask()
            stock.lab.shape(source)     # for the rest of the download
    finally:
        stock.lab.shape(source)
    stock.expect_same_guest(clock)


def test_paused(stock):
    """A VM that its user paused arrives paused, and goes on when told."""
    clock = stock.times()
    stock.godwit(stock.here, "pause", VM)
    stock.migrate()
    expect(stock.states(stock.here) == {VM: "paused"}, f"arrived as {stock.states(stock.here)}")
    stock.godwit(stock.here, "resume", VM)
    expect(stock.states(stock.here) == {VM: "running"}, f"resumed as {stock.states(stock.here)}")
    stock.ping()
    stock.expect_same_guest(clock)


def test_checkpoint(stock):
    """Into a file, killed, and out of the file in the same host."""
    clock, log, file = stock.times(), stock.log_lines(), "/tmp/web.godwit"
    check_bill(json.loads(stock.godwit(stock.here, "checkpoint", VM, file, "--json").stdout))
    stock.ping()
    stock.godwit(stock.here, "kill", VM)
    stock.expect_nothing(stock.here, "the host of the killed VM")
    stock.restore(file)
    expect(stock.states(stock.here) == {VM: "running"}, f"restored as {stock.states(stock.here)}")
    stock.expect_same_guest(clock)
    stock.expect_calm_kernel(log)
    dump = json.loads(stock.godwit(stock.here, "dump", file).stdout)
    expect(isinstance(dump, dict) and dump.get("sections"), f"the dump's keys: {list(dump)}")
    stock.here.run(["rm", file])


def test_stop(stock):
    """The power button: the guest shuts down, and its monitor ends."""
    stock.shell("true")
    said = bytearray()
    console = stock.here.start([stock.here.godwit, "console", VM], said.extend, said.extend)
    eventually(lambda: b"begin-" in said, "the console shows the past")
    stock.godwit(stock.here, "stop", VM, "--timeout", f"{LIMIT_S // 2}s")
    expect(console.wait(LIMIT_S).status == 0, "the console ends with the VM")
    expect(b"godwit-guest: power button" in said, f"the guest heard the power button: {bytes(said[-500:])}")
    stock.expect_nothing(stock.here, "the host of the stopped VM")
    stock.expect_nothing(stock.other, "the other host")


if __name__ == "__main__":
    sys.exit(main("moves", [test_boot, test_every_mode, test_narrow_link, test_paused, test_checkpoint, test_stop]))
