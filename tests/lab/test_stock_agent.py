#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The agent inside a stock Debian guest helps its moves, and the guest moves itself, between two emulated hosts.

One processor: what is tested here does not depend on how many there are.
"""
import json
import sys

from stock import PORT, RUN, VM, Failure, Stock, eventually, expect, main

BATCH = "/sys/fs/cgroup/batch"
# Writes 8 MiB over and over, faster than a move carries it, and counts.
WRITER = (f"(echo 0 >{BATCH}/cgroup.procs; exec perl -e 'while (1) {{ $x = chr(++$n % 256) x (8 << 20); "
          "open(F, \">/tmp/count\"); print F \"$n\\n\"; close(F) }') >/dev/null 2>&1 &")


class Guest(Stock):
    def count(self):
        return int(self.shell("cat /tmp/count 2>/dev/null").strip() or 0)

    def asks_to_move(self, where):
        """What `godwit-agent migrate` says in the guest, and its status, when it has to come back here."""
        said = self.shell(f"godwit-agent migrate {where} 2>&1; echo status $?").strip().split("\n")
        return "\n".join(said[:-1]), int(said[-1].split()[1])


def test_boot(stock):
    stock.run("--vsock", "3", "--self-migrate", f"{stock.other.address}:{PORT}")


def test_hello(stock):
    """The host talks to the agent."""
    eventually(lambda: stock.godwit(stock.here, "agent", VM, check=False).status == 0, "the agent answers")
    hello = json.loads(stock.godwit(stock.here, "agent", VM, "--json").stdout)
    expect(hello["protocol"] == 1 and hello["page_cache"] and hello["slow_rules"] == 1, f"the agent's hello: {hello}")


def test_helped_move(stock):
    """A writer that outruns the move is frozen before the last round, page cache is given back, both are undone."""
    stock.shell("head -c 32M /srv/www/big.bin >/dev/null")
    stock.shell(WRITER + " true")
    try:
        eventually(lambda: stock.count() > 1, "the writer writes", 30)
    except Failure:
        print(stock.shell(f"ls -la /tmp; cat {BATCH}/cgroup.procs /proc/meminfo; dmesg | tail; cat /proc/[0-9]*/comm"),
              flush=True)
        raise
    bill = stock.migrate("--max-downtime", "5ms")
    agent = bill["agent"]
    print(f"  the agent: {agent}", flush=True)
    expect(agent["present"] and agent["failure"] is None, f"the agent was asked: {agent}")
    expect(agent["slowed"] == 1, f"one group was frozen: {agent}")
    expect(agent["page_cache_bytes"] > 1 << 20, f"page cache was given back: {agent}")
    expect(agent["restored_by"] == "target", f"who restores: {agent}")
    rounds = bill["rounds"]["list"]
    expect(rounds[-1]["paused"] and not rounds[-2]["paused"], "one round more, while the guest ran")
    print(f"  dirtied in the last running rounds: {[r['pages_dirtied'] for r in rounds[-4:-1]]}", flush=True)
    expect(rounds[-2]["pages_dirtied"] < max(r["pages_dirtied"] for r in rounds[:-2]), "with less to send after it")
    expect(stock.shell(f"cat {BATCH}/cgroup.freeze").strip() == "0" or
           eventually(lambda: stock.shell(f"cat {BATCH}/cgroup.freeze").strip() == "0", "the group is thawed"),
           "thawed")
    before = stock.count()
    eventually(lambda: stock.count() > before, "the writer goes on")
    log = stock.here.run(["sh", "-c", f"cat {RUN}/{VM}/log"]).stdout.decode()
    expect("agent.restored: 1 " in log, f"the target had it restored:\n{log[-2000:]}")


def test_failed_move_restores(stock):
    """A move that ends before it is done: the source has the agent undo what it did, if it did anything."""
    move = stock.godwit(stock.here, "migrate", VM, f"{stock.other.address}:{PORT}", "--json", check=False)
    expect(move.status == 1, "nobody listens there")
    expect(json.loads(move.stdout)["agent"] is None, "the agent was not asked")
    expect(stock.shell(f"cat {BATCH}/cgroup.freeze").strip() == "0", "nothing is frozen")


def test_refused_self_migration(stock):
    """The guest is on a host that was not told to allow it; and then, to somewhere else than it was told."""
    said, status = stock.asks_to_move(f"{stock.other.address}:{PORT}")
    expect(status == 1 and "does not allow its guest to move itself" in said, f"status {status}: {said}")
    stock.receive("--self-migrate", f"{stock.here.address}:{PORT}")
    stock.godwit(stock.here, "migrate", VM, f"{stock.other.address}:{PORT}")
    stock.moved()
    said, status = stock.asks_to_move("10.77.0.99:7000")
    expect(status == 1 and "does not allow its guest to move there" in said, f"status {status}: {said}")
    said, status = stock.asks_to_move(f"{stock.other.address}:{PORT}")
    expect(status == 1 and "failed" in said, f"nobody listens: status {status}: {said}")
    expect(stock.states(stock.here) == {VM: "running"}, "it runs where it was")
    print(f"  {said}", flush=True)


def test_self_migration(stock):
    """From inside the guest: it returns on the other host, and says so."""
    stock.shell("kill $(cat /sys/fs/cgroup/batch/cgroup.procs) 2>/dev/null; true")
    stock.receive()
    stock.shell(f"(godwit-agent migrate {stock.other.address}:{PORT} >/tmp/said 2>&1; echo status $? >>/tmp/said) & "
                "true")
    eventually(lambda: list(stock.states(stock.other).values()) == ["running"] and not stock.states(stock.here),
               "the guest runs at the other host")
    stock.moved()
    said = eventually(lambda: (text := stock.shell("cat /tmp/said")).count("status") and text,
                      "the tool returned").strip()
    name = stock.here.run(["cat", "/proc/sys/kernel/hostname"]).stdout.decode().strip()
    print(f"  {said}", flush=True)
    expect(said.endswith("status 0") and f"runs on {name}" in said, f"the tool: {said}, on {name}")
    stock.ping()
    eventually(lambda: stock.godwit(stock.here, "agent", VM, check=False).status == 0, "the agent answers")


def test_checkpoint(stock):
    """Restored from a file, the guest has an agent that answers."""
    stock.godwit(stock.here, "checkpoint", VM, "/tmp/web.godwit")
    stock.godwit(stock.here, "kill", VM)
    stock.expect_nothing(stock.here, "the host")
    stock.restore("/tmp/web.godwit")
    eventually(lambda: stock.godwit(stock.here, "agent", VM, check=False).status == 0, "the agent answers")


def test_kill(stock):
    stock.godwit(stock.here, "kill", VM)
    stock.expect_nothing(stock.here, "the host of the killed VM")


if __name__ == "__main__":
    sys.exit(main("agent",
                  [test_boot, test_hello, test_helped_move, test_failed_move_restores, test_refused_self_migration,
                            test_self_migration, test_checkpoint, test_kill], Guest))
