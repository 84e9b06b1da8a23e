#!/usr/bin/env python3
"""The life of a VM over the fake hypervisor, whose vCPUs only count steps: on any machine.

Its guest says nothing, so progress is read from checkpoints: the first register is the number of steps, and
each vCPU's memory is a function of it.
"""
import json
import os
import re
import signal
import socket

from harness import Control, Host, check, check_bill, run_tests, wait_for

MEMORY = "64M"


def start(host, name="vm", *args):
    return host.vm("run", "--name", name, "--kernel", "/none", "--memory", MEMORY, "--fake", *args)


def receive(host, *args, once=True):
    return host.receive("--fake", *args, once=once)


def saved(host, name="vm"):
    """A checkpoint, decoded."""
    path = os.path.join(host.base, f".{name}.godwit")
    bill = check_bill(host.json("checkpoint", name, path))
    check(bill["outcome"] == "completed" and bill["owner"] == "source", str(bill))
    dump = json.loads(host.run("dump", path).stdout)
    check(all(section["checksum_ok"] for section in dump["sections"]), "a checksum")
    return dump["sections"], path


def steps(host, name="vm"):
    return [s["body"]["gpr"][0] for s in saved(host, name)[0] if s["type"] == "vcpu"]


def progress(host, name="vm"):
    """Every vCPU gets on."""
    before = steps(host, name)
    wait_for(f"{name} to get on", lambda: all(a > b for a, b in zip(steps(host, name), before)))


def life():
    with Host() as host:
        check(host.names() == [], "an empty host")
        vm = start(host, "vm", "--cpus", "2")
        facts = host.json("info", "vm")
        check(host.json("ps")[0]["name"] == "vm" and facts["pid"] == vm.pid, str(facts))
        check(facts["state"] == "running" and facts["config"]["machine"]["vcpus"] == 2, str(facts))
        check(facts["config"]["machine"]["memory_bytes"] == 64 << 20, str(facts))
        progress(host)
        host.run("pause", "vm")
        host.run("pause", "vm")
        check(host.state("vm") == "paused", "not paused")
        before = steps(host)
        check(steps(host) == before, "a paused guest got on")
        check(host.state("vm") == "paused", "a checkpoint ended the pause")
        host.run("resume", "vm")
        progress(host)
        host.run("kill", "vm")
        vm.ended()
        check(host.is_empty(), "something is left")
        check("no VM named vm" in host.run("kill", "vm", status=2).stderr, "killed twice")


def moves():
    """There and back, all four kinds of ways; each bill adds up."""
    with Host() as a, Host() as b:
        vm, here, there = start(a), a, b
        for mode in ("pre-copy", "stop-copy", "stop-copy", "pre-copy"):
            before = steps(here)[0]
            to = receive(there)
            bill = here.migrate("vm", to.address, "--mode", mode)
            check(bill["outcome"] == "completed" and bill["owner"] == "target", str(bill))
            vm.ended()
            wait_for("the old host to be empty", here.is_empty)
            check(there.names() == ["vm"] and there.state("vm") == "running", "the new host")
            check(steps(there)[0] >= before, "the guest went back in time")
            progress(there)
            vm, here, there = to, there, here
        here.run("kill", "vm")
        vm.ended()


def restores():
    """A file is a VM of that moment, however often, under the name one likes."""
    with Host() as a, Host() as b:
        vm = start(a)
        sections, path = saved(a)
        at = [s["body"]["gpr"][0] for s in sections if s["type"] == "vcpu"][0]
        a.run("kill", "vm")
        vm.ended()
        for name in ("first", "second"):
            copy = b.vm("restore", path, "--fake", "--name", name, "--paused")
            check(b.state(name) == "paused" and steps(b, name) == [at], "not the guest that was saved")
            b.run("resume", name)
            progress(b, name)
            check(copy.process.poll() is None, "it ended")
        check(b.names() == ["first", "second"], str(b.names()))


def uuid(host, name):
    return host.json("info", name)["config"]["machine"]["uuid"]


