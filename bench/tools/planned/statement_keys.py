"""Problems of a statement's keys and labels in a YAML file."""

from __future__ import annotations

from typing import Any

from ...matrix.yaml_text import Document, Problem
from ...options.words import shown
from ...registry import unknown

Trail = tuple[str | int, ...]


def key_problems(
    document: Document, statement: Any, trail: Trail, what: str, known: list[str], example: str
) -> list[Problem]:
    """The problems of a mapping that must have all known keys and no others; `what` is "a claim"."""
    if not isinstance(statement, dict):
        return [document.problem(trail, f"{what} is a mapping such as `{example}`, not {shown(statement)}")]
    odd = [
        document.problem((*trail, key), unknown(f"key of {what}", key, known), True)
        for key in statement
        if key not in known
    ]
    return odd + [document.problem(trail, f"{what} needs {key!r}") for key in known if key not in statement]


def text_problems(
    document: Document, statement: dict[str, Any], trail: Trail, keys: tuple[str, ...]
) -> list[Problem]:
    """The problems of values that must be text."""
    return [
        document.problem((*trail, key), f"{key} must be text, not {shown(statement[key])}")
        for key in keys
        if key in statement and not isinstance(statement[key], str)
    ]


def label_problems(
    document: Document, labels: Any, trail: Trail, axes: tuple[str, ...], about: str
) -> list[Problem]:
    """The problems of patterns of labels by their axes; `results` is a folder.

    Args:
        about: what the labels should be, for those that are no mapping of texts.
    """
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        return [document.problem(trail, about)]
    known = ["results", *axes]
    return [
        document.problem((*trail, key), unknown("label", key, known), True)
        for key in labels
        if key not in known
    ]
