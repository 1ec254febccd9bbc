"""The Ray engine: every stage is a task of a Ray cluster, whose nodes share the folder of artifacts.

Ray places tasks, reserves their resources and retries those that are lost with a node; a retried stage goes
on from the checkpoints in the folder. Workers have the threads and settings of the local engine's, so
numbers are the same.
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
from .companions import SHARED, Team
from .schedule import EngineError, Event, Listen, Schedule
from .setting import Setting
from .start_process import environ, start_variables

RETRIES = 3  # of a stage whose node, or worker, is lost
VISIBLE_SECONDS = 60.0  # within which one machine must see what another has made
LAST_CHECKPOINT_SECONDS = 5.0
POLL_SECONDS = 0.2  # between two reads of the stages' messages
OBJECT_STORE_BYTES = 2**27  # of Ray's own store, through which no tensor goes
# Variables of a cluster on this machine: its workers are no nicer than the local engine's.
OWN_CLUSTER = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}

_teams: dict[Setting, Team] = {}


@dataclass(frozen=True)
class Needs:
    """The resources that a node must have for a stage."""

    cpus: int
    gpus: int

    def fit(self, resources: dict[str, float]) -> bool:
        return self.cpus <= resources.get("CPU", 0) and self.gpus <= resources.get("GPU", 0)


def needs(stage: Stage, setting: Setting) -> Needs:
    """CPUs for the threads and loaders of all processes; with CUDA a GPU for each process.

    A stage that isn't shared, such as scores, has one process; one that only draws samples has no GPU.
    """
    processes = setting.processes if stage.kind in SHARED else 1
    only_draws = stage.kind == "reference" and "tokenizer" not in stage.parents
    gpus = processes if setting.device == "cuda" and not only_draws else 0
    return Needs((setting.threads + setting.loaders) * processes, gpus)


@dataclass(frozen=True)
class Task:
    """A stage as it is sent to a node."""

    stage: Stage
    parents: dict[str, Stage]
    setting: Setting
    folder: Path  # the command's working directory: paths of data may be relative
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """The versions that must be the same on all nodes, besides those that Ray checks."""
    return {"latentbench": __version__, "torch": torch.__version__}


def make(task: Task, queue: Queue) -> tuple:
    """Runs on a node: makes the stage's artifact, unless the node differs; returns the outcome."""
    stage, setting = task.stage, task.setting
    node = ray.util.get_node_ip_address()
    stopping = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopping.set())  # ray.cancel sends SIGINT
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
    return worker.run_stage(stage, task.parents, _team(setting), queue.put, stopping)


def appear(store: Store, stage: Stage) -> bool:
    """Waits until an artifact is visible, which listing a network folder hastens; returns whether it is."""
    end = time.monotonic() + VISIBLE_SECONDS
    while not store.has_now(stage) and time.monotonic() < end:
        with suppress(OSError):
            os.listdir(store.path(stage).parent)
        time.sleep(0.5)
    return store.has_now(stage)


def _team(setting: Setting) -> Team:
    """The team of this process, to which Ray gives one stage after the other."""
    if setting not in _teams:
        setting.apply()
        _teams[setting] = Team(setting)
    return _teams[setting]


