# SPDX-License-Identifier: Apache-2.0
"""The peer: QEMU's migration of the same guest, by QMP.

The smallest machine that QEMU has (microvm), the same kernel, initial RAM disk, command line, disk and tap. The modes:

    pre-copy    as it is
    post-copy   the switch right after the start; urgent pages on a channel of their own (postcopy-preempt)
    stop-copy   the guest is stopped first, and started at the target when all is there
    auto        pre-copy that slows the guest (auto-converge, unless slowing is forbidden) and, where post-copy is
                allowed, switches after three passes
    clark05     QEMU has no such policy

Its bandwidth limit is lifted unless the experiment has one; its downtime limit is set if the experiment has one."""
import contextlib
import re
import time

from godwitlab.errors import LabError

from .. import units
from ..errors import Broken
from . import MOVE_LIMIT_S, PORT, Moved, Side
from .qmp import Qmp

NO_LIMIT = 1 << 50              # bytes a second
MAC = "02:67:77:00:00:01"
SWITCH_AFTER_PASSES = 3
LOOK_S = 0.1


def program(host):
    """QEMU on a host, with where its libraries and firmware are."""
    tools = host.tools("qemu")
    if tools:
        return ["env", f"LD_LIBRARY_PATH={tools}/lib", f"{tools}/qemu", "-L", f"{tools}/share"]
    return ["qemu-system-x86_64"]


def may_switch(mode, move):
    return mode == "auto" and move.get("post-copy") in ("allow", "now")


def capabilities(mode, move):
    found = {"events"}
    if mode == "post-copy" or may_switch(mode, move):
        found |= {"postcopy-ram", "postcopy-preempt"}
    if mode == "auto" and move.get("throttle") != "never":
        found.add("auto-converge")
    return found


