#!/usr/bin/env python3
"""How pages travel between real monitors: on how many connections, how fast at most, and as what.

The fake hypervisor's vCPUs write without end, so there are several rounds; its memory is compared in
test_fake.py and tests/move. Here the bill must say what was asked for.
"""
import json
import os
import time

from harness import Host, check, check_bill, run_tests, wait_for
from test_fake import progress, receive, saved, start

MBIT = 125000


def moved(*args, memory=None, idle=False):
    """The bill of a move with these options, whole."""
    with Host() as one, Host() as two:
        start(one, "vm", *(["--memory", memory] if memory else []))
        if not idle:
            progress(one)
        target = receive(two)
        bill = one.migrate("vm", target.address, *args)
        check(bill["outcome"] == "completed" and bill["owner"] == "target", str(bill["failure"]))
        check(two.state("vm") == "running", two.state("vm"))
        return bill


def carried(bill):
    return [lane["bytes"] for lane in bill["lanes"]["list"]]


def lanes():
    check(carried(moved("--lanes", "0")) == [], "lanes that were not asked for")
    for count in (1, 2, 5):
        bytes_each = carried(moved("--lanes", str(count)))
        check(len(bytes_each) == count and all(bytes_each), str(bytes_each))
    check(carried(moved())[0] > 0, "chosen: at least one")


def modes():
    for mode in ("pre-copy", "stop-copy"):
        bill = moved("--mode", mode, "--lanes", "2")
        check(sum(carried(bill)) > 0 and bill["bytes"]["total"] >= sum(carried(bill)), str(bill["bytes"]))


def packed():
    none = moved("--compress", "off")
    check(none["classes"]["packed"]["pages"] == 0, str(none["classes"]))
    for how in ("lz4", "zstd"):
        saving = moved("--compress", how, "--lanes", "1")["classes"]["packed"]
        check(saving["pages"] > 0 and saving["saved_bytes"] > 0 and saving["cpu_ns"] > 0, f"{how}: {saving}")


def limited():
    """No more than asked for: what 5 % and the first burst allow. (Less is up to the machine.)"""
    limit = 40 * MBIT
    for lane_count in ("0", "2"):
        began = time.monotonic()
        bill = moved("--bandwidth", "40Mbit/s", "--lanes", lane_count, "--compress", "off", "--max-downtime", "2s")
        seconds = time.monotonic() - began
        check(bill["lanes"]["limit_bytes_per_s"] == limit, str(bill["lanes"]))
        sent = bill["bytes"]["page_data"] + bill["bytes"]["repeated_pages"]
        check(sent <= limit * seconds * 1.05 + limit * 0.05, f"{sent} bytes in {seconds} s")
        for item in bill["rounds"]["list"]:
            allowed = limit * item["duration_ns"] / 1e9 * 1.05 + limit * 0.05
            check(item["bytes"] <= allowed, f"a round of {item['bytes']} bytes, and {allowed} were allowed")


class Pushed:
    """A guest with 6 MiB and more of memory moves by post-copy. It is paused, so that it asks for no page itself: all
    of them are pushed."""

    def __init__(self, *args):
        self.one, self.two = Host(), Host()
        start(self.one, "vm")
        wait_for("the guest to write", lambda: os.path.getsize(saved(self.one)[1]) > 6 << 20)
        self.one.run("pause", "vm")
        self.before = saved(self.one)[0]
        self.target = receive(self.two)
        self.move = self.one.start("migrate", "vm", self.target.address, "--mode", "post-copy", "--json", *args)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.move.poll() is None:
            self.move.kill()
        self.move.communicate()
        self.one.close()
        self.two.close()

    def ends_well(self):
        out, err = self.move.communicate(timeout=60)
        check(self.move.returncode == 0, err)
        bill = check_bill(json.loads(out))
        check(bill["outcome"] == "completed" and bill["owner"] == "target", str(bill["failure"]))
        faults = bill["faults"]
        check(faults["duplicates"] == 0 and faults["pages_missing"] == 0, str(faults))
        check(faults["pages_absent"] == faults["pages_pushed"] + faults["answered"], str(faults))
        check(faults["pages_pushed"] > 1500, str(faults))
        wait_for("the target to have it all", lambda: self.two.state("vm") == "paused")

        def kept(sections):
            return [s for s in sections if s["type"] in ("pages", "vcpu")]
        check(kept(saved(self.two)[0]) == kept(self.before), "another guest arrived")
        self.two.run("resume", "vm")
        progress(self.two)
        return bill


def post_copy_on_lanes():
    check(carried_with("--lanes", "0") == [], "lanes that were not asked for")
    bytes_each = carried_with("--lanes", "2")
    check(len(bytes_each) == 2 and sum(bytes_each) > 5 << 20, str(bytes_each))
    check(sum(carried_with()) > 5 << 20, "chosen: at least one")


def carried_with(*args):
    with Pushed("--compress", "off", *args) as pushed:
        return carried(pushed.ends_well())


def post_copy_packed():
    for lanes in ("0", "1"):
        for how in ("lz4", "zstd"):
            with Pushed("--compress", how, "--lanes", lanes) as pushed:
                saving = pushed.ends_well()["classes"]["packed"]
                check(saving["pages"] > 0 and saving["saved_bytes"] > 0 and saving["cpu_ns"] > 0, f"{how}: {saving}")


