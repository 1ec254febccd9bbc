"""Rows and columns of tables: the seeds of a cell make a row, one for each guidance that is scored in full.

Where each seed has chosen its guidance by a sweep, on other samples, the seeds make one row.

A column holds one metric under one protocol, so numbers that cannot be compared never share a column.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..metrics.names import DECODED, base_name, weights
from ..records.generators import trains_generator
from ..records.labels import AXES, is_real
from ..records.record import STATUSES, Record, protocol_id
from ..records.sweep import Sweep
from ..records.teachers import teachers
from ..statistics.observations import BoundSide, Observation, mean
from ..statistics.significance import interval
from .older_records import updated

LABELS = AXES[:-1]  # of a row: all axes but the seed
ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Column:
    """One metric under one protocol; `entry` is that of some record, for its unit, direction and about."""

    name: str  # without guidance, e.g. "gFD@360[effnet_lite0]"
    protocol: str  # short id
    scope: str
    entry: dict[str, Any] = field(compare=False)

    @property
    def base(self) -> str:
        """The name before any "[" or "@"."""
        return base_name(self.name)

    @property
    def better(self) -> str:
        """The arrow of the metric's direction; empty without one."""
        return ARROWS.get(self.entry.get("better") or "", "")

    @property
    def described(self) -> str:
        """The name with its protocol and n."""
        return f"{self.name} (protocol {self.protocol}, n = {self.entry['n']:,})"

    @cached_property
    def networks(self) -> set[str]:
        """The sha256 of the weights that judge images or features, without those that made a reference.

        How near latents are to a reference is no judgement of quality, whatever the reference was made with.
        """
        protocol = self.entry.get("protocol", {})
        return weights({key: value for key, value in protocol.items() if key != "reference"})

    def best_first(self, value: Value) -> float:
        """A sort key that puts the best mean first, and bounds beyond all values."""
        mean = {"above": math.inf, "below": -math.inf}.get(value.bound, value.mean or 0.0)
        return -mean if self.entry.get("better") == "higher" else mean


class Value(NamedTuple):
    """A metric over seeds: mean and standard deviation (ddof = 1) of its n finite values.

    The interval is the mean's at 95 %; it includes training variance if there are several seeds. With nested
    seeds each tokenizer seed has the same weight in the mean. Only finite values are observations. With a
    bound among them, the mean is one: it has neither a deviation nor an interval.
    """

    mean: float | None
    std: float | None
    n: int
    note: str = ""  # the values that aren't finite: "nan", "inf"
    interval: tuple[float, float] | None = None
    observations: tuple[Observation, ...] = ()
    bound: BoundSide = ""

    @property
    def by_seed(self) -> dict[str, float]:
        """The observations by their seed."""
        return {observation.seed: observation.value for observation in self.observations}


@dataclass(frozen=True)
class Row:
    """A row of a table: the seeds of one combination of labels, at one guidance."""

    dataset: str
    tokenizer: str
    regularizer: str
    generator: str
    status: str
    seeds_done: int
    seeds: int
    values: dict[Column, Value]
    guidance: float | None = None  # of seeds that have chosen differently the most frequent
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)  # by seed, where each has chosen its guidance
    reason: str = ""
    cost: dict[str, float] = field(default_factory=dict)
    uses: Mapping[str, str] = field(default_factory=dict)  # the parts of labels that don't name theirs
    teachers: frozenset[str] = frozenset()  # the sha256 of the weights of networks that taught the row
    trains_generator: bool = True  # False: some formula fits it, as `gaussian` is fitted
    trained: bool = True  # False: the tokenizer was scored as it is

    def part(self, name: str) -> str:
        """The part behind a label: by `uses`, else the label without its options."""
        return self.uses.get(name) or str(getattr(self, name)).partition("[")[0]

    @property
    def real(self) -> bool:
        """Whether this is the row of the held-out images."""
        return is_real(vars(self))

    @property
    def held_out(self) -> str:
        """How tables call the row of held-out images: `real`, or `decoded` where latents stand for images."""
        decoded = any(column.base.endswith(DECODED) for column in self.values)
        return "decoded" if decoded else "real"

    @property
    def guidances(self) -> list[float]:
        """The guidances of its seeds, each once, in ascending order."""
        chosen = {sweep.chosen for sweep in self.sweeps.values()}
        return sorted(chosen or ({self.guidance} if self.guidance is not None else ()))

    @property
    def guidance_text(self) -> str:
        """The guidance as tables print it: `1.5`, of seeds that have chosen differently `1.5–3`.

        A "+" says that the best of some seed is the largest that was tried, a "-" the least.
        """
        ws = self.guidances
        text = "–".join(f"{w:g}" for w in ([ws[0], ws[-1]] if len(ws) > 1 else ws))
        return text + "".join(sorted({sweep.edge for sweep in self.sweeps.values()}))

    def scored(self, scope: str) -> bool:
        """Whether the row has a metric of the scope."""
        return any(column.scope == scope for column in self.values)

    def taught_by(self, column: Column) -> bool:
        """Whether the row has a number by a network that taught it."""
        return column in self.values and not self.teachers.isdisjoint(column.networks)

    def mean(self, column: Column) -> float | None:
        return self.values[column].mean if column in self.values else None


