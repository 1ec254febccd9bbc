"""Whether a loss on latents follows their true negative log-likelihood (Flow Priors, figures 3 and 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Evaluator, Metric, Noise, Regularizer, Step, Subject
from ..bench.registry import parameters_of, register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 3.0  # the plane is [-3, 3]^2, in standardised units, as in the paper
BATCH = 2048  # latents that the loss along training is a mean over, at least; the same noise at every probe
CHUNK = 32  # points at a time
BLUE, RED = "#2f6db5", "#d1495b"


def value(regularizer: Regularizer, z: Tensor, noise: Noise, index: int) -> Tensor:
    """The regularizer's loss on latents (B, T, C) alone, a scalar; weights are in it."""
    images = z.new_zeros(len(z), 1, 1, 2)
    terms = regularizer.loss(z, z, Step(index, images, None, noise, lambda z: z[:, None]))
    return sum(terms.values(), z.new_zeros(()))


def is_potential(regularizer: Regularizer, z: Tensor, noise: Noise, index: int = 0) -> bool:
    """Whether the loss is a mean over latents of a fixed function of each, and descends just that function.

    Losses that depend on the whole minibatch, on a critic or on an image's features are none of a latent. A
    surrogate, as DMVAE's, has a value that means nothing: along its gradient it doesn't rise by the
    gradient's length.
    """
    named = parameters_of(type(regularizer))  # type: ignore[arg-type]  # hashable, as classes are
    draws = "reference_spec" in named and not regularizer.priors()  # from the reference, at every step
    asks = draws or "teacher_spec" in named
    if regularizer.couples or regularizer.critics() or regularizer.expansion > 1 or asks:
        return False
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        loss = value(regularizer, z, noise, index)
        gradient = torch.autograd.grad(loss, z)[0] if loss.requires_grad else torch.zeros_like(z)
    length = gradient.norm()
    if length == 0:
        return False
    # Each coordinate by about 0.002: with ten times as much, a flow's loss on `ring` bends by 10 %.
    step = 0.002 * z.numel() ** 0.5 * gradient / length
    with torch.no_grad():
        ahead, behind = (value(regularizer, z + sign * step, noise, index) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step.norm())
    return bool((slope - length).abs() < 0.05 * length)


@torch.no_grad()
def landscape(regularizer: Regularizer, points: Tensor, draws: int, noise: Noise, index: int) -> Tensor:
    """The loss at each point (n, C), by itself: (n,), each a mean over `draws` repetitions.

    Every point has the same times and noises. What they err by is then nearly the same everywhere: the
    landscape is smooth, and a correlation over it suffers less than from independent draws.
    """

    def one(point: Tensor) -> Tensor:
        return value(regularizer, point.expand(draws, 1, -1), noise, index)

    try:  # the same numbers, some 20 times faster
        many = torch.func.vmap(one, randomness="same")
        return torch.cat([many(chunk) for chunk in points.split(CHUNK)])
    except RuntimeError:  # a loss that vmap can't batch, such as one that branches on a value
        return torch.stack([one(point) for point in points])


def pearson(a: Tensor, b: Tensor) -> float | None:
    """Of two series (n,); None if one of them is constant, or shorter than 3."""
    if len(a) < 3 or not a.double().std() > 0 or not b.double().std() > 0:
        return None
    return float(np.corrcoef(a.double().cpu(), b.double().cpu())[0, 1])


