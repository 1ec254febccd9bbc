"""The residual convolutional networks of latent diffusion (Rombach et al., 2022), as lists of layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from torch import Tensor, nn
from torch.nn import functional as F

from ..api import ImageSpec


def downsampling(image: ImageSpec, mult: Sequence[int]) -> int:
    """The factor by which levels reduce an image's size; ValueError if the size is no multiple of it."""
    factor = 2 ** (len(mult) - 1)
    if image.height % factor or image.width % factor:
        raise ValueError(
            f"mult {tuple(mult)} divides the size by {factor}, which does not divide "
            f"the image size {image.height} x {image.width}"
        )
    return factor


def norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups, fewer in narrow networks: groups keep the four channels of width 128."""
    return nn.GroupNorm(gcd(32, channels, max(1, channels // 4)), channels, eps=1e-6)


def conv(inner: int, outer: int) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(inner, outer, 3, padding=1)


class ResBlock(nn.Module):
    """Norm, swish and convolution, twice, with a skip connection (1 x 1 if the width changes)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        swish = nn.SiLU()
        self.path = nn.Sequential(
            norm(inner), swish, conv(inner, outer), norm(outer), swish, conv(outer, outer)
        )
        self.skip = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.path(x)


class Attention(nn.Module):
    """Self-attention with one head over all positions, with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, h w, 3 C)
        attended = F.scaled_dot_product_attention(*qkv.chunk(3, -1))
        return x + self.out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))


class Down(nn.Conv2d):
    """A convolution that halves the size, padded on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def up() -> nn.Upsample:
    """A layer that doubles the size."""
    return nn.Upsample(scale_factor=2, mode="nearest")


def middle(channels: int) -> list[nn.Module]:
    """The blocks at the lowest resolution."""
    return [ResBlock(channels, channels), Attention(channels), ResBlock(channels, channels)]


def encoder(colours: int, width: int, mult: Sequence[int], blocks: int) -> list[nn.Module]:
    """Layers from images (B, c, H, W) to features (B, width * mult[-1], h, w)."""
    layers: list[nn.Module] = [conv(colours, width)]
    inner = width
    for level, factor in enumerate(mult):
        if level > 0:
            layers.append(Down(inner))
        for _ in range(blocks):
            layers.append(ResBlock(inner, width * factor))
            inner = width * factor
            # MAR has attention at 16 x 16, its lowest resolution, in the encoder only.
            if level == len(mult) - 1:
                layers.append(Attention(inner))
    return [*layers, *middle(inner), norm(inner), nn.SiLU()]


def decoder(
    colours: int, width: int, mult: Sequence[int], blocks: int, attention: bool = False
) -> list[nn.Module]:
    """Layers from features (B, width * mult[-1], h, w) to images (B, c, H, W).

    With `attention`, as in latent diffusion and VA-VAE, also with attention after each block of the lowest
    resolution.
    """
    inner = width * mult[-1]
    layers = middle(inner)
    for level, factor in reversed(list(enumerate(mult))):
        for _ in range(blocks + 1):
            layers.append(ResBlock(inner, width * factor))
            inner = width * factor
            if attention and level == len(mult) - 1:
                layers.append(Attention(inner))
        if level > 0:
            layers += [up(), conv(inner, inner)]
    return [*layers, norm(inner), nn.SiLU(), conv(inner, colours)]
