#!/usr/bin/env python3
"""Recordings of the writable working set over the fake hypervisor: whose they are, and what ends them."""
import csv
import json
import os
import xml.etree.ElementTree as xml

from harness import Host, Relay, check, run_tests, wait_for

MS = 1000000


def start(host, *args):
    return host.vm("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake", *args)


def begin(control, duration_ms=40000, **params):
    """Asks for a recording and does not wait for it; returns once it has begun."""
    control.call("events.subscribe")
    control.raw(json.dumps({"jsonrpc": "2.0", "id": "wws", "method": "vm.wws",
                            "params": {"interval_ns": 5 * MS, "duration_ns": duration_ms * MS, **params}}).encode() +
                b"\n")
    control.event(lambda method, _: method == "wws.progress")


def answer(control):
    while True:
        got = control.message()
        check(got is not None, "the connection ended")
        if got.get("id") == "wws":
            return got


def log_says(host, text):
    def poll():
        with open(os.path.join(host.base, "vm", "log"), encoding="utf-8") as log:
            return text in log.read()
    wait_for(f"{text!r} in the log", poll)


def refused(control, word, **params):
    got = control.call("vm.wws", **params)
    check(word in got.get("error", {}).get("message", ""), f"{params}: {got}")


def report():
    """The fake guest's working set is known: seven writes in eight go to its first 256 pages."""
    with Host() as a:
        vm = start(a, "--cpus", "2")
        table, picture = os.path.join(a.base, ".t.csv"), os.path.join(a.base, ".p.svg")
        got = a.json("wws", "vm", "--interval", "20ms", "--for", "600ms", "--bandwidths", "100Mbit/s,2Gbit/s",
                     "--csv", table, "--svg", picture)
        check(got["ended"] == "complete" and got["intervals"] == 30 and got["vcpus"] == 2, str(got)[:300])
        times = {bin["intervals"]: bin["pages"] for bin in got["times_written"]}
        check(sum(times.values()) == got["memory"]["pages"] == 16384, str(times))
        hot = sum(pages for k, pages in times.items() if k >= 27)
        check(200 <= hot <= 300, f"{hot} pages were written in nearly every interval: {times}")
        curve = [point["pages"] for point in got["unique"]]
        check(curve == sorted(curve) and curve[0] >= 200, f"no curve: {curve}")
        rates = [(p["bytes_per_s"], p["mode"]) for p in got["predictions"]]
        check(rates == [(rate, mode) for rate in (12500000, 250000000)
                        for mode in ("stop-copy", "pre-copy", "post-copy", "auto")], str(rates))
        disturbance = got["disturbance"]
        check(disturbance["samples"] == 30 and 0 < disturbance["guest_share"] <= 1, str(disturbance))
        check(disturbance["faults_at_most"] == sum(i["pages"] for i in got["dirty_rate"]), str(disturbance))

        with open(table, encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        check(sum(int(row["pages"]) for row in rows if row["series"] == "written_in_intervals") == 16384, "the table")
        check(len([row for row in rows if row["series"] == "prediction"]) == 8, "predictions in the table")
        check(xml.parse(picture).getroot().tag.endswith("svg"), "the picture")
        text = a.run("wws", "vm", "--for", "100ms").stdout
        check("disturbance" in text and "10000 Mbit/s" in text, text)
        a.run("kill", "vm")
        vm.ended()


def wrong_requests():
    with Host() as a:
        vm = start(a)
        with a.control("vm") as control:
            refused(control, "interval_ns", interval_ns=1)
            refused(control, "interval_ns", interval_ns=-5)
            refused(control, "intervals", interval_ns=MS, duration_ns=20000 * MS)
            refused(control, "intervals", interval_ns=MS, duration_ns=0)
            refused(control, "bandwidths", bandwidths=7)
            refused(control, "bandwidths", bandwidths=[1])
            refused(control, "bandwidths", bandwidths=["1Gbit/s"])
            refused(control, "bandwidths", bandwidths=[1000000] * 17)
            refused(control, "max_downtime_ns", max_downtime_ns=0)
            refused(control, "throttle", throttle="maybe")
            refused(control, "unpacked", speed=1)
            a.run("pause", "vm")
            refused(control, "paused")
        check("--bandwidths" in a.run("wws", "vm", "--bandwidths", "1Gbit", status=2).stderr, "a bandwidth")
        check("intervals" in a.run("wws", "vm", "--interval", "1ms", "--for", "1h", status=2).stderr, "too many")
        a.run("kill", "vm")
        vm.ended()


def belongs_to_its_request():
    """Whoever asked goes away, and it ends; only one at a time."""
    with Host() as a:
        vm = start(a)
        with a.control("vm") as first, a.control("vm") as second:
            begin(first)
            refused(second, "already")
        log_says(a, "nobody waits for it")
        check(a.json("wws", "vm", "--for", "200ms")["ended"] == "complete", "the next one")
        with a.control("vm") as control:
            begin(control)
            a.run("kill", "vm")
            got = answer(control)
            check(got["result"]["ended"] == "the VM ended", str(got)[:200])
        vm.ended()
        check(a.is_empty(), "something is left")


def move_ends_it():
    """A move does not wait for a recording, and the guest arrives whole."""
    with Host() as a, Host() as b:
        vm = start(a)
        to = b.receive("--fake")
        with a.control("vm") as control:
            begin(control, bandwidths=[125000000])
            a.migrate("vm", to.address)
            got = answer(control)["result"]
        check(got["ended"] == "a move began" and 0 < got["intervals"] < got["asked_intervals"], str(got)[:300])
        check(len(got["predictions"]) == 4, "what was recorded until then is worth a prediction")
        vm.ended()
        check(b.names() == ["vm"], "the move")
        check(b.json("wws", "vm", "--for", "200ms")["ended"] == "complete", "after the move")
        b.run("kill", "vm")


def refused_while_moving():
    with Host(insecure=True) as a, Host(insecure=True) as b:
        vm = start(a)
        to = b.receive("--fake")
        seen = []

        def at(direction, name, count):
            if name == "round" and count == 0:
                with a.control("vm") as control:
                    refused(control, "migrating")
                    seen.append(name)

        with Relay(to.address, at) as relay:
            a.migrate("vm", relay.address)
        check(seen, "never tried")
        vm.ended()
        b.run("kill", "vm")


if __name__ == "__main__":
    run_tests([
        ("a report in all its forms", report),
        ("wrong requests", wrong_requests),
        ("it belongs to its request", belongs_to_its_request),
        ("a move ends it", move_ends_it),
        ("refused while moving", refused_while_moving),
    ])
