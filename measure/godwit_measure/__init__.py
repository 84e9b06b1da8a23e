# SPDX-License-Identifier: Apache-2.0
"""Measures what a move costs. docs/measure.md says what is done and kept; command.py is where it begins."""
