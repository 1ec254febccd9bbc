"""Records gathered once for all tables, with everything that is decided about their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..records.record import Record, in_order
from .columns import deciding_columns, deciding_few, in_table_order, leading, score_columns
from .guidance import Choice, chosen_guidance, guidance_note, guidance_texts
from .ranking import Ranking, Standings, rankings
from .rows import Column, Row, joined, rows_of, tokenizer_rows
from .updates_note import updates_note


@dataclass(frozen=True)
class Leaderboard:
    """Rows of one scope, best first, with what every table of them reads."""

    scope: str
    rows: list[Row]
    columns: list[Column]  # the scope's scores: metrics without costs
    deciding: list[Column]  # the first score with a direction, which ranks and guidance go by; per protocol
    _rankings: dict[Column, list[Ranking]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, rows: Iterable[Row], scope: str) -> Leaderboard:
        """Puts rows in the order of tables."""
        rows = list(rows)
        columns = score_columns(rows, scope)
        scores = deciding_columns(columns)
        return cls(scope, in_table_order(rows, scores), columns, scores)

    def shown(self, most: int) -> tuple[list[Column], list[str]]:
        """The columns of the first `most` metrics, and the names of the other metrics."""
        return leading(self.columns, most)

    @property
    def few(self) -> tuple[list[Column], list[str]]:
        """The columns of the few metrics that a reader decides by, and the names of all other metrics."""
        return deciding_few(self.columns)

    @cached_property
    def scored(self) -> Leaderboard:
        """The rows that have a score of this scope."""
        rows = [row for row in self.rows if row.scored(self.scope)]
        return self if len(rows) == len(self.rows) else Leaderboard.of(rows, self.scope)

    @cached_property
    def guidance(self) -> dict[int, Choice]:
        """{index of a row: the choice of its guidance} of the rows that are ranked."""
        return chosen_guidance(self.rows, self.deciding)

    @cached_property
    def guidance_texts(self) -> list[str]:
        """Each row's guidance; a sign says that the best one is at the end of what was tried."""
        return guidance_texts(self.rows, self.guidance)

    @cached_property
    def guidance_note(self) -> str:
        """How guidance was chosen; empty if there was no choice."""
        return guidance_note(self.rows, self.guidance)

    def standings(self, columns: Sequence[Column]) -> Standings:
        """The rankings by these columns."""
        for column in columns:
            if column not in self._rankings:
                self._rankings[column] = rankings(self.rows, [column], self.guidance)
        return Standings(self.rows, self.deciding, [one for c in columns for one in self._rankings[c]])


@dataclass(frozen=True)
class Results:
    """Records in the order of their cells, and their rows."""

    records: list[Record]
    rows: list[Row]
    tokenizers: list[Row]

    @classmethod
    def of(cls, records: Iterable[Record] | Results) -> Results:
        """Gathers records, unless they are gathered already."""
        if isinstance(records, Results):
            return records
        ordered = in_order(records)
        return cls(ordered, rows_of(ordered), tokenizer_rows(ordered))

    @cached_property
    def datasets(self) -> dict[str, Results]:
        """The results of each dataset: numbers of two datasets never compare."""
        return {
            name: Results(
                [record for record in self.records if record.cell["dataset"] == name],
                [row for row in self.rows if row.dataset == name],
                [row for row in self.tokenizers if row.dataset == name],
            )
            for name in dict.fromkeys(record.cell["dataset"] for record in self.records)
        }

    @cached_property
    def generation(self) -> Leaderboard:
        """Rows at each guidance, by metrics of generators."""
        return Leaderboard.of(self.rows, "generator")

    @cached_property
    def reconstruction(self) -> Leaderboard:
        """Tokenizers, by metrics of tokenizers."""
        return Leaderboard.of(self.tokenizers, "tokenizer")

    @cached_property
    def updates_note(self) -> str:
        """The numbers of updates that generators had, if they are unequal; else empty."""
        return updates_note(self.records)

    @cached_property
    def joined(self) -> list[Row]:
        """Rows of all datasets, which share a column if each has one protocol."""
        return joined(self.rows)

    @cached_property
    def joined_generation(self) -> Leaderboard:
        """The joined rows, by metrics of generators."""
        return Leaderboard.of(self.joined, "generator")
