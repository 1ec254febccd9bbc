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
    """The guided Gaussian N(b, e^2a) = p_c^w / p_u^(w - 1) (STARFlow, whose w is ours - 1).

    Arguments and result are (..., 2C): a, then b. A conditional Gaussian that is wider than the unconditional
    one is treated as equally wide.
    """
    (a, b), (a_u, b_u) = conditional.chunk(2, -1), unconditional.chunk(2, -1)
    s = (2 * (a - a_u).clamp(max=0)).exp()  # (sigma_c / sigma_u)^2, at most 1
    precision = guidance + (1 - guidance) * s  # relative to the conditional Gaussian's precision
    return torch.cat([a - 0.5 * precision.log(), (guidance * b + (1 - guidance) * s * b_u) / precision], -1)


@dataclass(frozen=True)
class Guidance:
    """Combines a block's conditional and unconditional (a, b) into one; see `TARFlow.inverse`."""

    w: float
    rule: Literal["linear", "starflow"]
    anneal: bool
    temperature: float

    def __call__(self, output: Tensor, progress: float) -> Tensor:
        """Both branches' (a, b) (2B, 2C) -> (B, 2C); `progress` in (0, 1] is the share of tokens done."""
        conditional, unconditional = output.chunk(2)
        if self.rule == "starflow":
            # The released code computes annealed weights and does not use them.
            return starflow_guide(conditional, unconditional, self.w)
        w = 1 + (self.w - 1) * progress if self.anneal else self.w
        return guide(conditional, unconditional, w)


def _norm(width: int, adaptive: bool) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) if adaptive else nn.LayerNorm(width)


class CausalLayer(nn.Module):
    """A causal pre-norm transformer layer; with `adaptive`, an adaLN-Zero layer as in DiT."""

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
        """x holds all tokens (B, T, D) or, with a cache, the single token number `index`.

        Args:
            modulation: (..., 6D), the output of `self.modulation` for a condition.
            cache: (2, B, heads, T, D / heads), keys and values of the tokens up to `index`.
            sharpen: (B, 1, 1, 1), inverse temperatures that multiply the attention logits.
            rotary: (T, D / heads), rotary positions.
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
    """An affine map of each token, z_i = (x_i - b_i) exp(-a_i), with (a_i, b_i) from the tokens before i."""

    def affine(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """a and b (B, T, C) of every token."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> the same shape, and the log-determinant (B,)."""
        a, b = self.affine(x, labels)
        return (x - b) * (-a).exp(), -a.sum((1, 2))

    def inverse(self, z: Tensor, labels: Tensor | None, guidance: Guidance | None = None) -> Tensor:
        """x from z, token by token with cached keys and values.

        With guidance, labels are (2B,); see `with_unconditional`.
        """
        raise NotImplementedError


