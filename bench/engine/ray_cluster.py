"""The Ray engine: every stage is a task of a Ray cluster, whose nodes share the folder of artifacts.

Ray places tasks, holds their resources and tries those again that are lost with a node; they go on from the
checkpoints in the folder. Numbers are those of the local engine: workers have its threads and settings.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .. import __version__
from ..plan.plan import Plan
from ..store.artifacts import Store
from ..store.stage import Stage
from . import worker
from .companions import SHARED, Setting, Team
from .schedule import EngineError, Event, Listen, Schedule
from .start_process import environ, thread_variables

RETRIES = 3  # of a stage whose node, or worker, is lost
PATIENCE = 60.0  # seconds until what one machine has made must be seen by another
LAST = 5.0  # seconds for a last checkpoint
LOOK = 0.2  # seconds between looks at what stages say
OBJECTS = 2**27  # bytes for Ray's own store, through which no tensor goes
# Of a cluster of our own: its workers are no nicer than the local engine's.
OWN = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}

_teams: dict[str, Team] = {}


@dataclass(frozen=True)
class Needs:
    """What a node must have for a stage."""

    cpus: int
    gpus: int

    def fit(self, resources: dict[str, float]) -> bool:
        return self.cpus <= resources.get("CPU", 0) and self.gpus <= resources.get("GPU", 0)


def needs(stage: Stage, threads: int, loaders: int, processes: int, device: str) -> Needs:
    """Threads and loaders of all processes; with CUDA a GPU for each, but none for what only draws samples.

    Scores, and what else isn't shared, have one process.
    """
    world = processes if stage.kind in SHARED else 1
    draws = stage.kind == "reference" and "tokenizer" not in stage.parents
    return Needs((threads + loaders) * world, world if device == "cuda" and not draws else 0)


@dataclass(frozen=True)
class Task:
    """A stage as a node is told of it."""

    stage: Stage
    parents: dict[str, Stage]
    setting: Setting
    processes: int
    folder: Path  # in which the command was given: paths of data may be relative
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """What must be the same on all nodes, besides what Ray itself looks at."""
    return {"latentbench": __version__, "torch": torch.__version__}


def make(task: Task, queue: Queue) -> tuple:
    """On a node: makes the stage's artifact, unless the node isn't one of ours; returns what became of it."""
    stage, setting = task.stage, task.setting
    node = ray.util.get_node_ip_address()
    stopping = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopping.set())  # which is what ray.cancel sends
    queue.put(("started", stage.id, node))
    if task.versions != versions():
        return ("failed", stage.id, f"{node} has {versions()}, the run {task.versions}", "")
    if not setting.url and not setting.root.is_dir():
        return ("failed", stage.id, f"{node} has no {setting.root}: nodes must share that folder", "")
    if task.folder.is_dir():
        os.chdir(task.folder)
    store = setting.store
    for parent in task.parents.values():
        appear(store, parent)
    return worker.run_stage(stage, task.parents, _team(setting, task.processes), queue.put, stopping)


def appear(store: Store, stage: Stage) -> bool:
    """Whether an artifact is there; a network folder may show it late, and sooner if it is listed."""
    end = time.monotonic() + PATIENCE
    while not store.has_now(stage) and time.monotonic() < end:
        with suppress(OSError):
            os.listdir(store.path(stage).parent)
        time.sleep(0.5)
    return store.has_now(stage)


def _team(setting: Setting, processes: int) -> Team:
    """That of this process, to which Ray gives one stage after the other."""
    key = repr((setting, processes))
    if key not in _teams:
        setting.apply()
        _teams[key] = Team(processes, setting)
    return _teams[key]


class RayEngine(Schedule):
    """Runs the missing stages of a plan on a Ray cluster that is there, or on one of this machine's cores."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        jobs: int | None,
        threads: int,
        device: str,
        precision: str,
        plugins: list[Path],
        loaders: int = 0,
        processes: int = 1,
        address: str | None = None,
    ) -> None:
        """
        Args:
            jobs: the most stages at a time; None: as many as the cluster has resources for.
            address: of a cluster, as `ray.init` takes it; None starts one here, which ends with the run.
        """
        super().__init__(plan, replace(store, root=store.root.absolute()))
        folders = [plugin.absolute() for plugin in plugins]
        self.setting = Setting(self.store.root, folders, threads, device, precision, loaders, store.url)
        self.jobs, self.processes, self.address = jobs, processes, address
        self.lines: dict[str, int] = {}  # of the stages that have started, on a terminal

    def run(self, wanted: list[str], listen: Listen, stop_on_failure: bool = False) -> None:
        """Makes the wanted stages and what they need; `listen` is called in this process for every event."""
        self.begin(wanted, listen)
        if not self.waiting:
            return
        with self._cluster():
            self._warn(listen)
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
            tasks: dict[ray.ObjectRef, Stage] = {}
            try:
                while self.waiting or self.given:
                    if stop_on_failure and self.failures:
                        break
                    for stage in self.ready(None if self.jobs is None else self.jobs - len(tasks)):
                        self.take(stage)
                        tasks[self._submit(stage, queue)] = stage
                    if not tasks:
                        time.sleep(LOOK)
                    ended = ray.wait(list(tasks), timeout=LOOK)[0] if tasks else []
                    self._read(queue, listen)
                    for task in ended:
                        self._ended(tasks.pop(task), task, listen)
                    self.sift()
            finally:
                _stop(list(tasks))
                queue.shutdown()
        self.end()

    def _needs(self, stage: Stage) -> Needs:
        setting = self.setting
        return needs(stage, setting.threads, setting.loaders, self.processes, setting.device)

    def _submit(self, stage: Stage, queue: Queue) -> ray.ObjectRef:
        parents = {role: self.plan.stages[parent] for role, parent in stage.parents.items()}
        needed = self._needs(stage)
        # Where there is no GPU, nobody may ask for its memory.
        setting = self.setting if needed.gpus else replace(self.setting, device="cpu")
        task = Task(stage, parents, setting, self.processes, Path.cwd(), versions())
        options = {"num_cpus": needed.cpus, "num_gpus": needed.gpus, "max_retries": RETRIES}
        return ray.remote(make).options(**options, name=f"{stage.kind} {stage.label}").remote(task, queue)

    def _read(self, queue: Queue, listen: Listen) -> None:
        for message in queue.get_nowait_batch(queue.qsize()):
            stage = self.plan.stages[message[1]]
            if message[0] != "started":
                self.hear(stage, message, listen, self.lines.get(stage.id, 0))
            elif stage.id in self.lines:
                listen(Event("note", stage, text=f"it was lost with its node, and goes on on {message[2]}"))
            else:
                self.lines[stage.id] = next(n for n in count() if n not in self.lines.values())
                if stage.id not in self.busy:  # which has been said
                    listen(Event("started", stage, self.lines[stage.id]))

    def _ended(self, stage: Stage, task: ray.ObjectRef, listen: Listen) -> None:
        line = self.lines.pop(stage.id, 0)
        try:
            message = ray.get(task)
        except RayTaskError as error:  # outside of what is the stage's own
            self.fail(stage, f"{type(error.cause).__name__}: {error.cause}", listen, line, str(error))
            return
        except RayError as error:
            said = str(error).strip().partition("\n")[0]
            self.fail(stage, f"lost {RETRIES + 1} times: {type(error).__name__}: {said}", listen, line)
            return
        if message[0] == "done" and not appear(self.store, stage):
            where = f"it is made, but not to be seen in {self.store.root}: nodes must share that folder"
            self.fail(stage, where, listen, line)
            return
        self.hear(stage, message, listen, line)

    def _warn(self, listen: Listen) -> None:
        """Of what no node has the resources for, as yet: others may join."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for needed, stage in {self._needs(stage): stage for stage in reversed(self.waiting)}.items():
            if not any(needed.fit(resources) for resources in nodes):
                text = f"waits for a node of {needed.cpus} CPUs and {needed.gpus} GPUs; there is none yet"
                listen(Event("note", stage, text=text))

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        values = thread_variables(self.setting.threads)
        if "HF_HUB_OFFLINE" in os.environ:
            values["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
        before = signal.getsignal(signal.SIGTERM)
        try:
            if self.address is not None:
                _reach(self.address)
                ray.init(self.address, runtime_env={"env_vars": values}, **QUIET)
            else:
                cores = (self.jobs or 1) * max(self._needs(stage).cpus for stage in self.waiting)
                with environ(values | OWN):  # workers that inherit start sooner
                    ray.init("local", num_cpus=cores, object_store_memory=OBJECTS, **QUIET)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"no Ray cluster at {self.address or 'this machine'}: {error}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own leaves without a word
        try:
            yield
        finally:
            ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nobody answers, which Ray would find out in minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _stop(tasks: list[ray.ObjectRef]) -> None:
    """Asks for a last checkpoint, then insists."""
    if not tasks:
        return
    for task in tasks:
        ray.cancel(task)
    for task in ray.wait(tasks, num_returns=len(tasks), timeout=LAST)[1]:
        ray.cancel(task, force=True)
