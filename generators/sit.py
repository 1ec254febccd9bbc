"""A diffusion transformer trained on velocities alone, sampled by an ODE or an SDE (SiT: Ma et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from timm.layers import GELUTanh, Mlp
from torch import Tensor, nn

from ..bench.api import LatentSpec, Noise
from ..bench.blocks import divide_width, drop_labels
from ..bench.dit import Attention, Block, DiT
from ..bench.flow import euler, interpolate
from ..bench.registry import register

LAST = 0.04  # length of the SDE's last step, which adds no noise


@register("sit")
class SiT(DiT):
    """DiT's blocks (LayerNorm, GELU, fixed positions, adaLN-Zero); flow matching at uniform times."""

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "B": {"width": 768, "depth": 12, "heads": 12},
        "L": {"width": 1024, "depth": 24, "heads": 16},
        "XL": {"width": 1152, "depth": 28, "heads": 16},
    }

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 64,
        depth: Annotated[int, Field(ge=1)] = 3,
        heads: Annotated[int, Field(ge=1)] = 4,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        divide_width(width, heads)
        norm = partial(nn.LayerNorm, eps=1e-6, elementwise_affine=False)

        def block() -> Block:
            mlp = Mlp(width, 4 * width, act_layer=GELUTanh)
            return Block(width, Attention(width, heads), mlp, norm)

        super().__init__(spec, classes, width, depth, block, norm)
        self.label_dropout = label_dropout

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        t = noise.uniform(z[:, 0, 0], "t")
        start = noise.normal(z, "noise")
        predicted, _ = self.run(interpolate(z, start, t), t, drop_labels(labels, self.label_dropout, noise))
        return {"velocity": (predicted - (z - start)).square().mean()}

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        steps: Annotated[int, Field(ge=1)] = 30,
        diffusion: Annotated[float, Field(ge=0)] = 0.0,
        guidance_start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        guidance_channels: Annotated[int, Field(ge=1)] | None = None,
    ) -> Tensor:
        """Euler's method on the ODE or, with `diffusion` > 0 (SiT, REPA: 1), Euler-Maruyama on the SDE.

        The SDE has the ODE's marginals: dx = (v + w s) dt + sqrt(2 w) dW, score s = (t v - x) / (1 - t) and
        w = diffusion (1 - t), from 0 to 0.96 in equal steps, then in one without noise. Each step evaluates
        the velocity once; the official 250 steps of the SDE are as many here. Guidance is LightningDiT's.
        """
        x = noise.normal(self.positions.new_empty(len(labels), self.spec.tokens, self.spec.channels), "noise")
        field = self.guided(labels, guidance, guidance_start, guidance_channels)
        if not diffusion:
            return euler(field, x, torch.linspace(0, 1, steps + 1, device="cpu"))

        def drift(x: Tensor, t: Tensor) -> Tensor:
            v = field(x, t)
            return v + diffusion * (t.to(x)[:, None, None] * v - x)

        times = torch.linspace(0, 1 - LAST, steps, device="cpu")
        for index, (now, following) in enumerate(zip(times[:-1], times[1:], strict=True)):
            x = euler(drift, x, torch.stack([now, following]))
            spread = (2 * diffusion * (1 - now) * (following - now)).sqrt()
            x = x + spread * noise.normal(x, f"step {index}")
        return euler(drift, x, torch.stack([times[-1], torch.ones_like(times[-1])]))
