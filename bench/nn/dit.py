"""The diffusion transformer that LightningDiT and SiT have in common (DiT: Peebles & Xie, 2023)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from ..api import Flow, LatentSpec, Noise
from ..flow import euler, guide, interpolate, with_unconditional
from .blocks import (
    LabelEmbedding,
    RMSNorm,
    TimeEmbedding,
    drop_labels,
    modulate,
    position_table,
    rotate,
    xavier,
    zero,
)

LAST = 0.04  # the length of the SDE's last step, which adds no noise


class Attention(nn.Module):
    """Self-attention, optionally with rotary positions and with normalised queries and keys."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.q_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (B, heads, T, D) each
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return self.output(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A block of attention and `mlp`, each shifted, scaled and gated by the condition (adaLN-Zero)."""

    def __init__(
        self, width: int, attention: Attention, mlp: nn.Module, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.norm1 = norm(width)
        self.attention = attention
        self.norm2 = norm(width)
        self.mlp = mlp
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, rotary: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm1(x), shift1, scale1), rotary))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class DiT(Flow):
    """A velocity network: a linear embedding with fixed positions, blocks, and a modulated linear output.

    A subclass provides the blocks, the norm, and, by `rotary` (T, width / heads), positions for attention.
    """

    positions: Tensor
    rotary: Tensor | None
    label_dropout: float  # an option of the subclass

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: int,
        depth: int,
        block: Callable[[], Block],
        norm: Callable[[int], nn.Module],
        rotary: Tensor | None = None,
    ) -> None:
        super().__init__(spec, classes)
        self.embed = nn.Linear(spec.channels, width)
        self.time = TimeEmbedding(width)
        self.label = LabelEmbedding(classes, width)
        blocks = [block() for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, spec.channels)
        self.register_buffer("positions", position_table(spec, width), persistent=False)
        self.register_buffer("rotary", rotary, persistent=False)
        self.apply(xavier)
        zero(self.modulation, self.output, *(block.modulation for block in blocks))

    def velocity(
        self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The velocity; with `tap` also the hidden tokens after this block, counted from 1 as in REPA."""
        if tap is not None and not 1 <= tap <= len(self.blocks):
            name = type(self).__name__.lower()
            raise ValueError(f"tap = {tap} is none of {name}'s blocks 1 to {len(self.blocks)}")
        v, hidden = self.run(x, t, labels, tap or len(self.blocks))
        return v if tap is None else (v, hidden)

    def run(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int = 0) -> tuple[Tensor, Tensor]:
        """The velocity, and the hidden tokens (B, T, width) after block `tap`; 0 is before the first."""
        condition = silu(self.time(t) + self.label(labels, len(x)))  # (B, width)
        x = self.embed(x) + self.positions
        hidden = x
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, condition, self.rotary)
            hidden = x if index == tap else hidden
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.output(modulate(self.norm(x), shift, scale)), hidden

    def solve(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        labels: Tensor,
        noise: Noise,
        times: Tensor,
        diffusion: float,
    ) -> Tensor:
        """Latents z (B, T, C) by Euler's method on the ODE at these times, or with `diffusion` on an SDE."""
        like = self.positions.new_empty(len(labels), self.spec.tokens, self.spec.channels)
        start = noise.normal(like, "noise")
        if diffusion:
            return self._solve_sde(field, start, noise, len(times) - 1, diffusion)
        return euler(field, start, times)

    def _solve_sde(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        noise: Noise,
        steps: int,
        diffusion: float,
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

    def velocity_and_target(
        self, z: Tensor, labels: Tensor | None, noise: Noise, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The velocity (B, T, C) at times t (B,), with some labels dropped, and its target (B, T, C)."""
        start = noise.normal(z, "noise")
        labels = drop_labels(labels, self.label_dropout, noise)
        return self.run(interpolate(z, start, t), t, labels)[0], z - start

    def guided_field(
        self, labels: Tensor, guidance: float, start: float, channels: int | None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The velocity field of labels (B,), guided for t >= `start` in the first `channels` (None: all)."""
        pairs = with_unconditional(labels)
        n = channels or self.spec.channels

        def field(x: Tensor, t: Tensor) -> Tensor:
            t_now, t = t[0], t.to(x)  # t[0] stays on the CPU, so that the comparison waits for no GPU
            if guidance == 1 or self.classes == 0 or t_now < start:
                return self.run(x, t, labels)[0]
            conditional, unconditional = self.run(x.repeat(2, 1, 1), t.repeat(2), pairs)[0].chunk(2)
            guided = guide(conditional[..., :n], unconditional[..., :n], guidance)
            return torch.cat([guided, conditional[..., n:]], dim=-1)

        return field
