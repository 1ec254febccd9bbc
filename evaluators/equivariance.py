"""How a decoder and an encoder handle turned and smaller images (EQ-VAE: Kouzelis et al., 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes, from_uint8, to_uint8
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.decoded import memory_bytes, scored
from ..bench.metrics.proxies import TINY, channel_variance
from ..bench.models.latents import CHUNK, chunked, draw
from ..bench.nn.grid_transforms import transformed, turned
from ..bench.registry import register

TURNS = (1, 2, 3)  # quarters


def psnrs(subject: Subject, scale: float, turns: int) -> Tensor:
    """PSNRs (n,) of decoded transformed latents to images that are transformed in the same way."""
    z, pixels, grid = subject.latents("val"), subject.images("val"), subject.tokenizer.spec.grid
    assert grid is not None

    def pair(index: Tensor) -> tuple[Tensor, tuple[int, int], Tensor]:
        return transformed(z[index], from_uint8(pixels[index]), grid, scale, turns)

    new = pair(torch.arange(1))[1]
    latents, images = (lambda index: pair(index)[0]), (lambda index: to_uint8(pair(index)[2]))
    return scored(subject, latents, subject.labels("val"), images, grid=new if new != grid else None)[0]


@register("equivariance")
class Equivariance(Evaluator):
    """Decodes latents after quarter turns, and at half their size, and compares with images treated alike.

    Latents without a grid have no values. A decoder that takes its own grid alone has none of half the size,
    and turns need a square grid there.

    Paper: Kouzelis et al., "EQ-VAE", 2025 (arXiv 2502.09509).
    """

    metrics = {
        "PSNR_turned": Metric(
            "tokenizer",
            True,
            "dB",
            "PSNR of decoded latents to the images, both after quarter turns; mean of the three.",
        ),
        "PSNR_half": Metric(
            "tokenizer",
            True,
            "dB",
            "PSNR of decoded latents to the images, both bilinearly made half as high and wide.",
        ),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        tokenizer, labels, scores = subject.tokenizer, subject.labels("val"), dict[str, float]()
        grid = tokenizer.spec.grid if subject.decodes else None
        if grid is None:
            return {}
        if tokenizer.regrids or grid[0] == grid[1]:
            turned = torch.stack([psnrs(subject, 1.0, turns) for turns in TURNS]).mean(0)
            scores["PSNR_turned"] = mean_estimate("PSNR_turned", turned, labels)
        if tokenizer.regrids and grid[0] % 2 == 0 == grid[1] % 2:
            scores["PSNR_half"] = mean_estimate("PSNR_half", psnrs(subject, 0.5, 0), labels)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if not sizes.decodes:
            return 0
        image = sizes.image
        turned_images = 3 * 4 * min(CHUNK, sizes.val) * image.channels * image.height * image.width
        return memory_bytes(sizes) + turned_images + bootstrap.memory_bytes(sizes.val, 8)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        common = {"n": len(subject.latents("val")), "reference": "val, paired", "rounding": "8 bits"}
        how = {"turns": [1, 2, 3]} if name == "PSNR_turned" else {"scale": 0.5, "antialias": False}
        return {**common, "latent": "drawn", **how}


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
        variance = channel_variance(subject.latents("val", deterministic=True))
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
