"""Records as JSON files in a folder, results/NAME/records: written in the compact form, read in any."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..store.disk import replace_text
from ..store.hashes import identity
from ..user_error import UserError
from .compact import compact, expanded, tables_beside
from .digest import check_digest
from .packed_folder import record_folder
from .record import Record, in_order, json_object
from .shared_tables import NAME, SharedTables, write_beside


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
    tables = tables_beside(record, shared)
    text = compact(record, *tables)  # before anything is written: it may fail
    for name, table in tables.items():
        write_beside(path.parent, name, table)
    replace_text(path, text)


def read_record(path: Path, tables: SharedTables | None = None) -> Record:
    """The record in a file.

    Args:
        tables: of the file's folder, for many records.

    Raises:
        RecordError: it cannot be read, or isn't what its digest says.
        FileNotFoundError: it isn't there.
    """
    try:
        data = json_object(path.read_text(encoding="utf-8"))
        record = Record.from_fields(expanded(data, tables or SharedTables(path.parent)))
        check_digest(record)
        return record
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{path} is not a record: {error}") from error


def read_records(folder: str | Path) -> list[Record]:
    """All records in `folder`, packed or not, in the order of their cells; none if there is no such folder.

    Raises:
        RecordError: a record cannot be read.
        PackError: the packed records cannot be read.
    """
    with record_folder(Path(folder)) as place:
        tables = SharedTables(place)
        return in_order(read_record(path, tables) for path in sorted(place.glob("*.json")))


def new_records(folder: str | Path, seen: dict[str, tuple[int, ...]]) -> list[Record]:
    """The records that any process has written since the last call with the same `seen`.

    `seen` maps file names to the identities of the files that were read, and is updated.
    """
    records: list[Record] = []
    tables = SharedTables(Path(folder))
    for path in sorted(Path(folder).glob("*.json")):
        with suppress(FileNotFoundError):  # another run has just removed it
            state = identity(path)
            if seen.get(path.name) != state:
                records.append(read_record(path, tables))
                seen[path.name] = state
    return records


def move_record(path: Path, folder: Path) -> bool:
    """Moves a record's file, if it is still there, into another folder, which gets its shared tables too."""
    folder.mkdir(exist_ok=True)
    with suppress(ValueError, OSError):  # a broken record is moved as it is
        for name in files_beside(path.read_text(encoding="utf-8")):
            write_beside(folder, name, SharedTables(path.parent)(name, name.partition("/")[0]))
    with suppress(FileNotFoundError):  # another run may have moved it where locks don't work
        path.rename(folder / path.name)
        return True
    return False


def files_beside(text: str) -> list[str]:
    """The files in a record's folder that have a part of the record, from the text of its own file.

    Raises:
        ValueError: the text is no record's.
    """
    data = json_object(text)
    named = (data.get(key) for key in ("described_in", "measured_in"))
    return [name for name in named if isinstance(name, str) and NAME.fullmatch(name)]
