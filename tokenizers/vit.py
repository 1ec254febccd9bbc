"""A vision-transformer autoencoder with a latent per patch or learned latent tokens (SoftVQ, 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import ImageSpec, LatentSpec, Noise, Tokenizer
from ..bench.nn.blocks import RMSNorm, divide_width
from ..bench.nn.dit import Attention, swiglu
from ..bench.nn.patch_mask import PatchMask
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Grid = tuple[int, int]

DETOK = {"style": "detok", "patch": 16, "channels": 16}


def table(rows: int, width: int, spec: LatentSpec) -> nn.Parameter:
    """Learned tokens or positions (1, rows, width)."""
    # timm's deviation of 0.02 is best with a grid. Latent tokens must find their patches by attention, which
    # such small positions leave nearly uniform: on 8 x 8 digits they then learn almost nothing in 300 steps.
    return nn.Parameter(torch.randn(1, rows, width) * (0.02 if spec.grid else 0.5))


class Trunk(nn.Sequential):
    """Pre-norm transformer blocks and a final norm, (B, N, width) -> (B, N, width)."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        # SoftVQ starts from DINOv2, which has LayerScale; nothing is pretrained here, so it is left out.
        blocks = (Block(width, heads, qkv_bias=True) for _ in range(depth))
        super().__init__(*blocks, nn.LayerNorm(width, eps=1e-6))

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        return super().forward(x)


def rotations(grid: Grid, width: int, latents: int = 0) -> Tensor:
    """Alternating cosines and sines of l-DeTok's angles for `rotate`: (h w + latents, width).

    Coordinates go from 0 to 1 over any grid, as interpolated positions do. Each axis has width / 4
    frequencies, from 7 turns over the grid down to 0.0007. Learned latent tokens have no place and no angle.
    """
    places = torch.cartesian_prod(*(torch.linspace(0, 1, side) for side in grid))
    frequencies = 7 * 1e4 ** -torch.linspace(0, 1, width // 4)
    angles = (2 * math.pi * places[:, :, None] * frequencies).flatten(1)
    angles = F.pad(angles, (0, 0, 0, latents))
    return torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)


