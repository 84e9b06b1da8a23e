"""Files that are written whole or not at all."""

import os
import tempfile


def write_text(path, text):
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="replace", dir=os.path.dirname(path) or ".",
                                     delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
