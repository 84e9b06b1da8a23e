#!/usr/bin/env python3
"""`godwit metrics`: what it prints is Prometheus' text format to the letter, says what the bills say, and is what the
dashboard asks for. VMs run on the fake hypervisor."""
import json
import math
import os
import re
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../system"))
from harness import ROOT, Host, Relay, check, free_port, run_tests, wait_for  # noqa: E402

DASHBOARD = os.path.join(ROOT, "docs/grafana/godwit.json")
DOCUMENT = os.path.join(ROOT, "docs/metrics.md")
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
UNITS = ("_seconds", "_bytes", "_pages", "_ratio", "_bytes_per_second", "_pages_per_second", "_segments",
         "_requests", "_frames")
# Gauges of things that are counted, or states: no unit belongs to them.
PLAIN = {"godwit_build_info", "godwit_vm_state", "godwit_vm_move_stage", "godwit_vm_vcpus", "godwit_vm_moving",
         "godwit_vm_move_round", "godwit_last_move_info", "godwit_last_move_rounds"}


def unescape(text):
    return re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), text)


def parse(text):
    """{family: (type, {(sample name, labels): value})}, or a failure for whatever the format does not allow."""
    check(text.endswith("\n"), "the last line does not end")
    families, current = {}, None
    lines = text.split("\n")[:-1]
    for number, line in enumerate(lines):
        where = f"line {number + 1}: {line!r}: "
        if help_line := re.fullmatch(rf"# HELP ({NAME}) ([^\\\n]+)", line):
            check(help_line[1] not in families, where + "a family is there twice")
            current = help_line[1]
            families[current] = (None, {})
            kind = re.fullmatch(rf"# TYPE {re.escape(current)} (counter|gauge|histogram)", lines[number + 1])
            check(kind, where + "no type follows")
            families[current] = (kind[1], {})
            continue
        if line.startswith("# TYPE "):
            check(lines[number - 1].startswith(f"# HELP {line.split()[2]} "), where + "a type without a help")
            continue
        sample = re.fullmatch(rf"({NAME})(?:\{{((?:{LABEL},?)*)\}})? (\d+(?:\.\d+)?)", line)
        check(sample, where + "no sample")
        name, body, value = sample[1], sample[2] or "", float(sample[5])
        check(not body.endswith(","), where + "an empty label")
        labels = re.findall(LABEL, body)
        check(",".join(f'{k}="{v}"' for k, v in labels) == body, where + "labels that are none")
        check(len({key for key, _ in labels}) == len(labels), where + "a label twice")
        kind, samples = families[current]
        allowed = [current + suffix for suffix in ("_bucket", "_sum", "_count")] if kind == "histogram" else [current]
        check(name in allowed, where + f"not of the family {current}")
        key = (name, tuple(sorted((k, unescape(v)) for k, v in labels)))
        check(key not in samples, where + "a sample twice")
        check(math.isfinite(value) and value >= 0, where + "no such value")
        samples[key] = value
    for family, (kind, samples) in families.items():
        check((kind == "counter") == family.endswith("_total"), f"{family}: a {kind}")
        check(family in PLAIN or family.removesuffix("_total").endswith(UNITS) or family == "godwit_moves_total",
              f"{family}: no unit")
        if kind == "histogram":
            check_histogram(family, samples)
    return families


def check_histogram(family, samples):
    series = {}
    for (name, labels), value in samples.items():
        if name.endswith("_bucket"):
            rest = tuple(pair for pair in labels if pair[0] != "le")
            series.setdefault(rest, []).append((float(dict(labels)["le"]), value))
    for rest, buckets in series.items():
        check(buckets == sorted(buckets) and buckets[-1][0] == math.inf, f"{family}: bounds {buckets}")
        check([n for _, n in buckets] == sorted(n for _, n in buckets), f"{family}: counts {buckets}")
        check(samples[(family + "_count", rest)] == buckets[-1][1], f"{family}: the count is not that of +Inf")
        check((family + "_sum", rest) in samples, f"{family}: no sum")
    check(len([1 for name, _ in samples if name.endswith("_count")]) == len(series), f"{family}: a count alone")


