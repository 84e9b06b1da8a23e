"""From raw data to what a person sees: summary.json, the text in the terminal, index.html, PNG and CSV; and the
comparison of two reports. docs/measure.md has the formats.

`main` is the command `godwit report`; `make` is what `godwit measure` calls at its end.
"""

import argparse
import json
import os
import sys

from . import diff, summary, text, verdict

__all__ = ["main", "make"]


def make(report_dir, png=False, csv=False, page=True):
    """Writes summary.json, index.html and, where asked for, figures/. Returns the summary as an object.

    Whatever raw data there are will do. Raises OSError if the report cannot be written, FileNotFoundError if there
    is no folder of raw data."""
    if not os.path.isdir(os.path.join(report_dir, "raw")):
        raise FileNotFoundError(f"{report_dir}: there is no raw data (no folder raw/)")
    found, raw = summary.summarise(report_dir)
    found["verdict"] = verdict.sentences(found)
    summary.write_json(os.path.join(report_dir, "summary.json"), found)
    if page or png or csv:
        from . import draw  # numbers alone need no figures
        draw.write(report_dir, found, raw, png=png, csv=csv, page_too=page)
    return found


def report(argv):
    parser = argparse.ArgumentParser(prog="godwit report", description="Makes a report from its raw data.", epilog=(
        "`godwit report diff A B` compares two reports."))
    parser.add_argument("dir", nargs="?", default="report", help="the report's folder (default: report)")
    parser.add_argument("--png", action="store_true", help="each figure as a picture, in figures/")
    parser.add_argument("--csv", action="store_true", help="what each figure shows as a table, in figures/")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of what is printed")
    args = parser.parse_args(argv)
    found = make(args.dir, png=args.png, csv=args.csv)
    if args.format == "json":
        print(json.dumps(summary.json_ready(found), indent=1, allow_nan=False))
    else:
        sys.stdout.write(text.render(found))
        print(f"\n{os.path.join(args.dir, 'index.html')}")
    return 0


def compare(argv):
    parser = argparse.ArgumentParser(prog="godwit report diff", description=(
        "Says which differences of two reports exceed the noise of their repetitions."))
    parser.add_argument("a", metavar="A", help="a report's folder")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    args = parser.parse_args(argv)
    sys.stdout.write(diff.run(args.a, args.b, args.format))
    return 0


def main(argv):
    """Runs the command; `argv` without its name. Returns the exit status: 0, 1 (it cannot be done), 2 (usage)."""
    try:
        return compare(argv[1:]) if argv[:1] == ["diff"] else report(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read has seen enough
        return 0
    except (OSError, diff.Unreadable) as error:
        print(f"godwit report: {error}", file=sys.stderr)
        return 1
