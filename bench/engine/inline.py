"""The inline engine: stages run in this process, one after the other; for notebooks, debugging and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from accelerate.state import AcceleratorState, GradientState, PartialState
from threadpoolctl import threadpool_limits

from ..plan.plan import Plan
from ..runtime.standard_settings import standard_settings
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
        # numpy and scipy have thread pools of their own, whose number of threads changes last bits too.
        with standard_settings(), _fresh_accelerator(), threadpool_limits(self.setting.threads):
            self.setting.apply()
            team = Team(self.setting)
            try:
                yield team
            finally:
                team.end()


@contextmanager
def _fresh_accelerator() -> Iterator[None]:
    """Hides the state that accelerate shares within a process: it has one precision and one device.

    Another run in this process, or the caller, may have chosen another one.
    """
    states = (AcceleratorState, GradientState, PartialState)
    before = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        yield
    finally:
        for state, shared in zip(states, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(shared)
