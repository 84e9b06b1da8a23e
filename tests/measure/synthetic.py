"""Raw data of moves that never happened: report/raw/ as docs/measure.md has it, with every truth known beforehand.

`write_cell` lays out one repetition from a `Plan`; its rates and times decide what an analysis has to find.
`realistic` makes whole reports of a believable shape, at random from a seed, to look at and to try the page with.
"""

import csv
import json
import os
import random

MS, S = 10**6, 10**9
MIB = 2**20
SAMPLE = 100 * MS
COUNTERS = ("user_ns", "system_ns", "irq_ns", "softirq_ns", "steal_ns", "idle_ns", "guest_ns")
STAGES = ("pre-migration", "reservation", "pre-copy", "stop-and-copy", "commitment", "activation", "pulling")


def dump(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


class Rates:
    """A counter that grows by so much a second in each span of time."""

    def __init__(self, *spans):
        self.spans = spans  # (from_ns, to_ns, per second)

    def at(self, when):
        return int(round(sum(max(0, min(when, end) - start) * rate / S for start, end, rate in self.spans
                             if when > start)))


class Plan:
    """One repetition: the windows, what the move does, and how everything grows."""

    def __init__(self, **given):
        self.number, self.load, self.mode, self.side, self.repeat = 0, "web", "pre-copy", "godwit", 0
        self.outcome, self.error = "moved", None
        self.begin = 1000 * S                       # of the baseline, by the client's clock
        self.baseline, self.before, self.after = 20 * S, 10 * S, 10 * S
        self.stages = {"pre-migration": 20 * MS, "reservation": 30 * MS, "pre-copy": 1800 * MS,
                       "stop-and-copy": 40 * MS, "commitment": 10 * MS, "activation": 100 * MS}
        self.pause_at, self.pause = 1850 * MS, 50 * MS  # since the move began
        self.offsets = {"source": 500 * S, "target": -300 * S, "guest": 990 * S}  # client = own + offset
        self.clock_error = 20_000
        self.rounds = [(0, 1500 * MS, 40000), (1500 * MS, 1800 * MS, 5000), (1850 * MS, 1880 * MS, 700)]
        self.parts = {"pause": 2 * MS, "last-pages": 20 * MS, "device-state": 3 * MS, "transfer": 15 * MS,
                      "load": 5 * MS, "commit": 3 * MS, "resume": 2 * MS}
        self.extra_bytes = 0
        self.source_busy, self.target_busy = {}, {}  # group: CPU share while moving
        self.faults = None
        self.__dict__.update(given)
        self.move_from = self.begin + self.baseline + self.before
        self.move_to = self.move_from + sum(self.stages.values())
        self.paused = (self.move_from + self.pause_at, self.move_from + self.pause_at + self.pause)
        self.end = self.move_to + self.after

    def windows(self):
        return {"baseline": [self.begin, self.begin + self.baseline],
                "before": [self.begin + self.baseline, self.move_from],
                "move": [self.move_from, self.move_to], "after": [self.move_to, self.end]}

    def move_json(self):
        at, stages = self.move_from, []
        for name, length in self.stages.items():
            stages.append({"stage": name, "from_ns": at, "to_ns": at + length})
            at += length
        rounds, total = [], self.extra_bytes
        for start, end, pages in self.rounds:
            total += pages * 4100
            rounds.append({"from_ns": self.move_from + start, "to_ns": self.move_from + end, "pages": pages,
                           "bytes": pages * 4100, "dirty_pages_per_s": pages * 0.3 * S / (end - start),
                           "bytes_per_s": pages * 4100 * S / (end - start),
                           "paused": start >= self.pause_at})
        return {"from_ns": self.move_from, "to_ns": self.move_to, "outcome": "completed", "failure": None,
                "total_ns": self.move_to - self.move_from, "downtime_ns": self.pause, "stages": stages,
                "pause": {"from_ns": self.paused[0], "to_ns": self.paused[1]},
                "downtime_parts": [{"part": name, "ns": length} for name, length in self.parts.items()],
                "rounds": rounds,
                "bytes": {"total": total, "page_data": total - 90000 - self.extra_bytes, "protocol": 90000,
                          "device_state": self.extra_bytes},
                "cpu_ns": {"source": {"mover": 400 * MS}, "target": {"mover": 300 * MS}}, "faults": self.faults}


def write_probe(folder, name, kind, rows, late=(50_000, 200_000, 900_000), **about):
    """Rows of (seq, kind, connection, due, sent, done, bytes, status); None is empty."""
    with open(os.path.join(folder, f"probe-{name}.csv"), "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("seq", "kind", "connection", "due_ns", "sent_ns", "done_ns", "bytes", "status"))
        out.writerows(rows)
    dump(os.path.join(folder, f"probe-{name}.json"),
         {"kind": kind, "target": "192.0.2.10", "rate_per_s": 100, "connections": 1, "requests": len(rows),
          "late": dict(zip(("p50_ns", "p99_ns", "max_ns"), late)), "late_csv": None, "cpu_ns": 10**9,
          "processor": None, **about})


def write_meter(folder, host, plan, threads, host_rates=None, net=None, tcp=(), memory=None, process=None,
                running=None, start=None, end=None):
    """Samples every 100 ms by the host's clock. `threads` is (tid, name, cpu Rates, guest Rates, switches Rates, born,
    died); `memory` and the sizes in `process` are functions of the client's time; `tcp` is (local, peer, sent Rates,
    received Rates, retransmitted Rates, from, to)."""
    offset = plan.offsets[host]
    start, end = start or plan.begin - S, end or plan.end + S
    pid = threads[0][0] if threads else None
    host_rates, net, process = host_rates or {}, net or {}, process or {}
    with open(os.path.join(folder, f"meter-{host}.jsonl"), "w", encoding="utf-8") as file:
        print(json.dumps({"meter": 1, "interval_ns": SAMPLE, "pid": pid, "program": "godwit",
                          "interfaces": list(net)}), file=file)
        for at in range(start, end + 1, SAMPLE):
            listed, whole = [], 0
            alive = False
            for tid, name, cpu, guest, switches, born, died in threads:
                now = min(at, died) if died else at
                if born is None or at >= born:
                    whole += cpu.at(now)
                    if died is None or at <= died + SAMPLE:
                        alive = True
                        listed.append({"tid": tid, "name": name, "cpu_ns": cpu.at(now), "guest_ns": guest.at(now),
                                       "voluntary": switches.at(now), "involuntary": 0})
            sample = {"at_ns": at - offset, "threads": listed,
                      "process": {"cpu_ns": whole, "read_bytes": 0, "written_bytes": 0,
                                  **{key: int(level(at)) for key, level in process.items()},
                                  **({"ended": True} if whole and not alive else {})} if alive or whole else None,
                      "host": {**{key: host_rates[key].at(at) if key in host_rates else 0 for key in COUNTERS},
                               "context_switches": whole // 10**5,
                               "memory_used_bytes": int(memory(at)) if memory else 0,
                               "disk_read_bytes": 0, "disk_written_bytes": 0},
                      "net": {name: {key: rate.at(at) for key, rate in rates.items()} for name, rates in net.items()},
                      "tcp": [{"local": local, "peer": peer, "sent_bytes": sent.at(at), "received_bytes": got.at(at),
                               "retransmitted": again.at(at), "rtt_us": 300}
                              for local, peer, sent, got, again, first, last in tcp if first <= at <= last + SAMPLE],
                      "running_ns": running(at) if running else None}
            print(json.dumps(sample), file=file)


def write_guest(folder, plan, gap, period=5 * MS, units=1000, busy=2 * MS, busy_moving=3 * MS):
    """A clock loop with one large gap at the pause, and bursts of work that take longer while the guest moves."""
    offset = plan.offsets["guest"]
    with open(os.path.join(folder, "guest-clock.csv"), "w", encoding="utf-8") as file:
        print(f"# period_ns={period}\nat_ns,gap_ns", file=file)
        for at in range(plan.begin, plan.end, SAMPLE):
            hit = at - SAMPLE < plan.paused[1] <= at
            print(f"{at - offset},{period + gap if hit else period + MS}", file=file)
    with open(os.path.join(folder, "guest-work.csv"), "w", encoding="utf-8") as file:
        print("at_ns,units,busy_ns", file=file)
        for at in range(plan.begin, plan.end, 50 * MS):
            moving = plan.move_from < at <= plan.move_to
            print(f"{at - offset},{units},{busy_moving if moving else busy}", file=file)


def write_cell(report, plan):
    """The folder of a repetition with all but probes and meters; returns it."""
    folder = os.path.join(report, "raw", "cells", f"{plan.number:03}")
    os.makedirs(folder, exist_ok=True)
    dump(os.path.join(folder, "clocks.json"), {who: {"offset_ns": offset, "error_ns": plan.clock_error}
                                               for who, offset in plan.offsets.items()})
    dump(os.path.join(folder, "move.json"), plan.move_json())
    dump(os.path.join(folder, "cell.json"), {
        "number": plan.number, "load": plan.load, "mode": plan.mode, "side": plan.side, "repeat": plan.repeat,
        "outcome": plan.outcome, "error": plan.error, "windows": plan.windows(), "options": {},
        "downtime_asked_ns": 300 * MS})
    return folder


def write_report(report, experiment=None, machine=None):
    dump(os.path.join(report, "raw", "experiment.json"), {
        "name": "web", "title": "A web server moves", "guest": {"memory": "192M", "cpus": 1},
        "link": {"rate": "1Gbit/s", "delay": "200us"}, "modes": ["pre-copy"], "repeat": 1, "scale": "small", "seed": 1,
        "loads": [{"name": "web", "guest": "web", "probes": [{"name": "http", "kind": "http", "rate": 100}]}],
        "windows": {"settle": "5s", "baseline": "20s", "before": "10s", "after": "10s"}, **(experiment or {})})
    dump(os.path.join(report, "raw", "machine.json"), {
        "place": "lab", "processor": "A processor of 2026", "processors": 2, "memory_bytes": 24 * 2**30,
        "kernel": "6.18.0", "host_kernel": "6.1.0-56-cloud-amd64", "guest_kernel": "6.1.0-56-cloud-amd64",
        "godwit": "0.1.0", "qemu": "7.2.22", "started": "2026-11-28T22:00:00Z",
        "notes": ["Guest, hosts and probe share two processors: the probe competed with what it measured."],
        **(machine or {})})


# What follows is for looking at.

SHAPES = {  # load: (usual latency ns, requests a second, dirty pages a second, MiB of data)
    "web": (900_000, 200, 900, 90), "quake": (400_000, 100, 3000, 80), "muncher": (700_000, 100, 22000, 160),
    "redis": (350_000, 300, 4000, 120), "idle": (500_000, 100, 150, 70), "compile": (1_500_000, 100, 6000, 130)}
LINK = 110 * MIB


def shape_of(chance, load, mode, side):
    """Stages, rounds and pause of a move, by a simple model of it: pages, rate of writing, and link."""
    _, _, dirty, data = SHAPES[load]
    slow = 1.25 if side == "qemu" else 1.0
    pages = data * 256
    rate = LINK / 4100 / slow * chance.uniform(0.92, 1.05)
    rounds, at = [], 50 * MS
    if mode not in ("stop-copy", "post-copy"):
        left = pages
        for _ in range(12 if mode == "auto" else 25):
            length = int(left / rate * S) + 2 * MS
            rounds.append((at, at + length, int(left)))
            at += length
            left = min(pages * 0.9, dirty * (length / S) * chance.uniform(0.8, 1.2))
            if left < 300 or (len(rounds) > 3 and left > rounds[-1][2] * 0.9):
                break
    else:
        left = pages if mode == "stop-copy" else 0
    stop = int(left / rate * S) if mode != "auto" or left < 3000 else 0
    pulled = 0 if mode in ("pre-copy", "stop-copy", "clark05") or (mode == "auto" and stop) else left or pages
    fixed = int(chance.lognormvariate(0, 0.25) * (12 if side == "godwit" else 34) * MS)
    pause = stop + fixed
    stages = {"pre-migration": 20 * MS, "reservation": 30 * MS, "pre-copy": max(at - 50 * MS, 0),
              "stop-and-copy": int(pause * 0.7), "commitment": int(pause * 0.2),
              "activation": int(pause * 0.1) + 60 * MS}
    if stop or not rounds:
        rounds.append((at, at + max(stop, MS), int(left) if stop else 40))
    if pulled:
        stages["pulling"] = int(pulled / rate * 1.1 * S)
    shares = {"pause": 0.05, "disk-sync": 0.02, "last-pages": 0.4, "device-state": 0.08, "transfer": 0.25, "load": 0.1,
              "commit": 0.06, "resume": 0.04}
    parts = {name: int(pause * share) for name, share in shares.items()}
    parts["transfer"] += pause - sum(parts.values())
    return {"stages": stages, "rounds": rounds, "pause_at": at, "pause": pause, "parts": parts,
            "extra_bytes": int(pulled * 4100) + 60000,
            "faults": {"count": int(40 + pulled / 90), "wait_p50_ns": 400_000, "wait_p99_ns": 3 * MS,
                       "wait_max_ns": 9 * MS} if pulled else None}


def asked(chance, plan, usual, rate, kind):
    """Requests at a fixed rate that queue up while the guest stands still."""
    rows, free = [], 0
    pulling = (plan.move_to - plan.stages.get("pulling", 0), plan.move_to)
    for seq in range(int((plan.end - plan.begin) / S * rate)):
        due = plan.begin + int(seq * S / rate)
        sent = due + int(chance.expovariate(1 / 40_000))
        slow = 1.0
        if plan.move_from <= due < plan.paused[0]:
            slow = 1.5
        elif pulling[0] <= due < pulling[1]:
            slow = 2.5
        work = int(usual * slow * chance.lognormvariate(0, 0.35))
        begin = max(sent, free)
        if plan.paused[0] - work < begin < plan.paused[1]:
            begin = plan.paused[1] + int(chance.uniform(1, 5) * MS)
        done = begin + work
        free = begin + work // 8
        status = "ok"
        if plan.pause > 900 * MS and plan.paused[0] < due < plan.paused[0] + 20 * MS:
            status, done = "reset", None
        rows.append((seq, kind, seq % 4, due, sent, done, 612 if status == "ok" else None, status))
    return rows


def packets(chance, plan, usual, rate):
    rows = []
    for player in range(6):
        last = 0
        for seq in range(int((plan.end - plan.begin) / (50 * MS))):
            due = plan.begin + seq * 50 * MS
            came = due + int(usual * chance.lognormvariate(0, 0.3))
            if plan.paused[0] < came < plan.paused[1]:
                came = plan.paused[1] + int(chance.uniform(1, 4) * MS)
            last = max(came, last + 20_000)
            rows.append((seq, "arrival", player, due - plan.offsets["guest"], None, last, 310, "ok"))
    return sorted(rows, key=lambda row: row[5])


def stream(chance, plan):
    rows = []
    for seq, at in enumerate(range(plan.begin, plan.end, 100 * MS)):
        share = 1.0
        if plan.move_from <= at < plan.paused[0]:
            share = 0.72
        still = max(0, min(at + 100 * MS, plan.paused[1]) - max(at, plan.paused[0])) / (100 * MS)
        rows.append((seq, "stream", 0, None, at, at + 100 * MS,
                     int(9.2 * MIB * share * (1 - still) * chance.uniform(0.93, 1.05)), "ok"))
    return rows


def meters(chance, folder, plan):
    move = (plan.move_from, plan.move_to)
    far = (plan.begin - 10 * S, plan.end + 10 * S)
    busy, slow = chance.uniform(0.9, 1.1), 1.4 if plan.side == "qemu" else 1.0
    switch = (Rates((*far, 300.0)), Rates((far[0], far[1], 0.0)))
    names = ("godwit/web1", "vcpu0", "mover", "lane") if plan.side == "godwit" else \
        ("qemu-system-x86", "CPU 0/KVM", "live_migration", "multifdsend_0")
    sent = plan.move_json()["bytes"]["total"]
    rate = sent / ((move[1] - move[0]) / S)
    for host, work in (("source", 0.42), ("target", 0.36)):
        home = (far[0], plan.paused[0]) if host == "source" else (plan.paused[1], far[1])
        vcpu = Rates((*home, 0.31 * S))
        guest = Rates((*home, 0.24 * S))
        mover = Rates((*move, work * busy * slow * S))
        started = far[0] if host == "source" else plan.move_from - 2 * S
        threads = [(100, names[0], Rates((*far, 0.01 * S), (*move, 0.03 * slow * S)), switch[1], switch[0],
                    started, plan.move_to if host == "source" else None),
                   (101, names[1], vcpu, guest, switch[0], started, plan.move_to if host == "source" else None),
                   (102, names[2], mover, switch[1], Rates((*move, 900.0)), plan.move_from, plan.move_to),
                   (103, names[3], mover, switch[1], Rates((*move, 1500.0)), plan.move_from, plan.move_to)]
        kernel = Rates((*far, 0.05 * S), (*move, 0.4 * work * busy * slow * S))
        data = SHAPES[plan.load][3] * MIB

        def shmem(at, host=host, data=data):
            if host == "source":
                return data if at < plan.move_to else 0
            return data * min(1, max(0, (at - plan.move_from) / (plan.move_to - plan.move_from)))

        def anon(at):
            return 14 * MIB + (6 * slow * MIB if move[0] <= at < move[1] else 0)

        def running(at):
            active = move[0] < at <= move[1]
            shares = [0.3, 0.35, 0.25, 0.1] if active else [0.7, 0.29, 0.01, 0]
            return [int(SAMPLE * share) for share in shares]

        out = "tx" if host == "source" else "rx"
        back = "rx" if host == "source" else "tx"
        write_meter(folder, host, plan, threads, {
            "user_ns": Rates((*home, 0.29 * S), (*far, 0.02 * S), (*move, 1.7 * work * busy * slow * S)),
            "system_ns": kernel,
            "irq_ns": Rates((*far, 0.004 * S)), "softirq_ns": Rates((*far, 0.01 * S), (*move, 0.06 * S)),
            "idle_ns": Rates((*far, 0.5 * S))}, {
            "eth0": {out + "_bytes": Rates((*far, 130000), (*move, rate * 1.03)), back + "_bytes": Rates(
                (*far, 30000), (*move, rate * 0.01)), out + "_packets": Rates((*far, 300), (*move, rate / 1400)),
                back + "_packets": Rates((*far, 300), (*move, rate / 20000))}},
            [(f"10.0.0.{1 if host == 'source' else 2}:{40000 + lane}", "10.0.0.9:7000",
              Rates((*move, rate * share if host == "source" else 300)),
              Rates((*move, 300 if host == "source" else rate * share)),
              Rates((*move, chance.uniform(0, 3) if host == "source" else 0)), *move)
             for lane, share in enumerate((0.02, 0.53, 0.45))],
            lambda at, shmem=shmem: 400 * MIB + shmem(at) + anon(at), {"anon_bytes": anon, "shmem_bytes": shmem},
            running)


def wws(chance, load):
    _, _, dirty, data = SHAPES[load]
    count, page = 100, 4096
    pages = data * 256
    return {"ended": "complete", "interval_ns": 100 * MS, "intervals": count, "duration_ns": 10 * S,
            "memory": {"page_bytes": page, "pages": 49152, "touched_pages": pages, "zero_pages": 900,
                       "data_pages": pages - 900},
            "dirty_rate": [{"until_ns": (at + 1) * 100 * MS, "length_ns": 100 * MS,
                            "pages": int(dirty / 10 * chance.uniform(0.7, 1.3))} for at in range(count)],
            "unique": [{"window_ns": window * 100 * MS, "pages": int(min(pages, dirty * (window / 10) ** 0.7))}
                       for window in (1, 2, 5, 10, 20, 50, 100)],
            "times_written": [], "disturbance": {},
            "predictions": [{"bytes_per_s": bandwidth, "mode": mode, "total_ns": int(pages * 4100 / bandwidth * S),
                             "downtime_ns": {"stop-copy": int(pages * 4100 / bandwidth * S),
                                             "pre-copy": int((2 * MS +
                                                              min(pages, dirty * 0.05) * 4100 / bandwidth * S)),
                                             "post-copy": 3 * MS, "auto": 3 * MS}[mode],
                             "bytes": pages * 4100, "rounds": 3, "last_pages": 200, "why": "small"}
                            for bandwidth in (12500000, 125000000, 1250000000)
                            for mode in ("stop-copy", "pre-copy", "post-copy", "auto")]}


def realistic(report, loads=("web",), modes=("pre-copy", "post-copy", "stop-copy"), sides=("godwit", "qemu"), repeat=5,
              seed=1, faster=1.0):
    """A whole report. `faster` below 1 shortens godwit's pauses, to have two that differ."""
    chance = random.Random(seed)
    jobs = [(load, mode, side, each) for load in loads for mode in modes for side in sides for each in range(repeat)
            if not (side == "qemu" and mode in ("auto", "clark05"))]
    chance.shuffle(jobs)
    kinds = {"web": "http", "quake": "udp", "redis": "resp"}
    write_report(report, {
        "name": "matrix" if len(loads) > 1 else loads[0], "modes": list(modes), "repeat": repeat,
        "title": "A static web server under load" if loads == ("web",) else "Every load in every mode",
        "loads": [{"name": load, "guest": load, "probes": [
            {"name": kinds.get(load, "tcp"), "kind": kinds.get(load, "tcp"), "rate": SHAPES[load][1]}]}
            for load in loads],
        "paper": {"source": "Clark et al., Live Migration of Virtual Machines, NSDI 2005, figure 8", "figures": [
            {"what": "downtime", "value": 165, "unit": "ms", "metric": "downtime.client", "load": loads[0],
             "mode": modes[0]},
            {"what": "the whole move", "value": 71, "unit": "s", "metric": "move.total", "load": loads[0],
             "mode": modes[0]},
            {"what": "throughput before", "value": 870, "unit": "Mbit/s", "metric": "bytes.before", "load": loads[0],
             "mode": modes[0]}],
            "differs": ["The guest has 192 MiB where the paper's had 800 MiB.",
                        "The hosts are emulated; the link is 1 Gbit/s in both."]}})
    first = set()
    for number, (load, mode, side, each) in enumerate(jobs):
        shape = shape_of(chance, load, mode, side)
        if side == "godwit" and faster != 1.0:
            shape["pause"] = int(shape["pause"] * faster)
        plan = Plan(number=number, load=load, mode=mode, side=side, repeat=each, begin=1000 * S + number * 60 * S,
                    **shape)
        folder = write_cell(report, plan)
        usual, rate, _, _ = SHAPES[load]
        kind = kinds.get(load, "tcp")
        write_probe(folder, kind, kind, asked(chance, plan, usual, rate, kind))
        if load == "quake":
            write_probe(folder, "players", "arrival", packets(chance, plan, usual, 20))
        if load == "web":
            write_probe(folder, "stream", "stream", stream(chance, plan))
        meters(chance, folder, plan)
        write_guest(folder, plan, plan.pause - 2 * MS)
        if load not in first:
            first.add(load)
            dump(os.path.join(folder, "wws.json"), wws(chance, load))
