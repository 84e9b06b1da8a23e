"""What the report's tests share: checks, and a runner that prints TAP."""

import os
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "measure"))


class Failed(Exception):
    """A check did not hold."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def equal(found, wanted, what):
    check(found == wanted, f"{what}: {found!r} instead of {wanted!r}")


def near(found, wanted, what, within=1e-6):
    check(found is not None and abs(found - wanted) <= within * max(1, abs(wanted)),
          f"{what}: {found!r} instead of {wanted!r}")


def run_tests(space):
    """Runs every test_ of a module's globals. Never returns."""
    tests = [(name[5:], test) for name, test in list(space.items()) if name.startswith("test_")]
    print(f"1..{len(tests)}")
    bad = 0
    for number, (name, test) in enumerate(tests, 1):
        try:
            test()
            print(f"ok {number} {name}", flush=True)
        except Failed as failure:
            bad += 1
            print(f"{failure}\nnot ok {number} {name}", flush=True)
        except Exception:  # any other is a failure too, with its trace
            bad += 1
            print(f"{traceback.format_exc()}\nnot ok {number} {name}", flush=True)
    sys.exit(1 if bad else 0)
