"""Latent zones: the images of a minibatch share out N(0, I) (Latent Zoning Networks, Lin et al., 2025)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..bench.api import Generator, LatentSpec, Noise, Regularizer, Step, Unfit
from ..bench.api.transfer import sent
from ..bench.flow import euler
from ..bench.nn.blocks import single
from ..bench.nn.zones import Solver, zones
from ..bench.registry import register
from ..bench.runtime.processes import gathered, of_all, own

Form = Literal["probability", "log"]


def posterior(s: Tensor, t: float | Tensor, anchors: Tensor, weights: Tensor | None = None) -> Tensor:
    """log P(anchor | s_t), the softmax of log pi_j - |s - t a_j|^2 / (2 (1 - t)^2); section 2.2.2.

    Args:
        s: (n, q) states at time t.
        t: one number, or (n,), in [0, 1); 0 is the Gaussian, 1 the anchors.
        anchors: (m, q).
        weights: (m,) masses of the anchors, equal by default; an anchor of mass 0 is never assigned.

    Returns:
        (n, m) in float64, whose products keep their digits near t = 1.
    """
    s, anchors = s.double(), anchors.double()
    t = _column(t, s)
    # Matrix products avoid the released code's (n, m, q) tensor of differences.
    logits = (t * s @ anchors.mT - t.square() / 2 * anchors.square().sum(1)) / (1 - t).square()
    if weights is not None:
        logits = logits + weights.to(logits).log()
    return logits.log_softmax(1)


def _column(t: float | Tensor, like: Tensor) -> Tensor:
    """Times as a column (1, 1) or (n, 1) of the type and on the device of `like`."""
    if isinstance(t, Tensor):
        return sent(t, like.device).to(like.dtype).reshape(-1, 1)
    return like.new_full((1, 1), t)


def velocity(s: Tensor, t: float | Tensor, anchors: Tensor, weights: Tensor | None = None) -> Tensor:
    """V(s, t) = (E[anchor | s_t] - s) / (1 - t), (n, q); arguments as in `posterior`, section 2.2.1.

    Time is the paper's; in the released code it runs from the anchors, and the velocity is -V.
    """
    mean = posterior(s, t, anchors, weights).exp() @ anchors.double()
    return ((mean - s.double()) / (1 - _column(t, mean))).to(s.dtype)


def _euler_step(
    s: Tensor, anchors: Tensor, step: int, steps: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step of `transport` from t = step / steps: the new states (n, q), and log P (n, m) at its start."""
    log_assigned = posterior(s, step / steps, anchors, weights)
    # s + V / steps, with 1 - t = (steps - step) / steps
    return s + (log_assigned.exp() @ anchors - s) / (steps - step), log_assigned


