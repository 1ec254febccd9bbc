"""Whether latents fill a reference: k-NN recall, sliced Wasserstein distance, and distance to the normal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Subject
from ..bench.metrics.precision_recall import NEIGHBORHOOD, precision_recall
from ..bench.metrics.projections import KS_PROJECTIONS, directions, distance_to_normal
from ..bench.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROJECTIONS = 64  # directions of the sliced Wasserstein distance
PANELS = 6
BLUE, RED = "#2f6db5", "#d1495b"


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = PROJECTIONS) -> float:
    """(n, C), (m, C) -> mean over directions of the 1-Wasserstein distance of projections."""
    from scipy.stats import wasserstein_distance

    along = directions(a.shape[1], projections).T
    pairs = zip((a.double() @ along).T, (b.double() @ along).T, strict=True)
    return sum(float(wasserstein_distance(one, two)) for one, two in pairs) / projections


@register("coverage")
class Coverage(Evaluator):
    """Latents against as many fresh reference samples, each number beside that of other fresh samples.

    Of the first training images, as every image of a point set's table is the latent of many. Manifolds are
    unions of balls that reach to each point's third neighbour (Kynkaanniemi et al., 2019).
    """

    metrics = {
        "latent_recall": Metric(
            "tokenizer", True, "", "Share of reference tokens within the latents' manifold."
        ),
        "latent_recall_real": Metric("tokenizer", None, "", "latent_recall of fresh reference samples."),
        "latent_precision": Metric(
            "tokenizer", True, "", "Share of latent tokens within the reference's manifold."
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

    def __init__(self, points: Annotated[int, Field(ge=8)] = 1024) -> None:
        """
        Args:
            points: latents, of the first training images; as many as the table of `points` has rows.
        """
        self.points = points

    def run(self, subject: Subject) -> dict[str, float]:
        z, fresh, other = self._sets(subject)
        found: dict[str, float] = {}
        for suffix, points in (("", z), ("_real", other)):
            found[f"latent_precision{suffix}"], found[f"latent_recall{suffix}"] = precision_recall(
                points, fresh
            )
            found[f"SWD{suffix}"] = sliced_wasserstein(points, fresh)
        whole = subject.latents("train")[: self.points].flatten(1).cpu()
        return found | {"KS": distance_to_normal(whole)}

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        z, fresh, _ = self._sets(subject)
        if name == "KS":
            n = min(self.points, len(subject.latents("train")))
            return {"n": n, "projections": KS_PROJECTIONS, "of": "whole latents, all tokens as one vector"}
        how = {"projections": PROJECTIONS, "order": 1} if name.startswith("SWD") else {"k": NEIGHBORHOOD}
        return {
            "n": len(z),
            "latents": "of the first training images",
            "reference": subject.reference_protocol(),
            "reference_n": len(fresh),
            "floor": "reference samples of train",
            **how,
        }

    def _sets(self, subject: Subject) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n, C) of latents, of fresh reference samples and of others, all as many."""
        sets = (
            subject.latents("train")[: self.points],
            subject.reference("val").samples,
            subject.reference("train").samples,
        )
        tokens = [each.flatten(0, 1).cpu() for each in sets]
        count = min(len(tokens[0]), len(tokens[1]), len(tokens[2]))
        return tokens[0][:count], tokens[1][:count], tokens[2][:count]

    def figures(self, subject: Subject) -> dict[str, Figure]:
        """The way of the first two channels, where latents are points; elsewhere nothing."""
        latents = subject.latents("train")
        if latents.shape[1:] != (1, 2):
            return {}
        z, fresh, _ = self._sets(subject)
        steps, probes = subject.trajectory()
        # Early probes lie closer: what happens, happens at the start.
        chosen = (torch.linspace(0, 1, PANELS) ** 2 * (len(steps) - 1)).round().long().unique()
        frames = [(f"step {int(steps[i])}", probes[i, : self.points, 0]) for i in chosen if len(steps)]
        return {"trajectory": drawing(frames or [("at the end", z)], fresh)}


def drawing(frames: list[tuple[str, Tensor]], reference: Tensor) -> Figure:
    """Latents (n, 2) at some steps, over the reference (m, 2)."""
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