def metrics(host):
    return parse(host.run("metrics").stdout)


def value(families, name, family=None, **labels):
    wanted = {k: v for k, v in labels.items()}
    found = [v for (sample, pairs), v in families[family or name][1].items()
             if sample == name and wanted.items() <= dict(pairs).items()]
    check(len(found) == 1, f"{len(found)} samples {name} {labels}")
    return found[0]


def close_to(got, want_ns, what):
    check(abs(got - want_ns / 1e9) < 1e-9 * max(1, want_ns / 1e6), f"{what}: {got} s, {want_ns} ns")


def start(host, name, *args):
    host.run("run", "--name", name, "--kernel", "/none", "--memory", "64M", "--fake", "--detach", *args)


def test_nothing():
    with Host() as host:
        families = metrics(host)
        check(value(families, "godwit_build_info") == 1, "the version")
        check(sum(len(samples) for _, samples in families.values()) == 1, "samples of nothing")
        check(not os.path.exists(os.path.join(host.base, ".bills")), "reading makes no folder")


def test_vms():
    with Host() as host:
        start(host, "a", "--cpus", "2")
        start(host, "b")
        host.run("pause", "b")
        families = metrics(host)
        for name, state in ("a", "running"), ("b", "paused"):
            states = {dict(pairs)["state"]: v for (_, pairs), v in families["godwit_vm_state"][1].items()
                      if dict(pairs)["vm"] == name}
            check([s for s, v in states.items() if v] == [state] and len(states) == 14, f"{name}: {states}")
        check(value(families, "godwit_vm_vcpus", vm="a") == 2, "vcpus")
        check(value(families, "godwit_vm_memory_bytes", vm="a") == 64 << 20, "memory")
        check(value(families, "godwit_vm_moving", vm="a") == 0, "moving")
        check(not families["godwit_vm_move_stage"][1] and not families["godwit_vm_move_round"][1],
              "no move is under way")
        used = {group: value(families, "godwit_vm_cpu_seconds_total", vm="a", group=group)
                for group in ("vcpu", "mover", "loop", "other")}
        check(sum(used.values()) > 0, f"CPU: {used}")
        for _ in range(20):  # counters never go back
            again = metrics(host)
            for group, before in used.items():
                now = value(again, "godwit_vm_cpu_seconds_total", vm="a", group=group)
                check(now >= before, f"{group}: {before} to {now}")
                used[group] = now
        os.kill(host.pid("b"), 9)
        wait_for("b to die", lambda: value(metrics(host), "godwit_vm_state", vm="b", state="dead") == 1)
        check(("godwit_vm_memory_bytes", (("vm", "b"),)) not in metrics(host)["godwit_vm_memory_bytes"][1],
              "nothing is known of b")


class Retold:
    """Stands in for the control socket of a VM and passes calls on, with other counters in the answers to vm.info."""

    def __init__(self, host, name, counts):
        self.path, self.counts = os.path.join(host.base, name, "control.sock"), counts
        self.real = self.path + ".real"
        os.rename(self.path, self.real)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            with client, client.makefile("rwb") as near, socket.socket(socket.AF_UNIX) as monitor:
                monitor.connect(self.real)
                with monitor.makefile("rwb") as far:
                    for line in near:
                        far.write(line)
                        far.flush()
                        answer = json.loads(far.readline())
                        if json.loads(line)["method"] == "vm.info":
                            for device, counts in self.counts.items():
                                check(counts.keys() == answer["result"]["counts"][device].keys(),
                                      f"counters of {device}")
                            answer["result"]["counts"] = self.counts
                        near.write(json.dumps(answer).encode() + b"\n")
                        near.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.rename(self.real, self.path)


