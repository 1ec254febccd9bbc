"""How the processes of one stage work together: each has its share of every batch and of the chunks.

All processes run the same stage. Losses are means over a process's rows of the global batch, gradients are
averaged over processes after every backward pass, and losses or latents that depend on the whole batch
gather it, so that training steps equal those of one process up to rounding. Chunks are bit-equal, because
their noise is keyed by their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..api import Noise

BUCKET = 2**25  # numbers of gradients that are sent together, about


@dataclass(frozen=True)
class Group:
    """The processes of a stage as seen from the one with this rank; with `world` 1 nothing is sent."""

    rank: int = 0
    world: int = 1

    def noise(self, noise: Noise) -> Noise:
        """The same noise, drawn for this process's rows of the global batch."""
        return replace(noise, rank=self.rank, world=self.world)

    def rows(self, batch: Tensor) -> Tensor:
        """This process's rows (B / world, ...) of a tensor (B, ...) of the global batch."""
        if len(batch) % self.world:
            raise ValueError(f"a batch of {len(batch)} has no equal shares for {self.world} processes")
        return batch.chunk(self.world)[self.rank]

    def takes(self, number: int) -> bool:
        """Whether this process computes the chunk of this number."""
        return number % self.world == self.rank

    def assemble(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        """All chunks in order, on the CPU, in every process; parts of other processes' chunks are None."""
        if self.world == 1:
            return [part for part in parts if part is not None]
        local = [None if part is None else (tuple(part.shape), part.dtype) for part in parts]
        layouts: list[Any] = [None] * self.world
        distributed.all_gather_object(layouts, local)
        chunks = []
        for number, part in enumerate(parts):
            owner = number % self.world
            shape, dtype = layouts[owner][number]
            tensor = torch.empty(shape, dtype=dtype) if part is None else part.contiguous()
            distributed.broadcast(tensor, owner)
            chunks.append(tensor)
        return chunks

    def wait(self) -> None:
        """Waits until all processes have called this."""
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
        """Averages gradients over processes; a parameter without one in all processes keeps None."""
        if self.world == 1:
            return
        parameters = list(parameters)
        has_gradient = torch.tensor([float(p.grad is not None) for p in parameters])
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter, share in zip(parameters, self.mean(has_gradient).tolist(), strict=True):
            if share and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                by_dtype.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in chain(*map(_buckets, by_dtype.values())):
            flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Lists of gradients to send together: few messages, without a copy of all gradients at once."""
    bucket, size = list[Tensor](), 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel()
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


ALONE = Group()


def gathered(x: Tensor, noise: Noise) -> Tensor:
    """The rows (B, ...) of all processes from this one's (B / world, ...), in order and with their gradient.

    For losses and latents that depend on the whole batch. Every process has to call this function.

    Args:
        noise: the noise that the regularizer's method was called with. Its `world` says over how many
            processes the batch is split: 1 outside training.
    """
    return x if noise.world == 1 else _Gather.apply(x, noise.rank, noise.world)


def own(x: Tensor, noise: Noise) -> Tensor:
    """This process's rows of a tensor over all processes' rows; undoes `gathered`."""
    return x.chunk(noise.world)[noise.rank]


def of_all(noise: Noise) -> Noise:
    """The same noise, drawn for the rows of all processes."""
    return replace(noise, rank=0, world=1)


class _Gather(torch.autograd.Function):
    """A gather with gradients; torch's own has had three names, each deprecated in favour of the next."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank, ctx.world = rank, world
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world)]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)  # every process's loss depends on these rows
        return total.chunk(ctx.world)[ctx.rank], None, None
