"""Alignment of latents with a reference by the loss of a frozen flow (Flow Priors, Li et al., 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from ..bench.api import Flow, Generator, LatentSpec, Reference, Regularizer, Step, Unfit
from ..bench.flow import interpolate
from ..bench.registry import Use, register, use


def alignment_loss(
    velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, noise: Tensor, t: Tensor
) -> Tensor:
    """Mean over elements of (v(x_t, t) - (z - noise))^2, x_t = (1 - t) noise + t z (eq. 5, with a mean).

    z and noise (B, T, C), t (B,) or (B, T) in [0, 1]. The gradient reaches z by the target and by the
    network's input. The loss is not zero where z follows the prior: for N(0, I) its mean is then pi/2, and
    an element at z has (pi/4) (z^2 + 1), least at the mode.
    """
    predicted = velocity(interpolate(z, noise, t), t)
    return (predicted - (z - noise)).square().mean()


def average_channels(reference: Reference, channels: int) -> Reference:
    """Pools features along their channels, F -> `channels`, and scales them to unit mean variance again."""
    samples = adaptive_avg_pool1d(reference.samples.flatten(0, 1), channels)
    return replace(reference, samples=samples.unflatten(0, reference.samples.shape[:2])).standardised()


def principal_channels(reference: Reference, channels: int) -> Reference:
    """Projects tokens on their first principal components, scaled by one scalar to unit mean variance.

    Centre and components are computed on the first `fit` samples.
    """
    tokens = reference.samples.double()
    fitted = tokens[: reference.fit].flatten(0, 1)
    mean = fitted.mean(0)
    covariance = (fitted - mean).T @ (fitted - mean) / len(fitted)
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :channels]  # largest variance first
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * largest.sign()  # the sign of an axis is arbitrary: make its largest entry positive
    return replace(reference, samples=((tokens - mean) @ axes).to(reference.samples)).standardised()


@register("flow_prior")
class FlowPrior(Regularizer):
    """Latents descend the loss of a velocity field that was trained on the reference, then frozen.

    The default prior sees one token at a time, each at `draws` independent times and noises; of a reference
    of more tokens than the latent's, as many are chosen. Any other flow on a reference of many tokens sees a
    whole latent at one time, and the reference pooled to as many tokens; on a reference of single tokens, it
    sees each token alone. There are no classes. The paper found the projection `random` best; the exact
    recipes of the other two are not published: here both are scaled by one scalar, and `average` pools
    neighbouring channels.

    Paper: Li et al., "Aligning Latent Spaces with Flow Priors", 2025 (arXiv 2506.05240).
    """

    version = 2  # since tokens are chosen, not pooled, for a prior of single tokens
    prior_options = frozenset({"prior", "projection"})

    def __init__(
        self,
        spec: LatentSpec,
        reference_spec: LatentSpec,
        weight: Annotated[float, Field(ge=0)] = 0.01,
        prior: Annotated[Use, Flow] = "velocity_mlp",
        projection: Literal["random", "average", "pca"] = "random",
        draws: Annotated[int, Field(ge=1)] = 4,
        detach_velocity: bool = False,
    ) -> None:
        """
        Args:
            weight: factor of the loss.
            prior: architecture of the flow that is trained on the reference and then frozen.
            projection: how the reference gets as many channels as the latent: by a random matrix, by
                averaging neighbouring channels, or by its principal components.
            draws: independent times and noises in each update.
            detach_velocity: whether the gradient reaches latents by the target alone, and not through the
                flow.
        """
        super().__init__(spec)
        if projection != "random" and reference_spec.channels < spec.channels:
            raise Unfit(
                f"projection {projection!r} cannot make {spec.channels} channels of the reference's "
                f"{reference_spec.channels}; 'random' can"
            )
        self.weight, self.projection, self.draws = weight, projection, draws
        self.detach_velocity = detach_velocity
        single = reference_spec.tokens == 1
        self.prior = use(Flow, prior, spec=LatentSpec(1, spec.channels) if single else spec, classes=0)
        self.per_token = single or self.prior.per_token

    def priors(self) -> dict[str, Generator]:
        return {"flow": self.prior}

    def reference(self, reference: Reference) -> Reference:
        own = reference.thinned(self.spec) if self.per_token else reference.pooled(self.spec)
        if self.projection == "random":
            return own.projected(self.spec)
        project = average_channels if self.projection == "average" else principal_channels
        return project(own.standardised(), self.spec.channels)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        z = z[:, None].expand(-1, self.draws, -1, -1)  # (B, draws, T, C): noise keeps a row's draws together
        noise = step.noise.normal(z, "noise")
        t = step.noise.uniform(z[..., 0] if self.per_token else z[..., 0, 0], "t")
        # (rows, 1, C) with a time for each token, or (rows, T, C) with one for each latent.
        rows = (-1, 1 if self.per_token else self.spec.tokens, self.spec.channels)
        value = alignment_loss(self._velocity, z.reshape(rows), noise.reshape(rows), t.flatten())
        return {"flow_prior": self.weight * value}

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        # The released code's `detach_pred_v`: the gradient then reaches z by the target alone.
        v = self.prior.velocity(x.detach() if self.detach_velocity else x, t, None)
        assert isinstance(v, Tensor)  # without `tap` there are no hidden tokens
        return v
