"""The places of a results folder that a report writes, and what must not be there before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..options.words import listed
from ..records.packed_folder import has_records
from ..user_error import UserError

TABLES = ("leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html")
ANALYSIS = "analysis"
ANALYSES = ("*.csv", "*.png")  # files of `analysis` that a report replaces or removes
PICTURES = ("samples", "figures")
LOCK = "matrix.lock.yaml"


class NotWritable(UserError):
    """A results folder that cannot be written, or whose files are somebody else's."""


def check_places(folder: Path) -> None:
    """Raises NotWritable if a results folder cannot be written, or a report would replace others' files.

    The folder need not exist.
    """
    for place in (*TABLES, LOCK):
        if (folder / place).is_dir():
            raise NotWritable(f"cannot write to {folder / place}: it is a folder")
    for place in ("", "records", ANALYSIS, *PICTURES):
        if os.path.lexists(folder / place):
            check_folder(folder / place)
    foreign = list(_foreign(folder))
    if foreign:
        raise NotWritable(
            f"{folder} has no results, and files that a report would replace: {listed(foreign)}; "
            "move them, or choose another folder with -o"
        )


def check_output(out: Path, sources: Iterable[Path]) -> None:
    """Raises NotWritable if a report of `sources` cannot be written to `out`, or stands for other records."""
    check_places(out)
    if has_records(out) and out.resolve() not in [source.resolve() for source in sources]:
        raise NotWritable(
            f"{out} has records of its own, whose report would be replaced: name that folder too, or choose "
            "another one with -o"
        )


def no_pictures_note(folders: Sequence[Path]) -> str:
    """A sentence that says so if results folders have no picture for the page; empty if they have one."""
    if any(next((folder / kind).glob("*.png"), None) for folder in folders for kind in PICTURES):
        return ""
    named = listed([str(folder) for folder in folders])
    return (
        f"the page shows no pictures: there are none in samples/ and figures/ of {named}. "
        "Records hold numbers alone; the run that made them draws, from its cache or by training again"
    )


def check_folder(folder: Path) -> None:
    """Raises NotWritable unless files can be made in a folder, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a read-only mount fails at the first write only
            pass
    except OSError as error:
        raise NotWritable(f"cannot write to {folder}: {error.strerror}") from error


def _foreign(folder: Path) -> Iterator[str]:
    """The files that a report would replace or remove in a folder without records and without a report."""
    if has_records(folder) or all((folder / name).is_file() for name in TABLES[:2]):
        return
    yield from (name for name in TABLES if (folder / name).is_file())
    for pattern in ANALYSES:
        yield from (str(file.relative_to(folder)) for file in sorted((folder / ANALYSIS).glob(pattern)))