def identities():
    """A host has each guest once, whatever it is called; a copy under another name is another guest."""
    with Host() as a, Host() as b:
        vm = start(a)
        path = saved(a)[1]
        copies = [b.vm("restore", path, "--fake", "--name", name) for name in ("first", "second", "vm")]
        known = [uuid(b, name) for name in ("first", "second", "vm")]
        check(len(set(known)) == 3 and known[2] == uuid(a, "vm"), str(known))
        b.run("kill", "vm")
        copies[2].ended()

        to = receive(a, "--name", "other", once=False)
        bill = a.migrate("vm", to.address, status=1)
        check(bill["failure"]["reason"] == "name" and "already, as VM 'vm'" in bill["failure"]["text"], str(bill["failure"]))
        facts = json.loads(a.run("migrate", "vm", to.address, "--check", "--json", status=1).stdout)["facts"]
        check([f["ok"] for f in facts if f["fact"] == "name"] == [False], str(facts))
        check(a.state("vm") == "running" and a.state("other") == "receiving", str(a.json("ps")))
        to.signal(15)
        to.ended(status=1)

        to = receive(b, "--name", "moved")
        check(a.migrate("vm", to.address)["outcome"] == "completed", "it did not move")
        vm.ended()
        check(uuid(b, "moved") == known[2], "another guest by the move")
        refused = b.run("restore", path, "--fake", "--detach", status=2, check=False)
        check(refused.returncode == 2 and "already, as VM 'moved'" in refused.stderr, refused.stderr)
        check(b.names() == ["first", "moved", "second"], str(b.names()))
        to = receive(a)  # and back, to where its file of then is still about
        check(b.migrate("moved", to.address)["outcome"] == "completed" and uuid(a, "moved") == known[2], "not back")


def checks():
    """What --check foretells is the move that was asked for, not just any."""
    with Host() as a, Host() as b:
        vm, to = start(a), receive(b)

        def ask(*options):
            report = json.loads(a.run("migrate", "vm", to.address, "--check", "--json", *options).stdout)
            return report["predicted"], [f["text"] for f in report["facts"] if f["fact"] == "host"]
        stop, facts = ask("--mode", "stop-copy")
        check(stop["downtime_ns"] == stop["time_ns"] and stop["rounds"] == 0 and stop["ends_with"] == "stop", str(stop))
        check(not any("fetched" in text for text in facts), str(facts))
        pre, _ = ask("--mode", "pre-copy")
        check(pre["rounds"] > 0 and pre["downtime_ns"] < pre["time_ns"], str(pre))
        for options in ("--mode", "post-copy"), ("--post-copy", "now"):
            post, facts = ask(*options)
            check(post["ends_with"] == "switch" and post["rounds"] == 0, str(post))
            check(post["downtime_ns"] < post["time_ns"], str(post))
            check(any("fetched" in text for text in facts), f"nothing about userfaultfd: {facts}")
        hurry, _ = ask("--post-copy", "allow", "--max-downtime", "1us")
        check(hurry["ends_with"] == "switch", str(hurry))
        a.run("kill", "vm")
        vm.ended()
        to.signal(15)


def reasons():
    """Why a move failed, in a word that a program can act on."""
    with Host() as a, Host() as b:
        vm, other, to = start(a), start(b), receive(b)
        bill = a.migrate("vm", to.address, status=1)
        check(bill["failure"]["reason"] == "name" and bill["owner"] == "source", str(bill["failure"]))
        bill = a.migrate("vm", "127.0.0.1:1", status=1)
        check(bill["failure"]["reason"] == "connect", str(bill["failure"]))
        for host in a, b:
            host.run("kill", "vm")
        vm.ended()
        other.ended()


def a_machine_of_another_kind():
    """A real machine does not fit a fake host, nor the other way round; nothing happens to it."""
    with Host() as a, Host() as b:
        start(a)
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return
        to = b.receive()
        bill = a.migrate("vm", to.address, status=1)
        check(bill["outcome"] == "failed" and bill["owner"] == "source" and bill["failure"]["text"], str(bill))
        to.process.wait(30)
        check(b.is_empty() and a.state("vm") == "running", "after a refusal")


# -------------------------------------------------------------------------------------- the control socket

