"""The leaderboard's leading rows as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from ..leaderboard.columns import cells, first_score, guidance_of, headers, ranked, scored, shown
from ..leaderboard.ranking import rank_texts, rankings
from ..leaderboard.results import Results
from ..leaderboard.rows import Column, Row, grouped, joined
from ..records.record import Record


def terminal_summary(records: Iterable[Record]) -> str:
    """For the terminal: the leading rows of each generator, at most 25 lines of 100 columns."""
    results, scope = Results.of(records), "generator"
    rows = [row for row in joined(results.rows) if scored(row, scope)]
    if not rows:
        scope, rows = "tokenizer", joined(results.tokenizers)
    rows = ranked(rows, scope)
    columns, _ = shown(rows, scope, most=3)
    best = first_score(rows, scope)
    held = rankings(rows, best)
    ranks = dict(zip(map(id, rows), rank_texts(rows, held, best), strict=True))
    groups = grouped(rows, ("dataset", "generator"))
    each = max(1, min(3, 19 // max(1, len(groups))))
    leading = [row for group in list(groups.values())[:19] for row in group[:each]]
    columns = [column for column in columns if any(column in row.values for row in leading)][:4]
    lines = [["dataset", "generator", "regularizer", "tokenizer", "w", "rank", *headers(columns)]]
    lines += [_line(row, ranks[id(row)], columns) for row in leading]
    used = [any(line[i] for line in lines[1:]) for i in range(len(lines[0]))]
    used[0] = len({row.dataset for row in rows}) > 1
    lines = [[text for text, keep in zip(line, used, strict=True) if keep] for line in lines]
    widths = [min(22, max(map(len, column))) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(_fit, line, widths)).rstrip()[:100] for line in lines]
    cells = [record for record in results.records if not record.real]
    counts = {status: sum(r.status == status for r in cells) for status in ("done", "failed", "skipped")}
    tally = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no"
    if not rows:
        return f"{tally} cells"
    most = max((len(group) for group in groups.values() if not group[0].real), default=0)
    part = f"best {each} of up to {most} rows" if most > each else "all rows"
    what = "a generator" if scope == "generator" else "of tokenizers"
    by = f" by {best[0].name}" if best else ""
    note = "; one seed: ranks are sampling noise only" * any(c.basis == "resamples" for c in held)
    return "\n".join([f"{part} {what}{by}{note}"[:100], *text, f"{tally} cells"])


def _line(row: Row, rank: str, columns: list[Column]) -> list[str]:
    labels = ("real", "", "") if row.real else (row.generator, row.regularizer, row.tokenizer)
    return [row.dataset, *labels, guidance_of(row), rank, *cells(row, columns)]


def _fit(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)
