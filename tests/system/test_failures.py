#!/usr/bin/env python3
"""Moves and checkpoints that fail, with real processes on this machine's own KVM.

After every failure before the commitment: the source's guest goes on as if nothing had happened, having lost
not a tick; at the target no process, no directory and, with --once, no open port is left; the bill adds up,
names the reason and says that the source owns the guest. The network between the two is a Relay, which cuts,
damages or holds up the stream at exactly the message a test means.
"""
import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time

from harness import (GODWIT, LIMIT, TINY, Failed, Host, Relay, Transcript, check, check_bill, is_open, need_kvm,
                     process_exists, run_tests, wait_for)

DENSE = "dense=8M hot=2M"  # for a move with several rounds of several sections
SOON = ("--stall-limit", "1s")  # after a lost connection the source tries so long to tell the target
LONG = "dense=400M hot=4M verify=0"


class Scene:
    """Two hosts, and a guest on the first."""

    def __init__(self, cmdline=DENSE, memory="64M", args=()):
        self.a, self.b = Host(insecure=True), Host(insecure=True)
        self.vm = self.a.guest("g", "writer", cmdline, *args, memory=memory)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.a.close()
        self.b.close()

    def still_here(self):
        """The guest runs on at the source, all its memory right."""
        check(self.a.names() == ["g"], f"the source has {self.a.names()}")
        wait_for("the source to run", lambda: self.a.state("g") == "running")
        self.vm.progress()
        start = len(self.vm.text)
        self.vm.send("check\n")
        self.vm.expect(r"ok \d+ ", start)
        said = Transcript()
        said.add(self.vm)
        said.verify()

    def gone(self, to, once=True):
        """Nothing is left of the guest at the target; with `once` nothing at all."""
        if once:
            wait_for("the receiver to end", lambda: to.process.poll() is not None)
            check(to.process.returncode != 0, "a receiver that got nothing ended with status 0")
            check(not process_exists(to.pid), "its process is still there")
            check(self.b.is_empty(), f"left at the target: {os.listdir(self.b.base)}")
            check(not is_open(to.address), "its port is still open")
        else:
            wait_for("the receiver to wait again",
                     lambda: [name for name in self.b.names() if name.startswith("arriving-")])
            check(len(self.b.names()) == 1 and not os.path.exists(os.path.join(self.b.base, "g")),
                  f"left at the target: {os.listdir(self.b.base)}")

    def works(self):
        """And then a move succeeds."""
        to = self.b.receive()
        bill = self.a.migrate("g", to.address)
        check(bill["outcome"] == "completed", str(bill["failure"]))
        self.vm.ended()
        to.progress()
        check(self.b.names() == ["g"], "the target does not have it")
        wait_for("the source to let go", lambda: self.a.names() == [])
        wait_for("the port to close", lambda: not is_open(to.address))
        to.stop()
        said = Transcript()
        said.add(self.vm)
        said.add(to)
        said.verify()


def failed(bill, reason, owner="source", outcome="failed", stage=None):
    check_bill(bill)
    check(bill["outcome"] == outcome, f"outcome {bill['outcome']}: {bill['failure']}")
    check(bill["owner"] == owner, f"owner {bill['owner']}: {bill['failure']}")
    check(bill["failure"] and re.search(reason, bill["failure"]["text"]), f"no {reason!r} in {bill['failure']}")
    check(bill["failure"]["fault"] not in ("none", "bug"), f"whose fault is {bill['failure']}")
    check(stage is None or bill["failure"]["stage"] == stage, f"stage of {bill['failure']}, not {stage}")
    return bill


# ---------------------------------------------------------------------------------------------- refusals


def refused(reason, make):
    """make(scene, stack) gives the arguments of the receiver; the move is refused for `reason`."""
    def test():
        with contextlib.ExitStack() as stack:
            scene, receive_args = make(stack)
            to = scene.b.receive(*receive_args)
            failed(scene.a.migrate("g", to.address, status=1), reason, stage="pre-migration")
            scene.gone(to)
            scene.still_here()
            again = scene.b.receive(*receive_args, once=False)
            failed(scene.a.migrate("g", again.address, status=1), reason, stage="pre-migration")
            scene.gone(again, once=False)
            scene.still_here()
    return test


