#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""godwit measure without a stock guest: experiments, raw data, and whole runs over the fake hypervisor.

In the runs both hosts are runtime directories of this machine and their monitors have no guest; the probe asks a small
server of the test's. So whatever concerns the driver is real: commands, moves, probes, meters, files, signals."""
import contextlib
import csv
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
for folder in "tests/system", "measure", "lab":
    sys.path.insert(0, os.path.join(ROOT, folder))

from godwit_measure import bill, clocks, experiment, machine, plan, units  # noqa: E402
from godwit_measure.errors import RunEnds, Wrong  # noqa: E402
from godwit_measure.raw import Raw, Stream  # noqa: E402
from godwit_measure.sides import Moved  # noqa: E402
from godwit_measure.sides.qemu import Qemu  # noqa: E402
from harness import GODWIT, check, run_tests, wait_for  # noqa: E402

LIMIT_S = 240       # against hanging only


def complaint(call, *args):
    try:
        call(*args)
    except Wrong as error:
        return str(error)
    return None


# -------------------------------------------------------------------------------------------- experiments

def small(**more):
    return {"name": "small", "title": "Small", "loads": [{"name": "one", "guest": "idle", "probes": [
        {"name": "ping", "kind": "http", "rate": 10}]}], **more}


def load(**more):
    return small(loads=[{**small()["loads"][0], **more}])


def test_presets():
    wanted = {"web", "specweb", "quake", "muncher", "wws", "idle", "redis", "compile", "fill", "matrix"}
    check(set(experiment.presets()) == wanted, f"presets: {experiment.presets()}")
    listed = re.search(r"one of the experiments that come with godwit:\s+(\S+)",
                       subprocess.run([GODWIT, "measure", "--help"], capture_output=True, text=True, check=True).stdout)
    check(set(listed[1].split("|")) == wanted, f"the command offers {listed[1]}")
    for name in wanted:
        full, little = (experiment.preset(name, scale) for scale in experiment.SCALES)
        for found in full, little:
            check(found["name"] == name and found["scale_means"], f"{name}: {found['name']}")
            check({"guest", "modes", "windows", "repeat", "move"} <= set(found), f"{name}: defaults are written out")
        check(plan.windows(little, "auto") < plan.windows(full, "auto") or name == "wws", f"{name}: small is smaller")
    matrix = experiment.preset("matrix")
    check(set(matrix["modes"]) == set(experiment.MODES) - {"none"} and len(matrix["loads"]) == 8, "the matrix is whole")


def test_bad_experiments():
    probe = small()["loads"][0]["probes"][0]
    for value, *words in (
            (small(lods=[]), "unknown key 'lods'", "loads"),
            ({"name": "x", "title": "y"}, "'loads' is missing"),
            (small(loads=[]), "loads: want a list"),
            (small(modes=["warp"]), "modes[0]", "'warp'", "pre-copy"),
            (small(modes=["auto", "auto"]), "modes", "'auto' is there twice"),
            (small(repeat=0), "repeat: 0", "from 1"),
            (small(repeat=True), "repeat: True"),
            (small(windows={"before": "10"}), "windows.before", "'10'", "10s"),
            (small(windows={"middle": "1s"}), "windows", "'middle'", "baseline"),
            (small(move={"max-downtme": "1ms"}), "move", "'max-downtme'", "max-downtime"),
            (small(move={"bandwidth": "fast"}), "move.bandwidth", "100Mbit/s"),
            (small(link={"rate": "1bit/s"}), "link.rate", "at least"),
            (small(guest={"memory": "192 MB"}), "guest.memory", "192M"),
            (load(probes=[{**probe, "kind": "gopher"}]), "loads[0].probes[0].kind", "'gopher'", "icmp"),
            (load(probes=[{**probe, "size": "64"}]), "loads[0].probes[0]", "'size' means nothing", "http"),
            (load(probes=[probe, probe]), "loads[0].probes", "'ping' is there twice"),
            (load(probes=[{**probe, "name": "../x"}]), "loads[0].probes[0].name", "'../x'"),
            (load(guest="web; reboot"), "loads[0].guest", "NAME"),
            (load(quality={"http": {"latency": "1s", "luck": 1}}), "loads[0].quality.http", "'luck'"),
            (small(paper={"figures": []}), "paper", "'source' is missing"),
            (small(paper={"source": "x", "figures": [{"what": "y", "value": 1}]}), "paper.figures[0]",
             "'unit' is missing"),
            ([], "want an object")):
        said = complaint(experiment.check, value, "f.json")
        check(said and said.startswith("f.json: ") and all(word in said for word in words) and "\0" not in said,
              f"{value}: {said!r} instead of {words}")


