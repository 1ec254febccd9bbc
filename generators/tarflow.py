"""A normalizing flow made of causal transformers (TARFlow: Zhai et al., 2024)."""

from __future__ import annotations

import math
from typing import Annotated, cast

import torch
from pydantic import Field
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from ..bench.api import LatentSpec, Likelihood, Noise, Unfit
from ..bench.blocks import divide_width, drop_labels, with_unconditional
from ..bench.flow import guide
from ..bench.registry import register


class CausalLayer(nn.Module):
    """A pre-norm transformer layer that looks only backward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(
        self, x: Tensor, cache: Tensor | None = None, index: int = 0, sharpen: Tensor | None = None
    ) -> Tensor:
        """All tokens (B, T, D), or with a cache (2, B, heads, T, D / heads) of keys and values one, `index`.

        `sharpen` (B, 1, 1, 1) multiplies the attention logits: an inverse temperature.
        """
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, index : index + 1], cache[1, :, :, index : index + 1] = k, v
            k, v = cache[:, :, :, : index + 1]
        q = q if sharpen is None else q * sharpen
        attended = scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class AutoregressiveBlock(nn.Module):
    """z_i = (x_i - b_i) exp(-a_i) with (a_i, b_i) from the tokens before i; the first token is unchanged."""

    def __init__(self, spec: LatentSpec, classes: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(spec.channels, width)
        self.positions = nn.Parameter(torch.empty(spec.tokens, width))
        self.labels = nn.Parameter(torch.empty(classes, width)) if classes else None
        self.layers = nn.ModuleList(CausalLayer(width, heads) for _ in range(layers))
        self.output = nn.Linear(width, 2 * spec.channels)
        for table in (self.positions, self.labels):
            if table is not None:
                # ml-tarflow: 0.01. At the embedded tokens' scale short runs learn positions and classes too:
                # after 800 steps on 8x8 digits a classifier agrees with 97 % of the labels, not with 42 %.
                nn.init.normal_(table, std=0.5)
        nn.init.zeros_(self.output.weight)
        # ml-tarflow leaves this bias at its random start; at zero an untrained flow is exactly the identity.
        nn.init.zeros_(self.output.bias)

    def label(self, labels: Tensor | None) -> Tensor | float:
        """(B, 1, width), or what broadcasts to it; "no class" is the mean of all classes."""
        if self.labels is None:
            return 0.0
        mean = self.labels.mean(0)
        if labels is None:
            return mean
        return torch.where(labels[:, None] < 0, mean, self.labels[labels.clamp_min(0)])[:, None]

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> the same shape, and the log-determinant (B,)."""
        hidden = self.embed(x) + self.positions + self.label(labels)
        for layer in self.layers:
            hidden = layer(hidden)
        # What token i - 1 has gathered transforms token i; zeros leave token 0 as it is.
        a, b = pad(self.output(hidden)[:, :-1], (0, 0, 1, 0)).chunk(2, dim=-1)
        return (x - b) * (-a).exp(), -a.sum((1, 2))

    def inverse(
        self, z: Tensor, labels: Tensor | None, guidance: float, anneal: bool, temperature: float
    ) -> Tensor:
        """Token by token with cached keys and values; guided, labels are (2B,): see `with_unconditional`."""
        x, tokens = z.clone(), z.shape[1]
        copies = 1 if labels is None else len(labels) // len(z)
        width = self.positions.shape[1]
        caches = z.new_empty(
            len(self.layers), 2, copies * len(z), self.heads, tokens - 1, width // self.heads
        )
        sharpen = None
        if copies == 2 and temperature != 1:  # only the unconditional branch has a temperature
            sharpen = torch.cat([torch.ones_like(z[:, 0, 0]), torch.full_like(z[:, 0, 0], 1 / temperature)])
            sharpen = sharpen[:, None, None, None]
        label = self.label(labels)
        for i in range(tokens - 1):
            hidden = self.embed(x[:, i : i + 1]).repeat(copies, 1, 1) + self.positions[i] + label
            for layer, cache in zip(self.layers, caches, strict=True):
                hidden = layer(hidden, cache, i, sharpen)
            output = self.output(hidden)[:, 0]
            if copies == 2:
                w = 1 + (guidance - 1) * (i + 1) / (tokens - 1) if anneal else guidance
                conditional, unconditional = output.chunk(2)
                output = guide(conditional, unconditional, w)
            a, b = output.chunk(2, dim=-1)
            x[:, i + 1] = z[:, i + 1] * a.exp() + b
        return x


