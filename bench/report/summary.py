"""The leaderboard's leading rows as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap

from ..leaderboard.collapse import MARK, marked
from ..leaderboard.columns import cells, headers
from ..leaderboard.notes import notes
from ..leaderboard.results import Leaderboard, Results
from ..leaderboard.rows import grouped, joined
from ..records.record import STATUSES, Record
from .verdict import BASELINE

LINES, ROWS, WIDTH = 25, 19, 100  # at most; the width in characters
LABEL_WIDTH = 22


@dataclass(frozen=True)
class Summary:
    """The leading rows as texts: `table` begins with its header; `notes` explain marks in it."""

    head: str
    table: list[list[str]]
    notes: list[str]
    tally: str  # `6 done, 1 failed cells`


def terminal_summary(records: Iterable[Record] | Results) -> str:
    """The leading rows of each generator, or of tokenizers alone, in at most 25 lines of 100 characters."""
    from tabulate import tabulate

    summary = summarised(records)
    if not summary.table:
        return summary.tally
    lines = tabulate(summary.table, tablefmt="plain", disable_numparse=True).splitlines()
    said = [line for note in summary.notes for line in wrap(note, WIDTH)]
    shown = [line[:WIDTH] for line in [summary.head, *lines]]
    return "\n".join([*shown, *said[: LINES - 2 - len(lines)], summary.tally])


def summarised(records: Iterable[Record] | Results) -> Summary:
    """The leading rows of each generator, or of tokenizers alone; without any score the tally alone."""
    results = Results.of(records)
    board = results.joined_generation.scored
    if not board.rows:
        board = Leaderboard.of(joined(results.tokenizers), "tokenizer")
    counts = {status: sum(r.status == status for r in results.records if not r.real) for status in STATUSES}
    noun = "cell" if sum(counts.values()) == 1 else "cells"
    tally = f"{', '.join(f'{n} {status}' for status, n in counts.items() if n) or 'no'} {noun}"
    if not board.rows:
        return Summary("", [], [], tally)
    standings = board.standings(board.deciding)
    ranks = dict(zip(map(id, board.rows), standings.rank_texts, strict=True))
    guidance = dict(zip(map(id, board.rows), board.guidance_texts, strict=True))
    groups = list(grouped(board.rows, ("dataset", "generator")).values())
    largest = max((len(group) for group in groups if not group[0].real), default=0)
    per_group = largest if len(board.rows) <= ROWS else max(1, min(3, ROWS // len(groups) - 1))
    leading = [
        row
        for group in groups[:ROWS]
        for place, row in enumerate(group)
        if place < per_group or row.part("regularizer") == BASELINE
    ][:ROWS]
    columns = [c for c in board.shown(3)[0] if any(c in row.values for row in leading)][:4]
    names = ["dataset", "generator", "regularizer", "tokenizer", "w", "rank"]
    table = [[*names, *map(_cut, headers(columns))]]
    for row in leading:
        labels = (row.held_out, "", "") if row.real else (row.generator, marked(row), row.tokenizer)
        texts = map(_cut, (row.dataset, *labels, guidance[id(row)], ranks[id(row)]))
        table.append([*texts, *cells(row, columns)])
    used = [any(line[i] for line in table[1:]) for i in range(len(table[0]))]
    used[0] = len({row.dataset for row in board.rows}) > 1
    table = [[text for text, keep in zip(line, used, strict=True) if keep] for line in table]
    cut = largest > per_group
    head = f"best {per_group} of up to {largest} rows" if cut else "all rows"
    head += " of each generator" if board.scope == "generator" else " of tokenizers"
    if cut:
        head += f" and `{BASELINE}`"
    if board.deciding:
        head += f", by {board.deciding[0].name}"
    if "resamples" in standings.bases:
        head += "; one seed: ranks allow for sampling noise only"
    return Summary(head, table, notes(leading, columns), tally)


def _cut(text: str) -> str:
    end = f" {MARK}" if text.endswith(MARK) else ""
    return text if len(text) <= LABEL_WIDTH else f"{text[: LABEL_WIDTH - 1 - len(end)]}…{end}"
