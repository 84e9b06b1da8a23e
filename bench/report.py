"""The result for people: a table for the terminal, and one for docs/bench.md."""


def number(value):
    return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def verdict(result):
    if not result["required"]:
        return ""
    return result["required"] + {True: ": met", False: ": NOT MET", None: ": not known"}[result["met"]]


def with_spread(result, side):
    """The median, and the least and most of all runs."""
    runs = result["runs"][side]
    if not runs:
        return ""
    ended = [v for v in runs if v is not None]
    if len(ended) < len(runs):
        return f"{len(runs) - len(ended)} of {len(runs)} did not end"
    low, high = result["spread"][side]
    return f"{number(result[side])} ({number(low)} to {number(high)})"


def lines_of(results):
    yield "ratio", "godwit", "peer", "unit", "what", "required"
    for r in results:
        yield number(r["ratio"]), with_spread(r, "godwit"), with_spread(r, "peer"), r["unit"], r["name"], verdict(r)


def table(results):
    lines = list(lines_of(results))
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    return "\n".join("  ".join([line[i].rjust(widths[i]) for i in range(3)] +
                               [line[i].ljust(widths[i]) for i in range(3, 6)]).rstrip() for line in lines)


def markdown(results):
    lines = [list(line) for line in lines_of(results)]
    lines[0][2] = "QEMU"
    rows = ["| " + " | ".join("" if cell == "-" else cell for cell in line) + " |" for line in lines]
    rows.insert(1, "|---:|---:|---:|---|---|---|")
    text = "\n".join(rows) + "\n"
    return text.replace(": met |", ": **met** |").replace(": NOT MET |", ": **not met** |")
