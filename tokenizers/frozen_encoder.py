"""A frozen feature network as encoder, and a vision transformer that decodes its tokens (RAE, 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.api import FeatureExtractor, ImageSpec, LatentSpec, Tokenizer, Unfit
from ..bench.api.transfer import numbers
from ..bench.registry import Use, register, use

Positive = Annotated[int, Field(ge=1)]
NORM: Any = partial(nn.LayerNorm, eps=1e-12)
DINOV2 = {
    "use": "timm",
    "model": "vit_base_patch14_reg4_dinov2.lvd142m",
    "resolution": 224,
    "norm": "plain",
}


def positions(grid: tuple[int, int], width: int, of: tuple[int, int], device: Any = None) -> Tensor:
    """MAE's fixed positions (1, 1 + h w, width) of a grid (h, w), after zeros for the class token.

    The first half of the channels are sines and cosines of the column, the second half of the row. They are
    those of the centres of `grid`'s cells on a grid `of`, which covers the same image.
    """
    rates = 10000 ** -(torch.arange(width // 4, dtype=torch.float64, device=device) / (width // 4))
    rows, columns = (
        (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * full / count - 0.5
        for count, full in zip(grid, of, strict=True)
    )
    down, across = torch.meshgrid(rows, columns, indexing="ij")
    angles = [side.flatten()[:, None] * rates for side in (across, down)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)
    return F.pad(table, (0, 0, 1, 0)).float()[None]


def unpatchified(patches: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Patches (B, h w, p q c), in the order p, q, c -> images (B, c, h p, w q)."""
    x = patches.unflatten(2, (*patch, -1)).unflatten(1, grid)  # (B, h, w, p, q, c)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def scaled(images: Tensor) -> Tensor:
    """Images (B, c, H, W) in [-1, 1] of values standardised by ImageNet's mean and deviation, if colour."""
    if images.shape[1] != len(IMAGENET_DEFAULT_MEAN):
        return images
    mean, std = (numbers(v, images)[:, None, None] for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (images * std + mean) * 2 - 1


class Encoder(nn.Module):
    """Images (B, c, H, W) in [-1, 1] -> tokens (B, T, C) of a frozen network, without a gradient.

    The network is no submodule: its weights are neither trained nor stored with the tokenizer.
    """

    def __init__(self, extractor: FeatureExtractor, normalise: bool) -> None:
        super().__init__()
        self.extractor, self.normalise = extractor, normalise

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        tokens = self.extractor.describe(images, ["tokens"])["tokens"]
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) if self.normalise else tokens


