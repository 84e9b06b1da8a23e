"""Pictures as SVG: scales, axes and marks. Colours are classes, so that the page's style gives them in light, dark and
print; `standalone` writes them out for a picture on its own."""

import math
from html import escape

from . import words

LIGHT = {"bg": "#ffffff", "fg": "#1b2430", "muted": "#5b6673", "line": "#d5dae1", "grid": "#eceff3",
         "c1": "#0072b2", "c2": "#d55e00", "c3": "#009e73", "c4": "#aa4499", "c5": "#b8860b", "c6": "#4b4bb5",
         "c7": "#7a828c", "c8": "#882255",
         "b1": "#e3e7ec", "b2": "#d6e8f5", "b3": "#fbd9c4", "b4": "#f3e3b3", "b5": "#d5eee3", "b6": "#ead9ec"}
DARK = {"bg": "#12171e", "fg": "#e6eaf0", "muted": "#9aa6b4", "line": "#38424f", "grid": "#222a34",
        "c1": "#56b4e9", "c2": "#ff8b4d", "c3": "#3ccf9f", "c4": "#e39bd9", "c5": "#f0c95a", "c6": "#a3a6ff",
        "c7": "#a4aeb9", "c8": "#ff8fb2",
        "b1": "#262e38", "b2": "#1b3346", "b3": "#522b18", "b4": "#453a16", "b5": "#173a2f", "b6": "#3b2942"}
STAGE = {"pre-migration": "b1", "reservation": "b1", "pre-copy": "b2", "stop-and-copy": "b3", "commitment": "b4",
         "activation": "b5", "pulling": "b6"}

RULES = """text{font:11px system-ui,sans-serif;fill:var(--fg)}.t{font-weight:600}.m{fill:var(--muted)}
.ax{stroke:var(--line);fill:none}.g{stroke:var(--grid);fill:none}.e{text-anchor:end}.mid{text-anchor:middle}
.w{fill:none;stroke-width:1.6}.p{fill:none;stroke-linecap:round;stroke-width:2.6}.fine{stroke-width:1.8}
.x{stroke-width:1.6;fill:none}.o{fill-opacity:.75}.bgf{fill:var(--bg)}.dash{stroke-dasharray:9 7}
.med{stroke:var(--fg);stroke-width:2}
""" + "".join(f".c{n}{{--k:var(--c{n})}}" for n in range(1, 9)) + "".join(
    f".b{n}{{fill:var(--b{n})}}" for n in range(1, 7)) + ".f{fill:var(--k)}.s{stroke:var(--k)}"


def palette(colours):
    return ";".join(f"--{name}:{value}" for name, value in colours.items())


def literal(rules, colours):
    """Style rules without variables, for renderers that do not know them."""
    lines = rules.split(".c1{--k")[0]
    for name, value in colours.items():
        lines = lines.replace(f"var(--{name})", value)
    lines += "".join(f".{name}.f,.{name} .f{{fill:{value}}}.{name}.s,.{name} .s{{stroke:{value}}}"
                     for name, value in colours.items() if name[0] == "c")
    return lines + "".join(f".{name}{{fill:{value}}}" for name, value in colours.items() if name[0] == "b" and
                           name != "bg")


def standalone(inner, width, height, title, colours=None):
    """A file of its own, in literal colours."""
    colours = colours or LIGHT
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}"><title>{escape(title)}</title><style>{literal(RULES, colours)}</style>'
            f'<rect width="{width}" height="{height}" fill="{colours["bg"]}"/>{inner}</svg>\n')


def num(value):
    return f"{value:.1f}".rstrip("0").rstrip(".")


def ticks_linear(low, high, most=7):
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / most))
    step = next(step * each for each in (1, 2, 5, 10) if span / (step * each) <= most)
    first = math.ceil(low / step - 1e-9)
    return [each * step for each in range(first, math.floor(high / step + 1e-9) + 1)]


