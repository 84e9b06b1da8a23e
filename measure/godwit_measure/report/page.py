"""index.html: one file, readable without scripts and without a network. All text from raw data is escaped here."""

import base64
import hashlib
import html
import json
import math

from . import assets, metrics, svg, words
from .figures import label, side_colour
from .raw import HOSTS, get
from .text import EXTRA, clean

NO_SCRIPT = "'none'"
ROWS_SHOWN = 40  # of a figure's table within the page; longer ones are for --csv
OVERVIEW = (("downtime.monitor", "away:<br>monitor"), ("downtime.guest", "away:<br>guest"),
            ("downtime.client", "away:<br>client"), ("latency.move.max", "slowest<br>request"),
            ("failed", "requests<br>failed"), ("move.total", "the<br>move"), ("return", "back<br>after"),
            ("cpu.all", "extra<br>CPU"), ("net.bytes", "on the<br>network"), ("memory.peak", "extra<br>memory"))
THREE = """<dl class="three">
<dt>monitor</dt><dd>From the order to stop the guest's processors, to the news that they run at the target; by the
source's clock. It includes the way of that news.</dd>
<dt>guest</dt><dd>The largest gap between two turns of a loop in the guest that looks at its clock, less the loop's
period; by the guest's clock. A clock that stands still with the guest hides what the monitor counts.</dd>
<dt>client</dt><dd>The largest gap between two answers; by the client's clock. It has the time between two requests in
it ({usual}), and what the network and the guest need until an answer is through: the new place has to be learnt, lost
packets are sent again.</dd></dl>
<p>So <em>client less monitor</em> is what the service lost beyond the pause, and <em>guest less monitor</em> what the
guest did not notice. Each is taken within one clock: no agreement of clocks is needed.</p>"""


def esc(value):
    return html.escape(clean(value), quote=True)


def script_text(value):
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def show(name, value):
    if name.startswith("cpu.") and value is not None and value != math.inf:
        return words.seconds(value)
    return words.show(value, metrics.unit(name))


def cell(group, name, quartiles=True):
    """A median, perhaps with its quartiles."""
    found = get(group, "metrics", name)
    if not found:
        return "<td>–</td>"
    low, high = show(name, found["q1"]), show(name, found["q3"])
    if low.split(" ")[1:] == high.split(" ")[1:]:
        low = low.split(" ")[0]  # the unit once
    spread = f"<br><small>{esc(low)} – {esc(high)}</small>" \
        if quartiles and found["n"] > 2 and found["q1"] != found["q3"] else ""
    return f"<td>{esc(show(name, found['median']))}{spread}</td>"


def key(side):
    return f'<span class="key {side_colour(side)}" aria-hidden="true"></span>'


def overview(groups, caption):
    names = [(name, title) for name, title in OVERVIEW if any(get(group, "metrics", name) for group in groups)]
    head = "".join(f'<th scope="col">{title}</th>' for _, title in names)
    rows, last = [], None
    for group in groups:
        outcomes = group["outcomes"]
        bad = ", ".join(f"{count} {name}" for name, count in outcomes.items() if name not in ("moved",) and
                        not (name == "stayed" and group["mode"] == "none"))
        told = f"<br><small>{esc(bad)}</small>" if bad else ""
        top = ' class="top"' if last not in (None, group["mode"]) else ""
        last = group["mode"]
        rows.append(f'<tr{top}>'
                    f'<th scope="row">{key(group["side"])}{esc(group["mode"])}, {esc(group["side"])}{told}</th>'
                    f'<td>{len(group["counted"])}</td>'
                    + "".join(cell(group, name, name == "downtime.client") for name, _ in names) + "</tr>")
    return (f'<div class="wide"><table class="tight"><caption>{caption}</caption><thead><tr>'
            f'<th scope="col" class="l">mode, side</th>'
            f'<th scope="col">moves</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>')


