# SPDX-License-Identifier: Apache-2.0
"""A place for tests: two runtime directories of this machine, whose monitors run on the fake hypervisor.

`godwit measure --hosts FILE` takes its class Place. There is no network and no guest that answers: the probes of a test
ask a server of the test's own. The environment says what to break, and when."""
import os
import socket

from godwitlab.places import Local


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Place(Local):
    @property
    def port(self):
        """Where the target receives: another one for each guest."""
        return self._port

    _port = free_port()
