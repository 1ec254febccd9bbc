"""A worker process: it runs one stage at a time."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.artifacts import Result, Store
from ..store.disk import DiskFull, explain_disk_full
from ..store.hashes import Corrupt

if TYPE_CHECKING:
    from ..store.stage import Stage
    from .companions import Team
    from .setting import Setting

Send = Callable[[tuple], None]  # sends a message about a stage to the engine
PROGRESS_SECONDS = 0.2  # between two messages about a stage's progress


def main(pipe: Connection, setting: Setting) -> None:
    """Takes (stage, parents) from the pipe; sends progress, then the outcome of the stage."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())

    from .companions import Team

    def send(message: tuple) -> None:
        try:
            pipe.send(message)
        except OSError:  # the engine has gone, for which there is no other reason than an interrupted run
            sys.exit(1)

    setting.apply()
    team = Team(setting)
    try:
        send(("ready",))
        while not stopping.is_set():
            try:
                if not pipe.poll(0.1):
                    continue
                stage, parents = pipe.recv()
            except (EOFError, OSError):
                return
            send(run_stage(stage, parents, team, send, stopping))
    finally:
        team.end()


def run_stage(
    stage: Stage, parents: dict[str, Stage], team: Team, send: Send, stopping: threading.Event
) -> tuple[str, ...]:
    """Makes a stage's artifact unless it exists; whatever fails in a part becomes an outcome here.

    Returns:
        (outcome, stage id), and for "failed" also the reason and the traceback. Other outcomes: "done";
        "found", another run has made the artifact; "busy", another run is making it; "lost", the artifact
        of a parent is missing or was corrupt; "stopped", by `stopping`.
    """
    store = team.setting.store

    def note(text: str) -> None:
        send(("note", stage.id, text))

    try:
        with explain_disk_full(store.root), store.lock(stage, wait=False) as locked:
            if not locked:
                return ("busy", stage.id)
            if store.has(stage):
                return ("found", stage.id)
            if not _prepare(stage, parents, store, note):
                return ("lost", stage.id)
            store.put(stage, _execute(stage, parents, team, send, stopping))
            if problem := store.upload(stage):
                note(problem)
            return ("done", stage.id)
    except Exception as error:
        store.drop_scratch(stage)
        return _outcome(stage, error)


def _prepare(stage: Stage, parents: dict[str, Stage], store: Store, note: Callable[[str], None]) -> bool:
    """Quarantines corrupt inputs and checkpoints; returns whether all inputs are there."""
    from ..training import checkpoint

    for parent in parents.values():
        if problem := store.quarantine_if_corrupt(parent):
            note(f"{parent.kind} {parent.label}: {problem}")
    if not all(map(store.has, parents.values())):
        return False
    for problem in checkpoint.quarantine_corrupt(store.work(stage), store.root):
        note(problem)
    return True


def _execute(
    stage: Stage, parents: dict[str, Stage], team: Team, send: Send, stopping: threading.Event
) -> Result:
    """The result of a stage with its cost in seconds and memory; divergence is a result as well."""
    from ..api import Diverged
    from ..training.context import Stopped

    setting, store, latest = team.setting, team.setting.store, 0.0

    def report(step: int, total: int, text: str) -> None:
        nonlocal latest
        if stopping.is_set():
            raise Stopped
        if time.monotonic() - latest > PROGRESS_SECONDS or step == total:
            latest = time.monotonic()
            send(("progress", stage.id, step, total, text))

    def note(text: str) -> None:
        send(("note", stage.id, text))

    _reset_peak_memory(setting.device)
    began = time.monotonic()
    inputs = {role: store.get(parent) for role, parent in parents.items()}
    try:
        with team.sharing(stage, parents) as group:
            result = setting.run_stage(
                stage, inputs, group, report=report, note=note, stopping=stopping.is_set
            )
            result.cost["processes"] = group.world
    except Diverged as error:
        result = Result(error=str(error))
    result.cost.setdefault("seconds", time.monotonic() - began)
    result.cost["peak_memory_bytes"] = _peak_memory(setting.device)
    return result


def _outcome(stage: Stage, error: Exception) -> tuple[str, ...]:
    from ..training.context import Stopped

    if isinstance(error, Stopped):
        return ("stopped", stage.id)
    if isinstance(error, Corrupt):  # an input that has changed since it was checked
        return ("lost", stage.id)
    reason = str(error) if isinstance(error, DiskFull) else f"{type(error).__name__}: {error}"
    return ("failed", stage.id, reason, traceback.format_exc())


def _reset_peak_memory(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_bytes(b"5")
    except OSError:
        pass


def _peak_memory(device: str) -> float:
    """Bytes of the accelerator's memory at the peak, or of this process's, libraries included."""
    import torch

    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        return 1024.0 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