def with_disk(there):
    """there(path of a copy to make or not) gives what the target is told."""
    def make(stack):
        scratch = stack.enter_context(Host(insecure=True))
        disk, copy = os.path.join(scratch.base, "disk"), os.path.join(scratch.base, "copy")
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        scene = stack.enter_context(Scene(args=("--disk", f"root={disk}")))
        return scene, there(copy)
    return make


def other_size(copy):
    with open(copy, "wb") as f:
        f.truncate(1 << 19)
    return ["--disk", f"root={copy}"]


def name_in_use():
    with Scene() as scene:
        other = scene.b.guest("g", "writer")
        to = scene.b.receive()
        failed(scene.a.migrate("g", to.address, status=1), r"\bg\b", stage="pre-migration")
        to.process.wait(LIMIT)
        check(scene.b.names() == ["g"] and scene.b.pid("g") == other.pid, "the other VM of that name")
        other.progress()
        scene.still_here()
        other.stop()
        scene.works()


@contextlib.contextmanager
def tap(name):
    made = subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], capture_output=True, text=True,
                          check=False)
    if made.returncode:
        raise Failed(f"no tap can be made: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)


def tap_missing(stack):
    name = stack.enter_context(tap(f"gwt{os.getpid() % 100000}"))
    scene = stack.enter_context(Scene(args=("--net", f"lan={name}")))
    return scene, ["--net", "lan=nosuchtap"]


def too_much_memory():
    """More than there is on the target: promised before a page moves. The receiver is kept from having so much by
    a limit of its address space."""
    with Scene(memory="2G") as scene:
        limit = 1 << 30
        to = scene.b.vm("receive", "--listen", "127.0.0.1:0", "--once",
                        limits=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
        failed(scene.a.migrate("g", to.address, status=1), "memory", stage="reservation")
        scene.gone(to)
        scene.still_here()


def nobody_listens():
    with Scene() as scene:
        for address in ("127.0.0.1:1", "[::1]:1"):
            failed(scene.a.migrate("g", address, status=1), "connect", stage="pre-migration")
        scene.still_here()
        scene.works()


def to_itself():
    """A receiver on the same host finds the name in use: by the very VM that wants to move there."""
    with Scene() as scene:
        to = scene.a.receive()
        failed(scene.a.migrate("g", to.address, status=1), r"\bg\b", stage="pre-migration")
        to.process.wait(LIMIT)
        scene.still_here()


def two_at_once():
    """While one move is under way another order is refused by the monitor, and one more VM of the name by the
    target; the first move is not disturbed."""
    with Scene() as scene, Host(insecure=True) as c:
        twin = c.guest("g", "writer", DENSE)
        to, also = scene.b.receive(), scene.b.receive()
        reached, go_on = threading.Event(), threading.Event()

        def at(direction, name, count):
            if (direction, name, count) == ("there", "pages", 3):
                reached.set()
                go_on.wait(LIMIT)

        with Relay(to.address, at) as relay:
            first = scene.a.start("migrate", "g", relay.address, "--json")
            check(reached.wait(LIMIT), "no pages came")
            second = scene.a.run("migrate", "g", also.address, check=False)
            check(second.returncode and "busy" in second.stderr, f"two orders at once: {second}")
            failed(c.migrate("g", also.address, status=1), r"\bg\b", stage="pre-migration")
            also.process.wait(LIMIT)
            go_on.set()
            bill = check_bill(json.loads(first.communicate(timeout=LIMIT)[0]))
            check(bill["outcome"] == "completed", str(bill["failure"]))
        scene.vm.ended()
        twin.progress()
        to.progress()
        check(scene.b.names() == ["g"] and c.names() == ["g"], "each has its own")
        twin.stop()
        to.stop()


# --------------------------------------------------------------------------------- cuts, kills and stalls


def breaks(where, order, mode="pre-copy", reason="."):
    """The stream is cut, halved or damaged at one section, before the commitment."""
    def test():
        with Scene() as scene:
            to = scene.b.receive()
            done = []

            def at(*section):
                if section == where and not done:
                    done.append(section)
                    return order
                return None

            with Relay(to.address, at) as relay:
                failed(scene.a.migrate("g", relay.address, "--mode", mode, *SOON, status=1), reason)
                check(done, f"the move never came to {where}")
            if where[1] == "hello":
                check(to.process.poll() is None, "ended after a move that it never heard of")
                to.signal(signal.SIGTERM)
            scene.gone(to)
            scene.still_here()
            scene.works()
    return test


def target_killed(where, mode="pre-copy"):
    def test():
        with Scene() as scene:
            to = scene.b.receive()

            def at(*section):
                if section == where:
                    to.kill()

            with Relay(to.address, at) as relay:
                failed(scene.a.migrate("g", relay.address, "--mode", mode, *SOON, status=1), ".")
            check(not process_exists(to.pid) and not is_open(to.address), "it lives")
            scene.b.run("kill", scene.b.names()[0])  # what a killed monitor leaves, this removes
            check(scene.b.is_empty(), "kill left something")
            scene.still_here()
            scene.works()
    return test


def target_killed_in_a_long_move():
    """Without a relay, at moments told by the events."""
    for fraction in (0.1, 0.5, 0.9):
        with Scene(LONG, "512M") as scene, scene.a.control("g") as control:
            to = scene.b.receive()
            control.call("events.subscribe")
            mover = scene.a.start("migrate", "g", to.address, "--json", *SOON)
            control.event(lambda m, p: m == "move.done" or
                          m == "move.progress" and p["pages_sent"] > fraction * (400 << 8) * 0.5)
            to.kill()
            bill = json.loads(mover.communicate(timeout=LIMIT)[0])
            failed(bill, ".", stage="pre-copy")
            scene.still_here()


def source_killed(where, prepared=False):
    """The guest is lost, as with any crash of its monitor; the target holds nothing of it and serves the next."""
    def test():
        with Scene() as scene:
            to = scene.b.receive(once=False)

            def at(*section):
                if section == where:
                    scene.vm.kill()

            with Relay(to.address, at) as relay:
                mover = scene.a.run("migrate", "g", relay.address, check=False)
                check(mover.returncode == 3, f"exit status {mover.returncode}")
            if prepared:
                # The source may have committed for all the target can know: it holds, but does not run, the guest.
                wait_for("the target to be uncertain",
                         lambda: "uncertain" in [vm["state"] for vm in scene.b.json("ps")])
                check(to.text == "", f"an uncertain guest ran: {to.text!r}")
                scene.b.run("kill", "g")
                to.process.wait(LIMIT)
                return
            scene.gone(to, once=False)
            scene.a.run("kill", "g")
            scene.vm = scene.a.guest("g", "writer", DENSE)
            bill = scene.a.migrate("g", to.address)
            check(bill["outcome"] == "completed", str(bill["failure"]))
            scene.vm.ended()
            to.progress()
            check(scene.b.names() == ["g"] and scene.a.is_empty(), "exactly one host has it")
            to.stop()
    return test


def cancelled(where, mode="pre-copy", once=True):
    def test():
        with Scene() as scene:
            to = scene.b.receive(once=once)

            def at(*section):
                if section == where:
                    scene.a.run("migrate", "g", "--cancel")

            with Relay(to.address, at) as relay:
                failed(scene.a.migrate("g", relay.address, "--mode", mode, status=1), "cancel", outcome="cancelled")
            scene.gone(to, once)
            scene.still_here()
            check(scene.a.run("migrate", "g", "--cancel", check=False).returncode, "nothing is left to cancel")
            if not once:
                to.signal(signal.SIGTERM)
                to.process.wait(LIMIT)
            scene.works()
    return test


def in_its_pages(scene, to, order):
    """What a `migrate` prints, to both, that is given an order while pages travel: order(its process)."""
    reached = threading.Event()

    def at(*section):
        if section == ("there", "pages", 2):
            order(mover)
            reached.set()
            time.sleep(0.2)  # not for waiting: a slow network, in which the order arrives first

    with Relay(to.address, at) as relay:
        mover = scene.a.start("migrate", "g", relay.address, "--json")
        printed = mover.communicate(timeout=LIMIT)
    check(reached.is_set(), "no pages came")
    return printed


def interrupted():
    """SIGINT to the command cancels the move, not the guest."""
    with Scene() as scene:
        to = scene.b.receive()
        out, _ = in_its_pages(scene, to, lambda mover: mover.send_signal(signal.SIGINT))
        failed(json.loads(out), "cancel", outcome="cancelled")
        scene.gone(to)
        scene.still_here()


def killed_on_purpose():
    """`kill` in the middle of a move: whoever waits for the move hears how it ended, and why."""
    with Scene() as scene:
        to, killer = scene.b.receive(), []
        out, err = in_its_pages(scene, to, lambda _: killer.append(scene.a.start("kill", "g")))
        check(killer[0].wait(LIMIT) == 0, "kill failed")
        bill = json.loads(out)
        check(bill["owner"] == "source" and bill["outcome"] != "completed", str(bill))
        check("the VM ended in the middle of it" in err, err)
        scene.gone(to)
        wait_for("the source to be gone", scene.a.is_empty)


def stalled(where, mode="pre-copy"):
    """A target that stands still is given up after the limit; woken again, it vanishes."""
    def test():
        with Scene() as scene:
            to = scene.b.receive()

            def at(*section):
                if section == where:
                    to.signal(signal.SIGSTOP)

            with Relay(to.address, at) as relay:
                failed(scene.a.migrate("g", relay.address, "--mode", mode, "--stall-limit", "500ms", status=1), ".")
            scene.still_here()
            to.signal(signal.SIGCONT)
            scene.gone(to)
            scene.works()
    return test


# ------------------------------------------------------------------------------------------- commitment


def answer_lost(where, then):
    """The connection breaks around the commitment: neither runs it on a guess, and it resolves by itself once
    they reach each other again."""
    def test():
        with Scene() as scene:
            to = scene.b.receive()
            done = []

            def at(*section):
                if section == where and not done:
                    done.append(section)
                    return "cut"
                if section[1] == "resolve":
                    states.append(scene.a.state("g"))
                return None

            states = []
            with Relay(to.address, at) as relay:
                mover = scene.a.start("migrate", "g", relay.address, "--json")
                bill = check_bill(json.loads(mover.communicate(timeout=2 * LIMIT)[0]))
                check(done, f"the move never came to {where}")
                check(bill["owner"] == then, f"owner {bill['owner']}: {bill['failure']}")
                check(where[1] == "activated" or states[:1] == ["uncertain"], f"the source was {states}")
                if then == "target":
                    scene.vm.ended()
                    to.progress()
                    check(scene.b.names() == ["g"] and scene.a.names() == [], "exactly one host has it")
                    to.stop()
                else:
                    scene.gone(to)
                    scene.still_here()
                    scene.works()
    return test


# ---------------------------------------------------------------------------------------------- strangers


def strangers():
    """What is no godwit does no harm to a receiver, nor to a move that comes meanwhile."""
    with Scene() as scene:
        to = scene.b.receive(once=False)
        host, _, port = to.address.rpartition(":")
        header = b"godwit\r\n\x01\x00\x01\x00\x3e\x00\x00\x00"
        open_ones = []
        for piece in (b"", os.urandom(100000), header, header[:5], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 4096):
            with socket.create_connection((host, int(port))) as stranger:
                with contextlib.suppress(ConnectionError):
                    stranger.sendall(piece)
        silent = socket.create_connection((host, int(port)))
        open_ones.append(silent)
        half = socket.create_connection((host, int(port)))
        half.sendall(header)
        open_ones.append(half)
        check(len(scene.b.names()) == 1 and process_exists(to.pid), "the receiver is gone")
        bill = scene.a.migrate("g", to.address)
        check(bill["outcome"] == "completed", str(bill["failure"]))
        scene.vm.ended()
        to.progress()
        check(scene.b.names() == ["g"] and scene.a.names() == [], "exactly one host has it")
        for one in open_ones:
            one.close()
        to.stop()


def strangers_before_once():
    """--once means one move, not one connection: a port scan does not end a receiver."""
    with Scene() as scene:
        to = scene.b.receive()
        host, _, port = to.address.rpartition(":")
        for piece in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000)):
            with socket.create_connection((host, int(port))) as stranger:
                with contextlib.suppress(ConnectionError):
                    stranger.sendall(piece)
                    stranger.shutdown(socket.SHUT_WR)
                    stranger.settimeout(LIMIT)
                    while stranger.recv(4096):
                        pass
        bill = scene.a.migrate("g", to.address)
        check(bill["outcome"] == "completed", str(bill["failure"]))
        scene.vm.ended()
        to.progress()
        to.stop()


