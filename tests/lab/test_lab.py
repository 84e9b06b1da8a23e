#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The lab keeps its promises: commands, copies, cables, power cuts, and that nothing is left."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.dirname(os.path.abspath(__file__))
LAB = os.path.join(ROOT, "lab", "lab")
sys.path.insert(0, os.path.join(ROOT, "lab"))

from godwitlab import Lab, LabError, LabTimeout, net, state  # noqa: E402

PREFIX = f"test-{os.getpid()}"


class Failure(Exception):
    pass


def expect(truth, what):
    if not truth:
        raise Failure(what)


def expect_error(kind, part, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as err:
        expect(part in str(err), f"the error '{err}' does not mention '{part}'")
    else:
        raise Failure(f"no error that mentions '{part}'")


def eventually(truth, what, limit_s=60):
    end = time.monotonic() + limit_s
    while not truth():
        expect(time.monotonic() < end, f"not within {limit_s} s: {what}")
        time.sleep(0.05)


def leftovers(name):
    """What still shows that a lab of this name was there."""
    found = []
    if os.path.exists(state.folder(name)):
        found.append(state.folder(name))
    if os.path.isdir("/run/netns"):
        found += [n for n in os.listdir("/run/netns") if n.startswith(f"godwit-lab-{name}-")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(name == word or f"godwit-lab-{name}-" in word for word in command):
            found.append(f"process {pid}: {' '.join(command)[:80]}")
    return found


def expect_nothing_left(name):
    expect(not leftovers(name), f"left behind: {leftovers(name)}")


def pings(host, address):
    return host.run(["ping", "-c", "1", "-W", "1", address], check=False).status == 0


def test_exec(lab):
    a = lab["a"]
    result = a.run(["sh", "-c", "echo out; echo err >&2; exit 7"], check=False)
    expect(result == (7, b"out\n", b"err\n"), f"streams and status: {result}")
    for status in 0, 1, 126, 255:
        expect(a.run(["sh", "-c", f"exit {status}"], check=False).status == status, "exact status")
    expect(a.run(["sh", "-c", "kill -9 $$"], check=False).status == 137, "status after a signal")
    result = a.run(["/no/such/program"], check=False)
    expect(result.status == 127 and b"/no/such/program" in result.stderr, f"no program: {result}")
    expect_error(LabError, "status 3", a.run, ["sh", "-c", "exit 3"])

    data = os.urandom(3 << 20)
    expect(a.run(["cat"], input=data).stdout == data, "bytes there and back")
    expect(a.run(["head", "-c", "10"], input=data).stdout == data[:10], "input nobody reads")
    expect(a.run(["cat"]).stdout == b"", "no input is empty input")

    words = ["a b", "", "*", "$HOME", "\\", "ä"]
    expect(a.run(["printf", "%s|", *words]).stdout.decode() == "".join(f"{w}|" for w in words),
           "arguments arrive as they are")
    a.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo left"], timeout=30)


def test_exec_limits(lab):
    a = lab["a"]
    expect_error(LabTimeout, "1 s", a.run, ["sh", "-c", "echo $$ >/tmp/pid; exec sleep 1000"],
                 timeout=1)
    eventually(lambda: a.run(["sh", "-c", "kill -0 $(cat /tmp/pid)"], check=False).status != 0,
               "a command out of time is stopped")

    running = a.start(["sh", "-c", "trap 'exit 5' TERM; echo go; while :; do sleep 0.1; done"])
    eventually(lambda: b"go" in running.stdout, "a started command speaks")
    running.signal(signal.SIGTERM)
    expect(running.wait(30).status == 5, "a signal reaches the command")

    running = a.start(["sh", "-c", "echo $$ >/tmp/pid; yes"], on_out=lambda data: None)
    eventually(lambda: a.run(["test", "-s", "/tmp/pid"], check=False).status == 0, "its start")
    running.stop()
    eventually(lambda: a.run(["sh", "-c", "kill -0 $(cat /tmp/pid)"], check=False).status != 0,
               "a stopped command is gone, though it was writing")


def test_exec_concurrent(lab):
    wrong = []

    def one(number):
        host = lab["ab"[number % 2]]
        data = bytes([number]) * (100000 + number)
        if host.run(["cat"], input=data).stdout != data:
            wrong.append(number)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not wrong, f"concurrent commands mixed up: {wrong}")


def test_detach(lab):
    a = lab["a"]
    pid = a.detach(["sh", "-c", "echo started; exec sleep 1000"], log="/tmp/job.log")
    eventually(lambda: a.run(["cat", "/tmp/job.log"]).stdout == b"started\n", "the job's log")
    a.run(["kill", "-0", str(pid)])
    a.run(["kill", str(pid)])
    eventually(lambda: a.run(["kill", "-0", str(pid)], check=False).status != 0, "the job's end")
    expect_error(LabError, "/no/such", a.detach, ["/no/such"])


def test_copy(lab):
    with tempfile.TemporaryDirectory(prefix="godwit-test-") as folder:
        there, back = os.path.join(folder, "there"), os.path.join(folder, "back")
        data = os.urandom(20 << 20)
        with open(there, "wb") as file:
            file.write(data)
        os.chmod(there, 0o750)
        lab["a"].push(there, "/tmp/copy")
        digest = lab["a"].run(["sha256sum", "/tmp/copy"]).stdout.split()[0].decode()
        expect(digest == hashlib.sha256(data).hexdigest(), "checksum in the host")
        mode = lab["a"].run(["stat", "-c", "%a", "/tmp/copy"]).stdout.strip()
        expect(mode == b"750", f"mode {mode}")
        lab["a"].pull("/tmp/copy", back)
        with open(back, "rb") as file:
            expect(file.read() == data, "the copy that came back")
        os.unlink(back)
        expect_error(LabError, "No such file", lab["a"].pull, "/no/such", back)
        expect(os.listdir(folder) == ["there"], "a failed pull leaves nothing")
        expect_error(LabError, "status", lab["a"].push, there, "/no/such/folder/x")


def test_kvm(lab):
    with tempfile.TemporaryDirectory(prefix="godwit-test-") as folder:
        program = os.path.join(folder, "kvm_hlt")
        subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-static", "-o", program,
                        os.path.join(HERE, "kvm_hlt.c")], check=True)
        for host in lab.hosts:
            host.push(program, "/tmp/kvm_hlt")
            expect(b"kvm runs guests" in host.run(["/tmp/kvm_hlt"]).stdout, "kvm")
    for host in lab.hosts:
        host.run(["sh", "-c", "test -s /images/web/vmlinuz && test -s /images/web/root.squashfs"])
        host.run(["sh", "-c", "ip tuntap add t0 mode tap && ip link set t0 master br0 up && "
                              "ip link delete t0"])


