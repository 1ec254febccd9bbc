"""Statistics of latents by themselves: spectrum, smoothness, rank and spread (SimFlow, figure 4).

The paper names its statistics but gives no formulas. Here the channels' means are subtracted from the latents
(n, T, C) of the held-out images; for constant latents every ratio is 0 and the rank is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..bench.api import Estimate, Evaluator, LatentSpec, Metric, Subject, SubjectSizes
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import counts
from ..bench.metrics.projections import KS_PROJECTIONS, distance_to_normal
from ..bench.models.latents import CHUNK
from ..bench.registry import register

CUTOFF = 0.25  # cycles per token, half of the highest frequency of a grid
ACTIVE = 0.01  # variance of Burda et al. (2016), section 2, for latents with about the scale of N(0, 1)
TINY = 1e-20  # counts as no variance: far below that of any varying float32 latents

# A statistic is a pair of functions. The first gives numbers of each image, (b, T, C) -> (b, S); the second
# combines their means over images, (R, S) -> (R,). So R resamples of the images need only R means.
Statistic = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def resampled(name: str, z: Tensor, centre: Tensor, statistic: Statistic) -> Estimate:
    """The statistic of latents (n, T, C) minus `centre`.

    The centre isn't recomputed for resamples, which would change the statistic by the order of 1 / n.
    """
    numbers, combined = statistic
    weights = torch.cat([torch.ones(1, len(z)).double(), counts(name, len(z))]) / len(z)
    parts = zip(z.split(CHUNK), weights.split(CHUNK, dim=1), strict=True)
    values = combined(torch.stack([w @ numbers(chunk.double() - centre) for chunk, w in parts]).sum(0))
    return Estimate(values[0].item(), values[1:])


def shares(values: Tensor) -> Tensor:
    """Values (R, S) divided by the sum of their row."""
    return values / values.sum(1, keepdim=True).clamp(min=TINY)


def entropy(p: Tensor) -> Tensor:
    """Entropies (R,) in nats of probabilities (R, S)."""
    return -torch.xlogy(p, p).sum(1)


def power(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """The power spectrum (b, T - 1) of latents (b, T, C).

    This is |FFT|^2 over the grid, summed over channels, without frequency zero (the mean).
    """
    maps = z.transpose(1, 2).unflatten(2, grid)  # (b, C, h, w)
    return torch.fft.fft2(maps).abs().square().sum(1).flatten(1)[:, 1:]


def is_high(grid: tuple[int, int]) -> Tensor:
    """Whether each frequency (T - 1,) of `power` has a length above the cutoff."""
    vertical, horizontal = (torch.fft.fftfreq(side, dtype=torch.float64) for side in grid)
    return torch.hypot(vertical[:, None], horizontal).flatten()[1:] > CUTOFF + 1e-9


def differences(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """Two numbers (b, 2) of latents (b, T, C).

    The first is the mean |difference| of vertical neighbours plus that of horizontal ones; the second is the
    mean square of the latents.
    """
    maps = z.unflatten(1, grid)
    steps = (maps.diff(dim=axis).abs().flatten(1).mean(1) for axis in (1, 2))
    return torch.stack([sum(steps), z.square().flatten(1).mean(1)], dim=1)


def products(z: Tensor) -> Tensor:
    """Mean products (b, T) of two tokens of (b, T, C) at lags 0, 1, … along the raster."""
    tokens, channels = z.shape[1:]
    spectrum = torch.fft.rfft(z, n=2 * tokens, dim=1).abs().square().sum(2)  # padded against wrap-around
    return torch.fft.irfft(spectrum, n=2 * tokens)[:, :tokens] / channels / torch.arange(tokens, 0, -1)


def rank(moments: Tensor) -> Tensor:
    """Effective ranks (R,) of covariances (R, C * C): exp of the entropy of the singular values.

    Roy & Vetterli, 2007.
    """
    channels = round(moments.shape[1] ** 0.5)
    eigenvalues = torch.linalg.eigvalsh(moments.unflatten(1, (channels, channels)))
    singular_values = torch.nn.functional.threshold(eigenvalues, TINY, 0).sqrt()
    return entropy(shares(singular_values)).exp()


def statistics(spec: LatentSpec) -> dict[str, Statistic]:
    """The statistics, by name, that exist for latents of this shape."""
    available: dict[str, Statistic] = {
        "latent_std": (lambda z: z.square().mean((1, 2))[:, None], lambda means: means[:, 0].sqrt()),
        "effective_rank": (lambda z: (z.mT @ z / spec.tokens).flatten(1), rank),
    }
    if spec.tokens > 1:
        available["autocorrelation"] = products, lambda p: (p[:, 1:] / p[:, :1].clamp(min=TINY)).mean(1)
        available["autocorrelation_1"] = products, lambda p: p[:, 1] / p[:, 0].clamp(min=TINY)
    if spec.grid and min(spec.grid) > 1:
        bins, high = torch.tensor(spec.tokens - 1.0).double(), is_high(spec.grid)
        spectrum = partial(power, grid=spec.grid)
        available["spectral_entropy"] = spectrum, lambda p: entropy(shares(p)) / bins.log()
        available["high_frequency_ratio"] = spectrum, lambda p: shares(p)[:, high].sum(1)
        available["total_variation"] = (
            partial(differences, grid=spec.grid),
            lambda d: d[:, 0] / d[:, 1].clamp(min=TINY).sqrt(),
        )
    return available


ABOUT = {
    "latent_std": "Root mean square of latents about their channels' means.",
    "effective_rank": "Directions that tokens spread over: exp of the entropy of their singular values.",
    "autocorrelation": "Correlation of tokens along the raster, mean over all lags.",
    "autocorrelation_1": "Correlation of each token with the next.",
    "spectral_entropy": "How evenly a latent's power is spread over spatial frequencies; 1 is white noise.",
    "high_frequency_ratio": "Share of a latent's power above half of the highest spatial frequency.",
    "total_variation": "Mean difference of neighbouring tokens over the latent's std; 2.26 is white noise.",
}


@register("latents")
class LatentStatistics(Evaluator):
    """Statistics of held-out latents, drawn with noise and, in metrics with `_mean`, without noise.

    Distances to N(0, I) are those of latents that aren't standardised: scale and offset count.
    """

    metrics = {
        name + suffix: Metric("tokenizer", None, "", about + without_noise)
        for suffix, without_noise in (("", ""), ("_mean", " Without noise."))
        for name, about in ABOUT.items()
    } | {
        "active_channels": Metric(
            "tokenizer", None, "", "Channels whose latents without noise vary between images by over 0.01."
        ),
        "KS_tokens": Metric(
            "tokenizer", None, "", "Largest Kolmogorov-Smirnov distance of tokens to N(0, I), 20 directions."
        ),
    }

    def run(self, subject: Subject) -> dict[str, float]:
        drawn, mean = subject.latents("val"), subject.latents("val", deterministic=True)
        # Around the mean image, so that a channel which encodes only the token's position isn't active.
        active: Statistic = lambda z: z.square().mean(1), lambda means: (means > ACTIVE).double().sum(1)
        scores: dict[str, float] = {
            "KS_tokens": distance_to_normal(drawn.flatten(0, 1)),
            "active_channels": resampled("active_channels", mean, mean.double().mean(0), active),
        }
        for suffix, z in (("", drawn), ("_mean", mean)):
            centre = z.double().mean((0, 1))
            for name, statistic in statistics(subject.tokenizer.spec).items():
                scores[name + suffix] = resampled(name + suffix, z, centre, statistic)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        sizes.latents("val", deterministic=True)
        values = n * tokens * channels
        chunk = 8 * CHUNK * (4 * tokens * channels + 2 * channels**2)
        return max(
            8 * (values + 3 * n * tokens * KS_PROJECTIONS), 8 * values, chunk
        ) + bootstrap.memory_bytes(n, 8)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        noiseless = name.endswith("_mean") or name == "active_channels"
        common = {
            "n": subject.dataset.size("val"),
            "latents": f"of val, {'deterministic' if noiseless else 'drawn'}",
        }
        if name == "KS_tokens":
            return common | {"projections": KS_PROJECTIONS, "standardised": False}
        if name == "active_channels":
            return common | {"variance": ACTIVE, "about": "the mean of each token and channel"}
        extra = {"cutoff": CUTOFF} if name.startswith("high") else {}
        return common | {"about": "the mean of each channel"} | extra
