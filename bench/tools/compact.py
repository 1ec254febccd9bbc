"""Results folders in fewer bytes: records in today's form, pictures in fewer colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..records.compact import comes_back, tables_beside
from ..records.files import RecordError, read_record, rewrite_record
from ..records.packed_folder import PACKED, pack_records, unpack_records
from ..records.record import Record
from ..records.shared_tables import DESCRIBED, MEASURED, SharedTables
from ..report.places import PICTURES, check_places
from ..report.png import SOURCE, fewer_colours, png
from ..store.disk import replace_bytes
from ..user_error import UserError

OPAQUE = ("1", "L", "P", "RGB")  # modes of pictures that are drawn anew; others stay


class CompactError(UserError):
    """A results folder with a picture that cannot be read; nothing has been written."""


@dataclass(frozen=True)
class Shrunk:
    """The number of files of one kind in a results folder, and their bytes before and after."""

    kind: str
    files: int
    before: int
    after: int


def compact(folder: Path, pictures: bool = False, pack: bool = False) -> list[Shrunk]:
    """Writes a results folder's records, and its pictures if asked, anew where that takes fewer bytes.

    Records stay the same to the last bit, and are packed into one file or unpacked. Pictures lose colours. No
    run may write the folder meanwhile.

    Raises:
        RecordError: there is no record, or one cannot be read; nothing has been written.
        CompactError: a picture cannot be read; nothing has been written.
    """
    check_places(folder)
    packed = folder / PACKED
    before_all = packed.stat().st_size if packed.is_file() else _bytes(folder / "records")
    unpack_records(folder)
    files = sorted((folder / "records").glob("*.json"))
    if not files:
        raise RecordError(f"no records in {folder / 'records'}")
    tables = SharedTables(folder / "records")
    records = [read_record(file, tables) for file in files]
    for file, record in zip(files, records, strict=True):
        assert comes_back(record), f"{file} would change"  # nothing has been written
    drawn = sorted(file for kind in PICTURES for file in (folder / kind).glob("*.png")) if pictures else []
    smaller = [_smaller(file) for file in drawn]
    shrunk = [replace(_records(folder / "records", files, records), before=before_all)]
    if pictures:
        before = sum(file.stat().st_size for file in drawn)
        for file, content in zip(drawn, smaller, strict=True):
            if content is not None:
                replace_bytes(file, content)
        after = sum(file.stat().st_size for file in drawn)
        shrunk.append(Shrunk("picture", len(drawn), before, after))
    if pack:
        shrunk[0] = replace(shrunk[0], after=pack_records(folder).stat().st_size)
    return shrunk


def _records(folder: Path, files: Sequence[Path], records: Sequence[Record]) -> Shrunk:
    before = _bytes(folder)
    for file, record in zip(files, records, strict=True):
        rewrite_record(file, record, shared=True)
    named = {folder / name for record in records for name in tables_beside(record, shared=True)}
    for left in set(_shared_files(folder)) - named:
        left.unlink()
    return Shrunk("record", len(files), before, _bytes(folder))


def _bytes(folder: Path) -> int:
    """The size of a folder's records with the files that they share."""
    return sum(file.stat().st_size for file in [*folder.glob("*.json"), *_shared_files(folder)])


def _shared_files(folder: Path) -> list[Path]:
    return [file for kind in (DESCRIBED, MEASURED) for file in (folder / kind).glob("*.json")]


def _smaller(file: Path) -> bytes | None:
    """The picture in fewer colours; None if that isn't smaller, or it is transparent."""
    from PIL import Image

    try:
        with Image.open(file, formats=["PNG"]) as picture:
            if picture.mode not in OPAQUE or "transparency" in picture.info:
                return None
            content = png(fewer_colours(picture.convert("RGB")), picture.info.get(SOURCE))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # as Pillow raises them
        raise CompactError(f"{file} cannot be read: {error}") from error
    return content if len(content) < file.stat().st_size else None
