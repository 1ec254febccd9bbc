"""The view of records that analyses share: a quality column, and each row at its guidances."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ...leaderboard.baselines import baselines
from ...leaderboard.guidance import Choice, choose
from ...leaderboard.numbers import number
from ...leaderboard.results import Results
from ...leaderboard.rows import Column, Row, Value
from ...metrics.names import kind_of_metric
from ...options.words import joined, listed
from ...records.labels import natural
from ...records.record import Record
from ...statistics.significance import Rank
from .style import family

MOST_IN_A_PICTURE = 40  # rows of one generator that can be read under one another


@dataclass(frozen=True)
class Entry:
    """A tokenizer, regularizer and generator: their rows that have the quality column, by guidance."""

    label: str  # the regularizer's, with the tokenizer's where there are several
    tokenizer: str
    regularizer: str
    generator: str
    rows: dict[float, Row]
    values: dict[float, Value]

    @cached_property
    def choice(self) -> Choice:
        """The entry's guidance, as the leaderboard ranks it."""
        return choose(self.values, higher=False)

    @property
    def guidance(self) -> float:
        return 1.0 if self.choice.guidance is None else self.choice.guidance

    @property
    def value(self) -> Value:
        """The quality at the chosen guidance."""
        return self.values[self.guidance]

    @property
    def mean(self) -> float:
        return self.value.mean or math.nan

    @property
    def row(self) -> Row:
        return self.rows[self.guidance]


