"""Compares two results folders, or two rows of one folder, metric by metric.

Rows are matched by their labels, seeds by their names; numbers of different protocols are not compared, and a
difference that seeds (or resamples of a single seed) don't separate from noise is not called a change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..leaderboard.columns import SIDES, fits, shown
from ..leaderboard.numbers import number
from ..leaderboard.ranking import LEVEL, Basis, basis_of, on_shared_images
from ..leaderboard.rows import CHOSEN, LABELS, Column, Row, reason_line, rows_of, tokenizer_rows
from ..records.files import RecordError, read_records
from ..records.labels import folder_and_filter, parse_filter, selects
from ..records.record import Record, plain_json
from ..statistics.correlation import kendall
from ..statistics.observations import BoundSide, bound_of, mean
from ..statistics.significance import Difference, difference, holm
from ..user_error import UserError

Key = tuple[str, ...]
LEAST = 3  # rows that have an order; that of two is the same or not by chance
UNSURE = {  # differences that another tokenizer seed may not repeat
    "resamples": "differs beyond sampling noise; training variance unknown",
    "generator seeds": "differs beyond generator seeds; the tokenizer's variance unknown",
}


class CompareError(UserError, ValueError):
    """Sides that cannot be compared."""


@dataclass(frozen=True)
class Side:
    """The records of one side, without those of real images; `accept`: the patterns of its labels."""

    text: str
    accept: dict[str, list[str]]
    records: list[Record]


@dataclass(frozen=True)
class ComparedMetric:
    """One metric of one row on both sides; effect is B - A."""

    row: str
    generator: str  # "" for metrics of tokenizers
    column: Column
    basis: Basis  # what the error is from
    a: float
    b: float
    difference: Difference
    p: float  # after Holm's correction over all lines that aren't identical
    identical: bool  # seed by seed
    bounds: tuple[BoundSide, BoundSide] = ("", "")  # the side of a, of b, on which its mean lies if a limit

    @property
    def known(self) -> bool:
        """Whether the difference has a known error."""
        return self.basis != "none"

    @property
    def tested(self) -> bool:
        return self.known and not self.identical

    @property
    def relative(self) -> float | None:
        """The effect as a share of A."""
        return self.difference.effect / abs(self.a) if self.a else None

    @property
    def significant(self) -> bool:
        return self.p < 1 - LEVEL

    @property
    def worse(self) -> bool:
        higher = self.column.entry.get("better") == "higher"
        return self.significant and bool(self.column.better) and (self.difference.effect < 0) == higher

    @property
    def verdict(self) -> str:
        """The outcome in words; a metric without a direction is not called better or worse."""
        if self.identical:
            return "identical"
        if not self.known:
            return "unknown: both beyond what was tried" if all(self.bounds) else "unknown: one seed"
        if not self.significant:
            return "no difference shown"
        if self.basis in UNSURE:
            return UNSURE[self.basis]
        if not self.column.better:
            return "differs"
        return "worse" if self.worse else "better"


class Order(NamedTuple):
    """How alike both sides order rows by the means of one metric: Kendall's tau-b, 1 for the same order."""

    column: Column
    generator: str  # "" for metrics of tokenizers
    tau: float
    rows: int


@dataclass(frozen=True)
class Comparison:
    """All lines, and what could not be compared, each with its reason."""

    names: tuple[str, str]  # of A and B
    lines: list[ComparedMetric]
    apart: list[str]
    lost: dict[str, list[str]]  # by metric: rows with a value in A and no finite one in B


@dataclass(frozen=True)
class Gate:
    """`gFD`, `gFD:5` or `gFD:5%`: a metric that B must not be worse in (by more than an amount)."""

    metric: str
    amount: float = 0.0
    percent: bool = False

    def closed_by(self, line: ComparedMetric) -> bool:
        """Whether a line of this metric is a regression."""
        allowed = self.amount / 100 * abs(line.a) if self.percent else self.amount
        return line.worse and abs(line.difference.effect) > allowed


def side(text: str) -> Side:
    """Reads a side: `FOLDER` or `FOLDER:AXIS=PATTERN,…`, as in --filter."""
    found = folder_and_filter(text)
    if found is None:
        raise CompareError(f"no results folder {text!r}")
    folder, accept = found[0] / "records", found[1]
    try:
        records = read_records(folder)
    except RecordError as error:
        raise CompareError(f"{text}: {error}") from error
    if not records:
        raise CompareError(f"no records in {folder}")
    return side_of(records, accept, text)