@dataclass(frozen=True)
class Measured:
    """NLLs and losses; those of the loss are None if it is no potential."""

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
    """For point sets: the latents' true NLL, and how the regularizer's loss correlates with it.

    NLLs are in nats, of standardised points, and never clipped: the density is a sum that float64 holds.
    Correlations are Pearson's. They are left out where the loss is no function of single latents.
    """

    metrics = {
        "NLL": Metric(
            "tokenizer",
            False,
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
            points: latents, of the first training images; as many as the table of `points` has rows.
            grid: points along each axis of the plane.
            support: reference samples at which the loss is taken.
            draws: repetitions of each point, for the loss's times and noises.
        """
        self.points, self.grid, self.support, self.draws = points, grid, support, draws
        self._last: tuple[Subject, Measured] | None = None

    def run(self, subject: Subject) -> dict[str, float]:
        found = self._measured(subject)
        scores: dict[str, float | None] = {
            "NLL": found.nll.mean().item(),
            "NLL_real": found.nll_data.mean().item(),
        }
        if found.loss_steps is not None and found.loss_plane is not None and found.loss_data is not None:
            near = found.nll_data[: len(found.loss_data)]
            scores["NLL_correlation_training"] = pearson(found.loss_steps, found.nll_steps)
            scores["NLL_correlation_plane"] = pearson(found.loss_plane, found.nll_plane)
            scores["NLL_correlation_support"] = pearson(found.loss_data, near)
        return {name: score for name, score in scores.items() if score is not None}

    def protocol(self, name: str, subject: Subject) -> dict[str, Any]:
        found, bandwidth = self._measured(subject), getattr(subject.dataset, "bandwidth", 0)
        density = f"smoothed by a Gaussian kernel of {bandwidth}" if bandwidth else "true"
        common = {"density": density, "clipped": False, "units": "standardised reference"}
        if name in ("NLL", "NLL_real"):
            return {"n": len(found.nll if name == "NLL" else found.nll_data), **common}
        common |= {"loss": "of the trained regularizer", "noise": "the same for every point"}
        if name.endswith("training"):
            latents = subject.trajectory()[1].shape[1]
            return {"n": len(found.steps), "latents": latents, "draws": _repeats(latents), **common}
        if name.endswith("plane"):
            return {"n": self.grid**2, "reach": REACH, "draws": self.draws, **common}
        return {"n": min(self.support, len(found.data)), "draws": self.draws, **common}

    def figures(self, subject: Subject) -> dict[str, Figure]:
        return {"likelihood": drawing(self._measured(subject), type(subject.dataset).__name__)}

    def _measured(self, subject: Subject) -> Measured:
        if self._last is None or self._last[0] is not subject:
            self._last = subject, self._measure(subject)
        return self._last[1]

    def _measure(self, subject: Subject) -> Measured:
        density = getattr(subject.dataset, "log_prob", None)
        z = subject.latents("train")[: self.points]
        if density is None or z.shape[1:] != (1, 2):
            raise ValueError(
                "likelihood needs a dataset with a density (ring, grid, moons, rings, spiral, swiss_roll, "
                f"s_curve) and latents of one token and 2 channels, not {z.shape[1]} and {z.shape[2]}"
            )

        def nll(points: Tensor) -> Tensor:
            return -density(points.reshape(-1, 2).cpu().double())

        steps, probes = subject.trajectory()
        data = subject.reference("val").samples[:, 0]
        axis = torch.linspace(-REACH, REACH, self.grid)
        plane = torch.cartesian_prod(axis, axis)
        path = nll(probes).reshape(len(steps), -1).mean(1) if len(steps) else torch.zeros(0).double()
        found = Measured(z[:, 0].cpu(), data.cpu(), steps, nll(z), nll(data), path, nll(plane))

        regularizer, noise = subject.regularizer, subject.noise.fork("likelihood")
        device = next((p.device for p in regularizer.parameters()), z.device)
        last = int(steps[-1]) if len(steps) else 0  # weights that grow with the step are those of the end
        # On the reference rather than the latents, which may have arrived where the loss is flat.
        if not is_potential(regularizer, data[:64, None].to(device), noise, last):
            return found

        def losses(points: Tensor) -> Tensor:
            return landscape(regularizer, points.to(device), self.draws, noise.fork("point"), last).cpu()

        with torch.no_grad():
            along = [
                torch.stack(
                    [
                        value(regularizer, batch.to(device), noise.fork(i), last)
                        for i in range(_repeats(len(batch)))
                    ]
                ).mean()
                for batch in probes
            ]
        return replace(
            found,
            loss_steps=torch.stack(along).cpu() if along else torch.zeros(0),
            loss_plane=losses(plane),
            loss_data=losses(data[: self.support]),
        )


def _repeats(latents: int) -> int:
    return max(1, round(BATCH / max(1, latents)))


def drawing(found: Measured, title: str) -> Figure:
    """The NLL with the latents on it, the loss with the data, and both along training."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = ["nll"] + ["loss"] * (found.loss_plane is not None) + ["curves"] * (len(found.steps) > 1)
    figure = Figure(figsize=(4.2 * len(panels), 4.0), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    side = round(len(found.nll_plane) ** 0.5)
    for axis, panel in zip(axes, panels, strict=True):
        if panel == "curves":
            _curves(axis, found)
            continue
        plane = found.nll_plane if panel == "nll" else found.loss_plane
        assert plane is not None
        values = plane.double().reshape(side, side).T.numpy()  # rows are y
        # Colours for the lower 60 %: far away the values grow without bound and say nothing.
        top = np.quantile(values, 0.6)
        ticks = np.linspace(-REACH, REACH, side)
        shade = axis.contourf(
            ticks, ticks, values, np.linspace(values.min(), top, 25), cmap="viridis_r", extend="max"
        )
        figure.colorbar(shade, ax=axis, shrink=0.8, pad=0.02, ticks=MaxNLocator(5), format="%g")
        dots, colour, what = (
            (found.latents, RED, "latents at the end")
            if panel == "nll"
            else (found.data[:1024], BLUE, "reference")
        )
        axis.scatter(*dots.T.numpy(), s=4, c=colour, alpha=0.6, linewidths=0, label=what)
        axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
        axis.set_title(f"{title}: NLL (nats)" if panel == "nll" else "the regularizer's loss")
        axis.legend(loc="upper right", fontsize=8, markerscale=3, framealpha=0.9)
    return figure


def _curves(axis: Any, found: Measured) -> None:
    axis.plot(found.steps, found.nll_steps, color=RED, linestyle="--")
    axis.axhline(found.nll_data.mean().item(), color="grey", linewidth=0.8, linestyle=":")
    axis.set_ylabel("NLL (nats); dotted: of the reference", color=RED)
    axis.set(xlabel="step", title="along training")
    if found.loss_steps is not None:
        other = axis.twinx()
        other.plot(found.steps, found.loss_steps, color=BLUE)
        other.set_ylabel("loss", color=BLUE)
