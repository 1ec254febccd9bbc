"""The leaderboard as a page of Markdown, with all that is needed to read its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..leaderboard.columns import (
    cells,
    columns_of,
    extractors_of,
    first_score,
    guidance_of,
    headers,
    ranked,
    scored,
    shown,
)
from ..leaderboard.cost_table import COST_ABOUT, COST_COLUMNS, spending
from ..leaderboard.details import compact
from ..leaderboard.guidance import judged, told
from ..leaderboard.numbers import number
from ..leaderboard.ranking import (
    Ranking,
    marks,
    mean_shares,
    rank_header,
    rank_texts,
    rankings,
    reading,
    seeds_to_separate,
)
from ..leaderboard.results import Results
from ..leaderboard.rows import LABELS, Column, Row, first_seen, full_protocol, reason_line
from ..records.labels import natural
from ..records.record import Record, protocol_id

if TYPE_CHECKING:
    import pandas as pd

    from .analysis.findings import Finding

MARKS = {"best": "**{}**", "tied": "≈ {}", "": "{}"}
LONGEST = 16  # rows of an analysis's table; its CSV has all


def markdown(
    records: Iterable[Record] | Results,
    title: str,
    findings: Sequence[Finding] = (),
    complete: bool = True,
) -> str:
    """The leaderboard as a page of tables, with all that is needed to read its numbers.

    Ranks and what they rest on are left out of one that isn't complete.
    """
    results = Results.of(records)
    parts = [f"# {escape(title)}", _how_to_read(results.rows)]
    for dataset, mine in results.datasets.items():
        suffix = f" ({escape(dataset)})" if len(results.datasets) > 1 else ""
        tables = {
            "Generation": _generation(ranked(mine.rows, "generator"), complete),
            "Tokenizers": _tokenizers(ranked(mine.tokenizers, "tokenizer"), complete),
            "Cost": _cost([row for row in mine.rows if not row.real]),
        }
        parts += [f"## {heading}{suffix}\n\n{table.strip()}" for heading, table in tables.items() if table]
    sections = {
        "What the matrix says": "\n\n".join(map(_finding, findings)),
        "Failed and skipped": _missing(results.records),
        "Protocols": _protocols(columns_of(results.rows)),
        "Metrics": _metrics(columns_of(results.rows)),
        "Provenance": _provenance(results.records),
    }
    parts += [f"## {heading}\n\n{text}" for heading, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text from a matrix or a plugin as one line of Markdown that a table cell can hold."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|$~])", r"\\\1", text)
    text = re.sub(r"\](?=[(\[:])", r"\]", text)  # a link, not kl[weight=0.01]
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)  # emphasis, not effnet_lite0


def _how_to_read(rows: list[Row]) -> str:
    return (
        "Compare numbers down a column: the arrow says which way is better, the six characters after it name "
        "the protocol (below), `w` is the guidance (1 is none), and `real` are held-out images at their own "
        "number. "
        f"{spread_said(rows)} Every number is in leaderboard.csv."
    )


def spread_said(rows: Sequence[Row]) -> str:
    """What follows a ±, if anything does."""
    single = all(row.seeds == 1 for row in rows)
    return "1 seed: no spread." if single else "Values are mean ± standard deviation over seeds."


def _generation(rows: list[Row], complete: bool) -> str:
    columns, others = shown(rows, "generator")
    if not columns:
        return ""
    held = rankings(rows, columns) if complete else []
    best = first_score(rows, "generator")
    values = _marked(rows, columns, held)
    for row, line in zip(rows, values, strict=True):
        if not scored(row, "generator"):
            line[0] = row.status
    lines = []
    for row, rank, line in zip(rows, _ranks(rows, held, best), values, strict=True):
        labels = [row.generator, row.tokenizer, row.regularizer] if not row.real else ["real", "", ""]
        lines.append([*map(escape, labels), guidance_of(row), *_seeds(row, rows), *rank, *line])
    header = ["generator", "tokenizer", "regularizer", "w", *_seeds_header(rows), *_ranks_header(held, best)]
    return _section(header, lines, columns, others) + _certainty(rows, columns, held, best)


def _tokenizers(rows: list[Row], complete: bool) -> str:
    columns, others = shown(rows, "tokenizer")
    if not columns:
        return ""
    held = rankings(rows, columns) if complete else []
    best = first_score(rows, "tokenizer")
    lines = []
    for row, rank, line in zip(rows, _ranks(rows, held, best), _marked(rows, columns, held), strict=True):
        lines.append([escape(row.tokenizer), escape(row.regularizer), *_seeds(row, rows), *rank, *line])
    header = ["tokenizer", "regularizer", *_seeds_header(rows), *_ranks_header(held, best)]
    return _section(header, lines, columns, others) + _certainty(rows, columns, held, best)


def _marked(rows: list[Row], columns: list[Column], held: list[Ranking]) -> list[list[str]]:
    mark = marks(held)
    return [
        [
            MARKS[mark.get((i, c), "")].format(text)
            for c, text in zip(columns, cells(row, columns), strict=True)
        ]
        for i, row in enumerate(rows)
    ]


def _ranks_header(held: list[Ranking], best: list[Column]) -> list[str]:
    """No column where nothing is known of a score's error."""
    return [header] if (header := rank_header(held, best)) else []