# -------------------------------------------------------------------------------------------- checkpoints


def no_room():
    """A full disk: the guest goes on, and no file is there; an older one stays as it was."""
    with Scene() as scene:
        full = os.path.join(scene.a.base, ".full")
        os.mkdir(full)
        small = 2 << 20
        with open(os.path.join(full, "limit"), "w") as f:
            f.write(str(small))
        # Its monitor cannot write longer files, from here on.
        resource.prlimit(scene.vm.pid, resource.RLIMIT_FSIZE, (small, small))
        path = os.path.join(full, "g.godwit")
        for before in (None, b"an older one"):
            if before:
                with open(path, "wb") as f:
                    f.write(before)
            done = scene.a.run("checkpoint", "g", path, "--json", status=1)
            failed(json.loads(done.stdout), "g.godwit|large|space")
            check(sorted(os.listdir(full)) == (["g.godwit", "limit"] if before else ["limit"]), str(os.listdir(full)))
            check(not before or open(path, "rb").read() == before, "the older one")
            scene.still_here()


def full_file_system():
    """The same on a file system that is really full."""
    with Scene() as scene:
        mount = os.path.join(scene.a.base, ".small")
        os.mkdir(mount)
        # A mount namespace of its own: nobody else sees it, and it goes with its last process.
        script = ('mount -t tmpfs -o size=2m none "$1" && "$2" --runtime-dir "$3" run --name m --kernel "$4" '
                  '--memory 64M --cmdline "dense=8M" --detach && shift 4 && echo mounted && read -r _ && ls "$@"')
        inside = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", mount, GODWIT, scene.a.base,
                                   os.path.join(TINY, "writer.elf"), mount], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            line = inside.stdout.readline() + inside.stdout.readline()
            check("mounted" in line, f"no private mount: {line}")
            wait_for("m to fill its memory", lambda: scene.a.json("info", "m")["resident_bytes"] > 8 << 20)
            done = scene.a.run("checkpoint", "m", os.path.join(mount, "m.godwit"), "--json", status=1)
            failed(json.loads(done.stdout), "space")
            check(scene.a.state("m") == "running", "m does not run on")
            left = inside.communicate("\n", timeout=LIMIT)[0]
            check(left == "", f"left on the full file system: {left}")
            scene.a.run("kill", "m")
        finally:
            inside.kill()
            inside.wait()
        scene.still_here()


