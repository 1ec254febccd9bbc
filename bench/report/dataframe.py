"""The leaderboard as a pandas table of plain numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..leaderboard.columns import columns_of, first_score
from ..leaderboard.ranking import rankings
from ..leaderboard.results import Results
from ..leaderboard.rows import LABELS, Row, Value, first_seen, joined
from ..records.record import Record

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = (*LABELS, "guidance", "status", "seeds_done", "seeds")


def frame(records: Iterable[Record] | Results, complete: bool = True) -> pd.DataFrame:
    """One row per (dataset, tokenizer, regularizer, generator, guidance), over seeds; all plain numbers.

    A metric's columns are NAME, NAME_std (empty for one seed), NAME_n, the seeds that the mean is over, and
    NAME_ci_low and NAME_ci_high, its 95 % interval (of one seed: of its images alone). If the records are
    complete, rank_low and rank_high are the interval of a row's ranks among its generator's, by the first
    score; rows at other guidances than the ranked one have none. A name with several protocols in a dataset
    is followed by {id}. `guidance` is empty for the `real` row and for cells without generation metrics.
    """
    import pandas as pd

    rows = joined(Results.of(records).rows)
    columns = columns_of(rows)
    data: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in IDENTITY}
    data["guidance"] = pd.array(data["guidance"], dtype="Float64")
    if complete:
        for name, places in _ranks(rows).items():
            data[name] = pd.array(places, dtype="Int64")
    for column in columns:
        twins = sum(other.name == column.name for other in columns)
        name = column.name if twins == 1 else f"{column.name}{{{column.protocol}}}"
        values = [row.values.get(column, Value(None, None, 0)) for row in rows]
        data[name] = pd.array([v.mean for v in values], dtype="Float64")
        data[f"{name}_std"] = pd.array([v.std for v in values], dtype="Float64")
        data[f"{name}_n"] = [v.n for v in values]
        for i, end in enumerate(("low", "high")):
            ends = [v.interval[i] if v.interval else None for v in values]
            data[f"{name}_ci_{end}"] = pd.array(ends, dtype="Float64")
    for name in first_seen(row.cost for row in rows):
        data[f"cost_{name}"] = pd.array([row.cost.get(name) for row in rows], dtype="Float64")
    return pd.DataFrame({**data, "reason": [row.reason for row in rows]})


def _ranks(rows: list[Row]) -> dict[str, list[int | None]]:
    """Of each row, by the score that the generation table ranks by; nothing where no row is ranked."""
    found: dict[str, list[int | None]] = {}
    for contest in reversed(rankings(rows, first_score(rows, "generator"))):
        for place, rank in zip(contest.places, contest.ranks, strict=True):
            found.setdefault("rank_low", [None] * len(rows))[place] = rank.low
            found.setdefault("rank_high", [None] * len(rows))[place] = rank.high
    return found
