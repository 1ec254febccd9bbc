"""Control characters in untrusted text, which would steer a terminal or turn the direction of writing."""

from __future__ import annotations

import re

# All control characters except tabs and line ends, and the marks that change the writing direction.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape_control_characters(text: str) -> str:
    r"""Replaces control characters by Python's notation, such as \x1b for an escape."""
    return CONTROL.sub(lambda match: repr(match.group())[1:-1], text)
