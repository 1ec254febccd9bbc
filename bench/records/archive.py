"""Archives of results folders, as `bench submit` writes them: ZIP files without pictures and checkpoints.

    NAME/submission.json             who sends it, and what it was made with
    NAME/matrix.lock.yaml            the matrix as a run resolves it; of a merge several
    NAME/records/CELL.json           the records
    NAME/records/metrics/HASH.json   what their metrics are; in records/tokenizers/ what cells share
    NAME/leaderboard.csv, .md        the tables, if asked for

Archives come from strangers: nothing is unpacked whose name isn't one of these, and no more bytes than
`MOST`, whatever an archive says about itself.
"""

from __future__ import annotations

import json
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from ..store.disk import size_text
from ..user_error import UserError

ENDING = ".zip"
SUBMISSION = "submission.json"
MOST, MOST_OF_A_FILE, MOST_FILES = 512 * 2**20, 64 * 2**20, 20_000  # bytes, bytes, files: unpacked
DATE = (1980, 1, 1, 0, 0, 0)  # of every file: the first that a ZIP file can have
CHUNK = 2**20
# A folder, and a file in it. No name begins with a dot, so none is "..".
NAME = re.compile(
    r"(?P<folder>[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99})/"
    r"(?P<file>submission\.json|matrix\.lock(\.[A-Za-z0-9_+-]+)*\.yaml|leaderboard\.(csv|md)"
    r"|records/[A-Za-z0-9_=+-][A-Za-z0-9_.=+-]{0,199}\.json|records/(metrics|tokenizers)/[0-9a-f]{16}\.json)"
)


class ArchiveError(UserError):
    """An archive that cannot be read, or that has more in it than a submission."""


def is_archive(path: Path) -> bool:
    """Whether a path is a file, of which archives are the only ones that commands read results from."""
    return path.is_file()


def pack(name: str, files: Mapping[str, bytes]) -> bytes:
    """An archive of files by their names in its folder: equal files give equal bytes.

    Raises:
        ArchiveError: with a name that `unpack` would refuse.
    """
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(files):
            if not NAME.fullmatch(f"{name}/{file}"):
                raise ArchiveError(f"{name}/{file} cannot be in an archive: {_names()}")
            entry = zipfile.ZipInfo(f"{name}/{file}", DATE)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[file])
    return content.getvalue()


def unpack(path: Path, into: Path) -> Path:
    """Unpacks an archive into an existing folder; returns the results folder in it.

    Raises:
        ArchiveError: it is no archive of `bench submit`, damaged, or too large; some files may be there.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = _checked(archive.infolist())
            left = MOST
            for entry, match in names:
                target = into / match["folder"] / match["file"]
                target.parent.mkdir(parents=True, exist_ok=True)
                left -= _write(archive, entry, target, min(left, MOST_OF_A_FILE))
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ArchiveError(f"{path} is no archive that can be read: {error}") from error
    return into / names[0][1]["folder"]


@contextmanager
def unpacked(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The results folders of several paths: archives are unpacked, until the block ends; folders stay."""
    with ExitStack() as stack:
        folders = []
        for path in paths:
            if is_archive(path):
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{path.stem[:40]}-"))
                path = unpack(path, Path(folder))
            folders.append(path)
        yield folders


def submission_of(folder: Path) -> dict[str, Any]:
    """The fields of a folder's submission.json; empty without one.

    Raises:
        ArchiveError: it holds no object.
    """
    file = folder / SUBMISSION
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, OSError) as error:
        raise ArchiveError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ArchiveError(f"{file} must hold an object, not a {type(data).__name__}")
    return data


def _checked(entries: Sequence[zipfile.ZipInfo]) -> list[tuple[zipfile.ZipInfo, re.Match[str]]]:
    """The files of an archive with their names' parts."""
    if len(entries) > MOST_FILES:
        raise ArchiveError(f"it has {len(entries):,} files; at most {MOST_FILES:,} are read")
    found: list[tuple[zipfile.ZipInfo, re.Match[str]]] = []
    for entry in entries:
        match = NAME.fullmatch(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir() and match is None and NAME.fullmatch(f"{entry.filename}{SUBMISSION}"):
            continue  # the folder itself, which other programs list
        if match is None or kind not in (0, stat.S_IFREG):
            raise ArchiveError(f"{entry.filename[:100]!r} cannot be in an archive: {_names()}")
        found.append((entry, match))
    folders = sorted({match["folder"] for _, match in found})
    if len(folders) != 1:
        raise ArchiveError(f"it has {len(folders)} folders with results; one is read")
    lower = [entry.filename.lower() for entry, _ in found]
    if len(set(lower)) < len(lower):
        raise ArchiveError("it has two files of one name")
    if sum(entry.file_size for entry, _ in found) > MOST:
        raise ArchiveError(f"unpacked it is larger than {size_text(MOST)}")
    return found


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, most: int) -> int:
    """Unpacks a file of at most so many bytes, whatever size it states; returns its size."""
    size = 0
    with zipfile.Path(archive, entry.filename).open("rb") as source, target.open("xb") as sink:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > most:
                raise ArchiveError(f"{entry.filename} is larger than {size_text(most)}")
            sink.write(chunk)
    return size


def _names() -> str:
    return "it holds NAME/records/*.json and tables beside them, NAME/matrix.lock*.yaml and leaderboards"