def test_bad_files():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "e.json")
        for text, words in (("{", "no JSON"), ("[" * 100000, "no JSON"),
                            ('{"name": "a", "name": "b"}', "'name' is there twice")):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            said = complaint(experiment.read, path)
            check(said and path in said and words in said, f"{text[:30]}: {said}")
            done = subprocess.run([GODWIT, "measure", path], capture_output=True, text=True, timeout=60, check=False)
            check(done.returncode == 2 and done.stderr.startswith("godwit measure: ") and done.stderr.count("\n") == 1,
                  f"godwit measure {text[:30]}: {done.returncode}, {done.stderr!r}")
        check("No such file" in complaint(experiment.read, path + "x"), "a file that is not there")
    check("nope" in complaint(experiment.preset, "nope"), "an unknown preset")
    check("'x'" in complaint(lambda: experiment.narrow(experiment.check(small(), "f"), only=["x"])), "an unknown load")
    check("'warp'" in complaint(lambda: experiment.narrow(experiment.check(small(), "f"), modes="auto,warp")),
          "--modes")


def test_units():
    for parse, text, wanted in ((units.duration, "300ms", 300 * 10**6), (units.duration, "1.5s", 15 * 10**8),
                                (units.duration, "2m", 120 * 10**9), (units.size, "192M", 192 << 20),
                                (units.size, "65000", 65000),
                                (units.rate, "100Mbit/s", 12500000), (units.rate, "4MB/s", 4 * 10**6),
                                (units.rate, "2MiB/s", 2 << 20)):
        check(parse(text) == wanted, f"{text}: {parse(text)}")
    for parse in units.duration, units.size, units.rate:
        for text in "", "x", "-1s", "1 s", None, 5, [], "1e9s", "١s":
            check(complaint(parse, text), f"{parse.__name__}({text!r})")
    check([units.show_time(s) for s in (3.4, 200, 9000)] == ["3 s", "3 min", "2 h 30 min"], "times for people")


# -------------------------------------------------------------------------------------------------- parts

def test_order():
    wanted = experiment.check(small(modes=["auto", "clark05", "none"], repeat=4), "f")
    cells, left_out = plan.cells(wanted, ["godwit", "qemu"],
                                 lambda side, mode: "no" if (side, mode) == ("qemu", "clark05") else None, 7)
    check(len(cells) == 4 * 4 and len(set(cells)) == 16, f"{len(cells)} cells")
    check(len(left_out) == 1 and "qemu: clark05" in left_out[0], f"left out: {left_out}")
    check(cells == plan.cells(wanted, ["godwit", "qemu"],
                              lambda side, mode: "no" if (side, mode) == ("qemu", "clark05") else None, 7)[0],
          "the same seed, the same order")
    check(cells != sorted(cells, key=lambda cell: (cell.load, cell.mode, cell.side, cell.repeat)), "shuffled")
    estimate = plan.Estimate(wanted, cells, "lab")
    total = estimate.left()
    check(total == estimate.total, "nothing is done yet")
    estimate.finished(2 * estimate.guesses[0])
    check(abs(estimate.left() - 2 * (total - estimate.guesses[0])) < 1e-6,
          "twice as slow as guessed, twice the time left")


def test_clocks():
    truth, asked = 10**12 + 12345, []

    def ask():
        asked.append(1)
        time.sleep(0.02 if len(asked) % 2 else 0.001)
        return time.monotonic_ns() - truth
    found = clocks.compare(ask)
    check(abs(found.offset_ns - truth) <= found.error_ns, f"{found} against {truth}")
    check(found.ours(5) == 5 + found.offset_ns, "ours")
    check(clocks.better(None, found) is found and clocks.better(clocks.Offset(1, 1), found).error_ns == 1, "better")