BAD_REQUESTS = [
    (b"nonsense\n", -32700),
    (b"{\n", -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":\n', -32700),
    (b"\xff\xfe\x00\x01\n", -32700),
    (b"[" * 5000 + b"\n", -32700),
    (b"[]\n", -32600),
    (b"42\n", -32600),
    (b'"vm.info"\n', -32600),
    (b'{"id":1,"method":"vm.info"}\n', -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"vm.info"}\n', -32600),
    (b'{"jsonrpc":"2.0","id":1}\n', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":7}\n', -32600),
    (b'{"jsonrpc":"2.0","id":{},"method":"vm.info"}\n', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.explode"}\n', -32601),
    (b'{"jsonrpc":"2.0","id":1,"method":""}\n', -32601),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.info","params":[1]}\n', -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.info","params":{"x":1}}\n', -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.migrate"}\n', -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.migrate","params":{"to":9}}\n', -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.checkpoint","params":{"file":"relative"}}\n', -32000),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.migrate","params":{"to":"' + b"x" * 5000 + b'"}}\n', -32000),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.migrate","params":{"to":"h:1","stall_limit_ns":-1}}\n', -32000),
    (b'{"jsonrpc":"2.0","id":1,"method":"vm.migrate_cancel"}\n', -32000),
    (b'{"x":"' + b"y" * (1 << 20) + b'"}\n', None),  # longer than a line may be
]


def bad_requests():
    """Each gets an error object, on a connection that goes on; the VM notices nothing."""
    with Host() as host:
        start(host)
        with host.control("vm") as control:
            for line, code in BAD_REQUESTS:
                control.raw(line)
                got = control.message()
                shown = line[:60]
                check(got is not None, f"{shown}: the connection was closed")
                check("error" in got and got["jsonrpc"] == "2.0", f"{shown}: {got}")
                check(code is None or got["error"]["code"] == code, f"{shown}: {got}")
                check(control.call("vm.info")["result"]["name"] == "vm", f"{shown}: and then")
        progress(host)


def rude_clients():
    """Clients that stop in the middle, never read, come in crowds, or just go."""
    with Host() as host:
        start(host)
        path = os.path.join(host.base, "vm", "control.sock")
        for piece in (b"", b"{", b'{"jsonrpc":"2.0","id":1,"method":"vm.info"}', b"\n\n\n", b"\0" * 4096):
            with Control(path) as control:
                control.raw(piece)
        deaf = Control(path)
        deaf.sock.setblocking(False)
        request = b'{"jsonrpc":"2.0","id":1,"method":"vm.info"}\n' * 1000
        sent = 0
        try:
            while sent < 64 << 20:
                sent += deaf.sock.send(request)
        except BlockingIOError:
            pass
        check(sent < 64 << 20, "a client that never reads is read without end")
        crowd = []
        try:
            for _ in range(100):
                crowd.append(Control(path))
        except OSError:
            pass
        for one in crowd:
            one.close()
        deaf.close()
        check(wait_for("the monitor to serve again", lambda: host.run("info", "vm", check=False).returncode == 0), "")
        progress(host)


def promised_memory():
    """A host promises its memory once, however many ask at the same time, and until the guest has gone again. Who
    starts guests on a host may promise more than it has."""
    with open("/proc/meminfo", encoding="ascii") as f:
        spare = int(re.search(r"MemAvailable:\s+(\d+) kB", f.read())[1]) // 1024
    memory = f"{spare * 11 // 20 // 2 * 2}M"
    names = "one", "two", "three"
    with Host() as a, Host() as b:
        for name in names:
            a.vm("run", "--name", name, "--kernel", "/none", "--memory", memory, "--fake")
        log = open(os.path.join(a.base, "three", "log"), encoding="utf-8").read()
        check("promised to other guests" in log, f"overcommitting was not told: {log}")

        to = {name: receive(b, once=False) for name in names}
        report = json.loads(a.run("migrate", "one", to["one"].address, "--check", "--json").stdout)
        check(report["ok"], f"the first one: {report['facts']}")
        moves = {name: a.start("migrate", name, to[name].address, "--json") for name in names}
        bills = {name: check_bill(json.loads(move.communicate(timeout=60)[0])) for name, move in moves.items()}
        moved = [name for name in names if bills[name]["owner"] == "target"]
        check(len(moved) == 1, f"{len(moved)} of them were told that they fit")
        for name in names:
            failure = bills[name]["failure"]
            check(name in moved or failure["reason"] == "memory" and "promised" in failure["text"], str(failure))

        rest = [name for name in names if name not in moved]
        done = a.run("migrate", rest[0], to[rest[0]].address, "--check", "--json", check=False)
        told = [f for f in json.loads(done.stdout)["facts"] if f["fact"] == "memory"]
        check(done.returncode == 1 and not told[0]["ok"] and "promised" in told[0]["text"], str(told))
        file = os.path.join(a.base, ".file")
        a.json("checkpoint", rest[0], file)
        b.vm("restore", file, "--fake", "--name", "too-much")
        b.run("kill", "too-much")
        os.kill(b.pid(moved[0]), signal.SIGKILL)
        wait_for("the dead to be noticed", lambda: b.json("ps")[0]["state"] != "running")
        bill = a.migrate(rest[0], to[rest[0]].address)
        check(bill["owner"] == "target", "what was promised to the dead stayed promised")


