"""One page of leaderboards from several results folders and archives: a section for each dataset.

Only rows with one protocol of the deciding score and one budget share a table and are ranked together. The
papers' own numbers stand in tables of their own, unranked.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...leaderboard.columns import deciding_few, extractors_of, score_columns, value_text
from ...leaderboard.contributions import Contribution, MadeBy, made_by, plain_text
from ...leaderboard.details import protocols
from ...leaderboard.guidance import Choice
from ...leaderboard.notes import taught_note
from ...leaderboard.numbers import number, plural
from ...leaderboard.published import Figure, figures
from ...leaderboard.ranking import Standings, rankings
from ...leaderboard.results import Leaderboard
from ...leaderboard.rows import Column, Row
from ...options.control_characters import escape_control_characters
from ...records.labels import natural
from ...store.disk import replace_text
from ..places import NotWritable
from .tables import LINKED
from .templates import FOLDER, STYLE, template

MARK = '<meta name="generator" content="latentbench leaderboards">'
SIZES = ((1.0, "less than 1 M"), (10.0, "1 to 10 M"), (100.0, "10 to 100 M"), (float("inf"), "100 M or more"))
UNKNOWN = "not recorded"
REBUILT = 2  # columns of reconstruction beside those of generation


@dataclass(frozen=True)
class Entry:
    """A row of a contribution at its chosen guidance."""

    contribution: Contribution
    row: Row
    guidance: str
    made: MadeBy

    @property
    def size(self) -> str:
        """The tokenizer's size as the filter offers it."""
        if self.made.parameters is None:
            return UNKNOWN
        return next(text for most, text in SIZES if self.made.parameters < most)


@dataclass(frozen=True)
class ShownScore:
    """A score of a row as text, and its mark: "best", "tied" or none."""

    text: str
    mark: str
    tip: str


@dataclass(frozen=True)
class ShownColumn:
    """A score's header; `judge` is the feature extractor, or empty."""

    name: str
    arrow: str
    n: str
    protocol: str
    judge: str


@dataclass(frozen=True)
class ShownRow:
    """A row as the page shows it."""

    rank: str
    entry: Entry
    scores: list[ShownScore]
    parameters: str


@dataclass(frozen=True)
class Group:
    """Rows that compare: one protocol of the deciding score, and one budget."""

    deciding: str  # `gFD[effnet_lite0] 1a2b3c`
    budget: str
    columns: list[ShownColumn]
    rows: list[ShownRow]
    rank_header: str
    note: str


@dataclass(frozen=True)
class PublishedTable:
    """A paper's table on one data set: a row for each setting."""

    first: Figure  # for the paper, its table and address
    metrics: list[str]
    rows: list[tuple[Figure, dict[str, str]]]  # a figure of the row, and the values by metric
    protocols: list[str]
    notes: list[str]


def write_leaderboards(path: Path, contributions: Sequence[Contribution]) -> Path:
    """Writes the page.

    Raises:
        NotWritable: the file is somebody else's.
    """
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise NotWritable(f"{path} is no page of leaderboards, and would be replaced: move it")
    replace_text(path, html(contributions))
    return path


def html(contributions: Sequence[Contribution]) -> str:
    """The page as text; the template escapes everything that comes from records and archives."""
    sections = {name: _groups(entries) for name, entries in _by_dataset(contributions).items()}
    entries = [row.entry for groups in sections.values() for group in groups for row in group.rows]
    columns = [column for groups in sections.values() for group in groups for column in group.columns]
    script = (FOLDER / "leaderboards.js").read_text(encoding="utf-8")
    return template("leaderboards.html").render(
        style=STYLE,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        mark=MARK,
        sections=sections,
        contributions=contributions,
        tally=f"{plural(len(entries), 'row')} of {plural(len(contributions), 'contribution')}",
        datasets=list(sections),
        sizes=_offered(entry.size for entry in entries),
        latents=_offered(entry.made.latent or UNKNOWN for entry in entries),
        judges=_offered(column.judge for column in columns if column.judge),
        protocols=_protocols(contributions, {column.protocol for column in columns}),
        published=_published(),
        linked=LINKED,
        unknown=UNKNOWN,
    )


def _by_dataset(contributions: Iterable[Contribution]) -> dict[str, list[Entry]]:
    """The rows of each dataset, each at its chosen guidance."""
    found: dict[str, list[Entry]] = {}
    for contribution in contributions:
        for name, results in contribution.results.datasets.items():
            generation = results.generation.scored
            board = generation if generation.columns else results.reconstruction.scored
            texts = board.guidance_texts
            for place in board.guidance:
                row = board.rows[place]
                guidance = texts[place] if board.scope == "generator" else ""
                cost = row.cost or next((r.cost for r in results.rows if _one_tokenizer(r, row)), {})
                made = made_by(contribution, row) if row.generator else _made(contribution, results.rows, row)
                if made.parameters is None and "tokenizer_parameters_million" in cost:
                    made = MadeBy(**vars(made) | {"parameters": cost["tokenizer_parameters_million"]})
                found.setdefault(name, []).append(Entry(contribution, row, guidance, made))
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def _made(contribution: Contribution, rows: Sequence[Row], row: Row) -> MadeBy:
    """How a tokenizer's row was made: as the first of the rows that share the tokenizer."""
    return made_by(contribution, next((one for one in rows if _one_tokenizer(one, row)), row))


def _one_tokenizer(a: Row, b: Row) -> bool:
    return (a.dataset, a.tokenizer, a.regularizer) == (b.dataset, b.tokenizer, b.regularizer)


