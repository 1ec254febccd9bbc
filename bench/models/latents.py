"""The path between images and generators: encoding in fixed chunks, drawing, normalising, decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..api import Dataset, FlowTokenizer, ImageSpec, Noise, Regularizer, Split, Tokenizer, to_uint8
from ..api.returned import checked_hidden
from ..data.fixed_order import fixed_order
from ..runtime.mapped import rows
from ..runtime.onednn import by_onednn
from ..runtime.prefetch import prefetch
from ..runtime.processes import ALONE, Group

CHUNK = 128  # images at a time outside training; part of the protocol
STATISTICS = 2**22  # values at a time for mean and standard deviation
DRAWS = 4  # stored draws of a latent that depends on its minibatch


@dataclass(frozen=True)
class Normalisation:
    """z -> (z - mean) / std with stored statistics (C,) or (T, C), in place of a constant scale factor."""

    mean: Tensor
    std: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return (z - self.mean.to(z)) / self.std.to(z)

    def inverse(self, z: Tensor) -> Tensor:
        return z * self.std.to(z) + self.mean.to(z)

    def on(self, device: torch.device | str) -> Normalisation:
        """The same with its statistics on a device, so that no call has to copy them there."""
        return Normalisation(self.mean.to(device), self.std.to(device))

    @property
    def by_position(self) -> bool:
        """Whether the statistics are (T, C)."""
        return self.mean.ndim == 2

    def as_maps(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and std of latents that lie as (B, C, h, w): (C, 1, 1), or (C, h, w) by position."""
        if self.by_position:
            return self.mean.T.unflatten(1, grid), self.std.T.unflatten(1, grid)
        return self.mean[:, None, None], self.std[:, None, None]


IDENTITY = Normalisation(torch.zeros(()), torch.ones(()))


