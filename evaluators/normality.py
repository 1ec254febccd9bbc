"""Distances of latent tokens to the standard normal distribution."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Estimate, Evaluator, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import random_rows
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import counts
from ..bench.metrics.epps_pulley import KNOTS, integrals, knots
from ..bench.metrics.projections import directions
from ..bench.metrics.proxies import CHUNK, channel_statistics
from ..bench.registry import register

BLOCK = 8  # directions along which all tokens are projected at a time
NUMBERS = 2**18  # projected tokens whose characteristic functions are computed at a time


def characteristic_by_image(z: Tensor, axes: Tensor) -> Tensor:
    """Means over an image's tokens of cos(t y) and sin(t y), y = z . axis: z (b, T, C) -> (b, 2, K, 16).

    Args:
        axes: directions (K, C).
    """
    angles = (z.double() @ axes.T) * knots(axes)[0]  # (b, T, K)
    # Knots are multiples of the first, so that powers of one exponential have all of them.
    first = torch.polar(torch.ones_like(angles), angles)
    powers, means = first, []
    for _ in range(KNOTS):
        means.append(powers.mean(1))
        powers = powers * first
    functions = torch.stack(means, -1)
    return torch.stack([functions.real, functions.imag], 1)


def squared_distances_to_normal(projected: Tensor) -> tuple[Tensor, Tensor]:
    """Squared 2-Wasserstein distances of values (N, K) to N(0, 1), and each value's share of them.

    With sorted values y_i the distance is mean y_i^2 - 2 sum_i y_i (p(q_{i-1}) - p(q_i)) + 1, where p is the
    normal density and q_i its quantile of i / N: exact, without draws of the normal.

    Returns:
        Distances (K,), and their derivatives by the weights of the values, (N, K), up to a constant: the
        integral of 2 (x - T(x)) up to a value, T the map of the values to the normal.
    """
    n = len(projected)
    values, order = projected.sort(0)
    edges = torch.special.ndtri(torch.arange(n + 1, dtype=torch.float64) / n)
    density = torch.exp(-edges.square() / 2) / (2 * torch.pi) ** 0.5  # 0 at both infinite ends
    targets = (n * (density[:-1] - density[1:]))[:, None]  # mean of the normal between two quantiles
    distance = values.square().mean(0) - 2 * (values * targets).mean(0) + 1
    # Kantorovich's potential, whose slope at x is 2 (x - T(x)).
    slope = 2 * (values - targets)
    steps = (slope[1:] + slope[:-1]) / 2 * values.diff(dim=0)
    potential = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
    return distance, torch.empty_like(potential).scatter_(0, order, potential)


def sigreg_estimate(name: str, z: Tensor, axes: Tensor) -> Estimate:
    """SIGReg's statistic over the number of tokens of z (n, T, C), with replicates over images."""
    weights = torch.cat([torch.ones(1, len(z)).double(), counts(name, len(z))]) / len(z)
    total = torch.zeros(len(weights), 2, len(axes), KNOTS, dtype=torch.float64)
    rows = max(1, NUMBERS // (z.shape[1] * len(axes)))
    for chunk, w in zip(z.split(rows), weights.split(rows, dim=1), strict=True):
        total += torch.tensordot(w, characteristic_by_image(chunk, axes), 1)
    values = integrals(total.movedim(1, 0)).mean(-1)
    return Estimate(values[0].item(), values[1:])


def distance_estimate(name: str, z: Tensor, axes: Tensor) -> Estimate:
    """The sliced squared 2-Wasserstein distance of z (n, T, C) to N(0, I), with replicates over images.

    Replicates are to the first order in the images' weights.
    """
    n, tokens = z.shape[:2]
    value, change = 0.0, torch.zeros(n, dtype=torch.float64)
    for block in axes.split(BLOCK):
        projected = torch.cat([chunk.double().flatten(0, 1) @ block.T for chunk in z.split(CHUNK)])
        distances, shares = squared_distances_to_normal(projected)
        value += distances.sum().item() / len(axes)
        change += shares.view(n, tokens, -1).mean(1).sum(1) / n / len(axes)
    return Estimate(value, value + (counts(name, n) - 1) @ change)


@register("normality")
class Normality(Evaluator):
    """How far the tokens of held-out latents, as drawn, are from N(0, I), along random directions.

    `_standardised` metrics are of latents whose channels have mean 0 and deviation 1, as a generator sees
    them with `normalise: channel`; the others count scale and offset.

    Papers: Balestriero & LeCun, "LeJEPA", 2025 (arXiv 2511.08544) for SIGReg; Kolouri et al.,
    "Sliced-Wasserstein Autoencoder", 2018 (arXiv 1804.01947) for SWD_normal, which is squared there, too.
    """

    metrics = {
        name + suffix: Metric("tokenizer", None, "", about + end)
        for suffix, end in (("", ""), ("_standardised", " Channels standardised."))
        for name, about in (
            ("SIGReg", "Epps-Pulley distance of latent tokens to N(0, I); 1.05 / tokens by chance."),
            ("SWD_normal", "Squared sliced 2-Wasserstein distance of latent tokens to N(0, I)."),
        )
    }

    def __init__(
        self,
        directions: Annotated[int, Field(ge=1)] = 64,
        images: Annotated[int, Field(ge=1)] = 10_000,
    ) -> None:
        """
        Args:
            directions: fixed random directions on which tokens are projected.
            images: largest number of held-out images, a fixed random choice.
        """
        self.directions, self.images = directions, images

    def run(self, subject: Subject) -> dict[str, float]:
        z = subject.latents("val")
        z = z[random_rows(len(z), self.images)]
        axes, scores = directions(z.shape[2], self.directions), dict[str, float]()
        mean, scale = (values.to(z) for values in channel_statistics(z))
        standard = (z - mean) * scale
        for suffix, latents in (("", z), ("_standardised", standard)):
            scores["SIGReg" + suffix] = sigreg_estimate("SIGReg" + suffix, latents, axes)
            scores["SWD_normal" + suffix] = distance_estimate("SWD_normal" + suffix, latents, axes)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        n = min(n, self.images)
        latents = 3 * 4 * n * tokens * channels
        rows = max(1, min(n, NUMBERS // (tokens * self.directions)))
        functions = 8 * 2 * self.directions * KNOTS
        powers = 4 * 16 * rows * tokens * self.directions
        powers += 3 * (rows + 2 * bootstrap.REPLICATES) * functions
        projections = 10 * 8 * n * tokens * min(BLOCK, self.directions)
        return latents + powers + projections + bootstrap.memory_bytes(n, 4)

    def flops(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        return 2 * 4 * min(n, self.images) * tokens * channels * self.directions

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        n = min(self.images, subject.dataset.size("val"))
        return {
            "n": n,
            "latents": "of val, drawn",
            "directions": self.directions,
            "standardised": name.endswith("_standardised"),
        }
