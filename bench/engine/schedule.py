"""What is to be made, what can be made next, and what became of it; engines decide where."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from ..plan.plan import Plan
from ..store.artifacts import Store
from ..store.hashes import Corrupt
from ..store.stage import Stage
from ..user_error import UserError

PAUSE = 1.0  # seconds between looks at a stage that another run makes
LOSSES = 5  # times that what a stage needs is found broken before it fails


@dataclass(frozen=True)
class Event:
    """Something that happened to a stage.

    `what` is started, busy, progress, note, done, failed or diverged.
    """

    what: str
    stage: Stage
    worker: int = 0
    step: int = 0
    total: int = 0
    text: str = ""
    trace: str = ""


Listen = Callable[[Event], None]


class EngineError(UserError):
    """Workers that cannot start."""


class Schedule:
    """The missing stages of a plan, in its order.

    A stage that fails takes its descendants with it and nothing else. `failures` maps a stage's id to the
    reason, for descendants as well.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.waiting: list[Stage] = []
        self.given: set[str] = set()  # ids of stages that are being made
        self.busy: dict[str, float] = {}  # ids of stages that another run makes; when to look again
        self.losses: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.done: set[str] = set()

    def begin(self, wanted: list[str], listen: Listen) -> None:
        """Finds what is missing of the wanted stages and of what they need."""
        self.given = set()
        self.waiting = self._missing(wanted, listen)
        self.sift()

    def ready(self, count: int | None) -> list[Stage]:
        """The first of the waiting stages that can be made now, at most `count`."""
        now = time.monotonic()
        due = (s for s in self.waiting if self.busy.get(s.id, 0) <= now)
        return list(islice((s for s in due if set(s.parents.values()) <= self.done), count))

    def take(self, stage: Stage) -> None:
        """Somebody makes it now."""
        self.waiting.remove(stage)
        self.given.add(stage.id)

    def hear(self, stage: Stage, message: tuple, listen: Listen, number: int = 0) -> None:
        """What worker `number` says of a stage: progress, a note, or what became of it."""
        what, said = message[0], message[2:]
        if what == "progress":
            listen(Event("progress", stage, number, *said))
            return
        if what == "note":
            listen(Event("note", stage, number, text=said[0]))
            return
        self.given.discard(stage.id)
        if what == "stopped":  # somebody else's SIGTERM
            self.waiting.insert(0, stage)
        elif what == "busy":
            if stage.id not in self.busy:
                listen(Event("busy", stage, number, text="another run makes it"))
            self.busy[stage.id] = time.monotonic() + PAUSE
            self.waiting.insert(0, stage)
        elif what == "lost":
            self._lost(stage, listen)
        elif what == "failed":
            self.fail(stage, said[0], listen, number, said[1])
        elif what in ("done", "found"):
            try:
                self._settle(stage, listen, number, text="made by another run" if what == "found" else "")
            except Corrupt:
                self._lost(stage, listen)

    def fail(self, stage: Stage, reason: str, listen: Listen, number: int = 0, trace: str = "") -> None:
        """A stage that cannot be made, for a reason that isn't the training's."""
        self.given.discard(stage.id)
        self.failures[stage.id] = reason
        listen(Event("failed", stage, number, text=reason, trace=trace))

    def sift(self) -> None:
        """Leaves no stage waiting for what has failed."""
        self.waiting = [stage for stage in self.waiting if not self._doomed(stage)]

    def end(self) -> None:
        """Gives every descendant of a failure its reason."""
        for stage in self.plan.stages.values():
            self._doomed(stage)

    def _missing(self, wanted: list[str], listen: Listen) -> list[Stage]:
        """The stages to make, in plan order: what lies behind an artifact that is there isn't needed."""
        missing, seen, look = set(), set(wanted), list(wanted)
        while look:
            stage = self.plan.stages[look.pop()]
            if said := self.store.quarantine_if_corrupt(stage, contents=False):
                listen(Event("note", stage, text=said))
            if self.store.has(stage):
                self._settle(stage, listen, quiet=True)
                continue
            missing.add(stage.id)
            look += [parent for parent in stage.parents.values() if parent not in seen]
            seen.update(stage.parents.values())
        return [stage for stage in self.plan.stages.values() if stage.id in missing]

    def _lost(self, stage: Stage, listen: Listen) -> None:
        """A stage that has to wait again, for what it needs or has just made wasn't what was written."""
        self.losses[stage.id] += 1
        if self.losses[stage.id] > LOSSES:
            where = self.store.root
            self.fail(stage, f"what it needs is found broken again and again, in {where}", listen)
            return
        again = {one.id for one in self._missing([stage.id], listen)}
        self.done -= again
        again |= {one.id for one in self.waiting}
        again -= self.given
        self.waiting = [one for one in self.plan.stages.values() if one.id in again]

    def _settle(
        self, stage: Stage, listen: Listen, number: int = 0, quiet: bool = False, text: str = ""
    ) -> None:
        error = self.store.get(stage).error
        if error is not None:
            self.failures[stage.id] = error
            listen(Event("diverged", stage, number, text=error))
            return
        self.done.add(stage.id)
        if not quiet:
            listen(Event("done", stage, number, text=text))

    def _doomed(self, stage: Stage) -> bool:
        """Whether a parent has failed; the plan's order makes this reach all descendants."""
        reason = next((self.failures[p] for p in stage.parents.values() if p in self.failures), None)
        if reason is not None:
            self.failures[stage.id] = reason
        return reason is not None