def ticks_log(low, high):
    """Powers of ten; where those are few, twice and five times them too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if math.log10(high / low) > 2 else (1, 2, 5)
    return [step * 10.0 ** power for power in range(first, last + 1) for step in steps
            if low * 0.999999 <= step * 10.0 ** power <= high * 1.000001]


class Scale:
    """Values to pixels."""

    def __init__(self, low, high, start, end, log=False, binary=False):
        if log:
            low = max(low, 1e-9)
            high = max(high, low * 1.001)
        elif high <= low:
            high = low + 1
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log
        # Sizes have round numbers of KiB, MiB, GiB.
        self.unit = 1024 ** max(0, int(math.log(high, 1024))) if binary and high > 1 else 1
        self.base = math.log10(low) if log else low
        self.span = (math.log10(high) if log else high) - self.base

    def __call__(self, value):
        if self.log:
            value = math.log10(max(value, self.low))
        return self.start + (value - self.base) / self.span * (self.end - self.start)

    def ticks(self, most=7):
        if self.log:
            return ticks_log(self.low, self.high)
        return [tick * self.unit for tick in ticks_linear(self.low / self.unit, self.high / self.unit, most)]


def text(x, y, content, classes="", title=None):
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<text x="{num(x)}" y="{num(y)}"{attribute(classes)}>{inner}{escape(str(content))}</text>'


def attribute(classes):
    return f' class="{classes}"' if classes else ""


def rect(x, y, width, height, classes, title=None):
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{num(x)}" y="{num(y)}" width="{num(max(width, 0))}" height="{num(max(height, 0))}"' \
           f'{attribute(classes)}>{inner}</rect>'


def path(data, classes):
    return f'<path d="{data}"{attribute(classes)}/>' if data else ""


def dots(pairs, classes, grid=2):
    """Points; those that would cover one another to half a pixel are drawn once."""
    seen = {(round(x * grid), round(y * grid)) for x, y in pairs}
    data = "".join(f"M{num(x / grid)} {num(y / grid)}h0" for x, y in sorted(seen))
    return path(data, "p s " + classes)


def crosses(pairs, classes, size=3):
    seen = {(round(x * 2) / 2, round(y * 2) / 2) for x, y in pairs}
    data = "".join(f"M{num(x - size)} {num(y - size)}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}"
                   for x, y in sorted(seen))
    return path(data, "x s " + classes)


def polyline(pairs, classes):
    """A line; it breaks where a value is missing (NaN)."""
    data, pen = "", False
    for x, y in pairs:
        if math.isnan(y):
            pen = False
            continue
        data += f"{'L' if pen else 'M'}{num(x)} {num(y)}"
        pen = True
    return path(data, "w s " + classes)


def steps(edges, values, y_of, classes):
    data, pen = "", False
    for low, high, value in zip(edges, edges[1:], values):
        if math.isnan(value):
            pen = False
            continue
        data += f"{'L' if pen else 'M'}{num(low)} {num(y_of(value))}H{num(high)}"
        pen = True
    return path(data, "w s " + classes)


def axis_x(scale, y, show, title=None, height=0, most=8):
    """Below a plot: ticks with labels; `height` of grid lines above."""
    found = [path(f"M{num(scale.start)} {num(y)}H{num(scale.end)}", "ax")]
    for tick in scale.ticks(most):
        x = scale(tick)
        if height:
            found.append(path(f"M{num(x)} {num(y)}v{num(-height)}", "g"))
        found.append(path(f"M{num(x)} {num(y)}v4", "ax"))
        found.append(text(x, y + 16, show(tick), "mid m"))
    if title:
        found.append(text((scale.start + scale.end) / 2, y + 31, title, "mid m"))
    return "".join(found)


def axis_y(scale, x, show, width=0, most=5):
    """Left of a plot, its values rising upward (scale.start below scale.end on the page)."""
    found = [path(f"M{num(x)} {num(scale.start)}V{num(scale.end)}", "ax")]
    for tick in scale.ticks(most):
        y = scale(tick)
        if width:
            found.append(path(f"M{num(x)} {num(y)}h{num(width)}", "g"))
        found.append(text(x - 6, y + 4, show(tick), "e m"))
    return "".join(found)


def legend(x, y, entries, gap=16):
    """Coloured squares with names, in a row. Returns the markup and where it ends."""
    found = []
    for classes, name in entries:
        found.append(rect(x, y - 9, 10, 10, classes))
        found.append(text(x + 14, y, name))
        x += 14 + 6.3 * len(name) + gap
    return "".join(found), x


def short_time(ns):
    return words.duration(ns).replace(".00 ", " ").replace(".0 ", " ") if ns else "0"


def short_seconds(value):
    return f"{value:g} s" if value else "0 s"


def short_size(value):
    return words.size(value).replace(".00 ", " ").replace(".0 ", " ")
