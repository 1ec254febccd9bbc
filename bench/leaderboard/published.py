"""The papers' own numbers as data, beside ours, each with whether the two can be compared and why not."""

from __future__ import annotations

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
INCEPTION = ("precision", "recall")  # on its features in all papers, under names that don't say so
TOKENIZER = ("rFID", "PSNR", "SSIM", "LPIPS", "reconstruction_l2", "probe_accuracy", "zone_accuracy")
SPLITS = re.compile(r"\b(train|val)\b")
OFFLINE = {"FID": "FD", "KID": "KD"}  # what a metric is called with other weights than those that define it


class Figure(NamedTuple):
    """One published number."""

    paper: str
    table: str
    data: str
    setting: str
    regularizer: str  # the part of this suite that it is a number of; empty if there is none
    generator: str
    guided: bool
    metric: str
    value: float
    n: int  # images that it is over
    protocol: str
    note: str
    url: str


@cache
def figures() -> tuple[Figure, ...]:
    """Every number of published.yaml, in its order."""
    papers = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(one for paper in papers for table in paper["tables"] for one in _of(paper, table))


def table(records: Iterable[Record] | Results = ()) -> pd.DataFrame:
    """One row per published number; with records also what they have in its place.

    `ours` is the value of the same regularizer (and generator) under our metric's full name, `comparable`
    whether the two may be set against each other, `why` the first thing that keeps them apart.
    """
    import pandas as pd

    data: dict[str, list[Any]] = {name: [getattr(one, name) for one in figures()] for name in Figure._fields}
    results = Results.of(records)
    if results.records:
        rows = [row for row in results.rows if not row.real] + results.tokenizers
        found = [_beside(one, rows) for one in figures()]
        data |= {name: [one[i] for one in found] for i, name in enumerate(("ours", "comparable", "why"))}
    return pd.DataFrame(data)


def _of(paper: dict[str, Any], table: dict[str, Any]) -> Iterator[Figure]:
    said = table["protocol"]  # of a distance it is that of the others over the same images, too
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
                said.get(metric) or said.get("rFID" if metric in TOKENIZER else "gFID", ""),
                table.get("note", ""),
                paper.get("url", ""),
            )


def _beside(one: Figure, rows: Sequence[Row]) -> tuple[str, bool, str]:
    """Our value in its place, whether it compares, and why not."""
    mine = [row for row in rows if _alike(one, row)]
    candidates = [(row, column) for row in mine for column in row.values if _same_metric(one, column.name)]
    if not candidates:
        return "", False, "not measured here"
    row, column = min(candidates, key=lambda pair: _distance(one, *pair))
    value = row.values[column]
    if value.mean is None:
        return "", False, "not measured here"
    text = number(value.mean) if value.std is None else spread(value.mean, value.std)
    where = f"{row.regularizer}, {row.generator}" if row.generator else row.regularizer
    ours = f"{text} {column.name} ({where}, {row.dataset})"
    if one.data.lower().replace("-", "") != row.dataset.lower().replace("-", "").replace("_", ""):
        return ours, False, f"{row.dataset} is not {one.data}"
    if not _same_features(one, column):
        return ours, False, f"{column.name} is not {one.metric}: other features"
    n = column.entry["n"]
    if n != one.n:
        return ours, False, f"n = {n:,}, there {one.n:,}"
    reference, theirs = column.entry["protocol"].get("reference", ""), SPLITS.findall(one.protocol)
    if not theirs:
        return ours, False, f"their reference isn't known ({one.protocol or 'nothing is said'})"
    if not set(SPLITS.findall(reference)) & set(theirs):
        return ours, False, f"reference {reference or 'unknown'}, there {one.protocol}"
    return ours, True, f"same data, metric, n and reference ({one.protocol})"


def _alike(one: Figure, row: Row) -> bool:
    """The same regularizer, and for generation the same generator."""
    if not one.regularizer or row.part("regularizer") != one.regularizer:
        return False
    if one.metric in TOKENIZER:
        return not row.generator
    guided = row.guidance is not None and row.guidance > 1
    return row.part("generator") == one.generator.split(" ")[0] and guided == one.guided


def _same_metric(one: Figure, name: str) -> bool:
    base = base_name(name)
    other = next((one.metric.replace(a, b) for a, b in OFFLINE.items() if one.metric.endswith(a)), one.metric)
    return base in (one.metric, other)


def _same_features(one: Figure, column: Column) -> bool:
    inception = one.metric in INCEPTION and defines("FID", column.entry["protocol"])
    return column.name == one.metric or inception


def _distance(one: Figure, row: Row, column: Column) -> tuple[bool, bool, float]:
    """The published metric first, then all samples rather than some, then the better value."""
    mean = row.values[column].mean
    sign = -1 if column.entry.get("better") == "higher" else 1
    return not _same_features(one, column), "@" in column.name, sign * (mean if mean is not None else 1e30)
