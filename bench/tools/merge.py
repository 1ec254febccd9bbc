"""Joins the records of several machines or groups in one results folder, if nothing that matters differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.set_aside import foreign_records, move_aside
from ..leaderboard.folders import MergeError, ResultsFolder, one_each
from ..matrix.yaml_text import MatrixError, dump, parse
from ..matrix.yaml_text import read as read_text
from ..records.files import read_records, write_record
from ..records.labels import slug
from ..records.packed_folder import unpack_records
from ..records.record import Record
from ..report.places import check_places
from ..store.disk import replace_bytes, replace_text
from .merge_rules import HARMLESS, ROWS, differences, protocol_notes, provenance_notes, refusal

LOCK = "matrix.lock*.yaml"


@dataclass(frozen=True)
class Merged:
    """The records and files of a merge, and notes for its reader."""

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
        prefer: those of `folders` whose records of a cell win over others with different numbers, in order.

    Raises:
        MergeError: with all that differs; nothing has been written.
    """
    from ..report.write import write_report

    allowed, out, preferred = set(allow), Path(out), [Path(folder) for folder in prefer]
    for aspect in allowed.difference(HARMLESS):
        raise MergeError(f"--allow takes {', '.join(HARMLESS)}, not {aspect!r}")
    for unknown in set(preferred).difference(map(Path, folders)):
        raise MergeError(f"--prefer takes one of the merged folders, not {unknown}")
    sources = [_read(Path(folder)) for folder in folders]
    refused = [difference for difference in differences(sources) if difference.aspect not in allowed]
    if refused:
        raise MergeError(refusal(refused))
    records, notes = one_each(sources, preferred)
    check_places(out)
    unpack_records(out)
    _check_out(out, sources, records)
    aside = _set_aside(out, sources, records)
    for record in records:
        write_record(out / "records", record)
    _copy_pictures(sources, out, preferred)
    matrices = _write_matrices(sources, out)
    written = write_report(out, records)
    return Merged(
        records, [*written, *matrices], [*protocol_notes(sources), *provenance_notes(sources), *notes, *aside]
    )


def resolved(data: Any) -> bool:
    """Whether a file holds a matrix with all defaults written out, as far as merging reads it."""
    if not isinstance(data.get("name"), str):
        return False
    sections = [data.get(name) for name in ("dataset", *ROWS)]
    rows = [list(section.values()) if isinstance(section, dict) else section for section in sections]
    return all(isinstance(s, list) and all(isinstance(row, dict) and "use" in row for row in s) for s in rows)


def _read(folder: Path) -> ResultsFolder:
    """A results folder on disk.

    Raises:
        MergeError: there are no records in it, or a matrix cannot be read.
    """
    records = read_records(folder / "records")
    if not records:
        raise MergeError(f"no records in {folder / 'records'}")
    matrices = {file.name: _read_matrix(file) for file in sorted(folder.glob(LOCK))}
    return ResultsFolder(folder, records, matrices)


def _read_matrix(file: Path) -> dict[str, Any]:
    """A resolved matrix."""
    try:
        data = parse(read_text(file, str(file)), str(file)).data
    except MatrixError as error:
        raise MergeError(str(error)) from error
    if not resolved(data):
        raise MergeError(f"{file} is no matrix as a run resolves it")
    return data


def _check_out(out: Path, sources: Sequence[ResultsFolder], records: Sequence[Record]) -> None:
    """A folder with records of its own is not added to, unless it is one of the sources."""
    strange = {path.name for path in (out / "records").glob("*.json")} - {r.filename for r in records}
    if strange and out.resolve() not in [source.folder.resolve() for source in sources]:
        raise MergeError(
            f"{out} has records that are in none of the merged folders ({len(strange)}): merge it too, "
            "or choose another folder"
        )


def _set_aside(out: Path, sources: Sequence[ResultsFolder], records: Sequence[Record]) -> list[str]:
    """Moves what an earlier merge or a run left in `out` aside, if its records have other contents.

    Returns what is to be said about it. Records in one of the sources are replaced by what is chosen of all.
    """
    if out.resolve() in [source.folder.resolve() for source in sources]:
        return []
    there = sorted((out / "records").glob("*.json"))
    merged = {record.filename: record for record in records}
    foreign = foreign_records(there, set())
    if all(record == merged[file.name] for file, record in foreign.items()):
        return []
    return [move_aside(out, foreign, "with other contents than the merged ones")]


def _copy_pictures(sources: Sequence[ResultsFolder], out: Path, prefer: Sequence[Path]) -> None:
    """Copies all pictures; of equal names a preferred folder's, else one whatever the folders' order."""
    for kind in ("samples", "figures"):
        chosen: dict[str, tuple[int, bytes]] = {}
        for source in sources:
            priority = prefer.index(source.folder) if source.folder in prefer else len(prefer)
            for path in (source.folder / kind).glob("*.png"):
                picture = priority, path.read_bytes()
                chosen[path.name] = min(chosen.get(path.name, picture), picture)
        for name, (_, content) in chosen.items():
            (out / kind).mkdir(parents=True, exist_ok=True)
            replace_bytes(out / kind / name, content)


def _write_matrices(sources: Sequence[ResultsFolder], out: Path) -> list[Path]:
    """Writes the one matrix of all records as matrix.lock.yaml, or each as matrix.lock.NAME.yaml."""
    # Plain data has no hash: its text tells equal matrices.
    matrices = {json.dumps(m, sort_keys=True): m for source in sources for m in source.matrices.values()}
    files: dict[str, dict[str, Any]] = {}
    if len(matrices) == 1 and all(source.matrices for source in sources):
        files["matrix.lock.yaml"] = next(iter(matrices.values()))
    else:
        for matrix in sorted(matrices.values(), key=repr):
            stem = "matrix.lock." + slug(matrix["name"], keep="_+-", fill="-")
            name, number = f"{stem}.yaml", 1
            while name in files:
                number += 1
                name = f"{stem}-{number}.yaml"
            files[name] = matrix
    for old in out.glob(LOCK):
        if old.name not in files:
            old.unlink()
    for name, matrix in files.items():
        replace_text(out / name, dump(matrix))
    return [out / name for name in files]