def side_of(records: Iterable[Record], filter: str, text: str) -> Side:
    """The side of those records that a filter selects; `text` names it in messages."""
    try:
        accept = parse_filter(filter, "a comparison")
    except ValueError as error:
        raise CompareError(f"{text}: {error}") from error
    selected = [record for record in records if not record.real and selects(accept, record.cell)]
    if not selected:
        axes = {
            axis: ", ".join(dict.fromkeys(r.cell[axis] for r in records if not r.real)) for axis in accept
        }
        there = "; ".join(f"{axis} is {names}" for axis, names in axes.items())
        raise CompareError(f"{text}: no cell fits: {there or 'there is none'}")
    return Side(text, accept, selected)


def gate(text: str) -> Gate:
    """Parses `--fail-on METRIC[:AMOUNT|%]`; a metric may have colons in its brackets."""
    match = re.fullmatch(r"(.+?)(?::(\d+(?:\.\d+)?)(%)?)?", text)
    if not match or re.search(r":[^\]]*$", match[1]):
        raise CompareError(f"--fail-on takes METRIC[:AMOUNT|%], such as gFD:5%, not {text!r}")
    return Gate(match[1], float(match[2] or 0), match[3] is not None)


def compare(a: Side, b: Side, metrics: Sequence[str] = (), gates: Sequence[Gate] = ()) -> Comparison:
    """Compares metrics that fit a pattern or have a gate; without either, directed ones that tables show.

    Raises:
        CompareError: the sides have no row in common, or a pattern or gate finds nothing to compare.
    """
    free = {axis for axis in LABELS if axis in a.accept and axis in b.accept}
    free = {axis for axis in free if a.accept[axis] != b.accept[axis]}
    patterns = [*metrics, *(gate.metric for gate in gates)]
    comparison = Comparison((a.text, b.text), [], [], {})
    known: dict[str, Column] = {}
    for scope, make_rows in (("tokenizer", tokenizer_rows), ("generator", rows_of)):
        if scope == "tokenizer" and free == {"generator"}:
            continue  # a tokenizer would be compared with itself
        rows_a, rows_b = (_by_key(side, make_rows(side.records), free) for side in (a, b))
        rows = [*rows_a.values(), *rows_b.values()]
        columns = [c for row in rows for c in row.values if c.scope == scope]
        known |= {column.name: column for column in columns}
        if patterns:
            wanted = {c.name for c in columns if fits(c.name, patterns)}
        else:
            wanted = {c.name for c in shown(rows, scope)[0] if c.better}
        _match(rows_a, rows_b, _cells(b, scope, free), scope, wanted, comparison)
    for pattern in patterns:
        if not any(fits(name, [pattern]) for name in known):
            raise CompareError(f"no metric fits {pattern!r}; there are {', '.join(known)}")
    for gate in gates:
        names = {name for name in known if fits(name, [gate.metric])}
        if not all(known[name].better for name in names):
            raise CompareError(f"--fail-on {gate.metric}: it has no direction, so nothing is a regression")
        if not names & ({line.column.name for line in comparison.lines} | comparison.lost.keys()):
            reasons = "; ".join(comparison.apart)
            raise CompareError(f"--fail-on {gate.metric}: nothing to compare; {reasons}")
    if not comparison.lines and not comparison.apart and not comparison.lost:
        raise CompareError(f"{a.text} and {b.text} have no row in common")
    return replace(
        comparison, lines=_corrected(comparison.lines), apart=list(dict.fromkeys(comparison.apart))
    )


def regressions(comparison: Comparison, gates: Iterable[Gate]) -> list[str]:
    """The regressions that gates refuse: lines that are worse, and rows that have no number in B.

    A line names what its error is from, if not from seeds: a gate closes on sampling noise alone too.
    """
    texts = []
    for gate in gates:
        for line in comparison.lines:
            if fits(line.column.name, [gate.metric]) and gate.closed_by(line):
                unsure = f": {line.verdict}" if line.basis in UNSURE else ""
                texts.append(f"{_change(line)}, p = {line.p:.2g} over {_over(line)}{unsure}")
        for name, rows in comparison.lost.items():
            if fits(name, [gate.metric]):
                texts += [f"{name} of {row}" for row in rows]
    return list(dict.fromkeys(texts))


