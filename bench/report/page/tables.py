"""Tables as a page shows them: a cell's text, its place in its group, and what a tooltip says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...leaderboard import published as papers
from ...leaderboard.columns import (
    COSTS,
    cells,
    columns_of,
    first_score,
    guidance_of,
    headers,
    ranked,
    scored,
    shown,
)
from ...leaderboard.cost_table import COST_COLUMNS, spending
from ...leaderboard.numbers import number
from ...leaderboard.ranking import Ranking, rank_header, rank_texts, rankings, reading
from ...leaderboard.results import Results
from ...leaderboard.rows import LABELS, Column, Row, Value, full_protocol, reason_line
from ...records.labels import natural
from ...records.record import Record, protocol_id
from ...statistics.statistics import Rank

if TYPE_CHECKING:
    import pandas as pd


BASES = {  # of ranks that seeds of tokenizers don't stand behind
    "generator seeds": "over one tokenizer's generators alone",
    "resamples": "over one seed's images alone",
    "none": "of one number each",
}


@dataclass(frozen=True)
class Head:
    """A column's header."""

    text: str
    tip: str = ""
    arrow: str = ""
    protocol: str = ""  # the id, a link to its description
    numeric: bool = True
    more: bool = False  # whether it is one of those that are shown on demand


@dataclass(frozen=True)
class TableCell:
    """A cell; `heat` is 0 for the worst and 1 for the best of its group."""

    text: str
    key: float | None = None  # what it is sorted by; None: its text
    tip: str = ""
    heat: float | None = None
    mark: str = (
        ""  # "best": separable from all others of its group; "tied": one of those that may be the best
    )
    link: str = ""


@dataclass(frozen=True)
class TableRow:
    """A table's row; its labels are what filters choose by."""

    cells: list[TableCell]
    regularizer: str = ""
    generator: str = ""
    real: bool = False


@dataclass(frozen=True)
class HtmlTable:
    """A table; its first column stays in view. `note` says what its ranks and marks mean."""

    heads: list[Head]
    lines: list[TableRow]
    note: str = ""


def generation(rows: list[Row]) -> HtmlTable | None:
    """Every row with samples, at each guidance; ranked within its generator at one of them."""
    rows = [row for row in ranked(rows, "generator") if scored(row, "generator")]
    labels = {
        "regularizer": lambda row: _label("real images" if row.real else row.regularizer),
        "generator": lambda row: _label("" if row.real else row.generator),
        "tokenizer": lambda row: _label("" if row.real else row.tokenizer),
        "w": lambda row: TableCell(guidance_of(row), row.guidance),
    }
    return _metrics(rows, "generator", labels)


def tokenizers(rows: list[Row]) -> HtmlTable | None:
    """Every tokenizer and regularizer."""
    labels = {
        "regularizer": lambda row: _label(row.regularizer),
        "tokenizer": lambda row: _label(row.tokenizer),
    }
    return _metrics(ranked(rows, "tokenizer"), "tokenizer", labels)


def _metrics(
    rows: list[Row], scope: str, labels: Mapping[str, Callable[[Row], TableCell]]
) -> HtmlTable | None:
    columns = [c for c in columns_of(rows) if c.scope == scope and c.entry.get("unit") not in COSTS]
    if not columns:
        return None
    few, _ = shown(rows, scope)
    columns = [*few, *(column for column in columns if column not in few)]
    heads = [Head(name, numeric=name == "w", more=name == "tokenizer" and _same(rows)) for name in labels]
    first = first_score(rows, scope)
    held = rankings(rows, columns)
    places, standing = _places(rows, held), rank_texts(rows, held, first)
    heads += [Head(rank_header(held, first), reading(held, first))] if any(standing) else []
    told = len({(row.seeds_done, row.seeds) for row in rows if not row.real}) > 1
    heads += [Head("seeds", "Seeds that finished, which numbers are means over.", more=not told)]
    for column, text in zip(columns, headers(columns), strict=True):
        name = text.removesuffix(column.protocol).strip().removesuffix(column.better or "\0").strip()
        heads.append(Head(name, about(column), column.better, column.protocol, more=column not in few))
    lines = []
    for i, row in enumerate(rows):
        line = [cell(row) for cell in labels.values()]
        if any(standing):
            line.append(
                TableCell(standing[i], next((places[i, c].rank.low for c in first if (i, c) in places), None))
            )
        done = str(row.seeds) if row.seeds_done == row.seeds else f"{row.seeds_done} of {row.seeds}"
        line.append(TableCell(done, row.seeds_done))
        for column, text in zip(columns, cells(row, columns), strict=True):
            line.append(_cell(text, row.values.get(column), column, places.get((i, column))))
        lines.append(TableRow(line, row.regularizer, row.generator, row.real))
    return HtmlTable(heads, lines, reading(held, first))


