"""The leaderboard as one self-contained page of HTML: it loads nothing, and needs no script to be read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...leaderboard.columns import columns_of
from ...leaderboard.cost_table import COST_ABOUT
from ...leaderboard.details import compact
from ...leaderboard.results import Results
from ...leaderboard.rows import Column, first_seen, full_protocol
from ...records.labels import natural
from ...records.record import Record
from ...store.disk import replace_text
from ..analysis import style
from ..analysis.findings import Finding
from ..csv import csv as as_csv
from ..markdown import spread_said
from . import embed, tables
from .curves import HEIGHT, WIDTH, Panel, panels
from .embed import Picture
from .tables import HtmlTable
from .verdict import Verdict, verdicts

if TYPE_CHECKING:
    from jinja2 import Template

FOLDER = Path(__file__).parent
DASHES = {"-": "", "--": "6 3", ":": "1.5 3", "-.": "6 3 1.5 3"}  # matplotlib's names -> SVG's


@dataclass(frozen=True)
class Samples:
    """Pictures from the same noise and classes, one a regularizer."""

    generator: str
    guidance: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Part:
    """What the page shows of one dataset."""

    dataset: str
    verdicts: list[Verdict]
    generation: HtmlTable | None
    tokenizers: HtmlTable | None
    cost: HtmlTable | None
    classes: dict[str, HtmlTable]
    panels: list[Panel]
    samples: list[Samples]
    reconstructions: list[Picture]
    drawn: dict[str, list[Picture]]  # by evaluators, under their names


def write(
    folder: Path,
    records: Iterable[Record] | Results,
    findings: Sequence[Finding],
    title: str,
    folders: Sequence[Path],
) -> Path:
    """Writes `folder`/leaderboard.html; samples/ and figures/ are looked for in `folders`."""
    path = Path(folder) / "leaderboard.html"
    replace_text(path, html(records, findings, title, folders))
    return path


def html(
    records: Iterable[Record] | Results,
    findings: Sequence[Finding],
    title: str,
    folders: Sequence[Path] = (),
) -> str:
    """The page as text; labels, reasons and all else that comes with records is escaped by the template."""
    from ..dataframe import frame

    results = Results.of(records)
    columns = columns_of(results.rows)
    parts = [_part(name, mine, folders) for name, mine in results.datasets.items()]
    trained = [record for record in results.records if not record.real]
    script = (FOLDER / "page.js").read_text()
    return _template().render(
        title=title,
        style=(FOLDER / "page.css").read_text(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        parts=parts,
        verdicts=[one for part in parts for one in part.verdicts],
        regularizers=_labels(trained, "regularizer"),
        generators=_labels(trained, "generator"),
        several=len(_labels(trained, "tokenizer")) > 1,
        tally=_tally(trained),
        spread=spread_said(results.rows),
        looks=_looks(trained),
        findings=[
            (finding, _figure(finding, i), tables.plain(finding.table)) for i, finding in enumerate(findings)
        ],
        failed=tables.failed(results.records),
        published=tables.published(results),
        protocols=_protocols(columns),
        metrics={column.base: column for column in columns},
        provenance=_provenance(results.records),
        cost_about=COST_ABOUT,
        width=WIDTH,
        height=HEIGHT,
        csv=_address(as_csv(frame(results))),
        csv_of=lambda finding: _address(as_csv(finding.table)),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(FOLDER)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def _part(dataset: str, results: Results, folders: Sequence[Path]) -> Part:
    records, rows, trained = results.records, results.rows, results.tokenizers
    budgets = (record.provenance.get("budget") for record in records)
    known = [one for one in budgets if isinstance(one, dict)]
    # Operations are compared where all rows have one budget.
    budget: dict[str, Any] = known[0] if known and all(one == known[0] for one in known) else {}
    shown = embed.find_pictures(folders, records)
    return Part(
        dataset,
        verdicts(rows, trained, budget),
        tables.generation(rows),
        tables.tokenizers(trained),
        tables.cost(rows),
        tables.classes(records),
        panels(records),
        _samples(shown),
        [one for one in shown if one.name == "--reconstructions" and not one.labels["tokenizer"]],
        _drawn([*shown, *embed.find_pictures(folders, records, "figures")]),
    )


def _samples(found: list[Picture]) -> list[Samples]:
    """By generator and guidance, both in the order of numbers."""
    groups: dict[tuple[str, str], list[Picture]] = {}
    for one in found:
        if one.name.startswith("@") and one.labels["generator"]:
            groups.setdefault((one.labels["generator"], one.name[1:]), []).append(one)
    return [Samples(*place, groups[place]) for place in sorted(groups, key=lambda p: list(map(natural, p)))]


def _drawn(found: list[Picture]) -> dict[str, list[Picture]]:
    groups: dict[str, list[Picture]] = {}
    for one in found:
        if one.name.startswith("--") and one.labels["tokenizer"]:
            groups.setdefault(one.name[2:].replace("_", " "), []).append(one)
    return groups


def _labels(records: list[Record], name: str) -> list[str]:
    return sorted({record.cell[name] for record in records}, key=natural)


def _looks(records: list[Record]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each regularizer's lines, as in the figures of the analyses."""
    regularizers = _labels(records, "regularizer")
    styles, dashes = style.styles(regularizers), style.dashes(regularizers)
    own = {style.FAINT: "var(--faint)"}
    colours = {name: styles[style.family(name)].colour for name in regularizers}
    return {name: (own.get(colours[name], colours[name]), DASHES[dashes[name]]) for name in regularizers}


def _tally(records: list[Record]) -> str:
    """`45 cells: 5 regularizers × 3 generators × 3 seeds`, and how many of them have no end."""
    counts = {
        name: len(_labels(records, name))
        for name in ("dataset", "tokenizer", "regularizer", "generator", "seed")
    }
    said = [
        f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items() if n > 1 or name in ("regularizer", "seed")
    ]
    ends = {status: sum(record.status == status for record in records) for status in ("failed", "skipped")}
    missing = "".join(f", {n} {status}" for status, n in ends.items() if n)
    return f"{len(records)} cell{'s' * (len(records) != 1)}: {' × '.join(said)}{missing}"


def _figure(finding: Finding, place: int) -> str:
    return embed.svg(finding.figure, f"finding{place}") if finding.figure else ""


def _protocols(columns: list[Column]) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """{id: (metrics, everything that it stands for)}."""
    found: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for column in columns:
        names, _ = found.setdefault(column.protocol, ([], full_protocol(column.entry)))
        names.append(column.name)
    return found


def _provenance(records: list[Record]) -> dict[str, list[str]]:
    """Each field with all its values: records of one page may come from several machines and days."""
    seeds = sorted({record.cell["seed"] for record in records}, key=natural)
    found = {"seeds": [", ".join(seeds)]}
    for name in first_seen(record.provenance for record in records):
        if name != "seed":
            found[name] = sorted({compact(r.provenance[name]) for r in records if name in r.provenance})
    if len(found.get("date", ())) > 1:
        found["date"] = [f"{found['date'][0]} to {found['date'][-1]}"]
    return found


def _address(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode('utf-8', 'replace')).decode()}"
