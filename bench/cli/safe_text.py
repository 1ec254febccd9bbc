"""Escapes untrusted text for terminals."""

from __future__ import annotations

from typing import Any

from rich import text as rich

from ..options.control_characters import escape_control_characters as escape_control_characters


class Text(rich.Text):
    """rich's Text with escaped control characters."""

    def __init__(self, text: str = "", *style: Any, **more: Any) -> None:
        super().__init__(escape_control_characters(text), *style, **more)
