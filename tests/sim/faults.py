#!/usr/bin/env python3
"""Holds the first tables of docs/faults.md to what the simulator finds: faults.py SIM [--update]"""
import os
import subprocess
import sys

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/faults.md")


def block(text, name):
    """Where the block of that name begins and ends."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    start = text.index(begin) + len(begin)
    return start, text.index(end, start)


def hold(name, found, update):
    """The block must be this text; with `update` it is made so. Returns the exit status."""
    with open(DOCUMENT, encoding="utf-8") as file:
        text = file.read()
    start, end = block(text, name)
    if text[start:end] == found:
        print(f"docs/faults.md, {name}: as found")
        return 0
    if update:
        with open(DOCUMENT, "w", encoding="utf-8") as file:
            file.write(text[:start] + found + text[end:])
        print(f"docs/faults.md, {name}: rewritten")
        return 0
    for said, seen in zip(text[start:end].splitlines(), found.splitlines()):
        if said != seen:
            print(f"the document says  {said}\nand it is          {seen}")
    print(f"docs/faults.md, {name}: differs from what was found; --update rewrites it")
    return 1


def main():
    status = 0
    for name, options in ("simulation", []), ("simulation of post-copy", ["--post-copy"]):
        sim = subprocess.run([sys.argv[1], "--document", *options], stdout=subprocess.PIPE, text=True, check=False)
        if sim.returncode:
            print(sim.stdout)
            return 1
        status |= hold(name, sim.stdout, "--update" in sys.argv)
    return status


if __name__ == "__main__":
    sys.exit(main())