def mean_and_std(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the unbiased standard deviation of each column of (n, C): (C,) float64 each."""
    # Two passes chunk by chunk, because a copy of a large set in float64 would be twice its size.
    chunks = rows.split(max(1, STATISTICS // rows.shape[1]))
    # Sums are accumulated, because a list of small partial sums would fragment the heap.
    start = torch.zeros(rows.shape[1], dtype=torch.float64)
    mean = sum((chunk.double().sum(0) for chunk in chunks), start) / len(rows)
    squares = sum(((chunk.double() - mean).square().sum(0) for chunk in chunks), start)
    return mean, (squares / (len(rows) - 1)).sqrt()


def normalisation(z: Tensor, rule: str) -> Normalisation:
    """Statistics of z (n, T, C) by the matrix's rule.

    `channel` has a pair for each channel, `scalar` one pair for all, `position` one for each channel of each
    position, (T, C), and `none` zeros and ones.
    """
    channels = z.shape[-1]
    if rule == "none":
        return Normalisation(torch.zeros(channels), torch.ones(channels))
    match rule:
        case "channel":
            flat = z.flatten(0, 1)
        case "position":
            flat = z.flatten(1)
        case _:
            flat = z.flatten()[:, None]
    mean, std = mean_and_std(flat)
    # A constant channel is not scaled, as its rounding errors would become noise.
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    if rule == "position":
        return Normalisation(*(v.float().view(-1, channels) for v in (mean, std)))
    return Normalisation(mean.float().expand(channels).clone(), std.float().expand(channels).clone())


@torch.no_grad()
def chunked(
    function: Callable[[Tensor, int], Tensor],
    count: int,
    chunk: int = CHUNK,
    group: Group = ALONE,
    file: Path | None = None,
    into: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """The rows of function(index, chunk number), on the CPU, over fixed chunks of `count` rows.

    Large results are written to `file`; see `mapped.rows`.

    Args:
        order: a permutation (count,) that is cut into the chunks; None: the rows' own order, which the result
            has in any case.
    """
    with by_onednn():
        return rows(
            lambda index, number: {"": function(index, number)},
            (torch.arange(count) if order is None else order).split(chunk),
            [""],
            lambda name: file,
            group,
            None if into is None else {"": into},
        )[""]


def encode(
    tokenizer: Tokenizer,
    data: Dataset,
    split: Split,
    device: torch.device | str,
    chosen: Tensor | None = None,
    loaders: int = 0,
    group: Group = ALONE,
    file: Path | None = None,
) -> Tensor:
    """Hidden values h (n, T, C * expansion) of a split, or of its `chosen` images (n,), on the CPU."""
    chosen = torch.arange(data.size(split)) if chosen is None else chosen
    chunks = chosen.split(CHUNK)[group.rank :: group.world]  # of this process
    images = prefetch(data, split, chunks, loaders, device)

    def hidden(index: Tensor, _: int) -> Tensor:
        return checked_hidden(tokenizer, tokenizer.encode(next(images)), len(index)).cpu()

    return chunked(hidden, len(chosen), group=group, file=file)


def draw(
    regularizer: Regularizer,
    h: Tensor,
    labels: Tensor | None,
    noise: Noise | None,
    batch: int,
    device: torch.device | str,
    group: Group = ALONE,
    file: Path | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """Latents z (n, T, C) of encoded images h, on the CPU, with noise keyed by chunk.

    A latent that depends on its minibatch is drawn with the batch size of training, in minibatches of a fixed
    random order, as in training: a split may be sorted by class. The order belongs to the noise, so that
    several draws have other minibatches. The last minibatch is filled up from the start of the order, and the
    surplus is dropped.
    """
    count, coupled, order = len(h), regularizer.couples == "latent", None
    if coupled:
        order = fixed_order(count) if noise is None else noise.uniform(torch.empty(count), "order").argsort()

    def draw_chunk(index: Tensor, chunk: int) -> Tensor:
        if order is not None:
            index = torch.cat([index, order[torch.arange(batch - len(index)) % count]])
        chosen = None if labels is None else labels[index].to(device)
        stream = None if noise is None else noise.fork(chunk)
        return regularizer.latent(h[index].to(device), stream, chosen).cpu()

    return chunked(draw_chunk, count, batch if coupled else CHUNK, group, file, into, order)


def decode_batch(
    tokenizer: Tokenizer,
    z: Tensor,
    labels: Tensor | None,
    noise: Noise | None,
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """Images (B, c, H, W) of z (B, T, C), not clamped; only decoders that draw use labels and noise.

    `grid` is that of latents which don't have the spec's, for tokenizers that regrid.
    """
    if isinstance(tokenizer, FlowTokenizer):
        return tokenizer.decode(z, labels, noise)
    return tokenizer.decode(z) if grid is None else tokenizer.decode(z, grid=grid)


def decode_all(
    tokenizer: Tokenizer,
    z: Tensor,
    device: torch.device | str,
    labels: Tensor | None = None,
    noise: Noise | None = None,
) -> Tensor:
    """Images (n, c, H, W) of z (n, T, C), clamped to [-1, 1], on the CPU."""
    return chunked(chunk_decoder(tokenizer, z, device, labels, noise), len(z))


def decode_all_uint8(
    tokenizer: Tokenizer,
    z: Tensor,
    device: torch.device | str,
    group: Group = ALONE,
    labels: Tensor | None = None,
    noise: Noise | None = None,
    file: Path | None = None,
) -> Tensor:
    """Images uint8 (n, c, H, W) on the CPU, a quarter of the bytes of floats."""
    decode = chunk_decoder(tokenizer, z, device, labels, noise)
    return chunked(lambda index, chunk: to_uint8(decode(index, chunk)), len(z), group=group, file=file)


def chunk_decoder(
    tokenizer: Tokenizer,
    z: Tensor,
    device: torch.device | str,
    labels: Tensor | None,
    noise: Noise | None,
) -> Callable[[Tensor, int], Tensor]:
    """A function (index, chunk number) -> images of these rows of z, clamped to [-1, 1], on the CPU.

    Labels are (n,); noise is keyed by chunk.
    """

    def decode_chunk(index: Tensor, chunk: int) -> Tensor:
        chosen = None if labels is None else labels[index].to(device)
        stream = None if noise is None else noise.fork(chunk)
        return decode_batch(tokenizer, z[index].to(device), chosen, stream).clamp(-1, 1).cpu()

    return decode_chunk


def round_trip(
    tokenizer: Tokenizer,
    image: ImageSpec,
    z: Tensor,
    rule: Normalisation,
    device: torch.device | str,
    group: Group = ALONE,
) -> float:
    """The largest root mean square difference between the images of z and of z normalised and back.

    Single pixels differ by more on GPUs, whose convolutions round inputs to 10 bits. A decoder that draws is
    compared by one evaluation of its velocity: where adaptive steps change with a rounding, whole images do.
    """

    def decode(z: Tensor) -> Tensor:
        if not isinstance(tokenizer, FlowTokenizer):
            return tokenizer.decode(z).clamp(-1, 1)
        x = z.new_zeros(len(z), image.channels, image.height, image.width)
        return tokenizer.velocity(x, z.new_full((len(z),), 0.5), z, None)

    def difference(index: Tensor, chunk: int) -> Tensor:
        straight, back = (decode(v.to(device)).cpu() for v in (z[index], rule.inverse(rule(z[index]))))
        return (straight - back).square().flatten(1).mean(1).sqrt()

    return float(chunked(difference, len(z), group=group).max())
