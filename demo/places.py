# SPDX-License-Identifier: Apache-2.0
"""Where the demonstration runs: lab/godwitlab/places.py has it."""
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))

from godwitlab.places import GUEST_ADDRESS, Lab, LabHost, Namespaces, stock_guests  # noqa: E402

__all__ = ["GUEST_ADDRESS", "HERE", "Lab", "LabHost", "Namespaces", "stock_guests"]
