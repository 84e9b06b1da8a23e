# SPDX-License-Identifier: Apache-2.0
"""What ends what: a mistake in what was asked for, one cell, or the whole run."""


class Wrong(Exception):
    """The experiment or the command line is not as it should be; nothing was begun."""


class Broken(Exception):
    """This repetition cannot be carried out: its load, a probe, a host or the guest failed. Others may be."""


class RunEnds(Exception):
    """Nothing more can be measured; what was kept so far stays."""
