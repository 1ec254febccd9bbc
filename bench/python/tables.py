"""Small tables of text as HTML, for a notebook's output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(table: Sequence[Sequence[str]], head: str = "", notes: Iterable[str] = ()) -> str:
    """A table whose first row is its header, below a line and above notes; all text is escaped."""
    lines = [f"<div>{escape(head)}</div>"] if head else []
    if table:
        header = "".join(f"<th>{escape(text)}</th>" for text in table[0])
        rows = ["".join(f"<td>{escape(text)}</td>" for text in row) for row in table[1:]]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        lines.append(f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>")
    return "\n".join([*lines, *(f"<div><small>{escape(note)}</small></div>" for note in notes)])
