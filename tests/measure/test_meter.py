#!/usr/bin/env python3
"""godwit-meter against processes that know what they used: it must say the same.

Nothing here is a matter of speed: a process takes its own counters before and after it was idle, and what the meter
saw meanwhile lies between them. Needs root, for the kernel tells only root which threads ran.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from meter import METER, Meter, Work, check_file, known, running_between, thread  # noqa: E402
from harness import Host, check, run_tests, skip  # noqa: E402

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
PROCESSORS = os.sysconf("SC_NPROCESSORS_ONLN")
RSS_SLACK = 64 * PAGE * (PROCESSORS + 4)  # the kernel counts resident pages apart, by thread or processor


def within(low, value, high, what):
    check(low <= value <= high, f"{what}: {value} is not within {low} and {high}")


def measured(*args, interval="20ms"):
    """Does a kind of work under a meter. Returns meter and the work's counters before, after it and after idling, and
    a sample of the idle time."""
    with Work(*args) as work, Meter("--pid", str(work.pid), interval=interval) as meter:
        meter.more()
        after = work.go()
        idle = meter.more()
        again = work.go()
        meter.more()
        meter.end()
        check_file(meter)
        return meter, work.ready, after, again, idle


def cpu():
    """CPU of the process and of each thread, exactly; and how many ran at once adds up to it."""
    meter, before, after, again, idle = measured("burn", 3, 60, 1)
    check(meter.first["thread_cpu"] == "schedstat", "CPU of threads in ticks only")
    within(after["cpu_ns"], idle["process"]["cpu_ns"], again["cpu_ns"], "CPU of the process")
    within(after["rusage_ns"] - 1000, idle["process"]["cpu_ns"], again["rusage_ns"] + 1000, "getrusage")
    for own, later in zip(after["threads"], again["threads"]):
        within(own["cpu_ns"], thread(idle, own["tid"])["cpu_ns"], later["cpu_ns"], "CPU of a thread")
        check(own["cpu_ns"] >= 60_000_000, f"burnt too little: {own}")


@known
def overlap():
    """Two threads on a processor each: together as long as their own counters say, at least and at most."""
    if PROCESSORS < 2:
        return
    meter, _, after, _, _ = measured("burn", 2, 150, 1)
    one, two = after["threads"]
    from_ns, to_ns = min(one["from_ns"], two["from_ns"]), max(one["to_ns"], two["to_ns"])
    running, first, last = running_between(meter, from_ns, to_ns)
    ran = sum(i * ns for i, ns in enumerate(running))
    used = last["process"]["cpu_ns"] - first["process"]["cpu_ns"]
    wall = last["at_ns"] - first["at_ns"]
    # The scheduler's count and the switch records differ by the switches themselves, and by what a hypervisor took.
    check(abs(ran - used) <= used // 10, f"on processors {ran}, CPU {used}")
    both = sum(running[2:])
    check(both >= used - wall - used // 10, f"both ran {both} of {wall}, with {used} of CPU")
    check(both <= min(one["cpu_ns"], two["cpu_ns"]) + used // 10, f"both ran {both}: {one} {two}")


@known
def one_processor():
    """Threads that share one processor never run at once, however often they take turns."""
    for kind in (("burn", 3, 60, 0), ("ping", 3000)):
        meter, _, after, _, _ = measured(*kind)
        running, first, last = running_between(meter, after["threads"][0]["from_ns"], after["threads"][0]["to_ns"])
        check(len(running) == 2, f"{kind}: {running}")
        used = last["process"]["cpu_ns"] - first["process"]["cpu_ns"]
        check(0 < running[1] <= used * 1.5, f"{kind}: {running[1]} of {used}")


def switches():
    """A byte goes to and fro 3000 times on one processor: as many switches of each, and the counts are their own."""
    _, before, after, again, idle = measured("ping", 3000)
    for start, own, later in zip(before["threads"], after["threads"], again["threads"]):
        seen = thread(idle, own["tid"])
        within(own["voluntary"], seen["voluntary"], later["voluntary"], "voluntary")
        within(own["involuntary"], seen["involuntary"], later["involuntary"], "involuntary")
        check(sum(seen[k] - start[k] for k in ("voluntary", "involuntary")) >= 2999, f"{seen} since {start}")


def switch_everywhere():
    """The kernel tells of lost records with the next one on the same processor, which may be idle."""
    allowed = os.sched_getaffinity(0)
    for processor in allowed:
        os.sched_setaffinity(0, {processor})
        time.sleep(0.001)
    os.sched_setaffinity(0, allowed)


def lost_records():
    """A meter that is stopped while the kernel's buffer overflows says that it does not know; then it knows again."""
    with Work("ping", 40000) as work, Meter("--pid", str(work.pid)) as meter:
        meter.more()
        os.kill(meter.process.pid, signal.SIGSTOP)
        seen = len(meter.read())
        try:
            work.go()
        finally:
            os.kill(meter.process.pid, signal.SIGCONT)
        meter.until("figures again", lambda s: len(meter.samples) > seen + 2 and meter.samples[-1]["running_ns"])
        switch_everywhere()
        meter.more()
        meter.end()
        check_file(meter)
        check(any(s["running_ns"] is None for s in meter.samples[seen:]), "lost records went unnoticed")
        check(meter.last["running_lost"] > 0, str(meter.last))


