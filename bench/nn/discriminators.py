"""Discriminators of reconstructions: PatchGAN (Isola et al., 2017), and heads on a frozen ViT's features.

Both return logits (B, N) of images (B, c, H, W) in [-1, 1]; positive logits mean real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..api import ImageSpec, Noise
from ..api.noise import seeded
from ..data.images import to_rgb
from ..runtime.processes import ALONE, gathered
from ..store.user_paths import user_path
from .blocks import single
from .diffaugment import resized
from .timm_vit import add_positions, transformer
from .weight_files import read_checkpoint
from .weights import RANDOM


class Norm(nn.Module):
    """Batch norm of (B, C, ...) over the images of all processes; torch's `SyncBatchNorm` needs GPUs.

    Subclasses inherit the norm of one process from torch.
    """

    group = ALONE
    eps: float
    momentum: float | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.group.world == 1:
            return super().forward(x)
        dtype, x = x.dtype, single(x)
        over = [0, *range(2, x.dim())]
        own = torch.stack((x.mean(over), x.square().mean(over)))[None]  # (1, 2, C)
        mean, square = gathered(own, self.group.noise(Noise(0))).mean(0)
        variance, count = square - mean.square(), self.group.world * x.numel() / x.shape[1]
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        shape = [1, -1] + [1] * (x.dim() - 2)
        weight, bias = self.get_parameter("weight"), self.get_parameter("bias")
        scale = weight * (variance + self.eps).rsqrt()
        return ((x - mean.view(shape)) * scale.view(shape) + bias.view(shape)).to(dtype)


class Norm1d(Norm, nn.BatchNorm1d):
    """Batch norm of (B, C, N)."""


class Norm2d(Norm, nn.BatchNorm2d):
    """Batch norm of (B, C, H, W)."""


class Patch(nn.Module):
    """PatchGAN: a convolutional network with an output for each patch; 70 pixels with 3 layers."""

    def __init__(self, image: ImageSpec, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        side = min(image.height, image.width)
        for _ in range(layers):
            side //= 2
        if side < 3:
            raise ValueError(
                f"a discriminator of {layers} layers takes images of {3 * 2**layers} pixels or more, "
                f"not {image.height} x {image.width}"
            )
        widths = [min(2**n, 8) * width for n in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(image.channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for n in range(1, layers + 1):
            # DMVAE's code has biases before the norm.
            body.append(nn.Conv2d(widths[n - 1], widths[n], 4, 2 if n < layers else 1, 1))
            body += [Norm2d(widths[n]), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, 4, 1, 1)).apply(_as_pix2pix)

    def forward(self, images: Tensor, noise: Noise) -> Tensor:
        return self.body(images).flatten(1)


def _as_pix2pix(module: nn.Module) -> None:
    """Initialises weights as pix2pix does, N(0, 0.02^2), those of norms N(1, 0.02^2) (`network.apply`)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, Norm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


@dataclass(frozen=True)
class Layout:
    """The layout of a discriminator on a transformer's features."""

    model: str  # a timm model
    patch: int
    resolution: int | None  # pixels; None: the largest multiple of `patch` in the image
    taps: tuple[int, ...]  # blocks after which features are taken; -1: before the first block
    circular: bool  # whether the heads' convolutions pad circularly


LAYOUTS = {
    # SoftVQ's code, after VAR's.
    "dino": Layout("vit_small_patch16_224.dino", 16, 224, (-1, 2, 5, 8, 11), True),
    # DMVAE's code; timm resamples DINOv2's positions without DINOv2's offset of 0.1.
    "dinov2": Layout("vit_small_patch14_dinov2.lvd142m", 14, None, (0, 2, 5, 8, 11), False),
}


class Features(nn.Module):
    """One head on each of several depths of a frozen transformer, as in StyleGAN-T (Sauer et al., 2023).

    A token's feature is the sum of its own and the class token's. Grey images are repeated to three colours.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image: ImageSpec,
        layout: Layout,
        weights: str,
        model: str | None = None,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        side = resolution or layout.resolution or min(image.height, image.width)
        self.side = side - side % layout.patch
        if not self.side:
            raise ValueError(f"images of {side} pixels have no patch of {layout.patch}")
        with seeded():  # a random network is the same for every seed
            spec = ImageSpec(3, self.side, self.side)
            self.network = transformer(model or layout.model, spec, layout.patch)
        if weights != RANDOM and not torch.empty(()).is_meta:
            load(self.network, user_path(weights), model or layout.model)
        self.network.requires_grad_(False).eval()
        self.taps = [tap for tap in layout.taps if tap < len(self.network.blocks)]
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        width = self.network.embed_dim
        self.heads = nn.ModuleList(head(width, layout.circular) for _ in self.taps)

    def train(self, mode: bool = True) -> Features:
        """Sets the mode of the heads; the transformer stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images: Tensor, noise: Noise) -> Tensor:
        pixels = (resized(to_rgb(images), self.side, noise) / 2 + 0.5 - self.mean) / self.std
        taps = features(self.network, pixels, self.taps)
        return torch.cat([head(tokens).flatten(1) for head, tokens in zip(self.heads, taps, strict=True)], 1)


def features(network: VisionTransformer, pixels: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """Standardised images (B, 3, r, r) -> features (B, D, N) after these blocks; -1: before the first."""
    tokens = network.norm_pre(add_positions(network, network.patch_embed(pixels)))
    tapped = [tokens] if -1 in taps else []
    for depth, block in enumerate(network.blocks[: max(taps) + 1]):
        tokens = block(tokens)
        if depth in taps:
            tapped.append(tokens)
    prefix = network.num_prefix_tokens
    return [(tokens[:, prefix:] + tokens[:, :1]).transpose(1, 2) for tokens in tapped]


def load(network: VisionTransformer, file: Path, model: str) -> None:
    """Loads a timm file or a released file of DINO or DINOv2; positions are resampled.

    Raises:
        ValueError: if the file is of another model.
    """
    released = {name: tensor for name, tensor in read_checkpoint(file).items() if name != "mask_token"}
    own = network.state_dict()
    fitted = checkpoint_filter_fn(released, network) if "pos_embed" in released else released
    weights = {name: tensor for name, tensor in fitted.items() if not name.startswith("head.")}
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += [name for name in weights if name in own and weights[name].shape != own[name].shape]
    if wrong:
        raise ValueError(f"{file} is not of timm's {model}: see {wrong[0]}")
    network.load_state_dict(weights)


def head(width: int, circular: bool) -> nn.Sequential:
    """Features (B, D, N) -> logits (B, 1, N): kernels 1, 9 (residual), 1 with spectral and batch norms."""
    return nn.Sequential(
        _block(width, 1, circular), Residual(_block(width, 9, circular)), _spectral(width, 1, 1, False)
    )


class Residual(nn.Module):
    """The residual block (f(x) + x) / sqrt(2)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) + x) / 2**0.5


def _block(width: int, kernel: int, circular: bool) -> nn.Sequential:
    return nn.Sequential(
        _spectral(width, width, kernel, circular), Norm1d(width, eps=1e-6), nn.LeakyReLU(0.2)
    )


def _spectral(inner: int, outer: int, kernel: int, circular: bool) -> nn.Module:
    mode: Literal["circular", "zeros"] = "circular" if circular else "zeros"
    conv = nn.Conv1d(inner, outer, kernel, padding=kernel // 2, padding_mode=mode)
    nn.init.xavier_normal_(conv.weight, gain=0.5)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return spectral_norm(conv)
