# SPDX-License-Identifier: Apache-2.0
"""The meters: godwit-meter on each host, watching the monitor there; its lines go into the cell's folder as they
come."""
import signal

from .errors import Broken

STOP_S = 15


class Meter:
    def __init__(self, host, program, pid, stream):
        self.host, self.stream, self.said = host, stream, bytearray()
        argv = [program, "--pid", str(pid), "--interval", host.meter_interval]
        if host.interfaces:
            argv += ["--interfaces", ",".join(host.interfaces)]
        self.running = host.start(argv, stream.write, self.said.extend)

    def _said(self):
        return self.said.decode(errors="replace").strip().split("\n")[-1]

    def check(self, gone=False):
        """`gone`: the monitor that it watches may have ended, and it with it."""
        if self.running.done() and not gone:
            raise Broken(f"the meter of {self.host.name} ended by itself: {self._said()}")

    def stop(self):
        if not self.running.done():
            self.running.signal(signal.SIGTERM)
        try:
            status = self.running.wait(STOP_S).status
        finally:
            self.kill()
        return f"the meter of {self.host.name}: status {status}: {self._said()}" if status else None

    def kill(self):
        self.running.stop()
        self.stream.close()
