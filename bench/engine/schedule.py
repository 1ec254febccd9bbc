"""The order of stages: what is missing, what can be made next, and what became of it."""

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

BUSY_SECONDS = 1.0  # until a stage that another run makes is tried again
RETRIES = 5  # of a stage whose inputs are corrupt


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
    """The missing stages of a plan, in its order; the base of all engines.

    A stage that fails takes its descendants with it and nothing else. `failures` maps a stage's id to the
    reason, for descendants as well.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.waiting: list[Stage] = []
        self.taken: set[str] = set()  # ids of stages that are being made
        self.busy: dict[str, float] = {}  # ids of stages that another run makes; when to try them again
        self.retries: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.done: set[str] = set()
        self.order: dict[str, int] = {}  # places of the stages that are wanted or needed, by id

    def run(self, wanted: list[str], listen: Listen, stop_on_failure: bool = False) -> None:
        """Makes the wanted stages in their order, and what they need; calls `listen` for every event here."""
        raise NotImplementedError

    def begin(self, wanted: list[str], listen: Listen) -> None:
        """Finds what is missing of the wanted stages and of what they need."""
        self.taken = set()
        self.order = self._places(wanted)
        self.waiting = self._missing(wanted, listen)
        self.drop_doomed()

    def ready(self, count: int | None) -> list[Stage]:
        """The first of the waiting stages that can be made now, at most `count`."""
        now = time.monotonic()
        due = (s for s in self.waiting if self.busy.get(s.id, 0) <= now)
        return list(islice((s for s in due if set(s.parents.values()) <= self.done), count))

    def parents(self, stage: Stage) -> dict[str, Stage]:
        """The stages of a stage's inputs, by role."""
        return {role: self.plan.stages[parent] for role, parent in stage.parents.items()}

    def take(self, stage: Stage) -> None:
        """Marks a waiting stage as being made."""
        self.waiting.remove(stage)
        self.taken.add(stage.id)

    def announce_start(self, stage: Stage, listen: Listen, number: int = 0) -> None:
        if stage.id not in self.busy:  # a busy stage has been announced
            listen(Event("started", stage, number))

    def receive(self, stage: Stage, message: tuple, listen: Listen, number: int = 0) -> None:
        """Handles a message of worker `number`: a stage's progress, a note, or its outcome (`run_stage`)."""
        what, details = message[0], message[2:]
        if what == "progress":
            listen(Event("progress", stage, number, *details))
            return
        if what == "note":
            listen(Event("note", stage, number, text=details[0]))
            return
        self.taken.discard(stage.id)
        if what == "stopped":  # by a SIGTERM that wasn't the engine's
            self.waiting.insert(0, stage)
        elif what == "busy":
            if stage.id not in self.busy:
                listen(Event("busy", stage, number, text="another run makes it"))
            self.busy[stage.id] = time.monotonic() + BUSY_SECONDS
            self.waiting.insert(0, stage)
        elif what == "lost":
            self._retry(stage, listen)
        elif what == "failed":
            self.fail(stage, details[0], listen, number, details[1])
        elif what in ("done", "found"):
            try:
                self._finish(stage, listen, number, text="made by another run" if what == "found" else "")
            except Corrupt:
                self._retry(stage, listen)

    def fail(self, stage: Stage, reason: str, listen: Listen, number: int = 0, trace: str = "") -> None:
        """Notes a stage that cannot be made, for another reason than divergence."""
        self.taken.discard(stage.id)
        self.failures[stage.id] = reason
        listen(Event("failed", stage, number, text=reason, trace=trace))

    def drop_doomed(self) -> None:
        """Leaves no stage waiting for one that has failed."""
        self.waiting = [stage for stage in self.waiting if not self._doomed(stage)]

    def end(self) -> None:
        """Gives every descendant of a failure its reason."""
        for stage in self.plan.stages.values():
            self._doomed(stage)

    def _missing(self, wanted: list[str], listen: Listen) -> list[Stage]:
        """The stages to make, in order; the ancestors of an artifact that exists aren't needed."""
        missing, seen, unchecked = set(), set(wanted), list(wanted)
        while unchecked:
            stage = self.plan.stages[unchecked.pop()]
            if note := self.store.quarantine_if_corrupt(stage, contents=False):
                listen(Event("note", stage, text=note))
            if self.store.has(stage):
                self._finish(stage, listen, quiet=True)
                continue
            missing.add(stage.id)
            unchecked += [parent for parent in stage.parents.values() if parent not in seen]
            seen.update(stage.parents.values())
        return self._in_order(missing)

    def _places(self, wanted: list[str]) -> dict[str, int]:
        """Places of stages by id, in the order of `wanted`; a stage comes after what it needs."""
        ids = dict.fromkeys(id for stage in wanted for id in self.plan.ancestors([stage]))
        return {id: place for place, id in enumerate(ids)}

    def _in_order(self, ids: set[str]) -> list[Stage]:
        return [self.plan.stages[id] for id in sorted(ids, key=self.order.__getitem__)]

    def _retry(self, stage: Stage, listen: Listen) -> None:
        """Lets a stage wait again because an input, or the artifact just made, is missing or corrupt."""
        self.retries[stage.id] += 1
        if self.retries[stage.id] > RETRIES:
            reason = f"what it needs is found broken again and again, in {self.store.root}"
            self.fail(stage, reason, listen)
            return
        again = {missing.id for missing in self._missing([stage.id], listen)}
        self.done -= again
        again |= {waiting.id for waiting in self.waiting}
        again -= self.taken
        self.waiting = self._in_order(again)

    def _finish(
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
