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

from ..plan.plan import Plan
from ..store.artifacts import Store
from ..store.stage import Stage
from . import worker as worker_process
from .schedule import EngineError, Listen, Schedule
from .setting import Setting
from .start_process import start_process, start_variables

MAX_IDLE_DEATHS = 3  # workers that may die without a stage before the engine gives up
LAST_CHECKPOINT_SECONDS = 5
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

    def __init__(self, plan: Plan, store: Store, setting: Setting, jobs: int) -> None:
        super().__init__(plan, store)
        self.setting, self.jobs = setting, jobs
        self.gpus = visible_gpus() if setting.device == "cuda" else []
        self.idle_deaths = 0

    def run(self, wanted: list[str], listen: Listen, stop_on_failure: bool = False) -> None:
        self.begin(wanted, listen)
        if not self.waiting:
            return
        workers: list[_Worker] = []
        try:
            for number in range(min(self.jobs, len(self.waiting))):
                workers.append(self._start(number))
            while self.waiting or self.taken:
                if stop_on_failure and self.failures:
                    break
                idle = [w for w in workers if w.stage is None and w.ready]
                for worker, stage in zip(idle, self.ready(len(idle)), strict=False):
                    self._give(worker, stage, listen)
                for pipe in wait([w.pipe for w in workers], timeout=0.5):
                    worker = next(w for w in workers if w.pipe is pipe)
                    try:
                        message = worker.pipe.recv()
                    except (EOFError, OSError):
                        workers[worker.number] = self._replace(worker, listen)
                        continue
                    self._handle_message(worker, message, listen)
                self.drop_doomed()
        finally:
            _stop(workers)
        self.end()

    def _give(self, worker: _Worker, stage: Stage, listen: Listen) -> None:
        try:
            worker.pipe.send((stage, self.parents(stage)))
        except OSError:  # the worker has just died, which the loop will notice
            worker.ready = False
            return
        self.take(stage)
        worker.stage = stage
        self.announce_start(stage, listen, worker.number)

    def _handle_message(self, worker: _Worker, message: tuple, listen: Listen) -> None:
        if message[0] == "ready":
            worker.ready = True
            return
        stage = worker.stage
        if stage is None:
            return
        if message[0] not in ("progress", "note"):
            worker.stage = None
        self.receive(stage, message, listen, worker.number)

    def _replace(self, worker: _Worker, listen: Listen) -> _Worker:
        """Fails the stage of a worker that has died, and starts another worker."""
        worker.process.join()
        stage, code = worker.stage, worker.process.exitcode or 0
        if code < 0:
            reason = f"the worker was killed by signal {-code}"
        else:
            reason = f"the worker exited with code {code}"
        if -code in HINTS:
            reason += f" ({HINTS[-code]})"
        if stage is not None:
            self.fail(stage, reason, listen, worker.number)
        else:
            self.idle_deaths += 1
            if self.idle_deaths > MAX_IDLE_DEATHS:
                raise EngineError(f"workers don't stay alive: {reason}")
        return self._start(worker.number)

    def _start(self, number: int) -> _Worker:
        setting = self.setting
        pipe, workers_pipe = multiprocessing.Pipe()
        variables = start_variables(setting.threads) | gpu_environment(self.gpus, number, setting.processes)
        arguments = (workers_pipe, setting)
        process = start_process(worker_process.main, arguments, f"bench-worker-{number}", variables)
        workers_pipe.close()
        return _Worker(number, process, pipe)


def visible_gpus() -> list[str]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES allows; CUDA is not initialised."""
    import torch

    count = torch.cuda.device_count()
    chosen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (chosen or [str(index) for index in range(count)])[:count]


def gpu_environment(gpus: Sequence[str], worker: int, processes: int) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES of a worker, with a GPU for each of its processes; GPUs are dealt in turn."""
    if not gpus:
        return {}
    count = min(processes, len(gpus))  # the processes of torchrun's worker may be on other machines
    names = [gpus[(worker * count + index) % len(gpus)] for index in range(count)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)}


def _stop(workers: list[_Worker]) -> None:
    """Gives all workers the time for a last checkpoint, then kills them."""
    for worker in workers:
        worker.process.terminate()
    end = time.monotonic() + LAST_CHECKPOINT_SECONDS
    for worker in workers:
        worker.process.join(timeout=max(0.0, end - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
