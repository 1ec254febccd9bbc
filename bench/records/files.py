"""Records as JSON files in a folder, results/NAME/records: written in the compact form, read in any."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..store.disk import replace_text
from ..store.hashes import identity
from ..user_error import UserError
from .compact import compact, description, expanded, measured
from .descriptions import FOLDER, MEASURED, Descriptions, file_name, write_beside
from .digest import check_digest
from .record import Record, in_order, json_object


class RecordError(UserError, ValueError):
    """A record that cannot be read; the message names the file and is meant for users."""


def write_record(folder: str | Path, record: Record) -> Path:
    """Writes a record to `folder`/CELL.json atomically, after the file that says what its metrics are."""
    path = Path(folder) / record.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    rewrite_record(path, record)
    return path


def rewrite_record(path: Path, record: Record, shared: bool = False) -> None:
    """Writes a record to a file in an existing folder; `shared` leaves out what other cells share."""
    tables = {FOLDER: description(record), MEASURED: measured(record) if shared else {}}
    names = {kind: file_name(table, kind) for kind, table in tables.items() if table}
    text = compact(record, names.get(FOLDER), names.get(MEASURED))  # before anything is written: it may fail
    for kind, name in names.items():
        write_beside(path.parent, name, tables[kind])
    replace_text(path, text)


def read_record(path: Path, descriptions: Descriptions | None = None) -> Record:
    """The record in a file.

    Args:
        descriptions: of the file's folder, for many records.

    Raises:
        RecordError: it cannot be read, or isn't what its digest says.
        FileNotFoundError: it isn't there.
    """
    try:
        data = json_object(path.read_text(encoding="utf-8"))
        record = Record.from_fields(expanded(data, descriptions or Descriptions(path.parent)))
        check_digest(record)
        return record
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{path} is not a record: {error}") from error


def read_records(folder: str | Path) -> list[Record]:
    """All records in `folder` in the order of their cells; none if there is no such folder."""
    descriptions = Descriptions(Path(folder))
    return in_order(read_record(path, descriptions) for path in sorted(Path(folder).glob("*.json")))


def new_records(folder: str | Path, seen: dict[str, tuple[int, ...]]) -> list[Record]:
    """The records that any process has written since the last call with the same `seen`.

    `seen` maps file names to the identities of the files that were read, and is updated.
    """
    records: list[Record] = []
    descriptions = Descriptions(Path(folder))
    for path in sorted(Path(folder).glob("*.json")):
        with suppress(FileNotFoundError):  # another run has just removed it
            state = identity(path)
            if seen.get(path.name) != state:
                records.append(read_record(path, descriptions))
                seen[path.name] = state
    return records


def move_record(path: Path, folder: Path) -> bool:
    """Moves a record's file, if it is still there, into another folder, which gets its descriptions too."""
    folder.mkdir(exist_ok=True)
    for name in files_beside(path):
        with suppress(ValueError):  # a broken record is moved as it is
            write_beside(folder, name, Descriptions(path.parent)(name, name.partition("/")[0]))
    with suppress(FileNotFoundError):  # another run may have moved it where locks don't work
        path.rename(folder / path.name)
        return True
    return False


def files_beside(path: Path) -> list[str]:
    """The files in the folder of a record's file that have a part of the record; none if that is broken."""
    try:
        data = json_object(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return []
    return [name for key in ("described_in", "measured_in") if isinstance(name := data.get(key), str)]
