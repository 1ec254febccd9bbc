"""Which cells are meant: `regularizer=kl*|none,generator=mar`, of a filter or of one side of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from .. import registry

AXES = ("dataset", "tokenizer", "regularizer", "generator", "seed")


def parse_filter(text: str | None, what: str = "--filter") -> dict[str, list[str]]:
    """Patterns by axis; all axes must match, any pattern of one."""
    accept: dict[str, list[str]] = {}
    for clause in (text or "").split(","):
        if not clause.strip():
            continue
        axis, sign, patterns = clause.strip().partition("=")
        if not sign or not patterns:
            raise ValueError(f"{what} takes AXIS=PATTERN[|PATTERN][,AXIS=…], not {clause!r}")
        if axis not in AXES:
            raise ValueError(registry.unknown(f"axis in {what}", axis, list(AXES)))
        accept.setdefault(axis, []).extend(patterns.split("|"))
    return accept


def matches(text: str, patterns: Sequence[str]) -> bool:
    """Whether a label or a name fits one of the patterns; its brackets are no character classes."""
    return any(fnmatchcase(text, pattern.replace("[", "[[]")) for pattern in patterns)


def selects(accept: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> bool:
    """Whether a cell's labels pass a parsed filter; the row of real images has only its dataset to fit."""
    if labels["tokenizer"] == labels["regularizer"] == labels["generator"] == "real":
        accept = {axis: patterns for axis, patterns in accept.items() if axis == "dataset"}
    return all(matches(labels[axis], patterns) for axis, patterns in accept.items())