class RotaryBlock(nn.Module):
    """l-DeTok's block: attention with rotary positions, and a SwiGLU of 8/3 times the width; RMSNorms."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), Attention(width, heads)
        self.norm2, self.mlp = RMSNorm(width), swiglu(width)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), rotary)
        return x + self.mlp(self.norm2(x))


class RotaryTrunk(nn.Module):
    """l-DeTok's blocks between two norms, for the grid's tokens and then the learned ones."""

    rotary: Tensor

    def __init__(self, width: int, depth: int, heads: int, grid: Grid, latents: int = 0) -> None:
        super().__init__()
        self.head_width = divide_width(width, heads, 4)
        self.norm, self.last_norm = RMSNorm(width), RMSNorm(width)
        self.blocks = nn.ModuleList(RotaryBlock(width, heads) for _ in range(depth))
        self.register_buffer("rotary", rotations(grid, self.head_width, latents), persistent=False)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        rotary = self.rotary if grid is None else rotations(grid, self.head_width).to(self.rotary)
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, rotary)
        return self.last_norm(x)


class Encoder(nn.Module):
    """Images (B, c, H, W) -> (B, T, channels of `head`); the tokenizer sets `head` last.

    With noise, `mask` hides patches, where there is one.
    """

    head: nn.Linear
    mask: PatchMask | None

    def __init__(
        self, image: ImageSpec, spec: LatentSpec, patch: int, width: int, trunk: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(image.channels, width, patch, patch)
        self.positions = table(image.height * image.width // patch**2, width, spec)
        # SoftVQ adds a learned position to each latent token; one table holds their sum.
        self.latents = None if spec.grid else table(spec.tokens, width, spec)
        self.trunk, self.mask = trunk(), None

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        if self.mask is not None and noise is not None:
            x = self.mask(x, noise)
        x = x + self.positions
        if self.latents is None:
            return self.head(self.trunk(x))
        x = torch.cat((x, self.latents.expand(len(x), -1, -1)), 1)
        return self.head(self.trunk(x)[:, self.positions.shape[1] :])


class Decoder(nn.Module):
    """z (B, T, C) -> (B, c, H, W); the tokenizer may set `smooth`, a last layer on images."""

    smooth: nn.Module

    def __init__(
        self, image: ImageSpec, spec: LatentSpec, patch: int, width: int, trunk: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        patches = image.height * image.width // patch**2
        self.rows = image.height // patch
        self.project = nn.Linear(spec.channels, width)
        self.positions = table(patches, width, spec)
        # With latent tokens, every patch starts from one mask token, which is part of the positions.
        self.latents = None if spec.grid else table(spec.tokens, width, spec)
        self.trunk = trunk()
        self.head = nn.Linear(width, image.channels * patch**2)
        self.fold, self.smooth = nn.PixelShuffle(patch), nn.Identity()

    def forward(self, z: Tensor, grid: Grid | None = None) -> Tensor:
        x, rows = self.project(z), grid[0] if grid else self.rows
        positions = self.positions if grid is None else self.positions_on(grid)
        if self.latents is None:
            x = x + positions
        else:
            x = torch.cat((positions.expand(len(z), -1, -1), x + self.latents), 1)
        x = self.head(self.trunk(x, grid)[:, : positions.shape[1]])
        return self.smooth(self.fold(x.transpose(1, 2).unflatten(2, (rows, -1))))

    def positions_on(self, grid: Grid) -> Tensor:
        """The positions (1, h w, width) on another grid (h, w), by bicubic interpolation as timm has it."""
        table = self.positions.transpose(1, 2).unflatten(2, (self.rows, -1))
        return F.interpolate(table, grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


@register("vit")
class ViT(Tokenizer):
    """A vision-transformer autoencoder with timm's blocks, or l-DeTok's.

    Without `latents` there is one latent token per patch, on the patches' grid. Otherwise `latents` learned
    tokens are appended to the patches and alone pass the bottleneck; they have no grid and learn more slowly.
    The decoder takes latents on other grids, with interpolated positions. With `mask` the encoder sees a part
    of the patches in training, like MAETok's: see `softvq`.

    The style `detok` is l-DeTok's network: RMSNorm, also before the first block, SwiGLU, rotary positions
    beside the learned ones, and a 3 x 3 convolution of the decoded pixels. Its training is the regularizer
    `denoising` on `kl`. Unlike there, `mask` is MAETok's, so the decoder has no mask token; layers start as
    PyTorch's do and positions with a deviation of 0.02, not with 0.02 and width^-0.5; the channels of a
    rotated pair share a frequency, where l-DeTok's code gives them two.

    Paper: the layout with latent tokens: Chen et al., "SoftVQ-VAE", 2025 (arXiv 2412.10958). The style:
    Yang et al., "Latent Denoising Makes Good Visual Tokenizers", 2025 (arXiv 2507.15856).
    """

    sizes = {
        "detok-SS": DETOK | {"width": 512, "depth": 8, "heads": 8},
        "detok-BB": DETOK | {"width": 768, "depth": 12, "heads": 12},
        "detok-LL": DETOK | {"width": 1024, "depth": 24, "heads": 16},
    }
    later = frozenset({"mask", "style"})

    encoder: Encoder
    decoder: Decoder

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        width: Positive = 64,
        depth: Positive = 3,
        heads: Positive = 4,
        patch: Positive = 2,
        channels: Positive = 8,
        latents: Positive | None = None,
        mask: tuple[Share, Share] | None = None,
        style: Literal["timm", "detok"] = "timm",
        extra: int = 0,
    ) -> None:
        """
        Args:
            width: width of both transformers.
            depth: blocks of the encoder, and again of the decoder.
            heads: attention heads, which divide the width.
            patch: side of a patch in pixels.
            channels: numbers in each latent token.
            latents: number of learned latent tokens; null: one latent token a patch.
            mask: least and greatest share of patches that the encoder doesn't see in training, such as [0.4,
                0.6]; null: it sees all.
            style: whose blocks and last layers: `timm`, or `detok` (l-DeTok), in which 4 times the heads
                divide the width.
        """
        super().__init__(image, expansion, extra)
        if image.height % patch or image.width % patch:
            raise ValueError(f"patch {patch} does not divide the image size {image.height} x {image.width}")
        if width % heads:
            raise ValueError(f"heads {heads} does not divide width {width}")
        grid = (image.height // patch, image.width // patch)
        self.spec = LatentSpec(grid[0] * grid[1], channels, grid)
        if latents:
            self.spec = LatentSpec(latents, channels)
        self.regrids = self.spec.grid is not None
        trunk: Callable[[], nn.Module] = partial(Trunk, width, depth, heads)
        if style == "detok":
            trunk = partial(RotaryTrunk, width, depth, heads, grid, latents or 0)
        self.encoder = Encoder(image, self.spec, patch, width, trunk)
        self.decoder = Decoder(image, self.spec, patch, width, trunk)
        if style == "detok":
            self.decoder.smooth = nn.Conv2d(image.channels, image.channels, 3, padding=1)
        if mask is not None:
            self.encoder.mask = PatchMask(width, mask)
        self.encoder.head = nn.Linear(width, channels * expansion + extra)

    @classmethod
    def first_options(cls, image: ImageSpec, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        height, width = image.height, image.width
        sides = (side for side in range(2, height + 1) if height % side == 0 == width % side)
        patch = next((side for side in sides if height * width // side**2 <= tokens), None)
        if patch is None:
            return {}
        wide = image.channels * patch**2 > 64  # values of a patch
        return {"patch": patch, "width": 128 if wide else 64, "channels": 16 if wide else 8}

    def encode_in_training(self, images: Tensor, noise: Noise) -> Tensor:
        return self.encoder(images, noise)

    def decode(self, z: Tensor, grid: Grid | None = None) -> Tensor:
        return self.decoder(z, grid)

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        plain = isinstance(self.decoder.smooth, nn.Identity)
        last = self.decoder.head if plain else self.decoder.smooth
        layers = {"encoder": self.encoder.head, "decoder": last}
        return {name: layer.get_parameter("weight") for name, layer in layers.items()}