class Decoder(nn.Module):
    """z (B, T, C) -> (B, c, H, W), where T is the number of cells of `grid`, or of the grid that is given."""

    def __init__(
        self, spec: LatentSpec, image: ImageSpec, width: int, depth: int, heads: int, mlp: int
    ) -> None:
        super().__init__()
        assert spec.grid is not None
        self.grid = spec.grid
        self.patch = (image.height // self.grid[0], image.width // self.grid[1])
        self.embed = nn.Linear(spec.channels, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(positions(self.grid, width, self.grid), requires_grad=False)
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp / width, qkv_bias=True, norm_layer=NORM) for _ in range(depth))
        )
        self.norm = NORM(width)
        self.head = nn.Linear(width, self.patch[0] * self.patch[1] * image.channels)

    def forward(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        x, table = self.embed(z), cast(Tensor, self.positions)
        if grid is not None and grid != self.grid:
            table = positions(grid, table.shape[2], self.grid, z.device)
        x = torch.cat((self.cls.expand(len(z), -1, -1), x), 1) + table
        x = self.head(self.norm(self.blocks(x)))[:, 1:]
        return scaled(unpatchified(x, grid or self.grid, self.patch))


@register("frozen_encoder")
class FrozenEncoder(Tokenizer):
    """Tokens of a frozen feature network as latents, and a ViT decoder, which alone is trained.

    With a size it is RAE: patch tokens of DINOv2-B with registers at 224 pixels, and RAE's decoder of that
    size. Its training has noise on the latents (the regularizer `denoising: {interpolate: false, gamma:
    0.8}`), and its generators see latents normalised by position (`normalise: position`). The defaults are
    small: 4 x 4 tokens of EfficientNet-Lite0 from images of any size that 4 divides.

    The encoder gets no gradient, so regularizers with a loss on latents or with a posterior don't fit. RAEv2
    has the mean of several layers of DINOv3, which isn't normalised again: `encoder: {use: timm, layer: [11,
    13, 15, 17, 19, 21, 23], norm: plain, add_mean: true, …}` and `normalise: false`.

    Images are resized by PyTorch's bicubic filter without antialiasing, as in RAE's code, and not rounded.
    RAE's decoder scales its output by the mean and deviation of its encoder's images; here they are
    ImageNet's for any encoder, and grey images aren't scaled. DINOv2's positions are resampled by timm.
    Other grids (`eq`) get the positions of their cells' centres, our choice.

    Papers: Zheng et al., "Diffusion Transformers with Representation Autoencoders", 2025 (arXiv 2510.11690;
    code: bytetriper/RAE); RAEv2, 2026 (arXiv 2605.18324).
    """

    sizes = {
        "B": {"encoder": DINOV2, "width": 768, "depth": 12, "heads": 12, "mlp": 3072},
        "L": {"encoder": DINOV2, "width": 1024, "depth": 24, "heads": 16, "mlp": 4096},
        "XL": {"encoder": DINOV2, "width": 1152, "depth": 28, "heads": 16, "mlp": 4096},
    }

    frozen = True
    regrids = True
    encoder: Encoder
    decoder: Decoder

    def __init__(
        self,
        image: ImageSpec,
        expansion: int,
        encoder: Annotated[Use, FeatureExtractor] = "effnet_lite0",
        normalise: bool = True,
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 128,
        depth: Positive = 3,
        heads: Positive = 4,
        mlp: Positive = 512,
    ) -> None:
        """
        Args:
            encoder: the frozen network, a feature extractor with a grid of tokens, such as {use: timm, model:
                NAME, resolution: 224}.
            normalise: whether each token is normalised to mean 0 and variance 1 over its channels.
            width: width of the decoder.
            depth: blocks of the decoder.
            heads: attention heads of the decoder, which divide the width.
            mlp: hidden width of the decoder's MLPs.
        """
        super().__init__(image, expansion)
        if expansion != 1:
            raise Unfit(f"a frozen encoder gives latents and no posterior ({expansion} values a channel)")
        if width % heads:
            raise ValueError(f"heads {heads} does not divide width {width}")
        if image.channels not in (1, 3):
            raise ValueError(
                f"feature networks take images of 1 (grey) or 3 channels, not of {image.channels}"
            )
        extractor = use(FeatureExtractor, encoder)
        if extractor.resizing == "clean":
            extractor.resizing = "bicubic"
        extractor.rounds, self.spec = False, extractor.spec
        if self.spec.grid is None:
            raise ValueError(f"the tokens of {extractor.name} have no grid")
        rows, columns = self.spec.grid
        if image.height % rows or image.width % columns:
            raise ValueError(
                f"the {rows} x {columns} tokens of {extractor.name} do not divide the image size "
                f"{image.height} x {image.width}; another `resolution` gives another grid"
            )
        self.encoder = Encoder(extractor, normalise)
        self.decoder = Decoder(self.spec, image, width, depth, heads, mlp)

    @classmethod
    def first_options(cls, image: ImageSpec, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        sides = [side for side in (2, 4, 6, 8, 10, 12, 14) if image.height % side == 0 == image.width % side]
        side = max((side for side in sides if side**2 <= tokens), default=None)
        return {"encoder": {"use": "effnet_lite0", "resolution": 16 * side}} if side else {}

    @property
    def heads(self) -> dict[str, nn.Parameter]:
        return {"decoder": self.decoder.get_parameter("head.weight")}

    def fingerprint(self) -> str | None:
        return self.encoder.extractor.fingerprint()

    def fetch(self) -> None:
        self.encoder.extractor.fetch()

    def memory_bytes(self) -> int:
        return self.encoder.extractor.memory_bytes()

    def decode(self, z: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.decoder(z, grid)
