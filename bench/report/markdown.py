"""The leaderboard as a page of Markdown, with all that is needed to read its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..leaderboard.collapse import marked
from ..leaderboard.columns import cells, columns_of, extractors_of, headers
from ..leaderboard.cost_table import cost_about, cost_table
from ..leaderboard.details import compact, protocols, provenance, spread_note, unfinished
from ..leaderboard.notes import notes
from ..leaderboard.numbers import number
from ..leaderboard.ranking import Ranking, Standings
from ..leaderboard.results import Leaderboard, Results
from ..leaderboard.rows import LABELS, Column, Row, first_seen
from ..options.words import listed
from ..records.record import Record, protocol_id
from .analysis.findings import LEADING, leading_figure
from .overview import Overview, best_header, overview, question, unfinished_lines

if TYPE_CHECKING:
    import pandas as pd

    from .analysis.findings import Finding

MARKS = {"best": "**{}**", "tied": "≈ {}", "": "{}"}
LONGEST = 8  # rows of an analysis's table; its CSV has all
LONGEST_REASON = 300  # characters


def markdown(
    records: Iterable[Record] | Results,
    title: str,
    findings: Sequence[Finding] = (),
    to_come: str = "",
    folders: Sequence[Path] = (),
) -> str:
    """The leaderboard as a page of tables; without ranks and answer as long as results are to come."""
    results = Results.of(records)
    first = None if to_come else overview(results, folders)
    parts = [f"# {escape(title)}"]
    if first is None:
        parts.append(f"**Partial.** {escape(to_come)}")
    else:
        parts += [*_first_lines(first), *_leading(findings)]
    parts.append(_how_to_read(results.rows))
    for dataset, of_dataset in results.datasets.items():
        suffix = f" ({escape(dataset)})" if len(results.datasets) > 1 else ""
        tables = {
            "Generation": _scores(of_dataset.generation.scored, ("generator", "regularizer"), not to_come),
            "Tokenizers": _scores(of_dataset.reconstruction, ("regularizer",), not to_come),
            "Cost": _cost(of_dataset.rows),
        }
        if tables["Generation"] and of_dataset.updates_note:
            tables["Generation"] += f"\n\n{escape(of_dataset.updates_note)}"
        parts += [f"## {heading}{suffix}\n\n{table.strip()}" for heading, table in tables.items() if table]
    columns = columns_of(results.rows)
    sections = {
        "Analyses": "\n\n".join(map(_finding, findings)),
        "Skipped and failed cells": _unfinished(results.records),
        "Protocols": _protocols(columns),
        "Metrics": _metrics(columns),
        "Provenance": _provenance(results.records),
    }
    parts += [f"## {heading}\n\n{text}" for heading, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def _first_lines(first: Overview) -> list[str]:
    """When and how the results were made, what was trained, and a table of the best rows."""
    command = f"`{first.command}`" if first.command else ""
    commit = f"commit {first.commit}" if first.commit else ""
    made = " · ".join(filter(None, [escape(first.date), escape(commit), command]))
    parts = [made, escape(first.trained), f"> {escape(first.answer)}", _answers(first)]
    return [part for part in parts if part]


def _answers(first: Overview) -> str:
    """A table of the best regularizer for each generator, its reconstruction, and how sure it is."""
    found = first.verdicts_of_all
    if not found:
        return ""
    best = best_header(found)
    named = {
        "dataset": [v.dataset if len(first.verdicts) > 1 else "" for v in found],
        "generator": [v.generator + (" (baseline)" if v.baseline else "") for v in found],
        best: [v.name for v in found],
        "may be as good": [listed(v.ties, 3) for v in found],
    }
    header = [name for name, texts in named.items() if any(texts)]
    rebuilt = first_seen(v.reconstruction for v in found)
    metrics = list(dict.fromkeys(verdict.header for verdict in found))
    names = [*header, *map(escape, [*metrics, *rebuilt]), *(["rank"] if any(v.rank for v in found) else [])]
    lines = []
    for i, verdict in enumerate(found):
        line = [escape(named[name][i]) for name in header]
        line += [escape(verdict.value) if verdict.header == metric else "" for metric in metrics]
        line += [escape(verdict.reconstruction.get(name, "")) for name in rebuilt]
        lines.append([*line, *([verdict.rank] if "rank" in names else []), escape(verdict.sure)])
    table = _table([*names, "how sure"], lines, len(header), last=True)
    said = dict.fromkeys(filter(None, (verdict.taught for verdict in found)))
    return "\n\n".join([f"## {question(found)}", table, *map(escape, said)])


def _leading(findings: Sequence[Finding]) -> list[str]:
    """The figure that shows the answer."""
    place = leading_figure(findings)
    if place is None or findings[place].name.rpartition("--")[2] not in LEADING:
        return []
    return [f"![{escape(findings[place].question)}](analysis/{findings[place].name}.png)"]


def escape(text: str) -> str:
    """Text from a matrix or a plugin as one line of Markdown that a table cell can hold."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|$~])", r"\\\1", text)
    text = re.sub(r"\](?=[(\[:])", r"\]", text)  # a link, not kl[weight=0.01]
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)  # emphasis, not effnet_lite0


def _how_to_read(rows: list[Row]) -> str:
    return (
        "Compare numbers within a column. The arrow says whether higher or lower is better, and the six "
        "characters after it name the protocol, which is described below. `w` is the guidance (1 means "
        f"none), and {_held_out(rows)}, scored at their own number. "
        f"{spread_note(rows)} These tables show the metrics that decide; leaderboard.csv has every number."
    )


