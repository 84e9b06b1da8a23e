# SPDX-License-Identifier: Apache-2.0
"""report/raw/: written as data comes, so that a run that ends early keeps what it has (docs/measure.md).

A disk that is full, or gone, ends the run: whoever writes gets RunEnds. Threads that write cannot raise it where it
would be seen; they keep it for check()."""
import errno
import json
import os
import shutil
import threading

from .errors import RunEnds, Wrong

FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def _fatal(path, error):
    return RunEnds(f"{path}: {error.strerror}")


class Stream:
    """A file that grows while something runs. write() may be called from any thread, and never raises."""

    def __init__(self, raw, path):
        self.raw, self.path, self.lock = raw, path, threading.Lock()
        try:
            self.file = open(path, "wb", buffering=0)
        except OSError as error:
            raise _fatal(path, error) from None

    def write(self, data: bytes):
        with self.lock:
            if self.file and not self.raw.failure:
                try:
                    view = memoryview(data)
                    while view:
                        view = view[self.file.write(view):]
                except OSError as error:
                    self.raw.failure = _fatal(self.path, error)

    def close(self):
        with self.lock:
            if self.file:
                self.file.close()
                self.file = None


class Raw:
    def __init__(self, out, force):
        self.out, self.folder = out, os.path.join(out, "raw")
        self.failure = None         # what a thread met
        try:
            if os.path.exists(self.folder):
                if not force:
                    raise Wrong(f"{self.folder} is there already: --force replaces it, -o DIR takes another")
                shutil.rmtree(self.folder)
            os.makedirs(os.path.join(self.folder, "cells"))
        except OSError as error:
            raise Wrong(f"{error.filename or self.folder}: {error.strerror}") from None

    def check(self):
        """Raises what a thread could not."""
        if self.failure:
            raise self.failure

    def put(self, path, data: bytes):
        """A whole file, or none."""
        part = f"{path}.part"
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, path)
        except OSError as error:
            try:
                os.unlink(part)
            except OSError:
                pass
            raise _fatal(path, error) from None

    def put_json(self, path, value):
        self.put(path, (json.dumps(value, indent=1) + "\n").encode())

    def top(self, name, value):
        self.put_json(os.path.join(self.folder, name), value)

    def cell(self, number):
        return CellFolder(self, number)

    def room(self):
        """Bytes that may still be written."""
        facts = os.statvfs(self.folder)
        return facts.f_bavail * facts.f_frsize


class CellFolder:
    def __init__(self, raw, number):
        self.raw, self.path = raw, os.path.join(raw.folder, "cells", f"{number:03}")
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise _fatal(self.path, error) from None

    def file(self, name):
        return os.path.join(self.path, name)

    def stream(self, name):
        return Stream(self.raw, self.file(name))

    def put(self, name, data: bytes):
        self.raw.put(self.file(name), data)

    def put_json(self, name, value):
        self.raw.put_json(self.file(name), value)