class RayEngine(Schedule):
    """Runs the missing stages of a plan on an existing Ray cluster, or on a new one of this machine's cores.

    Args:
        jobs: the most stages at a time; None: as many as the cluster has resources for.
        address: of a cluster, as `ray.init` takes it; None starts one here, which ends with the run.
    """

    def __init__(
        self, plan: Plan, store: Store, setting: Setting, jobs: int | None, address: str | None
    ) -> None:
        super().__init__(plan, replace(store, root=store.root.absolute()))
        plugins = tuple(plugin.absolute() for plugin in setting.plugins)
        self.setting = replace(setting, root=self.store.root, plugins=plugins)
        self.jobs, self.address = jobs, address
        self.lines: dict[str, int] = {}  # the terminal lines of started stages, by stage id

    def run(self, wanted: list[str], listen: Listen, stop_on_failure: bool = False) -> None:
        self.begin(wanted, listen)
        if not self.waiting:
            return
        with self._cluster():
            self._warn(listen)
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
            tasks: dict[ray.ObjectRef, Stage] = {}
            try:
                while self.waiting or self.taken:
                    if stop_on_failure and self.failures:
                        break
                    for stage in self.ready(None if self.jobs is None else self.jobs - len(tasks)):
                        self.take(stage)
                        tasks[self._submit(stage, queue)] = stage
                    if not tasks:
                        time.sleep(POLL_SECONDS)
                    ended = ray.wait(list(tasks), timeout=POLL_SECONDS)[0] if tasks else []
                    self._read(queue, listen)
                    for task in ended:
                        self._end_task(tasks.pop(task), task, listen)
                    self.drop_doomed()
            finally:
                _stop(list(tasks))
                queue.shutdown()
        self.end()

    def _submit(self, stage: Stage, queue: Queue) -> ray.ObjectRef:
        needed = needs(stage, self.setting)
        # On a node without a GPU, no stage may ask for GPU memory.
        setting = self.setting if needed.gpus else replace(self.setting, device="cpu")
        task = Task(stage, self.parents(stage), setting, Path.cwd(), versions())
        options = {"num_cpus": needed.cpus, "num_gpus": needed.gpus, "max_retries": RETRIES}
        return ray.remote(make).options(**options, name=f"{stage.kind} {stage.label}").remote(task, queue)

    def _read(self, queue: Queue, listen: Listen) -> None:
        for message in queue.get_nowait_batch(queue.qsize()):
            stage = self.plan.stages[message[1]]
            if message[0] != "started":
                self.receive(stage, message, listen, self.lines.get(stage.id, 0))
            elif stage.id in self.lines:
                listen(Event("note", stage, text=f"it was lost with its node, and goes on on {message[2]}"))
            else:
                self.lines[stage.id] = next(n for n in count() if n not in self.lines.values())
                self.announce_start(stage, listen, self.lines[stage.id])

    def _end_task(self, stage: Stage, task: ray.ObjectRef, listen: Listen) -> None:
        line = self.lines.pop(stage.id, 0)
        try:
            message = ray.get(task)
        except RayTaskError as error:  # raised outside of run_stage
            self.fail(stage, f"{type(error.cause).__name__}: {error.cause}", listen, line, str(error))
            return
        except RayError as error:
            reason = str(error).strip().partition("\n")[0]
            self.fail(stage, f"lost {RETRIES + 1} times: {type(error).__name__}: {reason}", listen, line)
            return
        if message[0] == "done" and not appear(self.store, stage):
            reason = f"it is made, but not to be seen in {self.store.root}: nodes must share that folder"
            self.fail(stage, reason, listen, line)
            return
        self.receive(stage, message, listen, line)

    def _warn(self, listen: Listen) -> None:
        """Notes stages for which no node has the resources yet; nodes may still join."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        by_needs = {needs(stage, self.setting): stage for stage in reversed(self.waiting)}
        for needed, stage in by_needs.items():
            if not any(needed.fit(resources) for resources in nodes):
                text = f"waits for a node of {needed.cpus} CPUs and {needed.gpus} GPUs; there is none yet"
                listen(Event("note", stage, text=text))

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        variables = start_variables(self.setting.threads)
        if "HF_HUB_OFFLINE" in os.environ:
            variables["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
        before = signal.getsignal(signal.SIGTERM)
        try:
            if self.address is not None:
                _connect(self.address)
                ray.init(self.address, runtime_env={"env_vars": variables}, **QUIET)
            else:
                cores = (self.jobs or 1) * max(needs(stage, self.setting).cpus for stage in self.waiting)
                with environ(variables | OWN_CLUSTER):  # workers that inherit variables start sooner
                    ray.init("local", num_cpus=cores, object_store_memory=OBJECT_STORE_BYTES, **QUIET)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"no Ray cluster at {self.address or 'this machine'}: {error}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's handler exits without a message
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    """Raises OSError if nothing listens at an address, which takes Ray minutes to find out."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _stop(tasks: list[ray.ObjectRef]) -> None:
    """Gives all tasks the time for a last checkpoint, then kills them."""
    if not tasks:
        return
    for task in tasks:
        ray.cancel(task)
    for task in ray.wait(tasks, num_returns=len(tasks), timeout=LAST_CHECKPOINT_SECONDS)[1]:
        ray.cancel(task, force=True)
