"""The diffusion transformer that LightningDiT and SiT have in common (DiT: Peebles & Xie, 2023)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import GELUTanh, Mlp, SwiGLUPacked
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from .blocks import (
    LabelEmbedding,
    RMSNorm,
    TimeEmbedding,
    modulate,
    position_table,
    rotate,
    xavier,
    zero,
)
from .flow_transformer import FlowTransformer


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
    """A block of attention and `mlp`, each shifted, scaled and gated by the condition (adaLN-Zero).

    The condition is one of each sample, (B, 1, D), or of each token, (B, T, D).
    """

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
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm1(x), shift1, scale1), rotary))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


def swiglu(width: int) -> nn.Module:
    """A SwiGLU of 8/3 times the width."""
    # SwiGLUPacked counts both halves (gate and value) of its first layer as hidden.
    mlp: nn.Module = SwiGLUPacked(width, 2 * int(2 / 3 * 4 * width))
    return mlp


def swiglu_block(width: int, heads: int, qk_norm: bool = False) -> Block:
    """LightningDiT's block: RMSNorm, and a SwiGLU of 8/3 times the width as the MLP."""
    return Block(width, Attention(width, heads, qk_norm), swiglu(width), RMSNorm)


def layer_norm(width: int) -> nn.LayerNorm:
    """SiT's norm, which has no parameters: the condition scales and shifts."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def gelu_block(width: int, heads: int) -> Block:
    """SiT's block: LayerNorm, and an MLP of four times the width with GELU."""
    attention = Attention(width, heads)
    return Block(width, attention, Mlp(width, 4 * width, act_layer=GELUTanh), layer_norm)


class DiT(FlowTransformer):
    """A linear embedding with fixed positions, blocks, and a modulated linear output.

    A subclass provides, by `build`, the blocks, the norm and, as `rotary` (T, width / heads), positions for
    attention.
    """

    positions: Tensor
    rotary: Tensor | None

    def build(
        self,
        width: int,
        depth: int,
        block: Callable[[], Block],
        norm: Callable[[int], nn.Module],
        rotary: Tensor | None = None,
    ) -> None:
        """Builds the network; the constructor of a subclass, whose arguments are options, calls this last."""
        spec, classes = self.spec, self.classes
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
        self.align(width, depth)

    def network(self, x: Tensor, t: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        return self.conditioned(x, self.time(t) + self.label(labels, len(x)), tap)

    def conditioned(self, x: Tensor, condition: Tensor, tap: int) -> tuple[Tensor, Tensor]:
        """The same as `network`, for the sum of all embeddings (B, width)."""
        condition = silu(condition)[:, None]  # (B, 1, width)
        x = self.embed(x) + self.positions
        hidden = x
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, condition, self.rotary)
            hidden = x if index == tap else hidden
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return self.output(modulate(self.norm(x), shift, scale)), hidden
