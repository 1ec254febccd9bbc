"""Patches that an encoder doesn't see in training (MAETok: Chen et al., 2025)."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor, nn

from ..api import Noise

DEVIATION = 0.25


def hidden_share(least: float, most: float, noise: Noise) -> float:
    """A draw of N(most, 0.25^2), truncated to [least, most], that all processes share."""
    law = NormalDist(most, DEVIATION)
    low, high = law.cdf(least), law.cdf(most)
    drawn = law.inv_cdf(low + noise.shared("share") * (high - low))
    return min(max(drawn, least), most)  # against rounding


def hidden_patches(x: Tensor, share: float, noise: Noise) -> Tensor:
    """Marks ceil(N share) patches of each image, all choices alike: x (B, N, D) -> bool (B, N)."""
    order = noise.uniform(x[..., 0].float(), "patches")
    chosen = order.topk(math.ceil(x.shape[1] * share), dim=1).indices
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, chosen, True)


class PatchMask(nn.Module):
    """Puts one learned token in the place of a random share of each image's patches.

    The share is drawn once for a batch, from N(most, 0.25^2) truncated to [least, most], the patches for each
    image. Positions are added afterwards, so the encoder knows which patches are hidden.

    Args:
        width: numbers in a patch's token.
        shares: (least, most), both in [0, 1].

    Raises:
        ValueError: if the least share is above the most.
    """

    def __init__(self, width: int, shares: tuple[float, float]) -> None:
        super().__init__()
        self.least, self.most = shares
        if self.least > self.most:
            raise ValueError(f"mask [{self.least}, {self.most}] is no range: the first is above the second")
        with torch.random.fork_rng(devices=[]):  # other weights start as they do without a mask
            self.token = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, x: Tensor, noise: Noise) -> Tensor:
        """Patches (B, N, D) -> (B, N, D)."""
        hidden = hidden_patches(x, hidden_share(self.least, self.most, noise), noise)
        return torch.where(hidden[..., None], self.token.to(x.dtype), x)