def windows(run):
    """Latency in every window of the repetition drawn above."""
    found = get(run, "probes", run["service_probe"], "windows") or {}
    names = [name for name in ("baseline", "before") if name in found]
    names += [name for name in found if name.startswith("stage:")]
    names += [name for name in ("move", "after") if name in found]
    rows = []
    unasked = get(run, "probes", run["service_probe"], "kind") in ("arrival", "stream")
    for name in names:
        entry = found[name]
        if not entry or unasked:
            continue
        lost = ", ".join(f"{count} {status}" for status, count in entry["failed"].items()) or "0"
        title = "the whole move" if name == "move" else name.replace("stage:", "in ")
        lost_some = entry["failed_total"]
        cells = "".join(
            f"<td>{'failed' if entry[each] is None and lost_some else esc(words.duration(entry[each]))}</td>"
            for each in ("p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"))
        rows.append(f'<tr><th scope="row">{esc(title)}</th><td>{entry["requests"]}</td><td>{esc(lost)}</td>{cells}'
                    '</tr>')
    if not rows:
        return ""
    return ('<div class="wide"><table>'
            '<caption>Latency of the requests due in each window, the repetition drawn above: exact order statistics; '
            'a failed request counts as later than all</caption><thead><tr><th scope="col" class="l">window</th>'
            '<th scope="col">requests</th><th scope="col">failed</th><th scope="col">p50</th><th scope="col">p90</th>'
            '<th scope="col">p99</th><th scope="col">p99.9</th><th scope="col">max</th></tr></thead><tbody>'
            + "".join(rows) + "</tbody></table></div>")


def extras(groups):
    names = [name for name in EXTRA if any(get(group, "metrics", name) for group in groups)]
    if not names:
        return ""
    head = "".join(f'<th scope="col">{esc(group["mode"])},<br>{esc(group["side"])}</th>' for group in groups)
    rows = "".join(f'<tr><th scope="row">{esc(metrics.title(name))}</th>'
                   + "".join(cell(group, name) for group in groups) + "</tr>" for name in names)
    return ('<div class="wide"><table><caption>What a move cost above the baseline: medians, quartiles below</caption>'
            f'<thead><tr><th scope="col" class="l">figure</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>')


