"""A small transformer decodes latents into a frozen teacher's tokens (MAETok: Chen et al., 2025)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..bench.api import LatentSpec, Regularizer, Step
from ..bench.nn.blocks import divide_width, single
from ..bench.nn.teacher_alignment import cosine_loss
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]


def table(rows: int, width: int) -> nn.Parameter:
    """Learned positions (1, rows, width)."""
    # Queries must find their latents by attention, which smaller positions leave nearly uniform at the start.
    return nn.Parameter(0.5 * torch.randn(1, rows, width))


class TokenDecoder(nn.Module):
    """z (B, T, C) -> the tokens (B, N, F) of another spec, whatever the grids of both.

    A learned query stands at each of the N places. Queries and latents, with positions of their own, pass
    through the blocks together.
    """

    def __init__(self, spec: LatentSpec, target: LatentSpec, width: int, depth: int, heads: int) -> None:
        super().__init__()
        divide_width(width, heads)
        self.project = nn.Linear(spec.channels, width)
        self.positions, self.queries = table(spec.tokens, width), table(target.tokens, width)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, target.channels)

    def forward(self, z: Tensor) -> Tensor:
        x = torch.cat((self.queries.expand(len(z), -1, -1), self.project(z) + self.positions), 1)
        return self.head(self.norm(self.blocks(x)[:, : self.queries.shape[1]]))


@register("auxiliary_decoders")
class AuxiliaryDecoders(Regularizer):
    """A small transformer learns to decode latents into a teacher's tokens, beside the tokenizer's decoder.

    The loss is minus the mean cosine similarity with the teacher's tokens at their own places. Latents need
    no grid. The transformer is of no use once the tokenizer is trained.

    MAETok has a decoder for each of several targets (two teachers and histograms of oriented gradients), and
    can average over hidden patches alone. Here the target is the matrix's one teacher, and the mean is over
    all of its tokens. We found no weights of MAETok's losses: the default is our choice, as is the size of
    the transformer.

    Paper: Chen et al., "Masked Autoencoders Are Effective Tokenizers for Diffusion Models", 2025
    (arXiv 2502.03444).
    """

    def __init__(
        self,
        spec: LatentSpec,
        teacher_spec: LatentSpec,
        weight: Annotated[float, Field(ge=0)] = 0.1,
        width: Positive = 64,
        depth: Positive = 2,
        heads: Positive = 4,
    ) -> None:
        """
        Args:
            weight: factor of the loss, minus the mean cosine similarity.
            width: width of the transformer.
            depth: blocks of the transformer.
            heads: attention heads, which divide the width.
        """
        super().__init__(spec)
        self.weight = weight
        self.decoder = TokenDecoder(spec, teacher_spec, width, depth, heads)

    def loss(self, z: Tensor, h: Tensor, step: Step) -> dict[str, Tensor]:
        assert step.features is not None
        return {"auxiliary_decoders": self.weight * cosine_loss(single(self.decoder(z)), step.features)}
