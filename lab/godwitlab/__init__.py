# SPDX-License-Identifier: Apache-2.0
"""Emulated hosts for tests and teaching.

    with Lab.up(hosts=2) as lab:
        lab["a"].push("build/src/cmd/godwit", "/usr/local/bin/godwit")
        print(lab["a"].run(["uname", "-r"]).stdout)
        lab.client(["ping", "-c", "1", lab["b"].address])

A lab started so ends with its process, however that ends; Lab.attach() joins one that the command
`lab up` left running. See lab/README.md.
"""
from .errors import LabError, LabTimeout
from .host import Host, Result
from .lab import Lab

__all__ = ["Host", "Lab", "LabError", "LabTimeout", "Result"]
