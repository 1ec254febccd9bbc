"""How the tokens of one latent relate to each other in space: similarity, contrast and frequencies."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Estimate, Evaluator, Metric, Subject, SubjectSizes
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import counts, mean_estimate
from ..bench.metrics.local_correlation import correlation_by_image
from ..bench.metrics.proxies import (
    BLOCK,
    CHUNK,
    channel_statistics,
    contrasts,
    is_beyond,
    local_similarities,
    similarity_by_distance,
    similarity_decays,
    spectral_energies,
)
from ..bench.registry import register

SHARES = {"SEC_25": 0.25, "SEC_50": 0.5}  # of the largest frequency, by metric


def energy_share(name: str, energies: Tensor, beyond: Tensor) -> Estimate:
    """The share of energies (n, h, w) in cells `beyond` (h, w), with replicates over images."""
    sums = torch.stack([energies[:, beyond].sum(1), energies.flatten(1).sum(1)], 1)

    def share(totals: Tensor) -> Tensor:
        return totals[..., 0] / totals[..., 1].clamp(min=1e-20)

    return Estimate(share(sums.sum(0)).item(), share(counts(name, len(sums)) @ sums))


def correlations(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """The correlation of tokens in 2 x 2 windows, over standardised channels: (n, T, C) -> (n,)."""
    mean, scale = channel_statistics(z)
    chunks = ((chunk.double() - mean) * scale for chunk in z.split(CHUNK))
    return torch.cat([correlation_by_image(chunk, grid) for chunk in chunks])


@register("spatial")
class Spatial(Evaluator):
    """Statistics of the grid of a held-out latent's tokens, as drawn; latents without a grid have none.

    Similarities are cosines of tokens at a Manhattan distance d. Where iREPA has grids of 16 x 16, "far" is
    d >= 6 and slopes reach to d = 8; other grids have 3/8 and a half of their shorter side.

    Papers: Singh et al., "iREPA", 2025 (arXiv 2512.10794): LDS, CDS, RMSC; arXiv 2606.03578, 2026: SEC; Liu
    et al., "SSVAE", 2025 (arXiv 2512.05394): local_correlation.
    """

    metrics = {
        "LDS": Metric("tokenizer", None, "", "Cosine of neighbouring tokens minus that of far ones."),
        "CDS": Metric("tokenizer", None, "", "How fast the cosine of tokens falls with their distance."),
        "RMSC": Metric(
            "tokenizer", None, "", "Spread of the directions of an image's tokens; 0 where all are alike."
        ),
        "SEC_25": Metric(
            "tokenizer", None, "", "Share of a latent's energy beyond a quarter of the largest frequency."
        ),
        "SEC_50": Metric(
            "tokenizer", None, "", "Share of a latent's energy beyond half of the largest frequency."
        ),
        "local_correlation": Metric(
            "tokenizer", None, "", "Correlation of the tokens in 2 x 2 windows, over standardised channels."
        ),
    }

    def __init__(
        self,
        far: Annotated[int, Field(ge=2)] | None = None,
        reach: Annotated[int, Field(ge=2)] | None = None,
    ) -> None:
        """
        Args:
            far: distance from which tokens count as far in LDS; null is 3/8 of the grid's shorter side.
            reach: largest distance of the slope CDS; null is half of the grid's shorter side.
        """
        self.far, self.reach = far, reach

    def run(self, subject: Subject) -> dict[str, float]:
        z, grid = subject.latents("val"), subject.tokenizer.spec.grid
        if grid is None or min(grid) < 2:
            return {}
        similarity, (far, reach) = similarity_by_distance(z, grid), self._distances(grid)
        values = {
            "LDS": local_similarities(similarity, grid, far),
            "CDS": similarity_decays(similarity, reach),
            "RMSC": contrasts(z),
        }
        if has_windows(grid, z.shape[2]):
            values["local_correlation"] = correlations(z, grid)
        scores: dict[str, float] = {name: mean_estimate(name, x) for name, x in values.items()}
        energies = spectral_energies(z, grid)
        return scores | {
            name: energy_share(name, energies, is_beyond(grid, rho)) for name, rho in SHARES.items()
        }

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        pairs = 3 * min(n, CHUNK, max(1, BLOCK // tokens**2)) * tokens**2
        chunk = max(pairs, 5 * min(n, CHUNK) * tokens * channels)
        return 8 * (chunk + 2 * n * tokens) + bootstrap.memory_bytes(n, 8)

    def flops(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        return 2 * n * tokens * channels * (tokens + 2 * math.isqrt(tokens))

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        grid = subject.tokenizer.spec.grid
        assert grid is not None
        common = {"n": subject.dataset.size("val"), "latents": "of val, drawn"}
        far, reach = self._distances(grid)
        match name:
            case "LDS":
                return common | {"near": 1, "far": far}
            case "CDS":
                return common | {"distances": [1, reach]}
            case "local_correlation":
                return common | {"windows": "2 x 2", "standardised": "channels, over all latents"}
            case "RMSC":
                return common
        return common | {"transform": "DCT-II", "beyond": SHARES[name]}

    def _distances(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The distances `far` and `reach` for a grid."""
        side = min(grid)
        return self.far or max(2, round(3 * side / 8)), self.reach or max(2, side // 2)


def has_windows(grid: tuple[int, int], channels: int) -> bool:
    """Whether a grid divides into 2 x 2 windows of tokens with a correlation over channels."""
    return grid[0] % 2 == 0 == grid[1] % 2 and channels > 1
