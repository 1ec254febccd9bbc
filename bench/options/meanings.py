"""Meanings of options: the `Args:` in the docstrings of the constructors that take them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

ENTRY = re.compile(r"(\w+(?:, \w+)*): +(.*)")  # `name: meaning`, or `name, other: meaning`


@cache
def meanings_of(target: Callable[..., Any], method: str = "") -> dict[str, str]:
    """The meaning of each option of a part, of any callable, or of a method's arguments.

    A class's own docstrings come before those of its bases, and a constructor's before the class's.
    """
    found: dict[str, str] = {}
    for doc in _docstrings(target, method):
        for name, meaning in split_docstring(doc)[1].items():
            found.setdefault(name, meaning)
    return found


def prose_of(target: type) -> str:
    """The docstrings of a class and of its constructor without the list of arguments."""
    docs = (vars(target).get("__doc__"), getattr(vars(target).get("__init__"), "__doc__", None))
    return "\n\n".join(prose for prose in (split_docstring(doc or "")[0] for doc in docs) if prose)


def split_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """A docstring's text without its `Args:`, and the meaning of each argument in one line."""
    prose: list[str] = []
    entries: dict[tuple[str, ...], list[str]] = {}
    inside, names = False, ()
    for line in inspect.cleandoc(doc).splitlines():
        if line == "Args:":
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
        if not inside:
            prose.append(line)
        elif (entry := ENTRY.fullmatch(line[4:])) and line.startswith("    "):
            names = tuple(entry[1].split(", "))
            entries[names] = [entry[2]]
        elif names:
            entries[names].append(line.strip())
    meanings = {name: " ".join(lines).strip() for names, lines in entries.items() for name in names}
    return "\n".join(prose).strip(), meanings


def _docstrings(target: Callable[..., Any], method: str) -> Iterator[str]:
    if not isinstance(target, type):
        yield target.__doc__ or ""
        return
    for base in target.__mro__:
        if base is object:
            return
        yield getattr(vars(base).get(method or "__init__"), "__doc__", None) or ""
        if not method:
            yield vars(base).get("__doc__") or ""
