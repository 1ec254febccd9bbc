"""A normalizing flow made of causal transformers (TARFlow: Zhai et al., 2024; STARFlow, SimFlow: 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu, softplus

from ..bench.api import LatentSpec, Likelihood, Noise, Unfit
from ..bench.flow import guide, with_unconditional
from ..bench.nn.blocks import (
    LabelEmbedding,
    RMSNorm,
    divide_width,
    drop_labels,
    modulate,
    rotary_table,
    rotate,
    single,
    zero,
)
from ..bench.registry import register


def starflow_guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Guided (a, b) of N(b, e^2a): the Gaussian p_c^w / p_u^(w - 1) (STARFlow; its w is ours - 1).

    Arguments are (..., 2C): a, then b. A conditional wider than the unconditional counts as equally wide.
    """
    (a, b), (a_u, b_u) = conditional.chunk(2, -1), unconditional.chunk(2, -1)
    s = (2 * (a - a_u).clamp(max=0)).exp()  # (sigma_c / sigma_u)^2, at most 1
    precision = guidance + (1 - guidance) * s  # in units of the conditional's
    return torch.cat([a - 0.5 * precision.log(), (guidance * b + (1 - guidance) * s * b_u) / precision], -1)


@dataclass(frozen=True)
class Guidance:
    """How a block makes one (a, b) of its conditional and its unconditional; see `TARFlow.inverse`."""

    w: float
    rule: Literal["linear", "starflow"]
    anneal: bool
    temperature: float

    def __call__(self, output: Tensor, progress: float) -> Tensor:
        """Both branches' (a, b) (2B, 2C) -> (B, 2C); `progress` in (0, 1] is how far the block is."""
        conditional, unconditional = output.chunk(2)
        if self.rule == "starflow":
            # The released code computes annealed weights and does not use them.
            return starflow_guide(conditional, unconditional, self.w)
        return guide(conditional, unconditional, 1 + (self.w - 1) * progress if self.anneal else self.w)


def _norm(width: int, adaptive: bool) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) if adaptive else nn.LayerNorm(width)


