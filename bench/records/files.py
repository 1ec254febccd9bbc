"""Records as JSON files in a folder, results/NAME/records: written in the compact form, read in any."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..store.disk import replace_text
from ..store.hashes import identity
from ..user_error import UserError
from .compact import compact, description, expanded
from .descriptions import Descriptions, Table, file_name, write_description
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


def rewrite_record(path: Path, record: Record) -> None:
    """Writes a record to a file in an existing folder."""
    table = description(record)
    text = compact(record, file_name(table) if table else None)  # before anything is written: it may fail
    if table:
        write_description(path.parent, table)
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
    if (table := _table_of(path)) is not None:
        write_description(folder, table)
    with suppress(FileNotFoundError):  # another run may have moved it where locks don't work
        path.rename(folder / path.name)
        return True
    return False


def _table_of(path: Path) -> Table | None:
    """The descriptions of a record's metrics; None without any, or if it is broken: it is moved as it is."""
    try:
        name = json_object(path.read_text(encoding="utf-8")).get("described_in")
        return None if name is None else Descriptions(path.parent)(name)
    except (ValueError, OSError):
        return None
