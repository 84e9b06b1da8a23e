"""The figures that are compared between repetitions, cells and reports: one table of them."""

import math

from .raw import get

BOTH = ("source", "target")


def probe(run, *keys):
    return get(run, "probes", run.get("service_probe"), *keys)


def failed(run, statuses=None):
    found = [each.get("failed") for each in run["probes"].values() if isinstance(each.get("failed"), dict)]
    if not found or "move" not in run["windows"]:
        return None
    return sum(count for each in found for status, count in each.items() if statuses is None or status in statuses)


def total(*values):
    return sum(values) if None not in values else None


def monitor_cpu(run):
    """Extra CPU but for the guest's own: monitors on both hosts, and their kernels beyond them where known."""
    cpu = get(run, "resources", "cpu")
    if not cpu:
        return None
    return cpu["process"] - cpu["guest"]


def all_cpu(run):
    """Extra CPU of both hosts but for the guest's own."""
    host = get(run, "resources", "host_cpu")
    return total(monitor_cpu(run), *(get(host, key) for key in ("irq", "softirq", "beyond")))


def link(run):
    """Bytes and packets on the link: of the interface that got the most more to send at the source."""
    net = get(run, "resources", "hosts", "source", "net")
    if not net:
        return None
    return max(net.items(), key=lambda item: item[1]["tx_bytes"])


def link_sum(run, what):
    found = link(run)
    return found[1]["rx_" + what] + found[1]["tx_" + what] if found else None


def per_host(run, *keys):
    values = [get(run, "resources", "hosts", host, *keys) for host in BOTH]
    return total(*values)


def retransmitted(run):
    values = [get(run, "resources", "hosts", host, "connections") for host in BOTH]
    if None in values:
        return None
    return sum(entry["retransmitted"] for each in values for entry in each)


def lanes(run):
    found = get(run, "resources", "hosts", "source", "connections")
    return len([entry for entry in found if entry["sent_bytes"] >= 65536]) if found is not None else None


def at(*keys):
    return lambda run: get(run, *keys)


def of_probe(*keys):
    return lambda run: probe(run, *keys)


def percentile(window, name):
    """Infinite where there were requests, and so many failed that the percentile is one of them."""
    def take(run):
        found = probe(run, "windows", window)
        value = get(found, name)
        return math.inf if value is None and found and get(found, "failed_total") else value
    return take


def client(run):
    """Infinite where no answer came any more."""
    value = get(run, "downtime", "client", "ns")
    return math.inf if value is None and get(run, "downtime", "client", "open_ns") is not None else value


def back(run):
    """Infinite where it did not happen while the probe watched."""
    found = probe(run, "return")
    return (math.inf if found["ns"] is None else found["ns"]) if found else None


def group(name):
    return lambda run: get(run, "resources", "cpu", name)


