"""Records of several machines or groups become one results folder, if nothing that matters differs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..leaderboard.folders import MergeError, ResultsFolder, one_each
from ..matrix.yaml_text import MatrixError, parse
from ..matrix.yaml_text import read as read_text
from ..records.files import read_records, write_record
from ..records.record import Record
from ..store.disk import replace_text
from .combined_matrix import resolved, union, unique
from .merge_rules import HARMLESS, apart, beside, differences, refusal

LOCK = "matrix.lock*.yaml"


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
    from ..report.write import write_report

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
    written = write_report(out, records)
    return Merged(records, [*written, *kept], [*apart(sources), *beside(sources), *notes])


def source(folder: Path) -> ResultsFolder:
    """A results folder as it is on disk.

    Raises:
        MergeError: there are no records in it, or one cannot be read.
    """
    records = read_records(folder / "records")
    if not records:
        raise MergeError(f"no records in {folder / 'records'}")
    return ResultsFolder(folder, records, {file.name: _matrix(file) for file in sorted(folder.glob(LOCK))})


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


def _check_out(out: Path, sources: Sequence[ResultsFolder], records: Sequence[Record]) -> None:
    """A folder with records of its own is not added to, unless it is one of the sources."""
    files = {record.filename for record in records}
    mine = {path.name for path in (out / "records").glob("*.json")}
    named = out.resolve() in [one.folder.resolve() for one in sources]
    if not named and mine - files:
        raise MergeError(
            f"{out} has records that are in none of the merged folders ({len(mine - files)}): merge it too, "
            "or choose another folder"
        )


def _pictures(sources: Sequence[ResultsFolder], out: Path, prefer: Sequence[Path]) -> None:
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


def _matrices(sources: Sequence[ResultsFolder], records: Sequence[Record], out: Path) -> list[Path]:
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
