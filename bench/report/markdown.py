"""The leaderboard as a page of Markdown, with all that is needed to read its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..leaderboard.collapse import marked
from ..leaderboard.columns import WIDEST, cells, columns_of, extractors_of, headers
from ..leaderboard.cost_table import COST_ABOUT, cost_table
from ..leaderboard.details import compact, protocols, provenance, spread_note, unfinished
from ..leaderboard.notes import notes
from ..leaderboard.numbers import number
from ..leaderboard.ranking import Ranking, Standings
from ..leaderboard.results import Leaderboard, Results
from ..leaderboard.rows import LABELS, Column, Row, first_seen
from ..records.record import Record, protocol_id

if TYPE_CHECKING:
    import pandas as pd

    from .analysis.findings import Finding

MARKS = {"best": "**{}**", "tied": "≈ {}", "": "{}"}
LONGEST = 16  # rows of an analysis's table; its CSV has all
LONGEST_REASON = 300  # characters


def markdown(
    records: Iterable[Record] | Results,
    title: str,
    findings: Sequence[Finding] = (),
    complete: bool = True,
) -> str:
    """The leaderboard as a page of tables; without ranks unless the records are complete."""
    results = Results.of(records)
    parts = [f"# {escape(title)}", _how_to_read(results.rows)]
    for dataset, of_dataset in results.datasets.items():
        suffix = f" ({escape(dataset)})" if len(results.datasets) > 1 else ""
        tables = {
            "Generation": _scores(of_dataset.generation, ("generator", "tokenizer", "regularizer"), complete),
            "Tokenizers": _scores(of_dataset.reconstruction, ("tokenizer", "regularizer"), complete),
            "Cost": _cost(of_dataset.rows),
        }
        if tables["Generation"] and of_dataset.updates_note:
            tables["Generation"] += f"\n\n{escape(of_dataset.updates_note)}"
        parts += [f"## {heading}{suffix}\n\n{table.strip()}" for heading, table in tables.items() if table]
    columns = columns_of(results.rows)
    sections = {
        "What the matrix says": "\n\n".join(map(_finding, findings)),
        "Failed and skipped": _unfinished(results.records),
        "Protocols": _protocols(columns),
        "Metrics": _metrics(columns),
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
        f"the protocol (below), `w` is the guidance (1 is none), and {_held_out(rows)} at their own number. "
        f"{spread_note(rows)} Every number is in leaderboard.csv."
    )


def _held_out(rows: list[Row]) -> str:
    """The rows of held-out images in words; of a decoded set, where there are no images, of its latents."""
    texts = {"real": "`real` are held-out images", "decoded": "`decoded` are decoded held-out latents"}
    found = dict.fromkeys(row.held_out for row in rows if row.real)
    return " and ".join(texts[name] for name in found) or texts["real"]


def _scores(board: Leaderboard, axes: Sequence[str], complete: bool) -> str:
    """A table of a scope's first metrics, and what its ranks rest on."""
    columns, others = board.shown(WIDEST)
    if not columns:
        return ""
    standings = board.standings(columns if complete else [])
    guided = board.scope == "generator"
    several_seeds = any(row.seeds > 1 for row in board.rows)
    header = [*axes]
    if guided:
        header.append("w")
    if several_seeds:
        header.append("seeds")
    if standings.rank_header:
        header.append(standings.rank_header)
    marks, lines = standings.marks, []
    for place, (row, rank) in enumerate(zip(board.rows, standings.rank_texts, strict=True)):
        labels = vars(row) | {"regularizer": marked(row)}
        line = [row.held_out, "", ""] if row.real else [escape(labels[axis]) for axis in axes]
        if guided:
            line.append(board.guidance_texts[place])
        if several_seeds:
            all_done = row.seeds_done == row.seeds
            line.append(str(row.seeds) if all_done else f"{row.seeds_done}/{row.seeds} seeds")
        if standings.rank_header:
            line.append(rank)
        texts = zip(columns, cells(row, columns), strict=True)
        values = [MARKS[marks.get((place, column), "")].format(text) for column, text in texts]
        if guided and not row.scored("generator"):
            values[0] = row.status
        lines.append([*line, *values])
    table = _table([*header, *map(escape, headers(columns))], lines, len(header))
    said = "".join(f"\n\n{escape(note)}" for note in notes(board.rows, columns))
    return table + said + _extractor(columns) + _others(others) + _certainty(board, columns, standings)


