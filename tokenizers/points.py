"""A table of learnable points in place of an encoder: the toy of Flow Priors (5.1) and DMVAE (figure 3)."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..bench.api import Dataset, ImageSpec, LatentSpec, Step, Tokenizer, Unfit
from ..bench.data.fixed_order import fixed_order
from ..bench.registry import register

POINT = ImageSpec(channels=1, height=1, width=2)


class Table(nn.Module):
    """A linear layer on one-hot rows: (B,) row numbers -> (B, 1, 2 * expansion)."""

    def __init__(self, count: int, expansion: int, init: str) -> None:
        super().__init__()
        points = torch.randn(2, count) if init == "normal" else 3 * torch.rand(2, count) - 1.5
        # Parameters of a posterior beside its mean start at 0, such as the log-variances of `kl`.
        self.weight = nn.Parameter(torch.cat([points, torch.zeros(2 * (expansion - 1), count)]))

    def forward(self, rows: Tensor) -> Tensor:
        return self.weight[:, rows].T[:, None]


@register("points")
class Points(Tokenizer):
    """`count` learnable points, each the latent of equally many images; a regularizer alone moves them.

    The training images get the points by turns in their fixed random order, so that the first `count` of the
    order, which evaluators look at, have distinct latents.

    Points start as N(0, I) (Flow Priors) or uniform in [-1.5, 1.5] (DMVAE). Images are recognised by their
    bits; an image that isn't in the dataset has the latent of the nearest image that is. The fixed decoder
    rescales a latent to the dataset's units.

    Paper: Li et al., "Aligning Latent Spaces with Flow Priors", 2025 (arXiv 2506.05240).
    """

    version = 2
    encoder: Table
    decoder: nn.Linear

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        dataset: Dataset,
        count: Annotated[int, Field(ge=1)] = 1024,
        init: Literal["normal", "uniform"] = "normal",
    ) -> None:
        """
        Args:
            count: number of points.
            init: start of the points: N(0, I), or uniform in [-1.5, 1.5].
        """
        super().__init__(image, expansion)
        if image != POINT:
            size = f"{image.channels} x {image.height} x {image.width}"
            raise Unfit(f"points need a dataset of points, images of 1 x 1 x 2, not of {size}")
        self.spec = LatentSpec(tokens=1, channels=2)
        self.dataset, self.count = dataset, count
        self.decoder = nn.Linear(2, 2).requires_grad_(False)
        nn.init.zeros_(self.decoder.bias)
        with torch.no_grad():
            self.decoder.weight.copy_(torch.eye(2) * getattr(dataset, "scale", 1.0))
        self.encoder = Table(count, expansion, init)

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: part.get_parameter("weight") for name, part in parts.items()}

    def encode(self, images: Tensor) -> Tensor:
        positions = self.positions(images)
        if images.is_meta:
            return self.encoder(positions)
        return self.encoder(self._rows[positions.cpu()].to(images.device))

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(z)[:, None]

    def loss(self, images: Tensor, z: Tensor, step: Step) -> dict[str, Tensor]:
        """A zero: nothing is reconstructed, and without a regularizer's loss the points don't move."""
        return {"still": 0 * z.sum()}

    def positions(self, images: Tensor) -> Tensor:
        """Positions (B,) of images (B, 1, 1, 2) among the train, then the val images."""
        if images.is_meta:
            return torch.zeros(len(images), dtype=torch.long, device=images.device)
        known, sorted_bits, order = self._known
        points = images.detach().float().cpu().reshape(-1, 2)
        bits = _bits(points)
        nearest = torch.searchsorted(sorted_bits, bits).clamp(max=len(sorted_bits) - 1)
        positions = order[nearest]
        unknown = sorted_bits[nearest] != bits
        if unknown.any():
            positions[unknown] = torch.cdist(points[unknown], known).argmin(1)
        return positions.to(images.device)

    @cached_property
    def _rows(self) -> Tensor:
        """The row of the table (n,) of each image by its position."""
        train, val = (self.dataset.size(split) for split in ("train", "val"))
        return torch.cat([fixed_order(train).argsort(), torch.arange(val)]) % self.count

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor, Tensor]:
        """All images as points (n, 2), their bits in ascending order, and the positions in that order."""
        splits = [self.dataset.images(s, torch.arange(self.dataset.size(s))) for s in ("train", "val")]
        known = torch.cat(splits).reshape(-1, 2)
        return known, *_bits(known).sort()


def _bits(points: Tensor) -> Tensor:
    """The 64 bits of each point, (n, 2) float32 -> (n,) int64."""
    return points.contiguous().view(torch.int64).flatten()
