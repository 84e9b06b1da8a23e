# SPDX-License-Identifier: Apache-2.0
"""The experiment: what its JSON may hold (docs/measure.md), defaults, and the checking of both.

read() and preset() return a plain object with every default written out, as raw/experiment.json keeps it: texts
stay as they were written, so that a person finds his own words again. What is not understood is refused, and the
message names the key and what would be allowed."""
import json
import os
import re

from . import units
from .errors import Wrong

MODES = ("pre-copy", "post-copy", "stop-copy", "auto", "clark05", "none")
SCALES = ("full", "small")
PRESETS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "presets")
NAME = r"[a-z0-9][a-z0-9_-]{0,31}"

# Options of each kind of probe, and which port of the guest it asks unless told.
PROBE_OPTIONS = {
    "http": {"path", "mix", "body", "expect"}, "tcp": {"size"}, "udp": {"size"}, "icmp": {"size"},
    "resp": {"mix", "key", "keys", "value"}, "stream": {"path", "bandwidth"}, "arrivals": set(),
}
PROBE_PORTS = {"http": 80, "stream": 80, "tcp": 7, "udp": 7, "resp": 6379, "arrivals": 27960, "icmp": None}


# ---------------------------------------------------------------------------------------- kinds of values

def text(value):
    if not isinstance(value, str) or not value.strip():
        raise Wrong(f"{value!r}: want a text")


def name(value):
    if not isinstance(value, str) or not re.fullmatch(NAME, value):
        raise Wrong(f"{value!r}: want a name of lower-case letters, digits, - and _")


def count(least, most):
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Wrong(f"{value!r}: want a number from {least} to {most}")
    return check


def choice(*allowed):
    def check(value):
        if value not in allowed:
            raise Wrong(f"{value!r}: want one of {', '.join(map(str, allowed))}")
    return check


def within(parse, least, most, what):
    def check(value):
        if not least <= parse(value) <= most:
            raise Wrong(f"{value!r}: want {what}")
    return check


def duration(least="0", most="1h"):
    return within(units.duration, units.duration(least), units.duration(most), f"a time from {least} to {most}")


def size(least, most):
    return within(units.size, units.size(least), units.size(most), f"a size from {least} to {most}")


def rate(value):
    if units.rate(value) < 1000:
        raise Wrong(f"{value!r}: want at least 8kbit/s")


def figure_value(value):
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Wrong(f"{value!r}: want a number or a text")


def flag(value):
    if not isinstance(value, bool):
        raise Wrong(f"{value!r}: want true or false")


def lanes(value):
    if value != "auto":
        count(0, 16)(value)


def guest_load(value):
    if not isinstance(value, str) or not re.fullmatch(r"[a-z]+(,[a-z_]+=[A-Za-z0-9.]+)*", value):
        raise Wrong(f"{value!r}: want NAME[,KEY=VALUE...]")


def listed(check, least=1):
    def check_list(value):
        if not isinstance(value, list) or len(value) < least:
            raise Wrong(f"want a list of at least {least}")
        for index, entry in enumerate(value):
            _under(f"[{index}]", check, entry)
    return check_list


def table(allowed, required=()):
    """An object with these keys: each has a check."""
    def check(value):
        if not isinstance(value, dict):
            raise Wrong(f"{value!r}: want an object")
        for key in value:
            if key not in allowed:
                raise Wrong(f"unknown key {key!r}; allowed are {', '.join(sorted(allowed))}")
            _under(f".{key}", allowed[key], value[key])
        for key in required:
            if key not in value:
                raise Wrong(f"{key!r} is missing")
    return check


def keyed(check):
    """An object whose keys are names of the user's choice."""
    def check_keyed(value):
        if not isinstance(value, dict) or not value:
            raise Wrong(f"{value!r}: want an object")
        for key, entry in value.items():
            _under(f".{key}", check, entry)
    return check_keyed


def _under(key, check, value):
    """Runs a check; what it complains of is found under `key`."""
    try:
        check(value)
    except Wrong as error:
        where, _, what = error.args[0].partition("\0") if "\0" in error.args[0] else ("", "", error.args[0])
        raise Wrong(f"{key}{where}\0{what}") from None


# ------------------------------------------------------------------------------------------------ schema

def probe(value):
    table({"name": name, "kind": choice(*PROBE_OPTIONS), "rate": count(1, 100000), "connections": count(1, 10000),
           "port": count(1, 65535), "timeout": duration("1ms"), "path": text, "mix": text, "body": size("32", "1M"),
           "expect": text, "size": size("16", "65000"), "key": text, "keys": count(1, 2**32 - 1),
           "value": size("1", "1M"),
           "bandwidth": rate}, required=("name", "kind"))(value)
    kind = value["kind"]
    common = {"name", "kind", "port", "timeout"} | ({"rate"} if kind != "stream" else set()) \
        | ({"connections"} if kind != "icmp" else set())
    for key in value:
        if key not in common | PROBE_OPTIONS[kind]:
            raise Wrong(f"{key!r} means nothing to a probe of kind {kind}; allowed are "
                        f"{', '.join(sorted(common | PROBE_OPTIONS[kind]))}")


