"""Moves records that aren't of the matrix at hand out of a results folder, and overwrites none moved before.

results/NAME/set-aside/1   a results folder of its own: records/, their pictures and matrix.lock.yaml
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from ..leaderboard.numbers import plural
from ..records.files import RecordError, move_record, new_records, read_record
from ..records.record import Record
from ..report.page.embed import find_pictures, picture_owners
from ..store.disk import replace_bytes

FOLDER, LOCK = "set-aside", "matrix.lock*.yaml"


def foreign_records(files: Iterable[Path], keys: Collection[str]) -> dict[Path, Record | None]:
    """The files whose record isn't of a cell with one of these keys; None is a file that is no record."""
    found: dict[Path, Record | None] = {}
    for file in files:
        with suppress(FileNotFoundError):  # another run has moved it
            try:
                record = read_record(file)
            except RecordError:
                found[file] = None
                continue
            if record.key not in keys:
                found[file] = record
    return found


def set_aside(folder: Path, keys: Collection[str]) -> str:
    """Moves the records whose cells have none of these keys aside, with the pictures of rows without others.

    Returns a sentence that says how many and where; it is empty if there were none.
    """
    foreign = foreign_records(sorted((folder / "records").glob("*.json")), keys)
    return move_aside(folder, foreign, "of another matrix or version") if foreign else ""


def move_aside(folder: Path, foreign: Mapping[Path, Record | None], which: str) -> str:
    """Moves record files, and the pictures of rows without another record, to a new folder in `folder`.

    Returns a sentence that says how many, which ones and where.
    """
    aside = _new_folder(folder / FOLDER)
    for lock in folder.glob(LOCK):
        replace_bytes(aside / lock.name, lock.read_bytes())
    moved = sum(move_record(file, aside / "records") for file in foreign)
    _move_pictures(folder, aside, [record for record in foreign.values() if record])
    return f"set aside in {aside}: {plural(moved, 'record')} {which}"


def _new_folder(parent: Path) -> Path:
    """Makes the folder `parent`/N with the least free number N."""
    parent.mkdir(exist_ok=True)
    for number in count(1):
        with suppress(FileExistsError):
            (parent / str(number)).mkdir()
            break
    return parent / str(number)


def _move_pictures(folder: Path, aside: Path, foreign: Sequence[Record]) -> None:
    """Moves pictures whose row, tokenizer or dataset is that of a foreign record and of no other."""
    kept = new_records(folder / "records", {})
    owned = picture_owners(kept).values()
    for kind in ("samples", "figures"):
        for picture in find_pictures([folder], [*foreign, *kept], kind):
            if picture.labels not in owned:
                (aside / kind).mkdir(exist_ok=True)
                with suppress(FileNotFoundError):  # another run may have moved it where locks don't work
                    picture.path.rename(aside / kind / picture.path.name)
