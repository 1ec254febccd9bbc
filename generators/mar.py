"""Masked autoregression over continuous tokens, with a small generative head (MAR: Li et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention

from ..bench.api import Generator, LatentSpec, Noise
from ..bench.flow import with_unconditional
from ..bench.nn.blocks import LabelEmbedding, divide_width, drop_labels, xavier
from ..bench.nn.token_heads import DiffusionHead, FlowHead
from ..bench.registry import register
from ..bench.runtime.parts_of_batches import in_parts
from ..bench.runtime.recompute import prepared


def tokens_per_step(tokens: int, iterations: int) -> list[int]:
    """The numbers of tokens that the iterations predict; they sum to `tokens`.

    After iteration k of K, floor(tokens cos(pi/2 (k+1)/K)) tokens stay masked, except that every iteration
    predicts at least one token. So K >= tokens means one token at a time.
    """
    iterations = min(iterations, tokens)
    masked, counts = tokens, []
    for k in range(iterations - 1):
        target = math.floor(tokens * math.cos(math.pi / 2 * (k + 1) / iterations))
        still_masked = max(1, min(masked - 1, target))
        counts.append(masked - still_masked)
        masked = still_masked
    return [*counts, masked]


def mask_ratio(uniform: float, minimum: float) -> float:
    """Maps a uniform draw to a normal (mean 1, standard deviation 0.25) truncated to [minimum, 1]."""
    if minimum >= 1:
        return 1.0
    normal = NormalDist(1.0, 0.25)
    low = normal.cdf(minimum)
    return min(1.0, max(minimum, normal.inv_cdf(low + uniform * (0.5 - low))))


def outputs_of(block: Any, x: Tensor, asked: slice) -> Tensor:
    """Outputs of a timm block for the `asked` tokens (B, n, D) alone, without dropout; x is (B, T, D).

    All tokens have keys and values, but only these have a query and pass through the other layers.
    """
    attention, normed, width = block.attn, block.norm1(x), x.shape[-1]
    x, heads = x[:, asked], (attention.num_heads, width // attention.num_heads)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    linear = nn.functional.linear  # looked up here, as `by_onednn` exchanges it
    q = linear(normed[:, asked], weight[:width], bias[:width]).unflatten(-1, heads).transpose(1, 2)
    k, v = linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
    attended = scaled_dot_product_attention(attention.q_norm(q), attention.k_norm(k), v)
    x = x + attention.proj(attended.transpose(1, 2).flatten(2))
    outputs: Tensor = x + block.mlp(block.norm2(x))
    return outputs


@register("mar")
class MAR(Generator):
    """A masked autoencoder whose decoder conditions a small generative head for each token.

    The published sizes are for both heads: MAR has `head: diffusion`, Flow Priors `head: flow` with
    `qk_norm: true`.

    Paper: Li et al., "Autoregressive Image Generation without Vector Quantization", 2024 (arXiv 2406.11838).
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "width": width,
            "depth": depth,
            "heads": heads,
            "head_width": head_width,
            "head_depth": head_depth,
            "buffer": 64,
            "dropout": 0.1,
        }
        for name, width, depth, heads, head_width, head_depth in (
            ("B", 768, 12, 12, 1024, 6),
            ("L", 1024, 16, 16, 1280, 8),
            ("H", 1280, 20, 16, 1536, 12),
        )
    }

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=1)] = 64,
        depth: Annotated[int, Field(ge=1)] = 2,
        heads: Annotated[int, Field(ge=1)] = 4,
        head: Literal["flow", "diffusion"] = "flow",
        head_width: Annotated[int, Field(ge=1)] = 64,
        head_depth: Annotated[int, Field(ge=1)] = 3,
        head_draws: Annotated[int, Field(ge=1)] = 4,
        buffer: Annotated[int, Field(ge=1)] = 4,
        min_mask: Annotated[float, Field(ge=0, le=1)] = 0.7,
        qk_norm: bool = False,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        """
        Args:
            width: width of the transformers.
            depth: number of blocks in the encoder, and again in the decoder.
            heads: attention heads, which divide the width.
            head: network that draws a token given the decoder's output: a flow, or a diffusion of 1,000
                steps.
            head_width: width of the head.
            head_depth: number of the head's blocks.
            head_draws: number of (time, noise) pairs per token and step.
            buffer: number of class tokens (MAR: 64 beside 256 tokens).
            min_mask: smallest share of tokens that training masks.
            qk_norm: whether queries and keys are normalised.
            dropout: share of activations that training sets to zero (MAR, whose runs are long: 0.1).
            label_dropout: share of labels that training leaves out, which guidance needs.
        """
        super().__init__(spec, classes)
        divide_width(width, heads)
        self.buffer, self.min_mask, self.drops = buffer, min_mask, dropout > 0
        self.head_draws, self.label_dropout = head_draws, label_dropout
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        block = partial(
            Block,
            width,
            heads,
            qkv_bias=True,
            qk_norm=qk_norm,
            proj_drop=dropout,
            attn_drop=dropout,
            norm_layer=norm,
        )
        self.embed = nn.Linear(spec.channels, width)
        self.label = LabelEmbedding(classes, width)
        self.embed_norm = norm(width)
        self.encoder = nn.Sequential(*(block() for _ in range(depth)), norm(width))
        self.decoder_embed = nn.Linear(width, width)
        self.mask = nn.Parameter(torch.empty(width))
        self.decoder = nn.Sequential(*(block() for _ in range(depth)), norm(width))
        self.encoder_positions = nn.Parameter(torch.empty(buffer + spec.tokens, width))
        self.decoder_positions = nn.Parameter(torch.empty(buffer + spec.tokens, width))
        self.head_positions = nn.Parameter(torch.empty(spec.tokens, width))
        self.apply(xavier)
        nn.init.normal_(self.mask, std=0.02)
        for table in (self.encoder_positions, self.decoder_positions, self.head_positions):
            nn.init.normal_(table, std=0.5)  # MAR: 0.02, too small for short runs at small widths
        sizes = (spec.channels, head_width, head_depth, width)
        self.head: FlowHead | DiffusionHead = FlowHead(*sizes) if head == "flow" else DiffusionHead(*sizes)

    def condition(self, z: Tensor, order: Tensor, labels: Tensor | None, count: int) -> Tensor:
        """The head's conditions (B, count, D) for the next `count` tokens, order[:, K : K + count].

        `order` (B, T) is a permutation per sample; z (B, K, C) are the known tokens, order[:, :K]. Encoder
        and decoder keep this order: each token has its position added, so the raster isn't needed.
        """
        known, batch = z.shape[1], len(z)
        # (B, buffer + T): the buffer's positions, then those of the tokens in the sample's order
        positions = torch.cat(
            [torch.arange(self.buffer).to(order).expand(batch, -1), self.buffer + order], dim=1
        )
        buffer = self.label(labels, batch)[:, None].expand(-1, self.buffer, -1)
        x = torch.cat([buffer, self.embed(z)], dim=1)
        x = self.embed_norm(x + embedding(positions[:, : self.buffer + known], self.encoder_positions))
        x = self.decoder_embed(self.encoder(x))
        x = torch.cat([x, self.mask.expand(batch, order.shape[1] - known, -1)], dim=1)
        x = x + embedding(positions, self.decoder_positions)
        x = self._decoded(x, slice(self.buffer + known, self.buffer + known + count))
        return x + embedding(order[:, known : known + count], self.head_positions)

    def _decoded(self, x: Tensor, asked: slice) -> Tensor:
        """The decoder's outputs for the `asked` tokens (B, n, D) of its inputs (B, buffer + T, D)."""
        *blocks, last, norm = self.decoder
        if self.training and (self.drops or prepared(last)):
            return self.decoder(x)[:, asked]
        for block in blocks:
            x = block(x)
        return norm(outputs_of(last, x, asked))

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        # One mask ratio for the whole batch on all processes; drawn on the CPU, as it is read as a number.
        ratio = mask_ratio(noise.shared("mask ratio"), self.min_mask)
        masked = math.ceil(self.spec.tokens * ratio)
        order = noise.uniform(z[..., 0], "order").argsort(dim=1)
        shuffled = z.gather(1, order[..., None].expand_as(z))
        labels = drop_labels(labels, self.label_dropout, noise)
        condition = self.condition(shuffled[:, :-masked], order, labels, masked)
        target = shuffled[:, None, -masked:].expand(-1, self.head_draws, -1, -1)
        return self.head.loss(target, condition[:, None], noise)

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        iterations: Annotated[int, Field(ge=1)] | None = None,
        steps: Annotated[int, Field(ge=1)] | None = None,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        schedule: Literal["linear", "constant"] = "linear",
    ) -> Tensor:
        """Predicts the tokens in random order.

        Args:
            iterations: number of predictions of several tokens at once; None predicts one token at a time.
            steps: sampling steps of the head; None is 25 for `flow` and 100 for `diffusion`.
            temperature: scale of the head's noise.
            schedule: `linear` raises the guidance with the tokens known after an iteration, 1 + (w - 1) known
                / T; `constant` is w throughout.
        """
        tokens = self.spec.tokens
        order = noise.uniform(self.head_positions.new_empty(len(labels), tokens), "order").argsort(dim=1)
        z = self.head_positions.new_empty(len(labels), 0, self.spec.channels)
        guided = guidance != 1 and self.classes > 0
        for iteration, count in enumerate(tokens_per_step(tokens, iterations or tokens)):
            if guided:
                progress = (z.shape[1] + count) / tokens if schedule == "linear" else 1.0
                w: float | None = 1 + (guidance - 1) * progress
                given = z.repeat(2, 1, 1), order.repeat(2, 1), with_unconditional(labels)
            else:
                w, given = None, (z, order, labels)
            condition = in_parts(partial(self.condition, count=count), self.buffer + tokens, *given)
            predicted = self.head.sample(condition, w, noise.fork(iteration), steps, temperature)
            z = torch.cat([z, predicted], dim=1)
        return torch.empty_like(z).scatter_(1, order[..., None].expand_as(z), z)