class AutoregressiveBlock(AffineBlock):
    """TARFlow's block: the first token is unchanged, and positions are learned.

    The class is added to every embedded token or, with `adaptive`, modulates the layers and the output.
    """

    def __init__(
        self, spec: LatentSpec, classes: int, width: int, layers: int, heads: int, adaptive: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.classes = heads, classes
        self.embed = nn.Linear(spec.channels, width)
        self.positions = nn.Parameter(torch.empty(spec.tokens, width))
        rows = max(classes, 1) if adaptive else classes  # modulation needs a condition without classes, too
        self.labels = nn.Parameter(torch.empty(rows, width)) if rows else None
        self.layers = nn.ModuleList(CausalLayer(width, heads, adaptive) for _ in range(layers))
        self.norm = _norm(width, adaptive) if adaptive else None
        self.modulation = nn.Linear(width, 2 * width) if adaptive else None
        self.output = nn.Linear(width, 2 * spec.channels)
        for table in (self.positions, self.labels):
            if table is not None:
                # ml-tarflow has std 0.01. At 0.5, the scale of the embedded tokens, short runs also learn
                # positions and classes: after 800 steps on 8x8 digits a classifier agrees with 97 % of the
                # labels instead of 42 %.
                nn.init.normal_(table, std=0.5)
        # ml-tarflow leaves the output's bias random. With a zero bias an untrained flow is the identity.
        zero(self.output, *(m.modulation for m in (self, *self.layers) if m.modulation is not None))

    def label(self, labels: Tensor | None) -> Tensor | float:
        """The class embeddings, broadcastable to (B, 1, width); "no class" is the mean of all classes."""
        if self.labels is None:
            return 0.0
        mean = self.labels.mean(0)
        if labels is None or not self.classes:
            return mean
        return torch.where(labels[:, None] < 0, mean, self.labels[labels.clamp_min(0)])[:, None]

    def condition(self, labels: Tensor | None) -> tuple[Tensor | float, list[Tensor | None]]:
        """The summand of embedded tokens, and the modulations of all layers and, last, of the output."""
        label = self.label(labels)
        if self.modulation is None:
            return label, [None] * (len(self.layers) + 1)
        linears = [*(cast(CausalLayer, layer).modulation for layer in self.layers), self.modulation]
        return 0.0, [cast(nn.Linear, linear)(silu(cast(Tensor, label))) for linear in linears]

    def head(self, hidden: Tensor, modulation: Tensor | None) -> Tensor:
        """(B, n, width) -> (B, n, 2C): a and b of each next token."""
        if self.norm is not None and modulation is not None:
            hidden = modulate(self.norm(hidden), *modulation.chunk(2, dim=-1))
        return single(self.output(hidden))  # in float32: log-determinants sum over all tokens and channels

    def affine(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        label, modulations = self.condition(labels)
        hidden = self.embed(x) + self.positions + label
        for layer, modulation in zip(self.layers, modulations[:-1], strict=True):
            hidden = layer(hidden, modulation)
        # The output at token i - 1 transforms token i; zeros leave token 0 unchanged.
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
    """STARFlow's block: every token is transformed, as a learned token precedes the first; rotary positions.

    With classes, the class is one more token at the very start.
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
        # Each input has the position of the token that it predicts; the class has that of the first token.
        rotary = torch.cat([rotary[:1], rotary]) if classes else rotary
        self.register_buffer("rotary", rotary, persistent=False)
        zero(self.output)

    def head(self, hidden: Tensor) -> Tensor:
        """(B, ..., width) -> (B, ..., 2C): a and b, where e^a is a softplus that is 1 at output 0."""
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
    """Inverse temperatures of attention (2B, 1, 1, 1), 1 in the conditional half; None if all are 1."""
    if guidance is None or guidance.temperature == 1:
        return None
    sharpen = torch.ones_like(z[:, 0, 0]).repeat(2)
    sharpen[len(z) :] = 1 / guidance.temperature
    return sharpen[:, None, None, None]


@register("tarflow")
class TARFlow(Likelihood):
    """Autoregressive blocks in alternating token order, trained by likelihood on noised latents."""

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # No noise, as SimFlow's latents are already noisy. SimFlow names two depths for XXL: 46 (section 5.1)
        # gives the published 1.4 B parameters; 36 (Table 8) gives 1.13 B.
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
        # Class-conditional like the paper's ImageNet models. These are not released; the text models are.
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
        # For pixels as tokens: patches of 2 x 2 at 64 pixels, of 4 x 4 at 128 pixels.
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
        """
        Args:
            layers: transformer layers per block.
            noise_std: standard deviation of noise on training latents (TARFlow: up to 0.15; STARFlow: 0.3).
            deep: layers of the last block, which comes first in sampling; 0 means `layers`.
            conditioning: `embedding` adds the class to the embedded tokens; `adaln` has adaptive layer norms
                (SimFlow); `prefix` has STARFlow's blocks, with the class as the first token of the last block
                alone, and without STARFlow's penalty on the blocks' inputs (1e-4).
        """
        super().__init__(spec, classes)
        divide_width(width, heads)
        if spec.tokens < 2:
            raise Unfit(
                "tarflow transforms each token given those before it, and this latent has a single one"
            )
        self.noise_std, self.label_dropout = noise_std, label_dropout
        last = blocks - 1
        # Every second block reads the tokens backward; in STARFlow the last block reads forward.
        forward_block = last if conditioning == "prefix" else 0
        self.backward = [(index - forward_block) % 2 == 1 for index in range(blocks)]

        def block(index: int) -> AffineBlock:
            depth = deep if deep and index == last else layers
            if conditioning == "prefix":
                return PrefixBlock(spec, classes if index == last else 0, width, depth, heads)
            return AutoregressiveBlock(spec, classes, width, depth, heads, conditioning == "adaln")

        self.blocks = nn.ModuleList(block(index) for index in range(blocks))

    def forward(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (B, T, C) -> (noise (B, T, C), log |det d noise / d z| (B,) in nats, summed over dimensions)."""
        logdet = z.new_zeros(len(z))
        for index, block in enumerate(self.blocks):
            z, change = block(self._reorder(z, index), labels)
            z, logdet = self._reorder(z, index), logdet + change
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

        Args:
            anneal: raises w of the linear rule linearly from 1 over the tokens of each block, as TARFlow's
                evaluate_fid.py always does.
            temperature: divides the attention logits of the unconditional branch.
            guidance_rule: `linear` (TARFlow) guides (a, b) of every block to u + w (c - u) for conditional c
                and unconditional u; `starflow` (also SimFlow) guides the last block alone, by a product of
                Gaussians (`starflow_guide`), and the other blocks stay conditional.
        """
        rule = Guidance(guidance, guidance_rule, anneal, temperature)
        last = len(self.blocks) - 1
        for index, module in reversed(list(enumerate(self.blocks))):
            block, ordered = cast(AffineBlock, module), self._reorder(noise, index)
            guided = guidance_rule == "linear" or index == last
            if labels is None or guidance == 1 or not block.classes or not guided:
                noise = block.inverse(ordered, labels)
            else:
                noise = block.inverse(ordered, with_unconditional(labels), rule)
            noise = self._reorder(noise, index)
        return noise

    def _reorder(self, z: Tensor, index: int) -> Tensor:
        """Tokens in the order in which block `index` reads them, or from this order back."""
        return z.flip(1) if self.backward[index] else z

    def log_prob(self, z: Tensor, labels: Tensor | None) -> Tensor:
        noise, logdet = self(z, labels)
        return logdet - 0.5 * (noise.square() + math.log(2 * math.pi)).sum((1, 2))

    def tapped(self, z: Tensor, labels: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """The log-likelihood (B,), and the hidden tokens (B, T, width) after layer `tap`, in raster order.

        `tap` counts the layers of all blocks from 1, from the block that takes the data: SimFlow's "layer 1
        at the block 3" of blocks with two layers is 5.
        """
        layers = [
            (index, layer)
            for index, block in enumerate(self.blocks)
            for layer in cast(nn.ModuleList, block.layers)
        ]
        if not 1 <= tap <= len(layers):
            raise ValueError(f"tap = {tap} is none of tarflow's layers 1 to {len(layers)}")
        index, layer = layers[tap - 1]
        outputs: list[Tensor] = []
        with layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output)):
            log_prob = self.log_prob(z, labels)
        return log_prob, self._reorder(outputs[0][:, -z.shape[1] :], index)  # without the class token

    def loss(self, z: Tensor, labels: Tensor | None, noise: Noise) -> dict[str, Tensor]:
        """Negative log-likelihood in nats per dimension of the noised latent."""
        noised = z + self.noise_std * noise.normal(z, "noise")
        log_prob = self.log_prob(noised, drop_labels(labels, self.label_dropout, noise))
        return {"nll": -log_prob.mean() / z[0].numel()}

    def score(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The gradient of log p(z) with respect to z (B, T, C), even under `torch.no_grad()`."""
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
        """Inverts noise by `inverse`, applies SimFlow's score step (equation 6), then denoises.

        Args:
            denoise: whether training's noise is removed by Tweedie's formula.
            anneal, temperature, guidance_rule: as in `inverse`.
            score_step: gamma of SimFlow (0.25), which moves z by gamma (grad log p(z | c) - grad log p(z)),
                with the likelihood summed over all elements. Not applied at guidance = 1.
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
