"""HTML tables: the text of each cell, what it is sorted by, its shade and mark, and its tooltip."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ...leaderboard import published as papers
from ...leaderboard.collapse import collapse, marked
from ...leaderboard.columns import cells, headers, value_text
from ...leaderboard.cost_table import cost_table
from ...leaderboard.details import unfinished
from ...leaderboard.notes import notes
from ...leaderboard.numbers import number, plural
from ...leaderboard.older_records import updated
from ...leaderboard.ranking import Basis, Ranking
from ...leaderboard.results import Leaderboard, Results
from ...leaderboard.rows import Column, Row, Value, full_protocol, shared_name
from ...records.labels import natural
from ...records.record import Record, protocol_id
from ...statistics.observations import Observation, bound_of
from ...statistics.significance import Rank

if TYPE_CHECKING:
    import pandas as pd

BASES = {  # of ranks that don't include the variance between tokenizers
    "generator seeds": "The rank rests on the generators of one tokenizer alone.",
    "resamples": "The rank rests on the images of one seed alone.",
    "none": "The row has one number, so its error is unknown.",
}
BETTER = {"higher": "Higher is better.", "lower": "Lower is better."}
LINKED = ("https://arxiv.org/", "https://doi.org/", "https://github.com/")


@dataclass(frozen=True)
class Head:
    """A column's header."""

    text: str
    tip: str = ""
    arrow: str = ""
    protocol: str = ""  # the id, a link to its description
    numeric: bool = True
    more: bool = False  # whether the column is hidden until all columns are asked for


REAL = {"real": "real images", "decoded": "held-out latents, decoded"}  # rows of held-out images


@dataclass(frozen=True)
class TableCell:
    """A cell; `heat` is 0 for the worst and 1 for the best of its group."""

    text: str
    key: float | None = None  # what it is sorted by; None: its text
    tip: str = ""
    heat: float | None = None
    mark: str = ""  # "best": separable from all others of its group; "tied": may be the best
    link: str = ""

    @property
    def sort(self) -> str | None:
        """The key as the page has it; None where the text is a number that sorts as well."""
        plain = self.mark != "tied" and re.fullmatch(r"-?\d+(\.\d+)?", self.text)  # a tie has a sign, too
        if self.key is None or plain:
            return None
        return f"{self.key:.6g}"


@dataclass(frozen=True)
class TableRow:
    """A table's row; filters choose by its regularizer and generator."""

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


class Place(NamedTuple):
    """A row's place among those that it is ranked with, by one column."""

    heat: float
    rank: Rank
    of: int
    mark: str
    basis: Basis


def scores(board: Leaderboard, note: str = "") -> HtmlTable | None:
    """All rows that have a score of the board's scope, with all of its metrics, and a note more.

    The few metrics that decide come first and have short names, if one network judges by all of them.
    """
    board = board.scored
    if not board.columns:
        return None
    few, _ = board.few
    columns = [*few, *(column for column in board.columns if column not in few)]
    standings = board.standings(columns)
    places = _places(standings.rankings)
    guided = board.scope == "generator"
    heads = _label_heads(board.rows, guided, board.guidance_note)
    if standings.rank_header:
        heads.append(Head(standings.rank_header, standings.note))
    heads.append(
        Head(
            "seeds",
            "The number of seeds that finished; every number is a mean over them.",
            more=True,  # a mean over fewer seeds says so
        )
    )
    rest = columns[len(few) :]
    for column, text in zip(columns, [*headers(few), *headers(rest)], strict=True):
        name = text.removesuffix(column.protocol).strip().removesuffix(column.better or "\0").strip()
        heads.append(Head(name, about(column), column.better, column.protocol, more=column not in few))
    lines = []
    for i, (row, rank) in enumerate(zip(board.rows, standings.rank_texts, strict=True)):
        line = _labels(row, board.guidance_texts[i] if guided else None)
        if standings.rank_header:
            lowest = [places[i, column].rank.low for column in board.deciding if (i, column) in places]
            line.append(TableCell(rank, lowest[0] if lowest else None))
        done = str(row.seeds) if row.seeds_done == row.seeds else f"{row.seeds_done} of {row.seeds}"
        line.append(TableCell(done, row.seeds_done))
        for column, text in zip(columns, cells(row, columns), strict=True):
            line.append(_score(text, row.values.get(column), places.get((i, column)), row.trained))
        lines.append(TableRow(line, row.regularizer, row.generator, row.real))
    return HtmlTable(heads, lines, " ".join([standings.note, *notes(board.rows, columns), note]).strip())