class CausalLayer(nn.Module):
    """A pre-norm transformer layer that looks only backward; `adaptive`, an adaLN-Zero layer as in DiT."""

    def __init__(self, width: int, heads: int, adaptive: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = _norm(width, adaptive)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm2 = _norm(width, adaptive)
        self.mlp = Mlp(width, 4 * width)
        self.modulation = nn.Linear(width, 6 * width) if adaptive else None

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None = None,
        cache: Tensor | None = None,
        index: int = 0,
        sharpen: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        """All tokens (B, T, D), or with a cache (2, B, heads, T, D / heads) of keys and values one, `index`.

        `modulation` (..., 6D) is what the layer's own gives for a condition; `sharpen` (B, 1, 1, 1)
        multiplies the attention logits: an inverse temperature; `rotary` (T, D / heads) are positions.
        """
        if modulation is None:
            x = x + self.attend(self.norm1(x), cache, index, sharpen, rotary)
            return x + self.mlp(self.norm2(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        attended = self.attend(modulate(self.norm1(x), shift1, scale1), cache, index, sharpen, rotary)
        x = torch.addcmul(x, gate1, attended)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))

    def attend(
        self,
        x: Tensor,
        cache: Tensor | None,
        index: int,
        sharpen: Tensor | None,
        rotary: Tensor | None,
    ) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if cache is not None:
            cache[0, :, :, index : index + 1], cache[1, :, :, index : index + 1] = k, v
            k, v = cache[:, :, :, : index + 1]
        q = q if sharpen is None else q * sharpen
        attended = scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        return self.output(attended.transpose(1, 2).flatten(2))


class AffineBlock(nn.Module):
    """z_i = (x_i - b_i) exp(-a_i) with (a_i, b_i) from the tokens before i."""

    def affine(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """a and b (B, T, C) of every token."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> the same shape, and the log-determinant (B,)."""
        a, b = self.affine(x, labels)
        return (x - b) * (-a).exp(), -a.sum((1, 2))

    def inverse(self, z: Tensor, labels: Tensor | None, guidance: Guidance | None = None) -> Tensor:
        """Token by token with cached keys and values; guided, labels are (2B,): see `with_unconditional`."""
        raise NotImplementedError


class AutoregressiveBlock(AffineBlock):
    """The first token is unchanged; positions are learned.

    The class is added to every embedded token or, `adaptive`, modulates the layers and the output.
    """

    def __init__(
        self, spec: LatentSpec, classes: int, width: int, layers: int, heads: int, adaptive: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.classes = heads, classes
        self.embed = nn.Linear(spec.channels, width)
        self.positions = nn.Parameter(torch.empty(spec.tokens, width))
        rows = max(classes, 1) if adaptive else classes  # without classes one row is the condition
        self.labels = nn.Parameter(torch.empty(rows, width)) if rows else None
        self.layers = nn.ModuleList(CausalLayer(width, heads, adaptive) for _ in range(layers))
        self.norm = _norm(width, adaptive) if adaptive else None
        self.modulation = nn.Linear(width, 2 * width) if adaptive else None
        self.output = nn.Linear(width, 2 * spec.channels)
        for table in (self.positions, self.labels):
            if table is not None:
                # ml-tarflow: 0.01. At the embedded tokens' scale short runs learn positions and classes too:
                # after 800 steps on 8x8 digits a classifier agrees with 97 % of the labels, not with 42 %.
                nn.init.normal_(table, std=0.5)
        # ml-tarflow leaves this bias at its random start; at zero an untrained flow is exactly the identity.
        zero(self.output, *(m.modulation for m in (self, *self.layers) if m.modulation is not None))

    def label(self, labels: Tensor | None) -> Tensor | float:
        """(B, 1, width), or what broadcasts to it; "no class" is the mean of all classes."""
        if self.labels is None:
            return 0.0
        mean = self.labels.mean(0)
        if labels is None or not self.classes:
            return mean
        return torch.where(labels[:, None] < 0, mean, self.labels[labels.clamp_min(0)])[:, None]

    def condition(self, labels: Tensor | None) -> tuple[Tensor | float, list[Tensor | None]]:
        """What is added to embedded tokens, and the modulation of each layer and, last, of the output."""
        label = self.label(labels)
        if self.modulation is None:
            return label, [None] * (len(self.layers) + 1)
        own = [cast(CausalLayer, layer).modulation for layer in self.layers]
        return 0.0, [cast(nn.Linear, m)(silu(cast(Tensor, label))) for m in (*own, self.modulation)]

    def head(self, hidden: Tensor, modulation: Tensor | None) -> Tensor:
        """(B, n, width) -> (B, n, 2C): a and b of the token after each."""
        if self.norm is not None and modulation is not None:
            hidden = modulate(self.norm(hidden), *modulation.chunk(2, dim=-1))
        return single(self.output(hidden))  # log-determinants are sums over all of it

    def affine(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        label, modulations = self.condition(labels)
        hidden = self.embed(x) + self.positions + label
        for layer, modulation in zip(self.layers, modulations[:-1], strict=True):
            hidden = layer(hidden, modulation)
        # What token i - 1 has gathered transforms token i; zeros leave token 0 as it is.
        a, b = pad(self.head(hidden, modulations[-1])[:, :-1], (0, 0, 1, 0)).chunk(2, dim=-1)
        return a, b

    def inverse(self, z: Tensor, labels: Tensor | None, guidance: Guidance | None = None) -> Tensor:
        x, tokens = z.clone(), z.shape[1]
        copies = 1 if guidance is None else 2
        width = self.positions.shape[1]
        caches = z.new_empty(
            len(self.layers), 2, copies * len(z), self.heads, tokens - 1, width // self.heads
        )
        sharpen = _sharpen(z, guidance)
        label, modulations = self.condition(labels)
        for i in range(tokens - 1):
            hidden = self.embed(x[:, i : i + 1]).repeat(copies, 1, 1) + self.positions[i] + label
            for layer, modulation, cache in zip(self.layers, modulations[:-1], caches, strict=True):
                hidden = layer(hidden, modulation, cache, i, sharpen)
            output = self.head(hidden, modulations[-1])[:, 0]
            output = output if guidance is None else guidance(output, (i + 1) / (tokens - 1))
            a, b = output.chunk(2, dim=-1)
            x[:, i + 1] = z[:, i + 1] * a.exp() + b
        return x


class PrefixBlock(AffineBlock):
    """STARFlow's block: a learned token stands before the first, so every token is transformed; rotary
    positions. The class, where there are classes, is one more token before that.
    """

    rotary: Tensor

    def __init__(self, spec: LatentSpec, classes: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.heads, self.classes = heads, classes
        self.embed = nn.Linear(spec.channels, width)
        self.start = nn.Parameter(torch.randn(spec.channels))
        self.label = LabelEmbedding(classes, width) if classes else None
        self.layers = nn.ModuleList(CausalLayer(width, heads) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, 2 * spec.channels)
        rotary = rotary_table(spec, divide_width(width, heads, multiple=4 if spec.grid else 2))
        # A position is that of the token to be transformed; the class shares the first one's.
        rotary = torch.cat([rotary[:1], rotary]) if classes else rotary
        self.register_buffer("rotary", rotary, persistent=False)
        zero(self.output)

    def head(self, hidden: Tensor) -> Tensor:
        """(B, ..., width) -> (B, ..., 2C): a and b, e^a a softplus that is 1 where the output is 0."""
        output = single(self.output(self.norm(hidden)))
        a, b = (4 * (output / 4).tanh()).chunk(2, dim=-1)
        return torch.cat([softplus(a + math.log(math.e - 1)).log(), b], dim=-1)

    def affine(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = self.embed(torch.cat([self.start.expand(len(x), 1, -1), x[:, :-1]], dim=1))
        if self.label is not None:
            hidden = torch.cat([self.label(labels, len(x))[:, None], hidden], dim=1)
        for layer in self.layers:
            hidden = layer(hidden, rotary=self.rotary)
        a, b = self.head(hidden[:, -x.shape[1] :]).chunk(2, dim=-1)
        return a, b

    def inverse(self, z: Tensor, labels: Tensor | None, guidance: Guidance | None = None) -> Tensor:
        x, tokens = z.clone(), z.shape[1]
        copies = 1 if guidance is None else 2
        positions, head_width = self.rotary.shape
        caches = z.new_empty(len(self.layers), 2, copies * len(z), self.heads, positions, head_width)
        sharpen = _sharpen(z, guidance)
        for position in range(positions):
            i = position - (positions - tokens)
            if self.label is not None and i < 0:
                hidden = self.label(labels, copies * len(z))[:, None]
            else:
                known = x[:, i - 1 : i] if i else self.start.expand(len(z), 1, -1)
                hidden = self.embed(known).repeat(copies, 1, 1)
            rotary = self.rotary[position : position + 1]
            for layer, cache in zip(self.layers, caches, strict=True):
                hidden = layer(hidden, None, cache, position, sharpen, rotary)
            if i >= 0:
                output = self.head(hidden[:, 0])
                output = output if guidance is None else guidance(output, (i + 1) / tokens)
                a, b = output.chunk(2, dim=-1)
                x[:, i] = z[:, i] * a.exp() + b
        return x


def _sharpen(z: Tensor, guidance: Guidance | None) -> Tensor | None:
    """(2B, 1, 1, 1): inverse temperatures of attention, other than 1 in the unconditional branch alone."""
    if guidance is None or guidance.temperature == 1:
        return None
    sharpen = torch.ones_like(z[:, 0, 0]).repeat(2)
    sharpen[len(z) :] = 1 / guidance.temperature
    return sharpen[:, None, None, None]


@register("tarflow")
class TARFlow(Likelihood):
    """Autoregressive blocks in alternating token order, trained by likelihood on noised latents."""

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # SimFlow's latents have a variance of their own, so there is no further noise. Of the two depths that
        # it gives XXL, section 5.1's 46 makes the published 1.4 B; Table 8's 36 makes 1.13 B.
        **{
            f"simflow-{name}": {
                "width": width,
                "blocks": 6,
                "layers": 2,
                "deep": deep,
                "heads": heads,
                "noise_std": 0.0,
                "conditioning": "adaln",
            }
            for name, width, heads, deep in (
                ("S", 384, 6, 2),
                ("B", 768, 12, 2),
                ("L", 1024, 16, 14),
                ("XL", 1152, 16, 18),
                ("XXL", 1152, 16, 46),
            )
        },
        # Class-conditional as the papers' ImageNet models, which are not released; those with text are.
        **{
            f"starflow-{name}": {
                "width": width,
                "blocks": 6,
                "layers": 2,
                "deep": deep,
                "heads": width // 64,
                "noise_std": 0.3,
                "conditioning": "prefix",
            }
            for name, width, deep in (("XL", 2048, 18), ("XXL", 3072, 24))
        },
        # Of pixels: patches of 2 at 64 pixels, of 4 at 128.
        "tarflow-IN64": {"width": 768, "blocks": 8, "layers": 8, "heads": 12, "noise_std": 0.05},
        "tarflow-IN128": {"width": 1024, "blocks": 8, "layers": 8, "heads": 16, "noise_std": 0.15},
    }

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
        deep: Annotated[int, Field(ge=0)] = 0,
        conditioning: Literal["embedding", "adaln", "prefix"] = "embedding",
    ) -> None:
        """`noise_std` is of noise on training latents (paper: up to 0.15; STARFlow: 0.3).

        Args:
            layers: per block; the last one, which comes first in sampling, has `deep` if that isn't 0.
            conditioning: classes added to embedded tokens, by adaptive layer norms (SimFlow), or as a token
                before the others of the last block alone, in blocks that are STARFlow's throughout; without
                its penalty on the blocks' inputs (1e-4).
        """
        super().__init__(spec, classes)
        divide_width(width, heads)
        if spec.tokens < 2:
            raise Unfit(
                "tarflow transforms each token given those before it, and this latent has a single one"
            )
        self.noise_std, self.label_dropout = noise_std, label_dropout
        # Every second block reads the tokens backward; in STARFlow the last one is sure to read forward.
        last = blocks - 1
        self.backward = [
            (last - index if conditioning == "prefix" else index) % 2 == 1 for index in range(blocks)
        ]
        depths = [layers] * last + [deep or layers]
        self.blocks = nn.ModuleList(
            PrefixBlock(spec, classes if index == last else 0, width, depth, heads)
            if conditioning == "prefix"
            else AutoregressiveBlock(spec, classes, width, depth, heads, conditioning == "adaln")
            for index, depth in enumerate(depths)
        )

    def forward(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (B, T, C) -> (noise (B, T, C), log |det d noise / d z| (B,) in nats, summed over dimensions)."""
        logdet = z.new_zeros(len(z))
        for index, block in enumerate(self.blocks):
            z, change = block(self._turn(z, index), labels)
            z, logdet = self._turn(z, index), logdet + change
        return z, logdet

    def inverse(
        self,
        noise: Tensor,
        labels: Tensor | None,
        guidance: float = 1.0,
        *,
        anneal: bool = True,
        temperature: float = 1.0,
        guidance_rule: Literal["linear", "starflow"] = "linear",
    ) -> Tensor:
        """noise (B, T, C) -> z; the papers' w is ours - 1.

        The linear rule (TARFlow) makes (a, b) of every block u + w (c - u); `anneal` raises w linearly from 1
        over the tokens of each block, as evaluate_fid.py always does. STARFlow's rule, which SimFlow keeps,
        is a product of Gaussians, for the last block alone; the others stay conditional. `temperature`
        divides the attention logits of the unconditional branch.
        """
        rule = Guidance(guidance, guidance_rule, anneal, temperature)
        last = len(self.blocks) - 1
        for index, module in reversed(list(enumerate(self.blocks))):
            block, turned = cast(AffineBlock, module), self._turn(noise, index)
            guided = guidance_rule == "linear" or index == last
            if labels is None or guidance == 1 or not block.classes or not guided:
                noise = block.inverse(turned, labels)
            else:
                noise = block.inverse(turned, with_unconditional(labels), rule)
            noise = self._turn(noise, index)
        return noise

    def _turn(self, z: Tensor, index: int) -> Tensor:
        return z.flip(1) if self.backward[index] else z

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        noise, logdet = self(z, labels)
        return logdet - 0.5 * (noise.square() + math.log(2 * math.pi)).sum((1, 2))

    def tapped(self, z: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """Layers are counted through all blocks from the first that data enter; tokens are in their order.

        SimFlow's "layer 1 at the block 3" of blocks with two layers is 5.
        """
        layers = [
            (index, layer)
            for index, block in enumerate(self.blocks)
            for layer in cast(nn.ModuleList, block.layers)
        ]
        if not 1 <= tap <= len(layers):
            raise ValueError(f"tap = {tap} is none of tarflow's layers 1 to {len(layers)}")
        index, layer = layers[tap - 1]
        seen: list[Tensor] = []
        with layer.register_forward_hook(lambda layer, given, hidden: seen.append(hidden)):
            log_prob = self.log_prob(z, labels)
        return log_prob, self._turn(seen[0][:, -z.shape[1] :], index)  # without a class's own token

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Negative log-likelihood in nats per dimension of the noised latent."""
        noised = z + self.noise_std * noise.normal(z, "noise")
        log_prob = self.log_prob(noised, drop_labels(labels, self.label_dropout, noise))
        return {"nll": -log_prob.mean() / z[0].numel()}

    def score(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """(B, T, C): the gradient of log p(z) with respect to z, also where autograd is off."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(z, labels).sum(), z)[0]

    def sampling_evaluations(self, guided: bool, sampler: Mapping[str, Any]) -> int:
        # A score takes the density forward and backward: three times the operations.
        scores = 1 if sampler.get("denoise") and self.noise_std else 0
        scores += 2 if guided and sampler.get("score_step") else 0
        return super().sampling_evaluations(guided, sampler) + 3 * scores

    def denoise(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """One step along the score, z + noise_std^2 grad log p(z): the mean of the clean latent (Tweedie)."""
        return z + self.noise_std**2 * self.score(z, labels)

    def sample(
        self,
        labels: Tensor,
        guidance: float,
        noise: Noise,
        *,
        denoise: bool = True,
        anneal: bool = True,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        guidance_rule: Literal["linear", "starflow"] = "linear",
        score_step: Annotated[float, Field(ge=0)] = 0.0,
    ) -> Tensor:
        """Guided by the rules of `inverse`, then by SimFlow's equation 6, then rid of training's noise.

        `score_step` (the paper's gamma, 0.25) moves z by gamma (grad log p(z | c) - grad log p(z)), of the
        likelihood summed over all elements; there is none at guidance = 1, which is no guidance.
        """
        start = next(self.parameters()).new_empty(len(labels), self.spec.tokens, self.spec.channels)
        z = self.inverse(
            noise.normal(start, "noise"),
            labels,
            guidance,
            anneal=anneal,
            temperature=temperature,
            guidance_rule=guidance_rule,
        )
        if score_step and guidance != 1 and self.classes:
            z = z + score_step * (self.score(z, labels) - self.score(z, None))
        return self.denoise(z, labels) if denoise and self.noise_std else z