LOAD = table({"name": name, "title": text, "guest": guest_load, "probes": listed(probe),
              "quality": keyed(table({"latency": duration("1us"), "rate": rate}))},
             required=("name", "guest", "probes"))

MOVE = {
    "max-downtime": duration("1ns"), "max-time": duration("1ms", "24h"), "bandwidth": rate,
    "post-copy": choice("never", "allow", "now"), "throttle": choice("allow", "never"), "lanes": lanes,
    "compress": choice("auto", "off", "lz4", "zstd"), "rate-min": rate, "rate-max": rate, "insecure": flag,
}

EXPERIMENT = table({
    "name": name, "title": text, "scale": choice(*SCALES), "scale_means": text,
    "paper": table({"source": text, "differs": listed(text, 0), "figures": listed(table({
        "what": text, "value": figure_value, "unit": text, "metric": text, "load": name, "mode": choice(*MODES),
        "side": choice("godwit", "qemu")}, required=("what", "value", "unit")), 0)}, required=("source",)),
    "guest": table({"memory": size("64M", "64G"), "cpus": count(1, 16)}),
    "link": table({"rate": rate, "delay": duration("0", "10s")}),
    "loads": listed(LOAD), "modes": listed(choice(*MODES)), "move": table(MOVE),
    "windows": table({key: duration("100ms", "24h") for key in ("settle", "baseline", "before", "after")}),
    "repeat": count(1, 1000), "wws": duration("1s", "1h"),
}, required=("name", "title", "loads"))

DEFAULTS = {
    "scale": "full", "guest": {"memory": "192M", "cpus": 1}, "modes": ["auto"], "move": {}, "repeat": 5,
    "windows": {"settle": "5s", "baseline": "20s", "before": "10s", "after": "10s"},
}


def check(value, where):
    """The experiment with its defaults written out."""
    try:
        EXPERIMENT(value)
        _distinct("loads", [load["name"] for load in value["loads"]])
        for index, load in enumerate(value["loads"]):
            _distinct(f"loads[{index}].probes", [entry["name"] for entry in load["probes"]])
        _distinct("modes", value.get("modes", []))
    except Wrong as error:
        at, _, what = error.args[0].rpartition("\0")
        raise Wrong(f"{where}: {at.lstrip('.')}{': ' if at else ''}{what}") from None
    full = {**DEFAULTS, **value}
    for key in "guest", "windows":
        full[key] = {**DEFAULTS[key], **value.get(key, {})}
    return full


def _distinct(key, names):
    for entry in names:
        if names.count(entry) > 1:
            raise Wrong(f".{key}\0{entry!r} is there twice")


# ----------------------------------------------------------------------------------------------- sources

def _no_twins(pairs):
    found = {}
    for key, value in pairs:
        if key in found:
            raise Wrong(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _load(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=_no_twins)
    except OSError as error:
        raise Wrong(f"{path}: {error.strerror}") from None
    except Wrong as error:
        raise Wrong(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{path}: no JSON: {error}") from None


def read(path):
    """An experiment of the user's."""
    return check(_load(path), path)


def presets():
    return sorted(entry[:-5] for entry in os.listdir(PRESETS) if entry.endswith(".json"))


def preset(wanted, scale="full"):
    """One that comes with godwit: what all scales have in common, and under `scales` what each adds."""
    path = os.path.join(PRESETS, f"{wanted}.json")
    if wanted not in presets():
        raise Wrong(f"no preset {wanted!r}; there are {', '.join(presets())}")
    common = _load(path)
    scales = common.pop("scales")
    return check({**common, **scales[scale], "scale": scale}, path)


def narrow(experiment, *, modes=None, only=(), repeat=None):
    """The same with what the command line says."""
    found = dict(experiment)
    if modes:
        found["modes"] = [mode.strip() for mode in modes.split(",")]
        check({key: value for key, value in found.items()}, "--modes")
    if only:
        names = [load["name"] for load in found["loads"]]
        for load in only:
            if load not in names:
                raise Wrong(f"--only: no load {load!r}; there are {', '.join(names)}")
        found["loads"] = [load for load in found["loads"] if load["name"] in only]
    if repeat:
        found["repeat"] = repeat
    return found


def as_kept(experiment):
    """For raw/experiment.json: bounds of quality also in units without a name to guess."""
    kept = dict(experiment, loads=[dict(load) for load in experiment["loads"]])
    for load in kept["loads"]:
        if "quality" in load:
            load["quality"] = {kind: {**({"latency_ns": units.duration(bound["latency"])} if "latency" in bound
                                         else {}),
                                      **({"bytes_per_s": units.rate(bound["rate"])} if "rate" in bound else {})}
                               for kind, bound in load["quality"].items()}
    return kept
