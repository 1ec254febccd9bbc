"""The inline engine: every stage runs in this process, one after the other; for debugging and for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from ..plan.plan import Plan
from ..store.artifacts import Store
from .companions import Setting, Team
from .schedule import Event, Listen, Schedule
from .worker import run_stage


class InlineEngine(Schedule):
    """Runs the missing stages of a plan in this process."""

    def __init__(self, plan: Plan, store: Store, setting: Setting, processes: int = 1) -> None:
        super().__init__(plan, store)
        self.setting, self.processes = setting, processes

    def run(self, wanted: list[str], listen: Listen, stop_on_failure: bool = False) -> None:
        """Makes the wanted stages and what they need; `listen` is called for every event."""
        self.begin(wanted, listen)
        if not self.waiting:
            return
        with self._team() as team:
            while self.waiting and not (stop_on_failure and self.failures):
                stage = next(iter(self.ready(1)), None)
                if stage is None:
                    time.sleep(0.1)  # another run makes the stages that could be made now
                    continue
                self.take(stage)
                if stage.id not in self.busy:
                    listen(Event("started", stage))
                parents = {role: self.plan.stages[parent] for role, parent in stage.parents.items()}
                send = partial(self.hear, stage, listen=listen)
                send(run_stage(stage, parents, team, send, threading.Event()))
                self.sift()
        self.end()

    @contextmanager
    def _team(self) -> Iterator[Team]:
        """A worker's settings, for as long as stages run."""
        threads = torch.get_num_threads()
        self.setting.apply()
        team = Team(self.processes, self.setting)
        try:
            yield team
        finally:
            team.end()
            torch.set_num_threads(threads)
            torch.set_flush_denormal(False)
