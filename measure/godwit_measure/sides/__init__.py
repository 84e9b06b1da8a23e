# SPDX-License-Identifier: Apache-2.0
"""Who moves the guest. A side boots it on the source, holds a receiver ready at the target, moves it, and ends both.

One object is one guest, from start() to stop(). Every error is Broken, but a move that fails is no error: it is what
was to be measured."""
import re
import time
from dataclasses import dataclass, field

from ..errors import Broken

PORT = 7000
READY_LIMIT_S = 180
MOVE_LIMIT_S = 300
CONSOLE_KEPT = 1 << 16


@dataclass
class Moved:
    """What became of a move. Instants are ours, the client's."""
    outcome: str                    # moved, stayed, lost
    from_ns: int
    to_ns: int
    error: str = ""
    says: dict = field(default_factory=dict)    # the mover's own words: bill.json or qemu.json


class Side:
    name = ""

    def __init__(self, place, experiment, number, folder):
        self.place, self.experiment, self.number, self.folder = place, experiment, number, folder
        self.source, self.target = place.source, place.target
        self.pids = {}              # source, target: the monitor's process, on its host
        self.console = b""          # the last of what the guest said
        self.console_log = folder.stream("log-console.txt")
        self.running = []           # commands that we must end

    @classmethod
    def refuses(cls, mode):
        """Why a mode is not for this side, or None."""
        return None

    @classmethod
    def setup(cls, place, experiment):
        """Once, before the first guest."""

    def cmdline(self, load):
        return (f"console=ttyS0 panic=-1 reboot=t quiet godwit.ip={self.place.guest_address}/24 "
                f"godwit.load={load['guest']}")

    def heard(self, data):
        """Of the guest's console."""
        self.console = (self.console + data)[-CONSOLE_KEPT:]
        self.console_log.write(data)

    def await_ready(self, check):
        """Returns when the load serves. `check` is called now and then."""
        end = time.monotonic() + READY_LIMIT_S
        while b"godwit-guest: ready" not in self.console:
            refused = re.search(rb"godwit-guest: (no load[^\r\n]*)", self.console)
            if refused:
                raise Broken(f"the guest says: {refused[1].decode(errors='replace')}")
            if time.monotonic() > end:
                raise Broken(f"the guest's load did not serve within {READY_LIMIT_S} s")
            check()
            time.sleep(0.1)

    def start(self, load):
        raise NotImplementedError

    def check(self):
        """Broken if the guest is gone."""
        raise NotImplementedError

    def wws(self, duration):
        """The working set recorded for so long, as an object; None: this side cannot."""
        return None

    def options(self, mode):
        """As given to the mover, for cell.json."""
        raise NotImplementedError

    def move(self, mode, check):
        raise NotImplementedError

    def describe(self, moved, clocks):
        """move.json."""
        raise NotImplementedError

    def stop(self):
        """Ends the guest wherever it is, and returns logs: {name: bytes}. Raises nothing."""
        raise NotImplementedError
