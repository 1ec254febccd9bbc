"""Training and sampling that the transformers of flow matching have in common, whatever their network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..api import Flow, LatentSpec, Noise, Unfit
from ..flow import (
    dimension_shift,
    euler,
    guide,
    interpolate,
    shift_time,
    velocity_to,
    with_unconditional,
    x_prediction_loss,
)
from ..runtime.parts_of_batches import in_parts
from .blocks import drop_labels, single, xavier
from .teacher_alignment import check_pairs, cosine_loss, onto_latents, projector

LAST = 0.04  # the length of the SDE's last step, which adds no noise
# The options, of constructor and sampler, that cache keys of older rows don't have.
LATER_OPTIONS = frozenset(
    {"prediction", "time_shift", "repa", "repa_depth", "repa_width", "repa_projector", "guidance_end"}
)

VelocityField = Callable[[Tensor, Tensor], Tensor]  # x (B, T, C), t (B,) -> velocity (B, T, C)


class FlowTransformer(Flow):
    """A flow by a transformer over tokens, which a subclass provides as `network`.

    The options are of other papers than the networks: JiT's prediction of the data (Li & He, 2025, arXiv
    2511.13720), RAE's shift of times (Zheng et al., 2025, arXiv 2510.11690), and alignment with a teacher:
    REPA's (Yu et al., 2025, arXiv 2410.06940), and with `repa_projector: conv` iREPA's (arXiv 2512.10794).
    A subclass calls `align` last in its constructor, so that its weights start the same without alignment.
    """

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
        prediction: Literal["velocity", "x"] = "velocity",
        time_shift: Literal["none", "dimension"] | Annotated[float, Field(gt=0)] = "none",
        repa: Annotated[float, Field(ge=0)] = 0.0,
        repa_depth: Annotated[int, Field(ge=1)] | None = None,
        repa_width: Annotated[int, Field(ge=1)] = 256,
        repa_projector: Literal["mlp", "conv"] = "mlp",
        teacher_spec: LatentSpec | None = None,
    ) -> None:
        """
        Args:
            label_dropout: share of labels that training leaves out, which guidance needs.
            prediction: what the network's output is: the velocity, or the data (`x`), from which the velocity
                follows. The loss compares velocities either way.
            time_shift: factor s of training's times and the sampler's grid, s (1 - t) : t in place of (1 - t)
                : t, so that s > 1 puts more of them near noise. `dimension` is RAE's sqrt(T C / 4096), at
                least 1.
            repa: factor of the alignment of hidden tokens with the teacher's: minus the mean cosine
                similarity (REPA: 0.5; iREPA: 1). 0 is none, and computes no teacher's features.
            repa_depth: block after which hidden tokens are aligned, counted from 1; null is a third of the
                blocks, at most 8, which is REPA's for its sizes B, L and XL.
            repa_width: hidden width of the MLP that projects hidden tokens (REPA: 2048).
            repa_projector: network that projects: an MLP on each token, or iREPA's 3 x 3 convolution on the
                latent's grid, beside which the teacher's features are standardised over an image's tokens.
        """
        super().__init__(spec, classes)
        if repa and teacher_spec is None:
            raise ValueError("repa is for generators of a matrix: nothing else is given a teacher's features")
        self.label_dropout, self.predicts_data = label_dropout, prediction == "x"
        numbers = spec.tokens * spec.channels
        factors: dict[object, float] = {"none": 1.0, "dimension": dimension_shift(numbers)}
        self.time_factor = 1 / factors[time_shift] if isinstance(time_shift, str) else 1 / time_shift
        self.repa, self.repa_depth = repa, repa_depth
        self.repa_width, self.repa_projector = repa_width, repa_projector
        self.teacher_spec = teacher_spec if repa else None
        self.depth = 0  # `align` sets it

    def network(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """The output for x (B, T, C) at t (B,), and the hidden tokens (B, T, D) after block `tap`.

        Blocks are counted from 1, and 0 is before the first.
        """
        raise NotImplementedError

    def align(self, width: int, depth: int) -> None:
        """Tells the width of hidden tokens and the number of blocks, and builds REPA's projector.

        Raises:
            ValueError: there are fewer blocks than `repa_depth`.
            Unfit: hidden tokens cannot be paired with the teacher's.
        """
        self.depth = depth
        self.repa_depth = self.repa_depth or min(8, max(1, depth // 3))
        if self.repa_depth > depth:
            raise ValueError(f"repa_depth = {self.repa_depth} is none of the blocks 1 to {depth}")
        self.projector: nn.Module | None = None
        teacher = self.teacher_spec
        if teacher is None:
            return
        check_pairs(self.spec, teacher)
        if self.repa_projector == "mlp":
            self.projector = projector(width, self.repa_width, teacher.channels).apply(xavier)
        elif self.spec.grid is None:
            raise Unfit("repa_projector: conv needs latent tokens on a grid; `mlp` doesn't")
        else:
            self.projector = nn.Conv2d(width, teacher.channels, 3, padding=1)

    def velocity(
        self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The velocity; with `tap` also the hidden tokens after this block, counted from 1 as in REPA."""
        if tap is not None and not 1 <= tap <= self.depth:
            name = type(self).__name__.lower()
            raise ValueError(f"tap = {tap} is none of {name}'s blocks 1 to {self.depth}")
        v, hidden = self.run(x, t, labels, tap or self.depth)
        return v if tap is None else (v, hidden)

    def run(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int = 0) -> tuple[Tensor, Tensor]:
        """The velocity (B, T, C) and the hidden tokens (B, T, D) after block `tap`; 0 is before the first."""
        output, hidden = self.network(x, t, labels, tap)
        return (velocity_to(output, x, t) if self.predicts_data else output), hidden

    def times(self, uniform: Tensor) -> Tensor:
        """Training's times (B,) from uniform draws, before `time_shift`; a subclass may have another law."""
        return uniform

    def loss(
        self, z: Tensor, labels: Tensor | None, noise: Noise, features: Tensor | None = None
    ) -> dict[str, Tensor]:
        t = shift_time(self.times(noise.uniform(z[:, 0, 0], "t")), self.time_factor)
        start = noise.normal(z, "noise")
        labels = drop_labels(labels, self.label_dropout, noise)
        x = interpolate(z, start, t)
        assert self.repa_depth is not None
        output, hidden = self.network(x, t, labels, self.repa_depth)
        losses = self.velocity_losses(output, z, start, t)
        if self.projector is not None:
            losses["repa"] = self.repa * self.alignment(hidden, features)
        return losses

    def velocity_losses(self, output: Tensor, z: Tensor, start: Tensor, t: Tensor) -> dict[str, Tensor]:
        """The squared error of the velocity of the network's output (B, T, C)."""
        if self.predicts_data:
            return {"velocity": x_prediction_loss(output, z, start, t)}
        return {"velocity": (output - (z - start)).square().mean()}

    def alignment(self, hidden: Tensor, features: Tensor | None) -> Tensor:
        """REPA's loss of hidden tokens (B, T, D) and the teacher's (B, N, F), in [-1, 1]."""
        assert self.projector is not None and self.teacher_spec is not None and features is not None
        features = onto_latents(features, self.teacher_spec, self.spec)
        if self.repa_projector == "mlp":
            return cosine_loss(single(self.projector(hidden)), features)
        maps = self.projector(hidden.mT.unflatten(2, self.spec.grid))  # type: ignore[arg-type]
        return cosine_loss(single(maps).flatten(2).mT, standardised_over_tokens(features))

    def grid_of_times(self, steps: int, shift: float = 1.0) -> Tensor:
        """Times (steps + 1,) from 0 to 1 on the CPU, by `shift` and the option `time_shift`."""
        return shift_time(torch.linspace(0, 1, steps + 1, device="cpu"), shift * self.time_factor)

    def solve(
        self, field: VelocityField, labels: Tensor, noise: Noise, times: Tensor, diffusion: float
    ) -> Tensor:
        """Latents z (B, T, C) by Euler's method on the ODE at these times, or with `diffusion` on an SDE."""
        parameter = next(self.parameters())
        like = parameter.new_empty(len(labels), self.spec.tokens, self.spec.channels)
        start = noise.normal(like, "noise")
        if diffusion:
            return self._solve_sde(field, start, noise, len(times) - 1, diffusion)
        return euler(field, start, times)

    def _solve_sde(
        self, field: VelocityField, x: Tensor, noise: Noise, steps: int, diffusion: float
    ) -> Tensor:
        """Latents z (B, T, C) by Euler-Maruyama on an SDE with the ODE's marginals.

        SiT, REPA and DMVAE have diffusion 1.

        dx = (v + w s) dt + sqrt(2 w) dW, score s = (t v - x) / (1 - t) and w = diffusion (1 - t). Time t goes
        from 0 to 0.96 in equal steps; the last step, to 1, adds no noise. Each step evaluates the velocity
        once, so that the official 250 steps are 250 here.
        """

        def drift(x: Tensor, t: Tensor) -> Tensor:
            v = field(x, t)
            return v + diffusion * (t.to(x)[:, None, None] * v - x)

        times = torch.linspace(0, 1 - LAST, steps, device="cpu")
        for index, (now, following) in enumerate(zip(times[:-1], times[1:], strict=True)):
            x = euler(drift, x, torch.stack([now, following]))
            spread = (2 * diffusion * (1 - now) * (following - now)).sqrt()
            x = x + spread * noise.normal(x, f"step {index}")
        return euler(drift, x, torch.stack([times[-1], torch.ones_like(times[-1])]))

    def guided_field(
        self,
        labels: Tensor,
        guidance: float,
        weak: Flow | None = None,
        *,
        start: float = 0.0,
        end: float = 1.0,
        channels: int | None = None,
    ) -> VelocityField:
        """The velocity field of labels (B,), guided at times t with start <= t <= end.

        Without `weak`, guidance is classifier-free, with the unconditional velocity; with it, autoguidance
        (Karras et al., 2024, arXiv 2406.02507), with a worse model's velocity for the same labels. The first
        `channels` are guided (None: all).
        """
        pairs = with_unconditional(labels)
        n, tokens = channels or self.spec.channels, self.spec.tokens

        def velocity(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            return self.run(x, t, labels)[0]

        def field(x: Tensor, t: Tensor) -> Tensor:
            t_now, t = t[0], t.to(x)  # t[0] stays on the CPU, so that the comparison waits for no GPU
            unguided = guidance == 1 or (weak is None and self.classes == 0)
            if unguided or t_now < start or t_now > end:
                return in_parts(velocity, tokens, x, t, labels)
            if weak is None:
                v, other = in_parts(velocity, tokens, x.repeat(2, 1, 1), t.repeat(2), pairs).chunk(2)
            else:
                v = in_parts(velocity, tokens, x, t, labels)
                other = in_parts(weak.velocity, tokens, x, t, labels)  # type: ignore[arg-type]
            return torch.cat([guide(v[..., :n], other[..., :n], guidance), v[..., n:]], dim=-1)

        return field


def standardised_over_tokens(features: Tensor) -> Tensor:
    """Features (B, N, F) less their mean over tokens, over their deviation over tokens plus 1e-6 (iREPA)."""
    return (features - features.mean(1, keepdim=True)) / (features.std(1, keepdim=True) + 1e-6)
