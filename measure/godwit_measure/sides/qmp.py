# SPDX-License-Identifier: Apache-2.0
"""QEMU's control socket: a request, its answer, and events in between, each with when it came here."""
import json
import time

from godwitlab.errors import LabError, LabTimeout

from ..errors import Broken

ANSWER_S = 30


class Qmp:
    def __init__(self, host, path, limit=60):
        """Waits until QEMU listens at `path`."""
        self.events = []            # (our CLOCK_MONOTONIC when it came, name, data)
        end = time.monotonic() + limit
        while True:
            try:
                self.talk = host.talk_at(path)
                self._read(5)       # the greeting
                break
            except (LabError, Broken) as error:
                if time.monotonic() > end:
                    raise Broken(f"{host.name}: QEMU does not answer: {error}") from None
                time.sleep(0.2)
        self.call("qmp_capabilities")

    def _read(self, limit):
        at_ns, line = self.talk.next(limit)
        try:
            said = json.loads(line)
        except ValueError:
            raise Broken(f"QEMU says no JSON: {line[:100]!r}") from None
        if "event" in said:
            self.events.append((at_ns, said["event"], said.get("data", {})))
        return said

    def call(self, command, **arguments):
        try:
            self.talk.send(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            while True:
                said = self._read(ANSWER_S)
                if "return" in said:
                    return said["return"]
                if "error" in said:
                    raise Broken(f"QEMU: {command}: {said['error']['desc']}")
        except LabError as error:
            raise Broken(f"QEMU: {command}: {error}") from None

    def listen(self, seconds):
        """Takes what comes meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self._read(left)
            except LabTimeout:
                return
            except LabError as error:
                raise Broken(f"QEMU: {error}") from None

    def last(self, name):
        """When an event of that name came last, or None."""
        return next((at_ns for at_ns, event, _ in reversed(self.events) if event == name), None)

    def close(self):
        self.talk.close()
