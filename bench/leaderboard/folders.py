"""Results folders that are read together: one record for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..options.words import listed
from ..records.files import RecordError
from ..records.record import Record, comparable, in_order
from .rows import full_protocol


@dataclass(frozen=True)
class ResultsFolder:
    """A results folder: its records, and the resolved matrices that made them, by file name."""

    folder: Path
    records: list[Record]
    matrices: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.folder)


RANKS = {"done": 0, "failed": 1, "skipped": 2}  # of two records of a cell the first says more


class MergeError(RecordError):
    """Folders that do not go together; the message lists everything that differs, and what to do."""


def one_each(sources: Sequence[ResultsFolder], prefer: Sequence[Path] = ()) -> tuple[list[Record], list[str]]:
    """One record of each cell, in the order of cells, and what is to be said of cells that had several.

    Equal numbers count once; a cell that is done somewhere is done. The record that stays depends on no
    order of the folders, unless one is preferred.

    Raises:
        MergeError: with all cells that have different numbers.
    """
    cells: dict[tuple[str, ...], list[tuple[Path, Record]]] = {}
    for one in sources:
        for record in one.records:
            cells.setdefault(tuple(record.cell.values()), []).append((one.folder, record))
    chosen: list[Record] = []
    notes: list[str] = []
    contradictions: list[str] = []
    outdone: dict[str, list[str]] = {}
    for cell, mine in cells.items():
        best = min(RANKS[record.status] for _, record in mine)
        rivals = [(folder, record) for folder, record in mine if RANKS[record.status] == best]
        others = [(folder, record) for folder, record in mine if RANKS[record.status] > best]
        name = "/".join(cell)
        for folder, record in others:
            said = f"{rivals[0][1].status} in {rivals[0][0]}, which counts, and {record.status} in {folder}"
            outdone.setdefault(said, []).append(name)
        first = next((r for wanted in prefer for folder, r in rivals if folder == wanted), None)
        folder, known = rivals[0]
        other = next((each for each in rivals if _numbers(each[1]) != _numbers(known)), None)
        if known.status == "done" and other is not None:
            said = f"{folder} and {other[0]} have different numbers for the cell {name}: "
            said += _gaps(known, other[1])
            (contradictions if first is None else notes).append(said)
        chosen.append(first or min((record for _, record in rivals), key=_order))
    if contradictions:
        advice = "a cell has one set of numbers: leave a folder out, or merge with --prefer FOLDER"
        raise MergeError("\n".join([*contradictions, advice]))
    return in_order(chosen), [*notes, *(f"{said}: {listed(cells)}" for said, cells in outdone.items())]


def _numbers(record: Record) -> dict[str, Any]:
    """What two runs of a cell agree on; the key says under which settings, which `differences` is about."""
    return {name: value for name, value in comparable(record).items() if name != "key"}


def _order(record: Record) -> tuple[int, str]:
    return -len(record.metrics), record.to_json()


def _gaps(a: Record, b: Record, most: int = 5) -> str:
    """The metrics that differ, the furthest apart first."""
    gaps: list[tuple[float, str]] = []
    for name in a.metrics.keys() & b.metrics.keys():
        one, two = a.metrics[name], b.metrics[name]
        if full_protocol(one) != full_protocol(two):
            gaps.append((float("inf"), f"{name} (another protocol)"))
        elif one["value"] != two["value"]:
            if None in (one["value"], two["value"]):
                gaps.append((float("inf"), f"{name} {one['value']} and {two['value']}"))
                continue
            size = max(abs(one["value"]), abs(two["value"]))
            relative = abs(one["value"] - two["value"]) / size
            gaps.append(
                (relative, f"{name} {one['value']:.6g} and {two['value']:.6g} ({relative:.2g} of it)")
            )
        elif one != two:
            gaps.append((0.0, f"{name} (its replicates or classes)"))
    for mine, other, which in ((a, b, "first"), (b, a, "second")):
        gaps += [(0.0, f"{name} in the {which} alone") for name in mine.metrics.keys() - other.metrics.keys()]
    if a.curves != b.curves:
        gaps.append((0.0, "curves"))
    gaps.sort(key=lambda gap: (-gap[0], gap[1]))
    more = f" and {len(gaps) - most} more" if len(gaps) > most else ""
    return ", ".join(text for _, text in gaps[:most]) + more