def transport(
    latents: Tensor, anchors: Tensor, steps: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Carries latents (n, q) from t = 0 to 1 by Euler's method; anchors (m, q) and weights (m,).

    Returns:
        The end points (n, q), and log P (steps, n, m) at the start of each step; both in float64.
    """
    s, anchors, log_assigned = latents.double(), anchors.double(), []
    for step in range(steps):
        s, before = _euler_step(s, anchors, step, steps, weights)
        log_assigned.append(before)
    return s, torch.stack(log_assigned)


def alignment_loss(
    log_assigned: Tensor, labels: Tensor, form: Form = "probability", skip: float = 0.2
) -> Tensor:
    """Minus the mean over latents of the largest P (or log P) of the own label over the steps; eq. 2 and 5.

    Args:
        log_assigned: (steps, n, m) from `transport`.
        labels: (n,), each the index of an anchor.
        skip: the fraction of steps left out at the start, where all labels are equally probable.
    """
    return shortfall(log_assigned[:, torch.arange(len(labels)), labels], form, skip)


def shortfall(log_own: Tensor, form: Form, skip: float) -> Tensor:
    """`alignment_loss` from log P of each latent's own label, (steps, n)."""
    best = log_own[int(skip * len(log_own)) :].amax(0)
    return -(best if form == "log" else best.exp()).mean()


def own_assigned(latents: Tensor, anchors: Tensor, first: int, steps: int) -> Tensor:
    """`transport`'s log P (steps, n) of each latent's own anchor: latent i belongs to anchor first + i.

    Latents (n, q), anchors (m, q). The (n, m) weights are not stored: the backward pass recomputes each step,
    as in the released code.
    """
    s, anchors, log_own = latents.double(), anchors.double(), []
    rows = torch.arange(len(s), device=s.device)

    def move(s: Tensor, anchors: Tensor, step: int) -> tuple[Tensor, Tensor]:
        s, log_assigned = _euler_step(s, anchors, step, steps)
        return s, log_assigned[rows, first + rows]

    for step in range(steps):
        s, before = checkpoint(move, s, anchors, step, use_reentrant=False, preserve_rng_state=False)
        log_own.append(before)
    return torch.stack(log_own)


def frequencies(labels: Tensor, classes: int) -> Tensor:
    """The relative frequency of each class: (n,) -> (classes,); 0 for absent classes."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).sum(0) / len(labels)


def _labelled_rows(labels: Tensor) -> Tensor:
    """The rows that have a class; all rows on the meta device, whose tensors have no values."""
    return torch.arange(len(labels)) if labels.is_meta else (labels >= 0).nonzero()[:, 0]


def decode_labels(s: Tensor, anchors: Tensor) -> Tensor:
    """The anchor (n,) nearest to s (n, q) at t = 1, as in the code; the paper has the largest product."""
    return torch.cdist(s, anchors.to(s)).argmin(1)


class ZoneSampler(Generator):
    """Draws from N(0, I), which the latents of every minibatch fill, or for a label from its zone.

    There is nothing to train. Where zones are those of tokens, it draws tokens independently of each other,
    and with alpha other than 1 latents don't fill N(0, I): `LZN.generator_fault` says so to matrices.
    The zones of labels are what their anchors, of equal mass, make of N(0, I); they are disjoint, so guidance
    would have nothing to lean away from, and is ignored.
    """

    guided = False

    def __init__(self, spec: LatentSpec, classes: int, anchors: nn.Parameter | None, g: float) -> None:
        super().__init__(spec, classes)
        self.anchors, self.g = anchors, g

    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Does nothing: the sampler has nothing to estimate."""

    def sample(
        self, labels: Tensor, guidance: float, noise: Noise, *, steps: Annotated[int, Field(ge=1)] = 100
    ) -> Tensor:
        """Samples by Euler's method from the label's anchor to t = 0, as in the released code."""
        shape = len(labels), self.spec.tokens, self.spec.channels
        e = noise.normal(torch.empty(shape, device=labels.device), "noise").flatten(1)
        if self.anchors is None:
            return e.view(shape)
        anchors, times = self.anchors.double(), torch.linspace(1 - self.g, 0, steps + 1, dtype=torch.float64)
        s = (1 - self.g) * anchors[labels.clamp_min(0)] + self.g * e
        zone = euler(lambda s, t: velocity(s, t, anchors), s, times).to(e)
        return torch.where(labels[:, None] < 0, e, zone).view(shape)


@register("lzn")
class LZN(Regularizer):
    """Latents are draws from zones: disjoint regions that together make up N(0, I), one for each anchor.

    The encoder's outputs are the anchors, without a norm: the released encoders of images end in linear
    layers too. Only the reconstruction's gradient, through the flow, trains them. Anchors so far apart that
    their zones part only in the last step, where kappa |a_i - a_j| >> 1, give z = noise and no gradient: then
    more `steps` help.

    `anchors` says what has a zone. `token`: each of the minibatch's B T tokens; each token's channels are
    N(0, I), and the dependence between tokens is left to a generator. `image`, as published: each of the B
    images, all tokens as one vector of T C numbers. Such a latent holds log B nats about its image and
    nothing else, enough for the published decoders, which generate, but not for a decoder that reconstructs:
    on digits, after 400 steps of 64 images, `image` gives the mean image (12 dB) and `token` (Euler) 24 dB.
    `alpha` concentrates latents about the centres of their zones (0: the centres, as without noise); only
    with 1 do they fill N(0, I).
    `solver` and `g` are the released ones for images; `euler` goes with g = 1e-4.

    `align` weighs the alignment with the zones of labels, which have learned anchors of their own: a latent,
    always all tokens as one vector, is to be carried to its label's anchor. It gives `classify` and sampling
    by label. The paper's weight is 1. Classes have their frequencies in the minibatch as masses.

    The paper's encoder learns at 1/40 to 1/100 of the decoder's rate, `optimizer: {encoder: {lr: 2.5e-5}}`,
    over 50,000 steps and more. In 400 steps on digits 1e-3 and 1e-4 end alike.

    Paper: Lin et al., "Latent Zoning Network", 2025.
    """

    couples = "latent"
    gathers = True

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        anchors: Literal["image", "token"] = "token",
        steps: Annotated[int, Field(ge=1)] = 20,
        g: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
        alpha: Annotated[float, Field(ge=0)] = 1.0,
        solver: Solver = "dpm",
        align: Annotated[float, Field(ge=0)] = 0.0,
        align_form: Form = "probability",
        align_steps: Annotated[int, Field(ge=1)] = 100,
        align_skip: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ) -> None:
        """
        Args:
            anchors: whether each token of the minibatch has a zone, or each image.
            steps: steps of the flow from anchors to latents.
            g: the flow starts at time 1 - g, this far from the anchors.
            alpha: scale of the noise that places a latent in its zone; 0 is the zone's centre.
            solver: Euler's method, or DPM-Solver++ of order 3.
            align: factor of the alignment with the zones of labels; 0 is none.
            align_form: whether the alignment counts the probability of the own label, or its logarithm.
            align_steps: Euler steps from a latent to the labels' anchors.
            align_skip: share of these steps, from the first on, that the alignment leaves out.
        """
        super().__init__(spec)
        if align and not classes:
            raise Unfit(f"align = {align} needs labels, and the dataset has none")
        self.classes, self.per_token = classes, anchors == "token"
        self.steps, self.g, self.alpha, self.solver = steps, g, alpha, solver
        self.align, self.align_form = align, align_form
        self.align_steps, self.align_skip = align_steps, align_skip
        width = spec.tokens * spec.channels
        self.labels = nn.Parameter(torch.randn(classes, width)) if align else None

    def latent(self, h: Tensor, noise: Noise | None, labels: Tensor | None = None) -> Tensor:
        h = single(h)
        if noise is None:
            return self._zones(h, torch.zeros_like(h))
        # Every process computes the zones of the whole batch and keeps its own rows.
        h = gathered(h, noise)
        return own(self._zones(h, self.alpha * of_all(noise).normal(h, "zone")), noise)

    def _zones(self, h: Tensor, e: Tensor) -> Tensor:
        a, e = (x.flatten(0, 1) if self.per_token else x.flatten(1) for x in (h, e))
        return zones(a, e, self.g, self.steps, solver=self.solver).view_as(h)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        if self.labels is None or step.labels is None:
            return {}
        rows, batch_labels = _labelled_rows(step.labels), gathered(step.labels, step.noise)
        labels, batch_labels = step.labels[rows], batch_labels[_labelled_rows(batch_labels)]
        if not len(labels):
            return {"align": 0 * z.sum()}
        weights = frequencies(batch_labels, self.classes)
        log_assigned = transport(z[rows].flatten(1), self.labels, self.align_steps, weights)[1]
        term = alignment_loss(log_assigned, labels, self.align_form, self.align_skip)
        # Processes may have different numbers of labels; the mean over processes is then that of the batch.
        share = len(labels) * step.noise.world / len(batch_labels)
        return {"align": self.align * share * term.to(z.dtype)}

    @torch.no_grad()
    def classify(self, z: Tensor) -> Tensor | None:
        """The label in whose zone each latent lies, z (B, T, C) -> (B,), with equal masses of the classes.

        None with align = 0, where labels have no zones.
        """
        if self.labels is None:
            return None
        return decode_labels(transport(z.flatten(1), self.labels, self.align_steps)[0], self.labels)

    def generator(self) -> Generator:
        return ZoneSampler(self.spec, self.classes, self.labels, self.g)

    def generator_fault(self) -> str | None:
        if self.alpha != 1:
            return (
                f"with alpha = {self.alpha:g} they lie about the centres of zones, not all over N(0, I); "
                "alpha = 1 fits"
            )
        if self.per_token and self.spec.tokens > 1:
            return (
                f"each of their {self.spec.tokens} tokens has a zone of its own, and samples' tokens don't "
                "know of each other; `anchors: image` fits"
            )
        return None


