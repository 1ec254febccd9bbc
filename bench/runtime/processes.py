"""What the processes of one stage do together: each has its share of every batch and of the chunks.

All run the same stage. Losses are means over a process's rows of the global batch, gradients are averaged
over processes after every backward pass, and what depends on the whole batch gathers it, so that the steps
are those of one process but for rounding. Chunks, whose noise is keyed by their number, are the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..api import Noise

BUNCH = 2**25  # numbers of gradients that are sent together, about


@dataclass(frozen=True)
class Group:
    """The processes of a stage, as one of them sees them; alone it has everything, and nothing is sent."""

    rank: int = 0
    world: int = 1

    def noise(self, noise: Noise) -> Noise:
        """Draws for this process's rows of the batch."""
        return replace(noise, rank=self.rank, world=self.world)

    def rows(self, batch: Tensor) -> Tensor:
        """This process's rows (B / world, ...) of something of the global batch (B, ...)."""
        if len(batch) % self.world:
            raise ValueError(f"a batch of {len(batch)} has no equal shares for {self.world} processes")
        return batch.chunk(self.world)[self.rank]

    def takes(self, number: int) -> bool:
        """Whether a chunk is this process's."""
        return number % self.world == self.rank

    def assemble(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        """All chunks in order, on the CPU, in every process; each gives those that it takes."""
        if self.world == 1:
            return [part for part in parts if part is not None]
        mine = [None if part is None else (tuple(part.shape), part.dtype) for part in parts]
        kinds: list[Any] = [None] * self.world
        distributed.all_gather_object(kinds, mine)
        whole = []
        for number, part in enumerate(parts):
            owner = number % self.world
            shape, dtype = kinds[owner][number]
            tensor = torch.empty(shape, dtype=dtype) if part is None else part.contiguous()
            distributed.broadcast(tensor, owner)
            whole.append(tensor)
        return whole

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            distributed.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """The average over processes, without a gradient."""
        if self.world == 1:
            return value
        total = value.detach().clone().contiguous()
        distributed.all_reduce(total)
        return total.div_(self.world)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes them those of the global batch; where no process has one there is none afterwards either."""
        if self.world == 1:
            return
        parameters = list(parameters)
        found = torch.tensor([float(p.grad is not None) for p in parameters])
        alike: dict[torch.dtype, list[Tensor]] = {}
        for parameter, share in zip(parameters, self.mean(found).tolist(), strict=True):
            if share and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                alike.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in chain(*map(_bunches, alike.values())):
            flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))


def _bunches(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Few to send, and no copy of all of them at once."""
    bunch, size = list[Tensor](), 0
    for gradient in gradients:
        bunch, size = [*bunch, gradient], size + gradient.numel()
        if size >= BUNCH:
            yield bunch
            bunch, size = [], 0
    if bunch:
        yield bunch


ALONE = Group()


def gathered(x: Tensor, noise: Noise) -> Tensor:
    """The rows (B, ...) of all processes from this one's (B / world, ...), in order and with their gradient.

    For losses and latents that depend on the whole batch. `noise` is what the method was given: it says
    whether x is a share, which it isn't outside training. Every process has to call it.
    """
    return x if noise.world == 1 else _Gather.apply(x, noise.rank, noise.world)


def own(x: Tensor, noise: Noise) -> Tensor:
    """This process's rows of what was made of gathered ones; undoes `gathered`."""
    return x.chunk(noise.world)[noise.rank]


def of_all(noise: Noise) -> Noise:
    """Draws for the rows of all processes."""
    return replace(noise, rank=0, world=1)


class _Gather(torch.autograd.Function):
    """torch's own gather with gradients has had three names, each deprecated in favour of the next."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, world: int) -> Tensor:
        ctx.place = rank, world
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world)]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rank, world = ctx.place
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)  # what each process's loss owes to these rows
        return total.chunk(world)[rank], None, None
