"""The time that a run will still take, from estimated operations and from what its first stages took."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from ..plan.cost import Cost
from ..store.stage import Stage
from .schedule import Event

BY_OPERATIONS = ("prior", "tokenizer", "generator", "samples")  # kinds of stages; others take alike long
ENDS = ("done", "failed", "diverged")  # kinds of events


class TimeToGo:
    """Listens to a run's events; predicts the seconds until some of its stages, or all, are made.

    Speeds are measured in this run, so that whatever else slows the machine is counted. Stages of a kind that
    hasn't been seen are taken to compute as fast as those that have.

    Args:
        stages: the stages to make.
        costs: estimates by stage id.
        workers: the number of stages that are made at a time.
    """

    def __init__(
        self,
        stages: Iterable[Stage],
        costs: Mapping[str, Cost],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workers, self.clock = workers, clock
        self.left = {stage.id: 1.0 for stage in stages}  # shares that are still to be made, by stage id
        self.groups = {stage.id: _group(stage) for stage in stages}
        self.work = {
            stage.id: (costs[stage.id].flops or 0) if stage.kind in BY_OPERATIONS else 1.0 for stage in stages
        }
        # Sums of the work that is left, by group: a long run asks for them at every stage.
        self.ahead: dict[tuple[str, str], float] = defaultdict(float)
        for id, group in self.groups.items():
            self.ahead[group] += self.work[id]
        self.begun: dict[str, float] = {}
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)  # by group, of stages that have ended
        self.made: dict[tuple[str, str], float] = defaultdict(float)  # the work of these stages

    def hear(self, event: Event) -> None:
        """Takes in one event of the engine."""
        id, now = event.stage.id, self.clock()
        if id not in self.left:
            return
        if event.what == "started":
            self.begun[id] = now
        elif event.what == "progress" and event.total:
            self._leave(id, 1 - event.step / event.total)
        elif event.what in ENDS:
            self._leave(id, 0.0)
            del self.left[id]
            if event.what == "done" and id in self.begun:
                self.seconds[self.groups[id]] += now - self.begun[id]
                self.made[self.groups[id]] += self.work[id]

    def remaining(self, stages: Iterable[str] | None = None) -> float | None:
        """Seconds until these stages, by default all, are made; None as long as nothing tells how fast."""
        ahead = self.ahead if stages is None else self._work_of(stages)
        seconds = 0.0
        for group, work in ahead.items():
            pace = self._pace(group) if work > 0 else 0.0
            if pace is None:
                return None
            seconds += work * pace
        return seconds / self.workers

    def _leave(self, id: str, share: float) -> None:
        """Notes the share of a stage that is still to be made."""
        self.ahead[self.groups[id]] += (share - self.left[id]) * self.work[id]
        self.left[id] = share

    def _work_of(self, stages: Iterable[str]) -> dict[tuple[str, str], float]:
        """The work that is left of these stages, by group."""
        ahead: dict[tuple[str, str], float] = defaultdict(float)
        for id in stages:
            if id in self.left:
                ahead[self.groups[id]] += self.left[id] * self.work[id]
        return ahead

    def _pace(self, group: tuple[str, str]) -> float | None:
        """Seconds for a unit of work of a group; of groups that haven't been seen, of all counted alike."""
        alike = [other for other in self.made if (other[0] in BY_OPERATIONS) == (group[0] in BY_OPERATIONS)]
        seen = [group] if self.made.get(group) else alike
        work = sum(self.made[other] for other in seen)
        return sum(self.seconds[other] for other in seen) / work if work else None


def _group(stage: Stage) -> tuple[str, str]:
    """The kind of a stage, and for scores their scope: stages of a group take time in the same way."""
    return stage.kind, str(stage.config.get("scope", ""))
