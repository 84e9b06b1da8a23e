# SPDX-License-Identifier: Apache-2.0
"""The guest's own view: `godwit-agent observe` at its TCP port 7099. One word a connection, and the answer to
its end."""
import time

from .errors import Broken

PORT = 7099


class Observer:
    def __init__(self, place):
        self.place = place

    def _ask(self, word: bytes, limit: float) -> bytes:
        end = time.monotonic() + limit
        with self.place.client_socket() as sock:
            sock.settimeout(limit)
            try:
                sock.connect((self.place.guest_address, PORT))
                sock.sendall(word + b"\n")
                said = bytearray()
                while data := sock.recv(1 << 16):
                    said += data
                    sock.settimeout(max(0.1, end - time.monotonic()))
            except OSError as error:
                raise Broken(f"the guest's observer at port {PORT}: {error}") from None
        return bytes(said)

    def now(self) -> int:
        said = self._ask(b"now", 10)
        try:
            return int(said)
        except ValueError:
            raise Broken(f"the guest's observer says no time but {said[:80]!r}") from None

    def clock_csv(self) -> bytes:
        return self._ask(b"clock", 60)

    def work_csv(self) -> bytes:
        return self._ask(b"work", 60)
