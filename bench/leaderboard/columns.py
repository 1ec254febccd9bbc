"""The columns of a table: which metrics it shows, in which order, their headers and cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..metrics.names import defines, kind_of_metric
from ..records.labels import matches, natural
from .baselines import baselines
from .numbers import number, spread
from .rows import Column, Row, Value

# Metrics of each scope in the order of tables, in lower case; others follow alphabetically.
ORDER = {
    "generator": "gfid gfd fdr mind cmmd kid kd is precision recall coverage label_agreement "
    "class_accuracy memorisation sfid sfd density".split(),
    "tokenizer": "psnr ssim lpips rfid rfd psnr_edges noise_tolerance knn_nll knn_nll_reverse "
    "knn_nll_real prior_fd prior_fd_gaussian probe_accuracy zone_accuracy effective_rank nll "
    "nll_real swd swd_real latent_recall latent_recall_real nll_correlation_plane nll_correlation_training "
    "nll_correlation_support zone_ks misassignment_error rkid rkd".split(),
}
COSTS = ("s", "MiB", "M", "GFLOP")  # units of metrics that belong in the cost table
TAUGHT = "†"  # at a number by a network that taught its row
WIDEST = 10  # metrics that tables for comparisons show; the CSV has all
FEW = 5  # metrics of a report's tables before a reader asks for all
FIRST = {  # metrics that a reader decides by; others fill up a table
    "generator": "gfid gfd precision recall label_agreement class_accuracy".split(),
    "tokenizer": "psnr lpips rfid rfd".split(),
}
SIDES = {"": "", "above": "> ", "below": "< "}


def columns_of(rows: Iterable[Row]) -> list[Column]:
    """All columns in the order of tables; a metric's extractors as in the matrix, protocols by their id."""

    def position(column: Column) -> tuple[Any, ...]:
        order, base = ORDER[column.scope], kind_of_metric(column.name).lower()
        rank = order.index(base) if base in order else len(order)
        place = column.entry.get("place", 0)  # of the extractor in the matrix
        names = (natural(base), place, "@" in column.name, natural(column.name))
        return column.scope == "generator", rank, *names, column.protocol

    return sorted({column for row in rows for column in row.values}, key=position)


def score_columns(rows: Iterable[Row], scope: str) -> list[Column]:
    """The columns of a scope, without costs."""
    return [c for c in columns_of(rows) if c.scope == scope and c.entry.get("unit") not in COSTS]


def shown(rows: Iterable[Row], scope: str, most: int = WIDEST) -> tuple[list[Column], list[str]]:
    """The columns of a scope's first `most` metrics, and the names of the other metrics."""
    return leading(score_columns(rows, scope), most)


def leading(columns: Sequence[Column], most: int = WIDEST) -> tuple[list[Column], list[str]]:
    """The columns of the first `most` metrics, and the names of the other metrics.

    Of the metrics at the `real` row's n only distances are shown, and of several extractors the first: the
    others say little more.
    """
    names = list(dict.fromkeys(column.name for column in columns))
    extractors = extractors_of([c for c in columns if c.better] or columns)
    minor = {c.name for c in columns if "@" in c.name and kind_of_metric(c.name) not in ("gFD", "gFID")}
    minor |= {c.name for c in columns if set(extractors_of([c])) & set(extractors[1:])}
    chosen = [name for name in names if name not in minor][:most]
    return [c for c in columns if c.name in chosen], [name for name in names if name not in chosen]


def deciding_few(columns: Sequence[Column], most: int = FEW) -> tuple[list[Column], list[str]]:
    """The columns of the few metrics that a reader decides by, and the names of all other metrics."""
    names = {column.name: column for column in leading(columns)[0]}
    wanted = [name for name, column in names.items() if column.base.lower() in FIRST[column.scope]]
    chosen = [*wanted, *(name for name in names if name not in wanted)][:most]
    others = dict.fromkeys(column.name for column in columns if column.name not in chosen)
    return [column for column in columns if column.name in chosen], list(others)


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a metric's full name fits, or the name without the extractor: gFD is not gFD@360."""
    return matches(name, patterns) or matches(re.sub(r"\[.*\]", "", name), patterns)


def deciding_columns(columns: Sequence[Column]) -> list[Column]:
    """The columns of the first metric with a direction, one per protocol."""
    directed = [column for column in leading(columns)[0] if column.better]
    return [column for column in directed if column.name == directed[0].name]


def in_table_order(rows: Iterable[Row], scores: Sequence[Column]) -> list[Row]:
    """The real row, then rows by generator and the first of the scores that they have, best first.

    Generators that were trained come before those that are fitted in closed form.
    """
    rows = list(rows)
    last = baselines(rows)

    def position(row: Row) -> tuple[Any, ...]:
        labels = [natural(label) for label in (row.regularizer, row.tokenizer)]
        head = (row.dataset, not row.real, row.generator in last, natural(row.generator))
        for i, column in enumerate(scores):
            if row.mean(column) is not None:
                return *head, i, column.best_first(row.values[column]), *labels
        return *head, len(scores), 0.0, *labels

    return sorted(rows, key=position)


def headers(columns: Sequence[Column]) -> list[str]:
    """`gFD ↓ 1a2b3c` for each column."""
    names = zip(short_names(columns), columns, strict=True)
    return [" ".join(filter(None, (name, c.better, c.protocol))) for name, c in names]


def short_names(columns: Sequence[Column]) -> list[str]:
    """Names without the extractor that all share, unless a published name such as `IS` would remain."""
    extractors = extractors_of(columns)
    hidden = extractors[0] if len(extractors) == 1 else ""
    return [c.name.replace(hidden, "") if defines(c.base, {}) else c.name for c in columns]


def extractors_of(columns: Iterable[Column]) -> list[str]:
    """The extractors in the columns' names, in brackets."""
    return list(dict.fromkeys(part for column in columns for part in re.findall(r"\[.*\]", column.name)))


def cells(row: Row, columns: Iterable[Column]) -> list[str]:
    """The texts of a row's cells; empty where it has no value, signed where the network taught the row."""
    return [
        value_text(row.values[column], row.seeds) + (f" {TAUGHT}" if row.taught_by(column) else "")
        if column in row.values
        else ""
        for column in columns
    ]


def value_text(value: Value, seeds: int) -> str:
    """`12.3 ± 0.4`, `> 0.5`, and of a mean over fewer seeds than the row has `12.3 ± 0.4 (2 of 3)`."""
    if value.mean is None:
        return value.note
    constant = len({o.value for o in value.observations}) == 1  # over seeds
    text = number(value.mean) if value.std is None or constant else spread(value.mean, value.std)
    if value.bound:
        text = f"{SIDES[value.bound]}{value.mean:.4g}"
    return text if value.n >= seeds else f"{text} ({value.n} of {seeds})"
