#!/usr/bin/python3
"""The analysis against made-up raw data whose every truth is known: it has to find each exactly."""

import itertools
import math
import os
import random
import tempfile

from report_tap import check, equal, near, run_tests

import synthetic
from synthetic import MIB, MS, S, Plan, Rates
from godwit_measure.report import metrics, stats, summary, verdict

# A move of 2 s from the 1030th second on, its pause of 50 ms from 1.85 s into it.
PLAN = {"stages": {"pre-migration": 20 * MS, "reservation": 30 * MS, "pre-copy": 1800 * MS, "stop-and-copy": 40 * MS,
                   "commitment": 10 * MS, "activation": 100 * MS}}


def analysed(fill, experiment=None, machine=None, cells=1, **given):
    """The summary of a report of so many cells, each filled by fill(folder, plan)."""
    with tempfile.TemporaryDirectory() as report:
        synthetic.write_report(report, experiment, machine)
        for number in range(cells):
            plan = Plan(number=number, repeat=number, **{**PLAN, **given})
            fill(synthetic.write_cell(report, plan), plan)
        return summary.summarise(report)[0]


def requests(plan, latency, failures=()):
    """100 requests a second, each answered latency(due) later; `failures` maps the time one was due to its status."""
    rows = []
    for seq, due in enumerate(range(plan.begin, plan.end, 10 * MS)):
        status = dict(failures).get(due, "ok")
        rows.append((seq, "http", 0, due, due + 10_000, due + latency(due) if status == "ok" else None,
                     1000 if status == "ok" else None, status))
    return rows


