"""LPIPS: the distance of two images' deep features, weighted to agree with people (Zhang et al., 2018)."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..api import from_uint8
from ..api.noise import seeded
from ..data.images import resize, to_rgb
from ..models.activations import bytes_of, forward_memory
from ..nn.weight_files import read_checkpoint
from ..nn.weights import Weights, hub, sha256
from .names import ALEX, VGG

Net = Literal["alex", "vgg"]
SMALLEST = 64  # pixels: the side of the patches that the heads were learned from
CHUNK = 32
BACKBONES: dict[str, tuple[str, str]] = {  # torchvision's files, and their sha256
    "alex": ("alexnet-owt-7be5be79.pth", ALEX[1]),
    "vgg": ("vgg16-397923af.pth", VGG[1]),
}
URL = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Lpips:
    """LPIPS version 0.1, by the package `lpips`, which has the linear heads but not the backbone's weights.

    `weights` is a file with torchvision's AlexNet or VGG-16, "random" for a seeded initialisation (to try
    LPIPS without weights), or None for torch.hub's cache, to which they are downloaded when they are needed.

    Raises:
        ValueError: the file has other weights than torchvision's.
    """

    net: Net = "alex"
    weights: str | None = None

    @cached_property
    def backbone(self) -> Weights:
        name, published = BACKBONES[self.net]
        weights = Weights(self.weights, False, URL + name, published, [hub(name)])
        digest = weights.fingerprint(self.net)
        if not weights.random and digest not in (None, published):
            raise ValueError(f"{weights.files[0]} is not {name}: its sha256 is {digest}, not {published}")
        return weights

    @property
    def name(self) -> str:
        """The published name, which is defined with either backbone; the protocol says which."""
        return f"LPIPS[{self.net}:random]" if self.backbone.random else "LPIPS"

    @property
    def here(self) -> bool:
        return self.backbone.fingerprint(self.net) is not None

    def memory_bytes(self, side: int) -> int:
        """Bytes of the network and of comparing a chunk of images with this shorter side."""
        return _memory(self.net, max(side, SMALLEST))

    def protocol(self) -> dict[str, Any]:
        """Everything besides the images that a distance depends on."""
        weights = {"backbone_weights_sha256": self.backbone.published}
        if self.backbone.random:
            weights = {"backbone_weights": "random, seed 0"}
        return {
            "network": self.net,
            **weights,
            "heads_weights_sha256": sha256(heads_file(self.net)),
            "version": "0.1",
            "small_images": f"enlarged to {SMALLEST} pixels: clean-fid, PIL bicubic, float",
        }

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of images a and b, both uint8 (B, 1 or 3, H, W): (B,) float64 on the CPU; 0 is equal."""
        network = _network(self.net, None if self.backbone.random else self.backbone.file()).to(a.device)
        pairs = zip(a.split(CHUNK), b.split(CHUNK), strict=True)
        return torch.cat([network(_prepared(x), _prepared(y)).flatten().double().cpu() for x, y in pairs])


class Distance(nn.Module):
    """The mean distance of two batches of images, (B, 1 or 3, H, W) in [-1, 1], with its gradient.

    If the default device is the meta device, it has shapes alone.
    """

    def __init__(self, lpips: Lpips) -> None:
        super().__init__()
        meta = torch.empty(()).is_meta
        file = None if meta or lpips.backbone.random else lpips.backbone.file()
        self.network = _built(lpips.net, None) if meta else _network(lpips.net, file)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.network(_large(to_rgb(a.float())), _large(to_rgb(b.float()))).mean()


def _large(images: Tensor) -> Tensor:
    """Images enlarged to 64 x 64 pixels if a side is smaller: `resize`, but differentiable and unrounded."""
    if min(images.shape[-2:]) >= SMALLEST:
        return images
    return nn.functional.interpolate(images, (SMALLEST, SMALLEST), mode="bicubic", antialias=True)


def heads_file(net: Net) -> Path:
    """The package's file of linear heads; found without importing the package, which takes seconds."""
    package = importlib.util.find_spec("lpips")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"


@cache
def _memory(net: Net, side: int) -> int:
    with torch.device("meta"):
        network = _built(net, None)
    images = torch.empty(CHUNK, 3, side, side, device="meta")
    return bytes_of(network) + 2 * images.nbytes + forward_memory(network, images, images)


@cache
def _network(net: Net, file: Path | None) -> nn.Module:
    return _built(net, file)


def _built(net: Net, file: Path | None) -> nn.Module:
    """The package's network, with a backbone from torchvision's file or a random one."""
    import lpips

    with seeded(), warnings.catch_warnings():
        # The package builds torchvision's untrained network by deprecated arguments.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        warnings.filterwarnings("ignore", message=".*to a meta parameter")
        network = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    if file is not None:
        stored = read_checkpoint(file)
        # The package has torchvision's tensors under other names, but in the same order.
        tensors = [tensor for name, tensor in stored.items() if name.startswith("features.")]
        network.net.load_state_dict(dict(zip(network.net.state_dict(), tensors, strict=True)))
    return network.eval().requires_grad_(False)


def _prepared(levels: Tensor) -> Tensor:
    """uint8 (B, 1 or 3, H, W) -> (B, 3, H, W) in [-1, 1], enlarged to 64 x 64 if a side is smaller."""
    colour = to_rgb(levels)
    if min(levels.shape[-2:]) >= SMALLEST:
        return from_uint8(colour)
    return (resize(colour, SMALLEST) / 127.5 - 1).clamp(-1, 1)  # a cubic overshoots
