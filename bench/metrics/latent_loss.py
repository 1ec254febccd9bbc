"""A regularizer's loss as a function of latents alone, and beside another measure along training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..api import Noise, Regularizer, Step
from ..registry import parameters_of

BLUE, RED = "#2f6db5", "#d1495b"  # of losses, of the other measure
BATCH = 2048  # the loss along training is a mean over about as many latents, with equal noise at each probe


def value(regularizer: Regularizer, z: Tensor, noise: Noise, index: int) -> Tensor:
    """The regularizer's weighted loss on latents (B, T, C), a scalar, without images or labels."""
    images = z.new_zeros(len(z), 1, 1, 2)
    terms = regularizer.loss(z, z, Step(index, images, None, noise, lambda z: z[:, None]))
    return sum(terms.values(), z.new_zeros(()))


def sees_latents_alone(regularizer: Regularizer) -> bool:
    """Whether the loss depends on single latents, not on a whole minibatch, a critic or images' features."""
    named = parameters_of(type(regularizer.underlying))  # type: ignore[arg-type]  # hashable, as classes are
    draws_reference = "reference_spec" in named and not regularizer.priors()  # anew in every step
    depends_on_data = draws_reference or "teacher_spec" in named
    sees_more = depends_on_data or regularizer.encoder_outputs > regularizer.spec.channels
    return not (regularizer.couples or regularizer.critics() or sees_more)


def is_potential(regularizer: Regularizer, z: Tensor, noise: Noise, index: int = 0) -> bool:
    """Whether the loss is the mean of a fixed function of single latents, with that function's gradient.

    Losses that depend on the whole minibatch, on a critic or on an image's features are no functions of a
    latent. A surrogate loss, as DMVAE's, has a meaningless value, which is detected: along its gradient the
    loss doesn't rise by the gradient's length.
    """
    if not sees_latents_alone(regularizer):
        return False
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        loss = value(regularizer, z, noise, index)
        gradient = torch.autograd.grad(loss, z)[0] if loss.requires_grad else torch.zeros_like(z)
    length = gradient.norm()
    if length == 0:
        return False
    # About 0.002 per coordinate: at ten times as much, the curvature of a flow's loss on `ring` is 10 %.
    step = 0.002 * z.numel() ** 0.5 * gradient / length
    with torch.no_grad():
        ahead, behind = (value(regularizer, z + sign * step, noise, index) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step.norm())
    return bool((slope - length).abs() < 0.05 * length)


def repeats(latents: int) -> int:
    """The number of noises for each of some latents, so that the loss is a mean over about `BATCH`."""
    return max(1, round(BATCH / max(1, latents)))


@torch.no_grad()
def along(regularizer: Regularizer, probes: Tensor, noise: Noise, index: int) -> Tensor:
    """The losses (P,) of probes (P, n, T, C), with the weights that losses have at update `index`."""
    if not len(probes):
        return torch.zeros(0)
    times = range(repeats(probes.shape[1]))
    losses = [
        torch.stack([value(regularizer, z, noise.fork(i), index) for i in times]).mean() for z in probes
    ]
    return torch.stack(losses)


def pearson(a: Tensor, b: Tensor) -> float | None:
    """Pearson's correlation of two series (n,); None if a series is constant or shorter than 3."""
    if len(a) < 3 or not a.double().std() > 0 or not b.double().std() > 0:
        return None
    return float(np.corrcoef(a.double().cpu(), b.double().cpu())[0, 1])


def draw_along(
    axis: Any, steps: Tensor, values: Tensor, level: float, losses: Tensor | None, labels: tuple[str, str]
) -> None:
    """Values (P,) along training, dashed, with a dotted level, and losses (P,) on an axis of their own."""
    axis.plot(steps, values, color=RED, linestyle="--")
    axis.axhline(level, color="grey", linewidth=0.8, linestyle=":")
    axis.set_ylabel(labels[0], color=RED)
    axis.set(xlabel="step", title="along training")
    if losses is not None:
        loss_axis = axis.twinx()
        loss_axis.plot(steps, losses, color=BLUE)
        loss_axis.set_ylabel(labels[1], color=BLUE)
