"""A diffusion transformer on latents, trained by flow matching (LightningDiT: Yao et al., 2025)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from timm.layers import SwiGLUPacked
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention, silu

from ..bench.api import Flow, LatentSpec, Noise
from ..bench.blocks import (
    LabelEmbedding,
    TimeEmbedding,
    divide_width,
    drop_labels,
    modulate,
    position_table,
    rotary_table,
    rotate,
    with_unconditional,
    xavier,
    zero,
)
from ..bench.flow import euler, guide, interpolate, logit_normal, shift_time
from ..bench.registry import register


class Attention(nn.Module):
    """Self-attention with rotary positions and, optionally, normalised queries and keys."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.q_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (B, heads, T, D) each
        q, k = rotate(self.q_norm(q), rotary), rotate(self.k_norm(k), rotary)
        return self.output(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A DiT block: attention and SwiGLU, each shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, qk_norm)
        self.norm2 = nn.RMSNorm(width, eps=1e-6)
        # SwiGLUPacked counts both halves of its first layer as hidden.
        self.mlp = SwiGLUPacked(width, 2 * int(2 / 3 * 4 * width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, rotary: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm1(x), shift1, scale1), rotary))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


@register("lightningdit")
class LightningDiT(Flow):
    """RMSNorm, SwiGLU, rotary and fixed absolute positions, adaLN-Zero; flow matching with a cosine term."""

    positions: Tensor
    rotary: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=4)] = 64,
        depth: Annotated[int, Field(ge=1)] = 3,
        heads: Annotated[int, Field(ge=1)] = 4,
        qk_norm: bool = False,
        time: Literal["lognormal", "uniform"] = "lognormal",
        cosine: bool = True,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        super().__init__(spec, classes)
        head_width = divide_width(width, heads, multiple=4 if spec.grid else 2)
        self.time_law, self.cosine, self.label_dropout = time, cosine, label_dropout
        self.embed = nn.Linear(spec.channels, width)
        self.time = TimeEmbedding(width)
        self.label = LabelEmbedding(classes, width)
        blocks = [Block(width, heads, qk_norm) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, spec.channels)
        self.register_buffer("positions", position_table(spec, width), persistent=False)
        self.register_buffer("rotary", rotary_table(spec, head_width), persistent=False)
        self.apply(xavier)
        zero(self.modulation, self.output, *(block.modulation for block in blocks))

    def velocity(
        self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`tap` counts blocks from 1, as REPA's encoder depth does."""
        if tap is not None and not 1 <= tap <= len(self.blocks):
            raise ValueError(f"tap = {tap} is none of lightningdit's blocks 1 to {len(self.blocks)}")
        v, hidden = self._run(x, t, labels, tap or len(self.blocks))
        return v if tap is None else (v, hidden)

    def _run(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        condition = silu(self.time(t) + self.label(labels, len(x)))  # (B, width)
        x = self.embed(x) + self.positions
        hidden = x
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, condition, self.rotary)
            hidden = x if index == tap else hidden
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.output(modulate(self.norm(x), shift, scale)), hidden

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        t = noise.uniform(z[:, 0, 0], "t")
        t = logit_normal(t) if self.time_law == "lognormal" else t
        start = noise.normal(z, "noise")
        labels = drop_labels(labels, self.label_dropout, noise)
        predicted, _ = self._run(interpolate(z, start, t), t, labels, len(self.blocks))
        losses = {"velocity": (predicted - (z - start)).square().mean()}
        if self.cosine:
            losses["cosine"] = (1 - cosine_similarity(predicted, z - start, dim=-1)).mean()
        return losses

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        steps: Annotated[int, Field(ge=1)] = 30,
        shift: Annotated[float, Field(gt=0)] = 1.0,
        guidance_start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        guidance_channels: Annotated[int, Field(ge=1)] | None = None,
    ) -> Tensor:
        """Euler's method on a grid warped by `shift` (LightningDiT: 0.3), unguided for t < `guidance_start`.

        `guidance_channels` = 3 guides the first three channels and leaves the others conditional, as the
        official code does whatever the latent (a rule it has from DiT); None guides all. `steps` counts
        evaluations of the velocity; the official "250 steps" are 250 grid points, so 249 evaluations.
        """
        x = noise.normal(self.positions.new_empty(len(labels), self.spec.tokens, self.spec.channels), "noise")
        pairs = with_unconditional(labels)

        def field(x: Tensor, t: Tensor) -> Tensor:
            t_now, t = t[0], t.to(x)  # the grid stays on the CPU, so the comparison waits for nothing
            if guidance == 1 or self.classes == 0 or t_now < guidance_start:
                return self._run(x, t, labels, 0)[0]
            conditional, unconditional = self._run(x.repeat(2, 1, 1), t.repeat(2), pairs, 0)[0].chunk(2)
            n = guidance_channels or self.spec.channels
            guided = guide(conditional[..., :n], unconditional[..., :n], guidance)
            return torch.cat([guided, conditional[..., n:]], dim=-1)

        return euler(field, x, shift_time(torch.linspace(0, 1, steps + 1, device="cpu"), shift))