class Qemu(Side):
    name = "qemu"

    @classmethod
    def refuses(cls, mode):
        return "QEMU has no such policy" if mode == "clark05" else None

    @classmethod
    def version(cls, place):
        done = place.source.run([*program(place.source), "--version"])
        match = re.search(rb"version ([^\s(]+(?: \([^)]*\))?)", done.stdout)
        return match[1].decode() if match else None

    def __init__(self, *args):
        super().__init__(*args)
        self.qmp, self.machines, self.said = {}, {}, {"source": bytearray(), "target": bytearray()}
        self.looks, self.mode = [], None

    def _path(self, host, side, what):
        return f"{host.scratch()}/qemu{self.number}-{side}.{what}"

    def _boot(self, side, load, incoming=()):
        host, guest = getattr(self, side), self.experiment["guest"]
        qmp = self._path(host, side, "qmp")
        argv = [*program(host), "-name", f"measure{self.number},debug-threads=on", "-M", "microvm", "-accel", "kvm",
                "-cpu", "host", "-m", str(units.size(guest["memory"]) >> 20),
                "-smp", str(guest["cpus"]), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-global", "virtio-mmio.force-legacy=false", "-serial", "stdio", "-qmp",
                f"unix:{qmp},server=on,wait=off",
                "-pidfile", self._path(host, side, "pid"),
                "-kernel", self.place.files("vmlinuz"), "-initrd", self.place.files("initrd"), "-append",
                self.cmdline(load),
                "-drive", f"id=root,if=none,format=raw,readonly=on,file={self.place.files('root.squashfs')}",
                "-device", "virtio-blk-device,drive=root,serial=root", "-device", "virtio-rng-device",
                "-netdev", "tap,id=eth0,ifname=tap0,script=no,downscript=no",
                "-device", f"virtio-net-device,netdev=eth0,mac={MAC}", *incoming]
        machine = host.start(argv, self.heard, self.said[side].extend)
        self.machines[side] = machine
        try:
            self.qmp[side] = Qmp(host, qmp)
        except Broken as error:
            raise Broken(f"{error}; it said: {self._last_words(side)}") from None
        done = host.run(["cat", self._path(host, side, "pid")])
        self.pids[side] = int(done.stdout)

    def _last_words(self, side):
        return bytes(self.said[side]).decode(errors="replace").strip().rpartition("\n")[2][-300:] or "nothing"

    def start(self, load):
        self._boot("target", load, ["-incoming", "defer"])
        self._boot("source", load)

    def check(self):
        if self.machines["source"].done():
            raise Broken(f"the guest died: QEMU ended; the last it said: {self._last_words('source')}")

    def options(self, mode):
        move = self.experiment["move"]
        found = [f"max-bandwidth={units.rate(move['bandwidth']) if 'bandwidth' in move else NO_LIMIT}"]
        if "max-downtime" in move and mode in ("pre-copy", "auto"):
            found.append(f"downtime-limit={max(1, units.duration(move['max-downtime']) // 10**6)}")
        return found + sorted(self._capabilities(mode))

    def _may_switch(self, mode):
        return may_switch(mode, self.experiment["move"])

    def _capabilities(self, mode):
        return capabilities(mode, self.experiment["move"])

    @classmethod
    def beside(cls, mode, move):
        """What QEMU does beside that mode of ours, for people."""
        said = {"pre-copy": ["its pre-copy"], "post-copy": ["the switch to post-copy right after the start"],
                "stop-copy": ["`stop`, its pre-copy of a guest that stands still, and `cont` at the target; the "
                              "downtime is from STOP to RESUME"],
                "auto": ["its pre-copy"]}[mode]
        if may_switch(mode, move):
            said.append(f"the switch to post-copy after {SWITCH_AFTER_PASSES} passes")
        if found := sorted(capabilities(mode, move) - {"events"}):
            said.append("with " + ", ".join(found))
        return f"Beside {mode} stands, of QEMU: {', '.join(said)}."

    def _set_up(self, mode):
        capabilities = [{"capability": name, "state": True} for name in self._capabilities(mode)]
        for qmp in self.qmp.values():
            qmp.call("migrate-set-capabilities", capabilities=capabilities)
        parameters = {word.split("=")[0]: int(word.split("=")[1]) for word in self.options(mode) if "=" in word}
        self.qmp["source"].call("migrate-set-parameters", **parameters)
        self.qmp["target"].call("migrate-incoming", uri=f"tcp:{self.target.address}:{PORT}")

    def move(self, mode, check):
        self.mode = mode
        self._set_up(mode)
        source, target = self.qmp["source"], self.qmp["target"]
        began = time.monotonic_ns()
        if mode == "stop-copy":
            source.call("stop")
        source.call("migrate", uri=f"tcp:{self.target.address}:{PORT}")
        facts, failure = self._follow(mode, check)
        if facts.get("status") == "completed":
            if mode == "stop-copy":
                target.call("cont")
            self._await_running(target)
        ended = time.monotonic_ns()
        for qmp in source, target:
            with contextlib.suppress(Broken):
                qmp.listen(0.2)
        says = {"query-migrate": facts, "looks": self.looks,
                "events": {name: [{"at_ns": at, "event": event, "data": data} for at, event, data in qmp.events]
                           for name, qmp in self.qmp.items()}}
        if facts.get("status") == "completed":
            return Moved("moved", began, ended, "", says)
        if not self.machines["source"].done():
            with contextlib.suppress(Broken):
                if mode == "stop-copy":
                    source.call("cont")
                if source.call("query-status")["running"]:
                    return Moved("stayed", began, ended, failure, says)
        return Moved("lost", began, ended, failure, says)

    def _follow(self, mode, check):
        """Until the move is over. Returns query-migrate's answer, and what went wrong."""
        source = self.qmp["source"]
        limit, switched = time.monotonic() + MOVE_LIMIT_S, False
        while True:
            check()
            try:
                facts = source.call("query-migrate")
            except Broken as error:
                return {}, str(error)
            self._note(facts)
            status = facts.get("status")
            if status in ("completed", "failed", "cancelled"):
                return facts, facts.get("error-desc", "" if status == "completed" else status)
            passes = facts.get("ram", {}).get("dirty-sync-count", 0)
            if status == "active" and not switched and (mode == "post-copy" or (
                    self._may_switch(mode) and passes > SWITCH_AFTER_PASSES)):
                source.call("migrate-start-postcopy")
                switched = True
            if time.monotonic() > limit:
                source.call("migrate_cancel")
                limit = float("inf")
            source.listen(0.01 if mode == "post-copy" and not switched else LOOK_S)

    def _note(self, facts):
        ram = facts.get("ram")
        if ram:
            self.looks.append({"at_ns": time.monotonic_ns(), "pass": ram["dirty-sync-count"],
                               "bytes": ram["transferred"],
                               "pages": ram["normal"] + ram["duplicate"],
                               "dirty_pages_per_s": ram.get("dirty-pages-rate")})

    @staticmethod
    def _await_running(target):
        end = time.monotonic() + 60
        while not target.call("query-status")["running"]:
            if time.monotonic() > end:
                raise Broken("QEMU says that it moved the guest, which does not run at the target")
            target.listen(0.02)

    # -------------------------------------------------------------------------------------------- move.json

    def _rounds(self, pause):
        """Passes over memory, from what query-migrate said every tenth of a second: their edges are good to that."""
        found = []
        for before, look in zip(self.looks, self.looks[1:]):
            if not found or found[-1]["pass"] != before["pass"]:
                found.append({"pass": before["pass"], "from_ns": before["at_ns"], "to_ns": look["at_ns"], "pages": 0,
                              "bytes": 0})
            last = found[-1]
            last["to_ns"] = look["at_ns"]
            last["pages"] += look["pages"] - before["pages"]
            last["bytes"] += look["bytes"] - before["bytes"]
            last["dirty_pages_per_s"] = look["dirty_pages_per_s"]
        return [{"from_ns": entry["from_ns"], "to_ns": entry["to_ns"], "pages": entry["pages"], "bytes": entry["bytes"],
                 "dirty_pages_per_s": entry["dirty_pages_per_s"],
                 "bytes_per_s": entry["bytes"] * 10**9 // max(1, entry["to_ns"] - entry["from_ns"]),
                 "paused": bool(pause) and entry["from_ns"] >= pause["from_ns"]} for entry in found]

    def describe(self, moved, clocks):
        facts = moved.says.get("query-migrate", {})
        ram = facts.get("ram", {})
        stopped, resumed = self.qmp["source"].last("STOP"), self.qmp["target"].last("RESUME")
        pause = {"from_ns": stopped, "to_ns": resumed} if stopped and resumed and resumed > stopped else None
        stages = []
        if pause:
            stages = [("pre-copy", moved.from_ns, stopped), ("stop-and-copy", stopped, resumed)]
            stages.append(("pulling" if ram.get("postcopy-bytes") else "activation", resumed, moved.to_ns))
        # After post-copy QEMU says 0 for what it did not measure.
        milliseconds = {key: facts[name] * 10**6 if facts.get(name) else None
                        for key, name in (("total_ns", "total-time"), ("downtime_ns", "downtime"))}
        if pause and self.mode == "stop-copy":     # QEMU does not count a stop that it was told
            milliseconds["downtime_ns"] = pause["to_ns"] - pause["from_ns"]
        return {
            "from_ns": moved.from_ns, "to_ns": moved.to_ns,
            "outcome": {"moved": "completed", "stayed": "failed"}.get(moved.outcome, "failed"),
            "failure": moved.error or None,
            **milliseconds,
            "stages": [{"stage": stage, "from_ns": begin, "to_ns": end} for stage, begin, end in stages if end > begin],
            "pause": pause, "downtime_parts": [], "rounds": self._rounds(pause),
            "bytes": {"total": ram["transferred"]} if "transferred" in ram else None,
            "cpu_ns": {"source": None, "target": None},
            "faults": {"count": ram["postcopy-requests"], "wait_p50_ns": None, "wait_p99_ns": None, "wait_max_ns": None}
            if ram.get("postcopy-bytes") else None,
        }

    def stop(self):
        logs = {f"log-{side}.txt": bytes(said) for side, said in self.said.items() if said}
        for qmp in self.qmp.values():
            with contextlib.suppress(Broken, LabError):
                qmp.call("quit")
            qmp.close()
        for side, machine in self.machines.items():
            try:
                machine.wait(10)
            except LabError:
                if side in self.pids:
                    with contextlib.suppress(LabError):
                        getattr(self, side).run(["kill", "-9", str(self.pids[side])])
            machine.stop()
        self.console_log.close()
        return logs