def saved(scene, *args):
    path = os.path.join(scene.a.base, ".g.godwit")
    scene.a.json("checkpoint", "g", path, *args)
    with open(path, "rb") as f:
        return path, f.read()


def sections(data):
    """Where sections begin, and where the last one ends."""
    at = 40
    while at < len(data):
        yield at
        at += 24 + int.from_bytes(data[at + 8:at + 12], "little")
    yield at


def not_restored(scene, data, reason):
    path = os.path.join(scene.b.base, ".bad.godwit")
    with open(path, "wb") as f:
        f.write(data)
    done = scene.b.run("restore", path, "--detach", check=False)
    check(done.returncode in (1, 2), f"exit status {done.returncode}")
    check(done.stderr.count("\n") == 1 and re.search(reason, done.stderr), f"no reason: {done.stderr!r}")
    check(scene.b.is_empty(), f"left: {os.listdir(scene.b.base)}")


def torn():
    """A file cut short anywhere is never taken for a whole one."""
    with Scene("dense=1M") as scene:
        _, data = saved(scene)
        starts = list(sections(data))
        check(starts[-1] == len(data), "the sections do not make up the file")
        for cut in [0, 1, 39, 40, 41, *starts[1:4], *starts[-4:-1], starts[3] + 10, starts[3] + 1000, starts[-2] + 24,
                    len(data) - 1]:
            not_restored(scene, data[:cut], "cut short|ends|truncated|short|end")
        not_restored(scene, data + b"\0", ".")
        not_restored(scene, data[:starts[2]] + data[starts[3]:], ".")  # a section lost
        scene.still_here()


