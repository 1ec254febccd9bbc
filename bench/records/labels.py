"""The labels of cells: their axes, order, file names and filters (`regularizer=kl*|none,generator=mar`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from .. import registry
from ..store.user_paths import user_path

AXES = ("dataset", "tokenizer", "regularizer", "generator", "seed")


def is_real(labels: Mapping[str, str]) -> bool:
    """Whether the labels are those of the row of held-out images."""
    return labels["tokenizer"] == labels["regularizer"] == labels["generator"] == "real"


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that puts seed 10 after seed 9 and weight=0.5 after weight=0.01."""
    pieces = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(pieces) if p]


def without_name(reason: str, regularizer: str) -> str:
    """A cell's reason with "the regularizer" for its regularizer's name: that of other cells is the same."""
    if not regularizer:
        return reason
    return re.sub(rf"(?<!\w){re.escape(regularizer)}(?!\w)", "the regularizer", reason)


def slug(text: str, keep: str = "._=+-", fill: str = "_") -> str:
    """The text with `fill` for each run of characters other than ASCII letters, digits and those to keep."""
    return re.sub(f"[^A-Za-z0-9{re.escape(keep)}]+", fill, text)


def parse_filter(text: str | None, what: str = "--filter") -> dict[str, list[str]]:
    """Patterns by axis; a cell fits if each axis matches one of its patterns.

    Raises:
        ValueError: for a clause other than AXIS=PATTERN[|PATTERN], or an unknown axis; `what` is the option.
    """
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


def folder_and_filter(text: str) -> tuple[Path, str] | None:
    """The folder and the filter of `FOLDER` or `FOLDER:AXIS=PATTERN,…`; None if there is no such folder.

    A path may have colons, too.
    """
    ends = [len(text), *(i for i, sign in enumerate(text) if sign == ":")]
    end = next((i for i in ends if text[:i] and user_path(text[:i]).is_dir()), None)
    return None if end is None else (user_path(text[:end]), text[end + 1 :])


def matches(text: str, patterns: Sequence[str]) -> bool:
    """Whether a label or a name matches one of the patterns; brackets in a pattern are plain text."""
    return any(fnmatchcase(text, pattern.replace("[", "[[]")) for pattern in patterns)


def selects(accept: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> bool:
    """Whether a cell's labels pass a parsed filter; the row of real images is filtered by dataset alone."""
    if is_real(labels):
        accept = {axis: patterns for axis, patterns in accept.items() if axis == "dataset"}
    return all(matches(labels[axis], patterns) for axis, patterns in accept.items())


def options_in(label: str) -> dict[str, str]:
    """The options that a label names: {"weight": "0.01"} of `kl[weight=0.01]`."""
    inside = re.fullmatch(r"[^\[]*\[(.*)\]", label)
    pairs = (part.partition("=") for part in inside[1].split(",")) if inside else ()
    return {name.strip(): value.strip() for name, _, value in pairs}


def number_in(text: str) -> float | None:
    """The number that an option's text is; None if it is none."""
    return float(text) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE) else None