def _held_out(rows: list[Row]) -> str:
    """The rows of held-out images in words; of a decoded set, where there are no images, of its latents."""
    texts = {"real": "`real` are held-out images", "decoded": "`decoded` are decoded held-out latents"}
    found = dict.fromkeys(row.held_out for row in rows if row.real)
    return " and ".join(texts[name] for name in found) or texts["real"]


def _scores(board: Leaderboard, axes: Sequence[str], complete: bool) -> str:
    """A table of a scope's first metrics, and what its ranks rest on."""
    columns, others = board.few
    if not columns:
        return ""
    several_tokenizers = len({row.tokenizer for row in board.rows if not row.real}) > 1
    axes = ["tokenizer", *axes] if several_tokenizers else axes
    standings = board.standings(columns if complete else [])
    guided = board.scope == "generator"
    seeds = {(row.seeds_done, row.seeds) for row in board.rows if not row.real}
    unequal_seeds = len(seeds) > 1 or any(done < planned for done, planned in seeds if planned > 1)
    header = [*axes]
    if guided:
        header.append("w")
    if unequal_seeds:
        header.append("seeds")
    if standings.rank_header:
        header.append(standings.rank_header)
    marks, lines = standings.marks, []
    for place, (row, rank) in enumerate(zip(board.rows, standings.rank_texts, strict=True)):
        labels = vars(row) | {"regularizer": marked(row)}
        line = [escape(labels[axis]) for axis in axes]
        if row.real:
            line = [row.held_out, *[""] * (len(axes) - 1)]
        if guided:
            line.append(board.guidance_texts[place])
        if unequal_seeds:
            all_done = row.seeds_done == row.seeds
            line.append(str(row.seeds) if all_done else f"{row.seeds_done}/{row.seeds} seeds")
        if standings.rank_header:
            line.append(rank)
        texts = zip(columns, cells(row, columns), strict=True)
        values = [MARKS[marks.get((place, column), "")].format(text) for column, text in texts]
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
    power = [part for part in (_detectable(columns, standings), _shares(standings.decided)) if part]
    given = "images" if "images" in standings.bases else "seeds"
    folded = (
        [_folded(f"Differences that these {given} could have shown", "\n\n".join(power))] if power else []
    )
    return "".join(f"\n\n{part}" for part in [note, *folded])


def _folded(summary: str, text: str) -> str:
    """Text that a reader of the page unfolds."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


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
    found_by = "seeds" if any("seeds" in basis for basis in standings.bases) else "images"
    about = "This table has the smallest difference between two rows that"
    about += (
        f" these {found_by} would reveal"
        if standings.bases & {"seeds", "generator seeds", "images"}
        else " would stand out of sampling noise, to which training adds,"
    )
    about += " with 80 % power at the 5 % level over all pairs"
    if any(ranking.logs for ranking in standings.rankings):
        about += "; of Fréchet distances it is relative to the smaller"
    if any(ties.values()):
        about += (
            ". Where the best row ties with the next, the last column has the seeds that would separate them"
        )
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
    about = f"The sources of the variance of {escape(name)}, as a mean over rows:"
    return f"{about}\n\n{_table(['generator', *names], lines, 1)}"


def _finding(finding: Finding) -> str:
    more = len(finding.table) - LONGEST
    parts = [
        f"### {escape(finding.title)}",
        f"{escape(finding.question)} **{escape(finding.answer)}**",
        f"![{escape(finding.title)}](analysis/{finding.name}.png)" if finding.figure is not None else "",
    ]
    link = f"[analysis/{finding.name}.csv](analysis/{finding.name}.csv)"
    fewer = len(finding.short_table.columns) < len(finding.table.columns)
    drawn = [f"[{key}](analysis/{finding.name}--{key}.png)" for key in finding.more_figures]
    table = _frame(finding.short_table.head(LONGEST))
    behind = [
        table,
        f"{more} more rows are in {link}." if more > 0 else "",
        f"More columns are in {link}." if fewer and more <= 0 else "",
        f"More figures: {', '.join(drawn)}." if drawn else "",
        escape(finding.method),
    ]
    parts.append(_folded("Table and method", "\n\n".join(part for part in behind if part)))
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
    several = len({row.tokenizer for row, _ in costs}) > 1
    lines = []
    for row, values in costs:
        named = map(escape, (row.generator, *([row.tokenizer] if several else []), marked(row)))
        texts = ["" if value is None else number(value) for value in values]
        lines.append([*named, row.guidance_text, *texts])
    labels = ["generator", *(["tokenizer"] if several else []), "regularizer", "w"]
    table = f"{_table([*labels, *names], lines, len(labels))}\n\n{cost_about(names)}" if lines else ""
    return table + _others(others)


def _unfinished(records: list[Record]) -> str:
    lines = []
    for labels, seeds, status, reason in unfinished(records):
        if len(reason) > LONGEST_REASON:
            reason = reason[: LONGEST_REASON - 1] + "…"
        lines.append(list(map(escape, (*labels, seeds, status, reason))))
    if not lines:
        return ""
    header = [*LABELS, "seeds", "status", "reason"]
    told = "\n".join(f"- {escape(line)}" for line in unfinished_lines(records))
    return f"{told}\n\n{_folded('All of these cells', _table(header, lines, len(header)))}"


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


def _table(header: list[str], lines: list[list[str]], labels: int, last: bool = False) -> str:
    """A table whose first columns, so many as there are labels, are to the left; `last`: so is the last."""
    from tabulate import tabulate

    align = ["left"] * labels + ["right"] * (len(header) - labels)
    align[-1] = "left" if last else align[-1]
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=align)


def _others(names: list[str]) -> str:
    return f"\n\nOnly leaderboard.csv has: {escape(', '.join(names))}." if names else ""