def test_bill():
    says = {"started_monotonic_ns": 1000, "outcome": "completed", "failure": None, "total_ns": 60,
            "stages": [{"stage": "pre-migration", "ns": 10}, {"stage": "pre-copy", "ns": 0},
                       {"stage": "stop-and-copy", "ns": 50}],
            "downtime": {"at_ns": 12, "total_ns": 30,
                         "parts": [{"part": "pause", "ns": 30, "own_ns": 30, "other_ns": 0}]},
            "rounds": {"list": [{"at_ns": 3, "duration_ns": 4, "pages_data": 5, "pages_zero": 6, "bytes": 7,
                                 "dirty_pages_per_s": 8,
                                 "bytes_per_s": None, "paused": False}]},
            "bytes": {"total": 9}, "monitors": {"source": {"cpu_ns": {"total": 3, "vcpu": 3}}, "target": None},
            "faults": None}
    found = bill.normalise(Moved("moved", 1, 2, "", says), clocks.Offset(500, 1))
    check([(s["stage"], s["from_ns"], s["to_ns"]) for s in found["stages"]] ==
          [("pre-migration", 1500, 1510), ("stop-and-copy", 1510, 1560)], f"stages: {found['stages']}")
    check(found["pause"] == {"from_ns": 1512, "to_ns": 1542} and found["downtime_ns"] == 30, f"pause: {found['pause']}")
    check(found["rounds"][0]["from_ns"] == 1503 and found["rounds"][0]["pages"] == 11, f"rounds: {found['rounds']}")
    check(found["cpu_ns"] == {"source": {"vcpu": 3}, "target": None}, f"cpu: {found['cpu_ns']}")
    unknown = bill.normalise(Moved("stayed", 1, 2, "no bill", {}), None)
    check(unknown["failure"] == "no bill" and unknown["total_ns"] is None and unknown["pause"] is None,
          f"no bill: {unknown}")
    blind = bill.normalise(Moved("moved", 1, 2, "", says), None)
    check(blind["pause"] is None and blind["stages"][0]["from_ns"] is None, "without the clock no instants")


def test_kernel_name():
    image = bytearray(0x800)
    image[0x202:0x206] = b"HdrS"
    image[0x20e:0x210] = (0x300).to_bytes(2, "little")
    image[0x500:0x520] = b"6.1.0-56-cloud (a@b) #1\0" + b"x" * 8
    check(machine.kernel_of(bytes(image)) == "6.1.0-56-cloud", "the version of a kernel image")
    check(machine.kernel_of(b"\x7fELF" * 300) is None and machine.kernel_of(b"") is None, "what is none")


class Talked:
    """What the QEMU side asks of a control socket, when a move is described."""

    def __init__(self, **events):
        self.events = events

    def last(self, name):
        return self.events.get(name)


