"""Results folders that are read together: one record for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from ..options.words import listed
from ..records.files import RecordError
from ..records.record import STATUSES, Record, comparable, in_order
from .rows import full_protocol

MOST = 5  # differing metrics that a message names


@dataclass(frozen=True)
class ResultsFolder:
    """A results folder: its records, and the resolved matrices that made them, by file name."""

    folder: Path
    records: list[Record]
    matrices: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.folder)


class MergeError(RecordError):
    """Folders that contradict each other; the message lists all differences, and what to do."""


def one_each(sources: Sequence[ResultsFolder], prefer: Sequence[Path] = ()) -> tuple[list[Record], list[str]]:
    """One record of each cell, in the order of cells, and notes on cells with several different records.

    Equal numbers count once; a cell that is done in some folder is done. Which record is kept doesn't depend
    on the order of the folders, unless one is preferred.

    Raises:
        MergeError: with all cells that have different numbers.
    """
    cells: dict[tuple[str, ...], list[tuple[Path, Record]]] = {}
    for source in sources:
        for record in source.records:
            cells.setdefault(tuple(record.cell.values()), []).append((source.folder, record))
    chosen: list[Record] = []
    notes: list[str] = []
    contradictions: list[str] = []
    ignored: dict[str, list[str]] = {}  # cells by the note on their records with a lesser status
    for labels, candidates in cells.items():
        name = "/".join(labels)
        status = min((record.status for _, record in candidates), key=STATUSES.index)
        rivals = [(folder, record) for folder, record in candidates if record.status == status]
        folder, known = rivals[0]
        for other, record in candidates:
            if record.status != status:
                note = f"{status} in {folder}, which counts, and {record.status} in {other}"
                ignored.setdefault(note, []).append(name)
        preferred = next((r for wanted in prefer for folder, r in rivals if folder == wanted), None)
        different = next((rival for rival in rivals if _numbers(rival[1]) != _numbers(known)), None)
        if status == "done" and different is not None:
            note = f"{folder} and {different[0]} have different numbers for the cell {name}: "
            note += _gaps(known, different[1])
            (contradictions if preferred is None else notes).append(note)
        chosen.append(preferred or min((record for _, record in rivals), key=_order))
    if contradictions:
        advice = "a cell has one set of numbers: leave a folder out, or merge with --prefer FOLDER"
        raise MergeError("\n".join([*contradictions, advice]))
    return in_order(chosen), [*notes, *(f"{note}: {listed(names)}" for note, names in ignored.items())]


def _numbers(record: Record) -> dict[str, Any]:
    """The fields that two runs of a cell agree on, but for the key, which stands for settings."""
    return {name: value for name, value in comparable(record).items() if name != "key"}


def _order(record: Record) -> tuple[int, str]:
    return -len(record.metrics), record.to_json()


def _gaps(a: Record, b: Record) -> str:
    """The metrics that differ, the furthest apart first."""
    gaps = [_gap(name, a.metrics[name], b.metrics[name]) for name in a.metrics.keys() & b.metrics.keys()]
    gaps += [(0.0, f"{name} in the first alone") for name in a.metrics.keys() - b.metrics.keys()]
    gaps += [(0.0, f"{name} in the second alone") for name in b.metrics.keys() - a.metrics.keys()]
    if a.curves != b.curves:
        gaps.append((0.0, "curves"))
    texts = [text for _, text in sorted(gaps, key=lambda gap: (-gap[0], gap[1])) if text]
    return listed(texts, MOST)


def _gap(name: str, a: dict[str, Any], b: dict[str, Any]) -> tuple[float, str]:
    """The relative difference of two entries of a metric, and its text; empty if there is none."""
    x, y = a["value"], b["value"]
    if full_protocol(a) != full_protocol(b):
        return inf, f"{name} (another protocol)"
    if x == y:
        return 0.0, f"{name} (its replicates or classes)" if a != b else ""
    if None in (x, y):
        return inf, f"{name} {x} and {y}"
    relative = abs(x - y) / max(abs(x), abs(y))
    return relative, f"{name} {x:.6g} and {y:.6g} ({relative:.2g} of it)"