@register("tarflow")
class TARFlow(Likelihood):
    """Autoregressive blocks in alternating token order, trained by likelihood on noised latents."""

    def __init__(
        self,
        spec: LatentSpec,
        classes: int,
        width: Annotated[int, Field(ge=1)] = 64,
        blocks: Annotated[int, Field(ge=1)] = 4,
        layers: Annotated[int, Field(ge=1)] = 1,
        heads: Annotated[int, Field(ge=1)] = 4,
        noise_std: Annotated[float, Field(ge=0)] = 0.3,
        label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        """`layers` per block; `noise_std` of noise on training latents (paper: up to 0.15; STARFlow: 0.3)."""
        super().__init__(spec, classes)
        divide_width(width, heads)
        if spec.tokens < 2:
            raise Unfit(
                "tarflow transforms each token given those before it, and this latent has a single one"
            )
        self.noise_std, self.label_dropout = noise_std, label_dropout
        self.blocks = nn.ModuleList(
            AutoregressiveBlock(spec, classes, width, layers, heads) for _ in range(blocks)
        )

    def forward(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (B, T, C) -> (noise (B, T, C), log |det d noise / d z| (B,) in nats, summed over dimensions)."""
        logdet = z.new_zeros(len(z))
        for index, block in enumerate(self.blocks):
            z, change = block(_turn(z, index), labels)
            z, logdet = _turn(z, index), logdet + change
        return z, logdet

    def inverse(
        self,
        noise: Tensor,
        labels: Tensor | None,
        guidance: float = 1.0,
        *,
        anneal: bool = True,
        temperature: float = 1.0,
    ) -> Tensor:
        """noise (B, T, C) -> z; guided, (a, b) of every block are u + w (c - u) (the paper's w is ours - 1).

        `anneal` raises w linearly from 1 over the tokens of each block, as evaluate_fid.py always does;
        `temperature` divides the attention logits of the unconditional branch.
        """
        if labels is not None and guidance != 1 and self.classes:
            labels = with_unconditional(labels)
        for index, module in reversed(list(enumerate(self.blocks))):
            block = cast(AutoregressiveBlock, module)
            noise = _turn(block.inverse(_turn(noise, index), labels, guidance, anneal, temperature), index)
        return noise

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        noise, logdet = self(z, labels)
        return logdet - 0.5 * (noise.square() + math.log(2 * math.pi)).sum((1, 2))

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Negative log-likelihood in nats per dimension of the noised latent."""
        noised = z + self.noise_std * noise.normal(z, "noise")
        log_prob = self.log_prob(noised, drop_labels(labels, self.label_dropout, noise))
        return {"nll": -log_prob.mean() / z[0].numel()}

    def denoise(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """One step along the score, z + noise_std^2 grad log p(z): the mean of the clean latent (Tweedie)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (score,) = torch.autograd.grad(self.log_prob(z, labels).sum(), z)
        return z.detach() + self.noise_std**2 * score

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        denoise: bool = True,
        anneal: bool = True,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> Tensor:
        """`denoise` removes the noise that training added; `anneal` and `temperature` as in `inverse`."""
        start = next(self.parameters()).new_empty(len(labels), self.spec.tokens, self.spec.channels)
        z = self.inverse(
            noise.normal(start, "noise"), labels, guidance, anneal=anneal, temperature=temperature
        )
        return self.denoise(z, labels) if denoise and self.noise_std else z


def _turn(z: Tensor, index: int) -> Tensor:
    """Every second block reads the tokens backward."""
    return z.flip(1) if index % 2 else z
