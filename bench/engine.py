"""The local engine: worker processes that take stages as soon as their parents are done."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from . import worker
from .plan import Plan, Stage
from .store import Store

IDLE_DEATHS = 3  # workers that die without a stage before the engine gives up


@dataclass(frozen=True)
class Event:
    """Something that happened to a stage; `what` is started, progress, done, failed or diverged."""

    what: str
    stage: Stage
    worker: int = 0
    step: int = 0
    total: int = 0
    text: str = ""
    trace: str = ""


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    stage: Stage | None = None
    ready: bool = False


class EngineError(Exception):
    """Workers that cannot start; the message is meant for users."""


class Engine:
    """Runs the missing stages of a plan on N worker processes.

    A stage that fails takes its descendants with it and nothing else. `failures` maps a stage's id to the
    reason, for descendants as well.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        jobs: int,
        threads: int,
        device: str,
        precision: str,
        plugins: list[Path],
        loaders: int = 0,
        processes: int = 1,
    ) -> None:
        self.plan, self.store = plan, store
        self.jobs, self.threads, self.device, self.precision = jobs, threads, device, precision
        self.plugins, self.loaders, self.processes = plugins, loaders, processes
        self.failures: dict[str, str] = {}
        self.done: set[str] = set()
        self.idle_deaths = 0

    def run(self, wanted: list[str], listen: Callable[[Event], None], stop_on_failure: bool = False) -> None:
        """Makes the wanted stages and what they need; `listen` is called in this process for every event."""
        waiting = [stage for stage in self._missing(wanted, listen) if not self._doomed(stage)]
        if not waiting:
            return
        workers: list[_Worker] = []
        try:
            for number in range(min(self.jobs, len(waiting))):
                workers.append(self._start(number))
            while waiting or any(w.stage for w in workers):
                if stop_on_failure and self.failures:
                    break
                for idle in (w for w in workers if w.stage is None and w.ready):
                    stage = next((s for s in waiting if set(s.parents.values()) <= self.done), None)
                    if stage is not None and self._give(idle, stage, listen):
                        waiting.remove(stage)
                for ready in wait([w.pipe for w in workers], timeout=0.5):
                    one = next(w for w in workers if w.pipe is ready)
                    try:
                        message = one.pipe.recv()
                    except (EOFError, OSError):
                        workers[one.number] = self._died(one, listen)
                        continue
                    if message[0] == "stopped" and one.stage is not None:  # somebody else's SIGTERM
                        waiting.insert(0, one.stage)
                        one.stage = None
                    self._take(one, message, listen)
                waiting = [stage for stage in waiting if not self._doomed(stage)]
        finally:
            _stop(workers)
        for stage in self.plan.stages.values():
            self._doomed(stage)

    def _missing(self, wanted: list[str], listen: Callable[[Event], None]) -> list[Stage]:
        """The stages to make, in plan order: what lies behind an artifact that is there isn't needed."""
        missing, seen, look = set(), set(wanted), list(wanted)
        while look:
            stage = self.plan.stages[look.pop()]
            if self.store.has(stage):
                self._settle(stage, listen, quiet=True)
                continue
            missing.add(stage.id)
            look += [parent for parent in stage.parents.values() if parent not in seen]
            seen.update(stage.parents.values())
        return [stage for stage in self.plan.stages.values() if stage.id in missing]

    def _give(self, one: _Worker, stage: Stage, listen: Callable[[Event], None]) -> bool:
        parents = {role: self.plan.stages[parent] for role, parent in stage.parents.items()}
        try:
            one.pipe.send((stage, parents))
        except OSError:  # it has just died, which the loop is about to see
            one.ready = False
            return False
        one.stage = stage
        listen(Event("started", stage, one.number))
        return True

    def _take(self, one: _Worker, message: tuple, listen: Callable[[Event], None]) -> None:
        if message[0] == "ready":
            one.ready = True
            return
        stage = one.stage
        if stage is None:
            return
        if message[0] == "progress":
            listen(Event("progress", stage, one.number, *message[2:]))
            return
        one.stage = None
        if message[0] == "failed":
            self.failures[stage.id] = message[2]
            listen(Event("failed", stage, one.number, text=message[2], trace=message[3]))
        elif message[0] == "done":
            self._settle(stage, listen, number=one.number)

    def _settle(
        self, stage: Stage, listen: Callable[[Event], None], number: int = 0, quiet: bool = False
    ) -> None:
        error = self.store.get(stage).error
        if error is not None:
            self.failures[stage.id] = error
            listen(Event("diverged", stage, number, text=error))
            return
        self.done.add(stage.id)
        if not quiet:
            listen(Event("done", stage, number))

    def _doomed(self, stage: Stage) -> bool:
        """Whether a parent has failed; the plan's order makes this reach all descendants."""
        reason = next((self.failures[p] for p in stage.parents.values() if p in self.failures), None)
        if reason is not None:
            self.failures[stage.id] = reason
        return reason is not None

    def _died(self, one: _Worker, listen: Callable[[Event], None]) -> _Worker:
        one.process.join()
        stage, code = one.stage, one.process.exitcode or 0
        reason = (
            f"the worker was killed by signal {-code}" if code < 0 else f"the worker exited with code {code}"
        )
        if code == -9:
            reason += " (out of memory?)"
        if stage is None:
            self.idle_deaths += 1
            if self.idle_deaths > IDLE_DEATHS:
                raise EngineError(f"workers don't stay alive: {reason}")
            return self._start(one.number)
        self.failures[stage.id] = reason
        listen(Event("failed", stage, one.number, text=reason))
        return self._start(one.number)

    def _start(self, number: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        settings = (self.plugins, self.threads, self.device, self.precision, self.loaders)
        arguments = (theirs, self.store.root, *settings, self.processes)
        process = context.Process(target=worker.main, args=arguments, name=f"bench-worker-{number}")
        with _environment(worker.environment(self.threads)):
            process.start()
        theirs.close()
        return _Worker(number, process, mine)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _stop(workers: list[_Worker]) -> None:
    """Asks for a last checkpoint, then insists."""
    for one in workers:
        one.process.terminate()
    end = time.monotonic() + 5
    for one in workers:
        one.process.join(timeout=max(0.0, end - time.monotonic()))
        if one.process.is_alive():
            one.process.kill()
            one.process.join()
