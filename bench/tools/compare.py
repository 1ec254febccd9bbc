"""Two results folders, or two rows of one, set against each other metric by metric.

Rows are matched by their labels, seeds by their names; numbers of different protocols are not compared, and a
difference that seeds (or, with one, resamples) don't separate from noise is not called a change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..leaderboard.columns import shown
from ..leaderboard.numbers import number
from ..leaderboard.ranking import LEVEL, on_shared_images
from ..leaderboard.rows import LABELS, Column, Row, Value, reason_line, rows_of, tokenizer_rows
from ..records.files import RecordError, read_records
from ..records.labels import matches, parse_filter, selects
from ..records.record import Record, plain_json
from ..statistics.statistics import Difference, difference, holm, mean
from ..user_error import UserError

Key = tuple[str, ...]
UNSURE = {  # differences that another tokenizer seed may not repeat
    "resamples": "differs beyond sampling noise; training variance unknown",
    "generator seeds": "differs beyond generator seeds; the tokenizer's variance unknown",
}


class CompareError(UserError, ValueError):
    """Sides that cannot be compared."""


@dataclass(frozen=True)
class Side:
    """The records of one side, without those of real images; `accept` is what was asked of their labels."""

    text: str
    accept: dict[str, list[str]]
    records: list[Record]


@dataclass(frozen=True)
class ComparedMetric:
    """One metric of one row on both sides; effect is B - A."""

    row: str
    column: Column
    a: float
    b: float
    difference: Difference
    p: float  # after Holm's correction over all lines that aren't identical
    identical: bool  # seed by seed

    @property
    def relative(self) -> float | None:
        """Of A."""
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
        """In words; a metric without a direction is not called better or worse."""
        if self.identical:
            return "identical"
        if self.difference.basis == "none":
            return "unknown: one seed, no resamples"
        if not self.significant:
            return "no difference shown"
        if self.difference.basis != "seeds":
            return UNSURE[self.difference.basis]
        if not self.column.better:
            return "differs"
        return "worse" if self.worse else "better"


@dataclass(frozen=True)
class Comparison:
    """All lines, and what could not be compared, each with its reason."""

    lines: list[ComparedMetric]
    apart: list[str]
    lost: dict[str, list[str]]  # by metric: rows that have a value in A and in B none, or no finite one


@dataclass(frozen=True)
class Gate:
    """`gFD`, `gFD:5` or `gFD:5%`: a metric that B must not be worse in (by more than an amount)."""

    metric: str
    amount: float = 0.0
    percent: bool = False

    def closed_by(self, line: ComparedMetric) -> bool:
        """Whether a line of its metric is a regression."""
        size = abs(line.difference.effect)
        return line.worse and size > (self.amount / 100 * abs(line.a) if self.percent else self.amount)


def side(text: str) -> Side:
    """`FOLDER` or `FOLDER:AXIS=PATTERN,…`, as in --filter."""
    ends = [len(text), *(i for i, sign in enumerate(text) if sign == ":")]
    end = next((i for i in ends if Path(text[:i]).is_dir()), None)
    if not text or end is None:
        raise CompareError(f"no results folder {text!r}")
    try:
        accept = parse_filter(text[end + 1 :], "a comparison")
        found = read_records(Path(text[:end]) / "records")
    except (ValueError, RecordError) as error:
        raise CompareError(f"{text}: {error}") from error
    if not found:
        raise CompareError(f"no records in {Path(text[:end]) / 'records'}")
    mine = [record for record in found if not record.real and selects(accept, record.cell)]
    if not mine:
        raise CompareError(f"{text}: no cell fits")
    return Side(text, accept, mine)


def gate(text: str) -> Gate:
    """Of `--fail-on METRIC[:AMOUNT|%]`; a name's bracket may have colons of its own."""
    found = re.fullmatch(r"(.+?)(?::(\d+(?:\.\d+)?)(%)?)?", text)
    if not found or re.search(r":[^\]]*$", found[1]):
        raise CompareError(f"--fail-on takes METRIC[:AMOUNT|%], such as gFD:5%, not {text!r}")
    return Gate(found[1], float(found[2] or 0), found[3] is not None)


