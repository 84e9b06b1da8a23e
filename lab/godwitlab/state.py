# SPDX-License-Identifier: Apache-2.0
"""Where labs are recorded, and how a dead one is cleared away.

Each lab has a folder under the state root, named like the lab, with `lab.json`, the hosts' console
logs and control sockets. Its keeper holds a lock (flock) on the folder for as long as it lives, so
"is this lab alive" is never a question about process ids. Folders appear and vanish only under a
lock on the root.
"""
import contextlib
import fcntl
import json
import os
import re
import shutil

from . import net
from .errors import LabError


def root():
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run", "godwit-lab")


def folder(name):
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise LabError(f"'{name}' is no name for a lab: use up to 32 of a-z, 0-9 and -")
    return os.path.join(root(), name)


@contextlib.contextmanager
def locked():
    """Holds the root's lock; makes the root, and removes it when it is left empty."""
    path = root()
    while True:
        os.makedirs(path, mode=0o700, exist_ok=True)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.fstat(fd).st_ino == os.stat(path).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(fd)            # removed while we waited for it
    try:
        yield
        with contextlib.suppress(OSError):
            os.rmdir(path)
    finally:
        os.close(fd)


def hold(path):
    """Takes the lock that says "this lab is alive", for the keeper; returns its descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)      # waits for those who look at it just now, no longer
    return fd


def await_end(path):
    """Returns when the lab's keeper has ended, or let go of its lock."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    os.close(fd)


def _alive(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, or two who look fool each other
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def write(path, record):
    new = os.path.join(path, "lab.json.new")
    with open(new, "w") as file:
        json.dump(record, file, indent=1)
    os.rename(new, os.path.join(path, "lab.json"))


def read(name):
    """The record of a living lab."""
    path = folder(name)
    try:
        with open(os.path.join(path, "lab.json")) as file:
            record = json.load(file)
        alive = _alive(path)
    except FileNotFoundError:
        raise LabError(f"there is no lab '{name}': start one with lab up --name {name}") from None
    if not alive:
        raise LabError(f"the lab '{name}' has died; lab down --name {name} clears it away")
    return record


def remove(path):
    """Ends what is left of a lab whose keeper is gone or asks for it. The caller holds locked()."""
    with contextlib.suppress(FileNotFoundError):
        with open(os.path.join(path, "lab.json")) as file:
            net.destroy(json.load(file)["netns"])
    shutil.rmtree(path, ignore_errors=True)


def sweep():
    """Clears away labs whose keeper died without doing so. The caller holds locked()."""
    for name in names():
        path = os.path.join(root(), name)
        if not _alive(path):
            remove(path)


def names():
    try:
        return sorted(os.listdir(root()))
    except FileNotFoundError:
        return []