def test_devices():
    """Each counter has its sample, and `info` a word; of a guest that does nothing they are zero."""
    with Host() as host:
        disk = os.path.join(host.base, "disk")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        start(host, "vm", "--disk", f"root={disk}", "--vsock", "3")
        info = json.loads(host.run("info", "vm", "--json").stdout)
        kinds = {device["id"]: device["kind"] for device in info["config"]["machine"]["devices"]}
        check(sorted(kinds.values()) == ["balloon", "blk", "rng", "vsock"], f"devices: {kinds}")
        check(info["counts"].keys() == kinds.keys(), "each has counters")
        check(not any(v for counts in info["counts"].values() for v in counts.values()), "nothing was done yet")
        families = metrics(host)
        check(value(families, "godwit_vm_disk_requests_total", vm="vm", device="root", op="flush") == 0,
              "known to be none")

        rng, balloon = (next(device for device, kind in kinds.items() if kind == want) for want in ("rng", "balloon"))
        counts = {"root": {"read_requests": 3, "write_requests": 5, "flush_requests": 7, "discard_requests": 11,
                           "write_zeroes_requests": 13, "read_bytes": 1 << 10, "written_bytes": 1 << 11,
                           "discarded_bytes": 1 << 12, "zeroed_bytes": 1 << 13, "failed_requests": 17},
                  rng: {"bytes": 19}, "vsock0": {"received_bytes": 23, "sent_bytes": 29},
                  balloon: {"inflated_bytes": 31, "deflated_bytes": 37, "reported_bytes": 41}}
        with Retold(host, "vm", counts):
            families, words = metrics(host), host.run("info", "vm").stdout
        got = {}
        for family in ("disk_requests", "disk_failed_requests", "disk_bytes", "random_bytes", "vsock_bytes",
                       "balloon_taken_back_bytes"):
            for (_, pairs), v in families[f"godwit_vm_{family}_total"][1].items():
                labels = dict(pairs)
                check(labels.pop("vm") == "vm", "of that VM")
                got[(family, labels.pop("device"), *labels.values())] = v
        check(got == {("disk_requests", "root", "read"): 3, ("disk_requests", "root", "write"): 5,
                      ("disk_requests", "root", "flush"): 7, ("disk_requests", "root", "discard"): 11,
                      ("disk_requests", "root", "write-zeroes"): 13, ("disk_failed_requests", "root"): 17,
                      ("disk_bytes", "root", "read"): 1 << 10, ("disk_bytes", "root", "write"): 1 << 11,
                      ("disk_bytes", "root", "discard"): 1 << 12, ("disk_bytes", "root", "write-zeroes"): 1 << 13,
                      ("random_bytes", rng): 19, ("vsock_bytes", "vsock0", "receive"): 23,
                      ("vsock_bytes", "vsock0", "send"): 29, ("balloon_taken_back_bytes", balloon): 37},
              f"samples: {got}")
        for word in ("3 reads (1.00 KiB), 5 writes (2.00 KiB), 7 flushes", "17 failed", "19 B given",
                     "23 B received, 29 B sent",
                     "31 B given back, 37 B taken again, 41 B reported free"):
            check(word in words, f"no {word!r} in:\n{words}")


def test_network():
    """The same of a network device, which needs a tap."""
    with Host() as host:
        tap = f"gwm{os.getpid()}"
        made = subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap", "vnet_hdr"], capture_output=True, check=False)
        if made.returncode:
            print("# no taps can be made here: not tested")
            return
        try:
            subprocess.run(["ip", "link", "set", tap, "up"], check=True)
            start(host, "vm", "--net", f"lan={tap}")
            counts = {"lan": {"received_frames": 2, "received_bytes": 3, "received_dropped_frames": 5, "sent_frames": 7,
                              "sent_bytes": 11, "sent_dropped_frames": 13}}
            with Retold(host, "vm", counts):
                families, words = metrics(host), host.run("info", "vm").stdout
        finally:
            host.run("kill", "vm", check=False)
            subprocess.run(["ip", "link", "del", tap], check=False)
        got = [value(families, f"godwit_vm_network_{family}_total", device="lan", direction=direction)
               for direction in ("receive", "send") for family in ("frames", "bytes", "dropped_frames")]
        check(got == [2, 3, 5, 7, 11, 13], f"samples: {got}")
        check("2 received (3 B), 5 lost, 7 sent (11 B), 13 refused" in words, words)


