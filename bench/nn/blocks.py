"""Blocks that several networks share: embeddings, positions, adaptive layer norms and the per-token MLP."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..api import LatentSpec, Noise


def single(x: Tensor) -> Tensor:
    """A tensor in at least single precision, for sums and differences of half-precision values."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(like: Tensor) -> torch.autocast:
    """Turns autocast off on the device of `like`: matrix products keep the precision of their inputs."""
    # The meta device, on which operations are counted, has no autocast.
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm with the gain in the input's precision, which its fused kernel requires."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The affine map of adaptive layer norm: x (1 + scale) + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def xavier(module: nn.Module) -> None:
    """Initialises linear layers as DiT and MAR do: Xavier-uniform weights, zero biases (`network.apply`)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def zero(*layers: nn.Linear) -> None:
    """Zeroes weights and biases, so that a residual block starts as the identity and an output as zero."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def divide_width(width: int, heads: int, multiple: int = 1) -> int:
    """Channels per attention head, which `multiple` must divide."""
    if width % (heads * multiple):
        needs = f"{multiple} x heads = {heads * multiple}" if multiple > 1 else f"heads = {heads}"
        raise ValueError(f"width = {width} is not divisible by {needs}")
    return width // heads


def drop_labels(labels: Tensor | None, probability: float, noise: Noise) -> Tensor | None:
    """Labels (B,), each replaced by -1 ("no class") with this probability."""
    if labels is None or probability == 0:
        return labels
    return labels.masked_fill(noise.uniform(labels.float(), "dropped labels") < probability, -1)


class LabelEmbedding(nn.Module):
    """An embedding per class and one for "no class" (label -1, labels None, or a model without classes)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        # Rows start as standard normals. The 0.02 of DiT and MAR suits widths of about 1000: at width 64,
        # after 600 steps on latents of 8x8 digits, a classifier agrees with 16 % of a DiT's labels, not 97 %.
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, labels: Tensor | None, batch: int) -> Tensor:
        """Labels (B,) or None -> embeddings (B, width)."""
        if labels is None or self.classes == 0:
            return self.table.weight[-1].expand(batch, -1)
        return self.table(torch.where(labels < 0, self.classes, labels))


def sinusoid(t: Tensor, width: int = 256, period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of t (...) at frequencies from 1 down to 1/period: (..., width)."""
    frequencies = torch.exp(-math.log(period) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t[..., None] * frequencies.to(t.dtype)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """A small MLP on the sinusoid of the raw time (in [0, 1], not multiplied by 1000, as in LightningDiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.apply(xavier)  # DiT: normal, 0.02; see LabelEmbedding

    def forward(self, t: Tensor) -> Tensor:
        """Times (...) -> embeddings (..., width)."""
        return self.mlp(sinusoid(t))


def _angles(spec: LatentSpec, frequencies: int) -> Tensor:
    """Coordinates times 10000^(-k/K), (T, axes, K), K = frequencies / axes; a grid has two axes."""
    if spec.grid:
        coordinates = torch.cartesian_prod(*(torch.arange(size) for size in spec.grid))
    else:
        coordinates = torch.arange(spec.tokens)[:, None]
    count = frequencies // coordinates.shape[1]
    return coordinates[:, :, None] * 10_000.0 ** -(torch.arange(count) / count)


def position_table(spec: LatentSpec, width: int) -> Tensor:
    """Fixed sines and cosines of each coordinate, (T, width); width divisible by 2, with a grid by 4."""
    angles = _angles(spec, width // 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def rotary_table(spec: LatentSpec, head_width: int) -> Tensor:
    """Alternating cosines and sines, (T, head_width); head_width divisible by 2, with a grid by 4."""
    angles = _angles(spec, head_width // 2).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotary embedding (Su et al., 2021) of queries or keys (..., T, head_width) by `rotary_table`."""
    if torch.compiler.is_compiling():  # the compiler fuses this form, and has no complex numbers
        (a, b), (cos, sin) = (single(y).unflatten(-1, (-1, 2)).unbind(-1) for y in (x, table))
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
    # One complex multiplication is several times faster on a CPU than separate cosines and sines.
    return torch.view_as_real(_complex(x) * _complex(table)).flatten(-2).type_as(x)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(single(x).unflatten(-1, (-1, 2)))  # complex numbers need single precision


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
    """A residual MLP with adaptive layer norm on each token by itself (MAR, Li et al., 2024).

    MAR's head and, without a condition, Flow Priors' velocity network (whose paper says GELU where the code
    has SiLU). Modulations and output start at zero.
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
        """x (..., channels), t broadcastable to its leading axes, condition (..., D) -> (..., outputs)."""
        return self.tapped(x, t, condition, len(self.blocks))[0]

    def tapped(self, x: Tensor, t: Tensor, condition: Tensor | None, tap: int) -> tuple[Tensor, Tensor]:
        """The output, and the hidden values (..., width) after block `tap`, counted from 1."""
        embedded = self.time(t)
        if self.condition is not None:
            embedded = embedded + self.condition(condition)
        return self._embedded(x, embedded, tap)

    def at_times(self, times: Tensor, condition: Tensor) -> Callable[[Tensor, int], Tensor]:
        """The outputs for x (..., channels) at times[index] as a function of x and the index.

        The embeddings of all times (K,) and of the condition (..., D) are computed once.
        """
        assert self.condition is not None
        embedded_times, embedded_condition = self.time(times), self.condition(condition)
        return lambda x, index: self._embedded(x, embedded_condition + embedded_times[index], 0)[0]

    def _embedded(self, x: Tensor, embedding: Tensor, tap: int) -> tuple[Tensor, Tensor]:
        """The same as `tapped`, for the sum of all embeddings (..., width)."""
        embedding = nn.functional.silu(embedding)
        x = hidden = self.embed(x)
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, embedding)
            hidden = x if index == tap else hidden
        shift, scale = self.modulation(embedding).chunk(2, dim=-1)
        return self.output(modulate(self.norm(x), shift, scale)), hidden