T = TypeVar("T", Record, Row)


def rows_of(records: list[Record]) -> list[Row]:
    """The rows of cells; metrics that a failed cell did get (those of its tokenizer) count."""
    rows = []
    for cells in grouped(records, LABELS).values():
        entries = [(record.cell["seed"], _entries(record)) for record in cells]
        guidances = {w for _, of_seed in entries for _, w, _ in of_seed if w is not None}
        sweeps = {r.cell["seed"]: sweep for r in cells if (sweep := Sweep.of(r.curves)) is not None}
        unguided = _values(entries, None)
        ordered: list[Guidance] = [CHOSEN] if CHOSEN in guidances else []
        ordered += sorted(w for w in guidances if not isinstance(w, str))
        for w in ordered or [None]:
            row = _row(
                cells,
                seeds_done=sum(record.status == "done" for record in cells),
                seeds=len(cells),
                values=unguided if w is None else unguided | _values(entries, w),
                guidance=_most_frequent(sweeps) if isinstance(w, str) else w,
                sweeps=sweeps if w == CHOSEN else {},
                reason=_reason(cells),
                cost=_mean_cost([_cost_at(record, w) for record in cells]),
            )
            rows.append(row)
    return _in_one_column(rows)


def tokenizer_rows(records: list[Record]) -> list[Row]:
    """One row per tokenizer and regularizer: cells that share a tokenizer count once."""
    rows = []
    trained = [record for record in records if not record.real]
    for cells in grouped(trained, LABELS[:3]).values():
        entries = [(record.cell["seed"], _entries(record)) for record in cells]
        if values := _values(entries, None):
            scored = {tokenizer_seed(seed) for seed, found in entries if any(w is None for _, w, _ in found)}
            seeds = len({tokenizer_seed(seed) for seed, _ in entries})
            rows.append(_row(cells, generator="", seeds_done=len(scored), seeds=seeds, values=values))
    return rows


def _row(cells: list[Record], **fields: Any) -> Row:
    labels = {axis: cells[0].cell[axis] for axis in LABELS}
    uses = cells[0].provenance.get("uses", {})
    described = {
        "status": _status(cells),
        "uses": uses,
        "teachers": frozenset[str]().union(*map(teachers, cells)),
        "trains_generator": any(map(trains_generator, cells)),
        "trained": any(_tokenizer_steps(cell) != 0 for cell in cells),
    }
    return Row(**{**labels, **described, **fields})


def _tokenizer_steps(record: Record) -> int | None:
    budget = record.provenance.get("budget")
    return budget.get("tokenizer_steps") if isinstance(budget, dict) else None


def _in_one_column(rows: list[Row]) -> list[Row]:
    """Puts `gFD@1000` of the real row in the column `gFD` where samples are 1000 too: one protocol."""
    known = {column for row in rows if not row.real for column in row.values}

    def without_count(column: Column) -> Column:
        plain = replace(column, name=re.sub(r"@\d+", "", column.name))
        return plain if plain in known else column

    return [_renamed(row, without_count) if row.real else row for row in rows]


def _renamed(row: Row, rename: Callable[[Column], Column]) -> Row:
    return replace(row, values={rename(column): value for column, value in row.values.items()})


def joined(rows: list[Row]) -> list[Row]:
    """Rows of several datasets, with one column without an id for a metric with one protocol per dataset.

    Numbers of two datasets never compare, but a table that names the dataset in each row may have both in one
    column.
    """
    protocols: dict[str, dict[str, set[str]]] = {}  # by metric and dataset
    for row in rows:
        for column in row.values:
            protocols.setdefault(column.name, {}).setdefault(row.dataset, set()).add(column.protocol)
    several = {
        name
        for name, datasets in protocols.items()
        if len(set().union(*datasets.values())) > 1 and all(len(ids) == 1 for ids in datasets.values())
    }

    def without_id(column: Column) -> Column:
        return replace(column, protocol="") if column.name in several else column

    return [_renamed(row, without_id) for row in rows]


def grouped(items: Iterable[T], names: Sequence[str]) -> dict[tuple[str, ...], list[T]]:
    """Records or rows by the labels of these names."""
    groups: dict[tuple[str, ...], list[T]] = {}
    for item in items:
        labels = item.cell if isinstance(item, Record) else vars(item)
        groups.setdefault(tuple(labels[name] for name in names), []).append(item)
    return groups


def _split(name: str) -> tuple[str, float | None]:
    """("gFD@360[x]", 1.5) of "gFD@360[x]@1.5"."""
    match = re.fullmatch(r"(.+)@([-+]?[\d.]+(?:e[-+]?\d+)?)", name)
    return (match[1], float(match[2])) if match else (name, None)


