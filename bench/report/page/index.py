"""A page of all results folders below a folder: a card for each, with its answer and a link to its report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ...leaderboard.numbers import plural
from ...leaderboard.results import Results
from ...records.files import RecordError, read_records
from ...records.labels import natural
from ...records.packed_folder import PACKED
from ...records.record import Record
from ...store.disk import replace_text
from ..overview import Overview, overview
from ..places import NotWritable
from . import embed, strips
from .strips import Strip
from .templates import STYLE, template

NAME = "index.html"
MARK = '<meta name="generator" content="latentbench index">'
REPORTS = ("leaderboard.html", "leaderboard.md")  # to link to, the first that there is
ASIDE = "set-aside"  # results of older matrices, within a results folder


@dataclass(frozen=True)
class Card:
    """One results folder."""

    name: str  # its path, as seen from the page
    link: str  # empty without a report
    first: Overview
    counts: str  # `84 cells, 3 seeds`
    images: Strip | None


def write_index(folder: str | Path) -> Path:
    """Writes `folder`/index.html from the records of all results folders below.

    Raises:
        RecordError: there is no results folder, or a record cannot be read.
        NotWritable: the folder has an index.html that is somebody else's.
    """
    folder = Path(folder)
    path = folder / NAME
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise NotWritable(f"{path} is no index of results, and would be replaced: move it")
    cards = [card(folder, place, records) for place, records in results_folders(folder).items()]
    if not cards:
        raise RecordError(f"there is no results folder below {folder}: none has records/")
    replace_text(path, template("index.html").render(cards=cards, mark=MARK, style=STYLE))
    return path


def results_folders(folder: Path) -> dict[Path, list[Record]]:
    """The folders below with their records, sorted by name; neither hidden ones nor those set aside."""
    places = sorted(_folders(folder), key=lambda place: natural(place.relative_to(folder).as_posix()))
    return {place: records for place in places if (records := read_records(place / "records"))}


def _folders(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ASIDE and not name.startswith(".")]
        if ("records" in folders or PACKED in files) and Path(place) != folder:
            folders.clear()
            yield Path(place)


def card(index: Path, folder: Path, records: Sequence[Record]) -> Card:
    """The card of one results folder, from its records."""
    results = Results.of(records)
    trained = [record for record in results.records if not record.real]
    name = folder.relative_to(index).as_posix()
    report = next((file for file in REPORTS if (folder / file).is_file()), "")
    seeds = len({record.cell["seed"] for record in trained})
    pictures = embed.find_pictures([folder], results.records)
    return Card(
        name,
        quote(f"{name}/{report}") if report else "",
        overview(results, [folder]),
        f"{plural(len(trained), 'cell')}, {plural(seeds, 'seed')}",
        strips.held_out(pictures, strips.THUMBNAILS),
    )
