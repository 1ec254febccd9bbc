"""The leaderboard as one self-contained page of HTML: it loads nothing, and needs no script to be read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ...leaderboard import published as papers
from ...leaderboard.columns import columns_of
from ...leaderboard.cost_table import cost_about, cost_table
from ...leaderboard.details import protocols, provenance, spread_note
from ...leaderboard.numbers import plural
from ...leaderboard.results import Results
from ...records.labels import AXES, natural
from ...records.record import Record
from ...store.disk import replace_text
from ..analysis import style
from ..analysis.findings import Finding, leading_figure
from ..csv import csv as as_csv
from ..dataframe import frame
from ..overview import best_header, overview, question
from ..verdict import Verdict
from . import embed, strips, tables
from .curves import HEIGHT, WIDTH, Panel, panels
from .embed import Picture
from .strips import Strip
from .tables import HtmlTable
from .templates import FOLDER, STYLE, template

PLAIN = ",;:@[]{}()=+-_./*!~|^$?"  # characters of a table that stand in an address as they are
STRIPS = 3  # of samples on the first screen
DASHES = {"-": "", "--": "6 3", ":": "1.5 3", "-.": "6 3 1.5 3"}  # matplotlib's names -> SVG's


@dataclass(frozen=True)
class Samples:
    """Pictures of all regularizers from the same noise and classes."""

    generator: str
    guidance: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Part:
    """Everything that the page shows of one dataset."""

    dataset: str
    verdicts: list[Verdict]
    images: Strip | None  # a few of the dataset's own
    strips: list[Strip]  # held-out images, and samples of the best rows
    generation: HtmlTable | None
    tokenizers: HtmlTable | None
    cost: HtmlTable | None
    classes: dict[str, HtmlTable]
    panels: list[Panel]
    samples: list[Samples]
    reconstructions: list[Picture]
    drawn: dict[str, list[Picture]]  # pictures by evaluators, by name


def write(
    folder: Path,
    records: Iterable[Record] | Results,
    findings: Sequence[Finding],
    title: str,
    folders: Sequence[Path],
    to_come: str = "",
) -> Path:
    """Writes `folder`/leaderboard.html with the pictures in samples/ and figures/ of `folders`."""
    path = Path(folder) / "leaderboard.html"
    replace_text(path, html(records, findings, title, folders, to_come))
    return path


def html(
    records: Iterable[Record] | Results,
    findings: Sequence[Finding],
    title: str,
    folders: Sequence[Path] = (),
    to_come: str = "",
) -> str:
    """The page as text; the template escapes labels, reasons and everything else from records.

    `to_come` is a sentence on what a run will still add: the page then says that it is partial.
    """
    results = Results.of(records)
    columns = columns_of(results.rows)
    first = overview(results, folders)
    parts = [
        _part(name, of_dataset, folders, first.verdicts[name])
        for name, of_dataset in results.datasets.items()
    ]
    leading = leading_figure(findings)
    trained = [record for record in results.records if not record.real]
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    return template("page.html").render(
        title=title,
        to_come=to_come,
        style=STYLE,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        first=first,
        parts=parts,
        leading=leading,
        verdicts=first.verdicts_of_all,
        judge=_judge(results),
        question=question(first.verdicts_of_all),
        best=best_header(first.verdicts_of_all),
        regularizers=_labels(trained, "regularizer"),
        generators=_labels(trained, "generator"),
        several=len(_labels(trained, "tokenizer")) > 1,
        tally=_tally(trained),
        spread=spread_note(results.rows),
        looks=_looks(trained),
        findings=[
            (finding, _figure(finding, i), tables.plain(finding.short_table))
            for i, finding in enumerate(findings)
        ],
        count=len(papers.figures()),
        failed=tables.failed(results.records),
        published=tables.published(results),
        protocols=protocols(columns),
        metrics={column.base: column for column in columns},
        provenance={name: sorted(values) for name, values in provenance(results.records).items()},
        cost_about=cost_about(cost_table(results.rows).headers),
        width=WIDTH,
        height=HEIGHT,
        csv=_address(as_csv(frame(results))),
        csv_of=lambda finding: _address(as_csv(finding.table)),
    )


def _part(dataset: str, results: Results, folders: Sequence[Path], found: list[Verdict]) -> Part:
    records = results.records
    samples = embed.find_pictures(folders, records)
    figures = embed.find_pictures(folders, records, "figures")
    held_out = strips.held_out(samples)
    best = [strips.samples(samples, one.best, one.name) for one in found if not one.baseline]
    return Part(
        dataset,
        found,
        strips.held_out(samples, strips.THUMBNAILS),
        [one for one in (held_out, *best[:STRIPS]) if one is not None],
        tables.scores(results.generation, results.updates_note),
        tables.scores(results.reconstruction),
        tables.cost(results.rows),
        tables.classes(records),
        panels(records),
        _samples(samples),
        [one for one in samples if one.name == "--reconstructions" and not one.labels["tokenizer"]],
        _drawn([*samples, *figures]),
    )


def _samples(pictures: list[Picture]) -> list[Samples]:
    """Samples by generator and guidance, both in the order of numbers."""
    groups: dict[tuple[str, str], list[Picture]] = {}
    for picture in pictures:
        if picture.name.startswith("@") and picture.labels["generator"]:
            groups.setdefault((picture.labels["generator"], picture.name[1:]), []).append(picture)
    return [Samples(*key, groups[key]) for key in sorted(groups, key=lambda key: list(map(natural, key)))]


def _drawn(pictures: list[Picture]) -> dict[str, list[Picture]]:
    """Pictures of tokenizers and cells by name."""
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        if picture.name.startswith("--") and picture.labels["tokenizer"]:
            groups.setdefault(picture.name[2:].replace("_", " "), []).append(picture)
    return groups


def _labels(records: list[Record], name: str) -> list[str]:
    return sorted(dict.fromkeys(record.cell[name] for record in records), key=natural)


def _looks(records: list[Record]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each regularizer's lines, as in the figures of the analyses."""
    regularizers = _labels(records, "regularizer")
    styles, dashes = style.styles(regularizers), style.dashes(regularizers)
    colours = {name: styles[style.family(name)].colour for name in regularizers}
    return {
        name: ("var(--faint)" if colour == style.FAINT else colour, DASHES[dashes[name]])
        for name, colour in colours.items()
    }


