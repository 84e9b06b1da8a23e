# SPDX-License-Identifier: Apache-2.0
"""What a person sees while it runs: on a terminal one line that changes, else plain lines, on standard error."""
import os
import shutil
import sys
import time

from .units import show_time

PLAIN_EVERY_S = 60


class Progress:
    def __init__(self, total, estimate, file=sys.stderr):
        self.total, self.estimate, self.file = total, estimate, file
        self.terminal = file.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.number, self.name, self.began, self.said = 0, "", 0.0, 0.0
        self.drawn = False

    def say(self, text):
        """A line that stays."""
        self._wipe()
        print(f"measure: {text}", file=self.file, flush=True)

    def cell(self, number, name):
        self.number, self.name, self.began, self.said = number, name, time.monotonic(), 0.0

    def step(self, what):
        """What is done now; called as often as one likes."""
        now = time.monotonic()
        left = max(0.0, self.estimate.left() - (now - self.began)) if self.number else self.estimate.total
        line = f"{self.number}/{self.total} {self.name}: {what}, {show_time(left)} left"
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.file.write(f"\r\033[K{line[:width]}")
            self.file.flush()
            self.drawn = True
        elif now - self.said >= PLAIN_EVERY_S or not self.said:
            self.said = now
            print(f"measure: {line}", file=self.file, flush=True)

    def _wipe(self):
        if self.drawn:
            self.file.write("\r\033[K")
            self.drawn = False

    close = _wipe
