"""Records of several machines or groups become one results folder, if nothing that matters differs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .differences import HARMLESS, Source, apart, beside, differences, refusal, some
from .records import Record, RecordError, comparable, in_order, read, replace_text
from .records import write as write_record
from .rows import full_protocol
from .source import MatrixError, parse
from .source import read as read_text
from .union import resolved, union, unique, without

RANKS = {"done": 0, "failed": 1, "skipped": 2}  # of two records of a cell the first says more
LOCK = "matrix.lock*.yaml"


class MergeError(RecordError):
    """Folders that do not go together; the message lists everything that differs, and what to do."""


@dataclass(frozen=True)
class Merged:
    """What a merge has written, and what its reader should know."""

    records: list[Record]
    written: list[Path]
    notes: list[str]


def merge(
    folders: Sequence[str | Path],
    out: str | Path,
    allow: Iterable[str] = (),
    prefer: Sequence[str | Path] = (),
) -> Merged:
    """Joins results folders in `out`, with ranks and intervals made anew from the stored replicates.

    Args:
        allow: aspects of `HARMLESS` that may differ.
        prefer: of `folders`, those whose records of a cell win over others with different numbers, in order.

    Raises:
        MergeError: with all that differs; nothing has been written.
    """
    from .leaderboard import write

    allowed, out = set(allow), Path(out)
    for aspect in allowed.difference(HARMLESS):
        raise MergeError(f"--allow takes {', '.join(HARMLESS)}, not {aspect!r}")
    for strange in set(map(Path, prefer)).difference(map(Path, folders)):
        raise MergeError(f"--prefer takes one of the merged folders, not {strange}")
    sources = [source(Path(folder)) for folder in folders]
    found = [each for each in differences(sources) if each.aspect not in allowed]
    if found:
        raise MergeError(refusal(found))
    records, notes = one_each(sources, [Path(each) for each in prefer])
    _check_out(out, sources, records)
    for record in records:
        write_record(out / "records", record)
    _pictures(sources, out, [Path(each) for each in prefer])
    kept = _matrices(sources, records, out)
    written = write(out, records)
    return Merged(records, [*written, *kept], [*apart(sources), *beside(sources), *notes])


def source(folder: Path) -> Source:
    """A results folder as it is on disk.

    Raises:
        MergeError: there are no records in it, or one cannot be read.
    """
    records = read(folder / "records")
    if not records:
        raise MergeError(f"no records in {folder / 'records'}")
    return Source(folder, records, {file.name: _matrix(file) for file in sorted(folder.glob(LOCK))})


def one_each(sources: Sequence[Source], prefer: Sequence[Path] = ()) -> tuple[list[Record], list[str]]:
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
    return in_order(chosen), [*notes, *(f"{said}: {some(cells)}" for said, cells in outdone.items())]


def _matrix(file: Path) -> dict[str, Any]:
    """A resolved matrix, with the places of its plugins made absolute."""
    try:
        data = parse(read_text(file, str(file)), str(file)).data
    except MatrixError as error:
        raise MergeError(str(error)) from error
    if not resolved(data):
        raise MergeError(f"{file} is no matrix as a run resolves it")
    plugins = [Path(os.path.abspath(file.parent / one)).as_posix() for one in data.get("plugins") or ()]
    return {**data, "plugins": plugins}


def _numbers(record: Record) -> dict[str, Any]:
    """What two runs of a cell agree on; the key says under which settings, which `differences` is about."""
    return without(comparable(record), ("key",))


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


def _check_out(out: Path, sources: Sequence[Source], records: Sequence[Record]) -> None:
    """A folder with records of its own is not added to, unless it is one of the sources."""
    files = {record.filename for record in records}
    mine = {path.name for path in (out / "records").glob("*.json")}
    named = out.resolve() in [one.folder.resolve() for one in sources]
    if not named and mine - files:
        raise MergeError(
            f"{out} has records that are in none of the merged folders ({len(mine - files)}): merge it too, "
            "or choose another folder"
        )


def _pictures(sources: Sequence[Source], out: Path, prefer: Sequence[Path]) -> None:
    """Of several of one name a preferred folder's, else one that depends on no order of the folders."""
    for kind in ("samples", "figures"):
        found: dict[str, tuple[int, bytes]] = {}
        for one in sources:
            place = prefer.index(one.folder) if one.folder in prefer else len(prefer)
            for path in (one.folder / kind).glob("*.png"):
                mine = place, path.read_bytes()
                found[path.name] = min(found.get(path.name, mine), mine)
        for name, (_, content) in found.items():
            (out / kind).mkdir(parents=True, exist_ok=True)
            (out / kind / name).write_bytes(content)


def _matrices(sources: Sequence[Source], records: Sequence[Record], out: Path) -> list[Path]:
    """matrix.lock.yaml of exactly these cells, or all that there were: `matrix.lock.NAME.yaml`."""
    matrices = unique(matrix for one in sources for matrix in one.matrices.values())
    complete = all(one.matrices for one in sources)
    whole = union(matrices, records) if complete else None
    if whole is not None:
        wanted = {"matrix.lock.yaml": whole}
    else:
        wanted = {}
        for matrix in sorted(matrices, key=repr):
            stem, number = f"matrix.lock.{re.sub(r'[^A-Za-z0-9_+-]+', '-', matrix['name'])}", 1
            while (name := f"{stem}{f'-{number}' * (number > 1)}.yaml") in wanted:
                number += 1
            wanted[name] = matrix
    for old in out.glob(LOCK):
        if old.name not in wanted:
            old.unlink()
    for name, matrix in wanted.items():
        here = [Path(os.path.relpath(plugin, out.resolve())).as_posix() for plugin in matrix["plugins"]]
        text = yaml.safe_dump({**matrix, "plugins": here}, sort_keys=False, allow_unicode=True)
        replace_text(out / name, text)
    return [out / name for name in wanted]