def _extractor(columns: list[Column]) -> str:
    """The extractor that all columns share, and which their headers therefore omit."""
    extractors = extractors_of(columns)
    if len(extractors) != 1:
        return ""
    full = next(column.name for column in columns if extractors[0] in column.name)
    return f"\n\nFeatures: {escape(extractors[0][1:-1])} (the full names are like {escape(full)})."


def _certainty(board: Leaderboard, columns: list[Column], standings: Standings) -> str:
    """The basis of a table's ranks, and the differences that they could have shown."""
    if not standings.decided:
        return f"\n\n{escape(board.guidance_note)}" if board.guidance_note else ""
    note = escape(f"{standings.note} {board.guidance_note}".strip())
    parts = [note, _detectable(columns, standings), _shares(standings.decided)]
    return "".join(f"\n\n{part}" for part in parts if part)


def _detectable(columns: list[Column], standings: Standings) -> str:
    """A table of the differences that these seeds would show, and of the seeds that would break ties."""
    found = {(r.generator, r.column): r.detectable for r in standings.rankings if r.detectable}
    shown = [column for column in columns if any(place[1] == column for place in found)]
    if not shown:
        return ""
    ties = {ranking.generator: _tie(ranking) for ranking in reversed(standings.decided)}
    by_generator = any(ranking.generator for ranking in standings.rankings)
    header = [*(["generator"] if by_generator else []), *map(escape, headers(shown))]
    if any(ties.values()):
        header.append("seeds to separate the best two")
    lines = []
    for generator in dict.fromkeys(ranking.generator for ranking in standings.rankings):
        line = [escape(generator)] if by_generator else []
        line += [found.get((generator, column), "") for column in shown]
        if any(ties.values()):
            line.append(ties.get(generator, ""))
        lines.append(line)
    seeds = any("seeds" in basis for basis in standings.bases)
    about = "The smallest difference of two rows that would show (80 % power at 5 % over all pairs)"
    about += " with these seeds" if seeds else " beyond sampling noise, to which training adds"
    if any(ranking.logs for ranking in standings.rankings):
        about += ", of Fréchet distances relative to the smaller"
    if any(ties.values()):
        about += ", and the seeds of each that would tell the best row from the next where they tie"
    return f"{about}:\n\n{_table(header, lines, int(by_generator))}"


def _tie(ranking: Ranking) -> str:
    """The seeds that would separate the best two rows, if it is known what seeds change."""
    rival = ranking.seeds_to_separate()
    if rival is None or "seeds" not in ranking.basis:
        return ""
    best, (second, needed) = ranking.rows[0], rival
    names = [row.regularizer for row in (best, second)]
    if best.tokenizer != second.tokenizer:
        names = [f"{row.tokenizer} {row.regularizer}" for row in (best, second)]
    return f"{'more than 1000' if needed is None else needed} ({escape(names[0])}, {escape(names[1])})"


def _shares(decided: list[Ranking]) -> str:
    """A table of the sources of variance, which nested seeds tell apart."""
    found = {ranking.generator: shares for ranking in decided if (shares := ranking.mean_shares())}
    if not found:
        return ""
    names = first_seen(found.values())
    lines = [
        [escape(generator), *(f"{shares[name]:.0%}" if name in shares else "" for name in names)]
        for generator, shares in found.items()
    ]
    name = ("log " if decided[0].logs else "") + decided[0].column.name
    about = f"Where the variance of {escape(name)} comes from, a mean over rows:"
    return f"{about}\n\n{_table(['generator', *names], lines, 1)}"


