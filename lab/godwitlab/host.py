# SPDX-License-Identifier: Apache-2.0
"""Running commands in a host: the client side of labd (lab/labd/session.h has the protocol)."""
import collections
import contextlib
import os
import select
import socket
import struct
import threading
import time

from . import net
from .errors import LabError, LabTimeout

PORT = 7777
_FRAME = 1 << 16

Result = collections.namedtuple("Result", "status stdout stderr")
Result.__doc__ = "Exit status (128 + n after signal n, 127 if it cannot start); output as bytes."


def _frame(kind, data=b""):
    return kind + struct.pack("<I", len(data)) + data


class Session:
    """One command on its way. signal() and abandon() may be called from anywhere, also from a
    signal handler; the rest from one thread."""

    def __init__(self, netns, address, emulator, argv, *, detach=False, log=""):
        strings = [log, *argv]
        if any("\0" in s for s in strings):
            raise LabError("a command cannot hold a zero byte")
        request = bytes([detach]) + b"".join(os.fsencode(s) + b"\0" for s in strings)
        if len(request) > 1 << 17:
            raise LabError("the command is longer than 128 KiB; push a script instead")
        self.sock = net.socket_in(netns)
        self.sock.settimeout(10)
        try:
            self.sock.connect((address, PORT))
            # A host without power sends no reset: its emulator's end tells.
            self._host = os.pidfd_open(emulator)
        except OSError as err:
            self.sock.close()
            raise LabError(f"cannot reach the host at {address}: {err}") from None
        self.sock.settimeout(None)
        self.pid = None
        self._signals = collections.deque()
        self._wake, self._waker = socket.socketpair()
        self._received = bytearray()
        self._pending = memoryview(_frame(b"r", request))   # what the socket has not taken yet

    def signal(self, number):
        """Sends a signal to the command's process group, behind the input that is on its way."""
        self._signals.append(number)
        with contextlib.suppress(OSError):      # it has ended
            self._waker.send(b"!")

    def abandon(self):
        """Ends the command: its host sees us go, and stops its group. pump() then raises."""
        self.sock.shutdown(socket.SHUT_RDWR)

    def pump(self, on_out, on_err, *, input=None, timeout=None):
        """Moves bytes until the command ends; returns its status. `input`: a descriptor or None."""
        limit = None if timeout is None else time.monotonic() + timeout
        closed = False                  # whether the command's input has been
        try:
            while True:
                if not self._pending and self._signals:
                    self._pending = memoryview(_frame(b"s", bytes([self._signals.popleft()])))
                if not self._pending and input is None and not closed:
                    self._pending = memoryview(_frame(b"c"))
                    closed = True
                wait = None if limit is None else limit - time.monotonic()
                if wait is not None and wait <= 0:
                    raise LabTimeout(f"no end after {timeout} s; the command was stopped")
                reading = [self.sock, self._host, self._wake]
                if input is not None and not self._pending:
                    reading.append(input)
                writing = [self.sock] if self._pending else []
                readable, writable, _ = select.select(reading, writing, [], wait)
                if self.sock in readable:
                    status = self._take(on_out, on_err)
                    if status is not None:
                        return status
                elif self._host in readable:
                    raise LabError("the host died before the command ended")
                if self._wake in readable:
                    self._wake.recv(64)
                if writable:
                    self._pending = self._pending[self._try_send(self._pending):]
                elif input in readable:
                    data = os.read(input, _FRAME)
                    if data:
                        self._pending = memoryview(_frame(b"i", data))
                    else:
                        input = None
        finally:
            self._close()

    def _close(self):
        for end in self.sock, self._wake, self._waker:
            end.close()
        os.close(self._host)

    def _try_send(self, data):
        self.sock.setblocking(False)
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:             # its last words may still be there to be read
            return len(data)
        finally:
            self.sock.setblocking(True)

    def _take(self, on_out, on_err):
        try:
            data = self.sock.recv(1 << 18)
        except OSError as err:
            raise LabError(f"lost the host: {err}") from None
        if not data:
            raise LabError("the host went away before the command ended")
        received = self._received
        received += data
        while len(received) >= 5:
            size = struct.unpack_from("<I", received, 1)[0]
            if len(received) < 5 + size:
                break
            kind, body = received[0:1], bytes(received[5:5 + size])
            del received[:5 + size]
            if kind == b"o":
                on_out(body)
            elif kind == b"e":
                on_err(body)
            elif kind == b"p":
                self.pid = struct.unpack("<I", body)[0]
            elif kind == b"x":
                return struct.unpack("<I", body)[0]
        return None


