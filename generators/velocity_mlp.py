"""A velocity field for each token separately (Flow Priors; also the flow head of MAR)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..bench.api import Flow, LatentSpec, Noise
from ..bench.api.transfer import sent
from ..bench.flow import euler, guided, interpolate
from ..bench.nn.blocks import LabelEmbedding, TokenMLP, drop_labels
from ..bench.registry import register


@register("velocity_mlp")
class VelocityMLP(Flow):
    """The cheapest prior: all tokens are independent draws from one distribution, at every position.

    `draws` is the number of independent (time, noise) pairs per token and step (Flow Priors: 4).
    `conditional` adds classes, which the paper doesn't have.

    Paper: Li et al., "Aligning Latent Spaces with Flow Priors", 2025 (arXiv 2506.05240).
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "flow-priors": {"width": 1024, "depth": 6, "draws": 4},
        # For the paper's point sets; the default width in its code is 128.
        "flow-priors-toy": {"width": 512, "depth": 4, "draws": 4},
    }
    per_token: ClassVar[bool] = True  # a token's velocity ignores the other tokens, and t may be (B, T)

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=1)] = 128,
        depth: Annotated[int, Field(ge=1)] = 3,
        draws: Annotated[int, Field(ge=1)] = 4,
        conditional: bool = False,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        """
        Args:
            width: hidden width.
            depth: number of residual blocks.
            draws: independent times and noises per token and update.
            conditional: whether the network is told the class, which the paper's isn't.
            label_dropout: share of labels that training leaves out, which guidance needs.
        """
        super().__init__(spec, classes)
        self.draws, self.label_dropout, self.conditional = draws, label_dropout, conditional
        self.guided = conditional
        self.label = LabelEmbedding(classes, width) if conditional else None
        self.network = TokenMLP(spec.channels, spec.channels, width, depth, width if conditional else 0)

    def velocity(
        self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The same as `Flow.velocity`, except that t may also be (B, T), one time per token."""
        depth = len(self.network.blocks)
        if tap is not None and not 1 <= tap <= depth:
            raise ValueError(f"tap = {tap} is none of velocity_mlp's blocks 1 to {depth}")
        v, hidden = self._run(x, t, labels, tap or depth)
        return v if tap is None else (v, hidden)

    def _run(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        condition = None if self.label is None else self.label(labels, len(x))[:, None]
        if t.dim() == 1:
            t = t[:, None]
        return self.network.tapped(x, t, condition, tap)

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Mean over elements of |v(x_t, t) - (z - noise)|^2 at uniformly distributed times t."""
        # (B, draws, T, C): `Noise` slices the first dimension to a process's rows, draws stay with their row.
        repeated = z[:, None].expand(-1, self.draws, -1, -1)
        t = noise.uniform(repeated[..., 0], "t").flatten(0, 1)
        start, z = noise.normal(repeated, "noise").flatten(0, 1), repeated.flatten(0, 1)
        if self.label is not None:
            labels = drop_labels(labels, self.label_dropout, noise)
            labels = None if labels is None else labels.repeat_interleave(self.draws)
        predicted, _ = self._run(interpolate(z, start, t), t, labels, 0)
        return {"velocity": (predicted - (z - start)).square().mean()}

    def sample(
        self, labels: Tensor, guidance: float, noise: Noise, *, steps: Annotated[int, Field(ge=1)] = 30
    ) -> Tensor:
        """Integrates the ODE by Euler's method (the paper's MAR head: 99 steps).

        Args:
            steps: evaluations of the velocity (the paper's MAR head: 99).
        """
        like = next(self.parameters())
        x = noise.normal(like.new_empty(len(labels), self.spec.tokens, self.spec.channels), "noise")

        def field(x: Tensor, t: Tensor) -> Tensor:
            t = sent(t, x.device).to(x.dtype)
            if guidance == 1 or self.label is None:
                return self._run(x, t, labels, 0)[0]
            return guided(lambda x, t, y: self._run(x, t, y, 0)[0], x, t, labels, guidance)

        return euler(field, x, torch.linspace(0, 1, steps + 1, device="cpu"))