def post_copy_limited():
    """What is pushed keeps to the limit, as rounds do, over the time the guest was pulled."""
    limit = 16 * MBIT
    for lane_count in ("0", "2"):
        with Pushed("--bandwidth", "16Mbit/s", "--lanes", lane_count, "--compress", "off") as pushed:
            bill = pushed.ends_well()
            check(bill["lanes"]["limit_bytes_per_s"] == limit, str(bill["lanes"]))
            ns = next(stage["ns"] for stage in bill["stages"] if stage["stage"] == "pulling")
            sent = bill["bytes"]["page_data"] + bill["bytes"]["zero_ranges"]
            check(sent > 5 << 20, str(bill["bytes"]))
            check(sent <= limit * ns / 1e9 * 1.05, f"{sent} bytes in {ns / 1e9} s")
            print(f"# {lane_count} lanes: {sent / limit / ns * 1e11:.1f} % of the limit")


def post_copy_changed_on_the_way():
    with Pushed("--bandwidth", "2Mbit/s") as pushed:
        control = pushed.one.control("vm")
        wait_for("the limit to show", lambda: (control.call("vm.migrate_status")["result"].get("progress") or {})
                 .get("limit_bytes_per_s") == 2 * MBIT and pushed.one.state("vm") == "serving")
        check(pushed.move.poll() is None, "it ended too soon to be changed")
        pushed.one.run("migrate", "vm", "--bandwidth", "0")
        bill = pushed.ends_well()
        check(bill["lanes"]["limit_bytes_per_s"] is None, str(bill["lanes"]))


def changed_on_the_way():
    """A move too slow to end is let go."""
    with Host() as one, Host() as two:
        start(one)
        progress(one)
        target = receive(two)
        move = one.start("migrate", "vm", target.address, "--bandwidth", "2Mbit/s", "--json")
        one_control = one.control("vm")
        wait_for("the limit to show", lambda: (one_control.call("vm.migrate_status")["result"].get("progress") or {})
                 .get("limit_bytes_per_s") == 2 * MBIT)
        refused = one.run("migrate", "vm", "--bandwidth", "1Mbit/s", status=2, check=False)
        check(refused.returncode != 0 and "bandwidth" in refused.stderr, refused.stderr)
        check(move.poll() is None, "it ended too soon to be changed")
        one.run("migrate", "vm", "--bandwidth", "0")
        out, err = move.communicate(timeout=60)
        check(move.returncode == 0, err)
        check('"limit_bytes_per_s": null' in out, out)
        check(two.state("vm") == "running", two.state("vm"))


def late_move(*args, status=0):
    """The bill of one whose first round takes thrice the time there is, and where its guest runs afterwards."""
    with Host() as one, Host() as two:
        start(one, "vm")
        wait_for("the guest to write", lambda: os.path.getsize(saved(one)[1]) > 6 << 20)
        target = receive(two)
        bill = one.migrate("vm", target.address, "--bandwidth", "16Mbit/s", "--compress", "off", "--max-time", "1s",
                           *args, status=status)
        progress(one if status else two)
        return bill


def cut_for_the_time():
    bill = late_move("--post-copy", "allow", "--lanes", "2")
    last = bill["policy"]["decisions"][-1]
    check(bill["outcome"] == "completed" and (last["what"], last["why"]) == ("switch", "time"), str(bill["policy"]))
    check(len([r for r in bill["rounds"]["list"] if not r["paused"]]) == 1, str(bill["rounds"]))
    faults = bill["faults"]
    check(faults["pages_absent"] > 500 and faults["pages_missing"] == 0, str(faults))
    bill = late_move("--strict", "--lanes", "0", status=1)
    last = bill["policy"]["decisions"][-1]
    check(bill["outcome"] == "failed" and bill["owner"] == "source", str(bill))
    check((last["what"], last["why"]) == ("abort", "time") and bill["rounds"]["count"] == 0, str(bill["policy"]))
    check("in all; 1000 ms asked" in bill["failure"]["text"], bill["failure"]["text"])
    bill = late_move()
    first = bill["policy"]["decisions"][0]
    check(bill["outcome"] == "completed" and (first["what"], first["why"]) == ("round", "time"), str(bill["policy"]))


def nothing_to_change():
    with Host() as one:
        start(one)
        done = one.run("migrate", "vm", "--bandwidth", "1Gbit/s", check=False)
        check(done.returncode != 0 and "nothing is being moved" in done.stderr, done.stderr)
        for bad in (["--lanes", "17"], ["--lanes", "x"], ["--bandwidth", "7"], ["--compress", "gzip"]):
            done = one.run("migrate", "vm", "127.0.0.1:1", *bad, check=False)
            check(done.returncode == 2, f"{bad}: {done.stderr}")


if __name__ == "__main__":
    run_tests([
        ("lanes", lanes),
        ("modes", modes),
        ("packed", packed),
        ("limited", limited),
        ("changed on the way", changed_on_the_way),
        ("post-copy on lanes", post_copy_on_lanes),
        ("post-copy packed", post_copy_packed),
        ("post-copy limited", post_copy_limited),
        ("post-copy changed on the way", post_copy_changed_on_the_way),
        ("cut for the time", cut_for_the_time),
        ("nothing to change", nothing_to_change),
    ])
