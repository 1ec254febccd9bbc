"""The variance of a flow's velocity that no network can predict from the noisy latent (VIV)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Estimate, Evaluator, Metric, Subject, SubjectSizes
from ..bench.metrics import bootstrap
from ..bench.metrics.bootstrap import counts
from ..bench.metrics.proxies import (
    CHUNK,
    LEAST,
    TINY,
    channel_statistics,
    classes_of,
    velocity_variance,
)
from ..bench.registry import register


def viv_estimate(name: str, z: Tensor, labels: Tensor | None, rounds: int) -> Estimate:
    """VIV of latents (N, T, C), by class, with replicates.

    Replicates are to the first order in the images' weights, which change the covariances of classes and the
    channels' scale.
    """
    (centre, scale), groups = channel_statistics(z), classes_of(z, labels)
    scale.requires_grad_()
    change, by_scale = torch.zeros(len(z), dtype=torch.float64), torch.zeros_like(scale, requires_grad=False)
    values: dict[str, float] = {}
    for rows in groups:
        weights = torch.ones(len(rows), dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            value = velocity_variance(z[rows], weights, rounds, scale)
            by_weights, by_channel = torch.autograd.grad(value, (weights, scale))
        change[rows], by_scale = by_weights, by_scale + by_channel
        values["" if labels is None else str(int(labels[rows[0]]))] = value.item()
    mean = sum(values.values()) / len(values)
    change = (change + scale_changes(z, centre, scale.detach()) @ by_scale) / len(groups)
    replicates = mean + (counts(name, len(z)) - 1) @ change
    return Estimate(mean, replicates, None if labels is None else values)


def scale_changes(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Derivatives (N, C) of the channels' scales 1 / std (C,), about their means (C,), by images' weights."""
    squares = torch.cat([(chunk.double() - mean).square().mean(1) for chunk in z.split(CHUNK)])
    return (1 - squares / squares.mean(0).clamp(min=TINY)) * scale / (2 * len(z))


@register("velocity_variance")
class VelocityVariance(Evaluator):
    """VIV: how much of a flow's velocity is left to chance, given the noisy latent, the time and the class.

    Each class's held-out latents are taken for a Gaussian whose covariance is the Kronecker product of one
    over tokens and one over channels. Compact classes and uneven spectra have low values, which the paper
    finds to go with a low gFID. A value depends on the number of tokens and channels, and on the number of
    images of a class where these are few.

    Paper: "Velocity Ambiguity" in arXiv 2606.03578, 2026.
    """

    metrics = {
        "VIV": Metric(
            "tokenizer",
            None,
            "",
            "Variance of the velocity given noisy latent and class, per number; 1.571 for white latents.",
        ),
        "VIV_one_class": Metric("tokenizer", None, "", "VIV of all latents as one class."),
    }

    def __init__(self, rounds: Annotated[int, Field(ge=1)] = 5) -> None:
        """
        Args:
            rounds: iterations of the flip-flop estimate of a class's covariance.
        """
        self.rounds = rounds

    def run(self, subject: Subject) -> dict[str, float]:
        z, labels, scores = subject.latents("val"), subject.labels("val"), dict[str, float]()
        if len(z) >= LEAST:
            scores["VIV_one_class"] = viv_estimate("VIV_one_class", z, None, self.rounds)
        if labels is not None and int(labels.bincount().max()) >= LEAST:
            scores["VIV"] = viv_estimate("VIV", z, labels, self.rounds)
        return scores

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        # A chunk, centred and weighted, and again in the backward pass; the matrices of all rounds.
        numbers = tokens * channels
        # One chunk is kept by the backward pass in every round.
        chunk = 8 * 8 * self.rounds * min(n, CHUNK) * numbers
        rounds = 8 * 8 * self.rounds * (tokens**2 + channels**2) * (1 + n // CHUNK)
        return 4 * n * numbers + chunk + rounds + 8 * numbers + bootstrap.memory_bytes(n, 2)

    def flops(self, sizes: SubjectSizes) -> int:
        n, tokens, channels = sizes.latents("val")
        # Two moments a round, of two products each; forward, recomputed, and twice that backward.
        return 2 * 4 * self.rounds * 4 * n * tokens * channels * (tokens + channels)

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        return {
            "n": subject.dataset.size("val"),
            "latents": "of val, drawn, channels scaled to a deviation of 1",
            "covariance": f"flip-flop Kronecker, {self.rounds} rounds",
            "classes": "one" if name == "VIV_one_class" else f"with {LEAST} images at least",
        }
