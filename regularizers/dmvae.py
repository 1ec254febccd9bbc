"""Matching the distribution of latents to a reference by two score networks (DMVAE, 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..bench.api import Flow, Generator, LatentSpec, Reference, Regularizer, Step, Unfit, seed_for
from ..bench.flow import expand_time, guided, interpolate
from ..bench.nn.blocks import position_table
from ..bench.registry import Use, register, use

Velocity = Callable[[Tensor, Tensor], Tensor]  # x (B, T, C), t (B,) -> v (B, T, C)

Objective = Literal[
    "matching",
    "matching_unweighted",
    "real_score_input",
    "real_score_target",
    "real_score_both",
    "real_score_ascent",
    "fake_score_input",
    "fake_score_target",
    "fake_score_both",
    "fake_score_ascent",
    "fake_score_descent",
    "score_difference_real",
    "score_difference_fake",
    "score_difference_both",
    "loss_difference",
]

# The released code's setting of both networks: normalised queries and keys, uniform times, no cosine term.
SCORE: Mapping[str, Any] = {"use": "lightningdit", "qk_norm": True, "time": "uniform", "cosine": False}


def matching_direction(v_real: Tensor, v_fake: Tensor, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The gradient direction G = (1 - t) (v_fake - v_real) / a that z descends.

    All (B, T, C) but t (B,); the velocities are values at x_t = (1 - t) noise + t z. In terms of scores G is
    (1 - t)^2 / t (s_fake - s_real) / a. a is each sample's mean |z - predicted data of the real score|; the
    paper has no such weight, the released train_dmd.py has, without an epsilon.
    """
    remaining = expand_time(1 - t, z)
    error = z - (interpolate(z, noise, t) + remaining * v_real)
    weight = error.abs().flatten(1).mean(1)
    return torch.nan_to_num(remaining * (v_fake - v_real) / expand_time(weight, z))


def descent(z: Tensor, direction: Tensor) -> Tensor:
    """The scalar 0.5 mean(direction^2), whose gradient with respect to z is direction / z.numel()."""
    return 0.5 * (z - (z - direction).detach()).square().mean()


def matching_loss(
    real: Velocity, fake: Velocity, z: Tensor, noise: Tensor, t: Tensor, weighted: bool = True
) -> Tensor:
    """The loss that descends `matching_direction`; unweighted (a = 1) as in the paper's equation and toy."""
    x = interpolate(z, noise, t)
    with torch.no_grad():
        v_real, v_fake = real(x, t), fake(x, t)
        if weighted:
            direction = matching_direction(v_real, v_fake, z, noise, t)
        else:
            direction = torch.nan_to_num(expand_time(1 - t, z) * (v_fake - v_real))
    return descent(z, direction)


def flow_loss(v: Velocity, z: Tensor, noise: Tensor, t: Tensor, path: str) -> Tensor:
    """The flow loss 0.5 mean (v(x_t, t) - u)^2 with u = z - noise; the gradient reaches z by `path`.

    "input": through the network's input, 0.5 mean (v(x_t) - sg(u))^2; "target": 0.5 mean (sg(v(x_t)) - u)^2;
    "both": half of Flow Priors' alignment loss.
    """
    x, u = interpolate(z, noise, t), z - noise
    if path == "target":
        with torch.no_grad():
            predicted = v(x, t)
    else:
        predicted = v(x, t)
    return 0.5 * (predicted - (u.detach() if path == "input" else u)).square().mean()


def score_loss(v: Velocity, z: Tensor, noise: Tensor, t: Tensor, sign: float) -> Tensor:
    """The loss 0.5 mean (z - sg(z + sign s))^2, whose descent goes up (1) or down (-1) the score s.

    s = (t v - x_t) / (1 - t).
    """
    x = interpolate(z, noise, t)
    with torch.no_grad():
        score = (expand_time(t, z) * v(x, t) - x) / expand_time(1 - t, z)
    return descent(z, torch.nan_to_num(-sign * score))


