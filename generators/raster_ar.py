"""Autoregression over tokens in raster order, with a small generative head (l-DeTok: Yang et al., 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from ..bench.api import Generator, LatentSpec, Noise
from ..bench.flow import with_unconditional
from ..bench.nn.blocks import LabelEmbedding, divide_width, drop_labels, modulate, xavier, zero
from ..bench.nn.causal_blocks import CausalLayer
from ..bench.nn.token_heads import DiffusionHead, FlowHead
from ..bench.registry import register

EPS = 1e-6  # of all layer norms


class PlacedLayer(nn.Module):
    """A causal adaLN-Zero layer with a condition for each place.

    It modulates itself, so that gradient checkpointing keeps no modulation of all places.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer = CausalLayer(width, heads)
        self.layer.norm1.eps = self.layer.norm2.eps = EPS
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, cache: Tensor | None, index: int) -> Tensor:
        """x and condition are (B, T, D) or, with a cache, those of place `index` alone, (B, 1, D)."""
        return self.layer(x, self.modulation(condition), cache, index)


@register("raster_ar")
class RasterAR(Generator):
    """A causal transformer over tokens in their own order, whose output conditions a head for each token.

    A grid's order is that of its rows. The input at place i is token i - 1, at place 0 a learned start. It is
    the raster model of l-DeTok's code, whose sizes have a diffusion as their head. The flow head, learned
    tables that start at standard deviation 0.5, and class rows that start at 1 are our choices.

    Paper: Yang et al., "Latent Denoising Makes Good Visual Tokenizers", 2025 (arXiv 2507.15856).
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "width": width,
            "depth": depth,
            "heads": heads,
            "head": "diffusion",
            "head_width": 1024,
            "head_depth": 3,
        }
        for name, width, depth, heads in (("B", 768, 12, 12), ("L", 1024, 24, 16), ("H", 1280, 32, 16))
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
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        """
        Args:
            width: width of the transformer.
            depth: number of its layers.
            heads: attention heads, which divide the width.
            head: network that draws a token given the transformer's output: a flow, or a diffusion of 1,000
                steps.
            head_width: width of the head.
            head_depth: number of the head's blocks.
            head_draws: number of (time, noise) pairs per token and step.
            label_dropout: share of labels that training leaves out, which guidance needs.
        """
        super().__init__(spec, classes)
        self.head_draws, self.label_dropout = head_draws, label_dropout
        self.cached = (heads, spec.tokens, divide_width(width, heads))
        self.embed = nn.Linear(spec.channels, width)
        self.start = nn.Parameter(torch.empty(width))
        # The released code has a further place in two tables, which no raster order reaches.
        self.positions = nn.Parameter(torch.empty(spec.tokens + 1, width))
        self.targets = nn.Parameter(torch.empty(spec.tokens, width))
        self.places = nn.Parameter(torch.empty(spec.tokens + 1, width))
        self.label = LabelEmbedding(classes, width)
        self.embed_norm = nn.LayerNorm(width, eps=EPS)
        self.layers = nn.ModuleList(PlacedLayer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.apply(xavier)
        zero(*(module.modulation for module in (self, *self.layers)))
        for table in (self.start, self.positions, self.targets, self.places):
            nn.init.normal_(table, std=0.5)  # l-DeTok: 0.02, too small for short runs at small widths
        sizes = (spec.channels, head_width, head_depth, width)
        self.head: FlowHead | DiffusionHead = FlowHead(*sizes) if head == "flow" else DiffusionHead(*sizes)

    def condition(self, z: Tensor, labels: Tensor | None, caches: Tensor | None = None) -> Tensor:
        """The head's conditions (B, K + 1, D) for tokens 0 … K, from the first K tokens z (B, K, C).

        With `caches` (depth, 2, B, heads, T, D / heads), which hold keys and values of the places before K
        and get those of K, the result is the condition for token K alone, (B, 1, D).
        """
        known = z.shape[1]
        first = known if caches is not None else 0
        x = self.embed(z[:, max(first - 1, 0) :])
        if first == 0:
            x = torch.cat([self.start.expand(len(z), 1, -1), x], dim=1)
        x = self.embed_norm(x + self.positions[first : known + 1] + self.targets[first : known + 1])
        label = self.label(labels, len(z))[:, None]
        condition = silu(label + self.places[first : known + 1])
        for index, layer in enumerate(self.layers):
            x = layer(x, condition, None if caches is None else caches[index], first)
        return modulate(self.norm(x), *self.modulation(silu(label)).chunk(2, dim=-1))

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        condition = self.condition(z[:, :-1], drop_labels(labels, self.label_dropout, noise))
        return self.head.loss(z.repeat(1, self.head_draws, 1), condition.repeat(1, self.head_draws, 1), noise)

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        steps: Annotated[int, Field(ge=1)] | None = None,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        schedule: Literal["linear", "constant"] = "linear",
    ) -> Tensor:
        """Draws token after token, with cached keys and values.

        Args:
            steps: sampling steps of the head; None is 25 for `flow` and 100 for `diffusion`.
            temperature: scale of the head's noise.
            schedule: `linear` raises the guidance with the place i = 0, 1, … of a token, 1 + (w - 1) i / T;
                `constant` is w throughout.
        """
        tokens, z = self.spec.tokens, self.start.new_empty(len(labels), 0, self.spec.channels)
        guided = guidance != 1 and self.classes > 0
        copies, labels = (2, with_unconditional(labels)) if guided else (1, labels)
        caches = z.new_empty(len(self.layers), 2, len(labels), *self.cached)
        for i in range(tokens):
            progress = i / tokens if schedule == "linear" else 1.0
            condition = self.condition(z.repeat(copies, 1, 1), labels, caches)
            w = 1 + (guidance - 1) * progress if guided else None
            token = self.head.sample(condition, w, noise.fork(i), steps, temperature)
            z = torch.cat([z, token], dim=1)
        return z
