"""Records become rows: the seeds of a cell together, one row per guidance.

A column holds one metric under one protocol, so numbers that cannot be compared never stand in one column.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..metrics.names import base_name
from ..records.record import Record, protocol_id
from ..statistics.statistics import Observation, interval, mean

LABELS = ("dataset", "tokenizer", "regularizer", "generator")
ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Column:
    """One metric under one protocol; `entry` is a record's, for what all of them say about the metric."""

    name: str  # without guidance, e.g. "gFD@360[effnet_lite0]"
    protocol: str  # short id
    scope: str
    entry: dict[str, Any] = field(compare=False)

    @property
    def base(self) -> str:
        """What precedes any "[" or "@"."""
        return base_name(self.name)

    @property
    def better(self) -> str:
        """An arrow."""
        return ARROWS.get(self.entry.get("better") or "", "")


class Value(NamedTuple):
    """A metric over seeds: mean and standard deviation (ddof = 1) of the finite values, n of them.

    The interval is the mean's, at 95 %; it includes training variance where there are several seeds. Of
    nested seeds each tokenizer seed counts the same in the mean. Only finite values are observations.
    """

    mean: float | None
    std: float | None
    n: int
    note: str = ""  # of a value that isn't finite: "nan", "inf"
    interval: tuple[float, float] | None = None
    observations: tuple[Observation, ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of a table: the seeds of one row label, at one guidance."""

    dataset: str
    tokenizer: str
    regularizer: str
    generator: str
    guidance: float | None
    status: str
    seeds_done: int
    seeds: int
    reason: str
    values: dict[Column, Value]
    cost: dict[str, float]
    uses: Mapping[str, str] = field(default_factory=dict)  # the parts that labels don't name

    def part(self, name: str) -> str:
        """The part behind the label of that name; the label where nothing is said."""
        return self.uses.get(name) or str(getattr(self, name)).partition("[")[0]

    @property
    def real(self) -> bool:
        """Whether this is the row of the held-out images."""
        return self.tokenizer == self.regularizer == self.generator == "real"


T = TypeVar("T", Record, Row)


def rows_of(records: list[Record]) -> list[Row]:
    """Seeds gathered; one row per guidance. Metrics that a failed cell did get (its tokenizer's) count."""
    rows = []
    for (dataset, tokenizer, regularizer, generator), mine in grouped(records, LABELS).items():
        entries = [(record.cell["seed"], _entries(record)) for record in mine]
        guided = {w for _, found in entries for _, w, _ in found if w is not None}
        guidances: list[float | None] = [*sorted(guided)]
        fixed = _values(entries, None)
        rows += [
            Row(
                dataset,
                tokenizer,
                regularizer,
                generator,
                guidance,
                status=_status(mine),
                seeds_done=sum(record.status == "done" for record in mine),
                seeds=len(mine),
                reason=_reason(mine),
                values=fixed if guidance is None else fixed | _values(entries, guidance),
                cost=_mean_cost([_cost_at(record, guidance) for record in mine]),
                uses=mine[0].provenance.get("uses", {}),
            )
            for guidance in guidances or [None]
        ]
    return _in_one_column(rows)


def _in_one_column(rows: list[Row]) -> list[Row]:
    """Where samples are as many as held-out images, `gFD@1000` of these is `gFD` of those: one protocol."""
    there = {column for row in rows if not row.real for column in row.values}

    def plain(column: Column) -> Column:
        whole = replace(column, name=re.sub(r"@\d+", "", column.name))
        return whole if whole in there else column

    return [
        replace(row, values={plain(column): value for column, value in row.values.items()})
        if row.real
        else row
        for row in rows
    ]


def tokenizer_rows(records: list[Record]) -> list[Row]:
    """One row per tokenizer and regularizer: cells share a tokenizer, which counts once."""
    rows = []
    trained = [record for record in records if not record.real]
    for (dataset, tokenizer, regularizer), mine in grouped(trained, LABELS[:3]).items():
        entries = [(record.cell["seed"], _entries(record)) for record in mine]
        values = _values(entries, None)
        if values:
            labels = (dataset, tokenizer, regularizer, "")
            scored = {_tokenizer_seed(seed) for seed, found in entries if any(w is None for _, w, _ in found)}
            seeds = {_tokenizer_seed(seed) for seed, _ in entries}
            uses = mine[0].provenance.get("uses", {})
            rows.append(Row(*labels, None, _status(mine), len(scored), len(seeds), "", values, {}, uses))
    return rows


def joined(rows: list[Row]) -> list[Row]:
    """Rows of several datasets with a column for each metric that has one protocol a dataset, and no id.

    Numbers of two datasets are never to be compared; a table that names the dataset in each row may still
    have them in one column.
    """
    by_name: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for column in row.values:
            by_name.setdefault(column.name, {}).setdefault(row.dataset, set()).add(column.protocol)
    several = {
        name
        for name, datasets in by_name.items()
        if len(set().union(*datasets.values())) > 1 and all(len(ids) == 1 for ids in datasets.values())
    }

    def without_id(column: Column) -> Column:
        return replace(column, protocol="") if column.name in several else column

    return [replace(row, values={without_id(c): v for c, v in row.values.items()}) for row in rows]


def grouped(items: Iterable[T], names: Sequence[str]) -> dict[tuple[str, ...], list[T]]:
    """Records or rows by some of their labels."""
    groups: dict[tuple[str, ...], list[T]] = {}
    for item in items:
        labels = item.cell if isinstance(item, Record) else vars(item)
        groups.setdefault(tuple(labels[name] for name in names), []).append(item)
    return groups


def _split(name: str) -> tuple[str, float | None]:
    """("gFD@360[x]", 1.5) of "gFD@360[x]@1.5"."""
    found = re.fullmatch(r"(.+)@([-+]?[\d.]+(?:e[-+]?\d+)?)", name)
    return (found[1], float(found[2])) if found else (name, None)


Entries = list[tuple[Column, float | None, dict[str, Any]]]


def _entries(record: Record) -> Entries:
    """The record's metrics, with the guidance of those that depend on it."""
    found: Entries = []
    for name, entry in record.metrics.items():
        suffixed = entry["scope"] == "generator" and not record.real
        base, w = _split(name) if suffixed else (name, None)
        found.append((Column(base, _short_id(full_protocol(entry)), entry["scope"], entry), w, entry))
    return found


def _short_id(protocol: dict[str, Any]) -> str:
    return _id_of(repr(protocol))


@lru_cache(maxsize=4096)
def _id_of(protocol: str) -> str:
    """`protocol_id` sorts and hashes, and hundreds of records have the same protocols."""
    return protocol_id(literal_eval(protocol))


def full_protocol(entry: dict[str, Any]) -> dict[str, Any]:
    """With n: a distance over 128 samples isn't one over 1,437, whether or not the evaluator says so."""
    return {"n": entry["n"], **entry["protocol"]}


def _tokenizer_seed(seed: str) -> str:
    """The first of a nested seed's parts, "tokenizer.generator.sampling"."""
    return seed.split(".")[0]


def _values(records: Iterable[tuple[str, Entries]], guidance: float | None) -> dict[Column, Value]:
    """At one guidance (None: what has none), from seeds with their entries.

    A tokenizer's metric counts once, however many generators and samples share it.
    """
    gathered: dict[Column, dict[str, dict[str, Any]]] = {}
    for seed, entries in records:
        for column, w, entry in entries:
            if w == guidance:
                own = _tokenizer_seed(seed) if column.scope == "tokenizer" else seed
                gathered.setdefault(column, {}).setdefault(own, entry)
    return {column: _value(by_seed, column.scope == "tokenizer") for column, by_seed in gathered.items()}


def _value(by_seed: dict[str, dict[str, Any]], shared: bool) -> Value:
    """All tokenizers are scored on the same images (shared), samples are drawn anew for each seed."""
    entries = by_seed.values()
    finite = tuple(
        Observation(entry["value"], seed, _replicates(entry))
        for seed, entry in by_seed.items()
        if entry["value"] is not None
    )
    note = ", ".join(dict.fromkeys(entry.get("note", "nan") for entry in entries if entry["value"] is None))
    if not finite:
        return Value(None, None, 0, note)
    std = float(np.std([o.value for o in finite], ddof=1)) if len(finite) > 1 else None
    return Value(mean(finite), std, len(finite), note, interval(finite, shared), finite)


def _replicates(entry: dict[str, Any]) -> tuple[float, ...]:
    """None of them if one isn't finite."""
    found = entry.get("replicates") or ()
    return () if None in found else tuple(found)


def _cost_at(record: Record, guidance: float | None) -> dict[str, float]:
    split = {name: _split(name) for name in record.cost}
    chosen = {name: base for name, (base, w) in split.items() if w is None or w == guidance}
    return {base: value for name, base in chosen.items() if (value := record.cost[name]) is not None}


def _mean_cost(costs: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(c[name] for c in costs if name in c) for name in first_seen(costs)}


def _status(records: list[Record]) -> str:
    statuses = {record.status for record in records}
    return next(status for status in ("done", "failed", "skipped") if status in statuses)


def _reason(records: list[Record]) -> str:
    lines = {record.cell["seed"]: reason_line(record) for record in records if record.status != "done"}
    if len(lines) == len(records) and len(set(lines.values())) == 1:
        return next(iter(lines.values()))
    return "; ".join(f"seed {seed}: {line}" for seed, line in lines.items())


def reason_line(record: Record) -> str:
    return " ".join((record.reason or "").split())


def first_seen(dicts: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in dicts for name in each))
