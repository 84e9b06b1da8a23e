# SPDX-License-Identifier: Apache-2.0
"""The commands `measure` and `report`. godwit has checked the words by its table of commands; what they mean is
here."""
import argparse
import importlib.util
import os
import random
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "lab"))

from godwitlab import places  # noqa: E402

from . import experiment as experiments  # noqa: E402
from . import interrupts, units  # noqa: E402
from .errors import RunEnds, Wrong  # noqa: E402
from .raw import Raw  # noqa: E402
from .run import Run  # noqa: E402

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
HOST_MEMORY_MIB = 1536


def say(text):
    print(f"measure: {text}", file=sys.stderr, flush=True)


def _parser():
    parser = argparse.ArgumentParser(prog="godwit measure", add_help=False)
    for option in ("preset", "out", "modes", "repeat", "peer", "place", "scale", "seed", "hosts", "runtime-dir",
                   "config-dir"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--only", action="append", default=[])
    for option in "force", "insecure", "plan":
        parser.add_argument(f"--{option}", action="store_true")
    parser.add_argument("experiment", nargs="?")
    return parser


def _experiment(args):
    if bool(args.preset) == bool(args.experiment):
        raise Wrong(f"want an experiment or a preset: {', '.join(experiments.presets())}")
    if args.preset:
        found = experiments.preset(args.preset, args.scale or "full")
    else:
        found = experiments.read(args.experiment)
        if args.scale and args.scale != found["scale"]:
            raise Wrong(f"--scale {args.scale}: {args.experiment} is at scale {found['scale']}; only presets have both")
    if args.insecure:
        found["move"]["insecure"] = True
    return experiments.narrow(found, modes=args.modes, only=args.only, repeat=int(args.repeat) if args.repeat else None)


def _place(args, godwit, experiment, sides):
    if args.hosts:
        spec = importlib.util.spec_from_file_location("hosts", args.hosts)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Place()
    if os.geteuid() != 0:
        raise Wrong("it makes namespaces and taps: run it as root")
    wanted = args.place or "auto"
    if wanted == "auto":
        able, reason = places.stock_guests(godwit)
        wanted = "namespaces" if able else "lab"
        say(f"two {'network namespaces' if able else 'emulated hosts of the lab'} as hosts: {reason}")
    if wanted == "namespaces":
        return places.Namespaces()
    guest_mib = units.size(experiment["guest"]["memory"]) >> 20
    return places.Lab(memory_mib=max(HOST_MEMORY_MIB, 1024 + 2 * guest_mib), tools=("qemu",) if "qemu" in sides else ())


def _make_report(out, carried_out):
    """Of whatever there is. The raw data stay, whatever becomes of it."""
    if not carried_out:
        return
    try:
        from .report import main as report
    except ImportError as error:
        say(f"no report: {error}")
        return
    report([out])


def measure(godwit, words):
    args = _parser().parse_args(words)
    experiment = _experiment(args)
    sides = ["godwit"] + ([args.peer] if args.peer else [])
    seed = int(args.seed) if args.seed else random.SystemRandom().randrange(2**32)
    place = _place(args, godwit, experiment, sides)
    run = Run(experiment, place, godwit, sides, seed)
    if not run.cells:
        raise Wrong(f"nothing is left to do. {' '.join(run.left_out)}")
    say(f"{experiment['title']}: {len(run.cells)} repetitions, about {units.show_time(run.expected_s)} (seed {seed})")
    for line in run.left_out:
        say(line)
    if args.plan:
        for number, cell in enumerate(run.cells, 1):
            print(f"{number:4} {cell.load} {cell.mode} {cell.side} {cell.repeat}")
        return OK
    out = args.out or "report"
    raw = Raw(out, args.force)
    status = OK
    try:
        why = run.carry_out(raw)
        if why:
            say(f"it ended early: {why}")
            status = FAILED
    except RunEnds as error:
        say(f"it ended early: {error}")
        status = FAILED
    except KeyboardInterrupt as error:
        say(f"interrupted ({error or 'SIGINT'})")
        status = INTERRUPTED
    if status != OK:
        say(f"{len(run.outcomes)} of {len(run.cells)} repetitions are whole; their data are in {raw.folder}")
    _make_report(out, run.outcomes)
    if status == OK and all(outcome == "broken" for outcome in run.outcomes):
        status = FAILED
    return status


def main(words):
    """`words`: --godwit PROGRAM, the command's name, and its own."""
    _, godwit, command, *rest = words
    if command == "report":
        from .report import main as report
        return report([word for word in rest if word != "--"])
    interrupts.install()
    try:
        return measure(godwit, rest)
    except Wrong as error:
        print(f"godwit measure: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