def test_qemu_described():
    side = Qemu.__new__(Qemu)
    side.mode, side.qmp = "pre-copy", {"source": Talked(STOP=500), "target": Talked(RESUME=700)}
    side.looks = [{"at_ns": at, "pass": number, "bytes": size, "pages": size // 4096, "dirty_pages_per_s": 3}
                  for at, number, size in ((100, 1, 0), (200, 1, 40960), (300, 2, 81920), (600, 3, 90112),
                                           (650, 3, 94208))]
    says = {"query-migrate": {"status": "completed", "total-time": 9, "downtime": 2, "ram": {"transferred": 94208}}}
    found = side.describe(Moved("moved", 90, 800, "", says), {})
    check(found["pause"] == {"from_ns": 500, "to_ns": 700} and found["downtime_ns"] == 2 * 10**6, f"pause: {found}")
    check([(r["from_ns"], r["to_ns"], r["bytes"]) for r in found["rounds"]] ==
          [(100, 300, 81920), (300, 600, 8192), (600, 650, 4096)], f"rounds: {found['rounds']}")
    check([s["stage"] for s in found["stages"]] == ["pre-copy", "stop-and-copy", "activation"],
          f"stages: {found['stages']}")
    check(sum(r["bytes"] for r in found["rounds"]) == found["bytes"]["total"], "the rounds are all bytes")
    side.mode = "stop-copy"
    check(side.describe(Moved("moved", 90, 800, "", says), {})["downtime_ns"] == 200,
          "a stop that QEMU was told counts")
    check(Qemu.refuses("clark05") and not Qemu.refuses("auto"), "modes")


def test_raw():
    with tempfile.TemporaryDirectory() as folder:
        raw = Raw(os.path.join(folder, "r"), force=False)
        cell = raw.cell(7)
        cell.put_json("cell.json", {"a": 1})
        check(os.listdir(cell.path) == ["cell.json"] and cell.path.endswith("/raw/cells/007"),
              f"{cell.path}: {os.listdir(cell.path)}")
        stream = cell.stream("log.txt")
        stream.write(b"abc")
        with open(cell.file("log.txt"), "rb") as file:
            check(file.read() == b"abc", "what is written is there at once")
        stream.close()
        stream.write(b"late")       # a thread that had not heard of it
        check("--force" in complaint(Raw, os.path.join(folder, "r"), False), "an earlier run is not lost")
        check(os.listdir(os.path.join(Raw(os.path.join(folder, "r"), True).folder, "cells")) == [],
              "but replaced with --force")
        full = Stream(raw, "/dev/full")
        full.write(b"x")
        full.close()
        try:
            raw.check()
            check(False, "a full disk went unnoticed")
        except RunEnds as error:
            check("/dev/full: No space left" in str(error), str(error))


# -------------------------------------------------------------------------------------------- whole runs

class Server(http.server.ThreadingHTTPServer):
    """Answers every request, or the first `lives` of them."""
    daemon_threads = True
    asked = lives = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.server.asked += 1
            if self.server.lives and self.server.asked > self.server.lives:
                self.close_connection = True        # a load that died: its port is there, and no answer
                return
            with contextlib.suppress(OSError):      # a probe that was ended
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"pong\n")

        def log_message(self, *_):
            pass

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Measuring:
    """A `godwit measure` over the fake hypervisor."""

    def __init__(self, folder, *, probe=None, out=None, words=(), lives=0, **more):
        self.out = out or os.path.join(folder, "report")
        self.server = Server(("127.0.0.1", 0), Server.Handler)
        self.server.lives = lives
        self.wanted = small(**{"modes": ["pre-copy", "stop-copy"], "repeat": 1, "guest": {"memory": "64M"},
                               "move": {"insecure": True},
                               "windows": {"settle": "200ms", "baseline": "700ms", "before": "300ms", "after": "300ms"},
                               **more})
        self.wanted["loads"][0]["probes"] = [{"name": "ping", "kind": "http", "rate": 50, "path": "/",
                                              "port": self.server.server_port,
                                              **(probe or {})}]
        path = os.path.join(folder, "experiment.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.wanted, file)
        self.scratch = os.path.join(folder, "tmp")
        os.mkdir(self.scratch)
        self.argv = [GODWIT, "measure", path, "--hosts", os.path.join(HERE, "hosts.py"), "-o", self.out, "--seed", "3",
                     *words]

    def __enter__(self):
        self.server.__enter__()
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, "TMPDIR": self.scratch})
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.server.__exit__()

    def end(self):
        """Its exit status and what it said. Nothing of it may be left: no process, no file."""
        self.report, said = self.process.communicate(timeout=LIMIT_S)
        wait_for("its processes to end", lambda: not self.processes(), 10)
        check(os.listdir(self.scratch) == [], f"left behind: {os.listdir(self.scratch)}; {said}")
        return self.process.returncode, said

    def processes(self):
        """Those that have its scratch folder or its report on their command line, or in their environment."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/stat", encoding="utf-8",
                                                                         errors="replace") as stat:
                    mine = f"TMPDIR={self.scratch}".encode() in environ.read().split(b"\0")
                    if mine and stat.read().rpartition(")")[2].split()[0] != "Z":
                        found.append(int(pid))
        return found

    def cell(self, number, name="cell.json"):
        with open(os.path.join(self.out, "raw", "cells", f"{number:03}", name), encoding="utf-8") as file:
            return json.load(file) if name.endswith(".json") else file.read()

    def meter_pid(self, number):
        """The monitor that a cell's meter watches at the source, once its baseline has begun."""
        def there():
            try:
                lines = self.cell(number, "meter-source.jsonl").splitlines()
                return json.loads(lines[0])["pid"] if len(lines) > 4 else None
            except (OSError, ValueError):
                return None
        return wait_for(f"the meter of cell {number}", there, LIMIT_S)


