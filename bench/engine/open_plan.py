"""A matrix that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from ..matrix.matrix import Matrix
from ..plan.cost import Cost
from ..plan.estimate import costs
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
    _estimates: dict[bool, dict[str, Cost]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def notes(self) -> list[str]:
        """The notes of the chosen cells' tokenizers, each once, after its label."""
        labels = dict.fromkeys(cell.tokenizer for cell in self.cells if cell.skipped is None)
        return [f"{label}: {note}" for label in labels for note in self.plan.notes.get(label, ())]

    @cached_property
    def needed(self) -> list[Stage]:
        """The stages of the chosen cells."""
        return self.plan.needed(self.cells)

    def missing(self, rerun: bool = False) -> list[Stage]:
        """The stages that the chosen cells' scores wait for, in the plan's order; `rerun`: made ones too."""
        waiting = [stage for cell in self.cells for stage in cell.scores.values()]
        missing: set[str] = set()
        while waiting:
            stage = self.plan.stages[waiting.pop()]
            if stage.id not in missing and (rerun or not self.store.has(stage)):
                missing.add(stage.id)
                waiting += stage.parents.values()
        return [self.plan.stages[id] for id in self.plan.ancestors(list(missing)) if id in missing]

    def estimates(self, rerun: bool = False) -> dict[str, Cost]:
        """The costs of the missing stages by their ids, in the plan's order; they are estimated once."""
        if rerun not in self._estimates:
            self._estimates[rerun] = costs(self.plan, self.missing(rerun))
        return self._estimates[rerun]