def shared_name(record: Record, name: str) -> str:
    """A metric's name as all seeds have it: "gFD[x]@chosen" where each has chosen a guidance by its sweep."""
    base, w = _split(name)
    chosen = w is not None and record.metrics[name]["scope"] == "generator" and Sweep.of(record.curves)
    return f"{base}@{CHOSEN}" if chosen else name


CHOSEN = "chosen"  # in place of a guidance that a seed has chosen by its sweep
Guidance = float | str | None  # None: the number doesn't depend on any
Entries = list[tuple[Column, Guidance, dict[str, Any]]]


def _entries(record: Record) -> Entries:
    """The record's metrics, each with its guidance."""
    entries: Entries = []
    swept = Sweep.of(record.curves) is not None
    for name, entry in updated(record.metrics).items():
        suffixed = entry["scope"] == "generator" and not record.real
        base, w = _split(name) if suffixed else (name, None)
        at: Guidance = CHOSEN if swept and w is not None else w
        id = _protocol_id(json.dumps(full_protocol(entry), sort_keys=True))
        entries.append((Column(base, id, entry["scope"], entry), at, entry))
    return entries


@cache
def _protocol_id(protocol: str) -> str:
    """The id of a protocol in JSON, cached: hundreds of records have the same protocols."""
    return protocol_id(json.loads(protocol))


def full_protocol(entry: dict[str, Any]) -> dict[str, Any]:
    """The protocol with n: a distance over 128 samples isn't one over 1,437, even if a protocol omits n."""
    return {"n": entry["n"], **entry["protocol"]}


def tokenizer_seed(seed: str) -> str:
    """The first part of a nested seed, "tokenizer.generator.sampling"."""
    return seed.split(".")[0]


def _values(records: Iterable[tuple[str, Entries]], guidance: Guidance) -> dict[Column, Value]:
    """Metrics at a guidance (None: metrics without one) over seeds, given each seed's entries.

    A tokenizer's metric counts once, however many generators and samples share the tokenizer.
    """
    gathered: dict[Column, dict[str, dict[str, Any]]] = {}
    for seed, entries in records:
        for column, w, entry in entries:
            if w == guidance:
                unit = tokenizer_seed(seed) if column.scope == "tokenizer" else seed
                gathered.setdefault(column, {}).setdefault(unit, entry)
    return {column: _value(by_seed, column.scope == "tokenizer") for column, by_seed in gathered.items()}


def _value(by_seed: dict[str, dict[str, Any]], shared: bool) -> Value:
    """`shared`: all seeds are scored on the same images, as tokenizers are; samples are drawn per seed."""
    finite = tuple(
        Observation(entry["value"], seed, _replicates(entry), entry.get("bound", ""))
        for seed, entry in by_seed.items()
        if entry["value"] is not None
    )
    notes = [entry.get("note", "nan") for entry in by_seed.values() if entry["value"] is None]
    note = ", ".join(dict.fromkeys(notes))
    sides = {o.bound for o in finite if o.bound}
    if not finite or len(sides) > 1:
        return Value(None, None, 0, "limits on both sides" if sides else note)
    bound = sides.pop() if sides else ""
    std = None if bound or len(finite) == 1 else float(np.std([o.value for o in finite], ddof=1))
    return Value(mean(finite), std, len(finite), note, interval(finite, shared), finite, bound)


def _replicates(entry: dict[str, Any]) -> tuple[float, ...]:
    """The entry's replicates; none of them if one isn't finite."""
    replicates = entry.get("replicates") or ()
    return () if None in replicates else tuple(replicates)


def _most_frequent(sweeps: Mapping[str, Sweep]) -> float:
    """The guidance that most seeds have chosen, of several the smallest."""
    votes = Counter(sweep.chosen for sweep in sweeps.values())
    return min(votes, key=lambda w: (-votes[w], w))


def _cost_at(record: Record, guidance: Guidance) -> dict[str, float]:
    """The record's costs without a guidance and those at this one."""
    costs, swept = {}, Sweep.of(record.curves) is not None
    for name, value in record.cost.items():
        base, w = _split(name)
        at = CHOSEN if swept and w is not None else w
        if value is not None and at in (None, guidance):
            costs[base] = value
    return costs


def _mean_cost(costs: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(cost[name] for cost in costs if name in cost) for name in first_seen(costs)}


def _status(records: list[Record]) -> str:
    statuses = {record.status for record in records}
    return next(status for status in STATUSES if status in statuses)


def _reason(records: list[Record]) -> str:
    lines = {record.cell["seed"]: reason_line(record) for record in records if record.status != "done"}
    if len(lines) == len(records) and len(set(lines.values())) == 1:
        return next(iter(lines.values()))
    return "; ".join(f"seed {seed}: {line}" for seed, line in lines.items())


def reason_line(record: Record) -> str:
    """The record's reason in one line."""
    return " ".join((record.reason or "").split())


def first_seen(dicts: Iterable[dict[str, Any]]) -> list[str]:
    """The keys of all dicts in the order of their first appearance."""
    return list(dict.fromkeys(name for one in dicts for name in one))