@dataclass(frozen=True)
class Place:
    """Where a row stands among those it is compared with, by one column."""

    heat: float
    rank: Rank
    of: int
    mark: str


def _places(rows: list[Row], held: Sequence[Ranking]) -> dict[tuple[int, Column], Place]:
    found = {}
    for contest in held:
        means = [rows[i].values[contest.column].mean or 0.0 for i in contest.places]
        best, worst = means[0], means[-1]  # places come best first
        for i, mean, rank, mark in zip(contest.places, means, contest.ranks, contest.marks, strict=True):
            heat = (mean - worst) / (best - worst) if best != worst else 0.0
            found[i, contest.column] = Place(heat, rank, len(means), mark)
    return found


def _cell(text: str, value: Value | None, column: Column, place: Place | None) -> TableCell:
    if value is None:
        return TableCell(text)
    said = [f"{text} over {value.n} seed{'s' * (value.n != 1)}"]
    if value.interval:
        error = " (sampling noise only)" if value.n == 1 else ""
        said.append(f"95 % interval{error} {number(value.interval[0])} to {number(value.interval[1])}")
    if place:
        low, high = place.rank.low, place.rank.high
        said.append(f"rank {low}" + (f" to {high}" if high > low else "") + f" of {place.of}")
        said += ["may be the best"] * (place.mark == "tied")
        said += filter(None, [BASES.get(place.rank.basis)])
    return TableCell(text, value.mean, "\n".join(said), *((place.heat, place.mark) if place else ()))


def about(column: Column) -> str:
    """What a header's tooltip says."""
    entry = column.entry
    better = {"higher": "Higher is better.", "lower": "Lower is better."}.get(entry.get("better") or "", "")
    unit = f"Unit: {entry['unit']}." if entry.get("unit") else ""
    said = [column.name, entry.get("about") or "", better, unit, f"n = {entry['n']:,}"]
    return "\n".join(filter(None, [*said, f"Protocol {column.protocol}"]))


def cost(rows: list[Row]) -> HtmlTable | None:
    """What rows take to train and to sample."""
    rows = sorted((row for row in rows if not row.real), key=lambda row: natural(row.generator))
    spent = [spending(row) for row in rows]
    used = [
        name
        for name, parts in COST_COLUMNS.items()
        if any(all(part in one for part in parts) for one in spent)
    ]
    if not used:
        return None
    lines = []
    for row, one in zip(rows, spent, strict=True):
        sums = [
            sum(one[part] for part in parts) if all(part in one for part in parts) else None
            for parts in (COST_COLUMNS[name] for name in used)
        ]
        labels = [
            _label(row.regularizer),
            _label(row.generator),
            _label(row.tokenizer),
            TableCell(guidance_of(row), row.guidance),
        ]
        if any(value is not None for value in sums):
            numbers = [TableCell("" if value is None else number(value), value) for value in sums]
            lines.append(TableRow([*labels, *numbers], row.regularizer, row.generator))
    names = ("regularizer", "generator", "tokenizer", "w")
    heads = [Head(name, numeric=name == "w", more=name == "tokenizer" and _same(rows)) for name in names]
    return HtmlTable([*heads, *map(Head, used)], lines)


