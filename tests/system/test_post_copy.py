#!/usr/bin/env python3
"""Post-copy with real processes and tiny guests on this machine's own KVM.

The guests verify all of their memory themselves: a page that was lost, came twice over a newer one, or was read
before it was there, is said as BAD. The network between the two hosts is a plain relay of bytes, which holds
back the push, so that there is time for what a test does in the middle, and can be cut and set up elsewhere.
"""
import contextlib
import json
import re
import signal
import socket
import threading
import time

from harness import (Host, Transcript, check, check_bill, is_open, need_kvm, process_exists, run_tests, wait_for)

MEMORY = ("128M", "dense=64M hot=8M")


class Pipe:
    """Passes bytes on, at most `rate` bytes a second in each direction once told to, until it is cut. Connections share
    the rate, as on one wire."""

    def __init__(self, to):
        host, _, port = to.rpartition(":")
        self.to, self.rate, self.socks, self.lock = (host, int(port)), None, [], threading.Lock()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listening.getsockname()[1]
        self.connections = self.passed = 0  # passed: bytes, from the source
        self.free_at = [0, 0]
        threading.Thread(target=self.serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.cut()

    def cut(self):
        with self.lock:
            socks, self.socks = self.socks, []
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def serve(self):
        while True:
            try:
                a, _ = self.listening.accept()
                b = socket.create_connection(self.to)
            except OSError:
                return
            self.connections += 1
            with self.lock:
                self.socks += [a, b]
            for way, (x, y) in enumerate(((a, b), (b, a))):
                x.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                x.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # as little as may be is on its way
                threading.Thread(target=self.pump, args=(x, y, way), daemon=True).start()

    def take_turn(self, way, count):
        """How long it takes until so many bytes have left."""
        with self.lock:
            now = time.monotonic()
            self.passed += count if way == 0 else 0
            if not self.rate:
                return 0
            self.free_at[way] = max(self.free_at[way], now) + count / self.rate
            return self.free_at[way] - now

    def pump(self, a, b, way):
        try:
            while data := a.recv(32768):
                time.sleep(self.take_turn(way, len(data)))  # the network's, not the test's way of waiting
                b.sendall(data)
        except OSError:
            pass
        for sock in (a, b):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Scene:
    """A guest that runs at the second host while most of its memory is still at the first."""

    def __init__(self, *args, rate=4 << 20, cmdline=MEMORY[1]):
        self.a, self.b = Host(), Host()
        self.vm = self.a.guest("g", "writer", cmdline, memory=MEMORY[0])
        self.vm.progress()
        self.to = self.b.receive()
        self.pipe = Pipe(self.to.address)
        self.pipe.rate = rate
        self.migrate = self.a.start("migrate", "g", self.pipe.address, *(args or ("--mode", "post-copy")),
                                    "--stall-limit", "3s", "--json")
        wait_for("the target to pull", lambda: self.b.names() == ["g"] and self.b.state("g") == "pulling")
        wait_for("the source to serve", lambda: self.a.state("g") == "serving")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.migrate.poll() is None:
            self.migrate.kill()
        self.migrate.communicate()
        self.pipe.close()
        self.a.close()
        self.b.close()

    def ends_well(self, interrupted=0, said=None):
        """All memory comes, the source lets go, and the guest finds everything in its place."""
        out, err = said or self.migrate.communicate(timeout=60)
        check(self.migrate.returncode == 0, f"status {self.migrate.returncode}: {err}")

        bill = check_bill(json.loads(out))
        faults = bill["faults"]
        check(bill["outcome"] == "completed" and bill["owner"] == "target", str(bill["failure"]))
        check(faults["pages_missing"] == 0 and faults["duplicates"] == 0, str(faults))
        check(faults["pages_absent"] <= faults["pages_pushed"] + faults["answered"], str(faults))
        check(faults["interrupted"] == interrupted, f"interrupted {faults['interrupted']} times, not {interrupted}")
        if not interrupted:
            check(faults["pages_absent"] == faults["pages_pushed"] + faults["answered"], f"not once each: {faults}")
        self.vm.ended()
        wait_for("the target to have it all", lambda: self.b.state("g") == "running")
        wait_for("the source to be empty", self.a.is_empty)
        self.to.pid = self.b.pid("g")
        self.to.progress()
        self.to.stop()
        transcript = Transcript()
        transcript.add(self.vm)
        transcript.add(self.to)
        transcript.verify()
        return bill


def there_and_back():
    """Every way to post-copy, one after the other, of one guest."""
    ways = [("--mode", "post-copy"), ("--post-copy", "allow", "--max-downtime", "1ns"), ("--post-copy", "now"),
            ("--mode", "pre-copy"), ("--mode", "post-copy")]
    with Host() as a, Host() as b:
        said, here, there = Transcript(), a, b
        vm = a.guest("g", "writer", "dense=24M hot=6M", memory="64M")
        for way in ways:
            vm.progress()
            to = there.receive()
            bill = here.migrate("g", to.address, *way)
            check(bill["outcome"] == "completed", str(bill["failure"]))
            if way[1] != "allow":  # which is needed, or not
                check((bill["faults"] is None) == (way[1] == "pre-copy"), str(bill["faults"]))
            if bill["faults"]:
                check(bill["faults"]["duplicates"] == 0 and bill["faults"]["pages_missing"] == 0, str(bill["faults"]))
            vm.ended()
            wait_for("the new host to have it all", lambda: there.state("g") == "running")
            said.add(vm)
            vm, here, there = to, there, here
            vm.pid = here.pid("g")
        vm.stop()
        said.add(vm)
        said.verify()


def cut_and_back():
    """The guest stops where it needs what is missing; then both hosts find each other by themselves."""
    with Scene() as scene:
        for _ in range(3):
            scene.pipe.cut()
            wait_for("the target to notice", lambda: scene.b.state("g") in ("stranded", "pulling"))
            wait_for("the target to pull again", lambda: scene.b.state("g") == "pulling")
        scene.pipe.rate = None
        scene.ends_well(interrupted=3)


def recover_to_a_new_address():
    """The old way is closed for good; a person knows another."""
    with Scene() as scene:
        scene.pipe.close()
        wait_for("both to be stranded", lambda: scene.a.state("g") == scene.b.state("g") == "stranded")
        check(scene.b.json("info", "g")["state_reason"], "stranded, and no reason is given")
        with Pipe(scene.to.address) as other:
            scene.a.run("migrate", "g", "--recover", other.address)
            scene.ends_well(interrupted=1)
            check(other.connections >= 3, f"{other.connections} connections on the new way: no lane")


def limited():
    """What is pushed keeps to the limit, on the move's connection and on lanes, and pays for what is answered. The
    guest asks for little by itself, since answers are never held back: one that asked for all of it would get it
    faster."""
    limit = 10_000_000
    for lanes in ("0", "3"):
        began = time.monotonic()
        with Scene("--mode", "post-copy", "--bandwidth", "80Mbit/s", "--compress", "off", "--lanes", lanes,
                   rate=None, cmdline=MEMORY[1] + " verify=0") as scene:
            before, pulling = scene.pipe.passed, time.monotonic()
            out, err = scene.migrate.communicate(timeout=100)
            passed, spent = scene.pipe.passed - before, time.monotonic() - pulling
            check(scene.migrate.returncode == 0, err)
            bill = json.loads(out)
            check(bill["lanes"]["limit_bytes_per_s"] == limit, str(bill["lanes"]))
            check(len(bill["lanes"]["list"]) == int(lanes), str(bill["lanes"]))
            check(sum(lane["bytes"] for lane in bill["lanes"]["list"]) > 32 << 20 or lanes == "0", str(bill["lanes"]))
            # The stream's bytes while it pulled, by the source's clock; and what the network saw, by this one's.
            ns = next(stage["ns"] for stage in bill["stages"] if stage["stage"] == "pulling")
            pushed = bill["bytes"]["page_data"] + bill["bytes"]["repeated_pages"] + bill["bytes"]["zero_ranges"]
            check(pushed > 60 << 20, str(bill["bytes"]))
            check(bill["faults"]["pages_pushed"] > 32 << 8, str(bill["faults"]))
            check(pushed <= limit * ns / 1e9 * 1.05, f"{pushed} bytes in {ns / 1e9} s")
            check(passed <= limit * (spent + pulling - began) * 1.05, f"{passed} bytes in {spent} s")
            print(f"# {lanes} lanes: {pushed * 1000 // ns} MB/s of {limit // 1000000}")
            scene.ends_well(said=(out, err))


def let_go_on_the_way():
    """The limit is changed while the guest runs at the target already."""
    with Scene("--mode", "post-copy", "--bandwidth", "2Mbit/s", rate=None) as scene:
        control = scene.a.control("g")
        wait_for("the limit to show", lambda: (control.call("vm.migrate_status")["result"].get("progress") or {})
                 .get("limit_bytes_per_s") == 250000)
        check(scene.migrate.poll() is None, "it ended too soon to be changed")
        scene.a.run("migrate", "g", "--bandwidth", "0")
        bill = scene.ends_well()
        check(bill["lanes"]["limit_bytes_per_s"] is None, str(bill["lanes"]))


def packed():
    """What is pushed is packed like any other page, on lanes and without; the bill says what that saved."""
    for lanes in ("0", "2"):
        with Scene("--mode", "post-copy", "--compress", "lz4", "--lanes", lanes,
                   cmdline=MEMORY[1] + " rate=1000 verify=0 repeat=64") as scene:
            scene.pipe.rate = None
            bill = scene.ends_well()
            saving = bill["classes"]["packed"]
            check(saving["pages"] > 4096 and saving["cpu_ns"] > 0, str(saving))
            check(saving["saved_bytes"] > saving["pages"] * 2048, str(saving))


def refusals():
    """In the middle, by name; and each leaves everything as it was."""
    with Scene() as scene:
        for host, args, text in (
                (scene.a, ("migrate", "g", "--cancel"), "runs at the target already"),
                (scene.a, ("migrate", "g", "--post-copy", "now"), "runs at the target already"),
                (scene.a, ("migrate", "g", "127.0.0.1:1"), "busy: serving"),
                (scene.a, ("resume", "g"), "not paused"),
                (scene.a, ("checkpoint", "g", "/tmp/no"), "busy: serving"),
                (scene.b, ("migrate", "g", "127.0.0.1:1"), "busy: pulling"),
                (scene.b, ("checkpoint", "g", "/tmp/no"), "busy: pulling"),
                (scene.b, ("pause", "g"), "still arriving"),
                (scene.b, ("migrate", "g", "--recover"), "nothing is moving")):
            done = host.run(*args, check=False)
            check(done.returncode in (1, 2) and text in done.stderr, f"{args}: {done.returncode} {done.stderr}")
        check([vm["state"] for vm in scene.b.json("ps")] == ["pulling"], "ps does not say that it pulls")
        scene.pipe.rate = None
        scene.ends_well()


def the_source_is_killed():
    """Its memory is gone, so the guest stays stopped where it needs it, and never runs on anything else."""
    with Scene(rate=1 << 20) as scene:
        scene.vm.signal(signal.SIGKILL)
        wait_for("the target to be stranded", lambda: scene.b.state("g") == "stranded")
        text = scene.to.text
        check("BAD" not in text, text[-300:])
        scene.b.run("kill", "g")
        wait_for("the target's process to end", lambda: not process_exists(scene.b.pid("g") or scene.to.pid))
        check(scene.b.is_empty() and not is_open(scene.to.address), "kill left something")
        check("BAD" not in scene.to.text, scene.to.text[-300:])


def the_source_is_ended():
    """By its operator: the target is told, and says so."""
    with Scene(rate=8 << 20) as scene:
        scene.a.run("kill", "g")
        wait_for("the target to be stranded", lambda: scene.b.state("g") == "stranded")
        check("ended with memory" in scene.b.json("info", "g")["state_reason"], scene.b.json("info", "g"))
        scene.b.run("kill", "g")
        check(scene.b.is_empty(), "kill left something")


def the_target_is_killed():
    """The guest died with its owner. The source never runs it again; a new receiver's store tells it why."""
    with Scene(rate=1 << 20) as scene:
        scene.b.vms[-1].pid = scene.b.pid("g")
        scene.to.pid = scene.b.pid("g")
        scene.to.kill()
        wait_for("the source to be stranded", lambda: scene.a.state("g") == "stranded")
        again = scene.b.receive()
        scene.a.run("migrate", "g", "--recover", again.address)
        out, err = scene.migrate.communicate(timeout=60)
        check(scene.migrate.returncode == 1, f"status {scene.migrate.returncode}")
        check(re.search("target's process died", err), err)
        wait_for("the source to let go", scene.a.is_empty)


def the_guest_ends():
    """Before all of its memory has come: the source need not wait for that any more."""
    with Scene(rate=2 << 20) as scene:
        scene.b.run("kill", "g")
        out, err = scene.migrate.communicate(timeout=60)
        check(scene.migrate.returncode == 0, f"status {scene.migrate.returncode}: {err}")
        check('"pages_missing": 0' not in out, "no page was missing?")
        wait_for("the source to let go", scene.a.is_empty)
        check(scene.b.is_empty(), "the target left something")


def switch_on_the_way():
    """A pre-copy that cannot end, since the guest writes faster than the network carries, is ended by a person."""
    with Host() as a, Host() as b:
        vm = a.guest("g", "writer", "dense=64M hot=48M verify=1", memory="128M")
        to = b.receive()
        with Pipe(to.address) as pipe:
            pipe.rate = 30 << 20
            migrate = a.start("migrate", "g", pipe.address, "--max-downtime", "1ms", "--json")
            wait_for("pages to travel", lambda: a.state("g") == "migrating" and pipe.connections)
            vm.progress()
            check(a.run("migrate", "g", "--post-copy", "now").stderr.count("both hosts") == 1, "no word of the risk")
            wait_for("the target to pull", lambda: b.names() == ["g"] and b.state("g") in ("pulling", "running"))
            out, err = migrate.communicate(timeout=100)
            check(migrate.returncode == 0, err)

            bill = check_bill(json.loads(out))
            check(bill["faults"]["duplicates"] == 0 and bill["rounds"]["count"] >= 1, str(bill["faults"]))
        vm.ended()
        to.pid = b.pid("g")
        to.progress()
        to.stop()
        said = Transcript()
        said.add(vm)
        said.add(to)
        said.verify()


def waits_are_short():
    """Told, not judged: what a load that fetches its page took, as the guest saw it."""
    with Host() as a, Host() as b:
        vm = a.guest("g", "fetch", "dense=200M long=25000", memory="256M")
        to = b.receive()
        bill = a.migrate("g", to.address, "--mode", "post-copy")
        vm.ended()
        to.pid = b.pid("g")
        said = to.expect(r"ok \d+ pages=51200 waits=(\d+) (.*)\n")
        print(f"# the guest waited {said[1]} times, ns: {said[2]}; the monitor saw {bill['faults']['wait_ns']['p50']}")
        to.stop()


if __name__ == "__main__":
    need_kvm()
    run_tests([
        ("there and back", there_and_back),
        ("a cut connection", cut_and_back),
        ("recover to a new address", recover_to_a_new_address),
        ("limited", limited),
        ("let go on the way", let_go_on_the_way),
        ("packed", packed),
        ("refusals", refusals),
        ("the source is killed", the_source_is_killed),
        ("the source is ended", the_source_is_ended),
        ("the target is killed", the_target_is_killed),
        ("the guest ends", the_guest_ends),
        ("switch on the way", switch_on_the_way),
        ("waits", waits_are_short),
    ])
