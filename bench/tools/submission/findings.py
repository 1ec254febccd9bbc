"""Findings on a results folder that somebody wants to submit, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...options.words import listed

FILES = 3  # that a finding names; the others are counted


@dataclass(frozen=True)
class Finding:
    """A finding of a check: where it is, what is wrong, and what to do.

    `refuses` says whether the folder is refused; other findings are only told.
    """

    where: tuple[str, ...]  # files in the folder
    what: str
    advice: str
    refuses: bool = True

    def __str__(self) -> str:
        return f"{listed(self.where, FILES)}: {self.what}\n  → {self.advice}"


def joined(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, with one for all files of which the same is said."""
    files: dict[tuple[str, str, bool], list[str]] = {}
    for found in findings:
        named = files.setdefault((found.what, found.advice, found.refuses), [])
        named += [name for name in found.where if name not in named]
    return [Finding(tuple(names), what, advice, refuses) for (what, advice, refuses), names in files.items()]


def refusals(findings: Sequence[Finding]) -> list[Finding]:
    """The findings for which a folder is refused."""
    return [found for found in findings if found.refuses]