def _ranks(rows: list[Row], held: list[Ranking], best: list[Column]) -> list[list[str]]:
    return [[text for _ in _ranks_header(held, best)] for text in rank_texts(rows, held, best)]


def _certainty(rows: list[Row], columns: list[Column], held: list[Ranking], best: list[Column]) -> str:
    """What the ranks of a table rest on, and what they could have shown."""
    decided = [contest for contest in held if contest.column in best]
    if not decided:
        return ""
    chosen = told(rows, judged(rows).items()) if best[0].scope == "generator" else ""
    read = escape(f"{reading(held, best)} {chosen}".strip())
    parts = [read, _detectable(rows, columns, held, decided), _shares(decided)]
    return "".join(f"\n\n{part}" for part in parts if part)


def _detectable(rows: list[Row], columns: list[Column], held: list[Ranking], decided: list[Ranking]) -> str:
    found = {(c.generator, c.column): c.detectable for c in held if c.detectable}
    shown = [column for column in columns if any(place[1] == column for place in found)]
    if not shown:
        return ""
    ties = {contest.generator: _tie(rows, contest) for contest in reversed(decided)}
    tie = ["seeds to separate the best two"] if any(ties.values()) else []
    axis = ["generator"] if any(contest.generator for contest in held) else []
    lines = []
    for g in dict.fromkeys(contest.generator for contest in held):
        values = [found.get((g, column), "") for column in shown]
        lines.append([*(escape(g) for _ in axis), *values, *(ties.get(g, "") for _ in tie)])
    header = [*axis, *map(escape, headers(shown)), *tie]
    seeds = any("seeds" in contest.basis for contest in held)
    about = "The smallest difference of two rows that would show (80 % power at 5 % over all pairs)"
    about += " with these seeds" if seeds else " beyond sampling noise, to which training adds"
    about += ", of Fréchet distances relative to the smaller" if any(c.logs for c in held) else ""
    about += (
        ", and the seeds of each that would tell the best row from the next where they tie" if tie else ""
    )
    return f"{about}:\n\n{_table(header, lines, len(axis))}"


def _tie(rows: list[Row], contest: Ranking) -> str:
    """The seeds that a decision between the first two would take, where what seeds change is known."""
    rival = seeds_to_separate(rows, contest)
    if rival is None or "seeds" not in contest.basis:
        return ""
    first, (second, needed) = rows[contest.places[0]], rival
    several = first.tokenizer != second.tokenizer
    names = [" ".join([row.tokenizer] * several + [row.regularizer]) for row in (first, second)]
    return f"{'more than 1000' if needed is None else needed} ({escape(names[0])}, {escape(names[1])})"


def _shares(decided: list[Ranking]) -> str:
    """Of nested seeds."""
    found = {contest.generator: shares for contest in decided if (shares := mean_shares(contest))}
    if not found:
        return ""
    names = first_seen(found.values())
    lines = [
        [escape(g), *(f"{shares[name]:.0%}" if name in shares else "" for name in names)]
        for g, shares in found.items()
    ]
    header = ["generator", *names]
    name = ("log " if decided[0].logs else "") + decided[0].column.name
    about = f"Where the variance of {escape(name)} comes from, a mean over rows:"
    return f"{about}\n\n{_table(header, lines, 1)}"


def _finding(finding: Finding) -> str:
    rows = _frame(finding.table.head(LONGEST))
    more = len(finding.table) - LONGEST
    parts = [
        f"### {escape(finding.title)}",
        f"{escape(finding.question)} **{escape(finding.answer)}**",
        f"![{escape(finding.title)}](analysis/{finding.name}.png)" if finding.figure is not None else "",
        rows,
        f"{more} more rows are in [analysis/{finding.name}.csv](analysis/{finding.name}.csv)." * (more > 0),
        escape(finding.method),
    ]
    return "\n\n".join(part for part in parts if part)


