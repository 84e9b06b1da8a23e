#!/usr/bin/env python3
"""migrate --check over real monitors: every fact has its verdict, and nothing is changed by asking."""
import json
import os
import tempfile

from harness import Host, Relay, check, need_kvm, run_tests

GUEST = ("writer", "dense=8M hot=1M zero=1M")


def ask(host, to, *args, fits):
    """The report; its verdict and the exit status must be `fits`."""
    done = host.run("migrate", "guest", to, "--check", "--json", *args, check=False)
    check(done.returncode == (0 if fits else 1), f"exit status {done.returncode}: {done.stdout} {done.stderr}")
    report = json.loads(done.stdout)
    check(report["ok"] == fits, f"ok is {report['ok']}: {report['facts']}")
    return report


def facts(report, name, ok=True):
    return [f["text"] for f in report["facts"] if f["fact"] == name and f["ok"] == ok]


def snapshot(host):
    return sorted(n for n in os.listdir(host.base) if n[0] != "."), host.names()


def test_fits_and_changes_nothing():
    with Host() as a, Host() as b:
        vm = a.guest("guest", *GUEST)
        to = b.receive()  # --once: it must wait on all the same
        before = snapshot(a), snapshot(b)
        for _ in range(3):
            report = ask(a, to.address, fits=True)
        check((snapshot(a), snapshot(b)) == before, f"something changed: {before}, {snapshot(a)}, {snapshot(b)}")
        for name in ("port", "identity", "version", "memory", "huge-pages", "kvm", "cpu", "device", "name"):
            check(facts(report, name), f"no fact about {name}: {report['facts']}")
        check("fxsr" in " ".join(facts(report, "cpu")).split(), "CPU features are not named")
        check(report["link"]["bytes_per_s"] > 0 and report["link"]["rtt_ns"] > 0, str(report["link"]))
        pages = [w["pages"] for w in report["guest"]["written"]]
        check(pages == sorted(pages) and pages[-1] >= 256, f"a writer of 256 pages wrote {pages}")
        check(2048 <= report["guest"]["data_pages"] <= report["guest"]["pages"], str(report["guest"]))
        check(report["predicted"]["time_ns"] > 0 and report["predicted"]["goal_met"], str(report["predicted"]))
        check(a.state("guest") == "running", a.state("guest"))
        a.migrate("guest", to.address)
        vm.ended()
        to.stop()


def test_text():
    with Host() as a, Host() as b:
        vm = a.guest("guest", *GUEST)
        to = b.receive()
        done = a.run("migrate", "guest", to.address, "--check")
        for word in ("It fits.", "yes  port", "predicted", "of downtime"):
            check(word in done.stdout, f"no '{word}' in {done.stdout}")
        to.signal(15)
        vm.stop()


def test_every_misfit_is_named():
    with Host() as a, Host() as b, tempfile.NamedTemporaryFile() as disk, tempfile.NamedTemporaryFile() as two, \
            tempfile.NamedTemporaryFile() as other:
        disk.truncate(1 << 20)
        two.truncate(1 << 20)
        other.truncate(2 << 20)
        vm = a.guest("guest", *GUEST, "--disk", f"one={disk.name}", "--disk", f"two={two.name},ro")
        b.guest("guest", *GUEST)
        to = b.receive("--disk", f"two={other.name}")
        report = ask(a, to.address, fits=False)
        check(any("one" in text for text in facts(report, "disk", ok=False)), f"disk one: {report['facts']}")
        check(facts(report, "name", ok=False), f"the name is taken there: {report['facts']}")
        check(facts(report, "cpu") and facts(report, "memory") and facts(report, "kvm"), "what fits is not told")
        to = b.receive("--disk", f"one={disk.name}", "--disk", f"two={other.name}", "--name", "web2")
        report = ask(a, to.address, fits=False)
        check(any("two" in text and "sectors" in text for text in facts(report, "disk", ok=False)),
              f"disk two: {report['facts']}")
        check(any("one" in text for text in facts(report, "disk")), f"disk one: {report['facts']}")
        check(to.process.poll() is None, "the receiver ended")
        vm.stop()


def test_nobody_there():
    with Host() as a:
        vm = a.guest("guest", *GUEST)
        report = ask(a, "127.0.0.1:1", fits=False)
        check(facts(report, "port", ok=False) and report["predicted"] is None, str(report))
        vm.stop()


def test_strict_goal():
    with Host() as a, Host() as b:
        vm = a.guest("guest", *GUEST)
        to = b.receive()
        report = ask(a, to.address, "--max-downtime", "10us", "--strict", fits=False)
        check("0.0 ms asked" in facts(report, "goal", ok=False)[0], str(report["facts"]))
        report = ask(a, to.address, "--max-downtime", "10us", fits=True)
        check(not report["predicted"]["goal_met"], str(report["predicted"]))
        to.signal(15)
        vm.stop()


def test_broken_off_anywhere():
    """Whatever becomes of the connection, both sides go on as before."""
    with Host(insecure=True) as a, Host(insecure=True) as b:
        vm = a.guest("guest", *GUEST)
        to = b.receive()
        for where in (("there", "hello"), ("there", "2"), ("there", "3"), ("back", "verdict"), ("back", "facts"),
                      ("there", "63"), ("there", "probe"), ("back", "probe")):
            for how in ("cut", "flip", "half"):
                with Relay(to.address, lambda d, name, _, w=where, h=how: h if (d, name) == w else None) as link:
                    done = a.run("migrate", "guest", link.address, "--check", "--json", "--stall-limit", "1s",
                                 check=False)
                report = json.loads(done.stdout)
                check(not report["ok"] and done.returncode == 1, f"{where} {how}: {report['facts']}")
        ask(a, to.address, fits=True)
        a.migrate("guest", to.address)
        vm.ended()
        to.stop()


need_kvm()
run_tests([(name[5:], test) for name, test in list(globals().items()) if name.startswith("test_")])