def test_percentiles_are_order_statistics():
    values = [1000 * value for value in range(1, 1001)]
    random.Random(3).shuffle(values)

    def fill(folder, plan):
        def latency(due):
            return values[(due - plan.move_from + plan.before) // (10 * MS)] \
                if plan.move_from - plan.before <= due < plan.move_from else 7000
        synthetic.write_probe(folder, "http", "http", requests(plan, latency))
    found = analysed(fill)["runs"][0]["probes"]["http"]["windows"]
    before = found["before"]
    equal([before[key] for key in ("requests", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns")],
          [1000, 500_000, 900_000, 990_000, 999_000, 1_000_000], "before")
    near(before["mean_ns"], 500_500, "mean")
    near(before["answers_per_s"], 100, "rate")
    near(before["bytes_per_s"], 100_000, "bytes")
    equal(found["baseline"]["requests"], 2000, "baseline")
    equal(found["stage:stop-and-copy"]["requests"], 4, "a stage of 40 ms")
    equal(sum(found["stage:" + name]["requests"] for name in PLAN["stages"]), found["move"]["requests"],
          "stages are the move")


def test_percentiles_against_their_definition():
    """The smallest value that has so many of the others at or below it, by counting."""
    chance = random.Random(5)
    for size in (1, 2, 3, 9, 10, 11, 100, 999, 1000, 1001):
        values = [chance.randrange(50) for _ in range(size)]
        found = stats.percentiles(values)
        for name, permille in stats.PERCENTILES:
            wanted = min(value for value in values if 1000 * sum(other <= value for other in values) >= permille * size)
            equal(found[name + "_ns"], wanted, f"{name} of {size}")


def test_failed_requests_are_later_than_all():
    lost = {1030 * S + at * 10 * MS: status for at, status in
            ((3, "reset"), (50, "timeout"), (51, "timeout"), (120, "refused"))}
    found = analysed(lambda folder, plan: synthetic.write_probe(folder, "http", "http",
                                                                requests(plan, lambda due: MS, lost)))
    move = found["runs"][0]["probes"]["http"]["windows"]["move"]
    equal(move["failed"], {"reset": 1, "timeout": 2, "refused": 1}, "failed")
    equal((move["requests"], move["p50_ns"], move["p99_ns"], move["max_ns"]), (200, MS, None, MS), "4 of 200")
    figures = found["cells"][0]["metrics"]
    equal((figures["failed"]["median"], figures["reset"]["median"]), (4, 1), "counts")
    equal(figures["latency.move.p99"]["median"], math.inf, "p99 is one of the failed")
    equal(summary.json_ready(figures["latency.move.p99"])["median"], "never", "in JSON")


def test_unsent_requests_are_no_requests():
    unsent = {1041 * S: "unsent", 1041 * S + 10 * MS: "unsent"}
    found = analysed(lambda folder, plan: synthetic.write_probe(folder, "http", "http",
                                                                requests(plan, lambda due: MS, unsent)))
    after = found["runs"][0]["probes"]["http"]["windows"]["after"]
    equal((after["requests"], after["unsent"], after["failed_total"], after["p999_ns"]), (998, 2, 0, MS), "after")


def stalled(folder, plan):
    """Answers after 2 ms, except that nothing is answered in the pause: those due then come 3 ms after it."""
    def latency(due):
        return plan.paused[1] + 3 * MS - due if plan.paused[0] - 2 * MS < due < plan.paused[1] else 2 * MS
    synthetic.write_probe(folder, "http", "http", requests(plan, latency))
    synthetic.write_guest(folder, plan, gap=47 * MS)


def test_three_downtimes():
    run = analysed(stalled)["runs"][0]["downtime"]
    # The last answer before: due 1031.840, done .842. What was due from .850 to .890 comes at .903, due at
    # .900 at .902.
    equal((run["monitor_ns"], run["guest_ns"], run["client_ns"]), (50 * MS, 47 * MS, 60 * MS), "downtimes")
    equal((run["guest_less_monitor_ns"], run["client_less_monitor_ns"], run["client_less_guest_ns"]),
          (-3 * MS, 10 * MS, 13 * MS), "differences")
    equal(run["guest"]["before_ns"], MS, "the guest's largest gap before")
    equal(run["client"]["probe"], "http", "probe")
    equal((run["client"]["at_pause"], run["client"]["at_pause_ns"], run["guest"]["at_pause"],
           run["guest"]["at_pause_ns"]),
          (True, 60 * MS, True, 47 * MS), "at the pause")


def test_a_gap_that_is_not_the_pause():
    """Starved for 300 ms while pages travel: the largest gap is there, and the pause's own is told beside it."""
    def fill(folder, plan):
        starved = (plan.move_from + S, plan.move_from + S + 300 * MS)

        def latency(due):
            for low, high in (starved, plan.paused):
                if low - 2 * MS < due < high:
                    return high + 3 * MS - due
            return 2 * MS
        synthetic.write_probe(folder, "http", "http", requests(plan, latency))
    found = analysed(fill)
    client = found["runs"][0]["downtime"]["client"]
    # Due 1031.000 to .290 come at .303, what was due at .300 at .302; the one before, due 1030.990, came at .992.
    equal((client["ns"], client["at_pause"], client["at_pause_ns"]), (310 * MS, False, 60 * MS), "gaps")
    check(any("In 1 of 1 move the clients' largest gap" in note for note in found["notes"]), str(found["notes"]))


def test_delay_added():
    found = analysed(stalled)["runs"][0]["probes"]["http"]["delay"]
    # Due 1031.850 to .890, answered at .903: 53, 43, 33, 23, 13 ms.
    equal((found["max_ns"], found["slower"], found["requests"], found["sum_ns"]),
          (51 * MS, 5, 200, (51 + 41 + 31 + 21 + 11) * MS), "delay")
    near(found["mean_ns"], 155 * MS / 200, "mean")


def test_back_at_the_level_before():
    """Slow for 1.3 s after the pause. A rolling second whose median is still slow has half its requests or more in
    them: the first good one begins so that fewer are."""
    def fill(slow_for, folder, plan):
        def latency(due):
            return 5 * MS if plan.paused[1] <= due < plan.paused[1] + slow_for else 2 * MS
        synthetic.write_probe(folder, "http", "http", requests(plan, latency))
    for slow_for, wanted in ((0, 0), (1300 * MS, 800 * MS), (2200 * MS, 1700 * MS)):
        found = analysed(lambda folder, plan, slow=slow_for: fill(slow, folder,
                                                                  plan))["runs"][0]["probes"]["http"]["return"]
        equal((found["ns"], found["steady"]), (wanted, True), f"slow for {slow_for}")
    found = analysed(lambda folder, plan: fill(100 * S, folder, plan))
    equal(found["runs"][0]["probes"]["http"]["return"]["ns"], None, "never back")
    equal(found["cells"][0]["metrics"]["return"]["median"], math.inf, "never back")


def test_back_needs_the_throughput_too():
    """Quick answers, but half of the requests lost, for 2 s after the pause."""
    def fill(folder, plan):
        lost = {due: "refused" for due in range(plan.paused[1] // (10 * MS) * 10 * MS, plan.paused[1] + 2 * S, 20 * MS)}
        synthetic.write_probe(folder, "http", "http", requests(plan, lambda due: 2 * MS, lost))
    found = analysed(fill)["runs"][0]["probes"]["http"]["return"]
    # At most 10 of a window's 100 may be lost: 20 of the lost are in 400 ms, so 200 ms of them at its beginning.
    equal(found["ns"], 1800 * MS, "back")


def test_a_guest_that_never_answers_again():
    def fill(folder, plan):
        dead = {due: "timeout" for due in range(plan.begin, plan.end, 10 * MS) if due >= plan.paused[0]}
        synthetic.write_probe(folder, "http", "http", requests(plan, lambda due: MS, dead))
    found = analysed(fill)
    client = found["runs"][0]["downtime"]["client"]
    # The last answer: due 1031.840, done .841. Asked until 1041.990.
    equal((client["ns"], client["open_ns"]), (None, 10_149 * MS), "open end")
    equal(found["cells"][0]["metrics"]["downtime.client"]["median"], math.inf, "never")
    check("got no answer any more" in verdict.sentences(found)[0], verdict.sentences(found)[0])


def test_arrivals():
    """Two players, a packet each 50 ms; the second hears nothing for 200 ms and loses one packet."""
    def fill(folder, plan):
        rows = []
        for player in range(2):
            for seq, at in enumerate(range(plan.begin, plan.end, 50 * MS)):
                if player and plan.move_from + S < at < plan.move_from + 1200 * MS:
                    if at == plan.move_from + 1100 * MS:
                        continue
                    at = plan.move_from + 1199 * MS + seq % 10
                rows.append((seq, "arrival", player, at, None, at, 200, "ok"))
        synthetic.write_probe(folder, "players", "arrival", sorted(rows, key=lambda row: row[5]))
    run = analysed(fill)["runs"][0]
    found = run["probes"]["players"]["windows"]
    equal((found["before"]["p50_ns"], found["before"]["max_ns"], found["before"]["lost"]), (50 * MS, 50 * MS, 0),
          "before")
    equal((found["move"]["lost"], found["move"]["packets"]), (1, 79), "in the move")
    check(abs(run["downtime"]["client_ns"] - 199 * MS) < 10, f"gap: {run['downtime']['client_ns']}")


def test_streams():
    """10 MiB/s, of which a piece of 100 ms reaches half into the move; nothing for 300 ms in it."""
    def fill(folder, plan):
        rows = []
        for seq, at in enumerate(range(plan.begin - 50 * MS, plan.end, 100 * MS)):
            quiet = plan.move_from + 950 * MS <= at < plan.move_from + 1250 * MS
            rows.append((seq, "stream", 0, None, at, at + 100 * MS, 0 if quiet else MIB, "ok"))
        synthetic.write_probe(folder, "stream", "stream", rows)
    run = analysed(fill)["runs"][0]
    found = run["probes"]["stream"]["windows"]
    near(found["before"]["bytes_per_s"], 10 * MIB, "before")
    near(found["move"]["bytes_per_s"], 10 * MIB * 17 / 20, "in the move")
    equal(run["downtime"]["client_ns"], 400 * MS, "gap")


def test_quality_bound():
    """Four connections; one is too slow in the first half of the move, one has a failed request in its last second."""
    def fill(folder, plan):
        rows = []
        for seq, due in enumerate(range(plan.begin, plan.end, 10 * MS)):
            connection = seq % 4
            slow = connection == 1 and plan.move_from <= due < plan.move_from + S
            lost = connection == 2 and plan.move_from + S <= due < plan.move_from + S + 100 * MS
            rows.append((seq, "static", connection, due, due, None if lost else due + (400 if slow else 2) * MS,
                         None if lost else 8000, "timeout" if lost else "ok"))
        synthetic.write_probe(folder, "specweb", "static", rows)
    loads = [{"name": "web", "quality": {"static": {"latency_ns": 300 * MS}}}]
    found = analysed(fill, {"loads": loads})["runs"][0]["quality"]
    equal((found["before"]["mean"], found["before"]["judged"]), (1.0, 40), "before")
    equal((found["move"]["mean"], found["move"]["least"], found["move"]["judged"]), (0.75, 0.75, 8), "in the move")
    # 8000 bytes in 400 ms are 20,000 bytes/s; in 2 ms, 4,000,000.
    loads = [{"name": "web", "quality": {"connection": {"bytes_per_s": 40000}}}]
    equal(analysed(fill, {"loads": loads})["runs"][0]["quality"]["move"]["mean"], 0.75, "by rate")


def metered(folder, plan, late_target=False):
    """The source's monitor: loop 1 %, vCPU 30 % of which 20 in guest mode, until the pause; movers of 40 and 25 % that
    live only in the move. The target's: nothing before, vCPU from the pause's end on, one mover of 50 %."""
    far = (plan.begin - 5 * S, plan.end + 5 * S)
    move = (plan.move_from, plan.move_to)
    none = Rates()
    until, since = (far[0], plan.paused[0]), (plan.paused[1], far[1])
    source = [(10, "godwit/web", Rates((*far, 0.01 * S)), none, Rates((*far, 100)), None, None),
              (11, "vcpu0", Rates((*until, 0.3 * S)), Rates((*until, 0.2 * S)), none, None, None),
              (12, "mover", Rates((*move, 0.4 * S)), none, Rates((*move, 50)), *move),
              (13, "lane", Rates((*move, 0.25 * S)), none, none, *move)]
    target = [(20, "godwit/web", none, none, none, move[0] - 2 * S, None),
              (21, "vcpu0", Rates((*since, 0.3 * S)), Rates((*since, 0.2 * S)), none, move[0] - 2 * S, None),
              (22, "pages", Rates((*move, 0.5 * S)), none, none, *move)]
    host = {"user_ns": Rates((*far, 0.2 * S), (*move, 0.9 * S)), "guest_ns": Rates((*far, 0.2 * S)),
            "system_ns": Rates((*far, 0.1 * S)),
            "softirq_ns": Rates((*far, 0.02 * S), (*move, 0.08 * S)), "irq_ns": Rates((*far, 0.01 * S))}
    net = {"eth0": {"rx_bytes": Rates((*far, 1000)), "tx_bytes": Rates((*far, 5000), (*move, 40 * MIB)),
                    "rx_packets": Rates((*far, 10)), "tx_packets": Rates((*far, 50), (*move, 30000))},
           "tap0": {key: Rates((*far, 700)) for key in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")}}
    tcp = [("10.0.0.1:4000", "10.0.0.2:7000", Rates((*move, 30 * MIB)), Rates((*move, 1000)), Rates((*move, 3)), *move),
           ("10.0.0.1:4001", "10.0.0.2:7000", Rates((*move, 10 * MIB)), none, none, *move)]

    def shmem(at):
        return 64 * MIB if move[0] <= at <= move[1] else 0

    def running(at):
        return [50 * MS, 20 * MS, 20 * MS, 10 * MS] if move[0] < at <= move[1] else [80 * MS, 20 * MS]
    synthetic.write_meter(folder, "source", plan, source, host, net, tcp, lambda at: 400 * MIB,
                          {"anon_bytes": lambda at: 12 * MIB}, running)
    synthetic.write_meter(folder, "target", plan, target, host, {}, (), lambda at: 300 * MIB + shmem(at),
                          {"anon_bytes": lambda at: 8 * MIB, "shmem_bytes": shmem},
                          start=move[0] - 3 * S if late_target else None)


def test_cpu_is_extra_and_sums():
    found = analysed(metered)["runs"][0]["resources"]
    source, target = (found["hosts"][host]["cpu"] for host in ("source", "target"))
    # In a move of 2 s the guest ran for 1.85 s at the source and 0.1 s at the target; 2 s in as much of the baseline.
    equal(source,
          {"guest": -30 * MS, "vcpu": -15 * MS, "mover": 1300 * MS, "loop": 0, "other": 0, "process": 1255 * MS},
          "source")
    equal(target, {"guest": 20 * MS, "vcpu": 10 * MS, "mover": 1000 * MS, "loop": 0, "other": 0, "process": 1030 * MS},
          "target")
    both = found["cpu"]
    equal(both["process"], sum(both[key] for key in ("guest", "vcpu", "mover", "loop", "other")), "parts of the whole")
    equal(both["mover"], 2300 * MS, "movers")
    host = found["hosts"]["source"]["host_cpu"]
    equal(host, {"irq": 0, "softirq": 160 * MS, "process": 1255 * MS, "beyond": 1800 * MS - 1255 * MS,
                 "host": 1960 * MS},
          "host")
    equal(sum(host[key] for key in ("irq", "softirq", "process", "beyond")), host["host"], "host's parts")


def test_threads_die_and_are_not_forgotten():
    """A thread whose life fits between two samples is in the process only: it is other."""
    def fill(folder, plan):
        metered(folder, plan)
        path = os.path.join(folder, "meter-source.jsonl")
        with open(path, encoding="utf-8") as file:
            lines = [synthetic.json.loads(line) for line in file]
        for line in lines[1:]:
            if line["at_ns"] + plan.offsets["source"] > plan.move_from + S:
                line["process"]["cpu_ns"] += 33 * MS
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(synthetic.json.dumps(line) + "\n" for line in lines)
    found = analysed(fill)["runs"][0]["resources"]["hosts"]["source"]["cpu"]
    equal((found["other"], found["process"]), (33 * MS, 1288 * MS), "other")


def test_network_memory_switches():
    result = analysed(metered)
    found, figures = result["runs"][0]["resources"], result["cells"][0]["metrics"]
    net = found["hosts"]["source"]["net"]
    equal((net["eth0"]["tx_bytes"], net["eth0"]["rx_bytes"], net["eth0"]["tx_packets"]), (80 * MIB, 0, 60000), "net")
    equal(figures["net.bytes"]["median"], 80 * MIB, "the link")
    lanes = found["hosts"]["source"]["connections"]
    equal([(lane["sent_bytes"], lane["retransmitted"]) for lane in lanes], [(60 * MIB, 6), (20 * MIB, 0)], "lanes")
    equal((figures["net.lanes"]["median"], figures["net.retransmitted"]["median"]), (2, 6), "lanes")
    memory = found["memory"]
    equal(memory["host"]["both"]["peak_bytes"], 64.0 * MIB, "peak")
    near(memory["host"]["both"]["byte_seconds"], 128 * MIB, "integral")
    near(memory["guest"]["target"]["peak_bytes"], 64 * MIB, "guest's memory")
    equal(memory["monitor"]["source"]["peak_bytes"], 0.0, "monitor's own")
    equal(memory["monitor"]["target"]["peak_bytes"], 8.0 * MIB - 0, "a monitor that was not there before")
    equal(found["hosts"]["source"]["switches"]["voluntary"], 100, "switches")
    tlp = found["hosts"]["source"]["tlp"]
    near(tlp["baseline"], 1.0, "TLP of the baseline")
    near(tlp["move"], (1 * 20 + 2 * 20 + 3 * 10) / 50, "TLP of the move")


def test_one_machine_is_counted_once():
    found = analysed(metered, machine={"place": "namespaces"})["runs"][0]["resources"]
    equal(found["host_cpu"], {"irq": 0, "softirq": 160 * MS, "beyond": 1800 * MS - 1255 * MS - 1030 * MS}, "host")
    equal(found["memory"]["host"]["both"], found["memory"]["host"]["source"], "memory")


def test_a_target_that_was_not_metered_before():
    found = analysed(lambda folder, plan: metered(folder, plan, late_target=True))
    resources = found["runs"][0]["resources"]
    equal(resources["hosts"]["target"]["cpu"]["mover"], 1000 * MS, "its monitor is known")
    equal((resources["hosts"]["target"]["host_cpu"], resources["host_cpu"]), (None, None), "its host is not")


def test_guest_slows_down():
    found = analysed(stalled)["runs"][0]["guest"]
    near(found["windows"]["before"]["units_per_busy_s"], 500_000, "before")
    near(found["windows"]["move"]["units_per_busy_s"], 1e12 / 3e6, "in the move")
    near(found["slowdown"], 1 / 3, "slower by")


def test_move_facts_sum():
    found = analysed(stalled)["runs"][0]["move"]
    equal(sum(stage["ns"] for stage in found["stages"]), found["total_ns"], "stages")
    equal(sum(part["ns"] for part in found["downtime_parts"]), 50 * MS, "parts of the downtime")
    equal(sum(value for key, value in found["bytes"].items() if key != "total"), found["bytes"]["total"], "bytes")
    equal(sum(each["bytes"] for each in found["rounds"]), found["bytes"]["total"], "rounds")


def test_repetitions():
    found = stats.spread([10, 11, 12, 13, 40])
    equal((found["median"], found["q1"], found["q3"], found["min"], found["max"], found["outliers"]),
          (12, 11, 13, 10, 40, [4]), "five")
    equal(stats.spread([10, 11, 40, None])["outliers"], [], "three are too few to call one an outlier")
    equal(stats.spread([1, 2, 3, 4])["median"], 2.5, "four")
    equal(stats.spread([1, math.inf, math.inf])["median"], math.inf, "two of three never came")
    equal(stats.spread([None])["n"], 0, "none")
    equal(stats.spread([5] * 9 + [6])["outliers"], [9], "all alike but one")


def test_outliers_stay():
    pauses = [50, 51, 52, 53, 400]

    def fill(folder, plan):
        stalled(folder, plan)
        move = plan.move_json()
        synthetic.dump(os.path.join(folder, "move.json"), {**move, "downtime_ns": pauses[plan.number] * MS})
    found = analysed(fill, cells=5)["cells"][0]
    figure = found["metrics"]["downtime.monitor"]
    equal((figure["outliers"], figure["max"], figure["n"]), ([4], 400 * MS, 5),
          "flagged by its cell's number, and kept")
    equal(figure["values"], [pause * MS for pause in pauses], "values")


def test_rank_test_counts():
    """Against counting all ways to deal the values, ties included."""
    chance = random.Random(9)
    for n, m in ((1, 1), (2, 3), (3, 3), (4, 5), (5, 5), (2, 7)):
        for _ in range(6):
            values = [chance.randrange(8) for _ in range(n + m)]
            ranks = stats.ranks(values)
            middle = n * (n + m + 1)
            far = abs(sum(ranks[:n]) - middle)
            ways = [abs(sum(some) - middle) >= far for some in itertools.combinations(ranks, n)]
            near(stats.rank_test(values[:n], values[n:]), sum(ways) / len(ways), f"{n}, {m}: {values}")
    near(stats.rank_test([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]), 2 / 252, "apart")
    near(stats.rank_test([math.inf, 1], [2, math.inf]), 1.0, "what never came is a tie")


def test_difference_or_noise():
    a = [100, 101, 102, 103, 104]
    for b, wanted in (([200, 201, 202, 203, 204], "differs"), ([100.5, 99, 103, 102, 104], "same"),
                      ([105, 106, 106, 107, 105], "same"),  # apart, but by less than 5 %
                      ([200, 201], "too few"), ([], "no data"), ([math.inf] * 5, "differs")):
        equal(stats.compare(a, b)["verdict"], wanted, str(b))
    found = stats.compare(a, [200, 202, 204, 206, 208])
    equal((found["medians"], found["difference"], found["ratio"]), ([102, 204], 102, 2.0), "sizes")


def test_every_figure_has_its_turn():
    """On a whole report of believable shape, each figure of the table is found, but for those it has no load for."""
    with tempfile.TemporaryDirectory() as report:
        synthetic.realistic(report, modes=("post-copy",), sides=("godwit",), repeat=1)
        found = summary.summarise(report)[0]
    equal(found["problems"], [], "problems")
    missing = set(metrics.METRICS) - set(found["cells"][0]["metrics"])
    equal(missing, {"quality.before", "quality.move", "quality.move.least"}, "missing")


run_tests(globals())
