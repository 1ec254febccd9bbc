"""A folder of records as one file, `records.tar.xz`, which takes less than half of the bytes.

    results/NAME/records/CELL.json …       as runs write them
    results/NAME/records.tar.xz            the same files, as `bench compact --pack` writes them

Commands read the one as the other. Those that write records unpack them first.
"""

from __future__ import annotations

import io
import lzma
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ..store.disk import replace_bytes
from ..user_error import UserError

RECORDS, PACKED = "records", "records.tar.xz"
# A record, or a table that records share. No name leads out of the folder.
MEMBER = re.compile(r"([^/\\:.][^/\\:]*|(metrics|tokenizers)/[0-9a-f]{16})\.json")
MOST = 512 * 2**20  # bytes of all files


class PackError(UserError):
    """A packed folder of records that cannot be read."""


def has_records(results: Path) -> bool:
    """Whether a results folder has records, packed or not."""
    return any((results / RECORDS).glob("*.json")) or (results / PACKED).is_file()


def pack_records(results: Path) -> Path:
    """Puts a results folder's records into one file, and removes them; equal records give equal bytes.

    Other files of the folder stay where they are.

    Raises:
        PackError: the records have more bytes than the file may have; nothing is changed.
    """
    folder, content = results / RECORDS, io.BytesIO()
    names = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*.json"))}
    files = {name: file for name, file in names.items() if MEMBER.fullmatch(name)}
    if sum(file.stat().st_size for file in files.values()) > MOST:
        raise PackError(f"{folder}: its records have more than {MOST:,} bytes, too many for one file")
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive:
        for name, file in files.items():
            member = tarfile.TarInfo(name)
            member.size = file.stat().st_size
            with file.open("rb") as source:
                archive.addfile(member, source)
    replace_bytes(results / PACKED, lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    for file in files.values():
        file.unlink()
    for emptied in (*{file.parent for file in files.values()} - {folder}, folder):
        with suppress(OSError):  # it has other files
            emptied.rmdir()
    return results / PACKED


def unpack_records(results: Path) -> None:
    """Puts the files of a results folder's packed records into its folder `records`, if they are packed.

    Raises:
        PackError: they cannot be read; nothing is removed.
    """
    if (results / PACKED).is_file():
        _extract(results / PACKED, results / RECORDS)
        (results / PACKED).unlink()


@contextmanager
def record_folder(folder: Path) -> Iterator[Path]:
    """The folder to read records from: the given `records`, or one that holds the packed ones in the block.

    Records that lie beside the packed form are in it too, and go before equal names.

    Raises:
        PackError: the packed form cannot be read.
    """
    packed = folder.parent / PACKED
    if folder.name != RECORDS or not packed.is_file():
        yield folder
        return
    with TemporaryDirectory(prefix="records-") as place:
        if folder.is_dir():
            shutil.copytree(folder, place, dirs_exist_ok=True)
        _extract(packed, Path(place))
        yield Path(place)


def _extract(packed: Path, folder: Path) -> None:
    """Writes the files of an archive into a folder; files of the same names are kept."""
    try:
        with tarfile.open(packed, "r:xz", encoding="utf-8") as archive:
            left = MOST
            for member in archive:
                source = archive.extractfile(member) if member.isreg() else None
                if source is None or not MEMBER.fullmatch(member.name):
                    raise PackError(f"{packed}: {member.name!r} cannot be in it: it holds records alone")
                left -= member.size
                if left < 0:
                    raise PackError(f"{packed}: it has more than {MOST:,} bytes of records")
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    replace_bytes(target, source.read())
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise PackError(f"{packed} cannot be read: {error}") from error
