"""A matrix from a Python mapping, whose problems name keys (`regularizers.kl.weight`) in place of lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..options.words import shown
from .yaml_text import CONTROL, LARGEST, MAX_DEPTH, Document, MatrixError, Problem

if TYPE_CHECKING:
    from ..options.options import Trail

UNNAMED = "matrix"  # the name of a mapping without one, and the place of problems of the whole


@dataclass(frozen=True)
class MappingDocument(Document):
    """Plain data from Python; `trails` has the place of every key, which in a chosen profile is another."""

    trails: dict[Trail, Trail] = field(default_factory=dict)

    def problem(self, trail: Trail, message: str, on_key: bool = False) -> Problem:
        """A problem at a key; if the document lacks the trail, at the nearest key above."""
        while trail and trail not in self.trails:
            trail = trail[:-1]
        return Problem(key_path(self.trails.get(trail, ())), 0, 0, message)

    def with_profile(self, profile: str, data: dict[str, Any]) -> Document:
        prefix = ("profiles", profile)
        moved = {trail[2:]: at for trail, at in self.trails.items() if trail[:2] == prefix and trail[2:]}
        return replace(self, data=data, trails=self.trails | moved)


def mapping_document(matrix: Mapping[str, Any]) -> MappingDocument:
    """The plain data of a mapping: tuples become lists, numpy's scalars numbers, paths text.

    Raises:
        MatrixError: with every key that is no text, and every value that a YAML file couldn't hold.
    """
    reader = _Reader()
    data = reader.mapping(matrix, ())
    if reader.problems:
        raise MatrixError(reader.problems)
    return MappingDocument(UNNAMED, data, {}, {}, (), reader.trails)


def key_path(trail: Trail) -> str:
    """The keys of a trail in one text: `dataset[0].count.train`."""
    text = ""
    for key in trail:
        if isinstance(key, int):
            text += f"[{key}]"
        elif re.fullmatch(r"[\w-]+", key):
            text += f".{key}" if text else key
        else:
            text += f"[{key!r}]"
    return text or UNNAMED


class _Reader:
    """Copies data, and collects the trails of its keys and all that a matrix may not contain."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.trails: dict[Trail, Trail] = {}

    def refuse(self, trail: Trail, message: str) -> None:
        self.problems.append(Problem(key_path(trail), 0, 0, message))

    def value(self, value: Any, trail: Trail) -> Any:
        self.trails[trail] = trail
        if len(trail) > MAX_DEPTH:  # also of a mapping that contains itself
            self.refuse(trail, f"nested deeper than {MAX_DEPTH} levels")
            return None
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Mapping):
            return self.mapping(value, trail)
        if isinstance(value, list | tuple):
            return [self.value(item, (*trail, i)) for i, item in enumerate(value)]
        if isinstance(value, PurePath):
            return str(value)
        if type(value) is int and abs(value) >= LARGEST:
            self.refuse(trail, "an integer beyond 2**63 is too large")
        elif isinstance(value, str) and (control := CONTROL.search(value)):
            self.refuse(trail, f"the control character U+{ord(control.group()):04X} does not belong in text")
        elif not isinstance(value, str | bool | int | float | None):
            self.refuse(trail, f"{shown(value)} is no plain data, but a value of type {type(value).__name__}")
        return value

    def mapping(self, mapping: Mapping[Any, Any], trail: Trail) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in mapping.items():
            if isinstance(key, str):
                items[key] = self.value(value, (*trail, key))
            else:
                self.refuse(trail, f"the key {shown(key)} is of type {type(key).__name__}; a key is text")
        return items
