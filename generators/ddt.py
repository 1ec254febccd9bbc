"""A diffusion transformer with a wide, shallow head on top of a narrow stack (RAE: Zheng et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from ..bench.api import Flow, LatentSpec, Noise
from ..bench.flow import logit_normal
from ..bench.nn.blocks import (
    LabelEmbedding,
    RMSNorm,
    divide_width,
    modulate,
    position_table,
    rotary_table,
    xavier,
    zero,
)
from ..bench.nn.dit import swiglu_block
from ..bench.nn.flow_transformer import FlowTransformer
from ..bench.registry import register


@register("ddt")
class DDT(FlowTransformer):
    """DiT^DH: LightningDiT's blocks in a stack whose tokens are the conditions of the head's blocks.

    A flow needs a width of at least the latent's channels, which a head of two blocks provides at little
    cost. The stack is told the time and the class; the head is told the stack's tokens and the time.
    Blocks are counted through both: the head's follow the stack's. `repa` aligns the stack's.

    Samples end at data, where the paper's code stops at a noise level of 0.001, shifted. Training's times
    aren't cut there either. Label rows and the time MLP start as in `lightningdit`.

    Paper: Zheng et al., "Diffusion Transformers with Representation Autoencoders", 2025 (arXiv 2510.11690).
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        size: {"width": width, "depth": depth, "heads": heads}
        | {"head_width": 2048, "head_depth": 2, "head_heads": 16}
        for size, (width, depth, heads) in {
            "S": (384, 12, 6),
            "B": (768, 12, 12),
            "L": (1024, 24, 16),
            "XL": (1152, 28, 16),
        }.items()
    }
    positions: Tensor
    frequencies: Tensor
    rotary: Tensor
    head_rotary: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=4)] = 64,
        depth: Annotated[int, Field(ge=1)] = 3,
        heads: Annotated[int, Field(ge=1)] = 4,
        head_width: Annotated[int, Field(ge=4)] = 128,
        head_depth: Annotated[int, Field(ge=1)] = 2,
        head_heads: Annotated[int, Field(ge=1)] = 4,
        time_shift: Literal["none", "dimension"] | Annotated[float, Field(gt=0)] = "dimension",
        **options: Any,
    ) -> None:
        """
        Args:
            width: width of the stack.
            depth: number of the stack's blocks.
            heads: attention heads of the stack, which divide the width.
            head_width: width of the head.
            head_depth: number of the head's blocks.
            head_heads: attention heads of the head, which divide its width.
            time_shift: factor s of training's times and the sampler's grid, s (1 - t) : t in place of (1 - t)
                : t, so that s > 1 puts more of them near noise. `dimension` is RAE's sqrt(T C / 4096), at
                least 1.
        """
        multiple = 4 if spec.grid else 2
        per_head = divide_width(width, heads, multiple), divide_width(head_width, head_heads, multiple)
        super().__init__(spec, classes, time_shift=time_shift, **options)
        self.embed = nn.Linear(spec.channels, width)
        self.time = nn.Sequential(nn.Linear(512, width), nn.SiLU(), nn.Linear(width, width))
        self.label = LabelEmbedding(classes, width)
        self.blocks = nn.ModuleList(swiglu_block(width, heads) for _ in range(depth))
        self.condition = nn.Linear(width, head_width)
        self.head_embed = nn.Linear(spec.channels, head_width)
        self.head_blocks = nn.ModuleList(swiglu_block(head_width, head_heads) for _ in range(head_depth))
        self.norm = RMSNorm(head_width)
        self.modulation = nn.Linear(head_width, 2 * head_width)
        self.output = nn.Linear(head_width, spec.channels)
        self.register_buffer("frequencies", torch.randn(256))
        self.register_buffer("positions", position_table(spec, width), persistent=False)
        self.register_buffer("rotary", rotary_table(spec, per_head[0]), persistent=False)
        self.register_buffer("head_rotary", rotary_table(spec, per_head[1]), persistent=False)
        for module in (self.embed, self.head_embed, self.time):  # the other layers start as torch's do
            module.apply(xavier)
        modulations = [block.modulation for block in (*self.blocks, *self.head_blocks)]
        zero(self.modulation, self.output, *modulations)  # type: ignore[arg-type]
        self.align(width, depth)
        self.depth = depth + head_depth

    def times(self, uniform: Tensor) -> Tensor:
        return logit_normal(uniform)

    def network(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        angles = 2 * math.pi * (1 - t)[:, None] * self.frequencies
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        # RAE's blocks, too, begin with a SiLU of their condition, which has been through one already.
        condition = silu(silu(time + self.label(labels, len(x))))[:, None]  # (B, 1, width)
        noisy, x = x, self.embed(x) + self.positions
        hidden = x
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, condition, self.rotary)
            hidden = x if index == tap else hidden
        condition = silu(self.condition(silu(time[:, None] + x)))  # (B, T, head_width)
        x = self.head_embed(noisy)
        for index, block in enumerate(self.head_blocks, start=len(self.blocks) + 1):
            x = block(x, condition, self.head_rotary)
            hidden = x if index == tap else hidden
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.output(modulate(self.norm(x), shift, scale)), hidden

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        weak: Flow | None = None,
        *,
        steps: Annotated[int, Field(ge=1)] = 30,
        shift: Annotated[float, Field(gt=0)] = 1.0,
        guidance_start: Annotated[float, Field(ge=0, le=1)] = 0.0,
        guidance_end: Annotated[float, Field(ge=0, le=1)] = 1.0,
        guidance_channels: Annotated[int, Field(ge=1)] | None = None,
        diffusion: Annotated[float, Field(ge=0)] = 0.0,
    ) -> Tensor:
        """Integrates the ODE by Euler's method or, if `diffusion` > 0, the SDE.

        Args:
            steps: evaluations of the velocity (RAE: 49, between "50 steps" of its grid).
            shift: warps the ODE's time grid, besides `time_shift`. The SDE's grid is even for every `shift`.
            guidance_start: samples are unguided at times t below this one.
            guidance_end: samples are unguided at times t above this one.
            guidance_channels: the number of first channels that are guided; null guides all.
            diffusion: strength of the SDE's noise; 0 is the ODE.
        """
        interval = {"start": guidance_start, "end": guidance_end}
        field = self.guided_field(labels, guidance, weak, **interval, channels=guidance_channels)
        return self.solve(field, labels, noise, self.grid_of_times(steps, shift), diffusion)
