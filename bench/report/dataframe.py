"""The leaderboard as a pandas table of plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..leaderboard.collapse import collapse
from ..leaderboard.columns import columns_of
from ..leaderboard.notes import judged_by_teacher
from ..leaderboard.results import Leaderboard, Results
from ..leaderboard.rows import LABELS, Column, Row, Value, first_seen
from ..records.record import Record

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = (*LABELS, "guidance", "status", "seeds_done", "seeds")


def frame(records: Iterable[Record] | Results, complete: bool = True) -> pd.DataFrame:
    """One row per (dataset, tokenizer, regularizer, generator, guidance), over seeds; all plain numbers.

    A metric's columns are NAME, NAME_std (empty for one seed), NAME_n (the number of seeds in the mean),
    NAME_ci_low and NAME_ci_high (the mean's 95 % interval; of one seed: over its images alone) and, if some
    row has one, NAME_bound ("above": the mean lies above NAME, which is a limit that was tried). If the
    records are complete, rank_low and rank_high are the interval of a row's ranks among its generator's, by
    the first score; rows at other guidances than the ranked one have none. A name with several protocols in a
    dataset is followed by {id}. `guidance` is empty for the `real` row and for cells without generation
    metrics, and the most frequent of seeds that have chosen differently, from guidance_low to guidance_high;
    guidance_edge is 1 where the best is the largest that was tried, -1 where it is the smallest, else 0.
    `judged_by_teacher`, where any row has one, are the networks of its metrics that taught the row. `flag`
    says why a row's latents have collapsed.
    """
    import pandas as pd

    results = Results.of(records)
    rows = results.joined
    columns = columns_of(rows)
    data: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in IDENTITY}
    data["guidance"] = pd.array(data["guidance"], dtype="Float64")
    board = results.joined_generation
    texts = dict(zip(map(id, board.rows), board.guidance_texts, strict=True))
    for end, of in (("low", min), ("high", max)):
        data[f"guidance_{end}"] = pd.array([of(row.guidances, default=None) for row in rows], "Float64")
    data["guidance_edge"] = pd.array([_edge(texts[id(row)]) for row in rows], "Int64")
    ranks = ranks_of(results.joined_generation) if complete else {}
    for i, end in enumerate(("low", "high")):
        if ranks:
            data[f"rank_{end}"] = pd.array(
                [ranks.get(id(row), (None, None))[i] for row in rows], dtype="Int64"
            )
    for name, column in named(columns).items():
        data |= metric_data(name, column, rows)
    for name in first_seen(row.cost for row in rows):
        data[f"cost_{name}"] = pd.array([row.cost.get(name) for row in rows], dtype="Float64")
    taught = [", ".join(judged_by_teacher(row, columns)) for row in rows]
    if any(taught):
        data["judged_by_teacher"] = taught
    flags = [collapse(row) for row in rows]
    return pd.DataFrame({**data, "flag": flags, "reason": [row.reason for row in rows]})


def named(columns: Iterable[Column]) -> dict[str, Column]:
    """The columns by their names in tables: a name with several protocols is followed by {id}."""
    columns = list(columns)
    names = [column.name for column in columns]
    return {c.name if names.count(c.name) == 1 else f"{c.name}{{{c.protocol}}}": c for c in columns}


def metric_data(name: str, column: Column, rows: Sequence[Row]) -> dict[str, Any]:
    """The columns of one metric: NAME, _std, _n, _bound if any row has one, _ci_low and _ci_high."""
    import pandas as pd

    values = [row.values.get(column, Value(None, None, 0)) for row in rows]
    data: dict[str, Any] = {
        name: pd.array([v.mean for v in values], dtype="Float64"),
        f"{name}_std": pd.array([v.std for v in values], dtype="Float64"),
        f"{name}_n": [v.n for v in values],
    }
    if any(v.bound for v in values):
        data[f"{name}_bound"] = [v.bound for v in values]
    for i, end in enumerate(("low", "high")):
        ends = [v.interval[i] if v.interval else None for v in values]
        data[f"{name}_ci_{end}"] = pd.array(ends, dtype="Float64")
    return data


def _edge(guidance: str) -> int | None:
    """The sign at the end of a guidance's text as a number."""
    return {"+": 1, "-": -1}.get(guidance[-1], 0) if guidance else None


def ranks_of(board: Leaderboard) -> dict[int, tuple[int, int]]:
    """{id of a row: its lowest and highest rank} by the score that the board's table ranks by."""
    ranks: dict[int, tuple[int, int]] = {}
    for ranking in board.standings(board.deciding).rankings:
        for row, rank in zip(ranking.rows, ranking.ranks, strict=True):
            ranks.setdefault(id(row), (rank.low, rank.high))
    return ranks