def _finding(finding: Finding) -> str:
    more = len(finding.table) - LONGEST
    parts = [
        f"### {escape(finding.title)}",
        f"{escape(finding.question)} **{escape(finding.answer)}**",
        f"![{escape(finding.title)}](analysis/{finding.name}.png)" if finding.figure is not None else "",
        _frame(finding.table.head(LONGEST)),
        f"{more} more rows are in [analysis/{finding.name}.csv](analysis/{finding.name}.csv)."
        if more > 0
        else "",
        escape(finding.method),
    ]
    return "\n\n".join(part for part in parts if part)


def _frame(table: pd.DataFrame) -> str:
    """A table with numbers to the right and as in other tables; missing ones are empty."""
    from tabulate import tabulate

    header = [escape(str(name)) for name in table.columns]
    lines = [[_plain(value) for value in line] for line in table.astype(object).itertuples(index=False)]
    align = ["right" if kind.kind in "iuf" else "left" for kind in table.dtypes]
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=align) if lines else ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float):
        return number(value) if math.isfinite(value) else str(value)
    return escape(str(value))


def _cost(rows: list[Row]) -> str:
    names, costs, others = cost_table(rows)
    lines = []
    for row, values in costs:
        labels = map(escape, (row.generator, row.tokenizer, marked(row)))
        texts = ["" if value is None else number(value) for value in values]
        lines.append([*labels, row.guidance_text, *texts])
    header = ["generator", "tokenizer", "regularizer", "w", *names]
    table = f"{_table(header, lines, 4)}\n\n{COST_ABOUT}" if lines else ""
    return table + _others(others)


def _unfinished(records: list[Record]) -> str:
    lines = []
    for labels, seeds, status, reason in unfinished(records):
        if len(reason) > LONGEST_REASON:
            reason = reason[: LONGEST_REASON - 1] + "…"
        lines.append(list(map(escape, (*labels, seeds, status, reason))))
    header = [*LABELS, "seeds", "status", "reason"]
    return _table(header, lines, len(header)) if lines else ""


def _protocols(columns: list[Column]) -> str:
    """A line for each protocol; nested ones, such as features, are often shared and have their own lines."""
    shared, lines = [], []
    for id, (names, protocol) in protocols(columns).items():
        for key, nested in protocol.items():
            if isinstance(nested, dict):
                protocol[key] = protocol_id(nested)
                shared.append(f"- `{protocol[key]}` {escape(key)}: {escape(compact(nested))}")
        lines.append(f"- `{id}` {', '.join(map(escape, names))}: {escape(compact(protocol))}")
    return "\n".join([*dict.fromkeys(shared), *lines])


def _metrics(columns: list[Column]) -> str:
    lines: dict[str, str] = {}
    for column in columns:
        unit, about = column.entry.get("unit"), column.entry.get("about")
        words = [escape(column.base), column.better, escape(f"({unit})") if unit else ""]
        if about:
            lines.setdefault(column.base, f"- {' '.join(filter(None, words))}: {escape(about)}")
    return "\n".join(lines.values())


def _provenance(records: list[Record]) -> str:
    fields = provenance(records)
    lines = [f"- cells: {len(records)}, seeds {escape(fields.pop('seeds')[0])}"]
    for name, values in fields.items():
        if name != "uses":  # the parts of rows stand in the resolved matrix
            more = f"; … ({len(values)} in all)" if len(values) > 4 else ""
            lines.append(f"- {escape(name)}: {escape('; '.join(values[:4]))}{more}")
    return "\n".join(lines)


def _table(header: list[str], lines: list[list[str]], labels: int) -> str:
    """A table whose first columns, so many as there are labels, are to the left."""
    from tabulate import tabulate

    align = ["left"] * labels + ["right"] * (len(header) - labels)
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=align)


def _others(names: list[str]) -> str:
    return f"\n\nIn leaderboard.csv too: {escape(', '.join(names))}." if names else ""
