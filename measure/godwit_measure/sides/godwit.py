# SPDX-License-Identifier: Apache-2.0
"""godwit's own moves, by its commands as a user would type them."""
import contextlib
import json
import shlex
import time

from godwitlab.errors import LabError, LabTimeout

from ..errors import Broken
from . import MOVE_LIMIT_S, PORT, Moved, Side

CANCEL_S = 60
# Off loopback a host must say both.
INSECURE = ("allow-insecure = yes", "allow-insecure-off-loopback = yes")
# Which options of the experiment's `move` concern which modes; those not named here concern all.
ONLY_FOR = {"post-copy": ("auto",), "rate-min": ("clark05",), "rate-max": ("clark05",),
            "throttle": ("auto", "pre-copy"),
            "max-downtime": ("auto", "pre-copy"), "max-time": ("auto", "pre-copy")}


def checked(host, argv, timeout=60):
    try:
        done = host.run(argv, timeout=timeout)
    except LabError as error:
        raise Broken(f"{host.name}: {error}") from None
    if done.status:
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise Broken(f"{host.name}: {' '.join(argv[:2])}: status {done.status}: {said}")
    return done.stdout


def facts(host, *words):
    said = checked(host, [host.godwit, *words, "--json"])
    try:
        return json.loads(said)
    except ValueError:
        raise Broken(f"{host.name}: godwit {words[0]}: no JSON: {said[:200]!r}") from None


def _alive(pid):
    """Whether a process of this machine runs; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Godwit(Side):
    name = "godwit"

    @classmethod
    def setup(cls, place, experiment):
        """Each host trusts the other, as someone at both keyboards would have it; or lets moves go unencrypted."""
        for host, other in ((place.source, place.target), (place.target, place.source)):
            own = facts(other, "trust", "--self")["fingerprint"]
            checked(host, [host.godwit, "trust", other.address, own])
            if experiment["move"].get("insecure"):
                checked(host, ["sh", "-c", f"umask 077; printf '%s\\n' {' '.join(map(shlex.quote, INSECURE))} "
                                           f">{shlex.quote(host.config_dir)}/godwit.conf"])

    def __init__(self, *args):
        super().__init__(*args)
        self.vm = f"measure{self.number}"
        self.to = f"{self.target.address}:{self.place.port if self.place.fake else PORT}"
        self.move_log = self.folder.stream("log-move.txt")
        self.console_command = None

    def _disk(self, more=""):
        return [] if self.place.fake else ["--disk", f"root={self.place.files('root.squashfs')}{more}", "--net",
                                           "eth0=tap0"]

    def _insecure(self):
        return ["--insecure"] if self.experiment["move"].get("insecure") else []

    def start(self, load):
        guest = self.experiment["guest"]
        here, there = self.source, self.target
        checked(there, [there.godwit, "receive", "--listen", self.to, "--once", "--name", self.vm, *self._disk(),
                        *self._insecure(),
                        *(["--fake"] if self.place.fake else []), "--detach"])
        self.pids["target"] = self._pid(there)
        checked(here, [here.godwit, "run", "--name", self.vm, "--memory", guest["memory"], "--cpus", str(guest["cpus"]),
                       "--kernel", self.place.files("vmlinuz"), "--initrd", self.place.files("initrd"),
                       "--cmdline", self.cmdline(load), *self._disk(",ro,serial=root"),
                       *(["--fake"] if self.place.fake else []), "--detach"], timeout=120)
        self.pids["source"] = self._pid(here)
        if not self.place.fake:
            self.console_command = here.start([here.godwit, "console", self.vm], self.heard, lambda data: None)
            self.running.append(self.console_command)

    def _pid(self, host):
        vms = {vm["name"]: vm for vm in facts(host, "ps")}
        if self.vm not in vms:
            raise Broken(f"{host.name}: the monitor is gone; it has {', '.join(vms) or 'none'}")
        return vms[self.vm]["pid"]

    def await_ready(self, check):
        if not self.place.fake:
            super().await_ready(check)

    def check(self):
        if self.console_command and self.console_command.done():
            raise Broken(f"the guest died: its monitor ended; the last it said: {self.last_words()}")
        if self.place.fake and not _alive(self.pids["source"]):
            raise Broken("the guest died: its monitor ended")

    def last_words(self):
        return self.console.decode(errors="replace").replace("\r", "").strip().rpartition("\n")[2][-200:] or "nothing"

    def _states(self, host):
        return {vm["name"]: vm["state"] for vm in facts(host, "ps") if vm["state"] not in ("moved", "dead")}

    def wws(self, duration):
        said = checked(self.source, [self.source.godwit, "wws", self.vm, "--for", duration, "--json"], timeout=4000)
        return json.loads(said)

    def options(self, mode):
        words = ["--policy", "clark05"] if mode == "clark05" else ["--mode", mode]
        for option, value in self.experiment["move"].items():
            if option == "insecure":
                words += self._insecure()
            elif mode in ONLY_FOR.get(option, (mode,)):
                words += [f"--{option}", str(value)]
        return words

    def move(self, mode, check):
        here, out = self.source, bytearray()
        began = time.monotonic_ns()
        command = here.start([here.godwit, "migrate", self.vm, self.to, *self.options(mode), "--json", "--progress",
                              "lines"],
                             out.extend, self.move_log.write)
        self.running.append(command)
        self._await(command, check)
        status = command.wait(10).status
        ended = time.monotonic_ns()
        try:
            bill = json.loads(bytes(out)) if out.strip() else None
        except ValueError:
            bill = None
        if not bill:
            said = f"godwit migrate: status {status} and no bill"
            return Moved(self._where_now(), began, ended, said)
        failure = (bill.get("failure") or {}).get("text", "")
        if bill["outcome"] == "completed" and bill["owner"] == "target":
            there = self._states(self.target).get(self.vm)
            outcome = "moved" if there else "lost"
            return Moved(outcome, began, ended,
                         "" if there else "the move was completed, and nothing runs at the target", bill)
        return Moved(self._where_now(), began, ended, failure or bill["outcome"], bill)

    def _where_now(self):
        return "stayed" if self._states(self.source).get(self.vm) == "running" else "lost"

    def _await(self, command, check):
        """Until the command ends. A move that takes too long is cancelled, and then ended."""
        limit = time.monotonic() + MOVE_LIMIT_S
        cancelled = False
        while not command.done():
            check()
            if time.monotonic() > limit:
                if cancelled:
                    raise Broken(f"a move of more than {MOVE_LIMIT_S} s, and it could not be cancelled")
                with contextlib.suppress(LabError):
                    self.source.run([self.source.godwit, "migrate", self.vm, "--cancel"])
                cancelled, limit = True, time.monotonic() + CANCEL_S
            time.sleep(0.05)

    def describe(self, moved, clocks):
        from ..bill import normalise
        return normalise(moved, clocks.get("source"))

    def stop(self):
        logs = {}
        for side, host in (("source", self.source), ("target", self.target)):
            with contextlib.suppress(LabError):
                logs[f"log-{side}.txt"] = host.run(["sh", "-c",
                                                    f"cat {host.runtime_dir}/{self.vm}/log 2>/dev/null"]).stdout
            with contextlib.suppress(LabError, Broken, LabTimeout):
                for vm in facts(host, "ps"):
                    if vm["state"] != "moved":
                        host.run([host.godwit, "kill", vm["name"]])
        for command in self.running:
            command.stop()
        self.console_log.close()
        self.move_log.close()
        return {name: log for name, log in logs.items() if log}
