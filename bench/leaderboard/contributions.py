"""Results of several groups side by side: each contribution's rows stay its own, with who made them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..options.control_characters import escape_control_characters
from ..records.archive import submission_of
from ..records.files import RecordError, read_records
from ..records.record import Record
from .results import Results
from .rows import LABELS, Row

LONGEST = 200  # characters of a text from a stranger
ODD = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, StopIteration)


@dataclass(frozen=True)
class Contribution:
    """A results folder or an archive of one: its name, who sent it, and its results."""

    name: str
    contributor: str  # empty where nobody is named
    results: Results


@dataclass(frozen=True)
class MadeBy:
    """The making of a row, as its records say; texts are empty where they say nothing."""

    date: str  # `2026-01-01`, or a range
    commit: str  # seven digits; of several `1234567, 89abcde`
    dirty: bool
    budget: str
    parameters: float | None  # of the tokenizer, in millions
    latent: str  # `16 tokens × 4`


def read_contributions(folders: Sequence[Path], names: Sequence[str]) -> list[Contribution]:
    """The contributions of results folders, by the names that they are to have.

    Raises:
        RecordError: a folder has no records, or some that no table can be made of.
    """
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def made_by(contribution: Contribution, row: Row) -> MadeBy:
    """How the records of a row were made."""
    records = [
        record
        for record in contribution.results.records
        if all(record.cell[axis] == getattr(row, axis) for axis in LABELS)
    ]
    facts = [record.provenance for record in records]
    dates = sorted({plain_text(one["date"]) for one in facts if one.get("date")})
    commits = sorted({plain_text(one["git_commit"])[:7] for one in facts if one.get("git_commit")})
    budgets = {plain_text(_budget(one.get("budget"))) for one in facts}
    latents = {plain_text(_latent(one.get("latent"))) for one in facts}
    return MadeBy(
        date=dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "",
        commit=", ".join(commits),
        dirty=any(one.get("git_dirty") for one in facts),
        budget="; ".join(sorted(budgets - {""})),
        parameters=row.cost.get("tokenizer_parameters_million"),
        latent=", ".join(sorted(latents - {""})),
    )


def plain_text(value: Any) -> str:
    """The text of a stranger's value: one line without control characters, of at most `LONGEST`."""
    text = escape_control_characters(" ".join(str(value).split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _read(folder: Path, name: str) -> Contribution:
    records = read_records(folder / "records")
    if not records:
        raise RecordError(f"no records in {folder / 'records'}")
    for record in records:
        for metric, entry in record.metrics.items():
            numbers = [entry["n"], entry["value"], *(entry.get("replicates") or ())]
            _check_numbers(f"{name}: {record.filename}: {metric}", numbers)
        _check_numbers(f"{name}: {record.filename}: cost", record.cost.values())
    try:
        results = Results.of([_with_plain_labels(record) for record in records])
        for of_dataset in results.datasets.values():
            assert of_dataset.generation.guidance is not None and of_dataset.reconstruction.few is not None
    except ODD as error:
        raise RecordError(f"{name}: no table can be made of its records: {error!r}") from error
    contributor = plain_text(submission_of(folder).get("contributor") or "")
    return Contribution(plain_text(name), contributor, results)


def _check_numbers(where: str, values: Iterable[Any]) -> None:
    for value in values:
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordError(f"{where}: {plain_text(value)!r} is no number")
        if abs(value) > 1e300 or not math.isfinite(value):
            raise RecordError(f"{where}: a number is too large")


def _with_plain_labels(record: Record) -> Record:
    cell = {axis: plain_text(label) for axis, label in record.cell.items()}
    if cell == record.cell:
        return record
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return Record(**{**fields, "cell": cell})


def _budget(budget: Any) -> str:
    """`tokenizer 400 steps, generator 700 steps, batches of 64`."""
    if not isinstance(budget, dict):
        return ""
    names = {"tokenizer_steps": "tokenizer", "generator_steps": "generator"}
    parts = [f"{word} {budget[key]} steps" for key, word in names.items() if key in budget]
    return ", ".join([*parts, *([f"batches of {budget['batch']}"] if "batch" in budget else [])])


def _latent(latent: Any) -> str:
    """`16 tokens × 4` of {"tokens": 16, "channels": 4}."""
    if not isinstance(latent, dict) or latent.keys() != {"tokens", "channels"}:
        return ""
    return f"{latent['tokens']} tokens × {latent['channels']}"
