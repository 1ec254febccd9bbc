"""Companions: helper processes that compute a part of each stage, started by a worker or by torchrun."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore
from torch.distributed import Store as KeyValueStore

from ..api import Diverged
from ..runtime.processes import ALONE, Group
from ..store.stage import Stage
from ..training.context import Stopped
from .setting import Setting
from .start_process import start_process

# Stages that all processes share; the others (reference, scores with their timing) run in rank 0 only.
SHARED = frozenset({"features", "prior", "tokenizer", "latents", "generator", "samples"})
TASK_TIMEOUT = timedelta(days=30)  # for a companion's next task
END_GENERATION = -2  # the generation that tells torchrun's processes to end
POLL_SECONDS = 0.5  # between two reads of the key-value store by a supervisor


@dataclass(frozen=True)
class Task:
    """A stage for the companions."""

    stage: Stage
    parents: dict[str, Stage]
    setting: Setting


@dataclass(frozen=True)
class Rendezvous:
    """The address of the key-value store, which the worker or torchrun's agent keeps."""

    host: str
    port: int
    prefix: str = ""

    def connect(self) -> KeyValueStore:
        return PrefixStore(self.prefix, TCPStore(self.host, self.port, is_master=False, timeout=TASK_TIMEOUT))


class Team:
    """The companions of one worker, which is rank 0 of `setting.processes` processes.

    They are started with the first shared stage. A companion exits when its stage fails, which also releases
    those that wait for it; the next shared stage starts a new generation of companions.
    """

    def __init__(self, setting: Setting) -> None:
        self.world, self.setting = setting.processes, setting
        self.generation, self.tasks, self.connected = -1, 0, False
        self.companions: list[BaseProcess] = []
        self.server: TCPStore | None = None
        self.rendezvous = torchrun_rendezvous() if self.world > 1 and by_torchrun() else None
        self.torchrun_starts = self.rendezvous is not None
        hide_torchrun()

    @contextmanager
    def sharing(self, stage: Stage, parents: dict[str, Stage]) -> Iterator[Group]:
        """Gives the stage to every companion too, and yields the group of processes to run it in."""
        if self.world == 1 or stage.kind not in SHARED:
            yield ALONE
            return
        if not self.connected:
            self._start_generation()
        key, task = f"task/{self.generation}/{self.tasks}", pickle.dumps(Task(stage, parents, self.setting))
        self.store.set(key, task)  # type: ignore[arg-type]  # its documentation allows bytes
        self.tasks += 1
        try:
            join_group(self.store, self.generation, 0, self.world, self.setting.device, 0)
            yield Group(0, self.world)
            distributed.barrier()  # the stage is done when all processes have done their part
        except Exception as error:
            reason = None if isinstance(error, Diverged | Stopped) else self._failure_of_companion()
            self.end()
            if reason is not None:
                raise RuntimeError(reason) from error
            raise

    def end(self) -> None:
        """Kills all companions; those of torchrun are dismissed by the command line."""
        self.connected = False
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for companion in self.companions:
            companion.kill()
            companion.join()
        self.companions = []

    def _start_generation(self) -> None:
        if self.rendezvous is None:
            self.server = TCPStore(
                "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=TASK_TIMEOUT
            )
            self.rendezvous = Rendezvous("127.0.0.1", self.server.port)
        self.generation, self.tasks, self.connected = self.generation + 1, 0, True
        self.store = self.rendezvous.connect()
        self.store.set("generation", str(self.generation))
        if not self.torchrun_starts:
            self.companions = [
                start_companion(self.rendezvous, self.generation, rank, self.world, rank)
                for rank in range(1, self.world)
            ]

    def _failure_of_companion(self) -> str | None:
        """The reason that a companion gave before it ended, or that it ended without one."""
        key = _reason_key(self.generation)
        if not self.store.check([key]):
            time.sleep(2 * POLL_SECONDS)  # a supervisor reports a companion that ended without a reason
            for rank, companion in enumerate(self.companions, 1):
                report_end(self.store, self.generation, rank, self.world, companion)
        return self.store.get(key).decode() if self.store.check([key]) else None


def start_companion(
    rendezvous: Rendezvous, generation: int, rank: int, world: int, local_rank: int
) -> BaseProcess:
    """Starts a companion; `local_rank` is its number on its machine, and the number of its GPU."""
    arguments = (rendezvous, generation, rank, world, local_rank)
    return start_process(run_companion, arguments, f"bench-companion-{rank}", {})


def run_companion(rendezvous: Rendezvous, generation: int, rank: int, world: int, local_rank: int) -> None:
    """Runs this rank's part of one task after the other, until the process is killed or a task fails."""
    store = rendezvous.connect()
    number = 0
    while True:
        key = f"task/{generation}/{number}"
        store.wait([key], TASK_TIMEOUT)
        task = pickle.loads(store.get(key))
        setting = task.setting
        try:
            if number == 0:
                setting.apply()
                join_group(store, generation, rank, world, setting.device, local_rank)
            inputs = {role: setting.store.get(parent) for role, parent in task.parents.items()}
            setting.run_stage(task.stage, inputs, Group(rank, world))
            distributed.barrier()
        except Exception as error:
            reason = f"rank {rank} of {world}: {type(error).__name__}: {error}"
            store.compare_set(_reason_key(generation), "", reason)  # the first to fail gives the reason
            # Only the end of the process closes the connections that others wait on: libraries keep groups.
            os._exit(1)
        number += 1


def report_end(store: KeyValueStore, generation: int, rank: int, world: int, companion: BaseProcess) -> None:
    """Stores that a companion has ended, unless a reason is stored."""
    if companion.exitcode is not None:
        reason = f"rank {rank} of {world} ended with exit code {companion.exitcode}"
        store.compare_set(_reason_key(generation), "", reason)


def join_group(
    store: KeyValueStore, generation: int, rank: int, world: int, device: str, local_rank: int
) -> None:
    """Joins the process group of a generation, unless this process has."""
    if distributed.is_initialized():
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    group_store = PrefixStore(f"group/{generation}", store)
    distributed.init_process_group(backend, store=group_store, rank=rank, world_size=world)


def _reason_key(generation: int) -> str:
    return f"reason/{generation}"


def by_torchrun() -> bool:
    """Whether torchrun has started this process, or the process that has started it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def serve_torchrun() -> None:
    """Supervises, in a process of torchrun's with a rank above 0, a companion for each generation."""
    rank, world, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    hide_torchrun()
    rendezvous, current, companion = torchrun_rendezvous(), -1, None
    store = rendezvous.connect()
    store.wait(["generation"], TASK_TIMEOUT)
    while (generation := int(store.get("generation"))) != END_GENERATION:
        if generation != current:
            if companion is not None:
                companion.kill()
            current, companion = generation, start_companion(rendezvous, generation, rank, world, local_rank)
        time.sleep(POLL_SECONDS)
        assert companion is not None
        report_end(store, generation, rank, world, companion)
    if companion is not None:
        companion.kill()


def dismiss_torchrun() -> None:
    """Ends all processes of torchrun's with a rank above 0."""
    torchrun_rendezvous().connect().set("generation", str(END_GENERATION))


def torchrun_rendezvous() -> Rendezvous:
    prefix = f"latentbench/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    return Rendezvous(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), prefix)


def hide_torchrun() -> None:
    """Removes torchrun's variables, with which accelerate would form a process group of its own."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
