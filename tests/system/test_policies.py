#!/usr/bin/env python3
"""Policies over real guests on this machine's own KVM: writers faster than a link that is made narrow here.

Nothing here asserts how fast anything is: what is verified is what was decided, that the numbers it was
decided by say so, and that the guest's memory came through.
"""
import os
import time

from harness import Host, Relay, check, need_kvm, run_tests

WRITER = ("writer", "dense=24M hot=16M zero=1M verify=0")  # 16 MiB written over and over, as fast as it goes
SLOW_WRITER = ("writer", "dense=24M hot=16M zero=1M verify=4096")  # and it looks at much in between
NARROW_S = 0.01  # a pause after each 256 KiB of pages: 25 MB/s at most


def narrow(direction, name, _count):
    if direction == "there" and name == "pages":
        time.sleep(NARROW_S)


class Move:
    """One move of a writer over a narrow link, and what its bill says was decided."""

    def __init__(self, a, b, *args, status=0, cpus=1, writer=WRITER):
        vm = a.guest("guest", *writer, "--cpus", str(cpus))
        self.to = b.receive()
        with Relay(self.to.address, narrow) as link:
            self.bill = a.migrate("guest", link.address, *args, status=status)
        self.vm = vm if status else self.to
        if not status:
            vm.ended()
        self.policy, self.brownout = self.bill["policy"], self.bill["brownout"]
        self.decisions = self.policy["decisions"]
        self.last = self.decisions[-1]
        late = [d for d in self.decisions if d["what"] == "round" and d["why"] == "time"] # said within a round
        check(self.policy["count"] - len(late) == len([r for r in self.bill["rounds"]["list"] if not r["paused"]]),
              f"{self.policy['count']} decisions for {self.bill['rounds']['count']} rounds")

    def whys(self):
        return [d["why"] for d in self.decisions]


def test_slows_only_who_writes():
    with Host(insecure=True) as a, Host(insecure=True) as b:
        move = Move(a, b, "--max-downtime", "100ms", cpus=2, writer=SLOW_WRITER)
        check("slowed" in move.whys(), str(move.whys()))
        check(move.brownout and move.brownout["vcpu_held_ns"][0] > 0, f"nobody was held: {move.brownout}")
        check(move.brownout["vcpu_held_ns"][1] == 0, "the vCPU that writes nothing was held too")
        runs = [d["run_permille"] for d in move.decisions]
        check(min(runs) >= 100, f"held for more than nine tenths: {runs}")
        check(move.last["what"] == "stop", str(move.last))
        move.vm.stop()


def test_never_slows_where_it_may_not():
    with Host(insecure=True) as a, Host(insecure=True) as b:
        move = Move(a, b, "--max-downtime", "20ms", "--throttle", "never")
        check(move.brownout is None and "slowed" not in move.whys(), str(move.brownout))
        check(move.last["what"] == "stop" and move.last["downtime_ns"] > move.last["max_downtime_ns"],
              f"the goal was not missed: {move.last}")
        move.vm.stop()


def test_strict_stays_here_and_says_why():
    with Host(insecure=True) as a, Host(insecure=True) as b:
        move = Move(a, b, "--max-downtime", "20ms", "--throttle", "never", "--strict", status=1)
        check(move.last["what"] == "abort", str(move.last))
        check(move.bill["outcome"] == "failed" and move.bill["owner"] == "source", str(move.bill["outcome"]))
        text = move.bill["failure"]["text"]
        for word in ("cannot be met", "Mbit/s", "downtime would be", "20 ms asked"):
            check(word in text, f"no '{word}' in: {text}")
        move.to.ended(status=1)
        check(b.is_empty(), "the target kept something")
        move.vm.stop()


def test_time_is_a_goal_too():
    with Host(insecure=True) as a, Host(insecure=True) as b:
        move = Move(a, b, "--max-downtime", "20ms", "--max-time", "4s", "--throttle", "never")
        check(move.last["what"] == "stop" and move.last["why"] in ("time", "level"), str(move.last))
        check(move.last["why"] == "time" or move.last["at_ns"] >= 2e9, f"half the time was not used: {move.last}")
        move.vm.stop()


def test_slowing_ends_with_a_cancelled_move():
    with Host(insecure=True) as a, Host(insecure=True) as b:
        vm = a.guest("guest", *WRITER)
        to = b.receive()
        with Relay(to.address, narrow) as link, a.control("guest") as control:
            control.call("events.subscribe")
            control.call("vm.migrate", to=link.address, max_downtime_ns=20000000, insecure=True)
            slowed = lambda method, p: method == "move.decision" and p["run_permille"] < 1000
            control.event(slowed)
            control.event(slowed)  # a round later
            check("error" not in control.call("vm.migrate_cancel"), "cancel was refused")
            done = control.event(lambda method, _: method == "move.done")
            check(not done["ok"] and done["bill"]["brownout"]["held_ns"] > 0, str(done["error"]))
        to.ended(status=1)
        check("throttle" not in threads(vm.pid), f"still slowed: {threads(vm.pid)}")
        vm.stop()


def threads(pid):
    names = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
            names.append(f.read().strip())
    return names


def test_clark05():
    with Host(insecure=True) as a, Host(insecure=True) as b:
        vm = a.guest("guest", "writer", "dense=24M hot=1M zero=1M rate=2000")
        to = b.receive()
        bill = a.migrate("guest", to.address, "--policy", "clark05", "--rate-min", "200Mbit/s", "--rate-max",
                         "1Gbit/s")
        vm.ended()
        policy = bill["policy"]
        check(policy["name"] == "clark05" and policy["decisions"][-1]["what"] == "stop", str(policy))
        rounds = bill["rounds"]["list"]
        rates = [25000000] + [d["rate_bytes_per_s"] for d in policy["decisions"]]
        for r, rate in zip(rounds, rates):
            took = r["duration_ns"] / 1e9 + 0.02  # a late sender may catch up for 20 ms
            check(r["bytes"] - (256 << 10) <= rate * took * 1.02, f"faster than {rate} bytes a second: {r}")
        for d in policy["decisions"][:-1]:
            check(25000000 <= d["rate_bytes_per_s"] <= 125000000, str(d))
            dirty = d["dirty_pages_per_s"] * 4096 + 6250000
            check(d["rate_bytes_per_s"] == max(dirty, 25000000), f"not the dirty rate and 50 Mbit/s: {d}")
        to.stop()


def test_clark05_skips_what_is_written_again():
    """A guest that writes faster than the first round goes: nearly nothing of what it writes is sent in it."""
    with Host(insecure=True) as a, Host(insecure=True) as b:
        vm = a.guest("guest", *WRITER)
        to = b.receive()
        bill = a.migrate("guest", to.address, "--policy", "clark05", "--rate-min", "200Mbit/s", "--rate-max",
                         "400Mbit/s")
        vm.ended()
        first = bill["rounds"]["list"][0]
        check(first["pages_data"] < first["pages_dirtied"] + 24 * 256 // 2,
              f"{first['pages_data']} pages sent, {first['pages_dirtied']} written meanwhile")
        check(bill["policy"]["decisions"][-1]["why"] == "rate", str(bill["policy"]["decisions"][-1]))
        to.stop()


need_kvm()
run_tests([(name[5:], test) for name, test in list(globals().items()) if name.startswith("test_")])
