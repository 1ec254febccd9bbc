"""Text that others wrote, made so that neither a terminal nor a spreadsheet acts on it."""

from __future__ import annotations

import re
from typing import Any

from rich import text as rich

# All but tabs and line ends, and the marks that turn the direction of writing.
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape_control_characters(text: str) -> str:
    r"""Control characters as Python writes them: an escape is the four characters \x1b."""
    return ACTING.sub(lambda found: repr(found.group())[1:-1], text)


class Text(rich.Text):
    """rich's, of visible text."""

    def __init__(self, text: str = "", *style: Any, **more: Any) -> None:
        super().__init__(escape_control_characters(text), *style, **more)
