"""Causal transformer blocks of autoregressive flows: TARFlow's, and STARFlow's with prefix conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention, silu, softplus

from ..api import LatentSpec
from ..flow import guide
from .blocks import LabelEmbedding, RMSNorm, divide_width, modulate, rotary_table, rotate, single, zero


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

    def __call__(self, output: Tensor, progress: float | Tensor) -> Tensor:
        """Both branches' (a, b) (2B, n, 2C) -> (B, n, 2C); `progress` is the share of tokens done, to 1."""
        conditional, unconditional = output.chunk(2)
        if self.rule == "starflow":
            # The released code computes annealed weights and does not use them.
            return starflow_guide(conditional, unconditional, self.w)
        w = 1 + (self.w - 1) * progress if self.anneal else self.w
        return guide(conditional, unconditional, w)


def _norm(width: int, adaptive: bool) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) if adaptive else nn.LayerNorm(width)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, the hidden one four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class CausalLayer(nn.Module):
    """A causal pre-norm transformer layer; with `adaptive`, an adaLN-Zero layer as in DiT."""

    def __init__(self, width: int, heads: int, adaptive: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = _norm(width, adaptive)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm2 = _norm(width, adaptive)
        self.mlp = MLP(width)
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
        """x holds all tokens (B, T, D) or, with a cache, the n tokens from number `index` on, (B, n, D).

        Args:
            modulation: (..., 6D), the output of `self.modulation` for a condition.
            cache: (2, B, heads, T, D / heads), keys and values of the tokens before `index`; those of x are
                written into it.
            sharpen: (B, 1, 1, 1), inverse temperatures that multiply the attention logits.
            rotary: (n, D / heads), rotary positions of x.
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
        batch, tokens, width = x.shape
        heads = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        mask = None
        if cache is not None:
            stop = index + tokens
            cache[0, :, :, index:stop], cache[1, :, :, index:stop] = k, v
            k, v = cache[:, :, :, :stop].unbind()
            if tokens > 1:
                mask = torch.ones(tokens, stop, dtype=torch.bool, device=x.device).tril(index)
        q = q if sharpen is None else q * sharpen
        attended = scaled_dot_product_attention(q, k, v, mask, is_causal=cache is None)
        return self.output(attended.transpose(1, 2).reshape(batch, tokens, width))


# (x, start, stop) -> a, b (B, n, C) of the n tokens start … stop - 1, given x before `stop`.
Decoder = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]


class AffineBlock(nn.Module):
    """An affine map of each token, z_i = (x_i - b_i) exp(-a_i), with (a_i, b_i) from the tokens before i."""

    first = 0  # the first token that is transformed

    def affine(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """a and b (B, T, C) of every token."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> the same shape, and the log-determinant (B,)."""
        a, b = self.affine(x, labels)
        return (x - b) * (-a).exp(), -a.sum((1, 2))

    def inverse(
        self,
        z: Tensor,
        labels: Tensor | None,
        guidance: Guidance | None = None,
        group: int = 1,
        tolerance: float = 0.0,
    ) -> Tensor:
        """x from z, token by token with cached keys and values.

        With a `group` of several tokens, these are computed together: they start as those of z, and
        x = z exp(a(x)) + b(x) is repeated until no number changes by more than `tolerance` (a Jacobi
        iteration; group after group is a Gauss-Seidel iteration). As tokens depend on earlier ones alone, a
        group is exact after as many rounds as it has tokens.

        With guidance, labels are (2B,); see `with_unconditional`.
        """
        x, tokens = z.clone(), z.shape[1]
        decode = self.decoder(z, labels, guidance)
        for start in range(self.first, tokens, group):
            stop = min(start + group, tokens)
            now, target = x[:, start:stop], z[:, start:stop]
            for rounds_left in reversed(range(stop - start)):
                a, b = decode(x, start, stop)
                following = torch.addcmul(b, target, a.exp())
                done = not rounds_left or (following - now).abs().max() <= tolerance
                now.copy_(following)
                if done:
                    break
        return x

    def decoder(self, z: Tensor, labels: Tensor | None, guidance: Guidance | None) -> Decoder:
        """Computes a and b of tokens of `inverse`, with caches that hold what it has computed before."""
        raise NotImplementedError

    def progress(self, start: int, stop: int, tokens: int, like: Tensor) -> float | Tensor:
        """The share of tokens done after each of the tokens start … stop - 1: a number, or (n, 1)."""
        total = tokens - self.first
        if stop - start == 1:
            return (stop - self.first) / total
        done = torch.arange(start + 1, stop + 1, device=like.device) - self.first
        return done[:, None] / total


class AutoregressiveBlock(AffineBlock):
    """TARFlow's block: the first token is unchanged, and positions are learned.

    The class is added to every embedded token or, with `adaptive`, modulates the layers and the output.
    """

    first = 1

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

    def decoder(self, z: Tensor, labels: Tensor | None, guidance: Guidance | None) -> Decoder:
        batch, tokens, _ = z.shape
        copies, width = 1 if guidance is None else 2, self.positions.shape[1]
        caches = z.new_empty(len(self.layers), 2, copies * batch, self.heads, tokens - 1, width // self.heads)
        sharpen = _sharpen(z, guidance)
        label, modulations = self.condition(labels)
        added = (label + z.new_zeros(copies * batch, 1, width)).unflatten(0, (copies, batch))

        def decode(x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
            # The output at token i - 1 transforms token i.
            known = x[:, start - 1 : stop - 1].contiguous()
            hidden = self.embed(known) + self.positions[start - 1 : stop - 1]
            hidden = (hidden + added).flatten(0, 1)  # (copies, B, n, width), then (copies B, n, width)
            for layer, modulation, cache in zip(self.layers, modulations[:-1], caches, strict=True):
                hidden = layer(hidden, modulation, cache, start - 1, sharpen)
            output = self.head(hidden, modulations[-1])
            if guidance is not None:
                output = guidance(output, self.progress(start, stop, tokens, z))
            a, b = output.chunk(2, dim=-1)
            return a, b

        return decode


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
        hidden = self.embed(self._inputs(x))
        if self.label is not None:
            hidden = torch.cat([self.label(labels, len(x))[:, None], hidden], dim=1)
        for layer in self.layers:
            hidden = layer(hidden, rotary=self.rotary)
        a, b = self.head(hidden[:, -x.shape[1] :]).chunk(2, dim=-1)
        return a, b

    def decoder(self, z: Tensor, labels: Tensor | None, guidance: Guidance | None) -> Decoder:
        batch, tokens, _ = z.shape
        copies, (positions, head_width) = 1 if guidance is None else 2, self.rotary.shape
        caches = z.new_empty(len(self.layers), 2, copies * batch, self.heads, positions, head_width)
        sharpen = _sharpen(z, guidance)

        def decode(x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
            # Token i is transformed by the output at its place, where token i - 1 or the start is the input.
            known = x[:, start - 1 : stop - 1] if start else self._inputs(x[:, :stop])
            hidden = self.embed(known).repeat(copies, 1, 1)
            place = start + positions - tokens
            if self.label is not None and not start:
                hidden = torch.cat([self.label(labels, copies * batch)[:, None], hidden], dim=1)
                place = 0
            rotary = self.rotary[place : place + hidden.shape[1]]
            for layer, cache in zip(self.layers, caches, strict=True):
                hidden = layer(hidden, None, cache, place, sharpen, rotary)
            output = self.head(hidden[:, start - stop :])
            if guidance is not None:
                output = guidance(output, self.progress(start, stop, tokens, z))
            a, b = output.chunk(2, dim=-1)
            return a, b

        return decode

    def _inputs(self, x: Tensor) -> Tensor:
        """The learned start, and all tokens (B, n, C) but the last."""
        return torch.cat([self.start.expand(len(x), 1, -1), x[:, :-1]], dim=1)


def _sharpen(z: Tensor, guidance: Guidance | None) -> Tensor | None:
    """Inverse temperatures of attention (2B, 1, 1, 1), 1 in the conditional half; None if all are 1."""
    if guidance is None or guidance.temperature == 1:
        return None
    sharpen = torch.ones_like(z[:, 0, 0]).repeat(2)
    sharpen[len(z) :] = 1 / guidance.temperature
    return sharpen[:, None, None, None]
