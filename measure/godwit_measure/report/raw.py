"""Reads report/raw/ (docs/measure.md): whatever is there, as far as it can be read.

Nothing here raises for what a file holds. A file that is missing, cut off in its middle or damaged yields what
could be read of it, and a sentence in `problems`. Everything that comes from files is untrusted: numbers are
checked to be numbers, texts stay texts.
"""

import csv
import json
import os

import numpy as np

NONE = np.iinfo(np.int64).min  # an empty field in a column of integers
LIMIT = 2**62                  # times and counts beyond this are damage; sums of two still fit
STATUSES = ("ok", "refused", "reset", "closed", "timeout", "unreachable", "bad", "unsent")
HOSTS = ("source", "target")


def nothing(_):
    """What Python would read as NaN or Infinity is no number of JSON's: unknown."""
    return None


def number(value):
    """The value if it is a usable number, else None: neither true nor "7" nor NaN is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -LIMIT < value < LIMIT else None


def text(value):
    return value if isinstance(value, str) else None


def get(tree, *keys):
    """tree[key][key]..., or None where anything on the way is missing or of another type."""
    for key in keys:
        if isinstance(tree, dict):
            tree = tree.get(key)
        elif isinstance(tree, list) and isinstance(key, int) and -len(tree) <= key < len(tree):
            tree = tree[key]
        else:
            return None
    return tree


def objects(value):
    """The objects of a list; nothing for what is no list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def window(value):
    """(from_ns, to_ns) of a pair of numbers in order, else None."""
    if not isinstance(value, list) or len(value) != 2 or number(value[0]) is None or number(value[1]) is None:
        return None
    return (int(value[0]), int(value[1])) if value[1] > value[0] else None


class Reader:
    """Reads files below a folder and keeps what was wrong with them."""

    def __init__(self, folder, label=""):
        self.folder, self.label, self.problems = folder, label, []

    def problem(self, name, what):
        self.problems.append(f"{os.path.join(self.label, name)}: {what}")

    def open(self, name, wanted):
        """An open text file, or None. A missing file is a problem only if it is `wanted`."""
        try:
            return open(os.path.join(self.folder, name), encoding="utf-8", errors="replace", newline="")
        except FileNotFoundError:
            if wanted:
                self.problem(name, "missing")
        except OSError as error:
            self.problem(name, f"cannot be read: {error.strerror}")
        return None

    def json(self, name, wanted=True):
        """An object, or None."""
        file = self.open(name, wanted)
        if file is None:
            return None
        with file:
            try:
                value = json.load(file, parse_constant=nothing)
            except (ValueError, RecursionError) as error:
                self.problem(name, f"is no JSON: {error}" if isinstance(error, ValueError) else "is nested too deep")
                return None
            except OSError as error:
                self.problem(name, f"cannot be read: {error.strerror}")
                return None
        if not isinstance(value, dict):
            self.problem(name, "is no JSON object")
            return None
        return value

    def lines(self, name, wanted=True):
        """The objects of a file with one a line."""
        file, found, bad = self.open(name, wanted), [], []
        if file is None:
            return found
        with file:
            for count, line in enumerate(file, 1):
                try:
                    value = json.loads(line, parse_constant=nothing)
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict):
                    found.append(value)
                elif line.strip():
                    bad.append(count)
        self.left_out(name, bad)
        return found

    def left_out(self, name, bad):
        if len(bad) == 1:
            self.problem(name,
                         f"{'the last line' if bad[0] == 'last' else f'line {bad[0]}'} cannot be read and is left out")
        elif bad:
            self.problem(name, f"{len(bad)} lines, the first being {bad[0]}, cannot be read and are left out")

    def table(self, name, integers, texts=(), wanted=True):
        """Columns of a CSV file as a dictionary: arrays of int64 (NONE where empty) and lists of texts.

        Lines that begin with # are comments, kept under "#". None if there is no file or no such header."""
        file = self.open(name, wanted)
        if file is None:
            return None
        comments, rows, places, bad = [], [], [], []
        with file:
            numbered = ((count, line) for count, line in enumerate(file, 1))
            header = None
            for count, line in numbered:
                if line.startswith("#"):
                    comments.append(line[1:].strip())
                    continue
                header = next(csv.reader([line]), None)
                break
            if header is None or not set(integers) | set(texts) <= set(header):
                self.problem(name, "has no header line as it should be" if header else "is empty")
                return None
            first = count + 1
            try:
                for offset, row in enumerate(csv.reader(whole_lines(file))):
                    if len(row) == len(header):
                        rows.append(row)
                        places.append(first + offset)
                    elif row:
                        bad.append(first + offset)
            except csv.Error:
                bad.append(first + len(rows))
        columns = dict(zip(header, zip(*rows))) if rows else {key: () for key in header}
        try:
            table = {key: _integers(columns[key]) for key in integers}
        except (ValueError, OverflowError):
            keep = []
            wanted_at = [header.index(key) for key in integers]
            for index, row in enumerate(rows):
                try:
                    _integers([row[at] for at in wanted_at])
                    keep.append(index)
                except (ValueError, OverflowError):
                    bad.append(places[index])
            rows = [rows[index] for index in keep]
            columns = dict(zip(header, zip(*rows))) if rows else {key: () for key in header}
            table = {key: _integers(columns[key]) for key in integers}
        table.update({key: columns[key] for key in texts})
        table["#"] = comments
        if self.torn(name):
            bad.append("last")
        self.left_out(name, sorted(bad, key=lambda at: (at == "last", at)))
        return table

    def torn(self, name):
        """Whether the last line has no end: whoever wrote it did not get to it."""
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False


