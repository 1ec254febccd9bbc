"""The local engine: worker processes that take stages as soon as their parents are done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ..plan.plan import Plan
from ..store.artifacts import Store
from ..store.stage import Stage
from . import worker
from .schedule import EngineError, Event, Listen, Schedule
from .start_process import start_process, thread_variables

IDLE_DEATHS = 3  # workers that die without a stage before the engine gives up
HINTS: dict[int, str] = {
    signal.SIGKILL: "out of memory?",
    signal.SIGBUS: "is the disk full, or a file of the cache cut short?",
}


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection
    stage: Stage | None = None
    ready: bool = False


class Engine(Schedule):
    """Runs the missing stages of a plan on N worker processes."""

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
        super().__init__(plan, store)
        self.jobs, self.threads, self.device, self.precision = jobs, threads, device, precision
        self.plugins, self.loaders, self.processes = plugins, loaders, processes
        self.gpus = visible_gpus() if device == "cuda" else []
        self.idle_deaths = 0

    def run(self, wanted: list[str], listen: Listen, stop_on_failure: bool = False) -> None:
        """Makes the wanted stages and what they need; `listen` is called in this process for every event."""
        self.begin(wanted, listen)
        if not self.waiting:
            return
        workers: list[_Worker] = []
        try:
            for number in range(min(self.jobs, len(self.waiting))):
                workers.append(self._start(number))
            while self.waiting or self.given:
                if stop_on_failure and self.failures:
                    break
                idle = [w for w in workers if w.stage is None and w.ready]
                for one, stage in zip(idle, self.ready(len(idle)), strict=False):
                    self._give(one, stage, listen)
                for ready in wait([w.pipe for w in workers], timeout=0.5):
                    one = next(w for w in workers if w.pipe is ready)
                    try:
                        message = one.pipe.recv()
                    except (EOFError, OSError):
                        workers[one.number] = self._died(one, listen)
                        continue
                    self._take(one, message, listen)
                self.sift()
        finally:
            _stop(workers)
        self.end()

    def _give(self, one: _Worker, stage: Stage, listen: Listen) -> None:
        parents = {role: self.plan.stages[parent] for role, parent in stage.parents.items()}
        try:
            one.pipe.send((stage, parents))
        except OSError:  # it has just died, which the loop is about to see
            one.ready = False
            return
        self.take(stage)
        one.stage = stage
        if stage.id not in self.busy:  # which has been said
            listen(Event("started", stage, one.number))

    def _take(self, one: _Worker, message: tuple, listen: Listen) -> None:
        if message[0] == "ready":
            one.ready = True
            return
        stage = one.stage
        if stage is None:
            return
        if message[0] not in ("progress", "note"):
            one.stage = None
        self.hear(stage, message, listen, one.number)

    def _died(self, one: _Worker, listen: Listen) -> _Worker:
        one.process.join()
        stage, code = one.stage, one.process.exitcode or 0
        reason = (
            f"the worker was killed by signal {-code}" if code < 0 else f"the worker exited with code {code}"
        )
        if -code in HINTS:
            reason += f" ({HINTS[-code]})"
        if stage is None:
            self.idle_deaths += 1
            if self.idle_deaths > IDLE_DEATHS:
                raise EngineError(f"workers don't stay alive: {reason}")
            return self._start(one.number)
        self.fail(stage, reason, listen, one.number)
        return self._start(one.number)

    def _start(self, number: int) -> _Worker:
        mine, theirs = multiprocessing.Pipe()
        settings = (self.plugins, self.threads, self.device, self.precision, self.loaders)
        arguments = (theirs, self.store.root, *settings, self.processes, self.store.url)
        variables = thread_variables(self.threads) | gpu_environment(self.gpus, number, self.processes)
        process = start_process(worker.main, arguments, f"bench-worker-{number}", variables)
        theirs.close()
        return _Worker(number, process, mine)


def visible_gpus() -> list[str]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES allows; none is touched."""
    import torch

    chosen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (chosen or [str(index) for index in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


def gpu_environment(gpus: Sequence[str], worker: int, processes: int) -> dict[str, str]:
    """A worker's share of the GPUs, one for each of its processes: they are dealt in turn."""
    if not gpus:
        return {}
    share = min(processes, len(gpus))  # torchrun's worker may have processes on other machines
    mine = [gpus[(worker * share + one) % len(gpus)] for one in range(share)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


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