@register("lzn_views")
class LZNViews(LZN):
    """Two augmentations of an image share a zone: the representation learning of case study 2.

    One augmentation of each image gives its latent, by a zone for each image; the other gives an anchor, and
    each latent is to be carried to its own image's anchor. The loss has the log form and is one-sided, as in
    the released code. Images are augmented as the matrix says (`augment: {}`).

    Paper: Lin et al., "Latent Zoning Network", 2025, case study 2.
    """

    two_views = True

    def __init__(
        self,
        spec: LatentSpec,
        weight: Annotated[float, Field(gt=0)] = 1.0,
        steps: Annotated[int, Field(ge=1)] = 20,
        g: Annotated[float, Field(gt=0, lt=1)] = 1e-4,
        alpha: Annotated[float, Field(ge=0)] = 0.45,
        solver: Solver = "euler",
        align_steps: Annotated[int, Field(ge=1)] = 20,
        align_skip: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ) -> None:
        """
        Args:
            weight: factor of the alignment of the two views.
            align_steps: Euler steps from a latent to the other view's anchors.
        """
        super().__init__(spec, 0, "image", steps, g, alpha, solver)
        self.weight, self.align_steps, self.align_skip = weight, align_steps, align_skip

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        if step.views is None:
            return {}
        anchors = gathered(step.views, step.noise).flatten(1)
        log_own = own_assigned(z.flatten(1), anchors, step.noise.rank * len(z), self.align_steps)
        return {"align": self.weight * shortfall(log_own, "log", self.align_skip).to(z.dtype)}