def compare(a: Side, b: Side, metrics: Sequence[str] = (), gates: Sequence[Gate] = ()) -> Comparison:
    """Metrics that fit a pattern or have a gate; without either, those with a direction that tables show."""
    free = {axis for axis in LABELS if axis in a.accept and axis in b.accept}
    free = {axis for axis in free if a.accept[axis] != b.accept[axis]}
    patterns = [*metrics, *(gate.metric for gate in gates)]
    found = Comparison([], [], {})
    known: dict[str, Column] = {}
    for scope, rows in (("tokenizer", tokenizer_rows), ("generator", rows_of)):
        if scope == "tokenizer" and free == {"generator"}:
            continue  # a tokenizer would be set against itself
        ours, theirs = (_by_key(each, rows(each.records), free) for each in (a, b))
        everything = [*ours.values(), *theirs.values()]
        columns = [c for row in everything for c in row.values if c.scope == scope]
        known |= {column.name: column for column in columns}
        usual = {column.name for column in shown(everything, scope)[0] if column.better}
        wanted = {c.name for c in columns if _fits(c.name, patterns) or not patterns and c.name in usual}
        _match(ours, theirs, _cells(b, scope, free), scope, wanted, found)
    for pattern in patterns:
        if not any(_fits(name, [pattern]) for name in known):
            raise CompareError(f"no metric fits {pattern!r}; there are {', '.join(known)}")
    for one in gates:
        mine = [name for name in known if _fits(name, [one.metric])]
        if not all(known[name].better for name in mine):
            raise CompareError(f"--fail-on {one.metric}: it has no direction, so nothing is a regression")
        if not any(line.column.name in mine for line in found.lines) and not found.lost.keys() & set(mine):
            raise CompareError(f"--fail-on {one.metric}: nothing to compare; {'; '.join(found.apart)}")
    if not found.lines and not found.apart and not found.lost:
        raise CompareError(f"{a.text} and {b.text} have no row in common")
    return replace(found, lines=_corrected(found.lines), apart=list(dict.fromkeys(found.apart)))


def regressions(found: Comparison, gates: Iterable[Gate]) -> list[str]:
    """What the gates object to: lines that are worse, and rows that B has no number for any more.

    The basis of a line is said: a user's gate closes on sampling noise alone too.
    """
    texts = []
    for one in gates:
        for line in found.lines:
            if _fits(line.column.name, [one.metric]) and one.closed_by(line):
                change, over = f"{number(line.a)} → {number(line.b)}", _over(line.difference)
                unsure = "" if line.difference.basis == "seeds" else f": {line.verdict}"
                change += f", p = {line.p:.2g} over {over}{unsure}"
                texts.append(f"{line.column.name} of {line.row}: {change}")
        for name, rows in found.lost.items():
            if _fits(name, [one.metric]):
                texts += [f"{name} of {row}" for row in rows]
    return list(dict.fromkeys(texts))


def untested(found: Comparison, gates: Sequence[Gate]) -> list[str]:
    """The lines that gates ask for and of which no error is known: they neither pass nor fail."""
    wanted = [gate.metric for gate in gates]
    return [
        f"{line.column.name} of {line.row}: {number(line.a)} → {number(line.b)}, {line.verdict}"
        for line in found.lines
        if line.difference.basis == "none" and not line.identical and _fits(line.column.name, wanted)
    ]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """By the full name, or by the name without the extractor: gFD is not gFD@360."""
    return matches(name, patterns) or matches(re.sub(r"\[.*\]", "", name), patterns)


def _by_key(side: Side, rows: list[Row], free: set[str]) -> dict[Key, Row]:
    """Rows by the labels that both sides share."""
    found: dict[Key, Row] = {}
    for row in rows:
        labels = tuple(getattr(row, axis) for axis in LABELS if axis not in free)
        w = "" if row.guidance is None else f"{row.guidance:g}"
        other = found.setdefault((*labels, w), row)
        if other is not row:
            several = sorted({getattr(each, axis) for each in (row, other) for axis in free})
            raise CompareError(
                f"{side.text}: several rows for {_name(labels)}: {', '.join(several)}; name one"
            )
    return found


def _name(labels: Key) -> str:
    return " · ".join(filter(None, labels))


def _cells(side: Side, scope: str, free: set[str]) -> dict[Key, str]:
    """All cells by those labels, with the reason of one that isn't done: it may have no row."""
    found: dict[Key, str] = {}
    for record in side.records:
        labels = record.cell | ({"generator": ""} if scope == "tokenizer" else {})
        key = tuple(labels[axis] for axis in LABELS if axis not in free)
        found[key] = found.get(key) or reason_line(record)
    return found


