# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as types."""


class LabError(Exception):
    """The text says what failed and, where known, what to do."""


class LabTimeout(LabError):
    """A time limit passed; whatever was under way has been stopped."""
