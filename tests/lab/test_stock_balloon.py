#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stock Debian guest gives memory back: by reporting free pages and through its balloon, at home and after a move.

What the guest frees must leave the host, and must not travel. One lab and one guest serve all tests, in this order.
"""
import json
import sys

from stock import LIMIT_S, VM, eventually, expect, main

MIB = 1 << 20
CACHE_MIB = 64
FREED_MIB = 40      # of it must come back: fragments smaller than the guest reports (2 MiB) may stay
BALLOON_MIB = 48


def balloon(stock, *size):
    return json.loads(stock.godwit(stock.here, "balloon", VM, *size, "--json").stdout)


def resident(stock):
    """What of the guest's memory exists, in MiB, as the monitor says; and what of it the host's kernel has mapped for
    the monitor: after a move, that is only what the guest has used there."""
    facts = json.loads(stock.godwit(stock.here, "info", VM, "--json").stdout)
    done = stock.here.run(["sh", "-c", f"awk '/RssShmem/ {{ print $2 }}' /proc/{facts['pid']}/status"])
    return facts["resident_bytes"] / MIB, int(done.stdout) / 1024


def fill_cache(stock):
    stock.shell(f"dd if=/srv/www/big.bin of=/dev/null bs=1M count={CACHE_MIB} 2>/dev/null")


def drop_cache(stock):
    """Has the guest drop its caches; returns when what it then reported has left the host."""
    before = resident(stock)
    stock.shell("echo 3 > /proc/sys/vm/drop_caches")

    def gone():
        now = resident(stock)
        return now if before[0] - now[0] > FREED_MIB else None
    after = eventually(gone, f"{FREED_MIB} MiB given back of {before[0]:.0f} MiB")
    print(f"  resident: {before[0]:.0f} -> {after[0]:.0f} MiB, mapped: {before[1]:.0f} -> {after[1]:.0f} MiB",
          flush=True)
    return before, after


def test_boot(stock):
    stock.run()
    state = balloon(stock)
    expect(state["driver"] and state["free_page_reporting"] and state["deflate_on_oom"],
           f"the balloon's driver: {state}")
    guest = eventually(lambda: balloon(stock)["guest"], "the guest's own figures")
    expect(0 < guest["free_bytes"] < guest["total_bytes"] < 192 * MIB, f"the guest's own figures: {guest}")


def test_reporting(stock):
    """Page cache that the guest drops leaves the host."""
    reported = balloon(stock)["reported_bytes"]
    fill_cache(stock)
    before, after = drop_cache(stock)
    expect(before[1] - after[1] > FREED_MIB, "the monitor's process has become smaller")
    expect(balloon(stock)["reported_bytes"] >= reported + FREED_MIB * MIB, "it was reported")
    stock.ping()


def test_free_memory_does_not_travel(stock):
    fill_cache(stock)
    full = stock.migrate()
    stock.ping()
    drop_cache(stock)
    bare = stock.migrate()
    stock.ping()
    for name, bill in ("with a full cache", full), ("dropped", bare):
        print(f"  {name}: {bill['bytes']['page_data'] / MIB:.0f} MiB of pages, {bill['pages']['free'] / 256:.0f} MiB "
              f"free, {bill['total_ns'] / 1e9:.1f} s", flush=True)
    saved = full["bytes"]["page_data"] - bare["bytes"]["page_data"]
    expect(saved > FREED_MIB * MIB, f"a move sent only {saved / MIB:.0f} MiB less")
    expect(bare["pages"]["free"] * 4096 > FREED_MIB * MIB, f"the bill: {bare['pages']}")
    free = bare["classes"]["free"]
    expect(free["pages"] == bare["pages"]["free"] + bare["pages"]["freed_later"] and
           free["saved_bytes"] > free["pages"] * 4000 and free["cpu_ns"] > 0, f"its class: {free}")
    total = sum(bare["pages"][name] for name in ("never_touched", "free", "zero", "data", "not_reached"))
    expect(total == bare["pages"]["total"], f"the classes add up: {bare['pages']}")


def grow(stock, mib):
    balloon(stock, f"{mib}M")
    state = eventually(lambda: (now := balloon(stock))["actual_bytes"] == mib * MIB and now, f"a balloon of {mib} MiB")
    expect(state["target_bytes"] == mib * MIB, f"the balloon: {state}")
    return state


def free_in_guest(stock):
    return int(stock.shell("awk '/^MemFree/ { print $2 }' /proc/meminfo")) / 1024


def test_balloon(stock):
    """Inflated here, it is as large at the next host, and deflates there."""
    expect(balloon(stock)["actual_bytes"] == 0, "no balloon yet")
    before = free_in_guest(stock)
    state = grow(stock, BALLOON_MIB)
    expect(state["inflated_bytes"] >= BALLOON_MIB * MIB, f"handed over: {state}")
    lent = before - free_in_guest(stock)
    expect(lent > BALLOON_MIB - 16, f"the guest lent {lent:.0f} MiB")
    bill = stock.migrate()
    expect(bill["pages"]["free"] * 4096 > (BALLOON_MIB - 8) * MIB,
           f"what is in the balloon does not travel: {bill['pages']}")
    state = balloon(stock)
    expect(state["actual_bytes"] == state["target_bytes"] == BALLOON_MIB * MIB, f"the balloon came along: {state}")
    stock.ping()
    grow(stock, BALLOON_MIB // 2)
    grow(stock, 0)
    back = free_in_guest(stock)
    expect(back > before - 16, f"the guest had {before:.0f} MiB free and has {back:.0f} MiB back")
    fill_cache(stock)
    stock.ping()


def test_stop(stock):
    stock.godwit(stock.here, "stop", VM, "--timeout", f"{LIMIT_S // 2}s")
    stock.expect_nothing(stock.here, "the host of the stopped VM")


if __name__ == "__main__":
    sys.exit(main("balloon", [test_boot, test_reporting, test_free_memory_does_not_travel, test_balloon, test_stop]))
