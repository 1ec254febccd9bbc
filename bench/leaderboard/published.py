"""The papers' own numbers as data, beside ours, with whether the two compare and why not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ..metrics.names import base_name, defines
from ..records.record import Record
from .numbers import number, spread
from .results import Results
from .rows import Column, Row

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_suffix(".yaml")
SAMPLES = 50_000  # images behind a number, held out or generated, unless a table says otherwise
INCEPTION = ("precision", "recall")  # papers compute them on Inception features without saying so
TOKENIZER = ("rFID", "PSNR", "SSIM", "LPIPS", "reconstruction_l2", "probe_accuracy", "zone_accuracy")
SPLITS = re.compile(r"\b(train|val)\b")
OFFLINE = {"FID": "FD", "KID": "KD"}  # names of the same metrics with other weights


class Figure(NamedTuple):
    """One published number."""

    paper: str
    table: str
    data: str
    setting: str
    regularizer: str  # the part of this suite; empty if there is none
    generator: str
    guided: bool
    metric: str
    value: float
    n: int  # images
    protocol: str
    note: str
    url: str
    apart: str  # why it compares with nobody's numbers, ours included; empty if nothing is known against it


@cache
def figures() -> tuple[Figure, ...]:
    """Every number of published.yaml, in its order."""
    papers = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(figure for paper in papers for table in paper["tables"] for figure in _figures(paper, table))


def table(records: Iterable[Record] | Results = ()) -> pd.DataFrame:
    """One row per published number; with records also our number of the same kind.

    `ours` is the value of the same regularizer (and generator) under our metric's full name, `comparable`
    whether the two compare, `why` the first difference that keeps them apart.
    """
    import pandas as pd

    data: dict[str, list[Any]] = {name: [getattr(f, name) for f in figures()] for name in Figure._fields}
    results = Results.of(records)
    if results.records:
        rows = [row for row in results.rows if not row.real] + results.tokenizers
        beside = [_beside(figure, rows) for figure in figures()]
        data |= {name: [one[i] for one in beside] for i, name in enumerate(("ours", "comparable", "why"))}
    return pd.DataFrame(data)


def _figures(paper: dict[str, Any], table: dict[str, Any]) -> Iterator[Figure]:
    """The numbers of one table; a distance's protocol also holds for other metrics of the same images."""
    protocols = table["protocol"]
    for setting, regularizer, *values in table["rows"]:
        for column, value in zip(table["columns"], values, strict=True):
            metric, _, guided = column.partition("@")
            if value is None:
                continue
            yield Figure(
                paper["paper"],
                str(table["table"]),
                table["data"],
                str(setting),
                regularizer or "",
                table["generator"],
                bool(guided),
                metric,
                float(value),
                SAMPLES if metric in TOKENIZER else table.get("n", SAMPLES),
                protocols.get(metric) or protocols.get("rFID" if metric in TOKENIZER else "gFID", ""),
                table.get("note", ""),
                paper.get("url", ""),
                table.get("apart", ""),
            )


def _beside(figure: Figure, rows: Sequence[Row]) -> tuple[str, bool, str]:
    """Our value of the same kind, whether it compares, and why not."""
    candidates = [
        (row, column)
        for row in rows
        if _same_parts(figure, row)
        for column in row.values
        if _same_metric(figure, column.name)
    ]
    row, column = min(candidates, key=lambda pair: _distance(figure, *pair), default=(None, None))
    if row is None or column is None or (mean := row.mean(column)) is None:
        return "", False, "not measured here"
    std = row.values[column].std
    parts = f"{row.regularizer}, {row.generator}" if row.generator else row.regularizer
    ours = f"{number(mean) if std is None else spread(mean, std)} {column.name} ({parts}, {row.dataset})"
    difference = _difference(figure, row, column)
    return ours, not difference, difference or f"same data, metric, n and reference ({figure.protocol})"


def _difference(figure: Figure, row: Row, column: Column) -> str:
    """The first difference that keeps a published number and ours apart; empty if they compare."""
    if figure.apart:
        return figure.apart
    if figure.data.lower().replace("-", "") != row.dataset.lower().replace("-", "").replace("_", ""):
        return f"{row.dataset} is not {figure.data}"
    if not _same_features(figure, column):
        return f"{column.name} is not {figure.metric}: other features"
    n = column.entry["n"]
    if n != figure.n:
        return f"n = {n:,}, there {figure.n:,}"
    reference, theirs = column.entry["protocol"].get("reference", ""), SPLITS.findall(figure.protocol)
    if not theirs:
        return f"their reference isn't known ({figure.protocol or 'nothing is said'})"
    if not set(SPLITS.findall(reference)) & set(theirs):
        return f"reference {reference or 'unknown'}, there {figure.protocol}"
    return ""


def _same_parts(figure: Figure, row: Row) -> bool:
    """Whether the regularizer and, for generation, the generator and the use of guidance are the same."""
    if not figure.regularizer or row.part("regularizer") != figure.regularizer:
        return False
    if figure.metric in TOKENIZER:
        return not row.generator
    guided = row.guidance is not None and row.guidance > 1
    return row.part("generator") == figure.generator.split(" ")[0] and guided == figure.guided


def _same_metric(figure: Figure, name: str) -> bool:
    """Whether a metric has the published name, or the one with other weights."""
    names = [figure.metric]
    names += [figure.metric.replace(a, b) for a, b in OFFLINE.items() if figure.metric.endswith(a)]
    return base_name(name) in names


def _same_features(figure: Figure, column: Column) -> bool:
    inception = figure.metric in INCEPTION and defines("FID", column.entry["protocol"])
    return column.name == figure.metric or inception


def _distance(figure: Figure, row: Row, column: Column) -> tuple[bool, bool, float]:
    """A sort key: the published metric first, then all samples rather than some, then the better value."""
    value = math.inf if row.mean(column) is None else column.best_first(row.values[column])
    return not _same_features(figure, column), "@" in column.name, value