def memory():
    with Work("memory", 64 * MIB, 32 * MIB) as work, Meter("--pid", str(work.pid)) as meter:
        before = meter.more()["process"]
        work.go()
        full = meter.more()["process"]
        work.go()
        after = meter.more()["process"]
        meter.end()
        check_file(meter)
        within(64 * MIB - RSS_SLACK, full["anon_bytes"] - before["anon_bytes"], 64 * MIB + RSS_SLACK, "anonymous")
        within(32 * MIB - RSS_SLACK, full["shmem_bytes"] - before["shmem_bytes"], 32 * MIB + RSS_SLACK, "shared")
        within(64 * MIB - RSS_SLACK, full["anon_bytes"] - after["anon_bytes"], 64 * MIB + RSS_SLACK, "given back")


def storage():
    """What a process writes durably is in its own figures, and in the disk's if it is a disk the host has."""
    size = 16 * MIB
    with tempfile.NamedTemporaryFile(dir=os.environ.get("GODWIT_BUILD", ".")) as f:
        kind = subprocess.run(["stat", "-f", "-c", "%T", f.name], stdout=subprocess.PIPE, text=True, check=True).stdout
        with Work("write", size, f.name) as work, Meter("--pid", str(work.pid)) as meter:
            before = meter.more()
            work.go()
            after = meter.more()
            meter.end()
            check_file(meter)
        written = after["process"]["written_bytes"] - before["process"]["written_bytes"]
        if kind.strip() == "tmpfs":
            check(written == 0, f"{written} bytes written to memory")
            return
        within(size, written, size + size // 10, "written")
        device = os.stat(f.name).st_dev
        disk = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        if any(os.path.exists(os.path.join(at, "device")) for at in (disk, os.path.dirname(disk))):
            check(after["host"]["disk_written_bytes"] - before["host"]["disk_written_bytes"] >= size,
                  "the disk's bytes")


def tcp():
    """The bytes of a connection, from outside and from inside its network; the last ones too; and nobody else's."""
    there, back = 3_000_000, 70_000
    with Work("tcp", there, back) as work:
        inside = ("nsenter", f"--net=/proc/{work.pid}/ns/net")
        with Meter("--pid", str(work.pid)) as outer, Meter("--pid", str(work.pid), wrap=inside) as inner:
            ports = work.go()["ports"]
            for meter in (outer, inner):
                meter.more()
            work.go()
            for meter in (outer, inner):
                meter.until("the end of both", lambda s: sum(c.get("closed", False) for c in s["tcp"]) == 2 or
                            any(c.get("closed") for c in s["tcp"]) and not meter.samples[-1]["tcp"])
                meter.more()
                meter.end()
                check_file(meter)
                check_connections(meter, ports, there, back)
            check(inner.first["interfaces"] == ["lo"], str(inner.first))
            net = inner.samples[-1]["net"]["lo"]
            check(net["rx_bytes"] == net["tx_bytes"] >= 2 * there + back, str(net))
            check(net["rx_packets"] == net["tx_packets"] > 0, str(net))


def check_connections(meter, ports, there, back):
    ends = [f"127.0.0.1:{port}" for port in ports]
    for local, peer, open_bytes, last_bytes in ((ends[0], ends[1], (there, back), (2 * there, back)),
                                                (ends[1], ends[0], (back, there), (back, 2 * there))):
        lives = [c for s in meter.samples for c in s["tcp"] if c["local"] == local]
        check(all(c["peer"] == peer for c in lives), f"{lives}")
        check(any((c["sent_bytes"], c["received_bytes"]) == open_bytes for c in lives), f"{open_bytes}: {lives}")
        last = lives[-1]
        check(last.get("closed") and not any(c.get("closed") for c in lives[:-1]), f"the end of {local}: {lives}")
        within(last_bytes[0], last["sent_bytes"], last_bytes[0], "sent at the end")
        within(last_bytes[1], last["received_bytes"], last_bytes[1] + 1, "received at the end")  # 1: the peer's close
        check(last["rtt_us"] > 0 and (last["retransmitted"] > 0) == (last["retransmitted_bytes"] > 0), str(last))
    check({c["local"] for s in meter.samples for c in s["tcp"]} == set(ends), "somebody else's connection")
    check(meter.samples[-1]["tcp"] == [], "a connection that is gone")


@known
def brief_thread():
    """A thread that lives between two samples: in the process's figures, and in what ran."""
    with Work("brief", 50) as work, Meter("--pid", str(work.pid)) as meter:
        before = meter.more()
        for _ in range(3):
            after = work.go()
        idle = meter.more()
        meter.end()
        check_file(meter)
        check(idle["process"]["cpu_ns"] >= after["cpu_ns"] >= 150_000_000, f"{idle['process']}, own {after}")
        running, first, last = running_between(meter, before["at_ns"], idle["at_ns"])
        used = last["process"]["cpu_ns"] - first["process"]["cpu_ns"]
        ran = sum(i * ns for i, ns in enumerate(running))
        check(abs(ran - used) <= used // 10, f"on processors {ran}, CPU {used}")


def ended_thread():
    """It stays for one more sample; and its name, which is nobody's idea of a name, is told as it is."""
    with Work("linger") as work, Meter("--pid", str(work.pid)) as meter:
        tid = work.ready["threads"][0]["tid"]
        seen = thread(meter.more(), tid)
        check(seen["name"] == 'odd ") name', str(seen))
        work.go()
        meter.more()
        meter.end()
        check_file(meter)
        lives = [t for s in meter.samples for t in s["threads"] if t["tid"] == tid]
        check([t.get("ended", False) for t in lives] == [False] * (len(lives) - 1) + [True], str(lives))
        check(len(meter.samples[-1]["threads"]) == 1, "a thread that is gone")


def ended_process():
    """Its last figures stay, while the host is measured on."""
    with Work("burn", 2, 20, 1) as work, Meter("--pid", str(work.pid)) as meter:
        work.go()
        work.go()
        last = meter.more()["process"]
        work.process.kill()  # not yet waited for
        end = meter.until("the end", lambda s: s["process"].get("ended"))
        check(end["process"]["cpu_ns"] >= last["cpu_ns"] and all(t["ended"] for t in end["threads"]), str(end))
        work.process.wait()
        after = meter.more()
        check(after["process"] == end["process"] and after["threads"] == [], f"{after} after {end}")
        check(after["host"]["context_switches"] > end["host"]["context_switches"], "the host stood still")
        meter.end()
        check_file(meter)


def many_threads():
    with Work("idle", 400) as work, Meter("--pid", str(work.pid), interval="50ms") as meter:
        meter.more(4)
        meter.end()
        check_file(meter)
        looked = [s for s in meter.samples if s["threads"] is not None]
        check(looked and all(len(s["threads"]) == 401 for s in looked), "401 threads")
        check(all(s["process"]["cpu_ns"] for s in meter.samples), "the process is in every sample")


def waits():
    """The host alone until a process of that name comes, though it only later calls itself so."""
    with Meter("--wait-for", "godwit/far") as meter:
        check(meter.first["pid"] is None and meter.first["program"] == "godwit/far", str(meter.first))
        alone = meter.more()
        check(alone["process"] is None and alone["threads"] == [] and alone["host"]["user_ns"] > 0, str(alone))
        with Work("name", "godwit/far") as work:
            check(meter.more()["process"] is None, "it does not have that name yet")
            work.go()
            came = meter.until("the process", lambda s: s["process"])
            check(came["process"]["pid"] == work.pid and came["process"]["name"] == "godwit/far", str(came))
            meter.until("figures", lambda s: s["running_ns"])
            work.end()
            meter.until("the end", lambda s: s["process"] and s["process"].get("ended"))
        meter.end(signal.SIGINT)
        check_file(meter)


def titles():
    """By the beginning of the command line, with and without its folder; several are refused unless waited for. One in
    another network is another host's."""
    title = f"title-{os.getpid()}"
    with Work("tcp", 1, 1, name=title), Meter("--program", title) as meter:
        check("no process named" in meter.end(status=1), "found in another network")
    with Work("name", "x", name=f"/opt/{title}") as work:
        for name in (title, f"/opt/{title}"):
            with Meter("--program", name, "--for", "30ms") as meter:
                meter.end()
                check(meter.first["pid"] == work.pid, str(meter.first))
        with Work("name", "x", name=f"/opt/{title}") as second:
            with Meter("--program", title) as meter:
                check("2 processes" in meter.end(status=1), "two of a name")
            with Meter("--wait-for", title, "--for", "30ms") as meter:
                meter.end()
                check(meter.first["pid"] in (work.pid, second.pid), str(meter.first))


def never():
    with Meter("--wait-for", "never-comes", "--for", "100ms") as meter:
        error = meter.end(number=0, status=3)
        check(error == "godwit-meter: no process named never-comes came\n", error)
        check_file(meter)
        check(not meter.last["came"] and all(s["process"] is None for s in meter.samples), str(meter.last))
    for args in (("--program", "never-comes"), ("--pid", "4194303")):
        with Meter(*args) as meter:
            check(meter.end(status=1).count("\n") == 1 and not meter.samples, f"{args}")


def not_allowed():
    """Without the privilege, the reason is told in the first line; all else is measured."""
    wrap = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    with Work("burn", 1, 10, 1) as work, Meter("--pid", str(work.pid), wrap=wrap) as meter:
        work.go()
        meter.more()
        meter.end()
        check_file(meter)
        with open("/proc/sys/kernel/perf_event_paranoid", encoding="ascii") as f:
            allowed = int(f.read()) <= 0
        known = any(s["running_ns"] for s in meter.samples)
        check(known == allowed == (meter.first["no_running"] is None), f"{meter.first}, known: {known}")
        check(allowed or "perf_event_open" in meter.first["no_running"], str(meter.first))
        check(meter.samples[-1]["process"]["cpu_ns"] >= 10_000_000, "its CPU")


def full_disk():
    """One clear line, status 1, and whole lines on the disk."""
    with tempfile.TemporaryDirectory() as at, Work("idle", 4) as work:
        script = ('mount -t tmpfs -o size=32k none "$1" && "$2" --pid "$3" --interval 1ms --for 60s -o "$1/m" '
                  '2>"$1.err"; echo $?; cat "$1/m"')
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", at, METER, str(work.pid)],
                              stdout=subprocess.PIPE, text=True, check=True)
        status, _, data = done.stdout.partition("\n")
        with open(f"{at}.err", encoding="utf-8") as f:
            error = f.read()
        os.unlink(f"{at}.err")
        check(status == "1" and error.count("\n") == 1 and "No space left on device" in error, f"{status}: {error}")
        lines = [json.loads(line) for line in data.splitlines()]
        check(data.endswith("\n") and len(lines) > 3 and lines[0]["meter"] == 1, f"{len(lines)} lines")
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([METER, "--pid", str(work.pid)], stdout=full, stderr=subprocess.PIPE, text=True,
                                  check=False)
        check(done.returncode == 1 and "standard output" in done.stderr, done.stderr)


def command_line():
    def run(*args, **kwargs):
        return subprocess.run([METER, *args], capture_output=True, text=True, timeout=60, check=False, **kwargs)
    for args in ((), ("--pid",), ("--pid", "0"), ("--pid", "1x"), ("--pid", "99999999999999999999"),
                 ("--pid", "1", "x"),
                 ("--pid", "1", "--program", "x"), ("--program", ""), ("--pid", "1", "--interval", "10us"),
                 ("--pid", "1", "--interval", "1"), ("--pid", "1", "--for", "-1s"), ("--nonsense",), ("clock", "x")):
        done = run(*args)
        check(done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, f"{args}: {done}")
    check(run("--help").returncode == 0 and "--wait-for" in run("--help").stdout, "--help")
    done = run("--pid", str(os.getpid()), "-o", "/nonexistent/m")
    check(done.returncode == 1 and "/nonexistent/m" in done.stderr, str(done))


def clock():
    """Each line is answered at once, with both clocks, until the end of the input."""
    with subprocess.Popen([METER, "clock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          bufsize=1) as meter:
        for _ in range(3):
            before = time.monotonic_ns(), time.time_ns()
            meter.stdin.write("\n")
            got = [int(word) for word in meter.stdout.readline().split()]
            after = time.monotonic_ns(), time.time_ns()
            within(before[0], got[0], after[0], "CLOCK_MONOTONIC")
            within(before[1], got[1], after[1], "CLOCK_REALTIME")
        meter.stdin.close()
        check(meter.wait(30) == 0 and meter.stdout.read() == "", "the end")


def move():
    """Two monitors and a move between them, over the fake hypervisor: both meters see the same connection."""
    with Host() as source, Host() as target:
        vm = source.vm("run", "--name", "vm", "--kernel", "/none", "--memory", "64M", "--fake")
        receiver = target.receive("--fake")
        port = receiver.address.rpartition(":")[2]
        with Meter("--pid", str(vm.pid)) as here, Meter("--pid", str(receiver.pid)) as there:
            here.more()
            bill = source.migrate("vm", receiver.address)
            check(bill["outcome"] == "completed" and bill["owner"] == "target", str(bill))
            there.more()
            here.until("the source's end", lambda s: s["process"].get("ended"))
            for meter in (here, there):
                meter.end()
                check_file(meter)
            names = {t["name"] for s in here.samples for t in s["threads"]}
            check("mover" in names and any(name.startswith("vcpu") for name in names), str(names))
            sent = max(c["sent_bytes"] for s in here.samples for c in s["tcp"] if c["peer"].endswith(f":{port}"))
            received = max(c["received_bytes"] for s in there.samples for c in s["tcp"]
                           if c["local"].endswith(f":{port}"))
            # One that says good-bye when the other has gone sends what nobody receives.
            within(sent - 4096, received, sent + 1, "received of what was sent")
            check(sent > MIB // 4, f"only {sent} bytes of a guest")


TESTS = [("CPU of process and threads", cpu), ("threads that run together", overlap),
         ("threads on one processor", one_processor), ("context switches", switches),
         ("lost records", lost_records), ("memory", memory), ("storage", storage), ("TCP connections", tcp),
         ("a brief thread", brief_thread), ("a thread ends", ended_thread), ("the process ends", ended_process),
         ("400 threads", many_threads), ("waits for a process", waits), ("finds by title", titles),
         ("never comes", never), ("without privilege", not_allowed), ("full disk", full_disk),
         ("command line", command_line), ("clock", clock), ("a move", move)]

if __name__ == "__main__":
    if os.geteuid():
        skip("needs root: which threads run, and network namespaces")
    run_tests(TESTS)