def _label_heads(rows: Iterable[Row], guided: bool, guidance_note: str = "") -> list[Head]:
    """The headers of `_labels`; tokenizers are hidden if there is one."""
    tips = {"w": guidance_note}
    several = len({row.tokenizer for row in rows if not row.real}) > 1
    names = ("regularizer", "generator", "tokenizer", "w") if guided else ("regularizer", "tokenizer")
    return [
        Head(name, tips.get(name, ""), numeric=name == "w", more=name == "tokenizer" and not several)
        for name in names
    ]


def _labels(row: Row, guidance: str | None) -> list[TableCell]:
    """A row's labels, and with the text of its guidance its generator and that."""
    regularizer, generator, tokenizer = marked(row), row.generator, row.tokenizer
    if row.real:
        regularizer, generator, tokenizer = REAL[row.held_out], "", ""
    first = TableCell(regularizer, tip=collapse(row))
    if guidance is None:
        return [first, TableCell(tokenizer)]
    return [first, TableCell(generator), TableCell(tokenizer), TableCell(guidance, row.guidance)]


def _places(rankings: Iterable[Ranking]) -> dict[tuple[int, Column], Place]:
    """{(index of a row, column): its place}."""
    places = {}
    for ranking in rankings:
        heats = _heats([ranking.column.best_first(row.values[ranking.column]) for row in ranking.rows])
        for i, heat, rank, mark in zip(ranking.places, heats, ranking.ranks, ranking.marks, strict=True):
            basis: Basis = "none" if rank.basis == "none" else ranking.basis
            places[i, ranking.column] = Place(heat, rank, len(heats), mark, basis)
    return places


def _heats(keys: list[float]) -> list[float]:
    """Shares of the way from the worst key to the best, the lowest; bounds are at the ends."""
    finite = [key for key in keys if math.isfinite(key)]
    best, worst = min(finite, default=0.0), max(finite, default=0.0)
    ends = {-math.inf: 1.0, math.inf: 0.0}
    return [ends.get(key, (worst - key) / (worst - best) if worst > best else 0.0) for key in keys]


def _score(text: str, value: Value | None, place: Place | None, trained: bool) -> TableCell:
    if value is None:
        return TableCell(text)
    tip = [f"{text} over {plural(value.n, 'seed')}."]
    if value.interval:
        error = " (sampling noise only)" if value.n == 1 and trained else ""
        tip.append(f"95 % interval{error}: {number(value.interval[0])} to {number(value.interval[1])}.")
    if not place:
        return TableCell(text, value.mean, "\n".join(tip))
    low, high = place.rank.low, place.rank.high
    tip.append(f"Rank {low} of {place.of}." if low == high else f"Rank {low} to {high} of {place.of}.")
    if place.mark == "tied":
        tip.append("It may be the best.")
    if place.basis in BASES:
        tip.append(BASES[place.basis])
    return TableCell(text, value.mean, "\n".join(tip), place.heat, place.mark)


def about(column: Column) -> str:
    """The tooltip of a metric's header."""
    entry = column.entry
    unit = f"Unit: {entry['unit']}." if entry.get("unit") else ""
    lines = [
        column.name,
        entry.get("about"),
        BETTER.get(entry.get("better") or ""),
        unit,
        f"n = {entry['n']:,}",
    ]
    return "\n".join(filter(None, [*lines, f"Protocol {column.protocol}"]))


def cost(rows: Sequence[Row]) -> HtmlTable | None:
    """The costs of rows: training and sampling."""
    names, costs, _ = cost_table(rows)
    if not names:
        return None
    lines = [
        TableRow([*_labels(row, row.guidance_text), *map(_number, values)], row.regularizer, row.generator)
        for row, values in costs
    ]
    return HtmlTable([*_label_heads(rows, guided=True), *map(Head, names)], lines)


def classes(records: Sequence[Record]) -> dict[str, HtmlTable]:
    """{metric: table} of all metrics with values by class: a row per cell, means over seeds."""
    gathered: dict[tuple[str, str], dict[tuple[str, ...], dict[str, list[Observation]]]] = {}
    seen = set()
    for record in records:
        for own_name, entry in updated(record.metrics).items():
            name = shared_name(record, own_name)
            generator = "" if entry["scope"] == "tokenizer" else record.cell["generator"]
            labels = (record.cell["regularizer"], generator, record.cell["tokenizer"])
            key = (name, *labels, record.cell["seed"])
            if not entry.get("classes") or key in seen:
                continue
            seen.add(key)
            protocol = protocol_id(full_protocol(entry))
            by_class = gathered.setdefault((name, protocol), {}).setdefault(labels, {})
            bounds = entry.get("class_bounds", {})
            for label, value in entry["classes"].items():
                if value is not None:
                    one = Observation(value, record.cell["seed"], (), bounds.get(label, ""))
                    by_class.setdefault(label, []).append(one)
    names = [name for name, _ in gathered]
    return {
        name if names.count(name) == 1 else f"{name} {protocol}": _by_class(lines)
        for (name, protocol), lines in gathered.items()
    }


