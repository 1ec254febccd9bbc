"""Records gathered once for all tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ..records.record import Record, in_order
from .rows import Row, rows_of, tokenizer_rows


@dataclass(frozen=True)
class Results:
    """Records in the order of their cells, and their rows: made once for all that is read."""

    records: list[Record]
    rows: list[Row]
    tokenizers: list[Row]

    @classmethod
    def of(cls, records: Iterable[Record] | Results) -> Results:
        """Whoever shows records takes them as they are, or gathered already."""
        if isinstance(records, Results):
            return records
        ordered = in_order(records)
        return cls(ordered, rows_of(ordered), tokenizer_rows(ordered))

    @cached_property
    def datasets(self) -> dict[str, Results]:
        """Of each dataset alone, whose numbers are not to be set against another's."""
        return {
            name: Results(
                [record for record in self.records if record.cell["dataset"] == name],
                [row for row in self.rows if row.dataset == name],
                [row for row in self.tokenizers if row.dataset == name],
            )
            for name in dict.fromkeys(record.cell["dataset"] for record in self.records)
        }