def test_whole_run():
    with tempfile.TemporaryDirectory() as folder, Measuring(folder, modes=["pre-copy", "stop-copy", "none"]) as run:
        status, said = run.end()
        check(status == 0, f"exit {status}: {said}")
        check(os.path.exists(os.path.join(run.out, "index.html")), f"no report: {said}")
        check("answer any more" not in run.report, f"the load was well: {run.report}")
        check("3 repetitions, about " in said and "(seed 3)" in said and "3/3" in said, said)
        with open(os.path.join(run.out, "raw", "experiment.json"), encoding="utf-8") as file:
            kept = json.load(file)
        check(kept["sides"] == ["godwit"] and kept["seed"] == 3 and kept["scale"] == "full" and kept["repeat"] == 1,
              f"kept: {kept}")
        with open(os.path.join(run.out, "raw", "machine.json"), encoding="utf-8") as file:
            facts = json.load(file)
        check(facts["place"] == "local" and facts["godwit"] and facts["notes"], f"machine: {facts}")
        modes = set()
        for number in 1, 2, 3:
            cell = run.cell(number)
            modes.add(cell["mode"])
            moves = cell["mode"] != "none"
            check((cell["number"], cell["outcome"], cell["error"]) == (number, "moved" if moves else "stayed", None),
                  f"{cell}")
            reached = [cell["windows"][name] for name in ("baseline", "before", "move", "after")[:None if moves else 1]]
            edges = [edge for window in reached for edge in window]
            check(edges == sorted(edges), f"windows: {cell['windows']}")
            rows = list(csv.DictReader(run.cell(number, "probe-ping.csv").splitlines()))
            answered = [row for row in rows if row["status"] == "ok"]
            check(answered and int(answered[0]["due_ns"]) < edges[0]
                  and int(answered[-1]["done_ns"]) > edges[-1] - 10**9,
                  f"the probe ran from before the baseline to the end: {len(rows)} rows")
            check(run.cell(number, "probe-ping.json")["requests"] == len(rows), "the probe's own account")
            samples = [json.loads(line) for line in run.cell(number, "meter-source.jsonl").splitlines()]
            check(samples[0]["meter"] == 1 and len(samples) > 5, f"{len(samples)} samples")
            offsets = run.cell(number, "clocks.json")
            for side in "source", "target":     # both hosts are this machine
                check(abs(offsets[side]["offset_ns"]) <= offsets[side]["error_ns"], f"{side}: {offsets[side]}")
            if moves:
                move, said = run.cell(number, "move.json"), run.cell(number, "bill.json")
                check(move["outcome"] == "completed" and move["downtime_ns"] == said["downtime"]["total_ns"], f"{move}")
                check(move["from_ns"] <= move["stages"][0]["from_ns"]
                      and move["stages"][-1]["to_ns"] <= move["to_ns"] + offsets["source"]["error_ns"],
                      f"the stages are within the move: {move}")
                check(move["from_ns"] < move["pause"]["from_ns"] < move["pause"]["to_ns"] <= move["to_ns"] +
                      offsets["source"]["error_ns"],
                      f"and the pause: {move['pause']}")
        check(modes == {"pre-copy", "stop-copy", "none"}, f"modes: {modes}")


