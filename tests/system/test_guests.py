#!/usr/bin/env python3
"""Tiny guests on this machine's own KVM, each moved there and back by every mode, saved and restored.

Each guest verifies its one property by itself and says BAD when it does not hold (guest/tiny/tiny.h). What is
verified from outside: the console continues without a byte lost or doubled, exactly one host has the VM,
and in the end the guest switches itself off content.
"""
import os
import re
import struct

from harness import Host, Transcript, check, need_kvm, run_tests, wait_for

# mode -> what `godwit migrate` is told
WAYS = {
    "pre-copy": ("--mode", "pre-copy"),
    "stop-copy": ("--mode", "stop-copy"),
    "post-copy": ("--mode", "post-copy"),
    "auto": ("--mode", "auto", "--post-copy", "allow", "--throttle", "never", "--max-downtime", "1us",
             "--bandwidth", "400Mbit/s"),
    "clark05": ("--mode", "pre-copy", "--policy", "clark05"),
}
ROUNDS = 2  # every guest goes every way so often
FIRST_DEVICE = 0xd0000000  # registers of the first virtio device; the next ones follow at 0x1000 each


def owned_by(name, here, there):
    """Exactly one host has it, once the other has let go."""
    check(here.names() == [name], f"the new host has {here.names()}")
    wait_for(f"{name} to leave the old host", lambda: there.names() == [])


def fnv1a(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001b3) & (1 << 64) - 1
    return value


class Journey:
    """One guest's way through moves and a checkpoint, with all that its places are given."""

    def __init__(self, kernel, cmdline="", run=(), place=(), memory="64M"):
        self.kernel, self.cmdline, self.args, self.place, self.memory = kernel, cmdline, run, place, memory
        self.said = Transcript()
        self.typed = b""
        self.bills = []

    def talk(self, vm):
        """For the guest that answers. Only what the serial chip has taken is the guest's and moves with it, so
        the answer is waited for."""
        if self.kernel != "serial":
            return
        line = f"line {len(self.typed)} of a conversation"
        vm.send(line + "\n")
        self.typed += line.encode() + b"\n"
        vm.expect(f"echo {line}\n")

    def move(self, vm, there, way):
        to = there.receive(*self.place)
        self.talk(vm)
        bill = vm.host.migrate("guest", to.address, *WAYS[way])
        check(bill["outcome"] == "completed" and bill["owner"] == "target", str(bill))
        check(bill["mode"] == WAYS[way][1], f"{way}: {bill['mode']}")
        check(way != "clark05" or bill["policy"]["name"] == "clark05", str(bill["policy"]))
        check(bill["downtime"] is not None, "a move without downtime")
        check(bill["faults"] is None or bill["faults"]["pages_missing"] == 0, str(bill["faults"]))
        check(bill["faults"] is not None or way != "post-copy", "post-copy in which nothing was fetched or pushed")
        self.bills.append((way, bill))
        vm.ended()
        owned_by("guest", there, vm.host)
        self.said.add(vm)
        to.pid = there.pid("guest")
        to.progress()
        return to

    def save_and_restore(self, vm):
        """Into a file, paused, so that what it said until then is known exactly; and out of it."""
        host, path = vm.host, os.path.join(vm.host.base, ".guest.godwit")
        self.talk(vm)
        host.run("pause", "guest")
        bill = host.json("checkpoint", "guest", path)
        check(bill["outcome"] == "completed" and bill["owner"] == "source", str(bill))
        check(host.state("guest") == "paused", "a paused guest did not stay paused")
        host.run("kill", "guest")
        vm.ended()
        check(host.is_empty(), "kill left something")
        self.said.add(vm)
        restored = host.vm("restore", path, *self.place)
        restored.progress()
        return restored

    def run(self):
        with Host() as a, Host() as b:
            vm = a.guest("guest", self.kernel, self.cmdline, *self.args, memory=self.memory)
            vm.progress()
            for way in list(WAYS) * ROUNDS:
                vm = self.move(vm, b if vm.host is a else a, way)
            vm = self.save_and_restore(vm)
            vm = self.move(vm, b if vm.host is a else a, "pre-copy")
            self.talk(vm)
            vm.stop()
            self.said.add(vm)
            check(a.is_empty() and b.is_empty(), "something is left of the VM")
        self.said.verify()
        if self.kernel == "serial":
            self.verify_conversation()

    def verify_conversation(self):
        """Every line came back once, in order, and the guest counted the very bytes that were typed."""
        lines = self.typed.decode().splitlines()
        echoed = re.findall(r"^echo (.*)$", self.said.text, re.M)
        check(echoed[:len(lines)] == lines, f"typed {lines}, came back {echoed}")
        heard = re.findall(r"bytes=(\d+) hash=([0-9a-f]+)", self.said.text)[-1]
        typed = self.typed + b"stop\n"
        check(int(heard[0]) in (len(self.typed), len(typed)), f"{heard[0]} bytes heard of {len(typed)}")
        check(int(heard[1], 16) == fnv1a(typed[:int(heard[0])]), f"hash of what was heard: {heard[1]}")


def block_device(cmdline, option=""):
    """vring.c on a disk, which the places share."""
    def test():
        with Host() as scratch:
            path = os.path.join(scratch.base, "disk")
            with open(path, "wb") as disk:
                disk.write(os.urandom(1 << 20))
            before = open(path, "rb").read()
            Journey("vring", f"mmio={FIRST_DEVICE:#x} {cmdline}", ("--disk", f"root={path}{option}"),
                    ("--disk", f"root={path}")).run()
            after = open(path, "rb").read()
            check((before == after) == bool(option), "the disk's contents")
    return test


