"""Blocks that several networks share: embeddings, positions, adaptive layer norms and the per-token MLP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..api import LatentSpec, Noise


def single(x: Tensor) -> Tensor:
    """In single precision, unless it has double: what half precision gave, for sums and differences."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(like: Tensor) -> torch.autocast:
    """Keeps matrix products on the device of `like` in the precision of what they are given."""
    # The meta device, on which operations are counted, has no autocast to be turned off.
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


class RMSNorm(nn.RMSNorm):
    """torch's, with the gain in the input's precision, without which its fused kernel isn't taken."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm's affine map: x (1 + scale) + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def xavier(module: nn.Module) -> None:
    """For `network.apply(xavier)`: linear layers as in DiT and MAR (Xavier-uniform weights, zero biases)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def zero(*layers: nn.Linear) -> None:
    """Zero weights and biases: a residual branch starts as the identity, an output as zero."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def divide_width(width: int, heads: int, multiple: int = 1) -> int:
    """Channels per attention head; `multiple` is what they must be divisible by."""
    if width % (heads * multiple):
        needs = f"{multiple} x heads = {heads * multiple}" if multiple > 1 else f"heads = {heads}"
        raise ValueError(f"width = {width} is not divisible by {needs}")
    return width // heads


def drop_labels(labels: Tensor | None, probability: float, noise: Noise) -> Tensor | None:
    """labels (B,) with each one replaced by -1 ("no class") with the given probability."""
    if labels is None or probability == 0:
        return labels
    return labels.masked_fill(noise.uniform(labels.float(), "dropped labels") < probability, -1)


class LabelEmbedding(nn.Module):
    """A row per class and one for "no class" (label -1, labels None, or a model without classes)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        # Rows start as standard normals. The 0.02 of DiT and MAR suits widths of about 1000: at width 64,
        # after 600 steps on latents of 8x8 digits, a classifier agrees with 16 % of a DiT's labels, not 97 %.
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, labels: Tensor | None, batch: int) -> Tensor:
        """labels (B,) or None -> (B, width)."""
        if labels is None or self.classes == 0:
            return self.table.weight[-1].expand(batch, -1)
        return self.table(torch.where(labels < 0, self.classes, labels))


def sinusoid(t: Tensor, width: int = 256, period: float = 10_000.0) -> Tensor:
    """t (...) -> (..., width): cosines, then sines, at frequencies from 1 down to 1/period."""
    frequencies = torch.exp(-math.log(period) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t[..., None] * frequencies.to(t.dtype)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoid of the raw time (in [0, 1], not multiplied by 1000, as in LightningDiT), then a small MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.apply(xavier)  # DiT: normal, 0.02; see LabelEmbedding

    def forward(self, t: Tensor) -> Tensor:
        """(...) -> (..., width)."""
        return self.mlp(sinusoid(t))


def _angles(spec: LatentSpec, frequencies: int) -> Tensor:
    """(T, axes, K): coordinates times 10000^(-k/K), K = frequencies / axes; a grid has rows and columns."""
    if spec.grid:
        coordinates = torch.cartesian_prod(*(torch.arange(size) for size in spec.grid))
    else:
        coordinates = torch.arange(spec.tokens)[:, None]
    count = frequencies // coordinates.shape[1]
    return coordinates[:, :, None] * 10_000.0 ** -(torch.arange(count) / count)


def position_table(spec: LatentSpec, width: int) -> Tensor:
    """(T, width): fixed sines and cosines of each coordinate; width divisible by 2, with a grid by 4."""
    angles = _angles(spec, width // 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def rotary_table(spec: LatentSpec, head_width: int) -> Tensor:
    """(T, head_width): cosines and sines, alternating; head_width divisible by 2, with a grid by 4."""
    angles = _angles(spec, head_width // 2).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotary embedding (Su et al., 2021) of queries or keys (..., T, head_width) by `rotary_table`."""
    if torch.compiler.is_compiling():  # it fuses this, and knows no complex numbers
        (a, b), (cos, sin) = (single(y).unflatten(-1, (-1, 2)).unbind(-1) for y in (x, table))
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
    # One multiplication of complex numbers: several times faster on a CPU than cosines and sines apart.
    return torch.view_as_real(_complex(x) * _complex(table)).flatten(-2).type_as(x)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(single(x).unflatten(-1, (-1, 2)))  # there are none of half precision


class _ResidualMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return torch.addcmul(x, gate, self.mlp(modulate(self.norm(x), shift, scale)))


class TokenMLP(nn.Module):
    """The residual MLP with adaptive layer norm that sees one token at a time (MAR, Li et al., 2024).

    It is MAR's head and, without a condition, Flow Priors' velocity network (whose paper says GELU where
    the code has SiLU). Modulations and output start at zero.
    """

    def __init__(self, channels: int, outputs: int, width: int, depth: int, condition: int = 0) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.time = TimeEmbedding(width)
        self.condition = nn.Linear(condition, width) if condition else None
        blocks = [_ResidualMLP(width) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, outputs)
        self.apply(xavier)
        zero(self.modulation, self.output, *(block.modulation for block in blocks))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (..., channels), t broadcastable to x's leading axes, condition (..., D) -> (..., outputs)."""
        return self.tapped(x, t, condition, len(self.blocks))[0]

    def tapped(self, x: Tensor, t: Tensor, condition: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """The output, and the hidden values (..., width) after block `tap`, counted from 1."""
        embedded = self.time(t)
        if self.condition is not None:
            embedded = embedded + self.condition(condition)
        embedded = nn.functional.silu(embedded)
        x = hidden = self.embed(x)
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, embedded)
            hidden = x if index == tap else hidden
        shift, scale = self.modulation(embedded).chunk(2, dim=-1)
        return self.output(modulate(self.norm(x), shift, scale)), hidden