def untested(comparison: Comparison, gates: Sequence[Gate]) -> list[str]:
    """The lines of gates without a known error: they neither pass nor fail."""
    patterns = [gate.metric for gate in gates]
    return [
        f"{_change(line)}, {line.verdict}"
        for line in comparison.lines
        if not line.known and not line.identical and fits(line.column.name, patterns)
    ]


def _change(line: ComparedMetric) -> str:
    return f"{line.column.name} of {line.row}: {number(line.a)} → {number(line.b)}"


def _by_key(side: Side, rows: list[Row], free: set[str]) -> dict[Key, Row]:
    """Rows by the labels that both sides share, and guidance."""
    by_key: dict[Key, Row] = {}
    for row in rows:
        labels = tuple(getattr(row, axis) for axis in LABELS if axis not in free)
        guidance = CHOSEN if row.sweeps else row.guidance_text  # two runs may choose differently
        other = by_key.setdefault((*labels, guidance), row)
        if other is not row:
            several = ", ".join(sorted({getattr(each, axis) for each in (row, other) for axis in free}))
            raise CompareError(f"{side.text}: several rows for {_name(labels)}: {several}; name one")
    return by_key


def _name(labels: Key) -> str:
    return " · ".join(filter(None, labels))


def _cells(side: Side, scope: str, free: set[str]) -> dict[Key, str]:
    """All cells by the labels that both sides share, with the reason of a cell that isn't done."""
    reasons: dict[Key, str] = {}
    for record in side.records:
        labels = record.cell | ({"generator": ""} if scope == "tokenizer" else {})
        key = tuple(labels[axis] for axis in LABELS if axis not in free)
        reasons[key] = reasons.get(key) or reason_line(record)
    return reasons


def _match(
    a: dict[Key, Row],
    b: dict[Key, Row],
    cells: dict[Key, str],
    scope: str,
    wanted: set[str],
    comparison: Comparison,
) -> None:
    """Adds to a comparison the metrics of all rows of one scope; `cells` are those of B."""
    for key, row in a.items():
        name = _name(key[:-1])
        if key[-1]:
            name += f" w {key[-1]}"
        columns = [c for c, v in row.values.items() if c.scope == scope and c.name in wanted and v.n]
        if key not in b and key[:-1] not in cells:
            if columns:
                comparison.apart.append(f"only in A: {name}")
            continue
        others = [f"w {w}" for *labels, w in b if (*labels,) == key[:-1] and w]
        if key not in b and others and columns:
            comparison.apart.append(f"only in A: {name}; B has {', '.join(others)}")
            continue
        values = b[key].values if key in b else {}
        for column in columns:
            ids = [c.protocol for c in values if c.name == column.name]
            if column in values and values[column].n:
                comparison.lines.append(_line(name, column, row, b[key]))
            elif ids and column.protocol not in ids:
                text = f"{column.name}: A has protocol {column.protocol}, B {', '.join(ids)}"
                comparison.apart.append(text)
            else:
                why = cells[key[:-1]] or ("not finite" if column in values else "not scored")
                comparison.lost.setdefault(column.name, []).append(f"{name}: no value in B ({why})")
    known = {key[:-1] for key in a}
    for key, row in b.items():
        if key[:-1] not in known and any(c.name in wanted and c.scope == scope for c in row.values):
            comparison.apart.append(f"only in B: {_name(key[:-1])}")


def _line(name: str, column: Column, row_a: Row, row_b: Row) -> ComparedMetric:
    """The metric over the seeds that both sides have, or over all if they have none in common."""
    both = row_a.values[column].observations, row_b.values[column].observations
    common = set.intersection(*({o.seed for o in observations} for observations in both))
    a, b = ([o for o in observations if o.seed in common or not common] for observations in both)
    bounds = bound_of(a), bound_of(b)
    same = {o.seed: o.value for o in a} == {o.seed: o.value for o in b} and not any(bounds)
    gap = difference(a, b, on_shared_images(column))
    if same:
        gap = replace(gap, effect=0.0, low=min(gap.low, 0.0), high=max(gap.high, 0.0), p=1.0)
    basis = basis_of(gap.basis, (row_a, row_b), column)
    generator = row_a.generator if column.scope == "generator" else ""
    return ComparedMetric(name, generator, column, basis, mean(a), mean(b), gap, gap.p, same, bounds)


