# SPDX-License-Identifier: Apache-2.0
"""^C and its like end the run, but not the cleaning up: what comes while that lasts waits for its end."""
import contextlib
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    depth, pending = 0, None


def _arrived(number, _):
    if _State.depth:
        _State.pending = number
        return
    for other in SIGNALS:       # the first one is enough
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def install():
    for number in SIGNALS:
        signal.signal(number, _arrived)


@contextlib.contextmanager
def held():
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if not _State.depth and _State.pending:
            number, _State.pending = _State.pending, None
            _arrived(number, None)
