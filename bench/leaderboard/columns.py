"""What a table shows: which columns and rows, in which order, and the text of its cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..metrics.names import defines
from ..records.labels import natural
from .numbers import number, spread
from .rows import ARROWS, Column, Row, Value

# Columns of a table in this order; other metrics follow alphabetically.
ORDER = {
    "generator": (
        "gfid",
        "gfd",
        "cmmd",
        "kid",
        "kd",
        "is",
        "precision",
        "recall",
        "coverage",
        "label_agreement",
        "class_accuracy",
        "memorisation",
        "sfid",
        "sfd",
        "density",
    ),
    "tokenizer": (
        "psnr",
        "ssim",
        "lpips",
        "rfid",
        "rfd",
        "noise_tolerance",
        "knn_nll",
        "knn_nll_reverse",
        "knn_nll_real",
        "probe_accuracy",
        "zone_accuracy",
        "effective_rank",
        "nll",
        "nll_real",
        "swd",
        "swd_real",
        "latent_recall",
        "latent_recall_real",
        "nll_correlation_plane",
        "nll_correlation_training",
        "nll_correlation_support",
        "zone_ks",
        "misassignment_error",
        "rkid",
        "rkd",
    ),
}
COSTS = ("s", "MiB", "M", "GFLOP")  # units of metrics that belong into the cost table
WIDEST = 10  # metrics in a Markdown table; the CSV has all


def columns_of(rows: list[Row]) -> list[Column]:
    """All columns in the order of tables; protocols of one metric by their id."""

    def place(column: Column) -> tuple[Any, ...]:
        order, base = ORDER[column.scope], column.base.lower()
        rank = order.index(base) if base in order else len(order)
        names = (natural(base), "@" in column.name, natural(column.name))
        return column.scope == "generator", rank, *names, column.protocol

    return sorted({column for row in rows for column in row.values}, key=place)


def shown(rows: list[Row], scope: str, most: int = WIDEST) -> tuple[list[Column], list[str]]:
    """The columns of a scope's first `most` scores, and the names of the others.

    Of the numbers at the `real` row's n only the distances are shown, and of several extractors the first:
    the others say little more.
    """
    columns = [c for c in columns_of(rows) if c.scope == scope and c.entry.get("unit") not in COSTS]
    names = list(dict.fromkeys(column.name for column in columns))
    extractors = extractors_of([c for c in columns if c.better] or columns)
    minor = {c.name for c in columns if "@" in c.name and c.base not in ("gFD", "gFID")}
    minor |= {c.name for c in columns if set(extractors_of([c])) & set(extractors[1:])}
    shown = [name for name in names if name not in minor][:most]
    return [c for c in columns if c.name in shown], [name for name in names if name not in shown]


def ranked(rows: list[Row], scope: str) -> list[Row]:
    """The real row, then by generator and the scope's first metric that has a direction, best first."""
    first = first_score(rows, scope)

    def place(row: Row) -> tuple[Any, ...]:
        labels = [natural(label) for label in (row.regularizer, row.tokenizer)]
        head = (row.dataset, not row.real, natural(row.generator))
        for i, column in enumerate(first):
            mean = row.values[column].mean if column in row.values else None
            if mean is not None:
                return *head, i, -mean if column.better == ARROWS["higher"] else mean, *labels
        return *head, len(first), 0.0, *labels

    return sorted(rows, key=place)


def first_score(rows: list[Row], scope: str) -> list[Column]:
    """The first metric that has a direction, which rows are ranked by: a column per protocol."""
    directed = [column for column in shown(rows, scope)[0] if column.better]
    return [column for column in directed if column.name == directed[0].name]


def scored(row: Row, scope: str) -> bool:
    return any(column.scope == scope for column in row.values)


def headers(columns: list[Column]) -> list[str]:
    names = zip(short_names(columns), columns, strict=True)
    return [" ".join(filter(None, (name, c.better, c.protocol))) for name, c in names]


def short_names(columns: Sequence[Column]) -> list[str]:
    """Without the extractor if there is one alone, unless that would leave a published name, as `IS`."""
    extractors = extractors_of(list(columns))
    hidden = extractors[0] if len(extractors) == 1 else ""
    return [c.name.replace(hidden, "") if defines(c.base, {}) else c.name for c in columns]


def extractors_of(columns: list[Column]) -> list[str]:
    return list(dict.fromkeys(part for column in columns for part in re.findall(r"\[.*\]", column.name)))


def cells(row: Row, columns: list[Column]) -> list[str]:
    return [_cell(row.values[column], row.seeds_done) if column in row.values else "" for column in columns]


def _cell(value: Value, seeds: int) -> str:
    if value.mean is None:
        return value.note
    drawn = {o.value for o in value.observations}  # one alone: nothing differs between seeds
    text = number(value.mean) if value.std is None or len(drawn) == 1 else spread(value.mean, value.std)
    return text if value.n >= seeds else f"{text} ({value.n} of {seeds})"


def guidance_of(row: Row) -> str:
    return "" if row.guidance is None else f"{row.guidance:g}"
