"""How well latents fill a reference: k-NN recall, sliced Wasserstein distance, and distance to N(0, I)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject, SubjectSizes
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics.precision_recall import NEIGHBORHOOD, memory_bytes, precision_recall
from ..bench.metrics.projections import KS_PROJECTIONS, PROJECTIONS, distance_to_normal, sliced_wasserstein
from ..bench.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 6  # of the figure
BLUE, RED = "#2f6db5", "#d1495b"


@register("coverage")
class Coverage(Evaluator):
    """Compares latents with equally many fresh reference samples; `_real` metrics compare other samples.

    Latents are those of a fixed random choice of training images, which has each point of the tokenizer
    `points` once.
    Manifolds are unions of balls that reach to each point's third neighbour (Kynkaanniemi et al., 2019).
    """

    version = 2
    metrics = {
        "latent_recall": Metric(
            "tokenizer",
            None,
            "",
            "Share of reference tokens within the latents' manifold; high also for scattered latents.",
        ),
        "latent_recall_real": Metric("tokenizer", None, "", "latent_recall of fresh reference samples."),
        "latent_precision": Metric(
            "tokenizer",
            None,
            "",
            "Share of latent tokens within the reference's manifold; 1 for collapsed latents.",
        ),
        "latent_precision_real": Metric(
            "tokenizer", None, "", "latent_precision of fresh reference samples."
        ),
        "SWD": Metric(
            "tokenizer", False, "", "Sliced 1-Wasserstein distance from latent tokens to the reference."
        ),
        "SWD_real": Metric("tokenizer", None, "", "SWD of fresh reference samples."),
        "KS": Metric(
            "tokenizer",
            None,
            "",
            "Largest Kolmogorov-Smirnov distance of latents to N(0, I) over 20 directions.",
        ),
    }

    version = 2  # since the reference's tokens are chosen, not pooled, where they are more than the latent's

    def __init__(self, points: Annotated[int, Field(ge=8)] = 1024) -> None:
        """
        Args:
            points: number of latents, by default as many as the table of the tokenizer `points` has rows.
        """
        self.points = points

    def run(self, subject: Subject) -> dict[str, float]:
        z, fresh, other = self._sets(subject)
        scores: dict[str, float] = {}
        for suffix, points in (("", z), ("_real", other)):
            precision, recall = precision_recall(points, fresh)
            scores[f"latent_precision{suffix}"], scores[f"latent_recall{suffix}"] = precision, recall
            scores[f"SWD{suffix}"] = sliced_wasserstein(points, fresh)
        vectors = in_fixed_order(subject.latents("train"), self.points).flatten(1).cpu()
        return scores | {"KS": distance_to_normal(vectors)}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        images, tokens, channels = sizes.latents("train")
        fresh, other = sizes.reference("val"), sizes.reference("train")
        n = min(min(self.points, images) * tokens, *(m * of_each for m, of_each, _ in (fresh, other)))
        # Samples of a reference in random order, and distances of all pairs of tokens.
        copies = sum(4 * m * of_each * channels for m, of_each, _ in (fresh, other))
        return copies + max(memory_bytes(n, channels), 2 * 8 * n * (channels + PROJECTIONS))

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        z, fresh, _ = self._sets(subject)
        if name == "KS":
            n = min(self.points, len(subject.latents("train")))
            return {"n": n, "projections": KS_PROJECTIONS, "of": "whole latents, all tokens as one vector"}
        settings = {"projections": PROJECTIONS, "order": 1} if name.startswith("SWD") else {"k": NEIGHBORHOOD}
        return {
            "n": len(z),
            "latents": "of training images in a fixed random order",
            "reference": subject.reference_protocol(),
            "reference_n": len(fresh),
            "floor": "reference samples of train",
            **settings,
        }

    def _sets(self, subject: Subject) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n, C) of latents, of fresh reference samples (val) and of other samples (train)."""
        sets = (
            in_fixed_order(subject.latents("train"), self.points),
            in_fixed_order(subject.reference("val").samples),
            in_fixed_order(subject.reference("train").samples),
        )
        z, fresh, other = (tokens.flatten(0, 1).cpu() for tokens in sets)
        n = min(len(z), len(fresh), len(other))
        return z[:n], fresh[:n], other[:n]

    def figures(self, subject: Subject) -> dict[str, Figure]:
        """Latents at several training steps, if they are points (one token of two channels)."""
        latents = subject.latents("train")
        if latents.shape[1:] != (1, 2):
            return {}
        z, fresh, _ = self._sets(subject)
        steps, probes = subject.trajectory()
        frames = [("at the end", z)]
        if len(steps):
            # More panels of early steps, in which latents change most.
            chosen = (torch.linspace(0, 1, PANELS) ** 2 * (len(steps) - 1)).round().long().unique()
            frames = [(f"step {int(steps[i])}", probes[i, : self.points, 0]) for i in chosen]
        return {"trajectory": drawing(frames, fresh)}


def in_fixed_order(rows: Tensor, most: int | None = None) -> Tensor:
    """At most `most` rows (None: all) in a fixed random order: a set's first rows may be of one class."""
    return rows[fixed_order(len(rows))[:most]]


def drawing(frames: list[tuple[str, Tensor]], reference: Tensor) -> Figure:
    """One panel for each (title, latents (n, 2)), over the reference (m, 2)."""
    from matplotlib.figure import Figure

    columns = min(3, len(frames))
    rows = math.ceil(len(frames) / columns)
    figure = Figure(figsize=(4 * columns, 4 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axis in axes[len(frames) :]:
        axis.set_visible(False)
    for axis, (title, z) in zip(axes, frames, strict=False):
        axis.scatter(*reference.T.numpy(), s=7, c=BLUE, alpha=0.35, linewidths=0, label="reference")
        axis.scatter(*z.cpu().T.numpy(), s=7, c=RED, alpha=0.7, linewidths=0, label="latents")
        axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", title=title)
        axis.grid(alpha=0.25)
    axes[0].legend(loc="upper right", fontsize=9, markerscale=2, framealpha=0.9)
    return figure