def classes(records: Sequence[Record]) -> dict[str, HtmlTable]:
    """{metric: table} of all metrics with values by class: a row per cell, means over seeds."""
    gathered: dict[tuple[str, str], dict[tuple[str, ...], dict[str, list[float]]]] = {}
    seen = set()
    for record in records:
        for name, entry in record.metrics.items():
            generator = "" if entry["scope"] == "tokenizer" else record.cell["generator"]
            labels = (record.cell["regularizer"], generator, record.cell["tokenizer"])
            once = (name, *labels, record.cell["seed"])
            if not entry.get("classes") or once in seen:
                continue
            seen.add(once)
            protocol = protocol_id(full_protocol(entry))
            of = gathered.setdefault((name, protocol), {}).setdefault(labels, {})
            for label, value in entry["classes"].items():
                if value is not None:
                    of.setdefault(label, []).append(value)
    names = [name for name, _ in gathered]
    return {
        name if names.count(name) == 1 else f"{name} {protocol}": _by_class(lines)
        for (name, protocol), lines in gathered.items()
    }


def _by_class(lines: Mapping[tuple[str, ...], Mapping[str, list[float]]]) -> HtmlTable:
    labels = sorted({label for line in lines.values() for label in line}, key=natural)
    several = any(generator for _, generator, _ in lines)
    heads = [Head("regularizer", numeric=False)] + [Head("generator", numeric=False)] * several
    body = []
    for (regularizer, generator, _), line in lines.items():
        means = [sum(line[label]) / len(line[label]) if label in line else None for label in labels]
        texts = [TableCell("" if mean is None else number(mean), mean) for mean in means]
        first = [_label(regularizer)] + [_label(generator)] * several
        body.append(TableRow([*first, *texts], regularizer, generator))
    return HtmlTable([*heads, *map(Head, labels)], body)


def failed(records: Iterable[Record]) -> HtmlTable | None:
    """Cells without an end, and why; seeds of one cell with one reason share a line."""
    seeds: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        if record.status != "done":
            labels = [record.cell[name] for name in LABELS]
            seeds.setdefault((*labels, record.status, reason_line(record)), []).append(record.cell["seed"])
    names = ("regularizer", "generator", "tokenizer", "dataset", "seeds", "status", "reason")
    lines = [
        TableRow(
            list(map(_label, (regularizer, generator, tokenizer, dataset, ", ".join(mine), status, reason))),
            regularizer,
            generator,
        )
        for (dataset, tokenizer, regularizer, generator, status, reason), mine in seeds.items()
    ]
    return HtmlTable([Head(name, numeric=False) for name in names], lines) if lines else None


def plain(table: pd.DataFrame) -> HtmlTable:
    """Any table of numbers and text; a column `url` becomes the first column's link."""
    names = [str(name) for name in table.columns if name != "url"]
    columns = {name: list(table[name]) for name in table.columns}
    links = [str(link) for link in columns.get("url", [""] * len(table))]
    lines = []
    for i, link in enumerate(links):
        line = [_value(columns[name][i]) for name in table.columns if name != "url"]
        safe = (
            link if link.startswith(("https://arxiv.org/", "https://doi.org/", "https://github.com/")) else ""
        )
        lines.append(TableRow([TableCell(line[0].text, line[0].key, link=safe), *line[1:]]))
    numeric = [any(line.cells[j].key is not None for line in lines) for j in range(len(names))]
    return HtmlTable([Head(name, numeric=kind) for name, kind in zip(names, numeric, strict=True)], lines)


def published(records: Iterable[Record] | Results) -> HtmlTable:
    """The papers' numbers beside ours; those that something stands beside come first."""
    table = papers.table(records)
    names = ["paper", "regularizer", "generator", "metric", "value", "ours", "comparable", "why"]
    order = sorted(range(len(table)), key=lambda i: (not table["comparable"][i], not table["ours"][i]))
    rest = [name for name in table.columns if name not in names]
    sheet = plain(table[[*names, *rest]].iloc[order].reset_index(drop=True))
    return replace(sheet, heads=[replace(head, more=head.text in rest) for head in sheet.heads])


def _value(value: Any) -> TableCell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return TableCell("")
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's bool has no number either
        return TableCell("yes" if value else "no")
    try:
        plain = float(value)
    except (TypeError, ValueError):
        return TableCell("" if str(value) in ("nan", "<NA>", "None") else str(value))
    return TableCell(str(value)) if isinstance(value, str) else TableCell(number(plain), plain)


def _label(text: str) -> TableCell:
    return TableCell(text)


def _same(rows: list[Row]) -> bool:
    return len({row.tokenizer for row in rows if not row.real}) < 2
