#!/usr/bin/python3
"""What the report writes and prints: sentences and tables that fit, files whole, damage told and survived."""

import contextlib
import io
import json
import os
import random
import shutil
import tempfile

from report_tap import check, equal, run_tests

import synthetic
from synthetic import MS, Plan
from godwit_measure import report as reports
from godwit_measure.report import diff, summary, text, verdict, words

HOSTILE = "</script><script>alert(1)</script>\x1b[2J\n& \"quoted\" 'x' <img src=x onerror=alert(2)>"


def run(*argv):
    """Exit status and both outputs of the command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = reports.main(list(argv))
    return status, out.getvalue(), err.getvalue()


def small(report, repeat=2, **given):
    synthetic.realistic(report, **{"modes": ("pre-copy", "post-copy"), "repeat": repeat, "seed": 4, **given})


def fits(output, what):
    wide = [line for line in output.splitlines() if len(line) > 80 or line != line.rstrip()]
    check(not wide, f"{what}: {wide[:1]}")
    check(all(char.isprintable() or char == "\n" for char in output), f"{what}: a character that is not to be printed")


def test_words():
    for value, wanted in ((0, "0 s"), (999, "999 ns"), (1000, "1.00 us"), (31_400_000, "31.4 ms"),
                          (999_600_000, "1.00 s"),
                          (9_996_000_000, "10.0 s"), (119 * 10**9, "119 s"), (130 * 10**9, "2.2 min"), (None, "-"),
                          (float("inf"), "never"), (-2_000_000, "-2.00 ms")):
        equal(words.duration(value), wanted, str(value))
    for value, wanted in ((0, "0"), (1, "1 B"), (240 * 2**20, "240 MiB"), (1536, "1.50 KiB"), (-4096, "-4.00 KiB")):
        equal(words.size(value), wanted, str(value))
    equal([words.count(each) for each in (0, 7, 2.5, 73517, 9999, None)], ["0", "7", "2.5", "73.5 k", "9999", "-"],
          "counts")
    equal(words.seconds(-0.001e9), "0.00 s", "no minus before nothing")


def test_one_load():
    with tempfile.TemporaryDirectory() as report:
        small(report)
        status, out, err = run(report)
        equal((status, err), (0, ""), "status")
        fits(out, "text")
        check("With pre-copy the guest was away for" in out.replace("\n", " ") or
              "With post-copy the guest was away for" in out.replace("\n", " "), out[:400])
        check("QEMU needed" in out.replace("\n", " "), "the peer in the verdict")
        with open(os.path.join(report, "summary.json"), encoding="utf-8") as file:
            found = json.load(file)
        equal((found["summary"], len(found["verdict"]), len(found["cells"])), (1, 2, 4), "summary.json")
        check(os.path.getsize(os.path.join(report, "index.html")) > 10000, "index.html")
        status, out, _ = run(report, "--format", "json")
        equal((status, json.loads(out)), (0, found), "the same as JSON")


def test_a_load_that_died():
    """Since when, in the verdict: of requests, of packets and of streams; one hiccup is no death."""
    def verdict_of(report, plan, name, kind, rows):
        synthetic.write_report(report)
        folder = synthetic.write_cell(report, plan)
        synthetic.write_probe(folder, name, kind, rows)
        found = summary.summarise(report)[0]
        return verdict.sentences(found), found["runs"][0]["silent"]

    plan = Plan(number=3, load="web", mode="pre-copy", outcome="moved")

    def asked(dead_from, dead_to=None):
        return [(seq, "http", 0, due, due, due + 2 * MS, 10, "ok") if not dead_from <= due < (dead_to or plan.end) else
                (seq, "http", 0, due, due, due + MS, None, "reset")
                for seq, due in enumerate(range(plan.begin, plan.end, 50 * MS))]

    def unasked(kind, until):
        return [(seq, kind, 0, None, at, at + 50 * MS, 100, "ok")
                for seq, at in enumerate(range(plan.begin, until, 50 * MS))]

    for dead_from, words_of, when in ((plan.move_from - 2 * synthetic.S, "from 2.00 s before the move on", "before"),
                                      (plan.move_from + 500 * MS, "from 500 ms into the move on", "move"),
                                      (plan.move_to + 4 * synthetic.S, "after the end of the move on", "after"),
                                      (plan.begin, "never got one", "before")):
        with tempfile.TemporaryDirectory() as report:
            said, silent = verdict_of(report, plan, "http", "http", asked(dead_from))
            equal(len(said), 3, f"{said}")
            check(said[2].startswith("The load did not answer any more in cell 3 (web, pre-copy, ")
                  and words_of in said[2], said[2])
            equal((silent[0]["when"], silent[0]["ever"]), (when, dead_from != plan.begin), words_of)
    with tempfile.TemporaryDirectory() as report:
        said, silent = verdict_of(report, plan, "http", "http", asked(plan.move_from, plan.move_to))
        equal((len(said), silent), (2, []), "it came back")
    with tempfile.TemporaryDirectory() as report:
        said, silent = verdict_of(report, plan, "http", "http", asked(plan.end - 100 * MS))
        equal((len(said), silent), (2, []), "two requests are no death")
    for kind in "arrival", "stream":
        with tempfile.TemporaryDirectory() as report:
            said, silent = verdict_of(report, plan, "x", kind, unasked(kind, plan.move_to + 3 * synthetic.S))
            equal([(each["when"], each["asked"]) for each in silent], [("after", None)], kind)
            check("3.00 s after the end of the move on" in said[2] or "2." in said[2], said[2])
        with tempfile.TemporaryDirectory() as report:
            equal(verdict_of(report, plan, "x", kind, unasked(kind, plan.end))[1], [], kind + ", alive")


def test_matrix():
    with tempfile.TemporaryDirectory() as report:
        small(report, loads=("idle", "muncher"), modes=("auto", "pre-copy", "post-copy", "stop-copy", "clark05"),
              repeat=1)
        found = summary.summarise(report)[0]
        found["verdict"] = verdict.sentences(found)
        out = text.render(found)
        fits(out, "text")
        check(found["verdict"][0].startswith("With auto the guests were away for "), found["verdict"][0])
        check("idle         godwit" in out, "the matrix")
        table = out[out.index("the writable working set: "):].split("\n\n")[0].split("\n")
        shown = [line.split()[0] for line in table[2:]]
        check(shown == ["load", "idle", "muncher"], f"working sets: {shown}")
        check("1 Gbit/s" in table[2] and all(line.count(" ms") + line.count(" s") >= 2 for line in table[3:]), f"{table}")


def test_made_again_from_raw_data_alone():
    with tempfile.TemporaryDirectory() as report:
        small(report, repeat=1)
        run(report)
        with open(os.path.join(report, "index.html"), encoding="utf-8") as file:
            first = file.read()
        with tempfile.TemporaryDirectory() as other:
            shutil.copytree(os.path.join(report, "raw"), os.path.join(other, "raw"))
            run(other)
            with open(os.path.join(other, "index.html"), encoding="utf-8") as file:
                check(file.read() == first, "the same page, byte by byte")


def test_no_data():
    with tempfile.TemporaryDirectory() as report:
        status, _, err = run(os.path.join(report, "nowhere"))
        equal(status, 1, "status")
        check("no raw data" in err and err.count("\n") == 1, err)
        os.makedirs(os.path.join(report, "raw"))
        status, out, _ = run(report)
        equal(status, 0, "an empty folder makes an empty report")
        fits(out, "text")
        check("There is nothing to report" in out and "experiment.json: missing" in out, out)
        check(os.path.exists(os.path.join(report, "index.html")), "and its page")
        equal(run("--nonsense")[0], 2, "wrong use")
        status, _, err = run("diff", report, os.path.join(report, "none"))
        equal(status, 1, "diff with nothing")


def files_of(report):
    return sorted(os.path.join(at, name) for at, _, names in os.walk(os.path.join(report, "raw")) for name in names)


def test_any_file_may_be_missing():
    with tempfile.TemporaryDirectory() as base:
        whole = os.path.join(base, "whole")
        small(whole, repeat=1, sides=("godwit",), modes=("post-copy",))
        for path in files_of(whole):
            name = os.path.relpath(path, whole)
            report = os.path.join(base, "torn")
            shutil.copytree(whole, report)
            os.unlink(os.path.join(report, name))
            status, out, err = run(report)
            equal((status, err), (0, ""), f"without {name}")
            fits(out, f"without {name}")
            base_name = os.path.basename(name)
            # A probe that is not there at all cannot be missed, nor can a recording that nobody asked for.
            if base_name not in ("wws.json",) and not base_name.startswith("probe-"):
                told = "unfinished" if base_name == "cell.json" else f"{base_name}: missing"
                check(told in out.replace("\n         ", " "), f"says nothing of {name}: {out[-600:]}")
            shutil.rmtree(report)


def test_any_file_may_be_torn_or_damaged():
    chance = random.Random(11)
    with tempfile.TemporaryDirectory() as base:
        whole = os.path.join(base, "whole")
        small(whole, repeat=1, sides=("godwit",), modes=("pre-copy",))
        paths = files_of(whole)
        for turn in range(3 * len(paths)):
            name = os.path.relpath(paths[turn % len(paths)], whole)
            with open(os.path.join(whole, name), "rb") as file:
                data = bytearray(file.read())
            if turn < len(paths):
                del data[chance.randrange(len(data)):]
            else:
                for _ in range(5):
                    data[chance.randrange(len(data))] = chance.choice(b'0-,"x\n{[\xff\x00e9')
            with open(os.path.join(whole, name), "rb") as file:
                saved = file.read()
            with open(os.path.join(whole, name), "wb") as file:
                file.write(data)
            try:
                found = summary.summarise(whole)[0]
                found["verdict"] = verdict.sentences(found)
                fits(text.render(found), name)
                json.dumps(summary.json_ready(found), allow_nan=False)
            finally:
                with open(os.path.join(whole, name), "wb") as file:
                    file.write(saved)


def test_a_torn_row_is_told_and_left_out():
    with tempfile.TemporaryDirectory() as report:
        small(report, repeat=1, sides=("godwit",), modes=("pre-copy",))
        path = os.path.join(report, "raw", "cells", "000", "probe-http.csv")
        with open(path, "r+b") as file:
            file.seek(-6, os.SEEK_END)
            file.truncate()
        found = summary.summarise(report)[0]
        equal(found["problems"], ["cells/000/probe-http.csv: the last line cannot be read and is left out"], "problems")


def wrong_types(value, chance):
    """The same tree, with some of its leaves of another type."""
    if isinstance(value, dict):
        return {key: wrong_types(each, chance) for key, each in value.items()}
    if isinstance(value, list):
        return [wrong_types(each, chance) for each in value]
    if chance.random() < 0.3:
        return chance.choice((None, True, "x", -1, 1e300, [], {}, [[]], {"a": 1}, 2**70, HOSTILE))
    return value


def test_json_of_any_type():
    chance = random.Random(12)
    with tempfile.TemporaryDirectory() as report:
        small(report, repeat=1, sides=("godwit",), modes=("post-copy",))
        for path in [path for path in files_of(report) if path.endswith(".json")]:
            with open(path, encoding="utf-8") as file:
                saved = file.read()
            for _ in range(6):
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(wrong_types(json.loads(saved), chance), file)
                status, out, err = run(report)
                equal((status, err), (0, ""), f"{path}")
                fits(out, path)
            with open(path, "w", encoding="utf-8") as file:
                file.write(saved)


def test_moves_that_failed():
    with tempfile.TemporaryDirectory() as report:
        synthetic.write_report(report)
        for number, (outcome, error) in enumerate((("broken", "the load did not start: " + HOSTILE), ("stayed", None))):
            synthetic.write_cell(report, Plan(number=number, outcome=outcome, error=error))
        status, out, _ = run(report)
        equal(status, 0, "status")
        fits(out, "text")
        check("No move succeeded: of 2 repetitions, 1 broken and 1 stayed." in out.replace("\n", " "), out)
        check("the load did not start" in out, "the reason")


def test_diff():
    with tempfile.TemporaryDirectory() as base:
        one, two, few = (os.path.join(base, name) for name in ("one", "two", "few"))
        small(one, repeat=5, modes=("stop-copy",), sides=("godwit",), seed=1)
        small(two, repeat=5, modes=("stop-copy",), sides=("godwit",), seed=2, faster=0.5)
        small(few, repeat=2, modes=("stop-copy",), sides=("godwit",), seed=3, faster=0.5)
        status, out, _ = run("diff", one, two)
        equal(status, 0, "status")
        fits(out, "text")
        line = next(line for line in out.splitlines() if line.startswith("downtime, client"))
        check(line.endswith("better"), line)
        found = json.loads(run("diff", one, two, "--format", "json")[1])
        figure = found["cells"][0]["figures"]["downtime.monitor"]
        equal((figure["verdict"], figure["n"]), ("differs", [5, 5]), "in JSON")
        check(figure["p"] < 0.01, "p")
        same = diff.compare(diff.load(one), diff.load(one))
        equal(same["differ"], 0, "a report does not differ from itself")
        out = run("diff", one, few)[1]
        check("too few" in out and "cannot be told from noise" in out.replace("\n", " "), out)
        # A summary alone will do; and the machines are compared too.
        reports.make(two, page=False)
        shutil.rmtree(os.path.join(two, "raw"))
        check("better" in run("diff", one, two)[1], "from summary.json")
        synthetic.write_report(one, machine={"kernel": "7.0"})
        check("note: kernel differs" in run("diff", one, few)[1], "unlike machines")


def test_the_paper_beside_ours():
    with tempfile.TemporaryDirectory() as report:
        small(report, repeat=1)
        out = run(report)[1]
        check("as published: Clark et al." in out and "differs: The guest has 192 MiB" in out, out)
        line = next(line for line in out.splitlines() if line.startswith("downtime   ") and "165 ms" in line)
        check("pre-copy, godwit" in line, line)


def test_numbers_of_a_note():
    """Late timers are told with their numbers."""
    with tempfile.TemporaryDirectory() as report:
        small(report, repeat=1, modes=("pre-copy",), sides=("godwit",))
        plan = Plan()
        folder = os.path.join(report, "raw", "cells", "000")
        synthetic.write_probe(folder, "extra", "tcp", [(0, "tcp", 0, plan.begin, plan.begin, plan.begin + MS, 1, "ok")],
                              late=(1, 7 * MS, 12_340_000))
        found = summary.summarise(report)[0]
        check(any("7.00 ms in 99 of 100" in note and "12.34 ms at worst" in note for note in found["notes"]),
              str(found["notes"]))


run_tests(globals())
