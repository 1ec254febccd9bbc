"""The interface of everything that shows, tracks or counts what a run does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..plan.cost import Cost
from ..plan.plan import Cell
from ..plan.rounds import Round
from ..records.record import Record
from ..store.stage import Stage
from .schedule import Event


@dataclass(frozen=True)
class Ahead:
    """The work before a run: its rounds, and its stages with the cost of each by its id."""

    rounds: Sequence[Round]
    stages: Sequence[Stage]
    costs: Mapping[str, Cost]
    first: Sequence[str]  # ids of the stages that the first round needs


@dataclass(frozen=True)
class SoFar:
    """The state of a run when a round is complete."""

    round: Round
    records: Sequence[Record]  # of the results folder
    to_come: str  # a sentence on the cells that are left


class Watcher:
    """Is told what a run does, in its process; these methods do nothing."""

    def begin(self, ahead: Ahead) -> None:
        """Takes in what is about to be made."""

    def hear(self, event: Event) -> None:
        """Takes in an event of a stage."""

    def cell(self, cell: Cell, record: Record) -> None:
        """Takes in a cell whose record has just been written."""

    def round(self, so_far: SoFar) -> None:
        """Takes in that a round is complete and others are not."""

    def note(self, text: str) -> None:
        """Takes in a sentence for the user."""


class Watchers(Watcher):
    """Tells several watchers, one after the other."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def begin(self, ahead: Ahead) -> None:
        for watcher in self.watchers:
            watcher.begin(ahead)

    def hear(self, event: Event) -> None:
        for watcher in self.watchers:
            watcher.hear(event)

    def cell(self, cell: Cell, record: Record) -> None:
        for watcher in self.watchers:
            watcher.cell(cell, record)

    def round(self, so_far: SoFar) -> None:
        for watcher in self.watchers:
            watcher.round(so_far)

    def note(self, text: str) -> None:
        for watcher in self.watchers:
            watcher.note(text)