def test_moves():
    with Host() as a, Host() as b:
        start(a, "web")
        bad = a.migrate("web", f"127.0.0.1:{free_port()}", status=1)
        families = metrics(a)
        check(value(families, "godwit_moves_total", kind="migrate", side="source", outcome="failed") == 1, "a failure")
        check(value(families, "godwit_last_move_info", vm="web", outcome="failed") == 1, "the failure is the last")
        close_to(value(families, "godwit_last_move_duration_seconds", vm="web"), bad["total_ns"], "duration")
        check(not families["godwit_last_move_downtime_seconds"][1], "it did not stand still: unknown, not zero")

        target = b.receive("--fake")
        bill = a.migrate("web", target.address)
        families = metrics(a)  # also when the monitor has gone
        check(not families["godwit_vm_memory_bytes"][1], "it runs here no more")
        check(value(families, "godwit_moves_total", kind="migrate", side="source", outcome="completed") == 1, "a move")
        check(value(families, "godwit_moves_total", kind="migrate", side="source", outcome="failed") == 1, "still")
        close_to(value(families, "godwit_last_move_duration_seconds", vm="web"), bill["total_ns"], "duration")
        close_to(value(families, "godwit_last_move_downtime_seconds", vm="web"), bill["downtime"]["total_ns"],
                 "downtime")
        for stage in bill["stages"]:
            close_to(value(families, "godwit_last_move_stage_seconds", stage=stage["stage"]), stage["ns"],
                     stage["stage"])
        for part in bill["downtime"]["parts"]:
            close_to(value(families, "godwit_last_move_downtime_part_seconds", part=part["part"]), part["ns"],
                     part["part"])
        for kind, count in bill["bytes"].items():
            if kind != "total":
                check(value(families, "godwit_last_move_sent_bytes", content=kind) == count, kind)
                check(value(families, "godwit_moves_sent_bytes_total", content=kind, outcome="completed") == count,
                      kind)
        check(sum(families["godwit_last_move_sent_bytes"][1].values()) == bill["bytes"]["total"], "kinds are the whole")
        for side in "source", "target":
            for group, ns in bill["monitors"][side]["cpu_ns"].items():
                if group != "total":
                    close_to(value(families, "godwit_last_move_cpu_seconds", host=side, group=group), ns, group)
        check(value(families, "godwit_move_downtime_seconds_count", "godwit_move_downtime_seconds") == 1,
              "one stood still")
        close_to(value(families, "godwit_move_downtime_seconds_sum", "godwit_move_downtime_seconds"),
                 bill["downtime"]["total_ns"], "sum")
        there = metrics(b)
        check(value(there, "godwit_vm_state", vm="web", state="running") == 1, "it runs there")
        check(value(there, "godwit_moves_total", kind="migrate", side="target", outcome="completed") == 1,
              "and is counted there")
        stages = [v for (_, pairs), v in there["godwit_last_move_stage_seconds"][1].items()]
        close_to(value(there, "godwit_last_move_duration_seconds", vm="web"), round(sum(stages) * 1e9), "stages there")
        check(sum(families_of(there, "godwit_last_move_cpu_seconds", host="target")) > 0, "what it spent")
        for family in "godwit_last_move_downtime_seconds", "godwit_last_move_sent_bytes", "godwit_last_move_rounds":
            check(not there[family][1], f"{family}: a target does not know")
        target.kill()


def families_of(families, name, **labels):
    return [v for (_, pairs), v in families[name][1].items() if labels.items() <= dict(pairs).items()]


