"""Correlation of a loss on latents with their true negative log-likelihood (Flow Priors, figures 3 and 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Noise, Regularizer, Subject, SubjectSizes
from ..bench.data.fixed_order import fixed_order
from ..bench.metrics.latent_loss import (
    BLUE,
    RED,
    along,
    draw_along,
    is_potential,
    pearson,
    repeats,
    sees_latents_alone,
    value,
)
from ..bench.models.activations import forward_memory
from ..bench.registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 3.0  # the plane is [-3, 3]^2, in standardised units, as in the paper
CHUNK = 32  # points per call of the loss


@torch.no_grad()
def landscape(regularizer: Regularizer, points: Tensor, draws: int, noise: Noise, index: int) -> Tensor:
    """The losses (n,) at single points (n, C), each a mean over `draws` repetitions.

    All points have the same times and noises, and so nearly the same error: the landscape is smooth, and a
    correlation over it suffers less than from independent draws.
    """

    def loss_at(point: Tensor) -> Tensor:
        return value(regularizer, point.expand(draws, 1, -1), noise, index)

    try:  # the same numbers, some 20 times faster
        losses_at = torch.func.vmap(loss_at, randomness="same")
        return torch.cat([losses_at(chunk) for chunk in points.split(CHUNK)])
    except RuntimeError:  # a loss that vmap can't batch, for example because it branches on a value
        return torch.stack([loss_at(point) for point in points])


@dataclass(frozen=True)
class Measured:
    """NLLs in nats, and losses; the losses are None if `is_potential` is false."""

    latents: Tensor  # (n, 2)
    data: Tensor  # (m, 2) fresh reference samples
    steps: Tensor  # (P,)
    nll: Tensor  # (n,)
    nll_data: Tensor  # (m,)
    nll_steps: Tensor  # (P,) means
    nll_plane: Tensor  # (grid^2,)
    loss_steps: Tensor | None = None
    loss_plane: Tensor | None = None
    loss_data: Tensor | None = None


@register("likelihood")
class LatentLikelihood(Evaluator):
    """The true NLL of latents in point sets, and its correlation with the regularizer's loss.

    NLLs are in nats, of standardised points, and never clipped, as float64 can represent the density.
    Correlations are Pearson's. There are none if the loss isn't a function of single latents.
    """

    version = 2
    metrics = {
        "NLL": Metric(
            "tokenizer",
            None,
            "nats",
            "True NLL of the latents; below NLL_real they seek modes rather than cover the reference.",
        ),
        "NLL_real": Metric("tokenizer", None, "nats", "True NLL of fresh reference samples."),
        "NLL_correlation_training": Metric(
            "tokenizer", True, "", "Correlation of the loss with the NLL, over the probes of training."
        ),
        "NLL_correlation_plane": Metric(
            "tokenizer", True, "", "Correlation of the loss with the NLL, over the plane [-3, 3]^2."
        ),
        "NLL_correlation_support": Metric(
            "tokenizer", True, "", "Correlation of the loss with the NLL, over fresh reference samples."
        ),
    }

    def __init__(
        self,
        points: Annotated[int, Field(ge=1)] = 1024,
        grid: Annotated[int, Field(ge=2)] = 41,
        support: Annotated[int, Field(ge=3)] = 512,
        draws: Annotated[int, Field(ge=1)] = 64,
    ) -> None:
        """
        Args:
            points: number of latents, by default as many as the table of the tokenizer `points` has rows.
            grid: points along each axis of the plane.
            support: number of reference samples at which the loss is evaluated.
            draws: repetitions of each point, each with another time and noise of the loss.
        """
        self.points, self.grid, self.support, self.draws = points, grid, support, draws
        self._last: tuple[Subject, Measured] | None = None

    def run(self, subject: Subject) -> dict[str, float]:
        measured = self._measured(subject)
        scores: dict[str, float | None] = {
            "NLL": measured.nll.mean().item(),
            "NLL_real": measured.nll_data.mean().item(),
        }
        loss_steps, loss_plane, loss_data = measured.loss_steps, measured.loss_plane, measured.loss_data
        if loss_steps is not None and loss_plane is not None and loss_data is not None:
            scores["NLL_correlation_training"] = pearson(loss_steps, measured.nll_steps)
            scores["NLL_correlation_plane"] = pearson(loss_plane, measured.nll_plane)
            scores["NLL_correlation_support"] = pearson(loss_data, measured.nll_data[: len(loss_data)])
        return {name: score for name, score in scores.items() if score is not None}

    def memory_bytes(self, sizes: SubjectSizes) -> int:
        density = getattr(sizes.dataset, "log_prob", None)
        if density is None:
            return 0
        n = max(min(self.points, sizes.latents("train")[0]), sizes.reference("val")[0], self.grid**2)
        memory = forward_memory(density, torch.empty(n, 2, dtype=torch.float64, device="meta"))
        regularizer = sizes.regularizer
        if regularizer is not None and sees_latents_alone(regularizer):
            # A heap keeps what the densities took while losses are computed.
            noise, points = Noise(0, ("memory",)), torch.empty(CHUNK * self.draws, 1, 2, device="meta")
            memory += forward_memory(lambda part, z: value(part, z, noise, 0), regularizer, points)
        return memory

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        measured, bandwidth = self._measured(subject), getattr(subject.dataset, "bandwidth", 0)
        density = f"smoothed by a Gaussian kernel of {bandwidth}" if bandwidth else "true"
        common = {"density": density, "clipped": False, "units": "standardised reference"}
        if name in ("NLL", "NLL_real"):
            return {"n": len(measured.nll if name == "NLL" else measured.nll_data), **common}
        common |= {"loss": "of the trained regularizer", "noise": "the same for every point"}
        if name.endswith("training"):
            latents = subject.trajectory()[1].shape[1]
            return {"n": len(measured.steps), "latents": latents, "draws": repeats(latents), **common}
        if name.endswith("plane"):
            return {"n": self.grid**2, "reach": REACH, "draws": self.draws, **common}
        return {"n": min(self.support, len(measured.data)), "draws": self.draws, **common}

    def figures(self, subject: Subject) -> dict[str, Figure]:
        return {"likelihood": drawing(self._measured(subject), type(subject.dataset).__name__)}

    def _measured(self, subject: Subject) -> Measured:
        if self._last is None or self._last[0] is not subject:
            self._last = subject, self._measure(subject)
        return self._last[1]

    def _measure(self, subject: Subject) -> Measured:
        density = getattr(subject.dataset, "log_prob", None)
        z = subject.latents("train")
        z = z[fixed_order(len(z))[: self.points]]
        if density is None or z.shape[1:] != (1, 2):
            raise ValueError(
                "likelihood needs a dataset with a density (ring, grid, moons, rings, spiral, swiss_roll, "
                f"s_curve) and latents of one token and 2 channels, not {z.shape[1]} and {z.shape[2]}"
            )

        def nll(points: Tensor) -> Tensor:
            return -density(points.reshape(-1, 2).cpu().double())

        steps, probes = subject.trajectory()
        data = subject.reference("val").samples[:, 0]
        data = data[fixed_order(len(data))]
        axis = torch.linspace(-REACH, REACH, self.grid)
        plane = torch.cartesian_prod(axis, axis)
        nll_steps = nll(probes).reshape(len(steps), -1).mean(1) if len(steps) else torch.zeros(0).double()
        measured = Measured(z[:, 0].cpu(), data.cpu(), steps, nll(z), nll(data), nll_steps, nll(plane))

        regularizer, noise = subject.regularizer, subject.noise.fork("likelihood")
        device = next((p.device for p in regularizer.parameters()), z.device)
        last = (
            int(steps[-1]) if len(steps) else 0
        )  # loss weights that grow with the step have their last value
        # Tested on the reference, as the trained latents may lie where the loss is flat.
        if not is_potential(regularizer, data[:64, None].to(device), noise, last):
            return measured

        def losses(points: Tensor) -> Tensor:
            return landscape(regularizer, points.to(device), self.draws, noise.fork("point"), last).cpu()

        return replace(
            measured,
            loss_steps=along(regularizer, probes.to(device), noise, last).cpu(),
            loss_plane=losses(plane),
            loss_data=losses(data[: self.support]),
        )


def drawing(measured: Measured, title: str) -> Figure:
    """Up to three panels: the NLL with the latents, the loss with the reference, and both along training."""
    from matplotlib.figure import Figure

    planes = [(f"{title}: NLL (nats)", measured.nll_plane, measured.latents, RED, "latents at the end")]
    if measured.loss_plane is not None:
        reference = measured.data[:1024]
        planes.append(("the regularizer's loss", measured.loss_plane, reference, BLUE, "reference"))
    has_curves = len(measured.steps) > 1
    panels = len(planes) + has_curves
    figure = Figure(figsize=(4.2 * panels, 4.0), dpi=100, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis, plane in zip(axes, planes, strict=False):
        _draw_plane(axis, *plane)
    if has_curves:
        labels = ("NLL (nats); dotted: of the reference", "loss")
        level = measured.nll_data.mean().item()
        draw_along(axes[-1], measured.steps, measured.nll_steps, level, measured.loss_steps, labels)
    return figure


def _draw_plane(axis: Any, title: str, plane: Tensor, points: Tensor, colour: str, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    side = round(len(plane) ** 0.5)
    values = plane.double().reshape(side, side).T.numpy()  # rows are y
    # Only the lower 60 % of values have colours, as values grow without bound far from the data.
    levels = np.linspace(values.min(), np.quantile(values, 0.6), 25)
    ticks = np.linspace(-REACH, REACH, side)
    contours = axis.contourf(ticks, ticks, values, levels, cmap="viridis_r", extend="max")
    axis.figure.colorbar(contours, ax=axis, shrink=0.8, pad=0.02, ticks=MaxNLocator(5), format="%g")
    axis.scatter(*points.T.numpy(), s=4, c=colour, alpha=0.6, linewidths=0, label=label)
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", title=title)
    axis.legend(loc="upper right", fontsize=8, markerscale=3, framealpha=0.9)
