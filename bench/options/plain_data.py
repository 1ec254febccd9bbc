"""Values as the plain data of JSON, from which cache keys are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """A value as JSON stores it: mappings as dicts, sequences and sorted sets as lists, paths as text.

    Raises:
        TypeError: for any other type, whose text could differ from run to run.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=repr)
    raise TypeError(
        f"{value!r} of type {type(value).__name__} cannot be part of a cache key; "
        "numbers, text, paths, lists, sets and mappings can"
    )
