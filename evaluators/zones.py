"""Tests proven properties of latent zones: they fill N(0, I), and their overlap (LZN, theorem 1)."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Noise, Subject, SubjectSizes
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics.projections import KS_PROJECTIONS, distance_to_normal
from ..bench.models.activations import forward_memory
from ..bench.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Zones = Callable[[Tensor, Tensor, float, int], Tensor]  # anchors and noise (n, q), g, steps -> (n, q)

STARTS = (0.9, 0.75, 0.5, 0.35, 0.25)  # values of g
COPIES = 64  # of both anchors per minibatch, which leave the zones unchanged and give 128 latents at once


def theorem(g: float) -> float:
    """Phi((g - 1) / g), the probability that a latent is in the other anchor's zone, for anchors -1 and 1."""
    return 0.5 * math.erfc((1 - g) / g / 2**0.5)


@torch.no_grad()
def misassigned(zones: Zones, g: float, steps: int, draws: int, noise: Noise) -> float:
    """The share of latents of the anchors -1 and 1, at least `draws`, that have the other anchor's sign."""
    anchors = torch.tensor([-1.0, 1.0]).repeat(COPIES)[:, None]
    rounds = math.ceil(draws / len(anchors))
    wrong = [
        zones(anchors, noise.fork(i).normal(anchors, "zone"), g, steps) * anchors < 0 for i in range(rounds)
    ]
    return torch.cat(wrong).double().mean().item()


@register("zones")
class LatentZones(Evaluator):
    """Latents of one large minibatch, and theorem 1, for `lzn`; no value for other methods.

    Anchors are the tokenizer's outputs for some training images, and the noise is not scaled (alpha =
    1). The flow takes `steps` Euler steps, whatever the row's own number of steps.
    """

    version = 2
    metrics = {
        "zone_KS": Metric(
            "tokenizer", False, "", "Largest Kolmogorov-Smirnov distance of zones' latents to N(0, I)."
        ),
        "misassigned": Metric(
            "tokenizer", None, "", "Share of latents in the other's zone, anchors -1 and 1, by start g."
        ),
        "misassignment_error": Metric(
            "tokenizer", False, "", "Largest difference of those shares from theorem 1."
        ),
    }

    def __init__(
        self,
        points: Annotated[int, Field(ge=8)] = 1024,
        steps: Annotated[int, Field(ge=1)] = 200,
        draws: Annotated[int, Field(ge=1)] = 4096,
    ) -> None:
        """
        Args:
            points: images in the minibatch; memory is quadratic in this number.
            steps: steps of the flow. At g = 0.25, 20 steps overshoot: 0.4 % are misassigned instead of 0.1 %.
            draws: latents per probability of theorem 1, for a standard error of at most 0.008.
        """
        self.points, self.steps, self.draws = points, steps, draws
        self._last: tuple[Subject, dict[float, float], Tensor, Tensor] | None = None

    def run(self, subject: Subject) -> dict[str, float]:
        if zones_of(subject) is None:
            return {}
        shares, _, z = self._measured(subject)
        error = max(abs(share - theorem(g)) for g, share in shares.items())
        by_start = {f"misassigned[{g:g}]": share for g, share in shares.items()}
        return {"zone_KS": distance_to_normal(z), **by_start, "misassignment_error": error}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        zones = zones_of(sizes)
        if zones is None or sizes.tokenizer is None:
            return 0
        spec, images = sizes.tokenizer.spec, min(self.points, sizes.train)
        shape = (images, spec.tokens * spec.channels)
        if _per_token(sizes):
            shape = (min(self.points, images * spec.tokens), spec.channels)
        points = torch.empty(shape)
        flow = forward_memory(lambda a, noise: zones(a, noise, 1e-3, 2), points, points)
        return max(flow, sizes.encoding(images))

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        if name == "zone_KS":
            size = min(self.points, subject.dataset.size("train"))
            return {
                "n": size,
                "anchors": "tokens" if _per_token(subject) else "images",
                "minibatch": size,
                "steps": self.steps,
                "projections": KS_PROJECTIONS,
            }
        return {"n": math.ceil(self.draws / (2 * COPIES)) * 2 * COPIES, "steps": self.steps}

    def figures(self, subject: Subject) -> dict[str, Figure]:
        return {} if zones_of(subject) is None else {"zones": drawing(*self._measured(subject))}

    @torch.no_grad()
    def _measured(self, subject: Subject) -> tuple[dict[float, float], Tensor, Tensor]:
        """Misassigned shares by start g, anchors (n, q) and latents (n, q)."""
        if self._last is None or self._last[0] is not subject:
            zones, noise = zones_of(subject), subject.noise.fork("zones")
            assert zones is not None
            shares = {g: misassigned(zones, g, self.steps, self.draws, noise.fork(str(g))) for g in STARTS}
            index = fixed_order(subject.dataset.size("train"))[: self.points]
            like = next(subject.tokenizer.parameters())
            encoded = subject.tokenizer.encode(subject.dataset.images("train", index).to(like))
            # As in the row, an anchor is an image or, with `per_token`, a token; then fewer images suffice.
            anchors = encoded.flatten(0, 1)[: self.points] if _per_token(subject) else encoded.flatten(1)
            start = float(getattr(getattr(subject.regularizer, "underlying", None), "g", 1e-4))
            z = zones(anchors, noise.normal(anchors, "zone"), start, self.steps)
            self._last = subject, shares, anchors.cpu(), z.cpu()
        return self._last[1:]


def _per_token(subject: Subject | SubjectSizes) -> bool:
    return bool(getattr(getattr(subject.regularizer, "underlying", None), "per_token", False))


def zones_of(subject: Subject | SubjectSizes) -> Zones | None:
    """The function `zones` of the regularizer's module, if it has one (parts don't import each other)."""
    method = subject.regularizer
    return None if method is None else getattr(sys.modules[type(method.underlying).__module__], "zones", None)


def drawing(shares: dict[float, float], anchors: Tensor, z: Tensor) -> Figure:
    """Anchors and their latents, coloured by the anchor's direction, and theorem 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=100, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    centred = anchors[:, :2] - anchors[:, :2].mean(0)
    colours = torch.atan2(centred[:, 1], centred[:, 0]).numpy()
    for axis, points, title in (
        (left, anchors, "anchors"),
        (middle, z, "latents: each in its anchor's zone"),
    ):
        axis.scatter(*points[:, :2].T.numpy(), s=10, c=colours, cmap="hsv", linewidths=0)
        axis.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal", title=title)
        axis.grid(alpha=0.25)
    g = torch.linspace(0.15, 0.95, 100).tolist()
    right.plot(g, [theorem(start) for start in g], color="grey", label="theorem 1")
    right.plot(list(shares), list(shares.values()), "o", color="#d1495b", label="measured")
    right.set(xlabel="start g", ylabel="share in the other's zone", title="two anchors, -1 and 1")
    right.legend()
    right.grid(alpha=0.25)
    return figure
