"""The contract between tokenizers and generators: encoding in fixed chunks, drawing, normalising."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .api import Dataset, Noise, Regularizer, Split, Tokenizer

CHUNK = 128  # images at a time, everywhere outside training; part of the protocol
DRAWS = 4  # cached draws of a latent that depends on its minibatch


@dataclass(frozen=True)
class Normalisation:
    """z -> (z - mean) / std with stored statistics (C,); no magic scale factor."""

    mean: Tensor
    std: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return (z - self.mean.to(z)) / self.std.to(z)

    def inverse(self, z: Tensor) -> Tensor:
        return z * self.std.to(z) + self.mean.to(z)


IDENTITY = Normalisation(torch.zeros(()), torch.ones(()))


def normalisation(z: Tensor, rule: str) -> Normalisation:
    """Statistics of z (n, T, C) by the matrix's rule: per channel, one scalar pair, or none."""
    channels = z.shape[-1]
    if rule == "none":
        return Normalisation(torch.zeros(channels), torch.ones(channels))
    flat = z.double().flatten(0, 1) if rule == "channel" else z.double().flatten()[:, None]
    std = flat.std(0)
    # A dead channel stays where it is instead of being blown up to noise.
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return Normalisation(flat.mean(0).float().expand(channels).clone(), std.float().expand(channels).clone())


@torch.no_grad()
def chunked(function: Callable[..., Tensor], count: int, chunk: int = CHUNK) -> Tensor:
    """Concatenates function(index, number of the chunk) over fixed chunks of `count` rows."""
    return torch.cat([function(index, i) for i, index in enumerate(torch.arange(count).split(chunk))])


def encode(
    tokenizer: Tokenizer,
    data: Dataset,
    split: Split,
    device: torch.device | str,
    count: int | None = None,
) -> Tensor:
    """h (n, T, C * expansion) of a split, or of its first `count` images, on the CPU."""

    def one(index: Tensor, chunk: int) -> Tensor:
        return tokenizer.encode(data.images(split, index).to(device)).cpu()

    return chunked(one, data.size(split) if count is None else count)


def draw(
    regularizer: Regularizer,
    h: Tensor,
    labels: Tensor | None,
    noise: Noise | None,
    batch: int,
    device: torch.device | str,
) -> Tensor:
    """z (n, T, C) of encoded images, on the CPU, with noise keyed by chunk.

    A latent that depends on its minibatch is drawn in the fixed order and batch size of training; the last
    batch is filled from the start of the split and the surplus is dropped.
    """
    count, coupled = len(h), regularizer.couples == "latent"

    def one(index: Tensor, chunk: int) -> Tensor:
        if coupled:
            index = torch.arange(int(index[0]), int(index[0]) + batch) % count
        chosen = None if labels is None else labels[index].to(device)
        stream = None if noise is None else noise.fork(chunk)
        return regularizer.latent(h[index].to(device), stream, chosen).cpu()

    return chunked(one, count, batch if coupled else CHUNK)[:count]


def decode(tokenizer: Tokenizer, z: Tensor, device: torch.device | str) -> Tensor:
    """Images (n, c, H, W) clamped to [-1, 1], on the CPU."""
    return chunked(lambda index, _: tokenizer.decode(z[index].to(device)).clamp(-1, 1).cpu(), len(z))