# name: (title, unit, which way is better (-1 less, +1 more, 0 neither), how to get it from a run)
METRICS = {
    "downtime.monitor": ("downtime, monitor", "ns", -1, at("downtime", "monitor_ns")),
    "downtime.guest": ("downtime, guest", "ns", -1, at("downtime", "guest_ns")),
    "downtime.client": ("downtime, client", "ns", -1, client),
    "downtime.guest_at_pause": ("guest's gap at the pause", "ns", -1, at("downtime", "guest", "at_pause_ns")),
    "downtime.client_at_pause": ("clients' gap at the pause", "ns", -1, at("downtime", "client", "at_pause_ns")),
    "downtime.client_less_monitor": ("client less monitor", "ns", 0, at("downtime", "client_less_monitor_ns")),
    "downtime.guest_less_monitor": ("guest less monitor", "ns", 0, at("downtime", "guest_less_monitor_ns")),
    "move.total": ("the whole move", "ns", -1, at("move", "total_ns")),
    "move.rounds": ("rounds", "", 0, lambda run: len(run["move"]["rounds"]) or None),
    "move.bytes": ("bytes, as the mover says", "B", -1, at("move", "bytes", "total")),
    "faults.count": ("accesses that waited", "", -1, at("move", "faults", "count")),
    "faults.wait_p99": ("their wait, p99", "ns", -1, at("move", "faults", "wait_p99_ns")),
    "latency.before.p50": ("latency before, p50", "ns", -1, percentile("before", "p50_ns")),
    "latency.before.p99": ("latency before, p99", "ns", -1, percentile("before", "p99_ns")),
    "latency.move.p50": ("latency in the move, p50", "ns", -1, percentile("move", "p50_ns")),
    "latency.move.p90": ("latency in the move, p90", "ns", -1, percentile("move", "p90_ns")),
    "latency.move.p99": ("latency in the move, p99", "ns", -1, percentile("move", "p99_ns")),
    "latency.move.p999": ("latency in the move, p99.9", "ns", -1, percentile("move", "p999_ns")),
    "latency.move.max": ("latency in the move, max", "ns", -1, percentile("move", "max_ns")),
    "latency.after.p50": ("latency after, p50", "ns", -1, percentile("after", "p50_ns")),
    "latency.after.p99": ("latency after, p99", "ns", -1, percentile("after", "p99_ns")),
    "delay.max": ("delay added, worst", "ns", -1, of_probe("delay", "max_ns")),
    "delay.mean": ("delay added, mean", "ns", -1, of_probe("delay", "mean_ns")),
    "delay.slower": ("requests slower than any before", "", -1, of_probe("delay", "slower")),
    "return": ("back to the level before after", "ns", -1, back),
    "failed": ("requests failed", "", -1, failed),
    "reset": ("connections reset or closed", "", -1, lambda run: failed(run, ("reset", "closed"))),
    "throughput.before": ("answers a second, before", "/s", 1, of_probe("windows", "before", "answers_per_s")),
    "throughput.move": ("answers a second, in the move", "/s", 1, of_probe("windows", "move", "answers_per_s")),
    "bytes.before": ("bytes served, before", "B/s", 1, of_probe("windows", "before", "bytes_per_s")),
    "bytes.move": ("bytes served, in the move", "B/s", 1, of_probe("windows", "move", "bytes_per_s")),
    "quality.before": ("connections that conform, before", "share", 1, at("quality", "before", "mean")),
    "quality.move": ("connections that conform, move", "share", 1, at("quality", "move", "mean")),
    "quality.move.least": ("the same, worst second", "share", 1, at("quality", "move", "least")),
    "guest.slowdown": ("guest slower while moving, by", "share", -1, at("guest", "slowdown")),
    "cpu.all": ("CPU, both hosts without the guest", "ns", -1, all_cpu),
    "cpu.monitors": ("monitors without the guest", "ns", -1, monitor_cpu),
    "cpu.mover": ("movers", "ns", -1, group("mover")),
    "cpu.loop": ("loops", "ns", -1, group("loop")),
    "cpu.vcpu": ("vCPU threads outside the guest", "ns", -1, group("vcpu")),
    "cpu.other": ("other threads", "ns", -1, group("other")),
    "cpu.guest": ("the guest itself", "ns", 0, group("guest")),
    "cpu.irq": ("interrupts", "ns", -1, lambda run: total(
        get(run, "resources", "host_cpu", "irq"), get(run, "resources", "host_cpu", "softirq"))),
    "cpu.beyond": ("the hosts beyond the monitors", "ns", -1, at("resources", "host_cpu", "beyond")),
    "net.bytes": ("bytes on the link, both ways", "B", -1, lambda run: link_sum(run, "bytes")),
    "net.packets": ("packets on the link, both ways", "", -1, lambda run: link_sum(run, "packets")),
    "net.retransmitted": ("segments sent again", "", -1, retransmitted),
    "net.lanes": ("connections that carried data", "", 0, lanes),
    "disk.read": ("storage read by the monitors", "B", -1, lambda run: per_host(run, "disk", "process_read")),
    "disk.written": ("storage written by the monitors", "B", -1, lambda run: per_host(run, "disk", "process_written")),
    "memory.peak": ("memory, peak on both hosts", "B", -1, at("resources", "memory", "host", "both", "peak_bytes")),
    "memory.monitor": ("memory, monitors' own peak", "B", -1,
                       at("resources", "memory", "monitor", "both", "peak_bytes")),
    "memory.integral": ("memory x time, both hosts", "Bs", -1,
                        at("resources", "memory", "host", "both", "byte_seconds")),
    "switches": ("context switches of the monitors", "", -1, lambda run: total(
        per_host(run, "switches", "voluntary"), per_host(run, "switches", "involuntary"))),
    "tlp.baseline": ("TLP, source's monitor, baseline", "tlp", 0,
                     at("resources", "hosts", "source", "tlp", "baseline")),
    "tlp.source": ("TLP, source's monitor, move", "tlp", 0, at("resources", "hosts", "source", "tlp", "move")),
    "tlp.target": ("TLP, target's monitor, move", "tlp", 0, at("resources", "hosts", "target", "tlp", "move")),
}


def of(run):
    """All figures of one repetition; None where there is none. Of a run whose move did not happen, none."""
    return {name: take(run) for name, (_, _, _, take) in METRICS.items()}


def title(name):
    return METRICS[name][0]


def unit(name):
    return METRICS[name][1]
