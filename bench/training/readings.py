"""The losses of training steps as numbers: read at once on a CPU, and one step later from a GPU.

A GPU works behind the program. Whoever asks for the losses of the step that was queued last waits until the
GPU has nothing left to do, and then it idles until the next step is queued. The losses of the step before are
there already, or soon are, while the GPU works on the last one.

Several processes average their losses at once, on the CPU: one that has died is noticed there, whereas a
GPU would wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .context import Context


@dataclass(frozen=True)
class Reading:
    """The losses after a step, averaged over processes, and whether any process was asked to stop."""

    step: int  # updates so far, this one included
    losses: dict[str, float]
    stopping: bool


@dataclass(frozen=True)
class _Pending:
    """A reading whose numbers may still be on their way from a GPU."""

    step: int
    names: tuple[str, ...]
    values: Tensor  # (losses + 1,) float64 on the CPU; the last is the number of processes that shall stop
    arrived: torch.cuda.Event | None

    def read(self) -> Reading:
        if self.arrived is not None:
            self.arrived.synchronize()
        *means, stop = self.values.tolist()
        return Reading(self.step, dict(zip(self.names, means, strict=True)), stop > 0)


class LossReader:
    """Takes the losses of one step after the other and gives their readings in the same order."""

    def __init__(self, context: Context, behind: int | None = None) -> None:
        """
        Args:
            behind: the steps by which readings lag; None: 1 on a GPU that one process uses, else 0.
        """
        self.device, self.group = context.device, context.group
        on_gpu = self.device.startswith("cuda") and self.group.world == 1
        self.behind = int(on_gpu) if behind is None else behind
        self._pending: deque[_Pending] = deque()

    def add(self, step: int, losses: Mapping[str, Tensor], stopping: bool) -> None:
        """Averages a step's losses over processes and sends them on their way; all processes call this."""
        local = [value.detach().to(self.device, torch.float64).reshape(()) for value in losses.values()]
        local.append(torch.full((), float(stopping), dtype=torch.float64, device=self.device))
        values = torch.stack(local)
        arrived: torch.cuda.Event | None = None
        if values.is_cuda and self.behind:
            values = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            values = self.group.mean(values.cpu())
        self._pending.append(_Pending(step, tuple(losses), values, arrived))

    def readings(self, every: bool = False) -> Iterator[Reading]:
        """The readings that are due; with `every`, also those for which the program has to wait."""
        while len(self._pending) > (0 if every else self.behind):
            yield self._pending.popleft().read()