def whole_lines(file):
    """The lines that have an end. Half a number may look like a whole one."""
    return (line for line in file if line.endswith("\n"))


def _integers(values):
    array = np.array([int(value) if value else NONE for value in values], dtype=np.int64)
    if array.size and ((array > LIMIT) | ((array < -LIMIT) & (array != NONE))).any():
        raise OverflowError
    return array


class Probe:
    """One probe's requests: arrays of one length, in the order they were due (arrivals: came)."""

    def __init__(self, name, table, about):
        self.name, self.about = name, about or {}
        kinds = table["kind"]
        self.kind = max(set(kinds), key=kinds.count) if kinds else text(self.about.get("kind")) or ""
        self.kinds = sorted(set(kinds))
        of = {kind: index for index, kind in enumerate(self.kinds)}
        key = "done_ns" if self.kind in ("arrival", "stream") else "due_ns"
        order = np.argsort(table[key], kind="stable")
        self.kind_of = np.array([of[kind] for kind in kinds], dtype=np.int32)[order]
        known = {status: index for index, status in enumerate(STATUSES)}
        # A status that nobody knows is an answer that nobody understood.
        status = np.array([known.get(value, known["bad"]) for value in table["status"]], dtype=np.int8)
        self.status = status[order]
        self.seq, self.connection = table["seq"][order], table["connection"][order]
        self.due, self.sent, self.done = table["due_ns"][order], table["sent_ns"][order], table["done_ns"][order]
        self.bytes = np.where(table["bytes"] == NONE, 0, table["bytes"])[order]
        self.ok = (self.status == 0) & (self.done != NONE)

    @property
    def unasked(self):
        """The server sends by itself, or in a stream: there are no requests, so no latency either."""
        return self.kind in ("arrival", "stream")

    def __len__(self):
        return len(self.due)


class Cell:
    """One repetition of one cell. Files are read when asked for, once."""

    def __init__(self, folder, label):
        self.reader = Reader(folder, label)
        self.folder, self.label = folder, label
        self.cell = self.reader.json("cell.json", wanted=False)
        self.finished = self.cell is not None
        if not self.finished and not self.reader.problems:
            self.reader.problem("", "unfinished: the run ended before this one did")
        self.cell = self.cell or {}
        digits = os.path.basename(folder)
        self.number = int(digits) if digits.isdigit() and len(digits) < 10 else -1
        self._kept = {}

    def once(self, key, make):
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    @property
    def move(self):
        wanted = self.finished and self.cell.get("mode") != "none"
        return self.once("move", lambda: self.reader.json("move.json", wanted)) or {}

    @property
    def clocks(self):
        return self.once("clocks", lambda: self.reader.json("clocks.json", self.finished)) or {}

    @property
    def wws(self):
        return self.once("wws", lambda: self.reader.json("wws.json", False))

    def offset(self, who):
        """(offset_ns, error_ns) to the client's clock, or None."""
        offset = number(get(self.clocks, who, "offset_ns"))
        error = number(get(self.clocks, who, "error_ns"))
        return None if offset is None else (int(offset), int(error or 0))

    def windows(self):
        """The named windows that were reached, by the client's clock."""
        found = {}
        for name in ("baseline", "before", "move", "after"):
            pair = window(get(self.cell, "windows", name))
            if name == "move" and pair is None:
                pair = window([get(self.move, "from_ns"), get(self.move, "to_ns")])
            if pair:
                found[name] = pair
        return found

    def probes(self):
        def read():
            found = {}
            try:
                names = sorted(os.listdir(self.folder))
            except OSError:
                names = []
            for name in names:
                if not (name.startswith("probe-") and name.endswith(".csv")):
                    continue
                about = self.reader.json(name[:-4] + ".json", wanted=False)
                if about is None and name.endswith("-late.csv"):
                    continue  # how late the timer was each time, beside the requests of probe-NAME.csv
                table = self.reader.table(name, ("seq", "connection", "due_ns", "sent_ns", "done_ns", "bytes"),
                                          ("kind", "status"))
                if table is not None:
                    found[name[6:-4]] = Probe(name[6:-4], table, about)
            return found
        return self.once("probes", read)

    def meter(self, host):
        return self.once("meter-" + host, lambda: self.reader.lines(f"meter-{host}.jsonl", self.finished))

    def guest_clock(self):
        return self.once("clock", lambda: self.reader.table("guest-clock.csv", ("at_ns", "gap_ns"),
                                                            wanted=self.finished))

    def guest_work(self):
        return self.once("work", lambda: self.reader.table("guest-work.csv", ("at_ns", "units", "busy_ns"),
                                                           wanted=self.finished))


class Raw:
    """A report's raw data."""

    def __init__(self, report_dir):
        self.folder = os.path.join(report_dir, "raw")
        self.reader = Reader(self.folder)
        self.experiment = self.reader.json("experiment.json") or {}
        self.machine = self.reader.json("machine.json") or {}
        base = os.path.join(self.folder, "cells")
        try:
            names = sorted(name for name in os.listdir(base) if os.path.isdir(os.path.join(base, name)))
        except OSError:
            names = []
        self.names = names

    def cells(self):
        return [os.path.join(self.folder, "cells", name) for name in self.names]
