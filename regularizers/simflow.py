"""A posterior of fixed variance, and the flow that is trained on it jointly (SimFlow: Zhao et al., 2025)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..bench.api import Diverged, Flow, Generator, LatentSpec, Likelihood, Noise, Regularizer, Step, Unfit
from ..bench.nn.blocks import drop_labels
from ..bench.nn.teacher_alignment import check_pairs, cosine_loss, paired, projector
from ..bench.registry import Use, register, use
from ..bench.runtime.processes import gathered

Perturbation = Literal["additive", "linear", "slerp", "none"]

# The posterior's noise is the flow's only training noise, and its samples aren't denoised.
PRIOR: dict[str, object] = {"use": "tarflow", "noise_std": 0.0}

# Nats per element under which latents count as collapsed: 128 such elements tell 13 images apart, 16,384 hold
# 59 bytes. On digits the loss ends 0.06 above its floor at weight 1 and 0.25 at 0.1; without a reconstruction
# loss, below 0.01.
MARGIN = 0.02
MEMORY = 0.98  # decay of the average surplus: 200 updates at the floor bring it from one nat to MARGIN
ROUNDING = 1 / 127.5  # one level of an 8-bit image in [-1, 1]
NORMAL = 0.5 * math.log(2 * math.pi)  # the normal density's constant, which the paper leaves out of the loss


def perturb(mean: Tensor, noise: Tensor, t: Tensor, kind: Perturbation) -> Tensor:
    """The perturbations of SimFlow's Table 6: mean and noise (B, T, C), t (B, 1, 1) in [0, 1].

    Only "linear" and "slerp" use t.
    """
    if kind == "linear":
        return t * mean + (1 - t) * noise
    if kind == "slerp":
        return t * mean + (1 - t.square()).sqrt() * noise
    return mean + noise if kind == "additive" else mean


def entropy(sigma: float, elements: int) -> float:
    """The posterior's entropy in nats (equation 34), the ELBO's constant term."""
    return elements * (NORMAL + math.log(sigma) + 0.5)


def capacity(mean: Tensor, sigma: float) -> Tensor:
    """An upper bound, in nats per element, on the information of mean + sigma * noise about the image.

    mean (B, T, C) -> (). It is the capacity of Gaussian channels whose signals have the means' variances over
    the batch.
    """
    return 0.5 * torch.log1p(mean.var(0, correction=0) / sigma**2).mean()


@register("fixed_variance")
class FixedVariance(Regularizer):
    """Latents z = mu + sigma * noise; `layer_norm` gives each token of mu zero mean and unit variance.

    sigma is a standard deviation: the variance "0.5" of the abstract is 0.5 squared in section 5.3. SimFlow's
    flow keeps mu from outgrowing the noise; without the flow only the layer norm does, so it is on by
    default. The norm has no affine parameters, with which mu could grow again (the paper doesn't say).

    Paper: the control of `simflow`; Zhao et al., "SimFlow", 2025.
    """

    def __init__(
        self, spec: LatentSpec, sigma: Annotated[float, Field(ge=0)] = 0.5, layer_norm: bool = True
    ) -> None:
        """
        Args:
            sigma: standard deviation of the noise.
            layer_norm: whether each token of the mean gets zero mean and unit variance over its channels.
        """
        super().__init__(spec)
        if layer_norm and spec.channels < 3:
            raise Unfit(
                f"layer_norm over {spec.channels} channels leaves nothing but a sign; 3 or more are needed"
            )
        self.sigma, self.layer_norm = sigma, layer_norm

    def mean(self, h: Tensor) -> Tensor:
        """h (B, T, C) -> mu (B, T, C)."""
        return F.layer_norm(h, h.shape[-1:]) if self.layer_norm else h

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        mean = self.mean(h)
        return mean if noise is None else mean + self.sigma * noise.normal(mean, "posterior")


@register("simflow")
class SimFlow(FixedVariance):
    """`fixed_variance` with a jointly trained prior, whose loss also shapes the latents.

    `prior` is a likelihood, whose negative logarithm is the loss, or a flow with its own loss (the paper's
    diffusion variant). It is the sampler of `use: joint`. No gradient is stopped.

    Paper: Zhao et al., "SimFlow: Simplified and End-to-End Training of Latent Normalizing Flows", 2025.
    """

    surplus: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        sigma: Annotated[float, Field(gt=0)] = 0.5,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        prior: Annotated[Use, (Likelihood, Flow)] = PRIOR,
        perturbation: Perturbation = "additive",
        layer_norm: bool = True,
    ) -> None:
        """`perturbation` is one of Table 6, with e = sigma * noise.

        The paper does not say which t its "linear" and "slerp" have: here it is uniform in [0, 1], one per
        image, so that latents lie between pure noise (t = 0) and the bare means (t = 1).

        Args:
            weight: factor of the prior's loss, which is a mean over elements.
            prior: the generator that is trained jointly; one that is fitted once, as `gaussian`, is refused.
            perturbation: how the noise enters: added to the mean, by linear or spherical interpolation with
                it, or not at all.
        """
        super().__init__(spec, sigma, layer_norm)
        self.weight, self.perturbation = weight, perturbation
        options = {"use": prior} if isinstance(prior, str) else dict(prior)
        if options["use"] == PRIOR["use"]:
            options = {**PRIOR, **options}
        if options.get("noise_std"):
            raise ValueError(
                f"noise_std = {options['noise_std']} of the prior is noise on top of sigma; it must be 0 here"
            )
        self.prior = use(Generator, options, spec=spec, classes=classes)
        if type(self.prior).fit is not Generator.fit:
            raise ValueError(f"the prior {options['use']} is fitted once: it cannot be trained along")
        # The average distance of the loss to its floor starts at one nat per element, so that only runs which
        # stay at the floor reach MARGIN.
        self.register_buffer("surplus", torch.ones(()))

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        mean = self.mean(h)
        if noise is None:
            return mean
        t = noise.uniform(mean[:, :1, :1], "t")
        return perturb(mean, self.sigma * noise.normal(mean, "posterior"), t, self.perturbation)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        if not isinstance(self.prior, Likelihood):
            losses = self.prior.loss(z, step.labels, step.noise)
            return {"prior": self.weight * sum(losses.values(), z.new_zeros(()))}
        return {"prior": self.weight * self._surprise(self.prior.log_prob(z, self._labels(step)), h, step)}

    def _labels(self, step: Step) -> Tensor | None:
        """The labels, dropped with the prior's own probability."""
        return drop_labels(step.labels, getattr(self.prior, "label_dropout", 0.0), step.noise)

    def _surprise(self, log_prob: Tensor, h: Tensor, step: Step) -> Tensor:
        """Equation 36, mean(noise^2) / 2 + sum of log alpha, per element, for the latents made of h."""
        value = -log_prob.mean() / (self.spec.tokens * self.spec.channels) - NORMAL
        if self.training:
            # The whole batch is gathered so that all processes come to the same verdict.
            values = gathered(value.detach()[None], step.noise)
            self._watch(values.mean(), gathered(h.detach(), step.noise))
        return value

    def generator(self) -> Generator:
        return self.prior

    def floor(self) -> float | None:
        """The lower bound of the likelihood's loss in nats per element: the posterior's own entropy.

        It is 0.5 + log(sigma), reached when all means coincide and the prior is perfect. Bare means ("none")
        have no bound: the value is that of a prior which knows them to within the rounding of pixels. The
        bounds of "linear" and "slerp" depend on how well the prior guesses t: None, and no collapse is
        detected.
        """
        sigma = {"additive": self.sigma, "none": ROUNDING}.get(self.perturbation)
        return None if sigma is None else entropy(sigma, 1) - NORMAL

    @torch.no_grad()
    def _watch(self, value: Tensor, h: Tensor) -> None:
        """Raises Diverged when the loss has stayed at its floor and the means tell nothing about images.

        The loss alone isn't enough: a prior that memorised a few images comes as near (four digits: 0.03).
        By the second condition no latent that tells more than `MARGIN` is ever called collapsed.
        """
        floor = self.floor()
        if floor is None:
            return
        # A bad batch counts as one nat at most.
        self.surplus.lerp_((value.to(self.surplus) - floor).clamp(max=1), 1 - MEMORY)
        if not self.surplus < MARGIN:  # also true for NaN, which the training loop handles
            return
        reached = f"collapsed: the prior's loss has come to {self.surplus + floor:.3f} nats per element"
        if self.perturbation == "none":
            raise Diverged(
                f"{reached}, that of latents known to within {ROUNDING:.4f}; bare means have no floor"
            )
        information = capacity(self.mean(h), self.sigma)
        if information < MARGIN:
            raise Diverged(
                f"{reached}, its floor being 0.5 + log({self.sigma:g}) = {floor:.3f}, and latents tell at"
                f" most {information:.4f} nats per element about their images"
            )


@register("simflow_repa_e")
class SimFlowREPAE(SimFlow):
    """`simflow` with the prior's hidden tokens after layer `tap` aligned with a frozen teacher's tokens.

    No gradient is stopped, so the alignment reaches the encoder, as in REPA-E (section 4.2). The paper aligns
    "layer 1 at the block 3", layer 5 with its blocks of two layers, with DINOv2-B, at weight 1. Its projector
    has three layers, whose width it doesn't give.

    Paper: Zhao et al., "SimFlow", 2025, section 4.2.
    """

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        teacher_spec: LatentSpec,
        prior: Annotated[Use, Likelihood] = PRIOR,
        align: Annotated[float, Field(ge=0)] = 1.0,
        tap: Annotated[int, Field(ge=1)] = 2,
        width: Annotated[int, Field(ge=1)] = 256,
        **options: Any,
    ) -> None:
        """
        Args:
            align: factor of the alignment.
            tap: layer of the prior whose hidden tokens are aligned, counted from 1.
            width: hidden width of the projector.
        """
        super().__init__(spec, classes, prior=prior, **options)
        check_pairs(spec, teacher_spec)
        self.align, self.tap, self.teacher = align, tap, teacher_spec
        # A copy on the meta device costs nothing and gives the hidden width; it raises without such a layer.
        with torch.device("meta"):
            like = use(Likelihood, prior, spec=spec, classes=classes)
            hidden = like.tapped(torch.empty(1, spec.tokens, spec.channels), None, tap)[1]
        self.projector = projector(hidden.shape[-1], width, teacher_spec.channels)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        assert isinstance(self.prior, Likelihood)
        log_prob, hidden = self.prior.tapped(z, self._labels(step), self.tap)
        alignment = cosine_loss(self.projector(hidden), paired(step, self.teacher, self.spec))
        return {"prior": self.weight * self._surprise(log_prob, h, step), "align": self.align * alignment}
