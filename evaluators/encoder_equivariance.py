"""Whether the latents of turned images are the turned latents of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes, from_uint8
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.proxies import TINY, channel_mean
from ..bench.models.latents import CHUNK, chunked, draw
from ..bench.nn.grid_transforms import turned
from ..bench.registry import register

TURNS = (1, 2, 3)  # quarters


def spread(z: Tensor) -> float:
    """The mean variance of the channels of latents (n, T, C)."""
    centre = channel_mean(z)
    sums = [(chunk.double() - centre).square().mean() * len(chunk) for chunk in z.split(CHUNK)]
    return torch.stack(sums).sum().item() / len(z)


def latent_errors(subject: Subject, turns: int) -> Tensor:
    """Mean squared errors (n,) of latents of turned images to the turned latents of images, without noise."""
    z, pixels, grid = (
        subject.latents("val", deterministic=True),
        subject.images("val"),
        subject.tokenizer.spec.grid,
    )
    assert grid is not None
    tokenizer, labels = subject.tokenizer, subject.labels("val")
    device = next(tokenizer.parameters()).device

    def hidden(index: Tensor, _: int) -> Tensor:
        return tokenizer.encode(turned(from_uint8(pixels[index]), turns).to(device)).cpu()

    h = chunked(hidden, len(z))
    found = draw(subject.regularizer, h, labels, None, subject.latent_batch or CHUNK, device)

    def error(index: Tensor, _: int) -> Tensor:
        expected = turned(z[index].mT.unflatten(2, grid), turns).flatten(2).mT
        return (found[index] - expected).double().square().flatten(1).mean(1)

    return chunked(error, len(z))


@register("encoder_equivariance")
class EncoderEquivariance(Evaluator):
    """The encoder's error under quarter turns, from latents without noise.

    The evaluator `equivariance` asks the same of the decoder, which EQ-VAE trains. Latents without a square
    grid have no value, nor have latents that are read from files or don't vary.
    """

    metrics = {
        "equivariance_error": Metric(
            "tokenizer",
            False,
            "",
            "Squared error of turned images' latents to turned latents, over the latents' variance; 2 if "
            "unrelated.",
        )
    }

    def run(self, subject: Subject) -> dict[str, float]:
        tokenizer, grid = subject.tokenizer, subject.tokenizer.spec.grid
        if grid is None or grid[0] != grid[1] or tokenizer.stored("val") is not None:
            return {}
        variance = spread(subject.latents("val", deterministic=True))
        if variance < TINY:
            return {}
        errors = torch.stack([latent_errors(subject, turns) for turns in TURNS]).mean(0) / variance
        return {"equivariance_error": mean_estimate("equivariance_error", errors, subject.labels("val"))}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val", deterministic=True)
        sizes.images("val")
        outputs = channels if sizes.regularizer is None else sizes.regularizer.encoder_outputs
        passes = sizes.encoding(min(CHUNK, n)) + sizes.drawing(sizes.latent_batch or min(CHUNK, n))
        return passes + 4 * n * tokens * (outputs + channels) + bootstrap.memory_bytes(n)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        n = len(subject.latents("val", deterministic=True))
        return {"n": n, "latents": "of val, deterministic", "turns": list(TURNS), "over": "mean variance"}