def _judge(results: Results) -> list[str]:
    """A sentence on each metric that decides: its name, direction and meaning."""
    found = {}
    for of_dataset in results.datasets.values():
        board = of_dataset.generation.scored
        for column in board.deciding[:1] or of_dataset.reconstruction.scored.deciding[:1]:
            better = column.entry.get("better")
            about = " ".join(filter(None, [column.entry.get("about"), tables.BETTER.get(better or "")]))
            found[column.name] = f"{column.name}: {about}" if about else ""
    return [text for text in found.values() if text]


def _tally(records: list[Record]) -> str:
    """`45 cells: 5 regularizers × 3 generators × 3 seeds`, and how many of them failed or were skipped."""
    counts = {axis: len(_labels(records, axis)) for axis in AXES}
    axes = [plural(n, axis) for axis, n in counts.items() if n > 1 or axis in ("regularizer", "seed")]
    tally = f"{plural(len(records), 'cell')}: {' × '.join(axes)}"
    for status in ("failed", "skipped"):
        number = sum(record.status == status for record in records)
        if number:
            tally += f", {number} {status}"
    return tally


def _figure(finding: Finding, place: int) -> str:
    return embed.svg(finding.figure, f"finding{place}") if finding.figure else ""


def _address(text: str) -> str:
    """A table as a link's address: numbers take a third more bytes in base64 than in percent-encoding."""
    return "data:text/csv;charset=utf-8," + quote(text, safe=PLAIN, errors="replace")