def test_failed_arrival():
    """A target counts what was cut, and what it is told to give up, too."""
    with Host(insecure=True) as a, Host(insecure=True) as b:
        start(a, "vm")
        target = b.receive("--fake", once=False)
        with Relay(target.address, lambda direction, name, count: "cut" if name == "round" else None) as relay:
            a.run("migrate", "vm", relay.address, "--lanes", "0", status=1)
        wait_for("the target's bill", lambda: metrics(b)["godwit_moves_total"][1])
        check(value(metrics(b), "godwit_moves_total", kind="migrate", side="target", outcome="failed") == 1, "failed")
        check(value(metrics(b), "godwit_last_move_info", vm="vm", side="target", outcome="failed") == 1, "named")
        a.migrate("vm", target.address)  # the same receiver, once more
        check(value(metrics(b), "godwit_moves_total", kind="migrate", side="target", outcome="completed") == 1, "moved")
        check(value(metrics(b), "godwit_moves_total", kind="migrate", side="target", outcome="failed") == 1,
              "still one")
        target.kill()


def test_any_text():
    """What a label's value may be: a file's name is anybody's."""
    with Host() as host:
        start(host, "vm")
        path = os.path.join(host.base, 'a "quoted\\ name"\nof {two="lines"} ümlaut.gw')
        host.run("checkpoint", "vm", path)
        families = metrics(host)
        check(value(families, "godwit_last_move_info", kind="checkpoint", to=path) == 1, "the path")
        os.unlink(path)


def test_under_way():
    """A move that hangs in the middle shows where it is."""
    with Host(insecure=True) as a, Host(insecure=True) as b:
        start(a, "vm")
        target = b.receive("--fake")
        held = threading.Event()
        with Relay(target.address,
                   lambda direction, name, count: held.wait(30) if name == "round-done" else None) as relay:
            move = a.start("migrate", "vm", relay.address, "--lanes", "0")
            try:
                families = wait_for("a move in pre-copy",
                                    lambda: (f := metrics(a)) and f["godwit_vm_move_round"][1] and
                                    value(f, "godwit_vm_state", vm="vm", state="migrating") == 1 and f)
                check(value(families, "godwit_vm_moving", vm="vm") == 1, "it moves")
                stages = {dict(pairs)["stage"]: v for (_, pairs), v in families["godwit_vm_move_stage"][1].items()}
                check(len(stages) == 7 and sum(stages.values()) == 1, f"stages: {stages}")
                for name in ("sent_bytes", "sent_pages", "left_pages", "elapsed_seconds", "rate_bytes_per_second",
                             "dirty_pages_per_second"):
                    value(families, f"godwit_vm_move_{name}", vm="vm")
            finally:
                held.set()
                move.communicate(timeout=60)
        target.kill()


def test_bounded():
    """More moves than are kept; damaged files are passed over."""
    with Host() as host:
        folder = os.path.join(host.base, ".bills")
        start(host, "vm")
        path = os.path.join(host.base, "vm.gw")
        for _ in range(3):
            host.run("checkpoint", "vm", path)
        kept = sorted(name for name in os.listdir(folder) if re.fullmatch(r"\d{20}-\d+\.json", name))
        check(len(kept) == 3, f"kept: {kept}")
        for i in range(100):
            with open(os.path.join(folder, f"{i:020d}-1.json"), "w") as file:
                file.write("{" if i % 2 else '{"name": 5}')
        value(metrics(host), "godwit_last_move_info", vm="vm")
        host.run("checkpoint", "vm", path)
        kept = [name for name in os.listdir(folder) if name.endswith(".json") and name != "totals.json"]
        check(len(kept) == 64, f"{len(kept)} are kept")
        check(value(metrics(host), "godwit_moves_total", kind="checkpoint", outcome="completed") == 4,
              "all are counted")
        with open(os.path.join(folder, "totals.json"), "w") as file:
            file.write('[{"kind": ')
        check(not metrics(host)["godwit_moves_total"][1], "damaged totals are none")
        host.run("checkpoint", "vm", path)
        check(value(metrics(host), "godwit_moves_total", kind="checkpoint", outcome="completed") == 1, "and begin anew")