def score_difference(
    real: Velocity, fake: Velocity, z: Tensor, noise: Tensor, t: Tensor, path: str
) -> Tensor:
    """Mean (v_real(x_t) - v_fake(x_t))^2; the gradient passes through network `path`: real, fake or both."""
    x = interpolate(z, noise, t)
    v_real = real(x.detach() if path == "fake" else x, t)
    v_fake = fake(x.detach() if path == "real" else x, t)
    return (v_real - v_fake).square().mean()


def loss_difference(real: Velocity, fake: Velocity, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The real network's flow loss minus the fake's, both with the "input" gradient, as in the toy's code."""
    return flow_loss(real, z, noise, t, "input") - flow_loss(fake, z, noise, t, "input")


def objective_loss(
    objective: Objective, real: Velocity, fake: Velocity, z: Tensor, noise: Tensor, t: Tensor
) -> Tensor:
    """The loss on latents that `objective` names (see `DMVAE`); the networks are called here alone."""
    signs = {"ascent": 1.0, "descent": -1.0}
    match objective.split("_"):
        case ["matching", *unweighted]:
            return matching_loss(real, fake, z, noise, t, weighted=not unweighted)
        case ["score", "difference", path]:
            return score_difference(real, fake, z, noise, t, path)
        case [network, "score", path]:
            v = real if network == "real" else fake
            if path in signs:
                return score_loss(v, z, noise, t, signs[path])
            return flow_loss(v, z, noise, t, path)
    return loss_difference(real, fake, z, noise, t)


def independent_tokens(reference: Reference, tokens: int) -> Reference:
    """Joins each sample with others of its split and label: (M, 1, F) -> (M, tokens, F)."""
    samples, size = reference.samples[:, 0], len(reference.samples)
    group = torch.zeros(size, dtype=torch.float64) if reference.labels is None else reference.labels.double()
    if reference.fit is not None:
        group[reference.fit :] += group.max() + 1
    generator = torch.Generator().manual_seed(seed_for("dmvae", "independent tokens"))
    by_group, index = group.argsort(stable=True), torch.arange(size).repeat(tokens, 1)
    for column in index[1:]:
        # Sorting by group, in random order within each, permutes the samples inside each group.
        column[by_group] = (group + torch.rand(size, generator=generator, dtype=torch.float64)).argsort()
    return replace(reference, samples=samples[index.T])


class QueryHead(nn.Module):
    """Two layers of a transformer decoder whose learnable queries attend to the latent's tokens."""

    positions: Tensor

    def __init__(self, spec: LatentSpec, space: LatentSpec, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(spec.channels, width)
        self.register_buffer("positions", position_table(spec, width), persistent=False)
        self.queries = nn.Parameter(torch.randn(space.tokens, width))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, space.channels))

    def forward(self, z: Tensor) -> Tensor:
        """(B, T, C) -> (B, N, F)."""
        memory, x = self.embed(z) + self.positions, self.queries.expand(len(z), -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        return self.output(x)


@register("dmvae")
class DMVAE(Regularizer):
    """Pulls latents along the difference of two scores: the reference's (frozen) and their own.

    `score` is the architecture of both networks; `velocity_mlp` is the cheap choice, a distribution per
    token. The real network, or teacher, is a prior: it is trained on the reference with its labels, then
    frozen. The fake network starts as the teacher's copy and is a critic: it learns the latents' distribution
    by the architecture's own loss, `critic_steps` times per tokenizer update. `guidance` applies to both
    networks, in the loss on latents alone. Times are uniform in the range `times`, which moves linearly to
    `last_times` in `anneal` updates of the tokenizer.

    Where the reference's dimensions aren't the latent's, either the reference is projected (`head: none`) or
    the latent is, by a head that only this loss trains: a two-layer `mlp` per token where tokens are aligned,
    a `transformer` otherwise. The released code has no head: its reference consists of latents of the
    tokenizer that training starts from, and both networks see latents shifted and scaled by the fixed scalar
    mean and deviation of that reference; `rescale` does the same. Without `rescale` the reference is
    standardised by a scalar, and latents are taken as they are.

    `objective` is what latents descend: the method, `matching` (train_dmd.py), or one of section 3.3's, as in
    the toy's code. With u = z - noise and velocities v, scores s at x_t = (1 - t) noise + t z:

        matching               0.5 |z - sg(z - G)|^2, G = (1 - t) (v_fake - v_real) / mean|z - prediction|
        matching_unweighted    the same without the division
        real_score_input       0.5 |v_real(x_t) - sg(u)|^2
        real_score_target      0.5 |sg(v_real(x_t)) - u|^2
        real_score_both        0.5 |v_real(x_t) - u|^2
        real_score_ascent      0.5 |z - sg(z + s_real)|^2
        fake_score_*           the same four with the fake, and `descent`, 0.5 |z - sg(z - s_fake)|^2
        score_difference_real  |v_real(x_t) - sg(v_fake(x_t))|^2; or `fake`, or `both` have the gradient
        loss_difference        0.5 |v_real(x_t) - sg(u)|^2 - 0.5 |v_fake(x_t) - sg(u)|^2

    All are means over elements. The released weight is 10, beside L1, LPIPS and an adversarial loss. On 8x8
    digits beside L1 alone (400 steps, `velocity_mlp`, 2 critic steps, one seed) weights 0, 1, 10 end at a
    mean log distance to the 5th neighbour of 0.73, -0.19, -0.08 (fresh samples: -0.08), in the other
    direction of 1.30, 0.36, 0.36, and at a PSNR of 48, 40, 26 dB.

    Paper: "Distribution Matching Variational AutoEncoder", 2025 (code: sen-ye/dmvae).
    """

    prior_options = frozenset({"score", "head", "rescale"})
    version = 2  # since tokens are chosen, not pooled, for scores of single tokens
    later = frozenset({"rescale", "last_times", "anneal"})
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        reference_spec: LatentSpec,
        reference_classes: int,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        objective: Objective = "matching",
        score: Annotated[Use, Flow] = SCORE,
        critic_steps: Annotated[int, Field(ge=1)] = 5,
        guidance: Annotated[float, Field(ge=0)] = 1.0,
        times: tuple[float, float] = (0.0, 1.0),
        head: Literal["none", "mlp", "transformer"] = "none",
        head_width: Annotated[int, Field(ge=4, multiple_of=4)] = 256,
        rescale: bool = False,
        last_times: tuple[float, float] | None = None,
        anneal: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        """
        Args:
            weight: factor of the loss on latents.
            objective: the loss that latents descend; the list above has the formulas.
            score: architecture of both score networks.
            critic_steps: updates of the fake network per update of the tokenizer.
            guidance: classifier-free guidance of both networks in the loss on latents; 1 is none.
            times: range of the times at which scores are compared; 0 is noise, 1 is data.
            head: the map of latents into the reference's space: none, an MLP per token, or a transformer.
            head_width: hidden width of the head.
            rescale: whether both networks see latents shifted and scaled by the reference's mean and
                deviation.
            last_times: range that `times` has moved to after `anneal` updates; null keeps `times`.
            anneal: updates of the tokenizer in which `times` moves to `last_times`.
        """
        super().__init__(spec)
        for name, (low, high) in {"times": times, "last_times": last_times or times}.items():
            if not 0 <= low < high <= 1:
                raise ValueError(f"{name} = {[low, high]} must be [low, high] with 0 <= low < high <= 1")
        if (last_times is None) != (anneal == 0):
            raise ValueError("`last_times` is where `times` get to in `anneal` updates: give both or neither")
        same_shape = (reference_spec.tokens, reference_spec.channels) == (spec.tokens, spec.channels)
        if rescale and not (same_shape and head == "none"):
            raise Unfit(
                "`rescale` takes a reference of latents like these, without a head: "
                f"{spec.tokens} x {spec.channels}, not {reference_spec.tokens} x {reference_spec.channels}"
            )
        if guidance != 1 and reference_classes == 0:
            raise Unfit(f"guidance = {guidance} needs a reference with labels; this one has none")
        if head == "mlp" and reference_spec.tokens == 1 and spec.tokens > 1:
            raise Unfit(
                f"head = 'mlp' maps token to token, but the reference has one and the latent {spec.tokens}; "
                "'none' or 'transformer' fit"
            )
        self.weight, self.objective, self.guidance, self.times = weight, objective, guidance, times
        self.critic_steps, self.labelled = critic_steps, reference_classes > 0  # type: ignore[misc]
        self.last_times, self.anneal, self.rescale = last_times or times, anneal, rescale
        if rescale:  # `reference()` sets the values
            self.register_buffer("shift", torch.zeros(()))
            self.register_buffer("scale", torch.ones(()))
        # The space in which both networks work.
        per_token = replace(spec, channels=reference_spec.channels)
        self.space = {"none": spec, "mlp": per_token, "transformer": reference_spec}[head]
        # Both networks are made before the head, so that the head doesn't change their random start.
        self.teacher = use(Flow, score, spec=self.space, classes=reference_classes)
        if guidance != 1 and not self.teacher.conditional:
            raise ValueError(f"guidance = {guidance} needs a score with classes, and this one has none")
        # Objectives of the real score alone don't use the fake: it isn't trained (the toy's code trains it).
        real_only = objective.startswith("real_score")
        self.fake = None if real_only else use(Flow, score, spec=self.space, classes=reference_classes)
        self.head: nn.Module = nn.Identity()
        if head == "mlp":
            first = nn.Linear(spec.channels, head_width)
            self.head = nn.Sequential(first, nn.SiLU(), nn.Linear(head_width, self.space.channels))
        elif head == "transformer":
            self.head = QueryHead(spec, self.space, head_width)

    def reference(self, reference: Reference) -> Reference:
        """The reference in the head's output space; single tokens are joined to as many as it has.

        A score of whole latents has a reference of more or fewer tokens pooled to the latent's; for one of
        single tokens they are chosen.
        """
        if self.rescale:
            fitted = reference.samples[: reference.fit].float()
            self.shift.copy_(fitted.mean())
            self.scale.copy_(fitted.std())
            return replace(reference, samples=self.aligned(reference.samples.float()))
        if isinstance(self.head, QueryHead):
            mapped = replace(reference, samples=reference.samples.float()).standardised()
        else:
            fit = reference.thinned if self.teacher.per_token else reference.pooled
            own = fit(self.spec)
            mapped = own.projected(self.spec) if isinstance(self.head, nn.Identity) else own.standardised()
        if mapped.samples.shape[1] == 1 < self.space.tokens:
            mapped = independent_tokens(mapped, self.space.tokens)
        return mapped

    def priors(self) -> dict[str, Generator]:
        return {"teacher": self.teacher}

    def aligned(self, z: Tensor) -> Tensor:
        return (self.head(z) - self.shift) / self.scale if self.rescale else self.head(z)

    def begin(self, z: Tensor) -> None:
        if self.fake is not None:
            self.fake.load_state_dict(self.teacher.state_dict())

    def critics(self) -> dict[str, nn.Module]:
        return {} if self.fake is None else {"fake": self.fake}

    def critic_loss(self, name: str, z: Tensor, step: Step) -> Tensor:
        assert self.fake is not None
        z = self.aligned(z).detach()
        terms = self.fake.loss(z, self._labels(step), step.noise)
        return sum(terms.values(), z.new_zeros(()))

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        z = self.aligned(z)
        progress = min(1.0, step.index / self.anneal) if self.anneal else 0.0
        low, high = (a + progress * (b - a) for a, b in zip(self.times, self.last_times, strict=True))
        t = low + (high - low) * step.noise.uniform(z[:, 0, 0], "t")
        noise = step.noise.normal(z, "noise")
        labels = self._labels(step)
        real = self._guided(self.teacher, labels)
        fake = real if self.fake is None else self._guided(self.fake, labels)
        return {"match": self.weight * objective_loss(self.objective, real, fake, z, noise, t)}

    def _labels(self, step: Step) -> Tensor | None:
        return step.labels if self.labelled else None

    def _guided(self, network: Flow, labels: Tensor | None) -> Velocity:
        def velocity(x: Tensor, t: Tensor) -> Tensor:
            if self.guidance == 1 or labels is None:
                return _plain(network, x, t, labels)
            return guided(lambda x, t, y: _plain(network, x, t, y), x, t, labels, self.guidance)

        return velocity


def _plain(network: Flow, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    v = network.velocity(x, t, labels)
    assert isinstance(v, Tensor)  # without `tap` there are no hidden tokens
    return v