def test_network(lab):
    a, b = lab["a"], lab["b"]
    expect(pings(a, b.address) and pings(b, net.CLIENT), "hosts and client see each other")
    outside = net.socket_in(lab.netns)
    outside.settimeout(5)
    try:
        outside.connect((a.address, 7777))
        raise Failure("the command server answers on the data network")
    except ConnectionRefusedError:
        pass
    finally:
        outside.close()
    listed = lab.client(["ip", "-br", "link"], capture_output=True, text=True).stdout
    expect("a-data" in listed and "a-data" not in os.listdir("/sys/class/net"),
           "taps are in the lab's namespace alone")


def test_cable(lab):
    a, b = lab["a"], lab["b"]
    for silent in False, True:
        lab.cut("a", silent=silent)
        expect(not pings(b, a.address), f"cut (silent={silent}) and still there")
        carrier = a.run(["cat", "/sys/class/net/data0/carrier"]).stdout.strip()
        expect(carrier == (b"1" if silent else b"0"), f"carrier is {carrier}, silent={silent}")
        lab.join("a")
        eventually(lambda: pings(b, a.address), "joined, and reachable again")


def test_shape(lab):
    a, b = lab["a"], lab["b"]

    def fastest_ms():
        out = b.run(["ping", "-c", "5", "-i", "0.2", a.address]).stdout.decode()
        return float(out.split("rtt ")[1].split("= ")[1].split("/")[0])

    lab.shape("a", rate="100mbit", delay="100ms")
    expect(fastest_ms() >= 100, "the delay")      # a lower bound: no load makes it fail
    listed = a.run(["tc", "qdisc"]).stdout.decode()
    expect(listed.count("rate 100Mbit") == 2, f"a rate for each direction: {listed}")
    lab.shape("a")
    expect(b"netem" not in a.run(["tc", "qdisc", "show", "dev", "data0"]).stdout, "limits lifted")
    expect_error(LabError, "status", lab.shape, "a", rate="nonsense")
    lab.shape("a")


def test_command_line(lab):
    def cli(*args, **kwargs):
        return subprocess.run([LAB, "--name", lab.name, *args], capture_output=True, **kwargs)

    done = cli("exec", "b", "--", "sh", "-c", "cat; echo e >&2; exit 9", input=b"unread")
    expect((done.returncode, done.stdout, done.stderr) == (9, b"", b"e\n"), f"exec: {done}")
    expect(cli("exec", "-i", "b", "--", "cat", input=b"\0\xff").stdout == b"\0\xff", "exec -i")
    expect(cli("exec", "--timeout", "1", "b", "--", "sleep", "100").returncode == 124, "time limit")
    sleeper = subprocess.Popen([LAB, "--name", lab.name, "exec", "b", "--", "sh", "-c",
                                "trap 'exit 6' INT; echo in; while :; do sleep 0.1; done"],
                               stdout=subprocess.PIPE)
    expect(sleeper.stdout.readline() == b"in\n", "output arrives while the command runs")
    sleeper.send_signal(signal.SIGINT)
    expect(sleeper.wait(30) == 6, "an interrupt goes to the command")
    done = cli("exec", "z", "--", "true")
    expect(done.returncode == 2 and b"no host 'z'" in done.stderr, f"unknown host: {done}")
    done = cli("client", "--", "ip", "-br", "address", "show", "lan")
    expect(net.CLIENT.encode() in done.stdout, f"client: {done}")
    done = cli("status", "--json")
    expect(lab.name in [r["name"] for r in json.loads(done.stdout)], "status")
    expect(b"godwit-host: ready" in cli("console", "a").stdout, "console")
    done = cli("up")
    expect(done.returncode == 2 and b"is running already" in done.stderr, f"same name: {done}")
    expect(lab["a"].run(["true"]).status == 0, "the lab is unharmed by that")