class Board:
    """The rows of one dataset as analyses see them; `column` is generation quality, lower is better.

    It is the distance that ranks the leaderboard, or the one whose name is `measure`.
    """

    def __init__(self, records: Sequence[Record] | Results, measure: str | None = None) -> None:
        results = Results.of(records)
        self.records = [record for record in results.records if not record.real]
        self.real = next((row for row in results.rows if row.real), None)
        self.rows = [row for row in results.rows if not row.real]
        self.tokenizers = results.tokenizers
        columns = {c for row in self.rows for c in row.values}
        self.distances = {c for c in columns if kind_of_metric(c.name) in ("gFID", "gFD")}
        plain = {c for c in self.distances if "@" not in head(c)}
        self.generation = results.generation
        candidates = plain.intersection(self.generation.deciding) or plain
        if measure is not None:
            candidates = {c for c in self.distances if c.name == measure}
        self.column = most(self.rows, lambda c: c in candidates)

    @classmethod
    def of(cls, records: Sequence[Record] | Board) -> Board:
        """The board of records, or a board itself: one is shared by all analyses."""
        return records if isinstance(records, Board) else cls(records)

    @cached_property
    def several_tokenizers(self) -> bool:
        return len({row.tokenizer for row in self.rows}) > 1

    def label(self, tokenizer: str, regularizer: str) -> str:
        return f"{tokenizer} · {regularizer}" if self.several_tokenizers else regularizer

    @cached_property
    def entries(self) -> list[Entry]:
        """All entries, sorted by labels with baselines last.

        A distance of 0 (by rounding) has no logarithm, so its entry is left out.
        """
        column, groups = self.column, dict[tuple[str, str, str], list[Row]]()
        if column is None:
            return []
        for row in self.rows:
            if (row.mean(column) or 0.0) > 0:
                groups.setdefault((row.tokenizer, row.regularizer, row.generator), []).append(row)
        entries = []
        for labels, group in groups.items():
            rows = {1.0 if row.guidance is None else row.guidance: row for row in group}
            values = {guidance: row.values[column] for guidance, row in rows.items()}
            entries.append(Entry(self.label(*labels[:2]), *labels, rows, values))
        last = baselines(self.rows)
        return sorted(entries, key=lambda e: (e.generator in last, natural(e.generator), natural(e.label)))

    @cached_property
    def ranks(self) -> dict[str, dict[str, Rank]]:
        """The leaderboard's ranks by generator and label, where two entries have a known error."""
        ranks: dict[str, dict[str, Rank]] = {}
        for ranking in self.generation.standings([self.column]).rankings if self.column else []:
            labels = [self.label(row.tokenizer, row.regularizer) for row in ranking.rows]
            ranks[ranking.generator] = dict(zip(labels, ranking.ranks, strict=True))
        return ranks

    def tied(self, generator: str, label: str) -> str:
        """`, tied with …`: the others that seeds don't separate from the best, if the label is a best one."""
        ranks = self.ranks.get(generator, {})
        best = [name for name, rank in ranks.items() if rank.tied and rank.basis == "seeds"]
        others = [name for name in best if name != label]
        return f", tied with {in_words(others)} (of {len(ranks)})" if label in best and others else ""

    @cached_property
    def pictured(self) -> list[Entry]:
        """The entries that pictures show: all, or where these are too many each family's best."""
        most = max(Counter(entry.generator for entry in self.entries).values(), default=0)
        if most <= MOST_IN_A_PICTURE:
            return self.entries
        best: dict[tuple[str, str, str], Entry] = {}
        for entry in sorted(self.entries, key=lambda entry: entry.mean):
            best.setdefault((entry.generator, entry.tokenizer, family(entry.regularizer)), entry)
        chosen = list(best.values())
        return [entry for entry in self.entries if entry in chosen]

    @property
    def pictured_text(self) -> str:
        """A sentence about the rows that pictures leave out; empty if they show all."""
        if len(self.pictured) == len(self.entries):
            return ""
        return " The picture shows the best row of each family and generator; the table has all."

    def with_generator(self, generator: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.generator == generator]

    def generators(self, least: int = 1) -> list[str]:
        """The generators with at least so many entries."""
        counts = Counter(entry.generator for entry in self.entries)
        return [generator for generator, count in counts.items() if count >= least]

    def companion(self, pattern: str) -> Column | None:
        """The column whose name before the bracket matches, of the quality column's extractor.

        "rFI?D" finds `rFD[x]` for `gFD[x]` and `rFID` for `gFID`.
        """
        if self.column is None:
            return None
        extractor = extractor_of(self.column)
        return most(
            self.rows, lambda c: bool(re.fullmatch(pattern, head(c))) and extractor_of(c) == extractor
        )

    @property
    def quality(self) -> str:
        """How texts call the quality column, whose full name is in the method: `gFD` or `gFID`."""
        return self.column.base if self.column else ""

    @property
    def measure(self) -> str:
        """The quality column as methods name it."""
        return self.column.described if self.column else ""

    @property
    def seeds(self) -> int:
        """The most seeds that any entry's value is over."""
        return max((entry.value.n for entry in self.entries), default=0)


# --- columns and values -------------------------------------------------------------------------------------


def head(column: Column) -> str:
    """A column's name before its extractor: `gFD@360`."""
    return column.name.partition("[")[0]


def extractor_of(column: Column) -> str:
    return column.name.partition("[")[2]


def most(rows: Iterable[Row], wanted: Callable[[Column], bool]) -> Column | None:
    """The wanted column that most rows have a number in; the first of several."""
    counts: Counter[Column] = Counter()
    for row in rows:
        counts.update(c for c in row.values if wanted(c) and row.mean(c) is not None)
    return max(counts, key=lambda c: (counts[c], c.base == "gFID"), default=None)


def table_of(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A table without its empty columns."""
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


# --- words --------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """`96.1 ± 3.2`, or the mean alone of one value."""
    mean = number(float(np.mean(values)))
    return f"{mean} ± {number(float(np.std(values, ddof=1)))}" if len(values) > 1 else mean


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def in_words(parts: Sequence[str], most: int = 4) -> str:
    """`a, b and c`; of more than `most` the first, and a count of the others."""
    if len(parts) > most:
        return listed(parts, most)
    return joined(parts) or "none"


def caution(seeds: int) -> str:
    """The warning that an answer from one seed ends with."""
    return (
        ""
        if seeds > 1
        else " One seed leaves the training variance unknown, so none of this is a finding yet."
    )
