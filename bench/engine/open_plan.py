"""A matrix that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..matrix.matrix import Matrix
from ..plan.plan import Cell, Plan
from ..store.artifacts import Store
from ..store.stage import Stage


@dataclass(frozen=True)
class OpenPlan:
    """A matrix, its whole plan, the cells that are chosen of it, and the store of its artifacts."""

    matrix: Matrix
    plan: Plan
    cells: list[Cell]
    store: Store

    @property
    def notes(self) -> list[str]:
        """The notes of the chosen cells' tokenizers, each once, after its label."""
        labels = dict.fromkeys(cell.tokenizer for cell in self.cells if cell.skipped is None)
        return [f"{label}: {note}" for label in labels for note in self.plan.notes.get(label, ())]

    @cached_property
    def needed(self) -> list[Stage]:
        """The stages of the chosen cells."""
        return self.plan.needed(self.cells)
