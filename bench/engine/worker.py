"""A worker process: single-threaded, it runs one stage at a time and dies with its parent."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.artifacts import Result
from ..store.disk import DiskFull, explain_disk_full
from ..store.hashes import Corrupt

if TYPE_CHECKING:
    from ..store.stage import Stage
    from .companions import Team


def main(
    pipe: Connection,
    root: Path,
    plugins: list[Path],
    threads: int,
    device: str,
    precision: str,
    loaders: int,
    processes: int,
    url: str,
) -> None:
    """Takes (stage, parents) from the pipe; sends progress, then what became of the stage."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())

    from .companions import Setting, Team

    setting = Setting(root, plugins, threads, device, precision, loaders, url)
    setting.apply()
    team = Team(processes, setting)
    pipe.send(("ready",))
    try:
        while not stopping.is_set():
            try:
                if not pipe.poll(0.1):
                    continue
                stage, parents = pipe.recv()
            except (EOFError, OSError):
                return
            pipe.send(run_stage(stage, parents, team, pipe.send, stopping))
    finally:
        team.end()


def run_stage(
    stage: Stage,
    parents: dict[str, Stage],
    team: Team,
    send: Callable[[tuple], None],
    stopping: threading.Event,
) -> tuple[str, ...]:
    """Makes a stage's artifact unless it is there; the edge of a cell, where any failure becomes a reason.

    "found" is the answer where another run has made it, "busy" where one does, and "lost" where a parent's
    artifact had to be set aside.
    """
    from ..api import Diverged
    from ..stages.table import STAGES
    from ..training import checkpoint
    from ..training.steps import Context, Stopped

    setting, store = team.setting, team.setting.store
    device, latest = setting.device, [0.0]

    def report(step: int, total: int, text: str) -> None:
        if stopping.is_set():
            raise Stopped
        if time.monotonic() - latest[0] > 0.2 or step == total:
            latest[0] = time.monotonic()
            send(("progress", stage.id, step, total, text))

    def note(text: str) -> None:
        send(("note", stage.id, text))

    try:
        with explain_disk_full(store.root), store.lock(stage, wait=False) as held:
            if not held:
                return ("busy", stage.id)
            if store.has(stage):
                return ("found", stage.id)
            for parent in parents.values():
                if said := store.quarantine_if_corrupt(parent):
                    note(f"{parent.kind} {parent.label}: {said}")
            if not all(map(store.has, parents.values())):
                return ("lost", stage.id)
            _reset_peak_memory(device)
            began = time.monotonic()
            where = store.work(stage), device, setting.precision
            for said in checkpoint.quarantine_corrupt(store.work(stage), store.root):
                note(said)
            inputs = {role: store.get(parent) for role, parent in parents.items()}
            try:
                with team.sharing(stage, parents) as group:
                    context = Context(*where, report, note, stopping.is_set, setting.loaders, group)
                    result = STAGES[stage.kind](stage.config, inputs, context)
                    result.cost["processes"] = group.world
            except Diverged as error:
                result = Result(error=str(error))
            result.cost.setdefault("seconds", time.monotonic() - began)
            result.cost["peak_memory_bytes"] = _peak_memory(device)
            store.put(stage, result)
            if said := store.upload(stage):
                note(said)
            return ("done", stage.id)
    except Stopped:
        store.drop_scratch(stage)
        return ("stopped", stage.id)
    except Corrupt:  # since it was looked at
        store.drop_scratch(stage)
        return ("lost", stage.id)
    except DiskFull as error:
        store.drop_scratch(stage)
        return ("failed", stage.id, str(error), traceback.format_exc())
    except Exception as error:
        store.drop_scratch(stage)
        return ("failed", stage.id, f"{type(error).__name__}: {error}", traceback.format_exc())


def _reset_peak_memory(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak_memory(device: str) -> float:
    """Bytes of the accelerator's memory at the peak, or of this process's, libraries included."""
    import torch

    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text()
        return 1024.0 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
