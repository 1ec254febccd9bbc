"""A worker's companions: processes that run their shares of its stages, started here or by torchrun."""

from __future__ import annotations

import multiprocessing
import os
import pickle
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

from . import registry
from .api import Diverged
from .plan import Stage
from .processes import ALONE, Group
from .store import Store
from .training import Context, Stopped

# What is done once in each process, or scored with clocks, is the first one's alone.
SHARED = frozenset({"features", "prior", "tokenizer", "latents", "generator", "samples"})
PATIENCE = timedelta(days=30)  # a companion's, for its next task


@dataclass(frozen=True)
class Setting:
    """What is the same for all stages of a worker."""

    root: Path
    plugins: list[Path]
    threads: int
    device: str
    precision: str
    loaders: int = 0

    def apply(self) -> None:
        """In the worker and each companion alike, before the first stage."""
        torch.set_num_threads(self.threads)
        # LZN's softmax is full of denormals; all workers of all engines must agree, for it changes last bits.
        torch.set_flush_denormal(True)
        for plugin in self.plugins:
            registry.load_plugin(plugin)


@dataclass(frozen=True)
class Task:
    """A stage for the companions, who meet in the group of this number."""

    stage: Stage
    parents: dict[str, Stage]
    setting: Setting
    group: int


class Team:
    """The companions of one worker, which is the first of `world` processes.

    They are started with the first shared stage. Whatever a stage raises in one of them ends the group, so
    that no other waits for it; with the next stage they meet in a new one.
    """

    def __init__(self, world: int, setting: Setting) -> None:
        self.world, self.setting, self.groups = world, setting, 0
        self.companions: list[BaseProcess] = []
        self.board: Board | None = torchrun_board() if world > 1 and by_torchrun() else None
        self.hired = self.board is not None
        hide_torchrun()

    @contextmanager
    def sharing(self, stage: Stage, parents: dict[str, Stage]) -> Iterator[Group]:
        """The group that a stage runs in; every companion runs it too."""
        if self.world == 1 or stage.kind not in SHARED:
            yield ALONE
            return
        if not self.hired and not (self.companions and all(one.is_alive() for one in self.companions)):
            self._start()
        assert self.board is not None
        post(self.board, Task(stage, parents, self.setting, self.groups))
        try:
            meet(self.board, self.groups, 0, self.world, self.setting.device)
            yield Group(0, self.world)
            distributed.barrier()  # it is done when all have done their share
        except Exception as error:
            culprit = None if isinstance(error, Diverged | Stopped) else self._culprit()
            part()
            self.groups += 1
            if culprit is not None:
                raise RuntimeError(culprit) from error
            raise

    def end(self) -> None:
        """Leaves no companion; those of torchrun are sent home by the command line."""
        part()
        for one in self.companions:
            one.kill()
            one.join()
        self.companions = []

    def _start(self) -> None:
        self.end()
        board = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        context = multiprocessing.get_context("spawn")
        self.board, self.groups = board, 0
        self.companions = [
            context.Process(
                target=companion, args=(board.port, rank, self.world), name=f"bench-companion-{rank}"
            )
            for rank in range(1, self.world)
        ]
        for one in self.companions:
            one.start()

    def _culprit(self) -> str | None:
        """What a companion said before it left the group, or that it died."""
        assert self.board is not None
        for rank, one in enumerate(self.companions, 1):
            one.join(0.1)
            if not one.is_alive():
                return f"process {rank} of {self.world} ended with exit code {one.exitcode}"
        key = _words(self.groups)
        return self.board.get(key).decode() if self.board.check([key]) else None


def companion(port: int, rank: int, world: int) -> None:
    """The main function of a companion that a worker starts; it dies with it."""
    import signal

    from .worker import die_with_parent

    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker says when it is over
    serve(TCPStore("127.0.0.1", port, is_master=False, timeout=PATIENCE), rank, world, rank)


def serve(board: Board, rank: int, world: int, local: int) -> None:
    """Runs this process's share of one task after the other until there are no more.

    Args:
        local: the number of this process on its machine, and of its GPU.
    """
    from .stages import STAGES

    met, number = -1, 0
    while (task := take(board, number)) is not None:
        stage, setting = task.stage, task.setting
        if number == 0:
            setting.apply()
        number += 1
        store = Store(setting.root)
        try:
            if met != task.group:
                part()
                meet(board, task.group, rank, world, setting.device, local)
                met = task.group
            context = Context(
                store.work(stage),
                setting.device,
                setting.precision,
                loaders=setting.loaders,
                group=Group(rank, world),
            )
            inputs = {role: store.get(parent) for role, parent in task.parents.items()}
            STAGES[stage.kind](stage.config, inputs, context)
            distributed.barrier()
        except Exception as error:  # told to the first process, whose group ends with this one's
            words = f"process {rank} of {world}: {type(error).__name__}: {error}"
            board.compare_set(_words(task.group), "", words)
            part()


def post(board: Board, task: Task | None) -> None:
    """Gives all companions a task; None sends them home."""
    board.set(f"task/{board.add('tasks', 1) - 1}", pickle.dumps(task))


def take(board: Board, number: int) -> Task | None:
    """Waits for a task."""
    board.wait([f"task/{number}"], PATIENCE)
    return pickle.loads(board.get(f"task/{number}"))


def meet(board: Board, number: int, rank: int, world: int, device: str, local: int = 0) -> None:
    """Joins the group of a number, unless this process is in it."""
    if distributed.is_initialized():
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(
        backend, store=PrefixStore(f"group/{number}", board), rank=rank, world_size=world
    )


def part() -> None:
    """Leaves the group, which fails whatever the others wait for in it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _words(group: int) -> str:
    return f"words/{group}"


def by_torchrun() -> bool:
    """Whether torchrun has started this process, or the one that has started it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def serve_torchrun() -> None:
    """The whole life of a process of torchrun's that isn't its first."""
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    hide_torchrun()
    serve(torchrun_board(), rank, world, local)


def dismiss_torchrun() -> None:
    """Sends all processes of torchrun's but the first home."""
    post(torchrun_board(), None)


def torchrun_board() -> Board:
    """The key-value store that torchrun's agent keeps."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=PATIENCE)
    return PrefixStore(f"latentbench/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def hide_torchrun() -> None:
    """From accelerate, which would form a group of its own."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
