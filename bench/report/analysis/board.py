"""What the analyses read from records: a quality column, and each row at its guidances."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...leaderboard.columns import first_score
from ...leaderboard.guidance import Choice, choose
from ...leaderboard.numbers import number
from ...leaderboard.ranking import rankings
from ...leaderboard.results import Results
from ...leaderboard.rows import Column, Row, Value
from ...records.labels import natural
from ...records.record import Record
from ...statistics.statistics import Rank


@dataclass(frozen=True)
class Entry:
    """One tokenizer, regularizer and generator: its rows that have the quality column, by guidance."""

    label: str  # the regularizer's, with the tokenizer's where there are several
    tokenizer: str
    regularizer: str
    generator: str
    rows: dict[float, Row]
    values: dict[float, Value]

    @cached_property
    def choice(self) -> Choice:
        """Its guidance, as the leaderboard ranks it."""
        return choose(self.values, higher=False)

    @property
    def guidance(self) -> float:
        return 1.0 if self.choice.guidance is None else self.choice.guidance

    @property
    def value(self) -> Value:
        """At that guidance."""
        return self.values[self.guidance]

    @property
    def mean(self) -> float:
        return self.value.mean or math.nan

    @property
    def row(self) -> Row:
        return self.rows[self.guidance]


class Board:
    """The rows of one dataset as analyses see them; `column` is generation quality, lower is better."""

    def __init__(self, records: Sequence[Record] | Results) -> None:
        results = Results.of(records)
        self.records = [record for record in results.records if not record.real]
        self.real = next((row for row in results.rows if row.real), None)
        self.rows = [row for row in results.rows if not row.real]
        self.tokenizers = results.tokenizers
        ranked_by = first_score(self.rows, "generator")
        distances = [c for row in self.rows for c in row.values if c.base in ("gFID", "gFD")]
        plain = {c for c in distances if "@" not in head(c)}
        self.column = most(self.rows, lambda c: c in (plain.intersection(ranked_by) or plain))

    @classmethod
    def of(cls, records: Sequence[Record] | Board) -> Board:
        """Records may come as the board that is made of them, for all analyses at once."""
        return records if isinstance(records, Board) else cls(records)

    @cached_property
    def several_tokenizers(self) -> bool:
        return len({row.tokenizer for row in self.rows}) > 1

    def label(self, row: Row) -> str:
        return f"{row.tokenizer} · {row.regularizer}" if self.several_tokenizers else row.regularizer

    @cached_property
    def entries(self) -> list[Entry]:
        """In the order of labels; a distance of 0, which is rounding, has no logarithm and no place."""
        column, found = self.column, dict[tuple[str, str, str], list[Row]]()
        if column is None:
            return []
        for row in self.rows:
            if (mean_of(row, column) or 0.0) > 0:
                found.setdefault((row.generator, row.tokenizer, row.regularizer), []).append(row)
        entries = [
            Entry(
                self.label(mine[0]),
                tokenizer,
                regularizer,
                generator,
                {_guidance(row): row for row in mine},
                {_guidance(row): row.values[column] for row in mine},
            )
            for (generator, tokenizer, regularizer), mine in found.items()
        ]
        return sorted(entries, key=lambda e: (natural(e.generator), natural(e.label)))

    @cached_property
    def standings(self) -> dict[str, dict[str, Rank]]:
        """By generator and label, where two entries have a known error: the leaderboard's ranks."""
        held = rankings(self.rows, [self.column]) if self.column else []
        return {
            contest.generator: {
                self.label(self.rows[place]): rank
                for place, rank in zip(contest.places, contest.ranks, strict=True)
            }
            for contest in held
        }

    def tied(self, generator: str, label: str) -> str:
        """`, tied with …`: the others that seeds don't separate from the best, if the label is a best one."""
        ranks = self.standings.get(generator, {})
        names = [name for name, rank in ranks.items() if rank.tied and rank.basis == "seeds"]
        others = [name for name in names if name != label]
        return f", tied with {listed(others)} (of {len(ranks)})" if label in names and others else ""

    def with_generator(self, generator: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.generator == generator]

    def generators(self, least: int = 1) -> list[str]:
        """Those with at least so many entries."""
        counts = Counter(entry.generator for entry in self.entries)
        return [generator for generator, count in counts.items() if count >= least]

    def companion(self, pattern: str, rows: Sequence[Row] | None = None) -> Column | None:
        """The column whose name before the bracket matches, of the quality column's extractor.

        "rFI?D" finds `rFD[x]` for `gFD[x]` and `rFID` for `gFID`.
        """
        if self.column is None:
            return None
        extractor = self.column.name.partition("[")[2]
        return most(
            rows if rows is not None else self.rows,
            lambda c: bool(re.fullmatch(pattern, head(c))) and c.name.partition("[")[2] == extractor,
        )

    @property
    def quality(self) -> str:
        """How texts call the quality column, whose full name is in the method: `gFD` or `gFID`."""
        return self.column.base if self.column else ""

    @property
    def said(self) -> str:
        """The quality column as methods name it."""
        column = self.column
        return f"{column.name} (protocol {column.protocol}, n = {column.entry['n']:,})" if column else ""

    @property
    def seeds(self) -> int:
        """The most seeds that any entry's value is over."""
        return max((entry.value.n for entry in self.entries), default=0)


def _guidance(row: Row) -> float:
    return 1.0 if row.guidance is None else row.guidance


def head(column: Column) -> str:
    """A column's name before its extractor: `gFD@360`."""
    return column.name.partition("[")[0]


def most(rows: Iterable[Row], wanted: Callable[[Column], bool]) -> Column | None:
    """The wanted column that most rows have a number in; the first of several."""
    counts: Counter[Column] = Counter()
    for row in rows:
        counts.update(c for c in row.values if wanted(c) and mean_of(row, c) is not None)
    return max(counts, key=lambda c: (counts[c], c.base == "gFID"), default=None)


def mean_of(row: Row, column: Column) -> float | None:
    return row.values[column].mean if column in row.values else None


def by_seed(value: Value) -> dict[str, float]:
    """The observations by their seed."""
    return {one.seed: one.value for one in value.observations}


def tokenizer_seed(seed: str) -> str:
    """The first of a nested seed's parts."""
    return seed.split(".")[0]


def spread(values: Sequence[float]) -> str:
    """`96.1 ± 3.2`, or the mean alone of one value."""
    mean = number(float(np.mean(values)))
    return f"{mean} ± {number(float(np.std(values, ddof=1)))}" if len(values) > 1 else mean


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def listed(parts: Sequence[str], most: int = 4) -> str:
    """`a, b and c`; of more than `most` the first, and a count of the others."""
    if len(parts) > most:
        parts = [*parts[:most], f"{len(parts) - most} more"]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else "none"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def caution(seeds: int) -> str:
    """What to say of numbers from one seed."""
    return "" if seeds > 1 else " One seed: training variance is unknown, so none of this is a finding yet."
