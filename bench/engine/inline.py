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
from .companions import Team
from .schedule import Listen, Schedule
from .setting import Setting
from .worker import run_stage


class InlineEngine(Schedule):
    """Runs the missing stages of a plan in this process."""

    def __init__(self, plan: Plan, store: Store, setting: Setting) -> None:
        super().__init__(plan, store)
        self.setting = setting

    def run(self, wanted: list[str], listen: Listen, stop_on_failure: bool = False) -> None:
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
                self.announce_start(stage, listen)
                send = partial(self.receive, stage, listen=listen)
                send(run_stage(stage, self.parents(stage), team, send, threading.Event()))
                self.drop_doomed()
        self.end()

    @contextmanager
    def _team(self) -> Iterator[Team]:
        """Gives this process a worker's settings within the block."""
        threads = torch.get_num_threads()
        self.setting.apply()
        team = Team(self.setting)
        try:
            yield team
        finally:
            team.end()
            torch.set_num_threads(threads)
            torch.set_flush_denormal(False)