def flipped():
    """One bit anywhere, in each section's head and body, is noticed before the guest runs."""
    with Scene("dense=1M") as scene:
        _, data = saved(scene)
        starts = list(sections(data))
        places = {8, 16, 33}
        for at, end in zip(starts, starts[1:]):
            places |= {at, at + 8, at + 12, at + 16, at + 24, (at + 24 + end) // 2, end - 1}
        for place in sorted(places):
            bad = bytearray(data)
            bad[place] ^= 4
            not_restored(scene, bad, ".")


def disk_of_a_checkpoint():
    """A checkpoint whose disk is missing, or another one, is refused by name; with the disk it goes on."""
    with Host(insecure=True) as scratch:
        disk, copy = os.path.join(scratch.base, "disk"), os.path.join(scratch.base, "copy")
        with open(disk, "wb") as f:
            f.write(os.urandom(1 << 20))
        with Scene(args=("--disk", f"root={disk}")) as scene:
            path, _ = saved(scene)
            other_size(copy)
            for args in ([], ["--disk", "root=/no/such/disk"], ["--disk", f"root={copy}"], ["--disk", f"data={disk}"]):
                done = scene.b.run("restore", path, "--detach", *args, check=False)
                check(done.returncode in (1, 2) and "root" in done.stderr or "data" in done.stderr, done.stderr)
                check(done.stderr.count("\n") == 1 and scene.b.is_empty(), done.stderr)
            scene.a.run("kill", "g")
            again = scene.b.vm("restore", path, "--disk", f"root={disk}")
            again.progress()
            again.stop()


if __name__ == "__main__":
    need_kvm()
    run_tests([
        ("refused: name in use", name_in_use),
        ("refused: disk not given", refused("root", with_disk(lambda copy: []))),
        ("refused: disk missing", refused("root", with_disk(lambda copy: ["--disk", f"root={copy}"]))),
        ("refused: disk of another size", refused("root", with_disk(other_size))),
        ("refused: tap missing", refused("lan|nosuchtap", tap_missing)),
        ("refused: memory", too_much_memory),
        ("nobody listens", nobody_listens),
        ("to itself", to_itself),
        ("two at once", two_at_once),
        ("cut at hello", breaks(("there", "hello", 0), "cut")),
        ("cut at the verdict", breaks(("back", "verdict", 0), "cut")),
        ("cut in the first pages", breaks(("there", "pages", 1), "half")),
        ("cut in later pages", breaks(("there", "pages", 20), "half")),
        ("cut at the end of a round", breaks(("back", "round-ack", 0), "cut")),
        ("cut in a stop-copy", breaks(("there", "pages", 20), "half", "stop-copy")),
        ("cut in device state", breaks(("there", "6", 0), "half")),
        ("cut when prepared", breaks(("back", "prepared", 0), "cut")),
        ("damaged hello", breaks(("there", "hello", 0), "flip")),
        ("damaged verdict", breaks(("back", "verdict", 0), "flip")),
        ("damaged machine", breaks(("there", "2", 0), "flip")),
        ("damaged pages", breaks(("there", "pages", 7), "flip")),
        ("damaged device state", breaks(("there", "7", 0), "flip")),
        ("damaged answer", breaks(("back", "prepared", 0), "flip")),
        ("target killed at hello", target_killed(("there", "hello", 0))),
        ("target killed before pages", target_killed(("there", "round", 0))),
        ("target killed in pages", target_killed(("there", "pages", 10))),
        ("target killed in a stop-copy", target_killed(("there", "pages", 10), "stop-copy")),
        ("target killed at the state's end", target_killed(("there", "state-done", 0))),
        ("target killed in a long move", target_killed_in_a_long_move),
        ("source killed in pages", source_killed(("there", "pages", 10))),
        ("source killed before the commitment", source_killed(("back", "prepared", 0), prepared=True)),
        ("cancelled at the verdict", cancelled(("back", "verdict", 0))),
        ("cancelled in pre-copy", cancelled(("there", "pages", 10))),
        ("cancelled in a stop-copy", cancelled(("there", "pages", 10), "stop-copy")),
        ("cancelled, and the receiver waits on", cancelled(("there", "pages", 10), once=False)),
        ("interrupted", interrupted),
        ("killed on purpose", killed_on_purpose),
        ("stalled at hello", stalled(("there", "hello", 0))),
        ("stalled in pages", stalled(("there", "pages", 10))),
        ("stalled in a stop-copy", stalled(("there", "pages", 10), "stop-copy")),
        ("commit lost", answer_lost(("there", "commit", 0), "target")),
        ("committed lost", answer_lost(("back", "committed", 0), "target")),
        ("activated lost", answer_lost(("back", "activated", 0), "target")),
        ("strangers", strangers),
        ("strangers before a move, once", strangers_before_once),
        ("checkpoint beyond the file limit", no_room),
        ("checkpoint on a full file system", full_file_system),
        ("torn checkpoint", torn),
        ("flipped checkpoint", flipped),
        ("a checkpoint's disk", disk_of_a_checkpoint),
    ])
