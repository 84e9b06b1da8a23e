"""What a move cost, from what the meters saw: counters over a window, less the same over the baseline.

"Extra" of a window is what a counter grew by in it, less what it grew by in the baseline window of the same
repetition, scaled to the same length. Between two samples a counter is taken to grow evenly. Whatever is split into
parts is split so that the parts sum to the whole: one part is always what is left.
"""

import re

import numpy as np

from .raw import get, number, objects, text

GROUPS = ("vcpu", "mover", "loop", "other")
# Threads by name, in godwit and in QEMU. The first thread, which has the process's id, is the loop.
NAMES = (
    ("vcpu", re.compile(r"vcpu\d+$|CPU \d+/(KVM|TCG|HVF)")),
    ("mover", re.compile(r"(mover|lane|pages|urgent|faults|throttle)\d*$|(src|dst|mig)[/_]|live_migration|"
                         r"multifd|postcopy|fault-|bg_snapshot")),
)
HOST_PARTS = ("irq", "softirq")


def group_of(tid, name, pid):
    for group, pattern in NAMES:
        if pattern.match(name):
            return group
    return "loop" if tid == pid else "other"


class Counter:
    """A counter's samples: times and values, both rising. Before the first it is the first, after the last the last."""

    def __init__(self, points):
        points = sorted(points)
        self.at = np.array([at for at, _ in points], dtype=np.int64)
        self.value = np.maximum.accumulate(np.array([value for _, value in points], dtype=np.float64)) \
            if points else np.empty(0)

    def grew(self, bounds):
        """By how much in a window, to the nearest whole; 0 where it was never seen."""
        if not len(self.at):
            return 0
        # Times since the first sample: whole nanoseconds since boot do not fit into a double exactly.
        low, high = np.interp(np.array(bounds, dtype=np.int64) - self.at[0], self.at - self.at[0], self.value)
        return round(float(high - low))


