"""Records become tables: leaderboard.csv for programs, leaderboard.md and a summary for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .markdown import markdown
from .records import Record, RecordError, comparable, in_order, read, replace_text
from .rows import LABELS, Column, Row, Value, first_seen, grouped, joined, rows_of, tokenizer_rows
from .tables import cells, columns_of, guidance_of, headers, ranked, scored, shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frame", "markdown", "report", "summary", "write"]

IDENTITY = (*LABELS, "guidance", "status", "seeds_done", "seeds")


def write(folder: str | Path, records: Iterable[Record], title: str | None = None) -> list[Path]:
    """Writes `folder`/leaderboard.csv and .md from records in any order; returns the paths.

    Without a title it is the provenance's "matrix" (where all records agree), or the folder's name.
    """
    folder, records = Path(folder), in_order(records)
    if title is None:
        named = {str(record.provenance.get("matrix") or "") for record in records}
        title = named.pop() if len(named) == 1 else ""
    folder.mkdir(parents=True, exist_ok=True)
    table = frame(records).to_csv(index=False, lineterminator="\n")
    texts = {"leaderboard.csv": table, "leaderboard.md": markdown(records, title or folder.resolve().name)}
    for name, text in texts.items():
        replace_text(folder / name, text)
    return [folder / name for name in texts]


def report(folders: Sequence[str | Path], out: str | Path, title: str | None = None) -> list[Path]:
    """Rebuilds the tables in `out` from FOLDER/records of one or several results folders alone."""
    found: dict[tuple[str, ...], tuple[str | Path, Record]] = {}
    for folder in folders:
        records = read(Path(folder) / "records")
        if not records:
            raise RecordError(f"no records in {Path(folder) / 'records'}")
        for record in records:
            cell = tuple(record.cell.values())
            other, known = found.get(cell, (folder, record))
            if record.status == known.status == "done" and comparable(record) != comparable(known):
                raise RecordError(
                    f"{other} and {folder} have different numbers for the cell {'/'.join(cell)}"
                )
            if cell not in found or (record.status == "done" and known.status != "done"):
                found[cell] = (folder, record)
    return write(out, [record for _, record in found.values()], title)


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (dataset, tokenizer, regularizer, generator, guidance), over seeds; all plain numbers.

    A metric's columns are NAME, NAME_std (empty for one seed) and NAME_n, the seeds that the mean is over. A
    name with several protocols in a dataset is followed by {id}. `guidance` is empty for the `real` row and
    for cells without generation metrics.
    """
    import pandas as pd

    rows = joined(rows_of(in_order(records)))
    columns = columns_of(rows)
    data: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in IDENTITY}
    data["guidance"] = pd.array(data["guidance"], dtype="Float64")
    for column in columns:
        twins = sum(other.name == column.name for other in columns)
        name = column.name if twins == 1 else f"{column.name}{{{column.protocol}}}"
        values = [row.values.get(column, Value(None, None, 0)) for row in rows]
        data[name] = pd.array([v.mean for v in values], dtype="Float64")
        data[f"{name}_std"] = pd.array([v.std for v in values], dtype="Float64")
        data[f"{name}_n"] = [v.n for v in values]
    for name in first_seen(row.cost for row in rows):
        data[f"cost_{name}"] = pd.array([row.cost.get(name) for row in rows], dtype="Float64")
    return pd.DataFrame({**data, "reason": [row.reason for row in rows]})


def summary(records: Iterable[Record]) -> str:
    """For the terminal: the leading rows of each generator, at most 25 lines of 100 columns."""
    records = in_order(records)
    scope = "generator"
    rows = [row for row in joined(rows_of(records)) if scored(row, scope)]
    if not rows:
        scope, rows = "tokenizer", joined(tokenizer_rows(records))
    columns, _ = shown(rows, scope, most=3)
    groups = grouped(ranked(rows, scope), ("dataset", "generator"))
    each = max(1, min(3, 20 // max(1, len(groups))))
    leading = [row for group in list(groups.values())[:20] for row in group[:each]]
    columns = [column for column in columns if any(column in row.values for row in leading)][:4]
    lines = [["dataset", "generator", "regularizer", "tokenizer", "w", *headers(columns)]]
    lines += [_line(row, columns) for row in leading]
    if len({row.dataset for row in rows}) == 1:
        lines = [line[1:] for line in lines]
    widths = [min(22, max(map(len, column))) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(_fit, line, widths)).rstrip()[:100] for line in lines]
    counts = {status: sum(r.status == status for r in records) for status in ("done", "failed", "skipped")}
    tally = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no"
    return "\n".join([*(text if rows else []), f"{tally} cells"])


def _line(row: Row, columns: list[Column]) -> list[str]:
    labels = ("real", "", "") if row.real else (row.generator, row.regularizer, row.tokenizer)
    return [row.dataset, *labels, guidance_of(row), *cells(row, columns)]


def _fit(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)