def queries(node):
    if isinstance(node, dict):
        for key, member in node.items():
            if key == "expr" or (key == "query" and isinstance(member, str)):
                yield member
            else:
                yield from queries(member)
    elif isinstance(node, list):
        for member in node:
            yield from queries(member)


def documented():
    """{family: its labels} of the tables of docs/metrics.md."""
    with open(DOCUMENT, encoding="utf-8") as file:
        rows = re.findall(r"^\| `(godwit_\w+)` \| \w+ \| ([^|]*) \|", file.read(), re.M)
    return {name: set(labels.split(", ")) for name, labels in rows}


def test_dashboard():
    """It can be imported, and asks for nothing that is not printed, by no label that is not there."""
    with Host() as a, Host() as b:
        start(a, "vm")
        a.run("checkpoint", "vm", os.path.join(a.base, "vm.gw"))
        target = b.receive("--fake")
        a.migrate("vm", target.address)
        families = metrics(a)
        there = metrics(b)
        target.kill()
    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    check(dashboard["id"] is None and dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 36,
          "import")
    check([i["pluginId"] for i in dashboard["__inputs"]] == ["prometheus"], "it asks for its data source")
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    check(len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]),
          "panels have numbers of their own")
    check(all(panel["datasource"]["uid"] == "${DS_PROMETHEUS}" for panel in panels), "every panel has the data source")
    spots = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"])
                 for y in range(grid["y"], grid["y"] + grid["h"])}
        check(grid["x"] + grid["w"] <= 24 and not cells & spots, f"{panel['title']}: where it stands")
        spots |= cells
    asked = set()
    known = documented()  # also of what has no samples here
    for families_of in families, there:
        for family, (kind, samples) in families_of.items():
            for name in [family + s for s in ("_bucket", "_sum", "_count")] if kind == "histogram" else [family]:
                known.setdefault(name, set())
            for name, pairs in samples:
                known[name] |= {key for key, _ in pairs}
    for query in queries(dashboard):
        names = set(re.findall(r"\bgodwit_\w+", query))
        check(names, f"{query}: asks for nothing of ours")
        check(names <= known.keys(), f"{query}: {names - known.keys()} is not printed")
        labels = set(re.findall(r"(\w+)\s*(?:=~|=|!=|!~)\s*\"", query))
        for group in re.findall(r"\bby\s*\(([^)]*)\)", query):
            labels |= {label.strip() for label in group.split(",")}
        has = set().union(*(known[name] for name in names)) | {"instance", "job", "le"}
        check(labels <= has, f"{query}: {labels - has} is no label of {names}")
        for name in names:  # counters are looked at as rates, and gauges not
            bare = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            counter = families.get(name, families.get(bare))[0] != "gauge"
            wrapped = re.search(rf"\b(rate|increase)\(\s*{name}\b", query)
            check(bool(wrapped) == counter or query.startswith("label_values("), f"{query}: {name} is no such thing")
        asked |= names
    for topic in ("downtime", "duration", "sent_bytes", "vm_moving", "cpu_seconds", "memory"):
        check(any(topic in name for name in asked), f"no panel shows {topic}")


def test_document():
    """docs/metrics.md has each family, and no other."""
    with open(DOCUMENT, encoding="utf-8") as file:
        said = set(re.findall(r"`(godwit_\w+)", file.read()))
    with Host() as host:
        printed = set(metrics(host))
    check(said == printed, f"not printed: {said - printed}; not said: {printed - said}")


def test_no_room():
    """A full disk is no success."""
    with Host() as host:
        with open("/dev/full", "w") as full:
            done = subprocess.run(host.argv("metrics"), stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
        check(done.returncode == 1, f"exit status {done.returncode}")


if __name__ == "__main__":
    run_tests([(name[5:], test) for name, test in list(globals().items()) if name.startswith("test_")])