def _groups(entries: Sequence[Entry]) -> list[Group]:
    """The tables of a dataset, those with the most rows first."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        scope = "generator" if entry.row.scored("generator") else "tokenizer"
        deciding = Leaderboard.of([entry.row], scope).deciding
        name = f"{deciding[0].name} {deciding[0].protocol}" if deciding else ""
        groups.setdefault((name, entry.made.budget), []).append(entry)
    shown = [_group(name, budget, members) for (name, budget), members in groups.items()]
    return sorted(shown, key=lambda group: (-len(group.rows), group.deciding, group.budget))


def _group(deciding: str, budget: str, entries: Sequence[Entry]) -> Group:
    scope = "generator" if any(entry.row.scored("generator") for entry in entries) else "tokenizer"
    board = Leaderboard.of([entry.row for entry in entries], scope)
    own = {id(entry.row): entry for entry in entries}
    columns = _columns(board)
    chosen: dict[int, Choice] = {place: Choice(row.guidance) for place, row in enumerate(board.rows)}
    ranked = [one for column in columns for one in rankings(board.rows, [column], chosen)]
    standings = Standings(board.rows, board.deciding, ranked)
    marks, ranks = standings.marks, standings.rank_texts
    rows = []
    for place, row in enumerate(board.rows):
        entry = own[id(row)]
        scores = [_score(row, column, marks.get((place, column), "")) for column in columns]
        size = entry.made.parameters
        rows.append(ShownRow(ranks[place], entry, scores, "" if size is None else f"{number(size)} M"))
    heads = [
        ShownColumn(
            plain_text(re.sub(r"\[.*\]", "", column.name)),
            column.better,
            f"{column.entry['n']:,}",
            column.protocol,
            plain_text("".join(extractors_of([column]))[1:-1]),
        )
        for column in columns
    ]
    notes = [standings.note if standings.rank_header else "", taught_note(board.rows, columns)]
    note = escape_control_characters(" ".join(filter(None, notes)))
    return Group(plain_text(deciding), budget, heads, rows, standings.rank_header, note)


def _columns(board: Leaderboard) -> list[Column]:
    """The few scores that decide, the deciding one by each further judge, and two of reconstruction."""
    few, _ = deciding_few([column for column in board.columns if "@" not in column.name] or board.columns)
    kinds = {column.base for column in board.deciding}
    columns = [*few, *(c for c in board.columns if c.base in kinds and "@" not in c.name and c not in few)]
    if board.scope == "generator":
        rebuilt, _ = deciding_few(score_columns(board.rows, "tokenizer"))
        names = list(dict.fromkeys(column.name for column in rebuilt if column.better))[:REBUILT]
        columns += [column for column in rebuilt if column.name in names]
    return columns


def _score(row: Row, column: Column, mark: str) -> ShownScore:
    if column not in row.values:
        return ShownScore("", "", "")
    value = row.values[column]
    text = value_text(value, row.seeds)
    taught = " †" if row.taught_by(column) else ""
    tip = f"{plural(value.n, 'seed')}"
    if value.interval:
        tip += f"; 95 % interval {number(value.interval[0])} to {number(value.interval[1])}"
    return ShownScore(plain_text(text) + taught, mark, tip)


def _offered(texts: Iterable[str]) -> list[str]:
    """The choices of a filter, what isn't known last."""
    return sorted(set(texts), key=lambda text: (text == UNKNOWN, natural(text)))


def _protocols(contributions: Sequence[Contribution], wanted: set[str]) -> dict[str, Any]:
    """The protocols of the page's columns by id, each with the metrics that have it."""
    found: dict[str, Any] = {}
    for contribution in contributions:
        columns = list(dict.fromkeys(c for row in contribution.results.rows for c in row.values))
        for id, (_, protocol) in protocols(columns).items():
            if id in wanted:
                found[id] = _plain(protocol)
    return dict(sorted(found.items()))


def _plain(value: Any) -> Any:
    """A stranger's protocol as plain texts, in the same mappings."""
    if isinstance(value, dict):
        return {plain_text(key): _plain(item) for key, item in value.items()}
    return plain_text(value)


def _published() -> dict[str, list[PublishedTable]]:
    """The papers' tables by data set, in the order of published.yaml."""
    tables: dict[tuple[str, str, str], list[Figure]] = {}
    for one in figures():
        tables.setdefault((one.data, one.paper, one.table), []).append(one)
    by_data: dict[str, list[PublishedTable]] = {}
    for (data, _, _), found in tables.items():
        rows: dict[tuple[str, ...], list[Figure]] = {}
        protocols: dict[str, list[str]] = {}
        for one in found:
            rows.setdefault((one.setting, one.regularizer, one.generator), []).append(one)
            names = protocols.setdefault(f"n {one.n:,}, {one.protocol or 'the protocol is not said'}", [])
            names += [_metric(one)] if _metric(one) not in names else []
        shown = PublishedTable(
            found[0],
            list(dict.fromkeys(map(_metric, found))),
            [(of_row[0], {_metric(one): f"{one.value:g}" for one in of_row}) for of_row in rows.values()],
            [f"{', '.join(names)}: {text}" for text, names in protocols.items()],
            list(dict.fromkeys(one.note for one in found if one.note)),
        )
        by_data.setdefault(data, []).append(shown)
    return by_data


def _metric(figure: Figure) -> str:
    return figure.metric + (" guided" if figure.guided else "")