def hosts(run):
    """One repetition by host: CPU by part, network by interface, connections."""
    entries = get(run, "resources", "hosts")
    if not entries:
        return ""
    names = [host for host in HOSTS if host in entries]
    rows = []

    def row(title, values):
        rows.append(f'<tr><th scope="row">{esc(title)}</th>' + "".join(f"<td>{esc(value)}</td>" for value in values) +
                    "</tr>")
    for part, title in (("guest", "CPU: the guest"), ("vcpu", "CPU: vCPU threads outside it"), ("mover", "CPU: movers"),
                        ("loop", "CPU: loop"), ("other", "CPU: other threads"), ("process", "CPU: the monitor, sum")):
        row(title, [words.seconds(entries[host]["cpu"][part]) for host in names])
    for part, title in (("irq", "CPU: hard interrupts"), ("softirq", "CPU: soft interrupts"),
                        ("beyond", "CPU: the host beyond"), ("host", "CPU: the host, sum")):
        row(title, [words.seconds(get(entries[host], "host_cpu", part)) for host in names])
    for interface in dict.fromkeys(name for host in names for name in entries[host]["net"] or {}):
        for what in ("tx", "rx"):
            row(f"{interface}: {'sent' if what == 'tx' else 'received'}",
                [f"{words.size(get(entries[host], 'net', interface, what + '_bytes'))}, "
                 f"{words.count(get(entries[host], 'net', interface, what + '_packets'))} packets"
                 if get(entries[host], "net", interface) else words.NOTHING for host in names])
    for part, title in (("process_read", "storage read by the monitor"), ("process_written", "written"),
                        ("host_read", "read by the whole host"), ("host_written", "written by the whole host")):
        row(title, [words.size(entries[host]["disk"][part]) for host in names])
    for kind, title in (("host", "memory of the host"), ("monitor", "the monitor's own memory"),
                        ("guest", "the guest's memory")):
        row(f"{title}: peak", [words.size(get(run, "resources", "memory", kind, host, "peak_bytes")) for host in names])
        row(f"{title}: x time", [words.show(get(run, "resources", "memory", kind, host, "byte_seconds"), "Bs")
                                 for host in names])
    for part in ("voluntary", "involuntary", "host"):
        row(f"context switches: {'whole host' if part == 'host' else part}",
            [words.count(entries[host]["switches"][part]) for host in names])
    for part in ("baseline", "move"):
        row(f"thread-level parallelism: {part}", [words.show(entries[host]["tlp"][part], "tlp") for host in names])
    head = "".join(f'<th scope="col">{host}</th>' for host in names)
    lanes = "".join(
        f'<tr><th scope="row">{esc(entry["local"])} – {esc(entry["peer"])}</th>'
        f'<td>{esc(words.size(entry["sent_bytes"]))}</td><td>{esc(words.size(entry["received_bytes"]))}</td>'
        f'<td>{esc(words.count(entry["retransmitted"]))}</td></tr>'
        for entry in (get(entries, "source", "connections") or [])[:20])
    lanes = ('<table><caption>The source\'s TCP connections during the move</caption><thead><tr>'
             '<th scope="col" class="l">connection</th><th scope="col">sent</th><th scope="col">received</th>'
             '<th scope="col">segments sent again</th>'
             f"</tr></thead><tbody>{lanes}</tbody></table>") if lanes else ""
    return ("<details><summary>By host and by connection, of the repetition drawn above</summary>"
            '<div class="wide"><table>'
            f'<caption>{esc(label(run))}, cell {run["number"]}: above its own baseline, scaled to the length of the '
            f'move</caption><thead><tr><th scope="col" class="l">figure</th>{head}</tr></thead><tbody>{"".join(rows)}'
            f'</tbody></table>{lanes}</div></details>')


def move_table(run):
    """Stages and bytes of the move drawn above."""
    facts = run["move"]
    stages = "".join(f'<tr><th scope="row">{esc(each["stage"])}</th><td>{esc(words.duration(each["ns"]))}</td></tr>'
                     for each in facts["stages"])
    kinds = "".join(f'<tr><th scope="row">{esc(name.replace("_", " "))}</th><td>{esc(words.size(value))}</td></tr>'
                    for name, value in sorted(facts["bytes"].items(), key=lambda pair: (pair[0] == "total", -pair[1])))
    found = ""
    if stages:
        found += ('<table><caption>Stages</caption><thead><tr><th scope="col" class="l">stage</th>'
                  '<th scope="col">time</th></tr>'
                  f"</thead><tbody>{stages}</tbody></table>")
    if kinds:
        found += ('<table><caption>Bytes, by kind</caption><thead><tr><th scope="col" class="l">kind</th>'
                  '<th scope="col">bytes'
                  f"</th></tr></thead><tbody>{kinds}</tbody></table>")
    return found and ('<details><summary>Stages and bytes of that move</summary>'
                      f'<div class="wide">{found}</div></details>')


