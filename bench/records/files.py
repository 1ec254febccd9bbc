"""Records as JSON files in a folder, results/NAME/records."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..store.disk import replace_text
from ..store.hashes import identity
from ..user_error import UserError
from .record import Record, in_order


class RecordError(UserError, ValueError):
    """A record that cannot be read; the message names the file and is meant for users."""


def write_record(folder: str | Path, record: Record) -> Path:
    """Writes a record to `folder`/CELL.json atomically."""
    path = Path(folder) / record.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, record.to_json())
    return path


def read_records(folder: str | Path) -> list[Record]:
    """All records in `folder` in the order of their cells; none if there is no such folder."""
    return in_order(map(_read, sorted(Path(folder).glob("*.json"))))


def new_records(folder: str | Path, seen: dict[str, tuple[int, ...]]) -> list[Record]:
    """The records that any process has written since the last call with the same `seen`.

    `seen` maps file names to the identities of the files that were read, and is updated.
    """
    records: list[Record] = []
    for path in sorted(Path(folder).glob("*.json")):
        with suppress(FileNotFoundError):  # another run has just removed it
            state = identity(path)
            if seen.get(path.name) != state:
                records.append(_read(path))
                seen[path.name] = state
    return records


def _read(path: Path) -> Record:
    try:
        return Record.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RecordError(f"{path} is not a record: {error}") from error