def _match(
    a: dict[Key, Row],
    b: dict[Key, Row],
    cells: dict[Key, str],
    scope: str,
    wanted: set[str],
    found: Comparison,
) -> None:
    """Adds to what was found the metrics of all rows of one scope; `cells` are those of B."""
    for key, mine in a.items():
        theirs, name = b.get(key), _name(key[:-1]) + f" w {key[-1]}" * bool(key[-1])
        columns = [c for c, v in mine.values.items() if c.scope == scope and c.name in wanted and v.n]
        if theirs is None and key[:-1] not in cells:
            if columns:
                found.apart.append(f"only in A: {name}")
            continue
        values = theirs.values if theirs is not None else {}
        for column in columns:
            ids = [c.protocol for c in values if c.name == column.name]
            if column in values and values[column].n:
                found.lines.append(_line(name, mine, column, values[column]))
            elif ids and column.protocol not in ids:
                others = ", ".join(ids)
                found.apart.append(f"{column.name}: A has protocol {column.protocol}, B {others}")
            else:
                why = cells[key[:-1]] or ("not finite" if column in values else "not scored")
                found.lost.setdefault(column.name, []).append(f"{name}: no value in B ({why})")
    known = {key[:-1] for key in a}
    for key, row in b.items():
        if key[:-1] not in known and any(c.name in wanted and c.scope == scope for c in row.values):
            found.apart.append(f"only in B: {_name(key[:-1])}")


def _line(name: str, row: Row, column: Column, theirs: Value) -> ComparedMetric:
    """Over the seeds that both have, if there are any."""
    both = row.values[column].observations, theirs.observations
    common = set.intersection(*({o.seed for o in each} for each in both))
    a, b = ([o for o in each if o.seed in common or not common] for each in both)
    same = {o.seed: o.value for o in a} == {o.seed: o.value for o in b}
    found = difference(a, b, on_shared_images(column))
    if same:
        found = replace(found, effect=0.0, low=min(found.low, 0.0), high=max(found.high, 0.0), p=1.0)
    return ComparedMetric(name, column, mean(a), mean(b), found, found.p, same)


def _corrected(lines: list[ComparedMetric]) -> list[ComparedMetric]:
    """Holm's p over all lines that are tested: identical ones aren't."""
    tested = [line for line in lines if line.difference.basis != "none" and not line.identical]
    p = holm([line.difference.p for line in tested])
    corrected = dict(zip(map(id, tested), p.tolist(), strict=True))
    return [replace(line, p=corrected.get(id(line), 1.0)) for line in lines]


def to_json(found: Comparison) -> dict[str, Any]:
    """For machines; p is corrected over all lines, p_alone isn't."""
    lines = [
        {
            "row": line.row,
            "metric": line.column.name,
            "protocol": line.column.protocol,
            "better": line.column.entry.get("better"),
            "a": line.a,
            "b": line.b,
            "difference": line.difference.effect,
            "relative": line.relative,
            "low": line.difference.low,
            "high": line.difference.high,
            "p": line.p,
            "p_alone": line.difference.p,
            "seeds": line.difference.seeds,
            "basis": line.difference.basis,
            "verdict": line.verdict,
        }
        for line in found.lines
    ]
    return plain_json({"lines": lines, "not_compared": found.apart, "lost": found.lost})


def text(found: Comparison) -> str:
    """A table, and what isn't in it."""
    from tabulate import tabulate

    header = ["row", "metric", "A", "B", "B - A", "%", "95 % interval", "p", "over", "verdict"]
    lines = []
    for line in found.lines:
        d = line.difference
        known = d.basis != "none"
        lines.append(
            [
                line.row,
                f"{line.column.name} {line.column.better}".strip(),
                number(line.a),
                number(line.b),
                _signed(d.effect),
                "" if line.relative is None else f"{line.relative:+.1%}",
                f"{_signed(d.low)} … {_signed(d.high)}" if known else "",
                f"{line.p:.2g}" if known else "",
                _over(d),
                line.verdict,
            ]
        )
    parts = [tabulate(lines, header, tablefmt="simple", disable_numparse=True)] if lines else []
    if lines:
        tested = sum(line.difference.basis != "none" and not line.identical for line in found.lines)
        count = f"{tested} line{'s' * (tested != 1)} that were tested"
        parts.append(
            f"Differences are paired. Intervals are of a line alone, p is corrected over {count} (Holm)."
        )
    parts += [f"not compared: {reason}" for reason in found.apart]
    parts += [f"lost: {name} of {row}" for name, rows in found.lost.items() for row in rows]
    return "\n".join(parts)


def _over(difference: Difference) -> str:
    """What an error is from."""
    if difference.basis == "resamples":
        return "resamples of one seed"
    return "1 seed" if difference.basis == "none" else f"{difference.seeds or 'other'} {difference.basis}"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{number(abs(value))}"
