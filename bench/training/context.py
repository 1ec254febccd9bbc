"""The context in which a stage runs: folder, device, processes and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from ..runtime.processes import ALONE, Group


class Stopped(Exception):
    """The run was asked to stop; a checkpoint has been written."""


@dataclass(frozen=True)
class Context:
    """The context in which a stage runs; only its device and its precision change numbers.

    The number of processes changes the rounding of a training's gradients, and nothing else.
    """

    work: Path  # the stage's folder for checkpoints and scratch files
    device: str = "cpu"
    precision: str = "fp32"
    report: Callable[[int, int, str], None] = lambda step, total, text: None  # progress
    note: Callable[[str], None] = lambda text: None  # a message for the user
    stopping: Callable[[], bool] = lambda: False  # whether the run was asked to stop
    loaders: int = 0  # processes that decode images ahead
    group: Group = ALONE

    def scratch(self, name: str) -> Path:
        """The file for a tensor that may be too large for memory."""
        return self.work / "scratch" / name.replace("/", ".")

    def accelerator(self) -> Accelerator:
        """Device placement, autocast, gradient scaling and clipping."""
        precision = {"fp32": "no"}.get(self.precision, self.precision)
        return Accelerator(cpu=self.device == "cpu", mixed_precision=precision)
