"""A vision-transformer autoencoder with a latent per patch or learned latent tokens (SoftVQ, 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import ImageSpec, LatentSpec, Noise, Tokenizer
from ..bench.nn.patch_mask import PatchMask
from ..bench.registry import register

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def table(rows: int, width: int, spec: LatentSpec) -> nn.Parameter:
    """Learned tokens or positions (1, rows, width)."""
    # timm's deviation of 0.02 is best with a grid. Latent tokens must find their patches by attention, which
    # such small positions leave nearly uniform: on 8 x 8 digits they then learn almost nothing in 300 steps.
    return nn.Parameter(torch.randn(1, rows, width) * (0.02 if spec.grid else 0.5))


def trunk(width: int, depth: int, heads: int) -> nn.Sequential:
    """Pre-norm transformer blocks and a final norm, (B, N, width) -> (B, N, width)."""
    # SoftVQ starts from DINOv2, which has LayerScale; nothing is pretrained here, so it is left out.
    return nn.Sequential(
        *(Block(width, heads, qkv_bias=True) for _ in range(depth)), nn.LayerNorm(width, eps=1e-6)
    )


class Encoder(nn.Module):
    """Images (B, c, H, W) -> (B, T, channels of `head`); the tokenizer sets `head` last.

    With noise, `mask` hides patches, where there is one.
    """

    head: nn.Linear
    mask: PatchMask | None

    def __init__(
        self, image: ImageSpec, spec: LatentSpec, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(image.channels, width, patch, patch)
        self.positions = table(image.height * image.width // patch**2, width, spec)
        # SoftVQ adds a learned position to each latent token; one table holds their sum.
        self.latents = None if spec.grid else table(spec.tokens, width, spec)
        self.trunk, self.mask = trunk(width, depth, heads), None

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
    """z (B, T, C) -> (B, c, H, W)."""

    def __init__(
        self, image: ImageSpec, spec: LatentSpec, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        patches = image.height * image.width // patch**2
        self.rows = image.height // patch
        self.project = nn.Linear(spec.channels, width)
        self.positions = table(patches, width, spec)
        # With latent tokens, every patch starts from one mask token, which is part of the positions.
        self.latents = None if spec.grid else table(spec.tokens, width, spec)
        self.trunk = trunk(width, depth, heads)
        self.head = nn.Linear(width, image.channels * patch**2)
        self.fold = nn.PixelShuffle(patch)

    def forward(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        x, rows = self.project(z), grid[0] if grid else self.rows
        positions = self.positions if grid is None else self.positions_on(grid)
        if self.latents is None:
            x = x + positions
        else:
            x = torch.cat((positions.expand(len(z), -1, -1), x + self.latents), 1)
        x = self.head(self.trunk(x)[:, : positions.shape[1]])
        return self.fold(x.transpose(1, 2).unflatten(2, (rows, -1)))

    def positions_on(self, grid: tuple[int, int]) -> Tensor:
        """The positions (1, h w, width) on another grid (h, w), by bicubic interpolation as timm has it."""
        table = self.positions.transpose(1, 2).unflatten(2, (self.rows, -1))
        return F.interpolate(table, grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


@register("vit")
class ViT(Tokenizer):
    """A vision-transformer autoencoder with timm's blocks.

    Without `latents` there is one latent token per patch, on the patches' grid. Otherwise `latents` learned
    tokens are appended to the patches and alone pass the bottleneck; they have no grid and learn more slowly.
    The decoder takes latents on other grids, with interpolated positions. With `mask` the encoder sees a part
    of the patches in training, like MAETok's: see `softvq`.

    Paper: the layout with latent tokens: Chen et al., "SoftVQ-VAE", 2025 (arXiv 2412.10958).
    """

    later = frozenset({"mask"})

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
        self.encoder = Encoder(image, self.spec, patch, width, depth, heads)
        self.decoder = Decoder(image, self.spec, patch, width, depth, heads)
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

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(z, grid)

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: part.get_parameter("head.weight") for name, part in parts.items()}
