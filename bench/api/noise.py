"""Random draws whose seeds are hashes of names, so that a draw depends on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .transfer import sent


def seed_for(*names: str | int) -> int:
    """A 64-bit seed: a function of the names and their order alone."""
    text = "\0".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


WHOLE = 2**20  # values: larger draws are made in blocks, of which a process draws only those that it needs
BLOCK = 8  # rows


@dataclass(frozen=True)
class Noise:
    """A stream of random draws; each draw is a function of the seed, the forks, the tag and the shape alone.

    Streams or tags with different names are independent; the same stream and tag give the same draw twice.
    Draws are made in float32 on the CPU for the global batch and sliced to this process's rows, so they
    depend neither on the device, the precision nor the number of processes. For a GPU a draw is copied from
    pinned memory: the program waits for its own core to draw, never for the GPU.
    """

    seed: int
    stream: tuple[str, ...] = ()
    rank: int = 0
    world: int = 1

    def fork(self, name: str | int) -> Noise:
        """An independent stream, e.g. `noise.fork(step).fork("latent")`."""
        return replace(self, stream=(*self.stream, str(name)))

    def normal(self, like: Tensor, tag: str = "") -> Tensor:
        """Standard normal values of the shape, device and dtype of `like`; all processes share a 0-d draw."""
        return self._draw(torch.randn, like, tag)

    def uniform(self, like: Tensor, tag: str = "") -> Tensor:
        """Uniform values in [0, 1), like `normal`."""
        return self._draw(torch.rand, like, tag)

    def shared(self, tag: str = "") -> float:
        """A uniform value in [0, 1) that all rows and all processes share; a decision waits for no GPU."""
        return self.uniform(torch.empty((), device="cpu"), tag).item()

    def _draw(self, sampler: Callable[..., Tensor], like: Tensor, tag: str) -> Tensor:
        if like.is_meta:  # an estimate of cost needs a shape, not values
            return torch.empty_like(like)

        def drawn(shape: Sequence[int], *part: int) -> Tensor:
            seed = seed_for(self.seed, *self.stream, "", tag, *part)
            return sampler(shape, generator=torch.Generator().manual_seed(seed))

        # Sent in float32: a copy that also converts would go through memory that isn't pinned.
        return sent(self._rows(drawn, like), like.device).to(like.dtype)

    def _rows(self, drawn: Callable[..., Tensor], like: Tensor) -> Tensor:
        """This process's rows of a draw by `drawn(shape, *block)`, of the shape of `like`."""
        if like.dim() == 0:
            return drawn(())
        rows, shape = like.shape[0], like.shape[1:]
        first, total = rows * self.rank, rows * self.world
        if total * shape.numel() <= WHOLE:
            return drawn((total, *shape))[first : first + rows]
        blocks = range(first // BLOCK, -(-(first + rows) // BLOCK))
        parts = torch.cat([drawn((BLOCK, *shape), block) for block in blocks])
        return parts[first % BLOCK : first % BLOCK + rows]


@contextmanager
def seeded(*names: str | int) -> Iterator[None]:
    """Seeds torch's global CPU generator by names (0 without any), and restores its state after the block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*names) if names else 0)
        yield
