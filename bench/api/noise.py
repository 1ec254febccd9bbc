"""Random draws whose seeds are made of names, so that each draw says what it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def seed_for(*names: str | int) -> int:
    """A 64-bit seed that is a function of the names alone, in order."""
    text = "\0".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


# Draws of at most WHOLE values are made at once for the global batch; larger ones in blocks of BLOCK rows.
WHOLE = 2**20
BLOCK = 8


@dataclass(frozen=True)
class Noise:
    """Random draws: a function of (seed, stream, step, tag) alone.

    Draws are made in float32 on the CPU for the global batch and sliced to this process's rows, so they
    depend neither on the device, the precision nor the number of processes. `seed`, the forks and the tag are
    hashed: streams with different names are independent, the same stream and tag give the same draw.
    """

    seed: int
    stream: tuple[str, ...] = ()
    rank: int = 0
    world: int = 1

    def fork(self, name: str | int) -> Noise:
        """A stream of its own, e.g. `noise.fork(step).fork("latent")`."""
        return replace(self, stream=(*self.stream, str(name)))

    def normal(self, like: Tensor, tag: str = "") -> Tensor:
        """Standard normal values of `like`'s shape, device and dtype."""
        return self._draw(torch.randn, like, tag)

    def uniform(self, like: Tensor, tag: str = "") -> Tensor:
        """Uniform values in [0, 1) like `like`; a 0-d `like` is shared by all processes."""
        return self._draw(torch.rand, like, tag)

    def _draw(self, sampler: Callable[..., Tensor], like: Tensor, tag: str) -> Tensor:
        def drawn(shape: Sequence[int], *part: int) -> Tensor:
            seed = seed_for(self.seed, *self.stream, "", tag, *part)
            return sampler(shape, generator=torch.Generator().manual_seed(seed))

        if like.dim() == 0:
            return drawn(()).to(like)
        rows, shape = like.shape[0], like.shape[1:]
        first, total = rows * self.rank, rows * self.world
        if total * shape.numel() <= WHOLE:
            return drawn((total, *shape))[first : first + rows].to(like)
        # Large draws are of blocks with seeds of their own; a process makes those that it needs.
        blocks = range(first // BLOCK, -(-(first + rows) // BLOCK))
        parts = torch.cat([drawn((BLOCK, *shape), block) for block in blocks])
        return parts[first % BLOCK : first % BLOCK + rows].to(like)


@contextmanager
def seeded(*names: str | int) -> Iterator[None]:
    """Seeds torch's global generator by names (0 without any), and restores its state after the block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*names) if names else 0)
        yield