class Meter:
    """One host's samples, by the client's clock."""

    def __init__(self, lines, offset):
        head = next((line for line in lines if "meter" in line), {})
        self.pid = number(head.get("pid"))
        self.program = text(head.get("program"))
        self.mapped = offset is not None
        shift, self.error = offset if offset else (0, None)
        self.samples = sorted(((int(at) + shift, line) for line in lines
                               if (at := number(line.get("at_ns"))) is not None), key=lambda pair: pair[0])
        self.at = np.array([at for at, _ in self.samples], dtype=np.int64)
        self.threads = self._threads()

    def covers(self, bounds):
        """Whether there are samples on both sides of a window, or near enough (a fifth of it, or two intervals)."""
        if len(self.at) < 2 or bounds is None:
            return False
        slack = max(2 * int(np.median(np.diff(self.at))), (bounds[1] - bounds[0]) // 5)
        return bool(self.at[0] <= bounds[0] + slack and self.at[-1] >= bounds[1] - slack)

    def counter(self, *keys):
        points = [(at, value) for at, line in self.samples if (value := number(get(line, *keys))) is not None]
        if points and keys[0] == "process" and points[0][0] > self.at[0]:
            # It began while the meter watched: at the sample before, it had used nothing.
            points.insert(0, (int(self.at[np.searchsorted(self.at, points[0][0]) - 1]), 0))
        return Counter(points)

    def _threads(self):
        """By tid: group, and counters. One that was born between two samples was at 0 at the first of them. Samples
        in which nobody looked at threads say nothing."""
        points, groups = {}, {}
        before = None
        for at, line in self.samples:
            for thread in objects(line.get("threads")):
                tid = number(thread.get("tid"))
                if tid is None:
                    continue
                if tid not in points:
                    groups[tid] = group_of(tid, text(thread.get("name")) or "", self.pid)
                    points[tid] = {key: [(before, 0)] if before is not None else []
                                   for key in ("cpu_ns", "guest_ns", "voluntary", "involuntary")}
                for key, series in points[tid].items():
                    value = number(thread.get(key))
                    if value is not None:
                        series.append((at, value))
            if isinstance(line.get("threads"), list):
                before = at
        return {tid: (groups[tid], {key: Counter(series) for key, series in all_of.items()})
                for tid, all_of in points.items()}

    def cpu(self, bounds):
        """CPU of the process by part: guest (in guest mode), vcpu (the rest of the vCPU threads: exits, kernel),
        mover, loop, other; `process` is the sum. What no thread can be charged with is other."""
        parts = {"guest": 0, **{group: 0 for group in GROUPS}}
        for group, counters in self.threads.values():
            spent = counters["cpu_ns"].grew(bounds)
            if group == "vcpu":
                inside = min(counters["guest_ns"].grew(bounds), spent)
                parts["guest"] += inside
                spent -= inside
            if group != "other":
                parts[group] += spent
        whole = self.counter("process", "cpu_ns").grew(bounds)
        parts["other"] = whole - sum(parts[key] for key in parts if key != "other")
        return {**parts, "process": whole}

    def host_cpu(self, bounds):
        """CPU of the host: interrupts, the process, and beyond it: what everything else there took. `host` is the
        sum."""
        grew = {key: self.counter("host", key + "_ns").grew(bounds) for key in ("user", "system", "guest", *HOST_PARTS)}
        whole = sum(grew.values())
        parts = {key: grew[key] for key in HOST_PARTS}
        process = self.counter("process", "cpu_ns").grew(bounds)
        return {**parts, "process": process, "beyond": grew["user"] + grew["system"] + grew["guest"] - process,
                "host": whole}

    def interfaces(self):
        names = {}
        for _, line in self.samples:
            if isinstance(line.get("net"), dict):
                names.update(dict.fromkeys(line["net"]))
        return list(names)

    def net(self, bounds):
        return {name: {key: self.counter("net", name, key).grew(bounds)
                       for key in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")}
                for name in self.interfaces()}

    def disk(self, bounds):
        return {"process_read": self.counter("process", "read_bytes").grew(bounds),
                "process_written": self.counter("process", "written_bytes").grew(bounds),
                "host_read": self.counter("host", "disk_read_bytes").grew(bounds),
                "host_written": self.counter("host", "disk_written_bytes").grew(bounds)}

    def switches(self, bounds):
        """Context switches: of the process's threads by kind, and of the whole host."""
        found = {key: sum(counters[key].grew(bounds) for _, counters in self.threads.values())
                 for key in ("voluntary", "involuntary")}
        return {**found, "host": self.counter("host", "context_switches").grew(bounds)}

    def tlp(self, bounds):
        """Thread-level parallelism of the process: mean number of running threads while any runs. None if unknown."""
        total, any_ns = 0.0, 0.0
        known = False
        for at, line in self.samples:
            shares = line.get("running_ns")
            if not bounds[0] < at <= bounds[1] or not isinstance(shares, list):
                continue
            values = [number(value) or 0 for value in shares]
            total += sum(count * value for count, value in enumerate(values))
            any_ns += sum(values[1:])
            known = True
        return total / any_ns if known and any_ns else None

    def level(self, grid, *keys):
        """A level (not a counter) at each time of `grid`, straight between samples. None without samples."""
        points = [(at, value) for at, line in self.samples if (value := number(get(line, *keys))) is not None]
        if not points:
            return None
        base = points[0][0]
        return np.interp(grid - base, np.array([at - base for at, _ in points]),
                         np.array([value for _, value in points], dtype=float))

    def connections(self, bounds):
        """The process's TCP connections that moved something in a window: a list, most bytes first."""
        points = {}
        before = None
        for at, line in self.samples:
            for entry in objects(line.get("tcp")):
                key = (text(entry.get("local")) or "?", text(entry.get("peer")) or "?")
                series = points.setdefault(key, {name: [(before, 0)] if before is not None else []
                                                 for name in ("sent_bytes", "received_bytes", "retransmitted")})
                for name, values in series.items():
                    if (value := number(entry.get(name))) is not None:
                        values.append((at, value))
            if isinstance(line.get("tcp"), list):
                before = at
        found = []
        for (local, peer), series in points.items():
            grew = {name: Counter(values).grew(bounds) for name, values in series.items()}
            if grew["sent_bytes"] or grew["received_bytes"] or grew["retransmitted"]:
                found.append({"local": local, "peer": peer, **grew})
        return sorted(found, key=lambda entry: -(entry["sent_bytes"] + entry["received_bytes"]))


def less(during, baseline, scale, whole=None, rest=None):
    """during - baseline x scale, key by key, to the nearest whole. Of parts of a `whole`, `rest` takes what rounding
    leaves, so that they still sum to it."""
    found = {key: round(value - baseline.get(key, 0) * scale) for key, value in during.items()}
    if whole:
        found[rest] = found[whole] - sum(value for key, value in found.items() if key not in (whole, rest))
    return found


def extra_memory(meters, move, baseline, *keys):
    """Memory above the mean of the baseline window during the move: peak and integral (byte-seconds), for each host
    and for both at once. None where a meter is missing."""
    step = max(10**6, min(10**8, (move[1] - move[0]) // 50))
    grid = np.append(np.arange(move[0], move[1], step, dtype=np.int64), np.int64(move[1]))
    calm = np.arange(baseline[0], baseline[1] + 1, 10**8, dtype=np.int64)
    found, together = {}, []
    for host, meter in meters.items():
        level, before = meter.level(grid, *keys), meter.level(calm, *keys)
        # A process that was not there yet had no memory; one that is gone has none any more.
        if level is None:
            continue
        if keys[0] == "process":
            seen = [at for at, line in meter.samples
                    if number(get(line, *keys)) is not None and get(line, "process", "ended") is not True] or [0]
            level = np.where((grid < seen[0]) | (grid > seen[-1] + 2 * 10**8), 0, level)
            before = np.where((calm < seen[0]) | (calm > seen[-1] + 2 * 10**8), 0, before)
        over = level - before.mean()
        together.append(over)
        found[host] = {"peak_bytes": float(over.max()), "byte_seconds": _integral(grid, over)}
    if len(together) == 2:
        both = together[0] + together[1]
        found["both"] = {"peak_bytes": float(both.max()), "byte_seconds": _integral(grid, both)}
    return found or None


def _integral(grid, values):
    return float(((values[1:] + values[:-1]) / 2 * np.diff(grid) / 1e9).sum())


def account(meters, move, baseline, one_machine):
    """All of it, for the hosts there are meters of: `hosts`, each with its extras, and what the two make together.
    On one machine (two namespaces) what belongs to the host is counted once."""
    scale = (move[1] - move[0]) / (baseline[1] - baseline[0])
    hosts = {}
    for host, meter in meters.items():
        if not meter.covers(move) or not meter.mapped:
            continue
        calm = meter.covers(baseline)
        if not calm and host == "source":
            continue
        # A target's meter may begin after the baseline: then nothing ran there, but what its host did is unknown.
        entry = {"cpu": less(meter.cpu(move), meter.cpu(baseline), scale, "process", "other"),
                 "disk": less(meter.disk(move), meter.disk(baseline), scale),
                 "switches": less(meter.switches(move), meter.switches(baseline), scale),
                 "tlp": {"baseline": meter.tlp(baseline), "move": meter.tlp(move)},
                 "connections": meter.connections(move), "host_cpu": None, "net": None}
        if calm:
            entry["host_cpu"] = less(meter.host_cpu(move), meter.host_cpu(baseline), scale, "host", "beyond")
            calm_net = meter.net(baseline)
            entry["net"] = {name: less(values, calm_net[name], scale) for name, values in meter.net(move).items()}
        hosts[host] = entry
    if not hosts:
        return None
    found = {"hosts": hosts, "scale": scale, "one_machine": one_machine}
    found["cpu"] = {key: sum(entry["cpu"][key] for entry in hosts.values())
                    for key in ("guest", *GROUPS, "process")} if len(hosts) == 2 else None
    beyond = [entry["host_cpu"] for entry in hosts.values() if entry["host_cpu"]]
    if one_machine and len(beyond) == 2:
        # Either meter saw the same machine, and took only its own process off.
        other = hosts["target"]["cpu"]["process"]
        beyond = [{**beyond[0], "beyond": beyond[0]["beyond"] - other}]
    found["host_cpu"] = {key: sum(part[key] for part in beyond) for key in (*HOST_PARTS, "beyond")} \
        if len(hosts) == 2 and len(beyond) == (1 if one_machine else 2) else None
    mine = {host: meters[host] for host in hosts}
    found["memory"] = {"host": extra_memory(mine, move, baseline, "host", "memory_used_bytes"),
                       "monitor": extra_memory(mine, move, baseline, "process", "anon_bytes"),
                       "guest": extra_memory(mine, move, baseline, "process", "shmem_bytes")}
    if one_machine and found["memory"]["host"]:
        found["memory"]["host"]["both"] = dict(found["memory"]["host"].get("source", {})) or None
    return found
