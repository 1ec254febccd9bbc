"""The tables of `Results.frame`: few columns for people, or a row for each number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..leaderboard.collapse import collapse
from ..leaderboard.columns import columns_of, fits
from ..leaderboard.details import protocols
from ..leaderboard.results import Leaderboard, Results
from ..leaderboard.rows import LABELS, Column, Row, joined
from ..report.dataframe import frame, metric_data, named, ranks_of
from ..user_error import UserError

if TYPE_CHECKING:
    import pandas as pd

SCOPES = ("generator", "tokenizer", "all")
MOST = 3  # metrics in a frame whose metrics aren't named


class FrameError(UserError, ValueError):
    """A scope or a metric that the results don't have."""


def metric_frame(results: Results, scope: str, patterns: Sequence[str] | None) -> pd.DataFrame:
    """A row for each of the leaderboard's, with a few columns for each metric."""
    import pandas as pd

    if scope == "all" and patterns is None:
        return _with_attrs(frame(results), columns_of(results.rows))
    board, originals = _board(results, scope)
    rows, columns = board.rows, board.shown(MOST)[0]
    if patterns is not None:
        columns = _chosen(columns_of(rows), patterns)
    ranks = ranks_of(board)
    labels = LABELS if board.scope == "generator" else LABELS[:3]
    data: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in labels}
    if board.scope == "generator":
        data["guidance"] = pd.array([row.guidance for row in rows], dtype="Float64")
    data["status"] = [row.status for row in rows]
    for i, end in enumerate(("low", "high")):
        data[f"rank_{end}"] = pd.array([ranks.get(id(row), (None, None))[i] for row in rows], dtype="Int64")
    for name, column in named(columns).items():
        found = metric_data(name, column, rows)
        if patterns is None:
            found = {key: values for key, values in found.items() if "_ci_" not in key.removeprefix(name)}
        data |= found
        data[f"{name}_protocol"] = [_protocol(originals[id(row)], column) for row in rows]
    data["flag"] = [collapse(row) for row in rows]
    table = _with_attrs(pd.DataFrame(data), _with_protocols(originals.values(), columns))
    table.attrs["ranked_by"] = board.deciding[0].name if board.deciding else ""
    return table


def tidy_frame(results: Results, scope: str, patterns: Sequence[str] | None) -> pd.DataFrame:
    """A row for each number, with all that it must be read with."""
    import pandas as pd

    board, originals = _board(results, scope)
    rows = [originals[id(row)] for row in board.rows]
    columns = columns_of(rows)
    if patterns is not None:
        columns = _chosen(columns, patterns)
    elif scope != "all":
        columns = [column for column in columns if column.scope == scope]
    lines = []
    for row in rows:
        for column in columns:
            if column in row.values:
                lines.append(_labels(row) | _number(row, column))
    return _with_attrs(pd.DataFrame(lines), columns)


def _labels(row: Row) -> dict[str, Any]:
    labels = {name: getattr(row, name) for name in LABELS}
    return labels | {"guidance": row.guidance, "status": row.status}


def _number(row: Row, column: Column) -> dict[str, Any]:
    value = row.values[column]
    low, high = value.interval or (None, None)
    return {
        "metric": column.name,
        "protocol": column.protocol,
        "value": value.mean,
        "std": value.std,
        "n": value.n,
        "ci_low": low,
        "ci_high": high,
        "bound": value.bound,
        "images": column.entry.get("n"),
        "better": column.entry.get("better"),
        "unit": column.entry.get("unit"),
        "scope": column.scope,
        "taught": row.taught_by(column),
    }


def _board(results: Results, scope: str) -> tuple[Leaderboard, dict[int, Row]]:
    """The rows of a scope, best first, and {id of a row: the row with a protocol in every column}."""
    if scope not in SCOPES:
        raise FrameError(f"scope takes {', '.join(map(repr, SCOPES))}, not {scope!r}")
    if scope != "tokenizer":
        originals = dict(zip(map(id, results.joined), results.rows, strict=True))
        return results.joined_generation, originals
    rows = joined(results.tokenizers)
    board = Leaderboard.of(rows, "tokenizer")
    return board, dict(zip(map(id, rows), results.tokenizers, strict=True))


def _chosen(columns: Sequence[Column], patterns: Sequence[str]) -> list[Column]:
    """The columns that fit the patterns, in the patterns' order."""
    chosen: dict[Column, None] = {}
    for pattern in patterns:
        found = [column for column in columns if fits(column.name, [pattern])]
        if not found:
            known = ", ".join(dict.fromkeys(column.name for column in columns))
            raise FrameError(f"no metric fits {pattern!r}; there are {known}")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _protocol(row: Row, column: Column) -> str:
    """The protocol of a row's number; datasets that share a column have each their own."""
    if column.protocol:
        return column.protocol if column in row.values else ""
    return next((own.protocol for own in row.values if own.name == column.name), "")


def _with_protocols(rows: Iterable[Row], columns: Sequence[Column]) -> list[Column]:
    """The rows' own columns of these metrics, which have a protocol each."""
    owned = list(dict.fromkeys(own for row in rows for own in row.values))
    names = dict.fromkeys(column.name for column in columns)
    return [own for name in names for own in owned if own.name == name]


def _with_attrs(table: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The table with its protocols in full, and each metric's direction, unit and meaning."""
    table.attrs["protocols"] = {id: protocol for id, (_, protocol) in protocols(columns).items()}
    table.attrs["metrics"] = {
        column.name: {key: column.entry.get(key) for key in ("better", "unit", "about")} for column in columns
    }
    return table
