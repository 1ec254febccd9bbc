"""A worker's companions: processes that run their shares of its stages, started here or by torchrun."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore
from torch.distributed import Store as Board

from .. import registry
from ..api import Diverged
from ..runtime.processes import ALONE, Group
from ..store import mirror
from ..store.artifacts import Store
from ..store.stage import Stage
from ..training.steps import Context, Stopped
from .start_process import start_process

# What is done once in each process, or scored with clocks, is the first one's alone.
SHARED = frozenset({"features", "prior", "tokenizer", "latents", "generator", "samples"})
PATIENCE = timedelta(days=30)  # a companion's, for its next task
OVER = -2  # a generation after the last
LOOK = 0.5  # seconds between a supervisor's looks at the board


@dataclass(frozen=True)
class Setting:
    """What is the same for all stages of a worker."""

    root: Path
    plugins: list[Path]
    threads: int
    device: str
    precision: str
    loaders: int = 0
    url: str = ""  # where artifacts are kept as well

    @property
    def store(self) -> Store:
        return mirror.at(self.root, self.url)

    def apply(self) -> None:
        """In the worker and each companion alike, before the first stage."""
        torch.set_num_threads(self.threads)
        # LZN's softmax is full of denormals; all workers of all engines must agree, for it changes last bits.
        torch.set_flush_denormal(True)
        for plugin in self.plugins:
            registry.load_plugin(plugin)


@dataclass(frozen=True)
class Task:
    """A stage for the companions."""

    stage: Stage
    parents: dict[str, Stage]
    setting: Setting


@dataclass(frozen=True)
class Rendezvous:
    """Where the board is: a key-value store that the worker, or torchrun's agent, keeps."""

    host: str
    port: int
    prefix: str = ""

    def board(self) -> Board:
        return PrefixStore(self.prefix, TCPStore(self.host, self.port, is_master=False, timeout=PATIENCE))


class Team:
    """The companions of one worker, which is the first of `world` processes.

    They are started with the first shared stage. One that a stage fails in ends, so that the others, who may
    wait for it, fail as well; with the next shared stage there is a new generation of companions.
    """

    def __init__(self, world: int, setting: Setting) -> None:
        self.world, self.setting = world, setting
        self.generation, self.tasks, self.together = -1, 0, False
        self.companions: list[BaseProcess] = []
        self.kept: TCPStore | None = None
        self.place = torchrun_place() if world > 1 and by_torchrun() else None
        self.hired = self.place is not None
        hide_torchrun()

    @contextmanager
    def sharing(self, stage: Stage, parents: dict[str, Stage]) -> Iterator[Group]:
        """The group that a stage runs in; every companion runs it too."""
        if self.world == 1 or stage.kind not in SHARED:
            yield ALONE
            return
        if not self.together:
            self._gather()
        key, task = f"task/{self.generation}/{self.tasks}", pickle.dumps(Task(stage, parents, self.setting))
        self.board.set(key, task)  # type: ignore[arg-type]  # bytes, says its documentation
        self.tasks += 1
        try:
            meet(self.board, self.generation, 0, self.world, self.setting.device, 0)
            yield Group(0, self.world)
            distributed.barrier()  # it is done when all have done their share
        except Exception as error:
            culprit = None if isinstance(error, Diverged | Stopped) else self._culprit()
            self.end()
            if culprit is not None:
                raise RuntimeError(culprit) from error
            raise

    def end(self) -> None:
        """Leaves no companion; torchrun's are sent home by the command line."""
        self.together = False
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for one in self.companions:
            one.kill()
            one.join()
        self.companions = []

    def _gather(self) -> None:
        if self.place is None:
            self.kept = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
            self.place = Rendezvous("127.0.0.1", self.kept.port)
        self.generation, self.tasks, self.together = self.generation + 1, 0, True
        self.board = self.place.board()
        self.board.set("generation", str(self.generation))
        if not self.hired:
            ranks = range(1, self.world)
            self.companions = [hire(self.place, self.generation, rank, self.world, rank) for rank in ranks]

    def _culprit(self) -> str | None:
        """What a companion said before it ended, or that it did."""
        key = _words(self.generation)
        if not self.board.check([key]):
            time.sleep(2 * LOOK)  # the words of one that ended without any are its supervisor's
            for rank, one in enumerate(self.companions, 1):
                report_end(self.board, self.generation, rank, self.world, one)
        return self.board.get(key).decode() if self.board.check([key]) else None


def hire(place: Rendezvous, generation: int, rank: int, world: int, local: int) -> BaseProcess:
    """Starts a companion; `local` is its number on its machine, and its GPU's."""
    arguments = (place, generation, rank, world, local)
    return start_process(companion, arguments, f"bench-companion-{rank}", {})


def companion(place: Rendezvous, generation: int, rank: int, world: int, local: int) -> None:
    """Runs its share of one task after the other, until it is killed or one fails."""
    from ..stages.table import STAGES

    board = place.board()
    number = 0
    while True:
        key = f"task/{generation}/{number}"
        board.wait([key], PATIENCE)
        task = pickle.loads(board.get(key))
        stage, setting, store = task.stage, task.setting, task.setting.store
        try:
            if number == 0:
                setting.apply()
                meet(board, generation, rank, world, setting.device, local)
            where = store.work(stage), setting.device, setting.precision
            context = Context(*where, loaders=setting.loaders, group=Group(rank, world))
            inputs = {role: store.get(parent) for role, parent in task.parents.items()}
            STAGES[stage.kind](stage.config, inputs, context)
            distributed.barrier()
        except Exception as error:
            words = f"rank {rank} of {world}: {type(error).__name__}: {error}"
            board.compare_set(_words(generation), "", words)  # the first to fail says why
            # Nothing less closes the connections that others wait on: libraries keep groups that are left.
            os._exit(1)
        number += 1


def report_end(board: Board, generation: int, rank: int, world: int, one: BaseProcess) -> None:
    """Says that a companion has ended, unless somebody has said why."""
    if one.exitcode is not None:
        words = f"rank {rank} of {world} ended with exit code {one.exitcode}"
        board.compare_set(_words(generation), "", words)


def meet(board: Board, generation: int, rank: int, world: int, device: str, local: int) -> None:
    """Joins the group of a generation, unless this process is in it."""
    if distributed.is_initialized():
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    store = PrefixStore(f"group/{generation}", board)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)


def _words(generation: int) -> str:
    return f"words/{generation}"


def by_torchrun() -> bool:
    """Whether torchrun has started this process, or the one that has started it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def serve_torchrun() -> None:
    """The life of a process of torchrun's that isn't its first: it keeps a companion for each generation."""
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    hide_torchrun()
    place, current, one = torchrun_place(), -1, None
    board = place.board()
    board.wait(["generation"], PATIENCE)
    while (generation := int(board.get("generation"))) != OVER:
        if generation != current:
            if one is not None:
                one.kill()
            one, current = hire(place, generation, rank, world, local), generation
        time.sleep(LOOK)
        assert one is not None
        report_end(board, generation, rank, world, one)
    if one is not None:
        one.kill()


def dismiss_torchrun() -> None:
    """Sends all processes of torchrun's but the first home."""
    torchrun_place().board().set("generation", str(OVER))


def torchrun_place() -> Rendezvous:
    prefix = f"latentbench/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    return Rendezvous(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), prefix)


def hide_torchrun() -> None:
    """From accelerate, which would form a group of its own."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
