#!/usr/bin/python3
"""The page in a browser without a network: every figure draws, nothing complains, also in the dark, printed, and
without scripts. Without a browser that part is skipped, and says so. Screenshots stay in GODWIT_SHOTS, where that is
set."""

import html.parser
import os
import re
import shutil
import sys
import tempfile
import xml.etree.ElementTree

from report_tap import check, equal

import report_browser
import synthetic
from synthetic import Plan
from godwit_measure import report as reports
from godwit_measure.report import assets, svg

HOSTILE = "</script><script>window.bad=1</script><img src=x onerror=\"window.bad=1\">'\"&<svg/onload=window.bad=1>"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Outline(html.parser.HTMLParser):
    """Tags in order, and whether they nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.wrong = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.wrong.append((tag, self.getpos(), self.open[-3:]))
        else:
            self.open.pop()


def read(report):
    with open(os.path.join(report, "index.html"), encoding="utf-8") as file:
        return file.read()


def made(base, name, **given):
    report = os.path.join(base, name)
    synthetic.realistic(report, **given)
    reports.make(report, csv=True)
    return report


def hostile(base):
    """Markup in every text that raw data have."""
    report = os.path.join(base, "hostile")
    loads = [{"name": HOSTILE, "probes": [{"name": "http" + HOSTILE}]}]
    paper = {"source": HOSTILE, "differs": [HOSTILE], "figures": [{"what": HOSTILE, "value": HOSTILE, "unit": HOSTILE}]}
    synthetic.write_report(report, {"name": HOSTILE, "title": HOSTILE, "loads": loads, "scale": HOSTILE,
                                    "modes": [HOSTILE], "link": {"rate": HOSTILE}, "paper": paper},
                           {"processor": HOSTILE, "notes": [HOSTILE], "place": HOSTILE, "godwit": HOSTILE})
    for number, outcome in enumerate(("moved", HOSTILE)):
        plan = Plan(number=number, load=HOSTILE, mode=HOSTILE, side=HOSTILE, error=HOSTILE, outcome=outcome,
                    stages={HOSTILE: 2 * synthetic.S}, parts={HOSTILE: 50 * synthetic.MS})
        folder = synthetic.write_cell(report, plan)
        rows = [(seq, "http", 0, due, due, due + 2 * synthetic.MS, 10, "ok")
                for seq, due in enumerate(range(plan.begin, plan.end, 50 * synthetic.MS))]
        synthetic.write_probe(folder, "http", "http", rows)
        synthetic.dump(os.path.join(folder, "wws.json"), {"unique": [{"window_ns": 1e9, "pages": 9}], "predictions": [
            {"mode": HOSTILE, "bytes_per_s": 1000, "downtime_ns": 5}]})
    reports.make(report)
    return report


def well_formed(report):
    text = read(report)
    outline = Outline(text)
    equal((outline.wrong[:1], outline.open), ([], []), f"{report}: tags nest")
    for index, picture in enumerate(re.findall(r"<svg .*?</svg>", text, re.S)):
        xml.etree.ElementTree.fromstring(picture)
        check('aria-label="' in picture, f"picture {index} says what it is")
    for tag, attrs in outline.tags:
        outside = [value for key, value in attrs.items() if key in ("src", "href", "srcset", "action", "xlink:href")]
        check(all(value.startswith("#") for value in outside), f"{tag} {attrs}: nothing is fetched")
    tables = re.findall(r"<table.*?</table>", text, re.S)
    check(tables and all("<caption>" in table and 'scope="' in table for table in tables),
          "tables have captions, headers")
    return outline


def test_well_formed(base):
    for report in base.reports:
        well_formed(report)


def test_hostile_texts_stay_texts(base):
    outline = well_formed(base.hostile)
    names = {tag for tag, _ in outline.tags}
    check("img" not in names and not any(key.startswith("on") for _, attrs in outline.tags for key in attrs),
          str(names))
    scripts = [attrs for tag, attrs in outline.tags if tag == "script"]
    check(len(scripts) in (0, 3), f"{len(scripts)} scripts")


def test_contrast_of_both_themes(_):
    """Text and marks against what is behind them, by the contrast ratio of WCAG: 4.5 for text, 3 for marks."""
    def luminance(colour):
        parts = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    for name, theme in (("light", svg.LIGHT), ("dark", svg.DARK)):
        def ratio(one, other, theme=theme):
            high, low = sorted((luminance(theme[one]), luminance(theme[other])), reverse=True)
            return (high + 0.05) / (low + 0.05)
        for text in ("fg", "muted"):
            check(ratio(text, "bg") >= 4.5, f"{name}: {text} on the page: {ratio(text, 'bg'):.2f}")
        for mark in (f"c{number}" for number in range(1, 9)):
            check(ratio(mark, "bg") >= 3, f"{name}: {mark} on the page: {ratio(mark, 'bg'):.2f}")
        for band in (f"b{number}" for number in range(1, 7)):
            for mark in ("c1", "c2"):
                check(ratio(mark, band) >= 2.4, f"{name}: {mark} on {band}: {ratio(mark, band):.2f}")


def test_csv_has_every_request(base):
    folder = os.path.join(base.reports[0], "figures")
    names = sorted(os.listdir(folder))
    equal(len(names), len(re.findall(r"<figure ", read(base.reports[0]))), f"a table for each figure: {names}")
    with open(os.path.join(folder, "latency-web.csv"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    equal(lines[0], "due_s,latency_ms", "header")
    check(len(lines) > 2000, f"{len(lines)} lines")


def test_png(base):
    if not shutil.which("rsvg-convert"):
        return "no rsvg-convert (Debian: librsvg2-bin)"
    report = base.reports[0]
    reports.make(report, png=True, page=False)
    folder = os.path.join(report, "figures")
    pictures = [name for name in os.listdir(folder) if name.endswith(".png")]
    equal(len(pictures), len([name for name in os.listdir(folder) if name.endswith(".csv")]),
          "a picture for each figure")
    for name in pictures:
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        check(data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000, f"{name}: {len(data)} bytes")
    return None


MARKS = """return [...document.querySelectorAll('figure')].map(f => {
  const box = f.querySelector('.still'), svg = box.querySelector('svg');
  const marks = svg.querySelectorAll('path.p,path.w,rect.f,circle,path.f').length;
  const r = svg.getBoundingClientRect();
  return {id: f.id, marks, shown: r.width > 100 && r.height > 50, live: !!f.querySelector('.live.on canvas')};
});"""
# Pixels of a canvas that are not transparent, in its plotting area.
INK = """return window.godwit.charts.map(c => {
  const k = c.chart.ctx.canvas, d = c.chart.ctx.getImageData(0, 0, k.width, k.height).data;
  const seen = new Set(); let ink = 0;
  for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 40) { ink++; seen.add(d[i] + ',' + d[i + 1] + ',' + d[i + 2]); }
  return {kind: c.kind, points: c.points, ink, colours: seen.size}; });"""


def quiet(browser, what):
    said = [line for line in browser.log() if "favicon" not in line]
    equal(said, [], f"{what}: the console")
    equal(browser.run("return performance.getEntriesByType('resource').length"), 0, f"{what}: nothing was fetched")


def keep(browser, name):
    folder = os.environ.get("GODWIT_SHOTS")
    data = browser.shot(os.path.join(folder or tempfile.gettempdir(), f"{name}.png"))
    check(len(data) > 30000, f"{name}: a screenshot of {len(data)} bytes")


def test_browser_draws_every_figure(base):
    browser = base.browser()
    for report in base.reports:
        name = os.path.basename(report)
        for dark in (False, True):
            browser.media(dark=dark)
            browser.go(f"file://{report}/index.html")
            theme = "dark" if dark else "light"
            if not assets.library()["missing"]:
                check(browser.wait("window.godwit && window.godwit.ready"), f"{name}, {theme}: the script is done")
                equal(browser.run("return window.godwit.problems"), [], f"{name}, {theme}: problems")
                charts = browser.run(INK)
                check(charts and all(chart["ink"] > 1000 and chart["colours"] > 3 for chart in charts),
                      f"{name}: {charts}")
                check(any(chart["points"] > 1000 for chart in charts), f"{name}: every request: {charts}")
                equal({chart["kind"] for chart in charts}, base.kinds[name], f"{name}: what can be zoomed")
            figures = browser.run(MARKS)
            check(len(figures) >= 8, f"{name}: {len(figures)} figures")
            bad = [figure for figure in figures if not figure["marks"] or not (figure["shown"] or figure["live"])]
            equal(bad, [], f"{name}, {theme}: figures without a mark")
            colours = browser.run("return getComputedStyle(document.body).backgroundColor")
            equal(colours, "rgb(18, 23, 30)" if dark else "rgb(255, 255, 255)", "background")
            wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
            check(wide <= 0, f"{name}: the page is {wide} pixels too wide")
            quiet(browser, f"{name}, {theme}")
            keep(browser, f"{name}-{theme}")


def of_kind(kind):
    """The first chart of that kind, for the page."""
    return f"(window.godwit.charts.find(each => each.kind === '{kind}') || {{}}).chart"


def test_browser_hover(base):
    """Under the pointer, the legend of each kind of chart has values."""
    if assets.library()["missing"]:
        return "built without uPlot: " + assets.library()["missing"]
    browser = base.browser()
    browser.media()
    for report in base.reports:
        browser.go(f"file://{report}/index.html")
        check(browser.wait("window.godwit && window.godwit.ready"), "the script is done")
        for kind in sorted(base.kinds[os.path.basename(report)]):
            said = browser.run(f"const c = {of_kind(kind)}, r = c.over.getBoundingClientRect();"
                               "for (let part = 1; part < 40; part++) {"
                               "  c.setCursor({left: r.width * part / 40, top: r.height / 2});"
                               "  const all = [...c.root.querySelectorAll('.u-value')].map(v => v.textContent);"
                               "  if (all.filter(v => /[0-9]/.test(v)).length > 1) return all; } return [];")
            check(said, f"{os.path.basename(report)}, {kind}: nothing is said under the pointer")
    return None


def test_browser_zoom_and_choice(base):
    if assets.library()["missing"]:
        return "built without uPlot: " + assets.library()["missing"]
    browser = base.browser()
    browser.media()
    browser.go(f"file://{base.reports[0]}/index.html")
    check(browser.wait("window.godwit && window.godwit.ready"), "the script is done")
    for kind in sorted(base.kinds["web"]):
        browser.run(f"{of_kind(kind)}.setScale('x', {{min: 0.1, max: 0.5}})")
        equal(browser.run(f"const s = {of_kind(kind)}.scales.x; return [s.min, s.max]"), [0.1, 0.5], f"zoom of {kind}")
    count = browser.run("return document.querySelector('.pick select').options.length")
    check(count >= 4, f"{count} cells to choose from")
    browser.run("const s = document.querySelector('.pick select'); s.value = 1; s.dispatchEvent(new Event('change'));"
                f"window.before = {of_kind('latency')}")
    check(browser.wait(f"{of_kind('latency')} && {of_kind('latency')} !== window.before"), "drawn anew")
    charts = browser.run(INK)
    equal({chart["kind"] for chart in charts}, base.kinds["web"], "all of them")
    check(all(chart["ink"] > 1000 for chart in charts), f"and not empty: {charts}")
    quiet(browser, "choosing")
    return None


def test_browser_print_and_no_script(base):
    browser = base.browser()
    report = base.reports[0]
    browser.media("print", dark=True)
    browser.go(f"file://{report}/index.html")
    browser.wait("window.godwit && window.godwit.ready", 30)
    figures = browser.run(MARKS)
    equal([figure for figure in figures if not figure["shown"]], [], "printed, every figure is a picture")
    equal(browser.run("return getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)", "on white paper")
    keep(browser, "print")
    check(browser.pdf()[:4] == b"%PDF", "as a PDF")
    browser.scripts(False)
    browser.media()
    browser.go(f"file://{report}/index.html")
    keep(browser, "no-script")
    browser.scripts(True)
    # Scripts of the page never ran: what is there now is what a reader without scripts has.
    equal(browser.run("return typeof window.godwit"), "undefined", "no script ran")
    figures = browser.run(MARKS)
    equal([figure for figure in figures if not figure["shown"] or figure["live"]], [], "every figure is a picture")


def test_browser_hostile(base):
    browser = base.browser()
    browser.media()
    browser.go(f"file://{base.hostile}/index.html")
    browser.wait("window.godwit && window.godwit.ready", 30)
    equal(browser.run("return typeof window.bad"), "undefined", "nothing of the raw data ran")
    equal(browser.run("return document.images.length"), 0, "nor became an element")
    wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
    check(wide <= 0, f"the page is {wide} pixels too wide")
    quiet(browser, "hostile")
    keep(browser, "hostile")


def test_browser_runs_no_other_script(base):
    """Should an element slip in after all, the content security policy keeps it from running."""
    path = os.path.join(base.folder, "slipped.html")
    with open(path, "w", encoding="utf-8") as file:
        file.write(read(base.reports[0]).replace("<main>", "<main><script>window.bad=1</script>", 1))
    browser = base.browser()
    browser.go(f"file://{path}")
    equal(browser.run("return typeof window.bad"), "undefined", "the policy")
    check(any("Content Security Policy" in line for line in browser.log()), "and the console says so")


class Base:
    """The reports all tests look at, and one browser for them."""

    def __init__(self, folder):
        self.folder, self._browser = folder, None
        self.reports = [made(folder, "web", repeat=3), made(folder, "matrix", loads=("quake", "idle"), repeat=1, modes=(
            "auto", "pre-copy", "stop-copy"))]
        self.kinds = {"web": {"latency", "throughput", "rounds", "wws"},
                      "matrix": {"latency", "throughput", "arrivals", "rounds", "wws"}}
        self.hostile = hostile(folder)

    def browser(self):
        if self._browser is None:
            self._browser = report_browser.Browser()
        return self._browser

    def close(self):
        if self._browser:
            self._browser.close()


def main():
    tests = [(name[5:], test) for name, test in list(globals().items()) if name.startswith("test_")]
    print(f"1..{len(tests)}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        base = Base(folder)
        try:
            for number, (name, test) in enumerate(tests, 1):
                try:
                    skipped = test(base)
                    print(f"ok {number} {name}" + (f" # SKIP {skipped}" if skipped else ""), flush=True)
                except report_browser.Missing as missing:
                    print(f"ok {number} {name} # SKIP {missing}", flush=True)
                except Exception as error:  # whatever it is, the test did not hold
                    failed += 1
                    print(f"{type(error).__name__}: {error}\nnot ok {number} {name}", flush=True)
        finally:
            base.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