def test_again():
    """What is there already stays, unless told otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(os.path.join(folder, "report", "raw"))
        with Measuring(folder) as run:
            status, said = run.end()
            check(status == 2 and "--force" in said, f"exit {status}: {said}")


def test_broken_load():
    """A probe that cannot run: each repetition is kept as broken, and three in a row are enough."""
    with tempfile.TemporaryDirectory() as folder, Measuring(folder, probe={"path": "no slash"}, repeat=3) as run:
        status, said = run.end()
        check(status == 1 and "3 repetitions in a row" in said, f"exit {status}: {said}")
        cells = sorted(os.listdir(os.path.join(run.out, "raw", "cells")))
        check(cells == ["001", "002", "003"], f"cells: {cells}")
        for number in 1, 2, 3:
            cell = run.cell(number)
            check(cell["outcome"] == "broken" and "probe ping ended by itself" in cell["error"], f"{cell}")
            check(cell["windows"]["move"] is None, "nothing was moved")


def test_dead_load():
    """The guest lives and moves, and its load answers no more: the verdict says so, and since when."""
    with tempfile.TemporaryDirectory() as folder, Measuring(folder, modes=["pre-copy"], lives=15) as run:
        status, said = run.end()
        check(status == 0 and run.cell(1)["outcome"] == "moved", f"exit {status}: {said}")
        told = " ".join(run.report.split())
        check(re.search(r"The load did not answer any more in cell 1 \(one, pre-copy, godwit\): probe ping got no "
                        r"answer "
                        r"from [0-9.]+ m?s before the move on\.", told), f"the verdict: {told[:600]}")


def test_dying_guest():
    """Its monitor is killed in the baseline: that repetition is broken, the next one is carried out."""
    with tempfile.TemporaryDirectory() as folder, Measuring(folder, windows={
            "settle": "200ms", "baseline": "5s", "before": "300ms", "after": "300ms"}) as run:
        os.kill(run.meter_pid(1), signal.SIGKILL)
        status, said = run.end()
        check(status == 0, f"exit {status}: {said}")
        first, second = run.cell(1), run.cell(2)
        check(first["outcome"] == "broken" and "died" in first["error"], f"{first}")
        check(run.cell(1, "probe-ping.csv").count("\n") > 2, "the data so far are kept")
        check(second["outcome"] == "moved", f"{second}")


def test_interrupted():
    with tempfile.TemporaryDirectory() as folder, Measuring(folder, repeat=5) as run:
        run.meter_pid(2)
        run.process.send_signal(signal.SIGINT)
        status, said = run.end()
        check(status == 130 and "interrupted (SIGINT)" in said and "1 of 10 repetitions are whole" in said,
              f"exit {status}: {said}")
        check(run.cell(1)["outcome"] == "moved", "the first is whole")
        left = os.listdir(os.path.join(run.out, "raw", "cells", "002"))
        check("cell.json" not in left and "probe-ping.csv" in left, f"the second is unfinished: {left}")


def test_full_disk():
    if os.geteuid() != 0:
        print("# a small disk can only be made by root: not tried")
        return
    with tempfile.TemporaryDirectory() as folder:
        disk = os.path.join(folder, "disk")
        os.mkdir(disk)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", disk], check=True)
        try:
            with Measuring(folder, out=os.path.join(disk, "report"), repeat=5) as run:
                status, said = run.end()
                check(status == 1 and re.search("no space left", said, re.I), f"exit {status}: {said}")
                check("it ended early" in said, said)
                check(os.path.getsize(os.path.join(run.out, "raw", "experiment.json")) > 0, "what was kept is there")
                check(not [name for name in os.listdir(os.path.join(run.out, "raw")) if name.endswith(".part")],
                      "no half files")
        finally:
            subprocess.run(["umount", disk], check=True)


def test_not_installed():
    """Without its Python part godwit says so, in one line."""
    with tempfile.TemporaryDirectory() as folder:
        program = shutil.copy(GODWIT, os.path.join(folder, "godwit"))
        for command in (["measure", "--preset", "web"], ["report", folder]):
            done = subprocess.run([program, *command], capture_output=True, text=True, timeout=60, check=False)
            check(done.returncode == 2 and done.stderr.count("\n") == 1 and "not installed" in done.stderr,
                  f"{command}: {done}")


if __name__ == "__main__":
    run_tests([(name.removeprefix("test_"), test) for name, test in list(globals().items())
               if name.startswith("test_")])