def _frame(table: pd.DataFrame) -> str:
    """Numbers to the right and as in other tables, nothing where there is none."""
    from tabulate import tabulate

    header = [escape(str(name)) for name in table.columns]
    lines = [[_plain(value) for value in line] for line in table.astype(object).itertuples(index=False)]
    align = ["right" if kind.kind in "iuf" else "left" for kind in table.dtypes]
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=align) if lines else ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return {True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        return number(value) if math.isfinite(value) else "" if math.isnan(value) else str(value)
    return "" if value is None else escape(str(value))


def _cost(rows: list[Row]) -> str:
    """What a row takes to train and to sample; the CSV has each stage, and what else was counted."""
    spent = [(row, spending(row)) for row in sorted(rows, key=lambda row: natural(row.generator))]
    texts = [[_sum(cost, names) for names in COST_COLUMNS.values()] for _, cost in spent]
    used = [i for i in range(len(COST_COLUMNS)) if any(line[i] for line in texts)]
    lines = []
    for (row, _), line in zip(spent, texts, strict=True):
        if any(line):
            labels = map(escape, (row.generator, row.tokenizer, row.regularizer))
            lines.append([*labels, guidance_of(row), *(line[i] for i in used)])
    header = ["generator", "tokenizer", "regularizer", "w", *(list(COST_COLUMNS)[i] for i in used)]
    measured = {name for row in rows for name in row.cost}
    alone = {names[0] for names in COST_COLUMNS.values() if len(names) == 1}
    rest = [name for name in first_seen(cost for _, cost in spent) if name not in alone]
    others = _others([f"cost_{name}" if name in measured else name for name in rest])
    return (_table(header, lines, 4) + f"\n\n{COST_ABOUT}" if lines else "") + others


def _sum(cost: dict[str, float], names: tuple[str, ...]) -> str:
    """Empty where one is not known."""
    return number(sum(cost[name] for name in names)) if cost.keys() >= set(names) else ""


def _missing(records: list[Record]) -> str:
    """Seeds of one cell with one reason share a line."""
    seeds: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        if record.status != "done":
            labels = [record.cell[name] for name in LABELS]
            seeds.setdefault((*labels, record.status, reason_line(record)), []).append(record.cell["seed"])
    lines = []
    for (*labels, status, reason), mine in seeds.items():
        short = reason if len(reason) <= 300 else reason[:299] + "…"
        lines.append([escape(text) for text in (*labels, ", ".join(mine), status, short)])
    header = [*LABELS, "seeds", "status", "reason"]
    return _table(header, lines, len(header)) if lines else ""


def _protocols(columns: list[Column]) -> str:
    """One line each; what is nested in one, the features, is often shared and has a line of its own."""
    shared, lines = [], []
    for id in dict.fromkeys(column.protocol for column in columns):
        mine = [column for column in columns if column.protocol == id]
        names = ", ".join(escape(column.name) for column in mine)
        protocol = full_protocol(mine[0].entry)
        for key, part in protocol.items():
            if isinstance(part, dict):
                protocol[key] = protocol_id(part)
                shared.append(f"- `{protocol[key]}` {escape(key)}: {escape(compact(part))}")
        lines.append(f"- `{id}` {names}: {escape(compact(protocol))}")
    return "\n".join([*dict.fromkeys(shared), *lines])


def _metrics(columns: list[Column]) -> str:
    lines: dict[str, str] = {}
    for column in columns:
        unit, about = column.entry.get("unit") or "", column.entry.get("about") or ""
        head = " ".join(
            filter(None, (escape(column.base), column.better, escape(f"({unit})") if unit else ""))
        )
        if about:
            lines.setdefault(column.base, f"- {head}: {escape(about)}")
    return "\n".join(lines.values())


def _provenance(records: list[Record]) -> str:
    """Each field with all its values: records of one table may come from several machines and days."""
    seeds = dict.fromkeys(sorted((record.cell["seed"] for record in records), key=natural))
    lines = [f"- cells: {len(records)}, seeds {escape(', '.join(seeds))}"]
    for name in first_seen(record.provenance for record in records):
        if name in ("seed", "uses"):
            continue  # seeds stand in the line above, a row's parts in the resolved matrix
        texts = dict.fromkeys(compact(r.provenance[name]) for r in records if name in r.provenance)
        if name == "date" and len(texts) > 1:
            texts = dict.fromkeys((f"{min(texts)} to {max(texts)}",))
        more = f"; … ({len(texts)} in all)" if len(texts) > 4 else ""
        lines.append(f"- {escape(name)}: {escape('; '.join(list(texts)[:4]))}{more}")
    return "\n".join(lines)


def _section(labels: list[str], lines: list[list[str]], columns: list[Column], others: list[str]) -> str:
    """A table of metrics; what is the same for all rows, the extractor, is said once, below."""
    table = _table([*labels, *map(escape, headers(columns))], lines, len(labels))
    extractors = extractors_of(columns)
    if len(extractors) == 1:
        full = next(column.name for column in columns if extractors[0] in column.name)
        table += f"\n\nFeatures: {escape(extractors[0][1:-1])} (the full names are like {escape(full)})."
    return table + _others(others)


def _table(header: list[str], lines: list[list[str]], labels: int) -> str:
    from tabulate import tabulate

    align = ["left"] * labels + ["right"] * (len(header) - labels)
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=align)


def _others(names: list[str]) -> str:
    return f"\n\nIn leaderboard.csv too: {escape(', '.join(names))}." if names else ""


def _seeds_header(rows: list[Row]) -> list[str]:
    return [] if all(row.seeds == 1 for row in rows) else ["seeds"]


def _seeds(row: Row, rows: list[Row]) -> list[str]:
    """No cell where every row has one seed."""
    text = str(row.seeds) if row.seeds_done == row.seeds else f"{row.seeds_done}/{row.seeds} seeds"
    return [text for _ in _seeds_header(rows)]
