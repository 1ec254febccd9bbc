"""The convolutional autoencoder of latent diffusion (Rombach et al., 2022) in the layout of MAR's KL-16."""

from __future__ import annotations

from math import gcd
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import ImageSpec, LatentSpec, Tokenizer
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]


def norm(channels: int) -> nn.GroupNorm:
    """32 groups, or fewer in a narrow network: a group keeps the four channels that it has at width 128."""
    return nn.GroupNorm(gcd(32, channels, max(1, channels // 4)), channels, eps=1e-6)


def conv(inner: int, outer: int) -> nn.Conv2d:
    """3 x 3, size kept."""
    return nn.Conv2d(inner, outer, 3, padding=1)


class ResBlock(nn.Module):
    """Norm, swish, convolution, twice, around a skip connection (1 x 1 where the width changes)."""

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
    """One head over all positions, with a skip connection."""

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
    """Halves the size, padded on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def middle(channels: int) -> list[nn.Module]:
    """The blocks at the lowest resolution."""
    return [ResBlock(channels, channels), Attention(channels), ResBlock(channels, channels)]


def encoder(colours: int, width: int, mult: tuple[int, ...], blocks: int) -> list[nn.Module]:
    """Layers from images (B, c, H, W) to features (B, width * mult[-1], h, w)."""
    layers: list[nn.Module] = [conv(colours, width)]
    inner = width
    for level, factor in enumerate(mult):
        if level > 0:
            layers.append(Down(inner))
        for _ in range(blocks):
            layers.append(ResBlock(inner, width * factor))
            inner = width * factor
            # MAR: at 16 x 16, which is its lowest resolution, and in the encoder only.
            if level == len(mult) - 1:
                layers.append(Attention(inner))
    return [*layers, *middle(inner), norm(inner), nn.SiLU()]


def decoder(colours: int, width: int, mult: tuple[int, ...], blocks: int, channels: int) -> list[nn.Module]:
    """Layers from latents (B, C, h, w) to images (B, c, H, W)."""
    inner = width * mult[-1]
    layers = [nn.Conv2d(channels, channels, 1), conv(channels, inner), *middle(inner)]
    for level, factor in reversed(list(enumerate(mult))):
        for _ in range(blocks + 1):
            layers.append(ResBlock(inner, width * factor))
            inner = width * factor
        if level > 0:
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), conv(inner, inner)]
    return [*layers, norm(inner), nn.SiLU(), conv(inner, colours)]


@register("conv")
class Conv(Tokenizer):
    """The convolutional autoencoder of latent diffusion; len(mult) - 1 halvings of the size.

    MAR's KL-16 is width 128, mult (1, 1, 2, 2, 4), blocks 2, channels 16, with expansion 2.
    """

    encoder: nn.Sequential
    decoder: nn.Sequential

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        width: Positive = 32,
        mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2),
        blocks: Positive = 1,
        channels: Positive = 8,
    ) -> None:
        super().__init__(image, expansion)
        factor = 2 ** (len(mult) - 1)
        if image.height % factor or image.width % factor:
            raise ValueError(
                f"mult {tuple(mult)} divides the size by {factor}, which does not divide "
                f"the image size {image.height} x {image.width}"
            )
        grid = (image.height // factor, image.width // factor)
        self.spec = LatentSpec(grid[0] * grid[1], channels, grid)
        self.grid = grid
        features = encoder(image.channels, width, mult, blocks)
        self.decoder = nn.Sequential(*decoder(image.channels, width, mult, blocks, channels))
        hidden = channels * expansion
        self.encoder = nn.Sequential(*features, conv(width * mult[-1], hidden), nn.Conv2d(hidden, hidden, 1))

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: part[-1].get_parameter("weight") for name, part in parts.items()}

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images).flatten(2).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z.transpose(1, 2).unflatten(2, self.grid))