def figure(each, live=None):
    """A figure with its picture, what it shows, and the table behind it where that is short."""
    identity = "fig-" + each.name
    table = ""
    if not callable(each.rows) and 0 < len(each.rows) <= ROWS_SHOWN:
        head = "".join(f'<th scope="col">{esc(name)}</th>' for name in each.header)
        body = "".join("<tr>" + "".join(f"<td>{'–' if value is None else esc(value)}</td>" for value in row) + "</tr>"
                       for row in each.rows)
        table = (f'<details><summary>As a table</summary><div class="wide"><table><caption>{esc(each.title)}</caption>'
                 '<thead>'
                 f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>")
    box = f'<div class="live" data-live="{live}"></div>' if live else ""
    return (f'<figure id="{esc(identity)}"><figcaption><h3>{esc(each.title)}</h3><p>{esc(each.caption)}</p>'
            f'</figcaption>{box}<div class="still"><svg role="img" viewBox="0 0 {each.width} {svg.num(each.height)}" '
            f'aria-label="{esc(each.title)}. {esc(each.caption)}">{each.inner}</svg></div>{table}</figure>')


def observers_text(groups):
    usual = [value for group in groups for value in [get(group, "usual_ns")] if value]
    return THREE.format(usual=esc(words.duration(usual[0])) if usual else "its rate decides it")


def load_section(number, part, summary, runs):
    groups = [group for group in summary["cells"] if group["load"] == part.load]
    counted = [group for group in groups if group["counted"]]
    found = [f'<section id="load-{number}"><h2>{esc(part.load)}</h2>']
    if not groups:
        return ""
    found.append(overview(groups, "Medians; of the clients' view the quartiles below"))
    for each in part.figures:
        kind = (each.live or {}).get("kind")
        if each.name.startswith("observers"):
            run = runs.get(part.chosen["representative"]) if part.chosen else None
            usual = get(run, "downtime", "client", "usual_ns")
            found.append(f"<h3>Three downtimes</h3>{observers_text([{'usual_ns': usual}])}")
        found.append(figure(each, f"{kind}-{number}" if kind else None))
        if kind == "throughput" and part.chosen:
            found.append(windows(runs[part.chosen["representative"]]))
        if each.name.startswith("rounds") and part.chosen:
            found.append(move_table(runs[part.chosen["representative"]]))
        if each.name.startswith("cpu"):
            found.append(extras([group for group in counted if group["mode"] != "none"]))
            if part.chosen:
                found.append(hosts(runs[part.chosen["representative"]]))
    if counted and not any(each.name.startswith("cpu") for each in part.figures):
        found.append(extras([group for group in counted if group["mode"] != "none"]))
    found.append("</section>")
    return "".join(found)


def matrix_table(summary, name):
    groups = [group for group in summary["cells"] if group["mode"] != "none"]
    modes = list(dict.fromkeys(group["mode"] for group in groups))
    of = {(group["load"], group["mode"], group["side"]): group for group in groups}
    rows = []
    for load in summary["loads"]:
        sides = list(dict.fromkeys(group["side"] for group in groups if group["load"] == load))
        for index, side in enumerate(sides):
            cells = [of.get((load, mode, side)) for mode in modes]
            known = [value for each in cells if (value := get(each, "metrics", name, "median")) is not None]
            best = min(known) if known else None
            values = [get(each, "metrics", name, "median") for each in cells]
            row = "".join(f'<td{" class=best" if value is not None and value == best else ""}>'
                          f'{esc(show(name, value)) if value is not None else "–"}</td>' for value in values)
            rows.append(f'<tr{" class=top" if not index else ""}><th scope="row">{esc(load) if not index else ""}</th>'
                        f'<td class="l">{key(side)}{esc(side)}</td>{row}</tr>')
    head = "".join(f'<th scope="col">{esc(mode)}</th>' for mode in modes)
    return ('<div class="wide"><table>'
            f'<caption>{esc(metrics.title(name))}: medians, the least of each row in bold</caption><thead><tr>'
            f'<th scope="col" class="l">load</th><th scope="col" class="l">side</th>{head}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table></div>')


def paper(summary):
    found = summary.get("paper")
    if not found:
        return ""
    rows = []
    for each in found["figures"]:
        theirs = f"{esc(each['value']) if each['value'] is not None else '–'} {esc(each['unit'])}"
        ours = "<br>".join(f"{esc(words.show(one['median'], one['unit']))} "
                           f"<small>{esc(one['load'])}, {esc(label(one))}, median of {one['n']}</small>"
                           for one in each["ours"]) or "–"
        rows.append(f'<tr><th scope="row">{esc(each["what"])}</th><td>{theirs}</td><td class="l">{ours}</td></tr>')
    table = ('<div class="wide"><table><caption>Published, and here</caption><thead><tr>'
             '<th scope="col" class="l">figure</th><th scope="col">'
             f'published</th><th scope="col" class="l">here</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
             '</div>'
             if rows else "")
    differs = "".join(f"<li>{esc(line)}</li>" for line in found["differs"])
    differs = f'<p>What differs:</p><ul class="plain">{differs}</ul>' if differs else ""
    return f'<section id="paper"><h2>As published</h2><p>{esc(found["source"] or "")}</p>{table}{differs}</section>'


def settings(summary):
    known = summary["machine"]
    facts = [("place", {"lab": "two emulated hosts (lab)", "namespaces": "two network namespaces of one machine"}.get(
        get(known, "place") if isinstance(get(known, "place"), str) else None, get(known, "place")))]
    facts += [(name, get(known, each)) for name, each in (
        ("processor", "processor"), ("processors", "processors"), ("memory", "memory_bytes"), ("kernel", "kernel"),
        ("kernel of the hosts", "host_kernel"), ("kernel of the guest", "guest_kernel"), ("godwit", "godwit"),
        ("QEMU", "qemu"), ("started", "started"))]
    facts = [(name, words.size(value) if name == "memory" and isinstance(value, int) else value)
             for name, value in facts
             if value not in (None, "")]
    table = "".join(f'<tr><th scope="row">{esc(name)}</th><td class="l">{esc(value)}</td></tr>'
                    for name, value in facts)
    experiment = {name: value for name, value in summary["experiment"].items() if name != "paper"}
    failures = [run for run in summary["runs"] if run["outcome"] not in ("moved", "stayed") or run["error"]]
    told = "".join(f"<li>cell {run['number']}: {esc(run['load'])}, {esc(label(run))}: {esc(run['outcome'])}: "
                   f"{esc(run['error'] or run['move']['failure'] or 'no reason given')}</li>" for run in failures[:50])
    missing = "".join(f"<li>{esc(problem)}</li>" for problem in summary["problems"][:100])
    found = ('<section id="machine"><h2>Machine and settings</h2><div class="wide"><table>'
             '<caption>Measured on</caption>'
             f"<tbody>{table}</tbody></table></div>")
    found += (f"<details><summary>The experiment, as it was carried out</summary><pre>"
              f"{esc_lines(json.dumps(experiment, indent=1, ensure_ascii=False))}</pre></details>")
    found += f"<h3>Repetitions that did not succeed</h3><ul class=plain>{told}</ul>" if told else ""
    found += f"<h3>What is missing</h3><ul class=plain>{missing}</ul>" if missing else ""
    found += ("<h3>How to read it</h3><ul class=plain>"
              f"<li>Percentiles: {esc(summary['percentiles'])}. Latency counts from when a request was due.</li>"
              f"<li>Outliers: {esc(summary['outliers'])}.</li>"
              "<li>Extra is what a counter grew by during the move, less what it grew by in as long a part of the "
              "baseline window of the same repetition.</li>"
              "<li>Back at the level: from the moment the guest ran again, to the first time from which on, for 3 s, "
              "the median latency of each rolling second was at most a tenth above, and its answers at most a tenth "
              "below, those before.</li>"
              "<li>A move that failed has no figures here; it is counted under its mode.</li>"
              "<li>This page is made from <code>raw/</code> alone: <code>godwit report DIR</code> makes it again, with "
              "<code>--png --csv</code> each figure as a picture and a table.</li></ul></section>")
    return found


def esc_lines(text):
    return html.escape("".join(char if char.isprintable() or char == "\n" else "?" for char in text), quote=True)


def facts_line(summary):
    known, experiment = summary["machine"], summary["experiment"]
    link, guest = get(experiment, "link"), get(experiment, "guest")
    found = [words.plural(len(summary["runs"]), "repetition")]
    found += [{"lab": "emulated hosts", "namespaces": "one machine, two namespaces"}.get(str(get(known, "place")))]
    if isinstance(link, dict):
        found.append("link " + ", ".join(str(value) for value in link.values() if value))
    if isinstance(guest, dict):
        found.append("guest " + ", ".join(f"{value} {'vCPU' if name == 'cpus' else ''}".strip()
                                          for name, value in guest.items() if value))
    if get(experiment, "scale"):
        found.append(f"scale {get(experiment, 'scale')}")
    if get(known, "started"):
        found.append(str(get(known, "started")))
    return "".join(f"<li>{esc(each)}</li>" for each in found if each)


def render(summary, parts, matrix, live):
    """The page, and why it has no zoom, or None."""
    library = assets.library()
    runs = {run["number"]: run for run in summary["runs"]}
    links = [("matrix", "Mode by load")] if matrix else []
    links += [(f"load-{number}", part.load) for number, part in enumerate(parts) if any(
        group["load"] == part.load for group in summary["cells"])]
    links += [("paper", "As published")] if summary.get("paper") else []
    links += [("machine", "Machine and settings")]
    warned = "".join(f"<p>{esc(note)}</p>" for note in summary["notes"])
    short = f'<p>{words.plural(len(summary["problems"]), "thing")} missing: see <a href="#machine">below</a>.</p>' \
        if summary["problems"] else ""
    body = "".join(f'<p class="verdict">{esc(sentence)}</p>' for sentence in summary["verdict"])
    main = ""
    if matrix:
        main += ('<section id="matrix"><h2>Mode by load</h2>' + matrix_table(summary, "downtime.client") +
                 figure(matrix)
                 + "".join(f"<details><summary>{esc(metrics.title(name))}</summary>{matrix_table(summary, name)}"
                           "</details>"
                           for name in ("downtime.monitor", "move.total", "latency.move.p99", "cpu.all", "net.bytes")
                           if any(get(group, "metrics", name) for group in summary["cells"])) + "</section>")
    main += "".join(load_section(number, part, summary, runs) for number, part in enumerate(parts))
    main += paper(summary) + settings(summary)
    rules = f":root{{color-scheme:light dark;{svg.palette(svg.LIGHT)}}}@media (prefers-color-scheme:dark){{:root{{" \
            f"{svg.palette(svg.DARK)}}}}}@media print{{:root{{color-scheme:light;{svg.palette(svg.LIGHT)}}}}}"
    missing = library["missing"]
    scripts = [] if missing else [library["uplot_js"], assets.own("page.js")]
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'"
                       for each in scripts)
    terms = html.escape(library["licence"], quote=False).replace("--", "- -")
    licence = f"<!-- uPlot {esc(library['version'])}\n{terms}\n-->\n" if scripts else ""
    code = f'<script type="application/json" id="data">{script_text({"loads": live})}</script>' + "".join(
        f"<script>{each}</script>" for each in scripts) if scripts else ""
    without_zoom = f" Without zoom: {esc(missing)}." if missing else ""
    policy = (f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed or NO_SCRIPT}; base-uri 'none'; "
              "form-action 'none'")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="generator" content="godwit report">
<title>{esc(summary["title"] or summary["name"])} – godwit report</title>
<style>{rules}
{svg.RULES}
{assets.own("page.css")}
{library["uplot_css"] if scripts else ""}</style></head>
<body><header><h1><span>{esc(summary["title"] or summary["name"])}</span> · what a move costs, measured by godwit</h1>
{body}
<ul class="facts">{facts_line(summary)}</ul>
{f'<div class="warn" role="note">{warned}{short}</div>' if warned or short else ""}
<nav aria-label="Sections">{"".join(f'<a href="#{target}">{esc(name)}</a>' for target, name in links)}</nav></header>
<main>{main}</main>
<footer><p>Made by <code>godwit report</code> from the raw data beside this page.{without_zoom}</p></footer>
{licence}{code}
</body></html>
""", missing