def events():
    """Every change of state and the end of a move are told to who asked for events."""
    with Host() as a, Host() as b:
        start(a)
        with a.control("vm") as control:
            control.call("events.subscribe")
            a.run("pause", "vm")
            control.event(lambda method, p: method == "vm.state" and p["state"] == "paused")
            a.run("resume", "vm")
            control.event(lambda method, p: method == "vm.state" and p["state"] == "running")
            to = receive(b)
            check("result" in control.call("vm.migrate", to=to.address), "vm.migrate")
            control.event(lambda method, p: method == "move.progress" and p["stage"] == "reservation")
            done = control.event(lambda method, _: method == "move.done")
            check(done["ok"] and check_bill(done["bill"])["owner"] == "target", str(done))


def wrong_addresses():
    """Nobody there, or nobody who answers: the VM stays."""
    with Host() as host, socket.create_server(("127.0.0.1", 0)) as silent:
        start(host)
        for to in ("127.0.0.1:1", "[::1]:1", "127.0.0.1:%d" % silent.getsockname()[1]):
            bill = host.migrate("vm", to, "--stall-limit", "300ms", status=1)
            check(bill["outcome"] == "failed" and bill["owner"] == "source" and bill["failure"], str(bill))
            check(host.state("vm") == "running", "not running any more")
        progress(host)


def vsock():
    """A vsock device moves and is restored, with its host side wherever the guest is; no driver, no agent, no delay."""
    with Host() as a, Host() as b:
        vm = start(a, "vm", "--vsock", "3", "--self-migrate", "any", "--self-migrate", "[::1]:7000")
        path = os.path.join(a.base, "vm", "vsock.sock")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(path)
            client.sendall(b"CONNECT 1021\n")
            check(client.recv(64) == b"", "a connection to a guest without a driver")
        check("no vsock driver" in a.run("agent", "vm", status=1).stderr, "an agent")
        to = receive(b)
        bill = a.migrate("vm", to.address)
        agent = bill["agent"]
        check(agent and not agent["present"] and "no vsock driver" in agent["failure"], str(agent))
        check(agent["restored_by"] == "target" and agent["slowed"] == 0, str(agent))
        vm.ended()
        wait_for("the old host to be empty", a.is_empty)
        check(os.path.exists(os.path.join(b.base, "vm", "vsock.sock")), "no host side after a move")
        with b.control("vm") as control:
            wait_for("the arrival to be settled", lambda: not control.call("vm.migrate_status")["result"]["moving"])
        progress(b)
        sections, file = saved(b)
        state = [s["body"] for s in sections if s["type"] == "virtio-vsock"][0]
        check(state["cid"] == 3 and state["ticket"] == "", str(state))
        b.run("kill", "vm")
        to.ended()
        b.vm("restore", file, "--fake", "--name", "again")
        check(os.path.exists(os.path.join(b.base, "again", "vsock.sock")), "no host side after a restore")
        check(b.json("info", "again")["config"]["machine"]["vsock_cid"] == 3, "its address")
        for bad in ("2", "0", "4294967295", "x"):
            a.run("run", "--name", "bad", "--kernel", "/none", "--fake", "--detach", "--vsock", bad, status=2)
        for bad in ("host:", "host:0x7", ""):
            a.run("run", "--name", "bad", "--kernel", "/none", "--fake", "--detach", "--self-migrate", bad, status=2)
        without = start(a, "none")
        check("no vsock device" in a.run("agent", "none", status=1, check=False).stderr, "no device")
        a.run("kill", "none")
        without.ended()
        check(a.is_empty(), "something is left")


if __name__ == "__main__":
    run_tests([
        ("life", life),
        ("moves", moves),
        ("restores", restores),
        ("identities", identities),
        ("checks", checks),
        ("reasons", reasons),
        ("promised memory", promised_memory),
        ("a machine of another kind", a_machine_of_another_kind),
        ("bad requests", bad_requests),
        ("rude clients", rude_clients),
        ("events", events),
        ("wrong addresses", wrong_addresses),
        ("vsock", vsock),
    ])