def _corrected(lines: list[ComparedMetric]) -> list[ComparedMetric]:
    """The lines with Holm's p over all that are tested, and p = 1 for the others."""
    p = iter(holm([line.difference.p for line in lines if line.tested]).tolist())
    return [replace(line, p=next(p) if line.tested else 1.0) for line in lines]


def orders(comparison: Comparison) -> list[Order]:
    """The order of rows by each metric that has a direction, of each generator with enough rows."""
    groups: dict[tuple[Column, str], list[ComparedMetric]] = {}
    for line in comparison.lines:
        if line.column.better and not any(line.bounds):
            groups.setdefault((line.column, line.generator), []).append(line)
    found = []
    for (column, generator), group in groups.items():
        if len(group) >= LEAST:
            tau = kendall([line.a for line in group], [line.b for line in group])
            found.append(Order(column, generator, tau, len(group)))
    return [order for order in found if math.isfinite(order.tau)]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON data; p is corrected over all lines, p_alone isn't."""
    lines = [
        {
            "row": line.row,
            "metric": line.column.name,
            "protocol": line.column.protocol,
            "better": line.column.entry.get("better"),
            "a": line.a,
            "b": line.b,
            "bounds": line.bounds,
            "difference": line.difference.effect,
            "relative": line.relative,
            "low": line.difference.low,
            "high": line.difference.high,
            "p": line.p,
            "p_alone": line.difference.p,
            "seeds": line.difference.seeds,
            "basis": line.basis,
            "verdict": line.verdict,
        }
        for line in comparison.lines
    ]
    found = [
        {"metric": o.column.name, "generator": o.generator, "kendall_tau": o.tau, "rows": o.rows}
        for o in orders(comparison)
    ]
    return plain_json(
        {"lines": lines, "orders": found, "not_compared": comparison.apart, "lost": comparison.lost}
    )


def text(comparison: Comparison) -> str:
    """The comparison as a table, followed by what isn't in it."""
    from tabulate import tabulate

    header, rows, said = lines(comparison)
    sides = [f"{letter}: {name}" for letter, name in zip("AB", comparison.names, strict=True)]
    parts = sides + [tabulate(rows, header, tablefmt="simple", disable_numparse=True)] if rows else []
    return "\n".join([*parts, *said])


def lines(comparison: Comparison) -> tuple[list[str], list[list[str]], list[str]]:
    """The header and rows of the comparison's table, and sentences on it and on what isn't in it."""
    header = ["row", "metric", "A", "B", "B - A", "%", "95 % interval", "p", "over", "verdict"]
    rows = []
    for line in comparison.lines:
        gap = line.difference
        rows.append(
            [
                line.row,
                f"{line.column.name} {line.column.better}".strip(),
                *(SIDES[side] + number(x) for side, x in zip(line.bounds, (line.a, line.b), strict=True)),
                _signed(gap.effect),
                "" if line.relative is None else f"{line.relative:+.1%}",
                f"{_signed(gap.low)} … {_signed(gap.high)}" if line.known else "",
                f"{line.p:.2g}" if line.known else "",
                _over(line),
                line.verdict,
            ]
        )
    parts = []
    if rows:
        tested = sum(line.tested for line in comparison.lines)
        count = "1 line that was tested" if tested == 1 else f"{tested} lines that were tested"
        parts.append(
            f"Differences are paired. Intervals are of a line alone; p, which decides the verdict, is "
            f"corrected over {count} (Holm), so choose metrics (--metric) before you see numbers. The ranks "
            "of a leaderboard test all pairs of its rows at once, and may differ."
        )
    for order in orders(comparison):
        of = f"{order.column.name} with {order.generator}" if order.generator else order.column.name
        parts.append(f"order of {order.rows} rows by {of}: Kendall's τ of A and B {order.tau:.2f}")
    parts += [f"not compared: {reason}" for reason in comparison.apart]
    parts += [f"lost: {name} of {row}" for name, lost in comparison.lost.items() for row in lost]
    return header, rows, parts


def _over(line: ComparedMetric) -> str:
    """The basis of an error."""
    alone = {"resamples": "resamples of one seed", "images": "resampled images", "none": "1 seed"}
    return alone.get(line.basis) or f"{line.difference.seeds or 'other'} {line.basis}"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{number(abs(value)) if math.isfinite(value) else '∞'}"