class Running:
    """A command started by Host.start(), moving along in a thread."""

    def __init__(self, session, on_out, on_err):
        self.session = session
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._status = None
        self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True, args=(
            on_out or self.stdout.extend, on_err or self.stderr.extend))
        self._thread.start()

    def _run(self, on_out, on_err):
        try:
            self._status = self.session.pump(on_out, on_err)
        except (LabError, OSError, ValueError) as err:
            self._error = err

    def done(self):
        return not self._thread.is_alive()

    def signal(self, number):
        self.session.signal(number)

    def stop(self):
        """Ends it the hard way, if it has not ended."""
        with contextlib.suppress(OSError):
            self.session.abandon()
        self._thread.join()

    def wait(self, timeout=None):
        """The Result. LabTimeout when time is up; the command then goes on."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise LabTimeout(f"not ended after {timeout} s")
        if self._error:
            raise self._error if isinstance(self._error, LabError) else LabError(str(self._error))
        return Result(self._status, bytes(self.stdout), bytes(self.stderr))


class Host:
    def __init__(self, lab, name):
        self.lab = lab
        self.name = name

    @property
    def record(self):
        return self.lab.host_record(self.name)

    @property
    def address(self):
        """On the data network, where guests and the outside client are."""
        return self.record["address"]

    def session(self, argv, **kwargs):
        record = self.record
        if record["state"] != "up":
            raise LabError(f"host {self.name} is {record['state']}")
        return Session(self.lab.netns, record["mgmt"], record["pid"], argv, **kwargs)

    def run(self, argv, *, input=None, timeout=60, check=True):
        """Runs a command to its end. `input`: bytes, or a file that has a descriptor. With `check`,
        LabError unless it ends with status 0."""
        out, err = bytearray(), bytearray()
        session = self.session(argv)
        if isinstance(input, bytes):
            with open_bytes(input) as fd:
                status = session.pump(out.extend, err.extend, input=fd, timeout=timeout)
        else:
            fd = None if input is None else input.fileno()
            status = session.pump(out.extend, err.extend, input=fd, timeout=timeout)
        if check and status != 0:
            text = bytes(err).decode(errors="replace").strip()[-2000:]
            raise LabError(f"host {self.name}: {' '.join(argv)}: status {status}: {text}")
        return Result(status, bytes(out), bytes(err))

    def start(self, argv, *, on_out=None, on_err=None):
        """Starts a command that goes on beside us; it ends with us at the latest."""
        return Running(self.session(argv), on_out, on_err)

    def detach(self, argv, *, log=""):
        """Starts a command that outlives us; its output goes to the host's file `log`. Returns its
        process id, which is also that of its group."""
        session = self.session(argv, detach=True, log=log)
        err = bytearray()
        status = session.pump(err.extend, err.extend, timeout=10)
        if status != 0:
            raise LabError(f"host {self.name}: {bytes(err).decode(errors='replace').strip()}")
        return session.pid

    def push(self, local, remote, *, timeout=300):
        """Copies a file in, with its mode; whole or not at all."""
        script = 'cat >"$1.part" && chmod "$2" "$1.part" && mv -T "$1.part" "$1"'
        with open(local, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            self.run(["sh", "-c", script, "push", remote, f"{mode:o}"], input=file, timeout=timeout)

    def pull(self, remote, local, *, timeout=300):
        """Copies a file out; whole or not at all."""
        part = f"{local}.part"
        err = bytearray()
        try:
            with open(part, "wb") as file:
                session = self.session(["cat", "--", remote])
                status = session.pump(file.write, err.extend, timeout=timeout)
            if status != 0:
                raise LabError(f"host {self.name}: {bytes(err).decode(errors='replace').strip()}")
            os.rename(part, local)
        finally:
            if os.path.exists(part):
                os.unlink(part)


class open_bytes:
    """Some bytes as a descriptor to read them from."""

    def __init__(self, data):
        self.fd = os.memfd_create("input")
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view):]
        os.lseek(self.fd, 0, os.SEEK_SET)

    def __enter__(self):
        return self.fd

    def __exit__(self, *_):
        os.close(self.fd)
