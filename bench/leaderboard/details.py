"""Facts that a report adds to its scores: spread, unfinished cells, protocols and provenance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..records.labels import natural
from ..records.record import Record
from .rows import LABELS, Column, Row, first_seen, full_protocol, reason_line


class Unfinished(NamedTuple):
    """The seeds of one cell that failed, were skipped, or have no numbers of an evaluator, for one reason."""

    labels: tuple[str, ...]  # of the axes LABELS
    seeds: str
    status: str
    reason: str


def unfinished(records: Iterable[Record]) -> list[Unfinished]:
    """All cells that aren't done, and evaluators without numbers of cells that are."""
    seeds: dict[tuple[tuple[str, ...], str, str], list[str]] = {}
    for record in records:
        if record.status != "done":
            labels = tuple(record.cell[axis] for axis in LABELS)
            seeds.setdefault((labels, record.status, reason_line(record)), []).append(record.cell["seed"])
        for (labels, reason), names in _missing(record).items():
            seeds.setdefault((labels, f"no {', '.join(names)}", reason), []).append(record.cell["seed"])
    return [
        Unfinished(labels, ", ".join(dict.fromkeys(names)), status, reason)
        for (labels, status, reason), names in seeds.items()
    ]


def _missing(record: Record) -> dict[tuple[tuple[str, ...], str], list[str]]:
    """The evaluators and metrics that a record has no number of, by labels and reason."""
    found: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for name, why in record.missing.items():
        axes = LABELS if why["scope"] == "generator" else LABELS[:3]
        labels = tuple(record.cell[axis] if axis in axes else "" for axis in LABELS)
        found.setdefault((labels, why["reason"]), []).append(name)
    return found


def spread_note(rows: Iterable[Row]) -> str:
    """A sentence on the number after a ±, if there is one."""
    rows = list(rows)
    if not any(row.trained or row.scored("generator") for row in rows if not row.real):
        return "Nothing was trained, so no number has a spread over seeds."
    if all(row.seeds == 1 for row in rows):
        return "There is one seed, so no spread is known."
    return "Values are means ± standard deviations over seeds."


def protocols(columns: Sequence[Column]) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """{id: (metrics, the protocol)}."""
    by_id: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for column in columns:
        names, _ = by_id.setdefault(column.protocol, ([], full_protocol(column.entry)))
        names.append(column.name)
    return by_id


def provenance(records: Sequence[Record]) -> dict[str, list[str]]:
    """Each field with all its values: records may come from several machines and days; dates as a range."""
    seeds = sorted(dict.fromkeys(record.cell["seed"] for record in records), key=natural)
    fields = {"seeds": [", ".join(seeds)]}
    for name in first_seen(record.provenance for record in records):
        if name not in ("seed", "taught_by", "guided", "digest"):  # tables and analyses show what these say
            values = [r.provenance[name] for r in records if name in r.provenance]
            shown = [_part_versions(values)] if name == "parts" else map(compact, values)
            fields[name] = list(dict.fromkeys(shown))
    dates = fields.get("date", [])
    if len(dates) > 1:
        fields["date"] = [f"{min(dates)} to {max(dates)}"]
    return fields


def _part_versions(cells: Iterable[dict[str, int]]) -> str:
    """The versions of all cells' parts: "generator.mar 1, regularizer.repa 1 or 2"."""
    versions: dict[str, set[int]] = {}
    for parts in cells:
        for name, version in parts.items():
            versions.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' or '.join(map(str, sorted(versions[name])))}" for name in sorted(versions))


def compact(value: Any) -> str:
    """A protocol or a budget as one line; a checksum by its first twelve digits."""
    if isinstance(value, dict):
        return ", ".join(
            f"{k} ({compact(v)})" if isinstance(v, dict) else f"{k} {compact(v)}" for k, v in value.items()
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(compact, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1", str(value))