def writer():
    """It writes more than any pause could hold, and is not slowed: what auto may do is go on as post-copy."""
    journey = Journey("writer", "dense=24M hot=4M", memory="128M")
    journey.run()
    for way, bill in journey.bills:
        check(way != "auto" or bill["faults"] is not None, f"auto ended with {bill['policy']}")


def free_memory():
    """vring.c on the balloon, the second device: memory it reports as free does not travel, and is zero there."""
    journey = Journey("vring", f"mmio={FIRST_DEVICE + 0x1000:#x}")
    journey.run()
    for way, bill in journey.bills:
        check(bill["pages"]["free"] > 0, f"{way}: pages given back: {bill['pages']}")


def writer_goes_on_after_a_checkpoint():
    """A running guest is saved and goes on; the file gives the guest of that moment, twice."""
    with Host() as a, Host() as b:
        path = os.path.join(a.base, ".w.godwit")
        vm = a.guest("w", "writer", "dense=8M hot=2M")
        a.json("checkpoint", "w", path)
        vm.progress()
        for host, name in ((b, "first"), (b, "second")):
            copy = host.vm("restore", path, "--name", name)
            copy.progress()
        check(b.names() == ["first", "second"], str(b.names()))
        refused = a.run("restore", path, check=False)
        check(refused.returncode and "w" in refused.stderr and a.names() == ["w"], "a second w on one host")
        vm.stop()


def crashed_guest_leaves_its_last_words():
    """One that triple-faults ends; what it and its monitor last said stays, until the name is used again."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen", 0x100000)     # PVH: where it is entered
    # "bye" to the serial port, then an invalid instruction, and no table of handlers for it.
    code = b"".join(b"\xb0" + bytes([c]) + b"\x66\xba\xf8\x03\xee" for c in b"bye\n") + b"\x0f\x0b"
    parts = [(1, 176 + len(note), code, 0x100000), (4, 176, note, 0)]
    image = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64,
                                                                  56, 2, 0, 0, 0)
    for kind, offset, content, address in parts:
        image += struct.pack("<IIQQQQQQ", kind, 5, offset, address, address, len(content), len(content), 4)
    with Host() as host:
        kernel = os.path.join(host.base, ".crash.elf")
        with open(kernel, "wb") as file:
            file.write(image + note + code)
        done = host.run("run", "--name", "crash", "--memory", "64M", "--kernel", kernel, check=False)
        check("crash/log" in done.stderr and done.stdout == "bye\n", f"{done.stdout!r}, {done.stderr!r}")
        check(host.json("ps")[0]["state"] == "dead", "a crashed VM is listed as dead")
        left = os.path.join(host.base, "crash")
        check(sorted(os.listdir(left)) == ["console.log", "lock", "log"], str(os.listdir(left)))
        check(open(os.path.join(left, "console.log")).read() == "bye\n", "the console's last words")
        check("triple fault" in open(os.path.join(left, "log")).read(), "the log says why")
        host.run("kill", "crash")
        check(host.is_empty(), "kill left something")


def paused_guest_stays_paused():
    """A move keeps the user's pause; resume lets the guest go on at the other side."""
    with Host() as a, Host() as b:
        said = Transcript()
        vm = a.guest("w", "writer", "dense=8M hot=2M")
        a.run("pause", "w")
        to = b.receive()
        a.migrate("w", to.address)
        vm.ended()
        said.add(vm)
        check(b.state("w") == "paused", b.state("w"))
        check(to.text == "", f"a paused guest spoke: {to.text!r}")
        b.run("resume", "w")
        to.progress()
        to.stop()
        said.add(to)
        said.verify()


def typed_bytes_move():
    """What the serial chip holds and the guest has not read yet moves along: this one reads on each tick only."""
    with Host() as a, Host() as b:
        said, path = Transcript(), os.path.join(a.base, ".w.godwit")
        vm = a.guest("w", "writer", "tick=2000 verify=0")
        vm.send("check\n")

        def taken():
            a.json("checkpoint", "w", path)
            return b"check\n".hex() in a.run("dump", path).stdout or "ok" in vm.text
        wait_for("the serial chip to take what was typed", taken)
        to = b.receive()
        a.migrate("w", to.address)
        vm.ended()
        to.expect("tick")
        to.send("stop\n")
        to.ended()
        said.add(vm)
        said.add(to)
        said.verify()
        check(said.text.count("\nok ") == 2, f"'check' and 'stop' were not heard once each: {said.text!r}")


if __name__ == "__main__":
    need_kvm()
    run_tests([
        ("writer", writer),
        ("timer periodic", Journey("timer", "mode=periodic").run),
        ("timer one-shot", Journey("timer", "mode=oneshot").run),
        ("fpu", Journey("fpu", "loops=1000000").run),
        ("serial", Journey("serial").run),
        ("vring balloon", free_memory),
        ("vring rng", Journey("vring", f"mmio={FIRST_DEVICE:#x}").run),
        ("vring blk", block_device("")),
        ("vring blk read-only", block_device("", ",ro")),
        ("smp", Journey("smp", "cpus=2", ("--cpus", "2")).run),
        ("a checkpoint of a running guest", writer_goes_on_after_a_checkpoint),
        ("typed, not yet read", typed_bytes_move),
        ("a paused guest", paused_guest_stays_paused),
        ("a crashed guest", crashed_guest_leaves_its_last_words),
    ])