def _by_class(lines: Mapping[tuple[str, ...], Mapping[str, list[Observation]]]) -> HtmlTable:
    """A table of means over seeds, with a column per class, and the number of seeds where some lack it."""
    names = sorted({name for line in lines.values() for name in line}, key=natural)
    generated = any(generator for _, generator, _ in lines)
    heads = [Head("regularizer", numeric=False)]
    if generated:
        heads.append(Head("generator", numeric=False))
    body = []
    for (regularizer, generator, _), line in lines.items():
        labels = [regularizer, generator] if generated else [regularizer]
        seeds = max(map(len, line.values()), default=0)
        means = [_class_mean(line.get(name, []), seeds) for name in names]
        body.append(TableRow([*map(TableCell, labels), *means], regularizer, generator))
    return HtmlTable([*heads, *map(Head, names)], body)


def _class_mean(observations: Sequence[Observation], seeds: int) -> TableCell:
    """The mean of a class over the seeds that have it."""
    if not observations:
        return TableCell("")
    mean = sum(o.value for o in observations) / len(observations)
    value = Value(mean, None, len(observations), bound=bound_of(observations))
    return TableCell(value_text(value, seeds), mean)


def failed(records: Iterable[Record]) -> HtmlTable | None:
    """Cells that failed or were skipped, and why."""
    names = ("regularizer", "generator", "tokenizer", "dataset", "seeds", "status", "reason")
    lines = []
    for (dataset, tokenizer, regularizer, generator), *details in unfinished(records):
        texts = (regularizer, generator, tokenizer, dataset, *details)
        lines.append(TableRow(list(map(TableCell, texts)), regularizer, generator))
    return HtmlTable([Head(name, numeric=False) for name in names], lines) if lines else None


def plain(table: pd.DataFrame) -> HtmlTable:
    """Any table of numbers and text; a column `url` becomes the first column's link."""
    names = [name for name in table.columns if name != "url"]
    columns = {name: list(table[name]) for name in table.columns}
    links = [str(link) for link in columns.get("url", [""] * len(table))]
    lines = []
    for i, link in enumerate(links):
        first, *others = (_value(columns[name][i]) for name in names)
        safe = link if link.startswith(LINKED) else ""
        lines.append(TableRow([TableCell(first.text, first.key, link=safe), *others]))
    numeric = [any(line.cells[j].key is not None for line in lines) for j in range(len(names))]
    return HtmlTable(
        [Head(str(name), numeric=kind) for name, kind in zip(names, numeric, strict=True)], lines
    )


def published(results: Results) -> HtmlTable:
    """The papers' numbers beside ours; without rows unless some number can be compared.

    Those that can be compared come first, and those that aren't measured here are left out.
    """
    table = papers.table(results)
    names = ["paper", "regularizer", "generator", "metric", "value", "ours", "comparable", "why"]
    places = [i for i in range(len(table)) if "ours" in table and table["ours"][i]]
    if not any(table["comparable"][i] for i in places):
        places = []
    rest = [name for name in table.columns if name not in names]
    order = sorted(places, key=lambda i: not table["comparable"][i])
    html = plain(
        table[[name for name in (*names, *rest) if name in table]].iloc[order].reset_index(drop=True)
    )
    return replace(html, heads=[replace(head, more=head.text in rest) for head in html.heads])


def _number(value: float | None) -> TableCell:
    return TableCell("" if value is None else number(value), value)


def _value(value: Any) -> TableCell:
    """A cell of a pandas table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return TableCell("")
    if isinstance(value, str):
        return TableCell(value)
    if type(value).__name__ in ("bool", "bool_"):  # numpy's, too
        return TableCell("yes" if value else "no")
    try:
        plain = float(value)
    except (TypeError, ValueError):
        return TableCell("" if str(value) == "<NA>" else str(value))  # a missing value of pandas
    return TableCell(number(plain), plain)
