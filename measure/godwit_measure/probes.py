# SPDX-License-Identifier: Apache-2.0
"""The probes of a load: godwit-probe, as the outside client, one process each."""
import os
import signal
import subprocess
import tempfile

from .errors import Broken
from .experiment import PROBE_PORTS

STOP_S = 15
WORDS = ("rate", "connections", "timeout", "path", "mix", "body", "expect", "size", "key", "keys", "value", "bandwidth")


def argv(program, spec, address, folder):
    """The command line of a probe."""
    port = spec.get("port", PROBE_PORTS[spec["kind"]])
    target = f"{address}:{port}" if port else address
    words = [program, spec["kind"], target]
    words += [f"--{word}={spec[word]}" for word in WORDS if word in spec]
    return [*words, "--priority", f"--out={folder.file('probe-' + spec['name'] + '.csv')}",
            f"--facts={folder.file('probe-' + spec['name'] + '.json')}"]


class Probe:
    def __init__(self, name, words):
        self.name, self.errors = name, tempfile.TemporaryFile()
        # Not of our process group: a ^C at the terminal is for us to act on.
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors,
                                        process_group=0)

    def _said(self):
        self.errors.seek(0)
        lines = self.errors.read(4096).decode(errors="replace").strip().split("\n")
        return lines[-1]

    def check(self):
        status = self.process.poll()
        if status is not None:
            raise Broken(f"probe {self.name} ended by itself, status {status}: {self._said()}")

    def stop(self):
        """Returns why what it wrote may be incomplete, or None."""
        status = self.process.poll()
        if status is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                status = self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
                return f"probe {self.name} did not end within {STOP_S} s"
        return f"probe {self.name}: status {status}: {self._said()}" if status else None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.errors.close()


class Probes:
    def __init__(self, place, program, load, folder):
        self.running = []
        try:
            for spec in load["probes"]:
                words = place.client_argv(argv(program, spec, place.guest_address, folder))
                self.running.append(Probe(spec["name"], words))
        except OSError as error:
            self.kill()
            raise Broken(f"a probe cannot be started: {error}") from None

    def check(self):
        for probe in self.running:
            probe.check()

    def stop(self):
        return [problem for probe in self.running if (problem := probe.stop())]

    def kill(self):
        for probe in self.running:
            probe.kill()


def find(godwit, name):
    """A program of godwit's beside it: where it is installed, or in the build tree."""
    folder = os.path.dirname(os.path.realpath(godwit))
    for path in (os.path.join(folder, name),
                 os.path.normpath(os.path.join(folder, "..", "..", "measure", name.removeprefix("godwit-"), name))):
        if os.access(path, os.X_OK):
            return path
    return None
