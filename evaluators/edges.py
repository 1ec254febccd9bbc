"""The PSNR of reconstructions at the edges of images, where thin structures are."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import mean_estimate
from ..bench.models.latents import CHUNK
from ..bench.registry import register

NAME = "PSNR_edges"
SMALLEST = 3  # pixels of a side, which Sobel's filters need


def edge_strength(images: Tensor) -> Tensor:
    """Squared Sobel gradients, summed over channels: uint8 (B, c, H, W) -> (B, H, W) int64.

    Border pixels are repeated outwards, so that the border itself is no edge.
    """
    x = pad(images.float(), (1, 1, 1, 1), mode="replicate").int()
    down = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    across = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    slopes = (down[..., 2:] - down[..., :-2], across[:, :, 2:] - across[:, :, :-2])
    return sum((slope.square().sum(1) for slope in slopes), torch.zeros((), dtype=torch.int64))


def edges(images: Tensor, share: float) -> Tensor:
    """The pixels of each image with the largest gradients: (B, c, H, W) -> (B, H, W) bool.

    At least `share` of the pixels, rounded up, and all that are as strong as the weakest of them; never a
    pixel without a gradient, so that a constant image has none.
    """
    strength = edge_strength(images).flatten(1)
    least = strength.topk(math.ceil(share * strength.shape[1]), dim=1).values[:, -1:]
    return ((strength >= least) & (strength > 0)).view(len(images), *images.shape[-2:])


def psnr_at(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """The PSNR (B,) of uint8 images (B, c, H, W) twice over the pixels `where` (B, H, W), for a peak of 255.

    Pixels that are all exact count as one level off in one value. NaN where there is no pixel.
    """
    values = where.sum((1, 2)) * a.shape[1]
    squares = ((a.double() - b.double()).square() * where[:, None]).sum((1, 2, 3))
    ratios = torch.where(values > 0, 255**2 * values / squares.clamp(min=1), math.nan)
    return 10 * torch.log10(ratios)


@register("edges")
class Edges(Evaluator):
    """Compares reconstructions with the held-out images at their edges alone.

    Most pixels of most images lie in smooth regions, which decide a PSNR. A tokenizer that blurs has its
    errors at edges: of two reconstructions with equal PSNR, the blurred one has the lower PSNR_edges. Images
    of one colour have no edges and are left out. A tokenizer that only encodes has no values.
    """

    metrics = {
        NAME: Metric("tokenizer", True, "dB", "PSNR at the pixels with the images' largest gradients.")
    }

    def __init__(self, share: Annotated[float, Field(gt=0, le=1)] = 0.1) -> None:
        """
        Args:
            share: share of an image's pixels that count as edges.
        """
        self.share = share

    def run(self, subject: Subject) -> dict[str, float]:
        if not subject.decodes:
            return {}
        images, labels = subject.images("val"), subject.labels("val")
        if min(images.shape[-2:]) < SMALLEST:  # points of a point set
            return {}
        pairs = zip(subject.reconstructions().split(CHUNK), images.split(CHUNK), strict=True)
        values = torch.cat([psnr_at(a, b, edges(b, self.share)) for a, b in pairs])
        kept = ~values.isnan()
        if not kept.any():
            subject.left_out[NAME] = "no held-out image has an edge"
            return {}
        return {NAME: mean_estimate(NAME, values[kept], None if labels is None else labels[kept])}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        if not sizes.decodes:
            return 0
        n, image = sizes.images("val"), sizes.image
        sizes.reconstructions()
        return 8 * 8 * CHUNK * image.channels * image.height * image.width + bootstrap.memory_bytes(n)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        chunks = subject.images("val").split(CHUNK)
        return {
            "n": sum(int(edges(chunk, self.share).any(2).any(1).sum()) for chunk in chunks),
            "reference": "val, paired",
            "rounding": "8 bits",
            "latent": "drawn",
            "edges": "largest squared Sobel gradients, summed over channels, with ties",
            "share": self.share,
            "exact_image": "one level off in one value",
        }
