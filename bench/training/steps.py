"""What both training loops share: the order of the data, and the steps between two checkpoints."""

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

CHECKPOINT_SECONDS = 2.0  # between two checkpoints, at least
CHECKPOINT_SHARE = 50  # and this many times what one takes: they cost no more than 2 % of a run
CHECKPOINT_RETRY = 60.0  # seconds, when the disk is full


def batch_index(size: int, batch: int, step: int, *stream: str | int) -> Tensor:
    """The images of one step: (batch,) indices from a stream of epochs, each a permutation of its own."""
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


def run_steps(
    state: State, total: int, update: Callable[[int], dict[str, Tensor]], context: Context, *stream: str | int
) -> None:
    """Runs `update(step)` until `total`, from the newest checkpoint if there is one; it returns named losses.

    Before each step torch's global generator is seeded from the stream, the step and, but for the first
    process, the rank, so that dropout and a plugin's own draws resume as well. Every step's losses, means
    over processes, must be finite. The first process keeps the checkpoints: nothing in them tells how many
    there were, and a training goes on with any number.
    """
    group = context.group
    checkpoint.load(context.work, state)
    every = max(1, total // 100)  # points of a curve
    began, due = time.monotonic() - state.seconds, time.monotonic() + CHECKPOINT_SECONDS
    while state.step < total:
        torch.manual_seed(seed_for(*stream, "torch", state.step, *([group.rank] if group.rank else [])))
        with by_onednn():
            losses, stopping = _shared(update(state.step), context)
        state.step += 1
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"the loss {bad[0]!r} is {losses[bad[0]]} at step {state.step}")
        if state.step % every == 0 or state.step == total:
            _extend(state.curves, {"step": state.step, **losses})
        now = time.monotonic()
        state.seconds = now - began
        if stopping:
            if group.rank == 0:
                _save(state, context)
            raise Stopped
        if state.step % max(1, every // 4) == 0:
            context.report(state.step, total, " ".join(f"{name} {v:.3g}" for name, v in losses.items()))
        if now > due and state.step < total and group.rank == 0:
            patience = CHECKPOINT_SECONDS if _save(state, context) else CHECKPOINT_RETRY
            took = time.monotonic() - now
            due = time.monotonic() + max(patience, CHECKPOINT_SHARE * took)


def _save(state: State, context: Context) -> bool:
    """A checkpoint that cannot be written is said, and training goes on."""
    try:
        checkpoint.save(context.work, state)
    except DiskFull as error:
        context.note(f"no checkpoint of step {state.step}: {error}")
        return False
    return True


def _extend(curves: dict[str, list[float | None]], values: dict[str, float]) -> None:
    """A point more of every curve: None for a loss that this part of a training doesn't have."""
    points = len(curves.get("step", ()))
    for name in {**curves, **values}:
        curves.setdefault(name, [None] * points).append(values.get(name))


def _shared(losses: dict[str, Tensor], context: Context) -> tuple[dict[str, float], bool]:
    """The losses of the global batch, and whether any process is asked to stop: the same for all."""
    mine = [*(float(value.detach()) for value in losses.values()), float(context.stopping())]
    *means, stop = context.group.mean(torch.tensor(mine, dtype=torch.float64)).tolist()
    return dict(zip(losses, means, strict=True)), stop > 0