def test_power(lab):
    running = lab["a"].start(["sleep", "1000"])
    lab.kill("a")
    expect(lab.host_record("a")["state"] == "dead", "state after the power cut")
    expect_error(LabError, "died", running.wait, 30)
    expect_error(LabError, "is dead", lab["a"].run, ["true"])
    lab["b"].run(["true"])
    lab.boot("a")
    eventually(lambda: lab.host_record("a")["state"] == "up", "the host is back", 120)
    expect(lab["a"].run(["ls", "/tmp"]).stdout == b"", "a new host remembers nothing")
    eventually(lambda: pings(lab["b"], lab["a"].address), "and is on the network")


def test_hung_boot():
    name = f"{PREFIX}-hung"
    expect_error(LabError, "was not up after", Lab.up, name, hosts=1, boot_seconds=0.5)
    expect_nothing_left(name)


def test_interrupted_up():
    name = f"{PREFIX}-int"
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGKILL:
        up = subprocess.Popen([LAB, "--name", name, "up"], stdout=subprocess.DEVNULL)
        eventually(lambda: os.path.exists(os.path.join(state.folder(name), "a.qmp")), "a boot")
        up.send_signal(number)
        up.wait(60)
        if number == signal.SIGKILL:
            eventually(lambda: not leftovers(name), "the lab ends with its starter")
        expect_nothing_left(name)


def start_client(name):
    """A command of the outside client, known to run."""
    client = subprocess.Popen([LAB, "--name", name, "client", "--",
                               "sh", "-c", "echo in; sleep 1000"], stdout=subprocess.PIPE)
    expect(client.stdout.readline() == b"in\n", "the client's start")
    return client


def test_keeper_killed():
    """Also while another lab runs: neither disturbs the other."""
    name = f"{PREFIX}-keeper"
    subprocess.run([LAB, "up", "--name", name, "-n", "1"], check=True, stdout=subprocess.DEVNULL)
    client = start_client(name)
    os.kill(state.read(name)["keeper"], signal.SIGKILL)
    client.wait(60)
    eventually(lambda: not leftovers(name), "the janitor's work")
    expect_error(LabError, "there is no lab", Lab.attach, name)


def test_down():
    name = f"{PREFIX}-down"
    done = subprocess.run([LAB, "up", "--name", name, "-n", "1"], check=True, timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(b"up after" in done.stdout, "its output has an end while the lab goes on")
    client = start_client(name)
    subprocess.run([LAB, "down", "--name", name], check=True)
    client.wait(60)
    expect_nothing_left(name)
    subprocess.run([LAB, "down", "--name", name], check=True)      # once more harms nothing


SHARED = [test_exec, test_exec_limits, test_exec_concurrent, test_detach, test_copy, test_kvm,
          test_network, test_cable, test_shape, test_command_line, test_power]
ALONE = [test_hung_boot, test_interrupted_up, test_keeper_killed, test_down]


def main():
    if os.geteuid() != 0:
        print("skipped: the lab needs root")
        return 77
    for tool in "qemu-system-x86_64", "ip", "mmdebstrap":
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed (scripts/packages.txt names its package)")
            return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = 0

    def attempt(test, *args):
        nonlocal failed
        start = time.monotonic()
        try:
            test(*args)
            verdict = "ok"
        except (Failure, LabError, OSError, subprocess.SubprocessError) as err:
            verdict = f"FAILED: {err}"
            failed += 1
        print(f"{test.__name__}: {verdict} ({time.monotonic() - start:.1f} s)", flush=True)

    try:
        with Lab.up(PREFIX, report=lambda event: print(event, flush=True)) as lab:
            for test in SHARED:
                attempt(test, lab)
            for test in ALONE[:-1]:
                attempt(test)
            expect(lab["b"].run(["true"]).status == 0, "the first lab is unharmed by the others")
        expect_nothing_left(PREFIX)
    except (Failure, LabError) as err:
        print(f"FAILED: {err}")
        failed += 1
    attempt(ALONE[-1])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
