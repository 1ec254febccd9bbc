"""How a decoder handles turned and smaller latents (EQ-VAE: Kouzelis et al., 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes, from_uint8, to_uint8
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.metrics.decoded import memory_bytes, scored
from ..bench.nn.grid_transforms import transformed
from ..bench.registry import register


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
            turned = torch.stack([psnrs(subject, 1.0, turns) for turns in (1, 2, 3)]).mean(0)
            scores["PSNR_turned"] = mean_estimate("PSNR_turned", turned, labels)
        if tokenizer.regrids and grid[0] % 2 == 0 == grid[1] % 2:
            scores["PSNR_half"] = mean_estimate("PSNR_half", psnrs(subject, 0.5, 0), labels)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        return memory_bytes(sizes) + bootstrap.memory_bytes(sizes.val, 8) if sizes.decodes else 0

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        common = {"n": len(subject.latents("val")), "reference": "val, paired", "rounding": "8 bits"}
        how = {"turns": [1, 2, 3]} if name == "PSNR_turned" else {"scale": 0.5, "antialias": False}
        return {**common, "latent": "drawn", **how}
