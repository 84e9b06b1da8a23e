"""The charting library that pages embed, as measure/web/build left it; and our own style and script."""

import glob
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
NOTHING = {"version": None, "licence": "", "uplot_js": "", "uplot_css": "",
           "missing": "this godwit was built without it"}


def own(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def library():
    """The library's files; `missing` is the reason if they are not there. Beside the installed package, or in a
    build directory of this tree, newest first."""
    built = glob.glob(os.path.join(ROOT, "build*", "measure", "web", "assets.json"))
    found = None
    for path in [os.path.join(HERE, "assets.json"), *sorted(built, key=os.path.getmtime, reverse=True)]:
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError):
            continue
        if not found.get("missing") and found.get("uplot_js"):
            return found
    return found or NOTHING
