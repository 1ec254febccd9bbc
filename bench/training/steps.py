"""Parts that both training loops share: the order of the data, and the steps between two checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ..api import Diverged, seed_for
from ..runtime.onednn import by_onednn
from ..store.disk import DiskFull
from . import checkpoint
from .checkpoint import State
from .context import Context, Stopped
from .readings import LossReader, Reading

CHECKPOINT_SECONDS = 2.0  # least time between two checkpoints
CHECKPOINT_SHARE = 50  # and at least so many times the time that writing one takes: at most 2 % of a run
CHECKPOINT_RETRY = 60.0  # seconds until the next try when the disk is full


def batch_index(size: int, batch: int, step: int, *stream: str | int) -> Tensor:
    """The images of one step: (batch,) indices from a stream of epochs, each with its own permutation."""
    parts, start, stop = [], step * batch, (step + 1) * batch
    while start < stop:
        epoch, offset = divmod(start, size)
        part = _permutation(size, seed_for(*stream, "epoch", epoch))[offset : offset + stop - start]
        parts.append(part)
        start += len(part)
    return torch.cat(parts)


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _seed(seed: int, device: str) -> None:
    """`torch.manual_seed`, which looks for GPUs of all makers in turn: 1.5 % of a small network's step."""
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def run_steps(
    state: State, total: int, update: Callable[[int], dict[str, Tensor]], context: Context, *stream: str | int
) -> None:
    """Calls `update(step)` until step `total`, from the newest checkpoint if there is one.

    Before each step torch's global generator is seeded from the stream, the step and, except in the first
    process, the rank, so that dropout and plugins' draws are the same after a resumption. The first process
    keeps the checkpoints, which don't depend on the number of processes: a training may go on with another.

    Args:
        update: returns the losses of a step by name.

    Raises:
        Diverged: a loss of a step, averaged over processes, is not finite.
        Stopped: the run was asked to stop; a checkpoint has been written.
    """
    group, reader = context.group, LossReader(context)
    checkpoint.load(context.work, state)
    every = max(1, total // 100)  # steps between two points of a curve
    began, due = time.monotonic() - state.seconds, time.monotonic() + CHECKPOINT_SECONDS

    def keep(waiting: bool) -> list[Reading]:
        """Adds the readings that are due to the curves, or all with `waiting`; raises Diverged."""
        return [_kept(reading, state, every, total) for reading in reader.readings(waiting)]

    while state.step < total:
        _seed(seed_for(*stream, "torch", state.step, *([group.rank] if group.rank else [])), context.device)
        try:
            with by_onednn():
                losses = update(state.step)
        except Exception:
            keep(waiting=True)  # an error on values of a step that has diverged is no error
            raise
        asked = context.stopping()
        reader.add(state.step + 1, losses, asked)
        state.step += 1
        readings = keep(waiting=state.step == total)
        now = time.monotonic()
        state.seconds = now - began
        if any(reading.stopping for reading in readings):
            keep(waiting=True)
            if group.rank == 0:
                _save(state, context)
            raise Stopped
        for reading in readings:
            # The engine's report ends a stage that was asked to stop, which needs its checkpoint first.
            if reading.step % max(1, every // 4) == 0 and not asked:
                text = " ".join(f"{name} {value:.3g}" for name, value in reading.losses.items())
                context.report(reading.step, total, text)
        if now > due and state.step < total and group.rank == 0:
            keep(waiting=True)
            pause = CHECKPOINT_SECONDS if _save(state, context) else CHECKPOINT_RETRY
            took = time.monotonic() - now
            due = time.monotonic() + max(pause, CHECKPOINT_SHARE * took)


def _kept(reading: Reading, state: State, every: int, total: int) -> Reading:
    """The reading, whose losses are in the curves if it is a point of theirs.

    Raises:
        Diverged: a loss is not finite.
    """
    for name, value in reading.losses.items():
        if not math.isfinite(value):
            raise Diverged(f"the loss {name!r} is {value} at step {reading.step}")
    if reading.step % every == 0 or reading.step == total:
        _extend(state.curves, {"step": reading.step, **reading.losses})
    return reading


def _save(state: State, context: Context) -> bool:
    """Writes a checkpoint; on a full disk it notes the error and returns False, and training goes on."""
    try:
        checkpoint.save(context.work, state)
    except DiskFull as error:
        context.note(f"no checkpoint of step {state.step}: {error}")
        return False
    return True


def _extend(curves: dict[str, list[float | None]], values: dict[str, float]) -> None:
    """Appends a point to every curve: None for a loss that this phase of a training doesn't have."""
    points = len(curves.get("step", ()))
    for name in {**curves, **values}:
        curves.setdefault(name, [None] * points).append(values.get(name))
